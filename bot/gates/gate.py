"""What a gate is, and how all of them are asked.

A gate is a function. The first line of its docstring is its title, and says what holds when it passes; the
paragraph after that says why it is asked. It names the parts of the evidence that it `requires`, gets them as
arguments, reads and writes nothing else, and returns one `Finding`.

What is the same for every gate stands here, so that no gate can forget it:

1. *Excused*: the base has no such thing (MTP, say), or the machine cannot tell: not applicable, with why.
2. *Not measured*: a required part is missing: failed. Missing is never passed, and never not applicable.
3. *Not comparable*: release and base were measured by different engines or machines: failed.
4. *Not a number*: a figure in a required part is NaN or infinite: failed.
5. Else the gate itself is asked. A value that is no finite number fails whatever it says.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from bot.comparable import comparable
from bot.evidence import GateResult, GateStatus
from bot.measurements import Examined
from bot.recipe_evaluation import Thresholds
from bot.stages.audit import AuditReport


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that gates may look at. `not_measured` says why a part is missing, by its path or its role."""

    thresholds: Thresholds
    audit: AuditReport
    release: Examined
    base: Examined
    fp8: Examined | None
    not_measured: Mapping[str, str]

    def part(self, path: str) -> Any:
        """The part that `path` names, such as `base.soak`; None when it is not there."""
        found: Any = self
        for name in path.split("."):
            found = None if found is None else getattr(found, name)
        return found


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a gate says: its verdict, what was seen, and the value beside its limit where there are such."""

    status: GateStatus
    detail: str
    value: float | None = None
    limit: float | None = None


def passed(detail: str, value: float | None = None, limit: float | None = None) -> Finding:
    """It holds."""
    return Finding(status="passed", detail=detail, value=value, limit=limit)


def failed(detail: str, value: float | None = None, limit: float | None = None) -> Finding:
    """It does not hold, or was not measured."""
    return Finding(status="failed", detail=detail, value=value, limit=limit)


def anomalous(detail: str, value: float | None = None, limit: float | None = None) -> Finding:
    """Far better than can be: taken for an error of measurement; it blocks as a failure does."""
    return Finding(status="anomalous", detail=detail, value=value, limit=limit)


def not_applicable(why: str) -> Finding:
    """There is nothing to ask."""
    return Finding(status="not_applicable", detail=why)


def at_least(value: float, limit: float, detail: str) -> Finding:
    """Passed when `value` reaches `limit`; NaN does not."""
    return (passed if value >= limit else failed)(detail, value, limit)


def at_most(value: float, limit: float, detail: str) -> Finding:
    """Passed when `value` stays within `limit`; NaN does not."""
    return (passed if value <= limit else failed)(detail, value, limit)


def ratio(value: float, of: float) -> float:
    """`value / of`; NaN, which fails every gate, where there is nothing to divide by."""
    return value / of if of else math.nan


# ── a gate ─────────────────────────────────────────────────────────────────────────────────

Excuse = Callable[[Facts], str | None]
Check = Callable[..., Finding]


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One gate, or one of each part: `canary` has a part for each canary, whose results are `canary.<part>`.

    `check(limits, [part,] *requires, *optional)` judges; `limits` names the thresholds that it reads.
    `compares`: parts of release and base are set beside each other, so both must be of one engine.
    """

    id: str
    title: str
    why: str
    requires: tuple[str, ...]
    optional: tuple[str, ...]
    limits: tuple[str, ...]
    excuse: Excuse | None
    parts: Callable[[Facts], Sequence[str]] | None
    compares: bool
    check: Check

    def results(self, facts: Facts) -> Iterator[GateResult]:
        """The verdicts on `facts`: one, or one of each part."""
        for part in self.parts(facts) if self.parts else [None]:
            yield self._result(facts, part)

    def _result(self, facts: Facts, part: str | None) -> GateResult:
        finding = _finite(self._finding(facts, part))
        return GateResult(
            id=self.id if part is None else f"{self.id}.{part}",
            title=self.title.replace("{part}", part or ""),
            status=finding.status,
            value=finding.value,
            limit=finding.limit,
            why=self.why,
            detail=finding.detail,
        )

    def _finding(self, facts: Facts, part: str | None) -> Finding:
        excused = self.excuse(facts) if self.excuse else None
        if excused is not None:
            return not_applicable(excused)
        for obstacle in (self._missing, self._incomparable, self._not_a_number):
            if problem := obstacle(facts):
                return failed(problem)
        arguments = [facts.part(path) for path in (*self.requires, *self.optional)]
        return self.check(facts.thresholds, *([] if part is None else [part]), *arguments)

    def _missing(self, facts: Facts) -> str | None:
        missing = [path for path in self.requires if facts.part(path) is None]
        return "; ".join(_why_missing(facts, path) for path in missing) or None

    def _incomparable(self, facts: Facts) -> str | None:
        roles = {path.split(".")[0] for path in self.requires}
        if not self.compares or not {"release", "base"} <= roles:
            return None
        why = comparable(facts.release.engine, facts.base.engine)
        return f"not compared: {why}" if why else None

    def _not_a_number(self, facts: Facts) -> str | None:
        paths = (*self.requires, *self.optional)
        names = [f"{path}.{name}" for path in paths for name in unsound(facts.part(path))]
        return f"not a finite number: {', '.join(names)}" if names else None


def gate(
    id: str,
    *,
    requires: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
    limits: tuple[str, ...] = (),
    excuse: Excuse | None = None,
    parts: Callable[[Facts], Sequence[str]] | None = None,
    compares: bool = True,
) -> Callable[[Check], Gate]:
    """Make a gate of a check; `requires` and `optional` are paths into `Facts`, passed in that order."""

    def make(check: Check) -> Gate:
        title, _, why = inspect.cleandoc(check.__doc__ or "").partition("\n\n")
        return Gate(
            id=id,
            title=title.strip().removesuffix("."),
            why=" ".join(why.split()),
            requires=requires,
            optional=optional,
            limits=limits,
            excuse=excuse,
            parts=parts,
            compares=compares,
            check=check,
        )

    return make


# ── what every gate is spared ──────────────────────────────────────────────────────────────


def unsound(part: Any, at: str = "") -> list[str]:
    """The dotted names of figures in `part` that are NaN or infinite."""
    if isinstance(part, float):
        return [] if math.isfinite(part) else [at]
    if isinstance(part, BaseModel):
        items: list[tuple[str, Any]] = [(name, getattr(part, name)) for name in type(part).model_fields]
    elif isinstance(part, list):
        items = [(str(index), each) for index, each in enumerate(part)]
    else:
        return []
    return [name for key, each in items for name in unsound(each, f"{at}.{key}" if at else key)]


def _why_missing(facts: Facts, path: str) -> str:
    role = path.split(".")[0]
    found = facts.part(role)
    failure = found.failure if isinstance(found, Examined) else None
    reason = facts.not_measured.get(path) or facts.not_measured.get(role) or (failure.what if failure else "")
    return f"not measured: {path}" + (f" ({reason})" if reason else "")


def _finite(finding: Finding) -> Finding:
    """A verdict on a value that is no finite number is a failure, and such a value stands in no JSON."""
    if finding.value is None or math.isfinite(finding.value):
        return finding
    return failed(f"no finite number comes of it: {finding.detail}", None, finding.limit)
