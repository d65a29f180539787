"""Safetensors headers, read defensively.

A file is: eight bytes, little-endian, the length N of the header; N bytes of JSON; the data.
The JSON maps each tensor's name to `dtype`, `shape` and `data_offsets` [start, end) in the data.
(Format: safetensors 0.8, `safetensors/src/tensor.rs`, which demands offsets without hole or overlap
that end exactly where the file ends, and a header of at most 100 MB.)

Two kinds of fault are told apart. A header that cannot be believed (no JSON, an unknown dtype, a
shape that does not fill its offsets) is InputError: nothing after it means anything. A header
that is sound over data that is not (cut short, overlapping) is a `Shard` with `faults`: the
audit reports it and goes on.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from math import prod

from bot.checkpoint.documents import parse_object
from bot.checkpoint.files import Source, entry_of
from bot.errors import InputError

MAX_HEADER_BYTES = 32 << 20
FIRST_READ_BYTES = 512 << 10
# Element width in bits; F4 and F6 are packed without padding.
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of one file; `start` and `end` are absolute offsets in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int
    file: str

    @property
    def num_bytes(self) -> int:
        return self.end - self.start

    @property
    def num_elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One safetensors file: its tensors in header order, and what is wrong with its data."""

    file: str
    size_bytes: int
    data_start: int
    tensors: tuple[TensorEntry, ...]
    metadata: dict[str, str]
    truncated: str = ""
    overlap: str = ""
    cut: frozenset[str] = field(default_factory=frozenset)
    overlapping: frozenset[str] = field(default_factory=frozenset)


def read_shard(source: Source, path: str) -> Shard:
    """The header of `path`: one read for most files, two when the header is larger than the first guess."""
    size = entry_of(source, path).size_bytes
    where = f"{source.label}: {path}"
    if size < 10:
        raise _unbelievable(f"the file has {size} bytes, too few for a header", where)
    first = source.read(path, 0, min(size, FIRST_READ_BYTES) if source.remote else 8)
    (length,) = struct.unpack("<Q", first[:8])
    if length > size - 8:
        raise _unbelievable(f"the header claims {length:,} bytes, the file has {size:,}", where)
    if length > MAX_HEADER_BYTES:
        raise _unbelievable(
            f"the header claims {length:,} bytes; at most {MAX_HEADER_BYTES:,} are read", where
        )
    have = first[8 : 8 + length]
    header = have + source.read(path, 8 + len(have), length - len(have)) if len(have) < length else have
    return parse_header(header, file=path, size_bytes=size, where=where)


def parse_header(header: bytes, *, file: str, size_bytes: int, where: str) -> Shard:
    """The `Shard` that the JSON bytes `header` describe, for a file of `size_bytes`."""
    content = parse_object(header, where=where, unique=True)
    metadata = _metadata(content.pop("__metadata__", {}), where)
    data_start = 8 + len(header)
    tensors = tuple(_tensor(name, spec, data_start, file, where) for name, spec in content.items())
    return _placed(tensors, file, size_bytes, data_start, metadata)


def _metadata(value: object, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise _unbelievable("__metadata__ is not a mapping of strings", where)
    return value


def _tensor(name: str, spec: object, data_start: int, file: str, where: str) -> TensorEntry:
    if not isinstance(spec, dict) or set(spec) != {"dtype", "shape", "data_offsets"}:
        raise _unbelievable(f"tensor {name[:200]!r} lacks dtype, shape or data_offsets", where)
    dtype, shape, offsets = spec["dtype"], spec["shape"], spec["data_offsets"]
    bits = DTYPE_BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise _unbelievable(f"tensor {name[:200]!r}: unknown dtype {dtype!r}"[:300], where)
    if not _naturals(shape) or len(shape) > 16:
        raise _unbelievable(
            f"tensor {name[:200]!r}: shape {shape!r} is not made of natural numbers"[:300], where
        )
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _unbelievable(f"tensor {name[:200]!r}: data_offsets {offsets!r} are no range"[:300], where)
    start, end = offsets
    if prod(shape) * bits != (end - start) * 8:
        raise _unbelievable(
            f"tensor {name[:200]!r}: {dtype} of shape {shape} does not fill its {end - start:,} bytes", where
        )
    return TensorEntry(name, dtype, tuple(shape), data_start + start, data_start + end, file)


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in value)


def _placed(
    tensors: tuple[TensorEntry, ...], file: str, size_bytes: int, data_start: int, metadata: dict[str, str]
) -> Shard:
    """The shard, with holes, overlaps and missing bytes noted."""
    overlap, overlapping, at = "", set(), data_start
    previous = ""
    for each in sorted(tensors, key=lambda t: (t.start, t.end)):
        if each.start < at:
            overlap = overlap or f"{each.name} starts {at - each.start:,} bytes inside {previous}"
            overlapping |= {each.name, previous}
        elif each.start > at:
            overlap = overlap or f"{each.start - at:,} bytes before {each.name} belong to no tensor"
        if each.end >= at:
            at, previous = each.end, each.name
    truncated = ""
    if at > size_bytes:
        truncated = f"it has {size_bytes:,} bytes, its header promises {at:,}"
    elif at < size_bytes and not overlap:
        truncated = f"{size_bytes - at:,} bytes follow the last tensor that its header names"
    return Shard(
        file=file,
        size_bytes=size_bytes,
        data_start=data_start,
        tensors=tensors,
        metadata=metadata,
        truncated=truncated,
        overlap=overlap,
        cut=frozenset(t.name for t in tensors if t.end > size_bytes),
        overlapping=frozenset(overlapping - {""}),
    )


def _unbelievable(what: str, where: str) -> InputError:
    return InputError(
        what,
        where=where,
        why="the file is damaged, cut short, or no safetensors file",
        fix="copy or download it again",
    )
