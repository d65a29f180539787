"""Which recipe to take, from figures alone.

Each measure is told only where at least two recipes of the base have its figure and passed their gates: the
smallest divergence, the smallest among those of one size (as a house recipe and its counterpart are), the
fewest bytes, the most tokens a second at one stream. Two whose intervals or spreads overlap the best one's
are told together, the best first, since the figures cannot tell them apart. Nothing is weighed against
anything else: that is the reader's to do.
"""

from __future__ import annotations

from collections.abc import Sequence

from bot.comparison.model import Advice, Side, SpeedFigures

# Two sizes this near print the same.
SAME_SIZE = 1.002
# As near as a house recipe's is to its counterpart's.
LIKE_SIZE = 1.005


def advise(sides: Sequence[Side]) -> list[Advice]:
    """The winners among `sides` that passed their gates; empty with fewer than two to choose from."""
    able = [each for each in sides if each.passed]
    found = [_closest(able), *_closest_of_size(able), _smallest(able), _fastest(able)]
    return [each for each in found if each is not None]


def _closest(sides: Sequence[Side]) -> Advice | None:
    """A lower bound and a full divergence are not the same figure: only one kind is compared."""
    known = [each for each in sides if each.kld is not None]
    if len(known) < 2 or len({each.kld_is_full for each in known}) > 1:
        return None
    best, *others = sorted(known, key=lambda each: each.kld or 0.0)
    limit = best.kld_high or best.kld or 0.0
    winners = [best.title, *(each.title for each in others if (each.kld_low or 0.0) <= limit)]
    return Advice(measure="closest", winners=winners, value=best.kld or 0.0, streams=None, total_bytes=None)


def _closest_of_size(sides: Sequence[Side]) -> list[Advice]:
    """The closest of each size that several have and others have not, from the smallest size up."""
    known = [(each.total_bytes, each) for each in sides if each.total_bytes is not None]
    groups: list[list[tuple[int, Side]]] = []
    for size, each in sorted(known, key=lambda pair: pair[0]):
        if groups and size <= LIKE_SIZE * groups[-1][0][0]:
            groups[-1].append((size, each))
        else:
            groups.append([(size, each)])
    if len(groups) < 2:
        return []
    found = [(group[0][0], _closest([each for _, each in group])) for group in groups]
    return [
        each.model_copy(update={"measure": "closest_of_size", "total_bytes": size})
        for size, each in found
        if each is not None
    ]


def _smallest(sides: Sequence[Side]) -> Advice | None:
    known = [(each.total_bytes, each.title) for each in sides if each.total_bytes is not None]
    if len(known) < 2:
        return None
    least = min(size for size, _ in known)
    winners = [title for size, title in known if size <= SAME_SIZE * least]
    return Advice(measure="smallest", winners=winners, value=least, streams=None, total_bytes=least)


def _fastest(sides: Sequence[Side]) -> Advice | None:
    known = [(found, each.title) for each in sides if (found := single(each)) is not None]
    if len(known) < 2 or len({found.streams for found, _ in known}) > 1:
        return None
    (best, first), *others = sorted(known, key=lambda pair: -pair[0].tokens_per_s.median)
    winners = [first, *(title for one, title in others if one.tokens_per_s.high >= best.tokens_per_s.low)]
    return Advice(
        measure="fastest",
        winners=winners,
        value=best.tokens_per_s.median,
        streams=best.streams,
        total_bytes=None,
    )


def single(side: Side) -> SpeedFigures | None:
    """The random load with the fewest streams; None where speed was not measured."""
    rows = [each for each in side.speeds if each.dataset == "random"]
    return min(rows, key=lambda each: each.streams, default=None)
