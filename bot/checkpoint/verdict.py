"""What a check of the audit says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`applicable` is False where the base has nothing that the check is about."""

    status: Literal["passed", "failed", "skipped"]
    detail: str
    tensors: tuple[str, ...] = ()
    applicable: bool = True


def passed(detail: str) -> Verdict:
    """The property holds, or holds of nothing."""
    return Verdict(status="passed", detail=detail)


def failed(detail: str, tensors: Iterable[str] = ()) -> Verdict:
    """The property does not hold, for these tensors or modules."""
    return Verdict(status="failed", detail=detail, tensors=tuple(tensors))


def skipped(why: str) -> Verdict:
    """It could not be looked at; the audit as a whole cannot pass."""
    return Verdict(status="skipped", detail=why)


def not_applicable(why: str) -> Verdict:
    """There is nothing to look at; the audit may pass."""
    return Verdict(status="skipped", detail=f"not applicable: {why}", applicable=False)


def some(names: Iterable[str], unit: str = "") -> str:
    """The first few of `names`, and how many more there are."""
    listed = list(names)
    text = ", ".join(listed[:SHOWN])
    more = f" and {len(listed) - SHOWN:,} more" if len(listed) > SHOWN else ""
    return f"{len(listed):,} {unit}: {text}{more}" if unit else text + more


def none_of(names: Iterable[str], *, good: str, bad: str) -> Verdict:
    """Passed with `good` when there are no names, else failed with `bad` and the names."""
    listed = tuple(names)
    return failed(f"{bad}: {some(listed)}", listed) if listed else passed(good)


NO_BASE = "no base was given to compare with"
HEADERS_ONLY = "only headers were read"
