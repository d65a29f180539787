"""Safetensors headers: what is read, what is reported, what is refused, and that nothing else happens."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import checkpoints as c
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bot.checkpoint.documents import MAX_DEPTH, parse_object
from bot.checkpoint.folder import FolderSource
from bot.checkpoint.headers import parse_header, read_shard
from bot.checkpoint.index import INDEX_NAME, read_index
from bot.checkpoint.reading import read_checkpoint
from bot.errors import InputError


def header(**tensors: Any) -> bytes:
    return json.dumps(tensors).encode()


def tensor(dtype: str = "U8", shape: Any = (4,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def parse(data: bytes, size: int | None = None) -> Any:
    return parse_header(
        data, file="x.safetensors", size_bytes=8 + len(data) + 8 if size is None else size, where="x"
    )


def test_reads_names_types_and_places() -> None:
    data = header(__metadata__={"format": "pt"}, a=tensor(), b=tensor("BF16", (2, 1), (4, 8)))
    shard = parse(data)
    assert shard.metadata == {"format": "pt"}
    assert [(t.name, t.dtype, t.shape, t.num_bytes) for t in shard.tensors] == [
        ("a", "U8", (4,), 4),
        ("b", "BF16", (2, 1), 4),
    ]
    assert shard.tensors[0].start == 8 + len(data)
    assert not shard.truncated
    assert not shard.overlap


def test_empty_tensors_take_no_place() -> None:
    shard = parse(header(a=tensor("F32", (0, 5), (0, 0)), b=tensor("U8", (8,), (0, 8))))
    assert (shard.truncated, shard.overlap) == ("", "")


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"a": tensor("F17")}, "unknown dtype"),
        ({"a": tensor(7)}, "unknown dtype"),
        ({"a": tensor("U8", (-4,))}, "natural numbers"),
        ({"a": tensor("U8", (True, 4))}, "natural numbers"),
        ({"a": tensor("U8", (2.0, 2))}, "natural numbers"),
        ({"a": tensor("U8", (5,))}, "does not fill"),
        ({"a": tensor("U8", (2**62, 2**62), (0, 4))}, "does not fill"),
        ({"a": tensor("U8", (4,), (4, 0))}, "no range"),
        ({"a": tensor("U8", (4,), (0, 4, 8))}, "no range"),
        ({"a": {"dtype": "U8", "shape": [4]}}, "lacks"),
        ({"a": [1]}, "lacks"),
        ({"__metadata__": {"n": 1}}, "mapping of strings"),
        ({"__metadata__": "pt"}, "mapping of strings"),
    ],
)
def test_a_header_that_cannot_be_believed_is_refused(tensors: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse(header(**tensors))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"nonsense",
        b'{"a": 1',
        b"\xff\xfe{}",
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"9" * 5000,
        b'{"a":[' + b"[]," * 3_000_000 + b"[]]}",
        b'{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},'
        b' "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}',
    ],
)
def test_bombs_and_garbage_are_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        parse(data)


def test_depth_is_bounded() -> None:
    deep = '{"a":' * (MAX_DEPTH - 2) + "1" + "}" * (MAX_DEPTH - 2)
    assert parse_object(deep.encode(), where="x")
    deeper = '{"a":' * (MAX_DEPTH + 2) + "1" + "}" * (MAX_DEPTH + 2)
    with pytest.raises(InputError, match="levels"):
        parse_object(deeper.encode(), where="x")


@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_another_length_is_reported_not_refused(change: int) -> None:
    data = header(a=tensor(), b=tensor(offsets=(4, 8)))
    shard = parse(data, 8 + len(data) + 8 + change)
    assert shard.truncated
    assert shard.cut == ({"b"} if change < 0 else set())


def test_overlaps_and_holes_are_reported_not_refused() -> None:
    overlap = parse(header(a=tensor(offsets=(0, 4)), b=tensor(offsets=(2, 6))), size=None)
    assert "2 bytes inside a" in overlap.overlap
    assert overlap.overlapping == {"a", "b"}
    hole = parse(header(a=tensor(offsets=(0, 4)), b=tensor(offsets=(6, 10))))
    assert "2 bytes before b" in hole.overlap
    assert not hole.overlapping


@pytest.mark.parametrize("length", [0, 1, 1 << 20, (1 << 63) + 5, (1 << 64) - 1])
def test_a_lying_header_length_is_refused(tmp_path: Path, length: int) -> None:
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", length) + b'{"a":{}}  ')
    with pytest.raises(InputError):
        read_shard(FolderSource(tmp_path), "x.safetensors")


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_random_headers_give_typed_errors_only(data: bytes) -> None:
    try:
        shard = parse(data)
    except InputError:
        pass
    else:
        assert all(t.end - t.start == t.num_bytes >= 0 for t in shard.tensors)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_specs = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "BF16", "F4", "I32", "XX"]) | _values,
        "shape": st.lists(st.integers(-1, 2**64), max_size=3) | _values,
        "data_offsets": st.lists(st.integers(-1, 2**64), min_size=2, max_size=2) | _values,
    }
)


@settings(max_examples=300)
@given(st.dictionaries(st.text(max_size=8), _specs | _values, max_size=4), st.integers(0, 4096))
def test_well_formed_json_gives_typed_errors_only(content: dict[str, Any], size: int) -> None:
    try:
        shard = parse(json.dumps(content).encode(), size)
    except InputError:
        pass
    else:
        assert all(t.end - t.start == t.num_bytes >= 0 for t in shard.tensors)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_checkpoint_never_gives_a_traceback(tmp_path: Path, data: st.DataObject) -> None:
    """Flip or cut bytes of a small real file: the reader answers, or says InputError."""
    folder = tmp_path / "one"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    c.write_safetensors(folder / "model.safetensors", {"a": c.bf16(np.ones(4)), "b": c.f32(1.0)})
    raw = bytearray((folder / "model.safetensors").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (folder / "model.safetensors").write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        found = read_checkpoint(FolderSource(folder))
    except InputError:
        pass
    else:
        assert found.shards


def write_index(folder: Path, content: Any) -> FolderSource:
    (folder / INDEX_NAME).write_text(content if isinstance(content, str) else json.dumps(content))
    return FolderSource(folder)


def test_an_index_is_read_and_outside_paths_are_named(tmp_path: Path) -> None:
    weight_map = {
        "a": "m.safetensors",
        "b": "../x.safetensors",
        "c": "/etc/passwd",
        "d": "C:\\x",
        "e": "a/../../b",
    }
    index = read_index(write_index(tmp_path, {"metadata": {"total_size": 4}, "weight_map": weight_map}))
    assert index is not None
    assert index.total_size == 4
    assert index.inside == {"m.safetensors"}
    assert set(index.outside) == set(weight_map.values()) - {"m.safetensors"}


@pytest.mark.parametrize("content", ["[]", "{}", "nope", {"weight_map": []}, {"weight_map": {"a": 1}}])
def test_an_index_that_is_none_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(InputError):
        read_index(write_index(tmp_path, content))


def test_metadata_of_an_index_may_be_missing(tmp_path: Path) -> None:
    index = read_index(write_index(tmp_path, {"weight_map": {}}))
    assert index is not None
    assert index.total_size is None
