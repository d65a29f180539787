"""Relative error of each module by layer, one colour, one marker and one place beside the layer a kind."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from bot.comparison import Comparison
from bot.evidence import Evidence
from bot.plots.theme import Theme


def wanted(evidence: Evidence, compared: Comparison) -> bool:
    """Whether any module was compared."""
    return bool(evidence.audit.report.distance.modules)


def draw(evidence: Evidence, compared: Comparison, theme: Theme, pyplot: Any) -> Any:
    """The figure."""
    kinds = _kinds(evidence)
    figure, axes = pyplot.subplots(figsize=(8, 3.6), layout="constrained")
    for index, (kind, points) in enumerate(sorted(kinds.items())):
        beside = (index - (len(kinds) - 1) / 2) / len(kinds) * 0.6
        axes.plot(
            [layer + beside for layer, _ in points],
            [error for _, error in points],
            "os^Dv"[index % 5],
            color=theme.colours[index % len(theme.colours)],
            markersize=4.5,
            label=kind,
        )
    highest = max((y for points in kinds.values() for _, y in points), default=0.0)
    axes.set(xlabel="decoder layer", ylabel="relative error", ylim=(0, highest * 1.15 or 1))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y")
    figure.legend(loc="outside lower center", ncols=4, columnspacing=1.2)
    return figure


def _kinds(evidence: Evidence) -> dict[str, list[tuple[int, float]]]:
    """Layer and error of the modules of each kind, such as `mlp.up_proj`."""
    kinds: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for module in evidence.audit.report.distance.modules:
        layer = re.search(r"\.layers\.(\d+)\.(.+)", module.name)
        kinds[layer[2] if layer else module.name].append(
            (int(layer[1]) if layer else 0, module.relative_error)
        )
    return kinds
