"""Draft acceptance beside the base's own head: by position, kind of prompts and context; and its gain."""

from __future__ import annotations

from itertools import zip_longest

from bot.comparable import comparable
from bot.comparison.model import Kind, Position, SoakPoint, Speedup
from bot.comparison.sides import ratio
from bot.comparison.speeds import figures_of
from bot.measurements import Drafts, Examined, Soak, Speed, Speeds


def acceptance_of(release: Examined, base: Examined) -> tuple[list[Position], list[Kind]]:
    """Acceptance by position and by kind of prompts; both empty where the release drafted nothing."""
    own = release.acceptance
    if own is None:
        return [], []
    head = base.acceptance if comparable(release.engine, base.engine) is None else None
    shares = zip_longest(own.total.by_position, head.total.by_position if head else [])
    positions = [
        Position(position=i, rate=one, base_rate=other, ratio=ratio(one, other))
        for i, (one, other) in enumerate(shares, 1)
    ]
    theirs = {each.kind: each.drafts.rate for each in head.kinds} if head else {}
    kinds = [
        Kind(
            kind=each.kind,
            num_prompts=each.num_prompts,
            rate=each.drafts.rate,
            length=each.drafts.length,
            base_rate=theirs.get(each.kind),
            ratio=ratio(each.drafts.rate, theirs.get(each.kind)),
        )
        for each in own.kinds
    ]
    return positions, kinds


def soak_of(release: Examined, base: Examined) -> list[SoakPoint]:
    """The opening prompts, every window by its context, the same prompts again; empty without a soak."""
    own = release.soak
    if own is None:
        return []
    head = base.soak if comparable(release.engine, base.engine) is None else None
    theirs = {each.context_tokens: each.drafts for each in head.windows} if head else {}
    windows = [
        _point("window", each.context_tokens, each.drafts, theirs.get(each.context_tokens))
        for each in own.windows
    ]
    opening, fresh = _short(own), _short(head)
    return [_point("opening", 0, opening[0], fresh[0]), *windows, _point("fresh", 0, opening[1], fresh[1])]


def _short(soak: Soak | None) -> tuple[Drafts | None, Drafts | None]:
    return (soak.opening, soak.fresh) if soak else (None, None)


def _point(where: str, context_tokens: int, own: Drafts | None, base: Drafts | None) -> SoakPoint:
    one, other = _rate(own), _rate(base)
    return SoakPoint.model_validate(
        {
            "where": where,
            "context_tokens": context_tokens,
            "rate": one,
            "base_rate": other,
            "ratio": ratio(one, other),
        }
    )


def _rate(drafts: Drafts | None) -> float | None:
    return drafts.rate if drafts and drafts.num_draft_tokens else None


def speedups_of(release: Examined) -> list[Speedup]:
    """Drafting on over off at each load that was measured both ways."""
    plain = {_load(row): row for row in _rows(release.speed_plain)}
    found = []
    for row in _rows(release.speed):
        if row.drafting and (other := plain.get(_load(row))):
            on, off = (figures_of(each, []).tokens_per_s.median for each in (row, other))
            if off:
                found.append(
                    Speedup(dataset=row.dataset, streams=row.streams, drafting=on, plain=off, ratio=on / off)
                )
    return found


def _rows(speeds: Speeds | None) -> list[Speed]:
    return [row for row in speeds.rows if row.runs] if speeds else []


def _load(row: Speed) -> tuple[object, ...]:
    return row.dataset, row.streams, row.max_num_seqs, row.input_tokens, row.output_tokens
