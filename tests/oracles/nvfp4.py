"""NVFP4: E2M1 values, an E4M3 scale for each block of 16, an FP32 scale a tensor.

scale_2 = max|W| / (6 · 448), so that the largest block's scale is E4M3's largest number. A block's scale is
its largest magnitude / 6 / scale_2, as the nearest E4M3 number (ties to even), at least the smallest one,
2⁻⁹; 1 for a block of zeros. Each weight over both scales becomes the nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6
with its sign, ties to the code that is even. Code: sign bit, then the index; two codes a byte, the first in
the low half.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

Array = np.ndarray
VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def e4m3_numbers() -> list[float]:
    """Every finite E4M3 number from 0 on, by code: 4 bits of exponent (bias 7), 3 of mantissa; 127 is NaN."""
    found = []
    for code in range(127):
        exponent, mantissa = code >> 3, code & 7
        found.append(mantissa * 2.0**-9 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))
    return found


E4M3 = e4m3_numbers()


def nearest(value: float, numbers: tuple[float, ...] | list[float]) -> int:
    """Index of the nearest of ascending `numbers`; of two equally near the even one."""
    distances = [abs(value - each) for each in numbers]
    best = min(distances)
    return min((i for i, each in enumerate(distances) if each == best), key=lambda i: (i % 2, i))


def quantized(w: Array) -> tuple[Array, Array, np.float32]:
    """Bytes [out, in/2], scales' E4M3 codes [out, in/16], and the tensor's scale, of w float32."""
    scale_2 = np.float32(np.float32(np.abs(w).max()) / np.float32(6 * 448))
    codes = np.zeros(w.shape, dtype=np.uint8)
    scales = np.zeros((w.shape[0], w.shape[1] // 16), dtype=np.uint8)
    for row in range(w.shape[0]):
        for block in range(scales.shape[1]):
            here = slice(block * 16, block * 16 + 16)
            scale = np.float32(np.float32(np.abs(w[row, here]).max()) / np.float32(np.float32(6) * scale_2))
            scales[row, block] = nearest(min(max(float(scale) or 1.0, 2.0**-9), 448.0), E4M3)
            divisor = np.float32(np.float32(E4M3[scales[row, block]]) * scale_2)
            for column in range(here.start, here.stop):
                value = np.float32(w[row, column] / divisor)
                codes[row, column] = (8 if value < 0 else 0) + nearest(abs(float(value)), VALUES)
    return codes[:, 0::2] | codes[:, 1::2] << 4, scales, scale_2


def dequantized(packed: Array, scales: Array, scale_2: np.float32) -> Array:
    """W [out, in] in float64."""
    w = np.zeros((packed.shape[0], packed.shape[1] * 2))
    for row in range(w.shape[0]):
        for column in range(w.shape[1]):
            code = int(packed[row, column // 2]) >> 4 * (column % 2) & 15
            sign = -1 if code & 8 else 1
            w[row, column] = sign * VALUES[code & 7] * E4M3[int(scales[row, column // 16])] * float(scale_2)
    return w


def at_scales(w: Array, scales: Array, scale_2: float) -> Array:
    """w [out, in] rounded to the nearest value at the given scales' E4M3 codes [out, in/16], in float64."""
    q = np.zeros(w.shape)
    for row in range(w.shape[0]):
        for column in range(w.shape[1]):
            scale = E4M3[int(scales[row, column // 16])] * float(scale_2)
            code = nearest(abs(float(w[row, column])) / scale, VALUES)
            q[row, column] = VALUES[code] * scale * (-1 if w[row, column] < 0 else 1)
    return q


def block_errors(w: Array, q: Array, moments: Array | None = None) -> Array:
    """dᵀ M d of each block's error d, [out, in/16]; M [in, in] of the inputs, or the plain square."""
    errors = np.zeros((w.shape[0], w.shape[1] // 16))
    for block in range(errors.shape[1]):
        here = slice(block * 16, block * 16 + 16)
        d = (q - w.astype(np.float64))[:, here]
        m = np.eye(16) if moments is None else moments[here, here].astype(np.float64)
        errors[:, block] = np.einsum("ri,ij,rj->r", d, m, d)
    return errors


def least_errors(w: Array, scale_2: float, moments: Array | None = None) -> Array:
    """The least error [out, in/16] that any positive E4M3 number as the block's scale gives."""
    shape = (w.shape[0], w.shape[1] // 16)
    every = [np.full(shape, code, dtype=np.uint8) for code in range(1, 127)]
    return np.min([block_errors(w, at_scales(w, each, scale_2), moments) for each in every], axis=0)


def compensated(
    w: Array, scales: Array, scale_2: float, moments: Array, damp: float
) -> tuple[Array, Array, Array]:
    """GPTQ without blocks or Cholesky: q [out, in], how near each value was to a border of codes, the order.

    Columns by falling second moment. With R the columns left and G = (H_RR)⁻¹, the first of them is rounded
    and the others take −(w_0 − q_0) · G_0k / G_00, which makes the output's error least (the brain surgeon).
    """
    h = moments.astype(np.float64)
    h = h + damp * np.diag(h).mean() * np.eye(len(h))
    order = np.argsort(-np.diag(moments), kind="stable")
    left, q, margin = w.astype(np.float64).copy(), np.zeros(w.shape), np.zeros(w.shape)
    borders = np.array([(a + b) / 2 for a, b in pairwise(VALUES)])
    for at, column in enumerate(order):
        scale = np.array([E4M3[int(code)] for code in scales[:, column // 16]]) * float(scale_2)
        value = left[:, column] / scale
        margin[:, column] = np.abs(np.abs(value)[:, None] - borders).min(axis=1)
        rounded = np.array([VALUES[nearest(abs(float(each)), VALUES)] for each in value])
        q[:, column] = np.where(value < 0, -rounded, rounded) * scale
        rest = order[at:]
        g = np.linalg.inv(h[np.ix_(rest, rest)])
        error = left[:, column] - q[:, column]
        left[:, rest[1:]] -= np.outer(error, g[0, 1:] / g[0, 0])
    return q, margin, order
