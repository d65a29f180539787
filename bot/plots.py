"""The card's plots: PNG files drawn from evidence, the same bytes for the same evidence and libraries."""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot.evidence import Evidence

INK, MUTED = "#1f2328", "#6e7781"
COLOURS = ("#4f6bed", "#e8743b", "#19a979", "#945ecf", "#d9a514", "#5899da", "#848f94")
DPI = 144


@dataclass(frozen=True, kw_only=True)
class Plot:
    path: str
    section: str
    alt: str
    draw: Callable[[Evidence, Any], Any]


def draw(evidence: Evidence, folder: Path) -> None:
    """Write every plot below `folder`."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    style: Any = {"font.family": "DejaVu Sans", "font.size": 9, "text.color": INK, "axes.edgecolor": MUTED}
    with pyplot.rc_context(style):
        for plot in PLOTS:
            path = folder / plot.path
            path.parent.mkdir(parents=True, exist_ok=True)
            figure = plot.draw(evidence, pyplot)
            figure.savefig(path, dpi=DPI, metadata={"Software": None})
            pyplot.close(figure)


def check(evidence: Evidence, folder: Path) -> list[str]:
    """What is wrong with the plots below `folder`: one missing, too many, or not from `evidence`."""
    known = {plot.path for plot in PLOTS}
    found = {p.relative_to(folder).as_posix() for p in (folder / "plots").rglob("*") if not p.is_dir()}
    problems = [f"{name} is not one of this card's plots" for name in sorted(found - known)]
    with tempfile.TemporaryDirectory() as temporary:
        draw(evidence, Path(temporary))
        for name in sorted(known):
            if (folder / name).is_symlink() or not (folder / name).is_file():
                problems.append(f"{name} is missing")
            elif not _same_picture(folder / name, Path(temporary) / name):
                problems.append(f"{name} is not what the evidence draws")
    return problems


def _same_picture(found: Path, drawn: Path) -> bool:
    """Whether two PNG files show the same: equal pixels, and no other chunk (a second frame, a palette)."""
    from matplotlib import image

    one, other = found.read_bytes(), drawn.read_bytes()
    if one == other:
        return True
    # Chunks first: their header holds width and height, so that nothing larger is ever decoded.
    if _chunks(one) != _chunks(other):
        return False
    try:
        pixels = image.imread(found)
    except (OSError, SyntaxError, ValueError):
        return False
    expected = image.imread(drawn)
    return pixels.shape == expected.shape and bool((pixels == expected).all())


def _chunks(data: bytes) -> list[bytes]:
    """All of a PNG but its compressed pixels: signature, then each chunk's kind, content and checksum."""
    chunks, at = [data[:8]], 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunk = data[at + 4 : at + 12 + size]
        if chunk[:4] != b"IDAT":
            chunks.append(chunk)
        at += 12 + size
    return chunks


def _size(evidence: Evidence, pyplot: Any) -> Any:
    """Two stacked bars, base and release, by part; the language model's packed layers apart."""
    inventory = evidence.audit.report.inventory
    packed = sum(row.bytes for row in inventory.components if row.packed)
    ours = {**inventory.bytes_by_part, "language": inventory.bytes_by_part["language"] - packed}
    parts = ["language", "embeddings", "lm_head", "visual", "mtp"]
    labels = ["quantized layers", "language, kept", "embeddings", "lm_head", "vision", "MTP head"]
    kept = ours["language"]
    base = evidence.base.bytes_by_part
    rows = {
        "this release": [packed, *(ours.get(part, 0) for part in parts)],
        "base": [base["language"] - kept, kept, *(base.get(part, 0) for part in parts[1:])],
    }
    largest = max(sum(values) for values in rows.values())
    scale, unit = (2**30, "GiB") if largest >= 2**30 else (2**20, "MiB")
    figure, axes = pyplot.subplots(figsize=(8, 2.8), layout="constrained")
    for y, (label, values) in enumerate(rows.items()):
        left = 0.0
        for index, value in enumerate(values):
            axes.barh(y, value / scale, left=left, color=COLOURS[index], height=0.55)
            left += value / scale
        axes.text(left, y, f"  {left:.2f} {unit}", va="center", fontweight="bold")
        axes.text(0, y + 0.32, label, va="bottom", color=MUTED)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=COLOURS[index]) for index in range(len(labels))]
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    axes.set(yticks=[], xlim=(0, largest / scale * 1.16), ylim=(-0.45, 1.75), xlabel=unit)
    axes.spines[["left", "top", "right"]].set_visible(False)
    return figure


def _distance(evidence: Evidence, pyplot: Any) -> Any:
    """Relative error of each module by layer, one colour and one place beside the layer a kind of module."""
    kinds: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for module in evidence.audit.report.distance.modules:
        layer = re.search(r"\.layers\.(\d+)\.(.+)", module.name)
        kinds[layer[2] if layer else module.name].append(
            (int(layer[1]) if layer else 0, module.relative_error)
        )
    figure, axes = pyplot.subplots(figsize=(8, 3.4), layout="constrained")
    for index, (kind, points) in enumerate(sorted(kinds.items())):
        beside = (index - (len(kinds) - 1) / 2) / len(kinds) * 0.6
        marker = "os^Dv"[index // len(COLOURS) % 5]
        xs = [layer + beside for layer, _ in points]
        axes.plot(
            xs,
            [error for _, error in points],
            marker,
            color=COLOURS[index % len(COLOURS)],
            markersize=4.5,
            label=kind,
        )
    highest = max((y for points in kinds.values() for _, y in points), default=0.0)
    axes.set(xlabel="decoder layer", ylabel="relative error", ylim=(0, highest * 1.15 or 1))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", color="#d8dee4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure


PLOTS = (
    Plot(path="plots/size.png", section="size", alt="Size by component, base and this release", draw=_size),
    Plot(
        path="plots/distance.png",
        section="distance",
        alt="Relative error of each quantized module by layer",
        draw=_distance,
    ),
)
