"""The FP8 stand-in: its numbers by a naive loop, its layout by the safetensors library."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from bot.checkpoint.numbers import E4M3
from bot.demo import fp8
from bot.demo.rehearsal import BASE, FIXTURE


@pytest.mark.parametrize("shape", [(128, 128), (200, 300), (1, 5)])
def test_each_weight_becomes_the_nearest_code_of_its_block(shape: tuple[int, int]):
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    codes, scales = fp8.quantized(weight)
    finite = E4M3[np.isfinite(E4M3)].astype(np.float64)
    for row in range(0, shape[0], 37):
        for column in range(shape[1]):
            scale = float(scales[row // 128, column // 128])
            wanted = weight[row, column] / scale
            error = abs(float(E4M3[codes[row, column]]) - wanted)
            assert error <= np.abs(finite - wanted).min() + 1e-4
    blocks = [(r, c) for r in range(scales.shape[0]) for c in range(scales.shape[1])]
    for r, c in blocks:
        block = weight[r * 128 : (r + 1) * 128, c * 128 : (c + 1) * 128]
        assert scales[r, c] == pytest.approx(np.abs(block).max() / 448)


def test_a_block_of_zeros_has_a_scale_that_divides():
    codes, scales = fp8.quantized(np.zeros((3, 4), np.float32))
    assert not codes.any()
    assert scales.tolist() == [[1.0]]


def test_the_repo_is_laid_out_as_the_official_ones(tmp_path: Path):
    folder = fp8.write(FIXTURE, tmp_path / "fp8", base_repo_id=BASE)
    claim = json.loads((folder / "config.json").read_text())["quantization_config"]
    places, dtypes = {}, {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as shard:
            for name in shard.keys():  # noqa: SIM118 - safe_open is no mapping
                places[name] = path.name
                dtypes[name] = shard.get_slice(name).get_dtype()
    assert json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"] == places
    packed = {name for name, dtype in dtypes.items() if dtype == "F8_E4M3"}
    assert {name + "_scale_inv" for name in packed} == {n for n in dtypes if n.endswith("_scale_inv")}
    assert "mtp.layers.0.mlp.up_proj.weight" in packed
    assert dtypes["mtp.fc.weight"] == dtypes["lm_head.weight"] == "BF16"
    kept = set(claim["modules_to_not_convert"])
    assert not {name.removesuffix(".weight") for name in packed} & kept
    assert {"lm_head", "mtp.fc", "model.visual.blocks.0.attn.qkv"} <= kept
    assert f"base_model: {BASE}" in (folder / "README.md").read_text()
