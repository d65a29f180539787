"""Plots: which are drawn, the same bytes each time, and none that its evidence does not draw."""

from __future__ import annotations

import re
import shutil
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cards import judged, sibling, siblings_of
from hypothesis import given
from hypothesis import strategies as st
from measured import divergence, measurement, release, speeds

from bot import comparison, plots
from bot.evidence import Evidence
from bot.plots import quality
from bot.plots.theme import DARK, LIGHT, Theme

PARTS = ("load", "acceptance", "soak", "speed", "speed_plain", "perplexity", "divergence")


def full() -> Evidence:
    return judged(siblings=siblings_of("gptq-foem-g32"))


def names(found: Evidence) -> list[str]:
    return [plot.name for plot in plots.of(found, comparison.of(found))]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    plots.draw(full(), folder)
    return folder


def test_every_plot_is_drawn_light_and_dark_as_png_and_svg(drawn: Path):
    found = {path.name for path in (drawn / "plots").iterdir()}
    kinds = [f"{theme}.{kind}" for theme in ("", "-dark") for kind in ("png", "svg")]
    assert names(full()) == ["quality", "soak", "latency", "size", "distance"]
    assert found == {name + kind for name in names(full()) for kind in kinds}


def test_no_plot_without_its_figures():
    bare = judged(measurement(release=dict.fromkeys(PARTS), fp8=dict.fromkeys(PARTS)))
    assert names(bare) == ["size", "distance"]
    none = {"rows": [], "not_measured": "emulated", "command": "", "wall_s": 0.0}
    unspoken = {"speed": speeds(1.0, **none), "speed_plain": speeds(1.0, drafting=False, **none)}
    assert "latency" not in names(judged(measurement(release=unspoken)))


def test_a_point_alone_is_no_comparison_and_two_kinds_of_divergence_are_none():
    def without_fp8(found):
        measured = found.measurement.model_copy(update={"fp8": None})
        return names(found.model_copy(update={"measurement": measured}))

    assert "quality" not in without_fp8(judged())
    bound = release(divergence=divergence(kind="lower_bound", k=128))
    assert "quality" not in without_fp8(judged(siblings=[sibling("nvfp4", measured=bound)]))
    assert "quality" in without_fp8(judged(siblings=[sibling("nvfp4")]))


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_svg_has_no_script_link_date_or_other_host(drawn: Path, theme: Theme):
    for name in names(full()):
        text = (drawn / f"plots/{name}{theme.suffix}.svg").read_text(encoding="utf-8")
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(text).iter()}
        assert not tags & {"script", "a", "image", "foreignObject", "text"}
        assert "<dc:date>" not in text
        assert theme.background in text
        assert set(re.findall(r'xlink:href="(.)', text)) == {"#"}


def damaged(plots_folder: Path) -> None:
    """Each plot's light PNG is harmed in another way."""
    size, distance = plots_folder / "size.png", plots_folder / "distance.png"
    (plots_folder / "latency.png").write_bytes(size.read_bytes())
    distance.write_bytes(recompressed(distance.read_bytes(), one_pixel))
    size.write_bytes(size.read_bytes()[:-60] + b"\0" * 60)
    (plots_folder / "soak.png").unlink()
    shutil.copy(plots_folder / "quality.png", plots_folder.parent / "elsewhere.png")
    (plots_folder / "quality.png").unlink()
    (plots_folder / "quality.png").symlink_to(plots_folder.parent / "elsewhere.png")
    (plots_folder / "speed.png").write_bytes(b"x")
    (plots_folder / "quality-dark.png").write_bytes(b"x")
    svg = plots_folder / "size.svg"
    svg.write_text(svg.read_text(encoding="utf-8").replace("</svg>", "<script>1</script></svg>"))
    dark = plots_folder / "soak-dark.svg"
    dark.write_text(dark.read_text(encoding="utf-8").replace(DARK.accent, "#ff0000"), encoding="utf-8")


def test_every_plot_that_evidence_does_not_draw_is_named(drawn: Path, tmp_path: Path):
    folder = shutil.copytree(drawn, tmp_path / "card")
    damaged(folder / "plots")
    other = "is not what the evidence draws"
    assert plots.check(full(), folder) == [
        "plots/speed.png is not one of this card's plots",
        f"plots/distance.png {other}",
        f"plots/latency.png {other}",
        f"plots/quality-dark.png {other}",
        "plots/quality.png is missing",
        f"plots/size.png {other}",
        f"plots/size.svg {other}",
        f"plots/soak-dark.svg {other}",
        "plots/soak.png is missing",
    ]


def test_plots_hold_as_drawn_and_compressed_otherwise(drawn: Path, tmp_path: Path):
    folder = shutil.copytree(drawn, tmp_path / "card")
    data = (folder / "plots/size.png").read_bytes()
    (folder / "plots/size.png").write_bytes(recompressed(data, lambda pixels: pixels))
    assert (folder / "plots/size.png").read_bytes() != data
    assert plots.check(full(), folder) == []


def recompressed(png: bytes, edit: Callable[[bytes], bytes]) -> bytes:
    """`png` with its filtered scanlines edited and stored as one chunk without compression."""
    pieces, pixels, at = [png[:8]], b"", 8
    while at < len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + size]
        if kind == b"IDAT":
            pixels += body
        else:
            if kind == b"IEND":
                data = b"IDAT" + zlib.compress(edit(zlib.decompress(pixels)), 0)
                pieces.append((len(data) - 4).to_bytes(4, "big") + data + zlib.crc32(data).to_bytes(4, "big"))
            pieces.append(png[at : at + 12 + size])
        at += 12 + size
    return b"".join(pieces)


def one_pixel(pixels: bytes) -> bytes:
    """The last byte of the last pixel's colour changed by one."""
    return pixels[:-2] + bytes([pixels[-2] ^ 1]) + pixels[-1:]


# ── labels ─────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.floats(0, 200), max_size=8).map(sorted), st.floats(1, 20))
def test_labels_keep_their_order_and_their_distance(places: list[float], gap: float):
    moved = quality.spread(places, gap)
    assert len(moved) == len(places)
    assert all(b - a >= gap - 1e-6 for a, b in pairwise(moved))


def test_labels_that_are_apart_stay():
    assert quality.spread([0.0, 20.0, 50.0], 14.0) == [0.0, 20.0, 50.0]
    assert quality.spread([10.0, 10.0], 14.0) == [3.0, 17.0]
