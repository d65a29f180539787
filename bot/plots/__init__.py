"""The card's plots, drawn from evidence: each as PNG and as SVG, for light pages and for dark ones.

The same bytes come of the same evidence and libraries, so that a plot in a card can be checked by drawing it
again. A plot whose figures were not measured is not drawn.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot import comparison
from bot.comparison import Comparison
from bot.evidence import Evidence
from bot.plots import distance, latency, quality, size, soak
from bot.plots.pictures import same_picture
from bot.plots.theme import LIGHT, THEMES, Theme

DPI = 144
FORMATS = ("png", "svg")
FOLDER = "plots"
# Neither a date nor a version in the file: they would change its bytes and show nothing.
_METADATA: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}


@dataclass(frozen=True, kw_only=True)
class Plot:
    """`section` of the card, text for who cannot see it, and how it is drawn."""

    name: str
    section: str
    alt: str
    wanted: Callable[[Evidence, Comparison], bool]
    draw: Callable[[Evidence, Comparison, Theme, Any], Any]

    def path(self, theme: Theme = LIGHT, kind: str = "png") -> str:
        """Its path in the repo."""
        return f"{FOLDER}/{self.name}{theme.suffix}.{kind}"

    @property
    def paths(self) -> list[str]:
        """The paths of all its variants."""
        return [self.path(theme, kind) for theme in THEMES for kind in FORMATS]


PLOTS = (
    Plot(
        name="quality",
        section="quality",
        alt="Bits per weight against KL divergence from the base, every measured recipe of this base",
        wanted=quality.wanted,
        draw=quality.draw,
    ),
    Plot(
        name="soak",
        section="soak",
        alt="Share of drafts accepted as the conversation grows, this release and the base",
        wanted=soak.wanted,
        draw=soak.draw,
    ),
    Plot(
        name="latency",
        section="latency",
        alt="Time to first token, time per token and tokens per second by load, with drafting and without",
        wanted=latency.wanted,
        draw=latency.draw,
    ),
    Plot(
        name="size",
        section="size",
        alt="Size by component, base and this release",
        wanted=lambda evidence, compared: True,
        draw=size.draw,
    ),
    Plot(
        name="distance",
        section="distance",
        alt="Relative error of each quantized module by layer",
        wanted=distance.wanted,
        draw=distance.draw,
    ),
)


def of(evidence: Evidence, compared: Comparison) -> list[Plot]:
    """The plots whose figures are there."""
    return [plot for plot in PLOTS if plot.wanted(evidence, compared)]


def draw(evidence: Evidence, folder: Path) -> None:
    """Write every plot in every variant below `folder`."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    compared = comparison.of(evidence)
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    for theme in THEMES:
        with pyplot.rc_context(theme.style):
            for plot in of(evidence, compared):
                figure = plot.draw(evidence, compared, theme, pyplot)
                for kind in FORMATS:
                    figure.savefig(folder / plot.path(theme, kind), dpi=DPI, metadata=_METADATA[kind])
                pyplot.close(figure)


def draw_points(points: Sequence[quality.Point], folder: Path, stem: str, *, full: bool) -> list[Path]:
    """Bits against divergence of any checkpoints, in every variant as `folder/stem…`; returns the files."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    written = []
    folder.mkdir(parents=True, exist_ok=True)
    for theme in THEMES:
        with pyplot.rc_context(theme.style):
            figure = quality.figure_of(points, theme, pyplot, full=full)
            for kind in FORMATS:
                written.append(folder / f"{stem}{theme.suffix}.{kind}")
                figure.savefig(written[-1], dpi=DPI, metadata=_METADATA[kind])
            pyplot.close(figure)
    return written


def check(evidence: Evidence, folder: Path) -> list[str]:
    """What is wrong with the plots below `folder`: one missing, too many, or not from `evidence`."""
    known = {path for plot in of(evidence, comparison.of(evidence)) for path in plot.paths}
    found = {p.relative_to(folder).as_posix() for p in (folder / FOLDER).rglob("*") if not p.is_dir()}
    problems = [f"{name} is not one of this card's plots" for name in sorted(found - known)]
    with tempfile.TemporaryDirectory() as temporary:
        draw(evidence, Path(temporary))
        for name in sorted(known):
            if (folder / name).is_symlink() or not (folder / name).is_file():
                problems.append(f"{name} is missing")
            elif not same_picture(folder / name, Path(temporary) / name):
                problems.append(f"{name} is not what the evidence draws")
    return problems
