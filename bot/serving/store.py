"""What the base said, kept for every release that is compared with it: one safetensors file.

Written while the base is scored, row by row into a file of this run's own, so that memory does not grow with
the set; the file takes its name only when it is whole. All releases of a base share it, and two of them may
score the base at once: each writes its own file, and the last to end leaves its own whole. Its metadata says
what it is: which base, which tokens, which engine. A store is used for a comparison only when all of that is
as expected: log-probabilities of another engine build differ by more than a good quantization does. The base
is known by its fingerprint: the same files under another name are the same base.

Rows are positions, T of them: window after window, each without its first token. Two kinds:

    full          logprobs F32 [T, V]                    as long as that is at most 256 MiB
    lower_bound   ids I32 [T, k], logprobs F32 [T, k]    the base's k most likely tokens, most likely first

and in both `nll` F64 [T], the loss of the token that stands there.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import escape
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from bot.errors import Refused
from bot.models import CommitSha, Model, Sha256

Kind = Literal["full", "lower_bound"]
MAX_FULL_BYTES = 256 * 2**20
TOP_K = 128
LEFTOVER_S = 86_400.0
_DTYPES: dict[str, np.dtype[Any]] = {"F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "I32": np.dtype("<i4")}


class Identity(Model):
    """What a store is of; a comparison asks for exactly this, save the base's name, which is for people."""

    base: str
    base_fingerprint: Sha256
    dataset: str
    revision: CommitSha
    config: str
    split: str
    window_tokens: int
    divergence_tokens: int
    engine: str
    environment_digest: Sha256


class Contents(Model):
    """What is in it. `tokens_sha256` is over the ids of all windows, as the base's tokenizer gave them."""

    kind: Kind
    k: int
    vocab_size: int
    num_windows: int
    num_rows: int
    tokens_sha256: Sha256


@dataclass(frozen=True, kw_only=True)
class Store:
    """An open store; arrays are read from the file as they are sliced."""

    identity: Identity
    contents: Contents
    arrays: dict[str, NDArray[Any]]


def kind_for(num_rows: int, vocab_size: int, *, max_full_bytes: int) -> tuple[Kind, int]:
    """How much of the base's distribution is kept, and for how many tokens a position."""
    if num_rows * vocab_size * 4 <= max_full_bytes:
        return "full", vocab_size
    return "lower_bound", min(TOP_K, vocab_size)


def _layout(contents: Contents) -> dict[str, tuple[str, tuple[int, ...]]]:
    rows, k = contents.num_rows, contents.k
    ids = {"ids": ("I32", (rows, k))} if contents.kind == "lower_bound" else {}
    return {"nll": ("F64", (rows,)), "logprobs": ("F32", (rows, k)), **ids}


# ── writing ────────────────────────────────────────────────────────────────────────────────


@contextmanager
def writing(path: Path, identity: Identity, contents: Contents) -> Iterator[dict[str, NDArray[Any]]]:
    """The store's arrays, to be filled; the file gets its name when the block ends without an error."""
    with replacing(path) as partial:
        arrays = _mapped(partial, _layout(contents), _metadata(identity, contents))
        yield dict(arrays)
        for array in arrays.values():
            array.flush()
        arrays.clear()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file beside `path`, no one else's; it becomes `path` when the block ends without an error.

    What a killed run left of the same file is removed once nothing was written to it for a day.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".partial")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o644)
        _sync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _remove_leftovers(path: Path) -> None:
    for each in path.parent.glob(f"{escape(path.name)}.*.partial"):
        with suppress(FileNotFoundError):  # its owner has just ended
            if time.time() - each.stat().st_mtime > LEFTOVER_S:
                each.unlink()


def _metadata(identity: Identity, contents: Contents) -> dict[str, str]:
    return {"identity": identity.model_dump_json(), "contents": contents.model_dump_json()}


def _mapped(
    path: Path, layout: dict[str, tuple[str, tuple[int, ...]]], metadata: dict[str, str]
) -> dict[str, np.memmap[Any, Any]]:
    """A new safetensors file of the full size, its arrays mapped."""
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape) in layout.items():
        start, end = end, end + prod(shape) * _DTYPES[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return {
        name: np.memmap(
            path,
            dtype=_DTYPES[dtype],
            mode="r+",
            offset=8 + len(text) + header[name]["data_offsets"][0],
            shape=shape,
        )
        for name, (dtype, shape) in layout.items()
    }


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


# ── reading ────────────────────────────────────────────────────────────────────────────────


def read(path: Path, expected: Identity) -> Store:
    """The store at `path`. Raises Refused when it is not of `expected`, or is damaged."""
    header, start = _header(path)
    try:
        metadata = header.pop("__metadata__")
        identity = Identity.model_validate_json(metadata["identity"])
        contents = Contents.model_validate_json(metadata["contents"])
    except (KeyError, TypeError, ValidationError) as e:
        raise _refused(path, f"it does not say what it is of ({type(e).__name__})") from e
    _require(path, identity, expected)
    layout = _layout(contents)
    stated = {name: (each.get("dtype"), tuple(each.get("shape", ()))) for name, each in header.items()}
    end = start + sum(prod(shape) * _DTYPES[dtype].itemsize for dtype, shape in layout.values())
    if stated != layout or path.stat().st_size != end:
        raise _refused(path, "its arrays are not those that it promises")
    arrays: dict[str, NDArray[Any]] = {}
    for name, (dtype, shape) in layout.items():
        arrays[name] = np.memmap(path, dtype=_DTYPES[dtype], mode="r", offset=start, shape=shape)
        start += prod(shape) * _DTYPES[dtype].itemsize
    return Store(identity=identity, contents=contents, arrays=arrays)


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The header, and where the data begins."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("a header longer than the file")
            header = json.loads(file.read(length))
            if not isinstance(header, dict):
                raise ValueError("a header that is no object")
            return header, 8 + length
    except (OSError, ValueError, struct.error) as e:
        raise _refused(path, f"it cannot be read: {e}") from e


def _require(path: Path, identity: Identity, expected: Identity) -> None:
    found, wanted = identity.model_dump(), expected.model_dump()
    if differ := [name for name in wanted if name != "base" and found[name] != wanted[name]]:
        words = "; ".join(f"{name} is {found[name]}, not {wanted[name]}" for name in differ)
        raise _refused(path, f"it is of something else: {words}")


def _refused(path: Path, why: str) -> Refused:
    return Refused(
        "the stored log-probabilities of the base cannot be used",
        where=str(path),
        why=why,
        fix="remove the file; the base is then scored again",
    )
