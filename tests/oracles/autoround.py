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


def searched(w: Array, group_size: int) -> Array:
    """SignRound V2's first scales [out, groups], float32: of 201 about the largest magnitude / 8, the best.

    Best is the least squared error of the group; the largest magnitude becomes a code from −14 to −2 before
    it is clipped.
    """
    grouped = w.reshape(w.shape[0], -1, group_size)
    found = np.zeros(grouped.shape[:2], dtype=np.float32)
    for at in np.ndindex(*found.shape):
        group = grouped[at]
        largest = group[np.abs(group).argmax()]
        inverses = [np.float32(-(8 - 0.06 * step)) / largest for step in [0, *range(-100, 101)]]
        losses = [
            np.square(np.clip(np.round(inverse * group), -8, 7) / inverse - group).sum()
            for inverse in inverses
        ]
        found[at] = 1 / inverses[int(np.argmin(losses))]
    return np.where(found < 0, np.minimum(found, -LEAST_SCALE), np.maximum(found, LEAST_SCALE))


def trained_v2(
    w: Array, x: Array, targets: Array, group_size: int, iterations: int
) -> tuple[Array, Array, list[float]]:
    """As `trained`, by SignRound V2: one factor a group, from 0 to 2, on the scale that was searched for."""
    first = searched(w, group_size)
    v, factor = np.zeros(w.shape), np.ones(first.shape)
    losses: list[float] = []
    best = (v, factor)
    for step in range(iterations):
        factor = np.clip(factor, 0, 2)
        codes, scales = _at(w, v, first, factor, group_size)
        away = x @ _values(codes, scales, group_size).T - targets
        losses.append(float(np.square(away).mean()))
        if losses.index(min(losses)) == step:
            best = (v, factor)
        rate = (1 - step / iterations) / iterations
        of_v, of_scale = _gradients(w, v, codes, scales, away.T @ x, group_size)
        v, factor = v - rate * np.sign(of_v), factor - rate * np.sign(of_scale * first)
    return (*_at(w, best[0], first, best[1], group_size), losses)


def _at(w: Array, v: Array, first: Array, factor: Array, group_size: int) -> tuple[Array, Array]:
    scales = (first * factor.astype(np.float32)).astype(np.float16)
    wide = np.repeat(scales.astype(np.float32), group_size, axis=1)
    return np.clip(np.round((w / wide + v).astype(np.float32)), -8, 7).astype(np.int64) + 8, scales


def trained(
    w: Array, x: Array, targets: Array, group_size: int, iterations: int
) -> tuple[Array, Array, list[float]]:
    """Codes 0 to 15 [out, in], fp16 scales [out, groups], and each step's loss, of AutoRound's training.

    One matrix w [out, in] is the layer: its outputs on x [tokens, in] are drawn to targets [tokens, out].
    Signed gradients of the mean squared error, rounding being passed through as if it were not there (STE);
    the step falls from 1 / iterations to 0; the best step's values are kept, as they were before its update.
    """
    shape = (w.shape[0], w.shape[1] // group_size)
    v, factors = np.zeros(w.shape), {"low": np.ones(shape), "high": np.ones(shape)}
    losses: list[float] = []
    best = (v, dict(factors))
    for step in range(iterations):
        factors = {name: np.clip(each, 0, 1) for name, each in factors.items()}
        codes, scales = rounded(w, v, factors["low"], factors["high"], group_size)
        away = x @ _values(codes, scales, group_size).T - targets
        losses.append(float(np.square(away).mean()))
        if losses.index(min(losses)) == step:
            best = (v, dict(factors))
        gradient = away.T @ x  # of the values; a positive factor is no other sign
        rate = (1 - step / iterations) / iterations
        of_v, of_scale = _gradients(w, v, codes, scales, gradient, group_size)
        negative = scales < 0  # the scale comes from the largest value, else from the smallest
        v = v - rate * np.sign(of_v)
        factors["high"] = factors["high"] - rate * np.sign(np.where(negative, -of_scale, 0))
        factors["low"] = factors["low"] - rate * np.sign(np.where(negative, 0, of_scale))
    codes, scales = rounded(w, best[0], best[1]["low"], best[1]["high"], group_size)
    return codes, scales, losses


def _values(codes: Array, scales: Array, group_size: int) -> Array:
    return (codes - 8) * np.repeat(scales.astype(np.float64), group_size, axis=1)


def _gradients(
    w: Array, v: Array, codes: Array, scales: Array, gradient: Array, group_size: int
) -> tuple[Array, Array]:
    """Of the offsets [out, in], and of each group's scale [out, groups]."""
    wide = np.repeat(scales.astype(np.float64), group_size, axis=1)
    moved = np.round(w / wide + v)
    inside = (moved >= -8) & (moved <= 7)
    of_v = gradient * wide * inside
    of_wide = gradient * ((codes - 8) - inside * w / wide)
    return of_v, of_wide.reshape(*scales.shape, group_size).sum(axis=2)
