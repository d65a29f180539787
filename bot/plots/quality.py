"""What bits buy: bits per weight against divergence from the base, one point a recipe, this one in colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bot.comparison import Comparison, Side
from bot.evidence import Evidence
from bot.plots.theme import SMALL, Theme

LABEL_GAP_POINTS = 14.0
AXES_HEIGHT_POINTS = 190.0
MIN_SPAN_BITS = 1.0


@dataclass(frozen=True, kw_only=True)
class Point:
    """One checkpoint; `low` and `high` bound its divergence."""

    title: str
    own: bool
    bits: float
    kld: float
    low: float
    high: float


def wanted(evidence: Evidence, compared: Comparison) -> bool:
    """Whether there is something to compare with: a point alone says nothing."""
    return len(points(compared)) > 1


def points(compared: Comparison) -> list[Point]:
    """Every checkpoint whose size and divergence are known, and of one kind with this release's."""
    sides = [compared.release, *compared.siblings, *([compared.fp8] if compared.fp8 else [])]
    found = [_point(each) for each in sides if each.kld_is_full == compared.release.kld_is_full]
    return [each for each in found if each is not None]


def _point(side: Side) -> Point | None:
    if side.bits_per_weight is None or side.kld is None or side.kld_low is None or side.kld_high is None:
        return None
    return Point(
        title=side.title + (" (failed its gates)" if side.passed is False else ""),
        own=side.kind == "release",
        bits=side.bits_per_weight,
        kld=side.kld,
        low=min(side.kld_low, side.kld),
        high=max(side.kld_high, side.kld),
    )


def draw(evidence: Evidence, compared: Comparison, theme: Theme, pyplot: Any) -> Any:
    """The figure."""
    return figure_of(points(compared), theme, pyplot, full=bool(compared.release.kld_is_full))


def figure_of(found: Sequence[Point], theme: Theme, pyplot: Any, *, full: bool) -> Any:
    """The figure of any points; `full` False says that divergences are lower bounds."""
    top = max(each.high for each in found) * 1.18 or 1.0
    left, right = _range([each.bits for each in found])
    figure, axes = pyplot.subplots(figsize=(8, 3.6), layout="constrained")
    for each in found:
        colour = theme.accent if each.own else theme.muted
        axes.errorbar(
            each.bits,
            each.kld,
            yerr=[[each.kld - each.low], [each.high - each.kld]],
            fmt="D" if each.own else "o",
            color=colour,
            markersize=9 if each.own else 6.5,
            capsize=3,
            elinewidth=1,
            zorder=3,
        )
    _labels(axes, found, theme, top=top, middle=(left + right) / 2)
    bound = "" if full else ", lower bound"
    axes.set(
        xlim=(left, right),
        ylim=(0, top),
        xlabel="bits per weight, all tensors (fewer is smaller)",
        ylabel=f"KL divergence from the base, nats{bound}\n(lower is closer)",
    )
    axes.grid()
    return figure


def _range(bits: Sequence[float]) -> tuple[float, float]:
    """A range of bits with room for labels beside the points."""
    low, high = min(bits), max(bits)
    span = max(high - low, MIN_SPAN_BITS)
    middle = (low + high) / 2
    return middle - span * 0.9, middle + span * 0.9


def _labels(axes: Any, found: Sequence[Point], theme: Theme, *, top: float, middle: float) -> None:
    """A label beside each point, right of it in the left half and left of it else; none over another."""
    for side in (1, -1):
        here = sorted(
            (each for each in found if (each.bits <= middle) == (side == 1)), key=lambda each: each.kld
        )
        heights = [each.kld / top * AXES_HEIGHT_POINTS for each in here]
        for each, height, place in zip(here, heights, spread(heights, LABEL_GAP_POINTS), strict=True):
            axes.annotate(
                f"{each.title}  {each.kld:.4f}",
                (each.bits, each.kld),
                (13 * side, place - height),
                textcoords="offset points",
                ha="left" if side == 1 else "right",
                va="center",
                fontsize=SMALL,
                fontweight="bold" if each.own else "normal",
                color=theme.accent if each.own else theme.ink,
            )


def spread(places: Sequence[float], gap: float) -> list[float]:
    """`places`, ascending, moved as little as it takes to lie at least `gap` apart.

    Neighbours that are too near become a block, evenly spaced about its mean; blocks that meet are joined.
    """
    blocks: list[list[float]] = []
    for place in places:
        blocks.append([place])
        while len(blocks) > 1 and _bottom(blocks[-1], gap) - _top(blocks[-2], gap) < gap:
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    return [_bottom(block, gap) + i * gap for block in blocks for i in range(len(block))]


def _bottom(block: Sequence[float], gap: float) -> float:
    return sum(block) / len(block) - gap * (len(block) - 1) / 2


def _top(block: Sequence[float], gap: float) -> float:
    return _bottom(block, gap) + gap * (len(block) - 1)
