"""Decoding against naive oracles: element types, both zero-point conventions, 4 and 8 bits, NVFP4, blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import checkpoints as c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.checkpoint import numbers
from bot.checkpoint.folder import FolderSource
from bot.checkpoint.inventory import PackedModule, packed_modules
from bot.checkpoint.packing import (
    Block,
    contradiction,
    decode_block,
    label_of,
    midpoints,
    packing_of,
    whole,
    zeros_of,
)
from bot.checkpoint.reading import read_checkpoint
from bot.errors import InputError


def on_disk(folder: Path, parts: dict[str, c.Tensor]) -> tuple[FolderSource, PackedModule]:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    c.write_safetensors(folder / "model.safetensors", {f"m.{k}": v for k, v in parts.items()})
    source = FolderSource(folder)
    return source, packed_modules(read_checkpoint(source).tensors)["m"]


def array(tensor: c.Tensor, dtype: str) -> np.ndarray:
    return np.frombuffer(tensor.data, dtype).reshape(tensor.shape)


def oracle_int(parts: dict[str, c.Tensor], bits: int, group: int, minus_one: bool) -> np.ndarray:
    """One weight at a time, straight from the format's description."""
    qweight, qzeros = array(parts["qweight"], "<u4"), array(parts["qzeros"], "<u4")
    scales = array(parts["scales"], "<f2").astype(np.float64)
    each, mask = 32 // bits, 2**bits - 1
    width, out = qweight.shape[0] * each, qweight.shape[1]
    weight = np.zeros((out, width))
    for o in range(out):
        for i in range(width):
            q = (int(qweight[i // each, o]) >> (bits * (i % each))) & mask
            z = (int(qzeros[i // group, o // each]) >> (bits * (o % each))) & mask
            weight[o, i] = (q - (z + 1 if minus_one else z)) * scales[i // group, o]
    return weight


def oracle_nvfp4(parts: dict[str, c.Tensor]) -> np.ndarray:
    codes, scales = array(parts["weight"], "u1"), array(parts["weight_scale"], "u1")
    second = float(array(parts["weight_scale_2"], "<f4").reshape(()))
    table = c.e4m3_values()
    out, width = codes.shape[0], codes.shape[1] * 2
    weight = np.zeros((out, width))
    for o in range(out):
        for i in range(width):
            code = int(codes[o, i // 2]) >> (4 * (i % 2)) & 15
            size = c.E2M1[code & 7] * table[scales[o, i // 16]] * second
            weight[o, i] = -size if code & 8 else size
    return weight


WEIGHT = np.random.default_rng(1).standard_normal((16, 128)).astype(np.float32)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("minus_one", [True, False])
@pytest.mark.parametrize("asym", [True, False])
def test_integers_decode_as_the_oracle(
    tmp_path: Path, bits: int, group: int, minus_one: bool, asym: bool
) -> None:
    options: dict[str, Any] = {"bits": bits, "group": group, "minus_one": minus_one, "asym": asym}
    parts = c.pack_int(WEIGHT, g_idx=True, signed=not asym, **options)
    source, module = on_disk(tmp_path, parts)
    assert (module.bits, module.group_size, module.shape, module.sound) == (bits, group, (16, 128), True)
    decoded = decode_block(source, module, whole(module), minus_one=minus_one)
    expected = oracle_int(parts, bits, group, minus_one)
    np.testing.assert_allclose(decoded.weight, expected, rtol=1e-6, atol=1e-7)
    assert np.linalg.norm(decoded.weight - WEIGHT) / np.linalg.norm(WEIGHT) < (0.2 if bits == 4 else 0.02)


def test_nvfp4_decodes_as_the_oracle(tmp_path: Path) -> None:
    parts = c.pack_nvfp4(WEIGHT)
    source, module = on_disk(tmp_path, parts)
    assert (module.kind, module.group_size, module.shape, module.sound) == ("nvfp4", 16, (16, 128), True)
    decoded = decode_block(source, module, whole(module), minus_one=False)
    np.testing.assert_allclose(decoded.weight, oracle_nvfp4(parts), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("packing", c.PACKINGS)
def test_a_block_is_that_part_of_the_whole(tmp_path: Path, packing: str) -> None:
    options = {} if packing == "nvfp4" else {"group": 32}
    source, module = on_disk(tmp_path, c.pack(WEIGHT, packing, **options))
    minus_one = packing in ("gptq", "auto_round:auto_gptq")
    all_of_it = decode_block(source, module, whole(module), minus_one=minus_one)
    for r0, r1, c0, c1 in [(0, 8, 0, 32), (3, 7, 32, 96), (8, 16, 64, 128), (5, 6, 0, 128)]:
        part = decode_block(source, module, Block(r0=r0, r1=r1, c0=c0, c1=c1), minus_one=minus_one)
        np.testing.assert_array_equal(part.weight, all_of_it.weight[r0:r1, c0:c1])
        size = part.group_size
        np.testing.assert_array_equal(part.scale, all_of_it.scale[r0:r1, c0 // size : c1 // size])


def test_g_idx_is_followed(tmp_path: Path) -> None:
    parts = c.pack_int(WEIGHT, bits=4, group=32, minus_one=True, g_idx=True)
    order = np.random.default_rng(2).permutation(128)
    parts["qweight"] = c.int32(c._pack(_codes(parts)[order], 4, axis=0))
    parts["g_idx"] = c.int32((np.arange(128) // 32)[order])
    source, module = on_disk(tmp_path, parts)
    plain = c.pack_int(WEIGHT, bits=4, group=32, minus_one=True, g_idx=True)
    expected = oracle_int(plain, 4, 32, True)[:, order]
    decoded = decode_block(source, module, whole(module), minus_one=True)
    np.testing.assert_allclose(decoded.weight, expected, rtol=1e-6, atol=1e-7)


def _codes(parts: dict[str, c.Tensor]) -> np.ndarray:
    words = array(parts["qweight"], "<u4")
    return (
        np.stack([(words >> np.uint32(4 * i)) & 15 for i in range(8)], 1)
        .reshape(-1, words.shape[1])
        .astype(np.uint64)
    )


def test_g_idx_beyond_the_groups_is_refused(tmp_path: Path) -> None:
    parts = c.pack_int(WEIGHT, bits=4, group=32, minus_one=True, g_idx=True)
    parts["g_idx"] = c.int32(np.full(128, 9))
    source, module = on_disk(tmp_path, parts)
    with pytest.raises(InputError, match="groups outside"):
        decode_block(source, module, whole(module), minus_one=True)


@pytest.mark.parametrize("lost", ["scales", "qzeros", "qweight"])
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, lost: str) -> None:
    parts = c.pack_int(WEIGHT, bits=4, group=32, minus_one=True, g_idx=False)
    bad = parts[lost]
    parts[lost] = c.Tensor(bad.dtype, (bad.shape[0], bad.shape[1] // 2), bad.data[: len(bad.data) // 2])
    source, module = on_disk(tmp_path, parts)
    assert not module.sound
    with pytest.raises(InputError, match="fit together"):
        decode_block(source, module, whole(module), minus_one=True)


# ── conventions ────────────────────────────────────────────────────────────────────────────


def test_conventions_are_told_by_bytes() -> None:
    assert midpoints(4) == (0x77777777, 0x88888888)
    assert midpoints(8) == (0x7F7F7F7F, 0x80808080)
    for bits in (4, 8):
        low, high = midpoints(bits)
        assert zeros_of(np.full(9, low, np.uint32), bits) == "minus_one"
        assert zeros_of(np.full(9, high, np.uint32), bits) == "as_is"
        assert zeros_of(np.array([low, high], np.uint32), bits) == "undecided"
    assert zeros_of(np.array([], np.uint32), 4) == "undecided"


@pytest.mark.parametrize(
    ("config", "label"),
    [
        (None, "none"),
        ({"quant_method": "gptq"}, "gptq"),
        ({"quant_method": "gptq", "checkpoint_format": "gptq"}, "gptq"),
        ({"quant_method": "gptq", "checkpoint_format": "gptq_v2"}, "gptq_v2"),
        ({"quant_method": "gptq", "checkpoint_format": "bitblas"}, "unknown"),
        ({"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"}, "auto_round:auto_gptq"),
        ({"quant_method": "auto-round", "packing_format": "auto_round:gptqmodel"}, "auto_round"),
        ({"quant_method": "auto-round", "packing_format": "auto_round"}, "auto_round"),
        ({"quant_method": "auto-round", "packing_format": "auto_round:auto_awq"}, "unknown"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "unknown"),
        ({"quant_method": "awq"}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_labels(config: Any, label: str) -> None:
    assert label_of(config) == label


def test_the_packing_is_decided_by_bytes_and_the_label_gives_the_family() -> None:
    assert packing_of(["int"] * 3, {"a": "as_is", "b": "as_is", "c": "minus_one"}, "gptq") == "gptq_v2"
    assert packing_of(["int"], {"a": "minus_one"}, "auto_round") == "auto_round:auto_gptq"
    assert packing_of(["int"], {"a": "undecided"}, "gptq_v2") == "gptq_v2"
    assert packing_of(["nvfp4"], {}, "gptq") == "nvfp4"
    assert packing_of([], {}, "gptq") == "none"
    assert contradiction("gptq", "gptq_v2")
    assert not contradiction("gptq", "gptq")
    assert not contradiction("none", "gptq")


# ── element types ──────────────────────────────────────────────────────────────────────────


def test_e4m3_has_its_values() -> None:
    np.testing.assert_array_equal(numbers.E4M3[:127], c.e4m3_values().astype(np.float32))
    np.testing.assert_array_equal(numbers.E4M3[128:255], -c.e4m3_values().astype(np.float32))
    assert np.isnan(numbers.E4M3[[127, 255]]).all()
    assert numbers.E4M3[126] == 448


@settings(max_examples=200)
@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_bf16_rounds_to_nearest_even(values: list[float]) -> None:
    array32 = np.array(values, np.float32)
    back = numbers.decode(numbers.to_bf16(array32), "BF16")
    for value, got in zip(array32, back, strict=True):
        if np.isnan(value):
            assert np.isnan(got)
            continue
        low = (np.float32(value).view(np.uint32) & 0xFFFF0000).view(np.float32)
        step = (np.uint32(low.view(np.uint32)) + np.uint32(0x10000)).view(np.float32)
        assert got in (low, step)
        if np.isfinite(low) and np.isfinite(step):
            assert abs(float(got) - float(value)) <= min(
                abs(float(low) - float(value)), abs(float(step) - float(value))
            )


@pytest.mark.parametrize(("dtype", "kind"), [("F16", "<f2"), ("F32", "<f4"), ("F64", "<f8")])
def test_plain_floats_decode(dtype: str, kind: str) -> None:
    values = np.array([1.5, -2, 0], kind)
    np.testing.assert_array_equal(numbers.decode(values.tobytes(), dtype), values.astype(np.float32))


def test_other_types_are_no_floats() -> None:
    with pytest.raises(ValueError, match="I32"):
        numbers.decode(b"\0" * 4, "I32")
