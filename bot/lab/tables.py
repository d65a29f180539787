"""The lab's evidence as text: one table of all variants, one by domain; and as points of a plot."""

from __future__ import annotations

from collections.abc import Sequence

from bot import log
from bot.lab.record import ALL, MIN_WINDOWS, LabEvidence, Paired, Variant
from bot.measurements import Interval
from bot.plots.quality import Point

GIB = 2**30
COLUMNS = (
    "variant",
    "bits/weight",
    "KLD",
    "against the first",
    "95%",
    "top-1",
    "PPL / base's",
    "quantizing, s",
    "memory, GiB",
)
DOMAIN_COLUMNS = (
    "variant",
    "domain",
    "KLD",
    "95%",
    "p99",
    "against the first",
    "95% of that",
    "top-1",
    "PPL",
)
BOUNDED = {"KLD": "KLD ≥", "p99": "p99 ≥"}
BOUNDS = (
    "KLD ≥: lower bounds, since the vocabulary is too large to keep whole. What is told of a change, and the "
    "frontier, is of these."
)
RESUMED = (
    "r: quantizing was broken off and gone on with. Seconds and memory are those of the last process alone."
)
FEW_WINDOWS = (
    f"Fewer than {MIN_WINDOWS} windows: intervals of so few are too narrow, one window's has no width, and "
    "that one leaves zero out shows nothing"
)
UNDEFINED = (
    "–: the first's divergence is 0 there, as a whole or in resamples, and no change of it is defined."
)


def text(evidence: LabEvidence) -> str:
    """Both tables for a terminal or, fenced, for a file, and what must be known to read them."""
    title = (
        f"{evidence.base.repo_id}@{evidence.base.revision[:8]}, split {evidence.split}: "
        f"{_others(evidence.num_variants - 1)} beside {evidence.reference}"
    )
    full = is_full(evidence)
    first = log.table(_named(COLUMNS, full=full), [_row(each) for each in evidence.variants], title=title)
    rows = [row for each in evidence.variants for row in _domain_rows(each)]
    second = log.table(_named(DOMAIN_COLUMNS, full=full), rows)
    notes = [f"{v.label}: {v.measured.failure}" for v in evidence.variants if v.measured.failure]
    notes += [] if full else [BOUNDS]
    notes += [RESUMED] if any(each.measured.resumed_layers for each in evidence.variants) else []
    notes += [UNDEFINED] if _lacks_change(evidence) else []
    notes += _few_windows(evidence)
    return "\n".join([first, "", second, *([""] if notes else []), *notes])


def _others(number: int) -> str:
    return f"{number or 'no'} variant{'' if number == 1 else 's'}"


def _lacks_change(evidence: LabEvidence) -> bool:
    """Whether a variant with figures has no change beside a reference with figures, over some text or all."""
    reference, wanted = evidence.variants[0], {ALL, *(each.domain for each in evidence.texts)}
    return reference.kld is not None and any(
        each.kld is not None
        and each.measured.key != reference.measured.key
        and not wanted <= {row.domain for row in each.against_reference}
        for each in evidence.variants[1:]
    )


def _few_windows(evidence: LabEvidence) -> list[str]:
    """A line where an interval rests on too few windows to be believed."""
    found = {f.domain: f.num_windows for each in evidence.variants for f in each.measured.figures}
    few = ", ".join(f"{name}: {number}" for name, number in found.items() if number < MIN_WINDOWS)
    return [f"{FEW_WINDOWS} ({few})."] if few else []


def _named(columns: Sequence[str], *, full: bool) -> list[str]:
    return [each if full else BOUNDED.get(each, each) for each in columns]


def points(evidence: LabEvidence) -> list[Point]:
    """Bits against divergence, the frontier in colour. Bars: the interval of the difference to the first."""
    found = []
    for each in evidence.variants:
        bits, kld = each.measured.bits_per_weight, each.kld
        if bits is not None and kld is not None:
            against = _of(each, ALL)
            low, high = (
                (against.difference_interval.low, against.difference_interval.high) if against else (0.0, 0.0)
            )
            middle = against.difference if against else 0.0
            found.append(
                Point(
                    title=each.label,
                    own=each.on_frontier,
                    bits=bits,
                    kld=kld,
                    low=min(kld, kld + low - middle),
                    high=max(kld, kld + high - middle),
                )
            )
    return found


def is_full(evidence: LabEvidence) -> bool:
    """Whether every divergence is over the whole vocabulary."""
    return all(f.kind == "full" for each in evidence.variants for f in each.measured.figures)


def _of(variant: Variant, domain: str) -> Paired | None:
    return next((each for each in variant.against_reference if each.domain == domain), None)


def _row(variant: Variant) -> Sequence[str]:
    m = variant.measured
    if m.failure is not None or variant.kld is None:
        return [variant.label, _number(m.bits_per_weight, 3), "failed", *[""] * 6]
    against = _of(variant, ALL)
    ratios = " ".join(f"{each.ppl / each.base_ppl:.4f}" for each in m.figures)
    agreement = sum(each.top1_agreement for each in m.figures) / len(m.figures)
    peak = max(m.quantize_peak_memory_bytes or 0, m.quantize_peak_gpu_memory_bytes or 0)
    return [
        variant.label + (" *" if variant.on_frontier else ""),
        _number(m.bits_per_weight, 3),
        f"{variant.kld:.5f}",
        f"{against.change:+.1%}" if against else "–",
        _percent(against.change_interval) if against else "",
        f"{agreement:.3f}",
        ratios,
        _number(m.quantize_wall_s, 1) + (" r" if m.resumed_layers else ""),
        f"{peak / GIB:.2f}",
    ]


def _domain_rows(variant: Variant) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for each in variant.measured.figures:
        against = _of(variant, each.domain)
        rows.append(
            [
                variant.label,
                each.domain,
                f"{each.kld:.5f}",
                f"{each.kld_interval.low:.5f} to {each.kld_interval.high:.5f}",
                f"{each.kld_p99:.4f}",
                f"{against.change:+.1%}" if against else "–",
                _percent(against.change_interval) if against else "",
                f"{each.top1_agreement:.3f}",
                f"{each.ppl:.3f}",
            ]
        )
    return rows


def _percent(interval: Interval) -> str:
    return f"{interval.low:+.1%} to {interval.high:+.1%}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
