"""Drafting over one long conversation: this release and the base, the opening and the fresh prompts apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bot.comparison import Comparison, SoakPoint
from bot.evidence import Evidence
from bot.plots.theme import SMALL, Theme

MAX_TICKS = 8


def wanted(evidence: Evidence, compared: Comparison) -> bool:
    """Whether a window of this release was counted."""
    return any(each.where == "window" and each.rate is not None for each in compared.soak)


def draw(evidence: Evidence, compared: Comparison, theme: Theme, pyplot: Any) -> Any:
    """The figure. The short prompts stand left and right of the windows, as they were asked."""
    windows = [each for each in compared.soak if each.where == "window"]
    step = windows[-1].context_tokens / len(windows)
    places = {"opening": windows[0].context_tokens - step, "fresh": windows[-1].context_tokens + step}
    at = [places.get(each.where, each.context_tokens) for each in compared.soak]
    figure, axes = pyplot.subplots(figsize=(8, 3.4), layout="constrained")
    _series(axes, compared.soak, at, lambda each: each.base_rate, theme.muted, "s", "--", "base")
    _series(axes, compared.soak, at, lambda each: each.rate, theme.accent, "o", "-", "this release")
    for edge in (at[0] + step / 2, at[-1] - step / 2):
        axes.axvline(edge, color=theme.muted, linewidth=0.8, linestyle=":")
    _ticks(axes, windows, at)
    rates = [share for each in compared.soak for share in (each.rate, each.base_rate) if share is not None]
    axes.set(
        ylim=(0, max(100 * max(rates) * 1.15, 1)),
        xlim=(at[0] - step / 2, at[-1] + step / 2),
        xlabel="tokens of context",
        ylabel="drafted tokens accepted, %",
    )
    axes.grid(axis="y")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _series(
    axes: Any,
    points: Sequence[SoakPoint],
    at: Sequence[float],
    rate: Callable[[SoakPoint], float | None],
    colour: str,
    marker: str,
    line: str,
    label: str,
) -> None:
    """The windows as a line; the short prompts as hollow markers, which no line joins."""
    known = [
        (x, each.where, 100 * y) for x, each in zip(at, points, strict=True) if (y := rate(each)) is not None
    ]
    inside = [(x, y) for x, where, y in known if where == "window"]
    if not inside:
        return
    xs, ys = zip(*inside, strict=True)
    axes.plot(xs, ys, marker=marker, linestyle=line, color=colour, label=label, markersize=5.5)
    for x, where, y in known:
        if where != "window":
            axes.plot(x, y, marker=marker, color=colour, markersize=8, fillstyle="none", markeredgewidth=1.6)


def _ticks(axes: Any, windows: Sequence[SoakPoint], at: Sequence[float]) -> None:
    every = -(-len(windows) // MAX_TICKS)
    shown = windows[every - 1 :: every]
    axes.set_xticks(
        [at[0], *(each.context_tokens for each in shown), at[-1]],
        ["opening\nprompts", *(f"{each.context_tokens:,}" for each in shown), "the same,\nafterwards"],
        fontsize=SMALL,
    )
