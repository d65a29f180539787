"""GPTQModel's weight updates against the naive oracle, and its patches on and off.

The oracle computes in float64, the tool in float32, so a value that lies on the border of two codes (within
a thousandth of a code) may fall to either side, and then moves the later codes of its row. Such a row is let
off from there on, and only such a row: of 48, four at most. Where codes agree, weights agree to 1e-5.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.numerics.conftest import Arrays, Tool
from tests.oracles import gptq
from tests.oracles.gptq import Settings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
ROWS, COLUMNS = 48, 320  # two whole blocks of 128 and half of one
EVERY = ["fresh-group-scales", "foem-cross-block", "gptaq-cross-block"]


@pytest.fixture(scope="module")
def layer() -> Arrays:
    """W [48, 320], three samples of correlated inputs with outlier channels, and what they were before."""
    random = np.random.default_rng(7)
    mixing = random.normal(size=(COLUMNS, COLUMNS)) * 0.03 + np.eye(COLUMNS)
    channels = np.exp(0.5 * random.normal(size=COLUMNS))
    arrays = {"w": random.normal(size=(ROWS, COLUMNS)).astype(np.float32)}
    for i in range(3):
        native = (random.normal(size=(300 + 7 * i, COLUMNS)) @ mixing) * channels
        arrays[f"y{i}"] = native.astype(np.float32)
        arrays[f"x{i}"] = (native + 0.1 * native.std() * random.normal(size=native.shape)).astype(np.float32)
    return arrays


def of_tool(
    tool: Tool, layer: Arrays, settings: Settings, patches: list[str] | None = None, **more: Any
) -> Arrays:
    given: dict[str, Any] = {
        name: getattr(settings, name)
        for name in (
            "bits",
            "group_size",
            "desc_act",
            "static_groups",
            "act_group_aware",
            "damp_percent",
            "mse",
        )
    }
    if settings.alpha or settings.beta:
        given["foem"] = {"alpha": settings.alpha, "beta": settings.beta}
    return tool("gptq", layer, sym=True, patches=patches or [], **given | more)


def of_oracle(layer: Arrays, settings: Settings) -> gptq.Result:
    samples, native = ([layer[f"{kind}{i}"] for i in range(3)] for kind in "xy")
    return gptq.update(layer["w"], samples, native, settings)


def hold(found: Arrays, expected: gptq.Result, settings: Settings) -> None:
    assert (found["g_idx"] == expected.g_idx).all()
    scale = found["scale"][:, found["g_idx"]]
    codes = np.round(found["q"] / scale) + 2 ** (settings.bits - 1)
    rows = (codes == expected.codes).all(axis=1)
    np.testing.assert_allclose(found["q"][rows], expected.q[rows], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["scale"][rows], expected.scale[rows], rtol=1e-5)
    assert rows.sum() >= ROWS - 4
    for row in np.flatnonzero(~rows):
        differs = (codes != expected.codes)[row, expected.order]
        assert expected.margin[row, expected.order[differs.argmax()]] < 1e-3


@pytest.mark.parametrize(
    "settings",
    [
        Settings(group_size=32),
        Settings(group_size=128, damp_percent=0.01),
        Settings(group_size=64, mse=2.0),
        Settings(group_size=32, bits=8),
        Settings(group_size=32, desc_act=True, static_groups=True, damp_percent=0.01),
        Settings(group_size=64, desc_act=True, static_groups=True, mse=2.4),
        Settings(group_size=64, desc_act=True),
        Settings(group_size=32, act_group_aware=True),
        Settings(group_size=32, mse=2.0, alpha=0.25),
        Settings(group_size=32, beta=0.2),
        Settings(group_size=32, mse=2.0, alpha=0.25, beta=0.2),
        Settings(group_size=64, alpha=0.5, beta=0.1, desc_act=True, static_groups=True),
    ],
    ids=str,
)
def test_the_tool_rounds_as_the_oracle(tool: Tool, layer: Arrays, settings: Settings):
    if settings.group_size * (COLUMNS // settings.group_size) != COLUMNS:
        layer = {name: np.ascontiguousarray(value[:, :256]) for name, value in layer.items()}
    hold(of_tool(tool, layer, settings), of_oracle(layer, settings), settings)


def test_it_beats_plain_rounding_on_what_it_minimizes(tool: Tool, layer: Arrays):
    """So the oracle is no copy of a mistake: the output's error falls, by more than a quarter."""
    settings = Settings(group_size=32)
    x = np.concatenate([layer[f"x{i}"] for i in range(3)]).astype(np.float64)
    found = of_tool(tool, layer, settings)
    plain = np.empty_like(layer["w"], dtype=np.float64)
    for start in range(0, COLUMNS, 32):
        group = layer["w"][:, start : start + 32].astype(np.float64)
        scale = gptq.scale_of(group, settings)[:, None]
        plain[:, start : start + 32] = gptq.dequantized(gptq.code_of(group, scale, settings), scale, settings)
    errors = [np.square((q - layer["w"]) @ x.T).sum() for q in (found["q"], plain)]
    assert errors[0] < errors[1] * 0.75


# ── patches ────────────────────────────────────────────────────────────────────────────────

SEED = Settings(group_size=32, mse=2.0, alpha=0.25, beta=0.2)
MENDED = {
    "fresh-group-scales": "stale_scales",
    "foem-cross-block": "foem_stops",
    "gptaq-cross-block": "gptaq_rounds",
}


def without(settings: Settings, *flags: str) -> Settings:
    return Settings(**{**settings.__dict__, **dict.fromkeys(flags, False)})


@pytest.mark.parametrize("patch", EVERY)
def test_a_patch_changes_the_weights_into_the_oracles(tool: Tool, layer: Arrays, patch: str):
    plain, mended = of_tool(tool, layer, SEED), of_tool(tool, layer, SEED, [patch])
    assert (plain["q"] != mended["q"]).any()
    hold(mended, of_oracle(layer, without(SEED, MENDED[patch])), SEED)
    assert mended[f"acted_{patch}"] > 0
    assert not any(name.startswith("acted_") and not name.endswith(patch) for name in mended)


def test_counts_say_how_often_a_patch_acted(tool: Tool, layer: Arrays):
    """Blocks of 128 begin at columns 0, 128, 256: seven groups of ten inside one, two next blocks."""
    found = of_tool(tool, layer, SEED, EVERY)
    assert {patch: int(found[f"acted_{patch}"]) for patch in EVERY} == {
        "fresh-group-scales": 7, "foem-cross-block": 2, "gptaq-cross-block": 2,
    }  # fmt: skip


def test_with_every_patch_the_block_size_no_longer_matters(tool: Tool, layer: Arrays):
    """The unblocked update of the papers: blocks are there for speed, and may not change what comes out."""
    hold(of_tool(tool, layer, SEED, EVERY), of_oracle(layer, without(SEED, *MENDED.values())), SEED)


def test_fresh_scales_reach_plain_gptq_too(tool: Tool, layer: Arrays):
    settings = Settings(group_size=32)
    found = of_tool(tool, layer, settings, ["fresh-group-scales"])
    hold(found, of_oracle(layer, without(settings, "stale_scales")), settings)
    assert (found["q"] != of_tool(tool, layer, settings)["q"]).any()


def test_what_cannot_act_changes_nothing_and_is_not_counted(tool: Tool, layer: Arrays):
    layer = {name: np.ascontiguousarray(value[:, :256]) for name, value in layer.items()}
    settings = Settings(group_size=128)
    found = of_tool(tool, layer, settings, ["fresh-group-scales"])
    assert same(found, of_tool(tool, layer, settings))
    assert not any(name.startswith("acted_") for name in found)


def same(one: Arrays, other: Arrays) -> bool:
    return all(
        one[name].tobytes() == other[name].tobytes() for name in ("q", "scale", "zero", "g_idx", "loss")
    )


def test_off_is_the_tools_own_bit_for_bit_also_after_a_patch_was_on(tool: Tool, layer: Arrays):
    before = of_tool(tool, layer, SEED)
    of_tool(tool, layer, SEED, EVERY)
    assert same(of_tool(tool, layer, SEED), before)


def test_groups_of_wide_layers_only(tool: Tool, layer: Arrays):
    """One block has no next one: the two patches across blocks change nothing in it."""
    narrow = {name: np.ascontiguousarray(value[:, :128]) for name, value in layer.items()}
    found = of_tool(tool, narrow, SEED, ["foem-cross-block", "gptaq-cross-block"])
    assert same(found, of_tool(tool, narrow, SEED))
