"""What the tools write, against the formats as oracles say them: the same codes, words and bytes.

Every comparison here is exact but one: GPTQ's scales are float32 while it works and fp16 in the file, so a
weight read back is off by up to 2⁻¹¹ of itself.
"""

from __future__ import annotations

import numpy as np
import pytest

from bot.checkpoint import numbers
from tests.numerics.conftest import Arrays, Tool
from tests.oracles import autoround, gptq, int4, nvfp4

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
OUT, IN = 32, 128


@pytest.fixture(scope="module")
def w() -> np.ndarray:
    random = np.random.default_rng(3)
    rows = np.exp(random.normal(size=(OUT, 1)))
    return (random.normal(size=(OUT, IN)) * rows * 0.05).astype(np.float32)


# ── GPTQ ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def packed(tool: Tool, w: np.ndarray) -> tuple[Arrays, np.ndarray, Arrays]:
    """Weights rounded in groups of 32 whose columns are shuffled, as activation order leaves them."""
    settings = gptq.Settings(group_size=32)
    g_idx = np.random.default_rng(4).permutation(np.repeat(np.arange(IN // 32), 32)).astype(np.int32)
    scale = np.stack([gptq.scale_of(w[:, g_idx == group], settings) for group in range(IN // 32)], axis=1)
    scale = scale.astype(np.float32)
    codes = gptq.code_of(w, scale[:, g_idx], settings)
    q = gptq.dequantized(codes, scale[:, g_idx], settings).astype(np.float32)
    given = {"q": q, "scale": scale, "zero": np.full_like(scale, 8), "g_idx": g_idx}
    return tool("pack_gptq", given, group_size=32, desc_act=True), codes, given


def test_gptqmodel_packs_the_codes_it_was_given(packed: tuple[Arrays, np.ndarray, Arrays]):
    found, codes, given = packed
    assert (found["qweight"] == int4.packed(codes)).all()
    assert (int4.unpacked(found["qweight"]) == codes).all()
    assert (found["qzeros"] == int4.packed_zeros(given["zero"].astype(int))).all()
    assert {f"{word:08x}" for word in found["qzeros"].view(np.uint32).flat} == {"77777777"}
    assert {f"{word:08x}" for word in found["qzeros_kept"].view(np.uint32).flat} == {"88888888"}
    assert found["scales"].dtype == np.float16
    assert (found["scales"] == given["scale"].T.astype(np.float16)).all()
    assert (found["g_idx"] == given["g_idx"]).all()


def test_what_is_read_back_is_what_it_rounded_to(packed: tuple[Arrays, np.ndarray, Arrays]):
    found, _, given = packed
    again = int4.dequantized(found["qweight"], found["qzeros"], found["scales"], found["g_idx"])
    np.testing.assert_allclose(again, given["q"], rtol=2**-11)


def test_the_audit_reads_codes_as_the_oracle(packed: tuple[Arrays, np.ndarray, Arrays]):
    found, codes, _ = packed
    assert (numbers.unpack_rows(found["qweight"].view(np.uint32), 4) == codes.T).all()


# ── AutoRound ──────────────────────────────────────────────────────────────────────────────


def test_autoround_rounds_and_packs_as_the_oracle(tool: Tool, w: np.ndarray):
    """Learned offsets and clipping included; its files hold zero points minus one, as GPTQ's do."""
    random = np.random.default_rng(5)
    w = w.copy()
    w[0, :64] = 0  # a group without any weight
    given = {
        "w": w,
        "v": random.uniform(-0.5, 0.5, w.shape).astype(np.float32),
        "low": random.uniform(0.6, 1, (OUT, IN // 64)).astype(np.float32),
        "high": random.uniform(0.6, 1, (OUT, IN // 64)).astype(np.float32),
    }
    found = tool("autoround", given, group_size=64)
    codes, scales = autoround.rounded(**given, group_size=64)
    assert (found["scales"] == scales.T).all()
    assert 0.2 < (scales < 0).mean() < 0.8
    nonzero = np.ones_like(codes, dtype=bool)
    nonzero[0, :64] = False  # there, packing rounds the dequantized zeros anew, whatever V said
    assert (int4.unpacked(found["qweight"]) == codes)[nonzero].all()
    assert {f"{word:08x}" for word in found["qzeros"].view(np.uint32).flat} == {"77777777"}
    again = int4.dequantized(found["qweight"], found["qzeros"], found["scales"], found["g_idx"])
    assert (again.astype(np.float32) == found["q"]).all()


# ── NVFP4 ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_modelopt_quantizes_as_the_oracle(tool: Tool, w: np.ndarray, dtype: str):
    w = w.copy()
    w[0, :16] = 0
    w[1, :16] = 1e-6  # its scale would be below E4M3's smallest number
    w[2, :16] = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 6] * 2) * 0.01  # ties
    w[2, 8:16] *= -1
    found = tool("nvfp4", {"w": w}, dtype=dtype)
    packed, scales, scale_2 = nvfp4.quantized(found["w"])
    assert found["scale_2"] == scale_2
    assert (found["scale"] == scales).all()
    assert (found["packed"] == packed).all()
    again = nvfp4.dequantized(found["packed"], found["scale"], scale_2)
    np.testing.assert_allclose(found["q"], again, rtol=1e-6)
    error = np.linalg.norm(again - found["w"]) / np.linalg.norm(found["w"])
    assert 0.05 < error < 0.15


def test_the_oracles_e4m3_is_the_machines():
    assert len(nvfp4.E4M3) == 127
    assert nvfp4.E4M3[-1] == 448
    assert nvfp4.E4M3[1] == 2**-9
    codes = np.arange(127, dtype=np.uint8)
    assert (numbers.decode(codes.tobytes(), "F8_E4M3") == np.array(nvfp4.E4M3, dtype=np.float32)).all()
