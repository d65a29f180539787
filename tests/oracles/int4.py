"""Packed integer weights as GPTQ's layout has them, word by word.

Eight codes of four bits make a word, the first in the lowest bits: along the inputs in `qweight` int32 [in/8,
out], along the outputs in `qzeros` int32 [groups, out/8], which holds the zero point minus one. `scales` fp16
[groups, out], `g_idx` int32 [in] the group of each input. w[o, i] = (code − (stored zero + 1)) · scale.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def packed(codes: Array) -> Array:
    """Codes [out, in] of 0 to 15 as `qweight`."""
    words = np.zeros((codes.shape[1] // 8, codes.shape[0]), dtype=np.uint32)
    for out in range(codes.shape[0]):
        for column in range(codes.shape[1]):
            words[column // 8, out] |= np.uint32(int(codes[out, column]) << 4 * (column % 8))
    return words.view(np.int32)


def packed_zeros(zeros: Array) -> Array:
    """Zero points [out, groups] of 1 to 16 as `qzeros`."""
    return packed((zeros - 1).T).T


def unpacked(words: Array) -> Array:
    """Codes [out, in] of `qweight`."""
    codes = np.zeros((words.shape[1], words.shape[0] * 8), dtype=np.int64)
    for out in range(codes.shape[0]):
        for column in range(codes.shape[1]):
            codes[out, column] = int(words.view(np.uint32)[column // 8, out]) >> 4 * (column % 8) & 15
    return codes


def dequantized(qweight: Array, qzeros: Array, scales: Array, g_idx: Array) -> Array:
    """W [out, in] in float64 of a packed module."""
    codes = unpacked(qweight)
    zeros = unpacked(np.ascontiguousarray(qzeros.T)).T + 1  # [out, groups]
    w = np.zeros(codes.shape)
    for out in range(w.shape[0]):
        for column in range(w.shape[1]):
            group = g_idx[column]
            w[out, column] = (codes[out, column] - zeros[out, group]) * float(scales[group, out])
    return w
