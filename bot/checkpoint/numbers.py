"""Bytes to float32, in NumPy, for the element types that checkpoints hold.

BF16 is the upper half of a float32, so it is widened by a shift. FP8 (E4M3FN: bias 7, no infinity,
NaN is 0x7F and 0xFF) and FP4 (E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and a sign bit) have so few values
that a table of them is the definition. (OCP Microscaling Formats v1.0, section 5.3.)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]

E2M1: Floats = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def _e4m3_table() -> Floats:
    code = np.arange(256)
    exponent, mantissa = (code >> 3) & 15, code & 7
    size = np.where(exponent == 0, mantissa * 2.0**-9, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
    value = np.where(code & 128, -size, size)
    value[(code & 127) == 127] = np.nan
    return value.astype(np.float32)


E4M3: Floats = _e4m3_table()


def decode(data: bytes, dtype: str) -> Floats:
    """`data` as float32, flat. ValueError for a dtype that is no float."""
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    if dtype == "F8_E4M3":
        return E4M3[np.frombuffer(data, np.uint8)]
    if dtype in ("F16", "F32", "F64"):
        return np.frombuffer(data, {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]).astype(np.float32)
    raise ValueError(f"{dtype} is not a float type that is read here")


def to_bf16(values: Floats) -> bytes:
    """float32 to BF16 bytes, rounded to nearest, ties to even, as torch does."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    nan = np.isnan(values)
    return np.where(nan, np.uint32(0x7FC0), rounded).astype("<u2").tobytes()


def nibbles(data: Bytes) -> Bytes:
    """uint8 [..., n] to its 4-bit halves [..., 2n], low half first."""
    halves = np.empty((*data.shape, 2), np.uint8)
    halves[..., 0], halves[..., 1] = data & 15, data >> 4
    return halves.reshape(*data.shape[:-1], -1)


def unpack_rows(words: Words, bits: int) -> Bytes:
    """uint32 [r, c] to its values [r * 32 / bits, c]: values run down the rows, low bits first."""
    fields = words.view(np.uint8).reshape(*words.shape, 4)
    parts = nibbles(fields) if bits == 4 else fields
    return np.ascontiguousarray(parts.transpose(0, 2, 1)).reshape(-1, words.shape[1])


def unpack_columns(words: Words, bits: int) -> Bytes:
    """uint32 [r, c] to its values [r, c * 32 / bits]: consecutive values run along a row, low bits first."""
    fields = words.view(np.uint8).reshape(words.shape[0], -1)
    return nibbles(fields) if bits == 4 else fields
