"""One checkpoint beside its base: figures, ratios, and why a figure is absent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bot.comparable import comparable
from bot.comparison.model import Side, SideKind, SpeedFigures
from bot.comparison.speeds import figures_of
from bot.gates.structure import text_differences
from bot.measurements import Divergence, Drafts, Examined, Perplexity, Speeds

NOT_SERVED = {
    "did_not_load": "it did not load",
    "unsupported": "this engine does not support it",
    "weights_missing": "weights are missing from it",
    "garbage": "its answers were garbage",
}


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What a checkpoint's tensors weigh."""

    total_bytes: int
    bits_per_weight: float
    quantized_bits_per_weight: float | None = None


def side(
    kind: SideKind,
    title: str,
    found: Examined,
    *,
    base: Examined | None = None,
    weights: Weights | None = None,
    base_weights: Weights | None = None,
    passed: bool | None = None,
    told: Mapping[str, str],
) -> Side:
    """One column. `base` is what ratios are over, none for itself; `told` says why parts are missing."""
    yardstick = base if base is not None and comparable(found.engine, base.engine) is None else None
    drafting = yardstick if yardstick and _drafts_alike(found, yardstick) else None
    return Side(
        kind=kind,
        title=title,
        repo_id=found.subject.name,
        passed=passed,
        emulated=found.subject.emulated,
        **_size(weights, base_weights),
        **_ppl(found.perplexity, yardstick.perplexity if yardstick else None),
        **_kld(found.divergence),
        **_acceptance(found, drafting),
        speeds=_speeds(found.speed, drafting.speed if drafting else None),
        plain_speeds=_speeds(found.speed_plain, yardstick.speed_plain if yardstick else None),
        absent=_absent(kind, found, weights, told),
    )


def ratio(one: float | None, other: float | None) -> float | None:
    """`one / other`; None where either is absent, or no finite number comes of it."""
    if one is None or not other:
        return None
    return _finite(one / other)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _size(weights: Weights | None, base: Weights | None) -> dict[str, Any]:
    if weights is None:
        names = ("total_bytes", "size_ratio", "bits_per_weight", "quantized_bits_per_weight")
        return dict.fromkeys(names)
    return {
        "total_bytes": weights.total_bytes,
        "size_ratio": ratio(weights.total_bytes, base.total_bytes if base else None),
        "bits_per_weight": weights.bits_per_weight,
        "quantized_bits_per_weight": weights.quantized_bits_per_weight,
    }


def _ppl(found: Perplexity | None, base: Perplexity | None) -> dict[str, Any]:
    if found is None:
        return dict.fromkeys(("ppl", "ppl_standard_error", "ppl_ratio", "ppl_change"))
    same = base is not None and not text_differences(found, base)
    over = ratio(found.ppl, base.ppl) if same and base else None
    return {
        "ppl": found.ppl,
        # The standard error of the mean loss, carried through the exponential (first order).
        "ppl_standard_error": found.ppl * found.standard_error,
        "ppl_ratio": over,
        "ppl_change": None if over is None else over - 1,
    }


def _kld(found: Divergence | None) -> dict[str, Any]:
    if found is None:
        names = ("kld", "kld_low", "kld_high", "top1_agreement")
        return {**dict.fromkeys(names), "kld_is_full": False}
    return {
        "kld": found.mean,
        "kld_low": found.mean_interval.low,
        "kld_high": found.mean_interval.high,
        "kld_is_full": found.kind == "full",
        "top1_agreement": found.top1_agreement,
    }


def _acceptance(found: Examined, base: Examined | None) -> dict[str, Any]:
    own, other = _drafts(found), _drafts(base)
    return {
        "num_speculative_tokens": found.acceptance.num_speculative_tokens if found.acceptance else None,
        "acceptance_length": own.length if own else None,
        "acceptance_rate": own.rate if own else None,
        "acceptance_by_position": own.by_position if own else [],
        "acceptance_ratio": ratio(own.rate, other.rate) if own and other else None,
    }


def _drafts_alike(found: Examined, base: Examined) -> bool:
    """Whether both drafted as many tokens at a time: recipes differ in it, and the base follows each."""
    one, other = found.acceptance, base.acceptance
    return (one and one.num_speculative_tokens) == (other and other.num_speculative_tokens)


def _drafts(found: Examined | None) -> Drafts | None:
    return found.acceptance.total if found and found.acceptance else None


def _speeds(found: Speeds | None, base: Speeds | None) -> list[SpeedFigures]:
    rows = [each for each in found.rows if each.runs] if found else []
    return [figures_of(each, base.rows if base else []) for each in rows]


# ── why a figure is absent ─────────────────────────────────────────────────────────────────

_DRAFTED = ("acceptance", "soak", "equality", "load_plain", "speed_plain")


def _absent(
    kind: SideKind, found: Examined, weights: Weights | None, told: Mapping[str, str]
) -> dict[str, str]:
    """Why each missing group of figures is missing."""
    missing = [part for part in ("perplexity", "divergence", "acceptance") if getattr(found, part) is None]
    if not (found.speed and found.speed.rows):
        missing.append("speed")
    size = {} if weights else {"size": "its tensors were not counted"}
    return size | {part: why_absent(kind, part, found, told) for part in missing}


def why_absent(kind: SideKind, part: str, found: Examined, told: Mapping[str, str]) -> str:
    """Why `found` has no part of this name; `told` are the reasons that the run gave, by path or role."""
    if kind == "base" and part == "divergence":
        return "it is what divergence is counted from"
    if part in _DRAFTED and (reason := _undrafted(found)):
        return reason
    if part.startswith("speed") and (reason := _no_speed(found)):
        return reason
    failed = NOT_SERVED[found.failure.kind] if found.failure else None
    return told.get(f"{kind}.{part}") or failed or told.get(kind) or "it was left out of this run"


def _undrafted(found: Examined) -> str | None:
    """Why nothing was drafted although the checkpoint serves."""
    if not found.subject.drafts:
        return "it has no MTP head"
    if found.load and "--speculative-config" not in found.load.command:
        return "it is served without drafting"
    return None


def _no_speed(found: Examined) -> str | None:
    if found.subject.emulated:
        return f"this machine only emulates the format ({found.subject.emulated})"
    return found.speed.not_measured if found.speed else None
