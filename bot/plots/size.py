"""Two stacked bars, base and release, by part; the language model's packed layers apart."""

from __future__ import annotations

from typing import Any

from bot.comparison import Comparison
from bot.evidence import Evidence
from bot.plots.theme import Theme

PARTS = ("language", "embeddings", "lm_head", "visual", "mtp")
LABELS = ("quantized layers", "language, kept", "embeddings", "lm_head", "vision", "MTP head")


def draw(evidence: Evidence, compared: Comparison, theme: Theme, pyplot: Any) -> Any:
    """The figure."""
    rows = _rows(evidence)
    largest = max(sum(values) for values in rows.values())
    scale, unit = (2**30, "GiB") if largest >= 2**30 else (2**20, "MiB")
    figure, axes = pyplot.subplots(figsize=(8, 2.6), layout="constrained")
    for y, (label, values) in enumerate(rows.items()):
        left = 0.0
        for colour, value in zip(theme.colours, values, strict=False):
            axes.barh(y, value / scale, left=left, color=colour, height=0.55)
            left += value / scale
        axes.text(left, y, f"  {left:.2f} {unit}", va="center", fontweight="bold")
        axes.text(0, y + 0.32, label, va="bottom")
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colour) for colour in theme.colours[: len(LABELS)]]
    figure.legend(handles, LABELS, loc="outside lower center", ncols=6, columnspacing=1.2)
    axes.set(yticks=[], xlim=(0, largest / scale * 1.16), ylim=(-0.45, 1.75), xlabel=unit)
    axes.spines["left"].set_visible(False)
    return figure


def _rows(evidence: Evidence) -> dict[str, list[int]]:
    inventory, base = evidence.audit.report.inventory, evidence.base.bytes_by_part
    packed = sum(row.bytes for row in inventory.components if row.packed)
    kept = inventory.bytes_by_part["language"] - packed
    ours = {**inventory.bytes_by_part, "language": kept}
    return {
        "this release": [packed, *(ours.get(part, 0) for part in PARTS)],
        "base": [base["language"] - kept, kept, *(base.get(part, 0) for part in PARTS[1:])],
    }
