"""How plots look: one set of shapes, two sets of colours.

A plot brings its own background, so that each variant is legible wherever it is shown. Colours of the two
themes are the same hues at other lightness; every series differs by marker or line as well as by hue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FONT_SIZE = 9.5
SMALL = 8.5


@dataclass(frozen=True, kw_only=True)
class Theme:
    """One variant; `suffix` is what its files' names end with."""

    suffix: str
    background: str
    ink: str
    muted: str
    grid: str
    accent: str
    other: str
    colours: tuple[str, ...]

    @property
    def style(self) -> Any:
        """matplotlib's settings; `svg.hashsalt` fixes the ids inside an SVG."""
        return {
            "font.family": "DejaVu Sans",
            "font.size": FONT_SIZE,
            "figure.facecolor": self.background,
            "savefig.facecolor": self.background,
            "axes.facecolor": self.background,
            "axes.edgecolor": self.muted,
            "axes.labelcolor": self.ink,
            "axes.titlecolor": self.ink,
            "axes.titlesize": FONT_SIZE,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": self.grid,
            "grid.linewidth": 0.6,
            "text.color": self.ink,
            "xtick.color": self.muted,
            "ytick.color": self.muted,
            "xtick.labelcolor": self.ink,
            "ytick.labelcolor": self.ink,
            "legend.frameon": False,
            "legend.fontsize": SMALL,
            "svg.hashsalt": "release-bot",
            "svg.fonttype": "path",
        }


LIGHT = Theme(
    suffix="",
    background="#ffffff",
    ink="#1f2328",
    muted="#6e7781",
    grid="#d8dee4",
    accent="#2f5fd0",
    other="#c4501b",
    colours=("#4f6bed", "#e8743b", "#19a979", "#945ecf", "#d9a514", "#5899da", "#848f94"),
)
DARK = Theme(
    suffix="-dark",
    background="#0d1117",
    ink="#e6edf3",
    muted="#8b949e",
    grid="#30363d",
    accent="#7aa2ff",
    other="#f0883e",
    colours=("#7d92ff", "#f0883e", "#3fcf9b", "#b78cf2", "#e3b341", "#79b8f2", "#9aa4ae"),
)
THEMES = (LIGHT, DARK)
