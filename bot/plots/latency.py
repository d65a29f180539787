"""Latency and throughput by load: medians of the runs with their range, drafting on and off, and the base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bot.comparison import Comparison, SpeedFigures, Spread
from bot.evidence import Evidence
from bot.plots.theme import SMALL, Theme

PANELS = (
    ("ttft_ms", "time to first token, ms"),
    ("tpot_ms", "time per output token, ms"),
    ("tokens_per_s", "output tokens per second"),
)
APART = 0.3


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of the legend."""

    label: str
    rows: list[SpeedFigures]
    colour: str
    marker: str


def wanted(evidence: Evidence, compared: Comparison) -> bool:
    """Whether this release's speed was measured on random prompts."""
    return bool(_random(compared.release.speeds))


def _random(rows: Sequence[SpeedFigures]) -> list[SpeedFigures]:
    return [each for each in rows if each.dataset == "random"]


def _series(compared: Comparison, theme: Theme) -> list[Series]:
    """What was measured; without drafting at all there is one line for this release."""
    own, plain = compared.release.speeds, compared.release.plain_speeds
    drafted = any(each.drafting for each in own)
    name = "this release, drafting" if drafted else "this release"
    base = "base, drafting" if any(each.drafting for each in compared.base.speeds) else "base"
    found = [
        Series(label=name, rows=_random(own), colour=theme.accent, marker="o"),
        Series(label="this release, not drafting", rows=_random(plain), colour=theme.other, marker="^"),
        Series(label=base, rows=_random(compared.base.speeds), colour=theme.muted, marker="s"),
    ]
    return [each for each in found if each.rows]


def draw(evidence: Evidence, compared: Comparison, theme: Theme, pyplot: Any) -> Any:
    """The figure: one panel a measure, one place a number of streams."""
    series = _series(compared, theme)
    streams = sorted({each.streams for one in series for each in one.rows})
    figure, panels = pyplot.subplots(1, len(PANELS), figsize=(8, 3.3), layout="constrained")
    for axes, (figure_name, title) in zip(panels, PANELS, strict=True):
        for index, one in enumerate(series):
            beside = (index - (len(series) - 1) / 2) * APART
            for row in one.rows:
                _mark(axes, streams.index(row.streams) + beside, getattr(row, figure_name), one)
        axes.set_title(title)
        axes.set_xticks(range(len(streams)), [str(each) for each in streams])
        axes.set(xlim=(-0.6, len(streams) - 0.4), xlabel="streams at once")
        axes.set_ylim(0, axes.get_ylim()[1] * 1.12)
        axes.grid(axis="y")
    handles = [pyplot.Line2D([], [], marker=e.marker, color=e.colour, linestyle="") for e in series]
    figure.legend(handles, [each.label for each in series], loc="outside lower center", ncols=len(series))
    return figure


def _mark(axes: Any, x: float, values: Spread, one: Series) -> None:
    axes.plot([x, x], [values.low, values.high], color=one.colour, linewidth=1.6)
    axes.plot(x, values.median, one.marker, color=one.colour, markersize=5.5)
    axes.annotate(
        _shown(values.median),
        (x, values.high),
        (0, 5),
        textcoords="offset points",
        ha="center",
        fontsize=SMALL - 0.5,
        color=one.colour,
    )


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
