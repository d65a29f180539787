"""The comparison as tables: the card's, with a column a checkpoint; the terminal's, with a row each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot import figures
from bot.comparison.advice import single
from bot.comparison.model import Comparison, Side, SpeedFigures
from bot.comparison.sides import side
from bot.evidence import Evidence
from bot.measurements import Examined

COLUMNS = (
    "checkpoint",
    "size",
    "bits/weight",
    "perplexity",
    "KLD",
    "top-1",
    "drafts accepted",
    "tokens/pass",
    "tokens/s",
    "at most streams",
)
NOT_MEASURED = "not measured"
EMULATED = "emulated"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells as plain text, and the notes that say why some are not measured."""

    titles: list[str]
    rows: list[tuple[str, list[str]]]
    notes: list[str]


# ── the card's ─────────────────────────────────────────────────────────────────────────────


def headline_table(found: Comparison) -> Table:
    """The table at a card's top: figures down, checkpoints across; this release first."""
    sides = found.sides
    streams = sorted({each.streams for one in sides for each in _random(one)})
    drafted = any(each.acceptance_length is not None for each in sides)
    percent = found.interval_percent
    rows = [
        ("size (of the base's)", [_size(each) for each in sides]),
        ("bits per weight, all", [_bits(each.bits_per_weight, each) for each in sides]),
        ("bits per weight, quantized part", [_quantized_bits(each) for each in sides]),
        ("perplexity ± standard error (change)", [_ppl(each) for each in sides]),
        (f"KL divergence from the base, nats, {percent}% interval", [_kld(each) for each in sides]),
        ("same likeliest token as the base", [_top1(each) for each in sides]),
        ("tokens a forward pass yields (drafts accepted)", [_accepted(each) for each in sides]),
    ]
    if drafted:
        rows.append(("drafts accepted, by position", [_positions(each) for each in sides]))
        rows.append(("tokens drafted at a time", [_at_a_time(each) for each in sides]))
    for count in streams:
        name = f"tokens/s, {count} stream{'s' if count > 1 else ''} (over the base)"
        rows.append((name, [_speed(each, count) for each in sides]))
    if not streams:
        rows.append(("tokens/s", [_speed(each, 0) for each in sides]))
    return Table(titles=[_title(each) for each in sides], rows=rows, notes=_notes(sides))


def _title(one: Side) -> str:
    return _name(one) + (" (failed its gates)" if one.passed is False else "")


def _name(one: Side) -> str:
    return {"release": "this release", "base": "base", "fp8": "official FP8"}.get(one.kind, one.title)


def _notes(sides: Sequence[Side]) -> list[str]:
    """`speed of this release: emulated: …`, one line a reason, checkpoints with the same one together."""
    groups: dict[tuple[str, str], list[str]] = {}
    for one in sides:
        for what, why in one.absent.items():
            if (one.kind, what) != ("base", "divergence"):
                groups.setdefault((what, why), []).append(_name(one))
    return [f"{what} of {', '.join(who)}: {why}" for (what, why), who in groups.items()]


def _over_base(value: float | None) -> str:
    return "" if value is None else f" ({figures.percent(value)})"


def _size(one: Side) -> str:
    if one.total_bytes is None:
        return NOT_MEASURED
    return figures.gib(one.total_bytes) + _over_base(one.size_ratio)


def _bits(value: float | None, one: Side) -> str:
    return NOT_MEASURED if value is None else figures.fixed(value, 2)


def _quantized_bits(one: Side) -> str:
    return "none" if one.kind == "base" else _bits(one.quantized_bits_per_weight, one)


def _ppl(one: Side) -> str:
    if one.ppl is None or one.ppl_standard_error is None:
        return NOT_MEASURED
    change = "" if one.ppl_change is None else f" ({figures.change(one.ppl_change)})"
    return f"{figures.fixed(one.ppl, 4)} ± {figures.fixed(one.ppl_standard_error, 4)}{change}"


def _kld(one: Side) -> str:
    if one.kind == "base":
        return "itself"
    if one.kld is None or one.kld_low is None or one.kld_high is None:
        return NOT_MEASURED
    kind = "full" if one.kld_is_full else "lower bound"
    between = f"{figures.nats(one.kld_low)}–{figures.nats(one.kld_high)}"
    return f"{figures.nats(one.kld)} ({between}), {kind}"


def _top1(one: Side) -> str:
    if one.kind == "base":
        return "itself"
    return NOT_MEASURED if one.top1_agreement is None else figures.percent(one.top1_agreement)


def _accepted(one: Side) -> str:
    if one.acceptance_length is None or one.acceptance_rate is None:
        return NOT_MEASURED
    return f"{figures.fixed(one.acceptance_length, 2)} ({figures.percent(one.acceptance_rate)})"


def _positions(one: Side) -> str:
    if not one.acceptance_by_position:
        return NOT_MEASURED
    return ", ".join(figures.percent(share) for share in one.acceptance_by_position)


def _at_a_time(one: Side) -> str:
    return NOT_MEASURED if one.num_speculative_tokens is None else figures.count(one.num_speculative_tokens)


def _random(one: Side) -> list[SpeedFigures]:
    return [each for each in one.speeds if each.dataset == "random"]


def _speed(one: Side, streams: int) -> str:
    if one.emulated:
        return EMULATED
    found = next((each for each in _random(one) if each.streams == streams), None)
    if found is None:
        return NOT_MEASURED
    over = "" if found.ratio is None else f" ({figures.fixed(found.ratio, 2)}×)"
    return figures.fixed(found.tokens_per_s.median, 1) + over


# ── the terminal's ─────────────────────────────────────────────────────────────────────────


def rows(found: Sequence[Evidence]) -> list[tuple[str, ...]]:
    """Under COLUMNS: base, official FP8 repo and every release of `found`, which have one base."""
    from bot import comparison

    sides: dict[tuple[str, str], Side] = {}
    for each in found:
        compared = comparison.of(each)
        baselines = [compared.base, *([compared.fp8] if compared.fp8 else [])]
        for one in [*baselines, compared.release]:
            sides.setdefault((one.kind, one.repo_id), one)
    order = {"base": 0, "fp8": 1}
    return [_row(each) for each in sorted(sides.values(), key=lambda each: order.get(each.kind, 2))]


def examined_rows(found: Sequence[Examined | None]) -> list[tuple[str, ...]]:
    """Under COLUMNS: each checkpoint; the first of role base is what the others are held against."""
    known = [each for each in found if each is not None]
    base = next((each for each in known if each.subject.role == "base"), None)
    sides = []
    for each in known:
        kind = each.subject.role
        beside = None if each is base else base
        sides.append(side(kind, each.subject.name, each, base=beside, told={}))
    return [_row(each) for each in sides]


def _row(one: Side) -> tuple[str, ...]:
    title = one.repo_id if one.kind in ("base", "other") else one.title
    return (
        title + (" (refused)" if one.passed is False else ""),
        "" if one.total_bytes is None else figures.gib(one.total_bytes),
        "" if one.bits_per_weight is None else figures.fixed(one.bits_per_weight, 2),
        "" if one.ppl is None else _ppl(one).partition(" (")[0] + _change(one),
        "" if one.kld is None else ("" if one.kld_is_full else "≥ ") + figures.nats(one.kld),
        "" if one.top1_agreement is None else figures.percent(one.top1_agreement),
        "" if one.acceptance_rate is None else f"{figures.percent(one.acceptance_rate)} of {_at_a_time(one)}",
        "" if one.acceptance_length is None else figures.fixed(one.acceptance_length, 2),
        *_terminal_speeds(one),
    )


def _change(one: Side) -> str:
    return "" if one.ppl_change is None else f" ({figures.change(one.ppl_change)})"


def _terminal_speeds(one: Side) -> tuple[str, str]:
    """At the fewest and at the most streams; an emulated format has none."""
    first = single(one)
    if one.emulated or first is None:
        return (EMULATED if one.emulated else "", "")
    last = max(_random(one), key=lambda each: each.streams)
    shown = figures.fixed(first.tokens_per_s.median, 1)
    if last is first:
        return shown, ""
    return shown, f"{figures.fixed(last.tokens_per_s.median, 1)} at {last.streams}"
