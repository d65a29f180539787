"""AutoRound's symmetric rounding (arXiv 2309.05516): full range, signed scales, learned offsets.

A group's largest magnitude M becomes code −8 or so: scale = ±M / 8, negative when the largest is on the
positive side, so that the code that only the negative side has is spent on it. Learned are V [out, in], added
before rounding, and two factors a group on its smallest and largest value. The scale is kept in fp16 and away
from zero by 1e-5; w = clip(round(w / scale + V), −8, 7) · scale. The stored code is that plus 8.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray
LEAST_SCALE = np.float32(1e-5)


def scale_of(group: Array, low_factor: float, high_factor: float) -> np.float16:
    """The scale of one group of weights, float32 in and fp16 out."""
    low = np.float32(-min(group.min(), np.float32(0)) * np.float32(low_factor))
    high = np.float32(max(group.max(), np.float32(0)) * np.float32(high_factor))
    largest = max(low, high) if high < low else -max(low, high)
    scale = np.float16(np.float32(largest) / np.float32(8))
    if scale < 0:
        return np.float16(min(scale, np.float16(-LEAST_SCALE)))
    return np.float16(max(scale, np.float16(LEAST_SCALE)))


def rounded(w: Array, v: Array, low: Array, high: Array, group_size: int) -> tuple[Array, Array]:
    """Codes 0 to 15 [out, in] and fp16 scales [out, groups]; `low`, `high` [out, groups]."""
    codes = np.zeros(w.shape, dtype=np.int64)
    scales = np.zeros((w.shape[0], w.shape[1] // group_size), dtype=np.float16)
    for row in range(w.shape[0]):
        for group in range(scales.shape[1]):
            here = slice(group * group_size, (group + 1) * group_size)
            scale = scale_of(w[row, here], low[row, group], high[row, group])
            scales[row, group] = scale
            for column in range(here.start, here.stop):
                moved = np.float32(w[row, column] / np.float32(scale) + v[row, column])
                codes[row, column] = min(max(int(np.round(moved)), -8), 7) + 8
    return codes, scales
