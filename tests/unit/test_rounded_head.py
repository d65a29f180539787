"""The rounded MTP head: its values against the naive oracles, and nothing else of the checkpoint changed."""

from __future__ import annotations

from pathlib import Path

import checkpoints as c
import numpy as np
import pytest

from bot.checkpoint import numbers
from bot.demo.rehearsal import FIXTURE
from bot.errors import InputError
from tests.bench import rounded_head
from tests.oracles import int4, nvfp4

HEAD = {name: t for name, t in c.read_all(FIXTURE).items() if name.startswith("mtp.")}
LAYER = {name for name, t in HEAD.items() if len(t.shape) == 2} - {rounded_head.FC}


def weights(seed: int, out: int = 24, width: int = 256) -> np.ndarray:
    """Groups of very different sizes, one of zeros, and one row with a single large weight."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((out, width)) * np.exp(rng.standard_normal((out, 1)) * 2)
    w[3, :128], w[5, 7] = 0, 40
    return w.astype(np.float32)


@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_integers_are_what_the_oracle_reads_out_of_the_packed_words(group_size: int) -> None:
    w = weights(group_size)
    scales = (np.abs(w.reshape(24, -1, group_size)).max(2).astype(np.float64) / 7.5).astype(np.float16)
    wide = np.repeat(scales.astype(np.float64), group_size, axis=1)
    codes = np.clip(np.rint(np.divide(w, wide, out=np.zeros(w.shape), where=wide > 0)) + 8, 0, 15)
    read = int4.dequantized(
        int4.packed(codes.astype(np.int64)),
        int4.packed_zeros(np.full(scales.shape, 8)),
        np.ascontiguousarray(scales.T),
        np.arange(256) // group_size,
    )
    found = rounded_head.rounded(w, packing="gptq", group_size=group_size)
    np.testing.assert_array_equal(found, read)
    assert len(np.unique(found[0, :group_size])) <= 16
    assert (np.abs(found - w) <= 0.505 * wide).all()  # half a step, and what FP16 rounds of the scale


def test_nvfp4_is_what_the_oracle_makes_and_reads() -> None:
    w = weights(1)
    np.testing.assert_allclose(
        rounded_head.rounded(w, packing="nvfp4", group_size=16),
        nvfp4.dequantized(*nvfp4.quantized(w)),
        rtol=1e-6,
    )


@pytest.mark.parametrize(("packing", "group_size"), [("gptq", 128), ("nvfp4", 16)])
def test_zeros_stay_zeros(packing: str, group_size: int) -> None:
    w = np.zeros((8, 128), np.float32)
    np.testing.assert_array_equal(rounded_head.rounded(w, packing=packing, group_size=group_size), w)


def test_a_row_that_groups_do_not_fill_is_an_error() -> None:
    with pytest.raises(InputError, match="no groups of 128"):
        rounded_head.rounded(np.ones((4, 192), np.float32), packing="gptq", group_size=128)


@pytest.mark.parametrize(
    ("packing", "group_size"), [("gptq", 32), ("gptq", 128), ("auto_round:auto_gptq", 128), ("nvfp4", 16)]
)
def test_the_bytes_of_a_packed_matrix_are_those_that_it_has(packing: str, group_size: int) -> None:
    options = {} if packing == "nvfp4" else {"group": group_size}
    parts = c.pack(np.ones((24, 256), np.float32), packing, **options)
    expected = sum(len(part.data) for part in parts.values())
    assert rounded_head.packed_bytes((24, 256), packing=packing, group_size=group_size) == expected


@pytest.mark.parametrize("fc", [False, True])
def test_only_the_heads_matrices_change(tmp_path: Path, fc: bool) -> None:
    before = c.read_all(FIXTURE)
    entries = rounded_head.write(FIXTURE, tmp_path / "x", packing="gptq", group_size=32, fc=fc)
    after = c.read_all(tmp_path / "x")
    wanted = LAYER | ({rounded_head.FC} if fc else set())
    assert len(LAYER) == 7
    assert {name for name in before if after[name] != before[name]} == {e.name for e in entries} == wanted
    assert c.read_all(FIXTURE) == before
    for name in wanted:
        own = rounded_head.rounded(c.floats(before[name]), packing="gptq", group_size=32)
        assert after[name].data == numbers.to_bf16(own)
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == sorted(p.name for p in FIXTURE.iterdir())


def test_a_head_of_zero_tensors_or_of_another_type_is_an_error(tmp_path: Path) -> None:
    bare = c.make_base(tmp_path / "bare", mtp=False)
    with pytest.raises(InputError, match="there are none"):
        rounded_head.linears(bare, fc=True)
    packed = c.make_base(tmp_path / "packed")
    tensors = c.read_all(packed)
    name = "mtp.layers.0.mlp.up_proj.weight"
    half = c.Tensor("F16", tensors[name].shape, tensors[name].data)
    for path in [*packed.glob("*.safetensors"), packed / "model.safetensors.index.json"]:
        path.unlink()
    c.write_shards(packed, tensors | {name: half}, 2)
    with pytest.raises(InputError, match=r"not in BF16: mtp\.layers\.0\.mlp\.up_proj"):
        rounded_head.linears(packed, fc=False)
