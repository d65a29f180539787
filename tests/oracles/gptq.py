"""GPTQ, GPTAQ and FOEM: rounding a layer column by column and moving each error onto the columns to come.

W [out, in] is to be rounded so that W X changes little, H = 2/n · X Xᵀ being the inputs' second moment (in ×
in). With U the upper Cholesky factor of the inverse of the damped H (H⁻¹ = Uᵀ U), column j has the error
e = (w_j − q_j) / U_jj, and every later column k takes −e · U_jk (GPTQ, arXiv 2210.17323). GPTAQ (arXiv
2504.02692) adds + w_j · P_jk for what earlier quantized layers changed in the inputs, P = alpha ·
triu(D Uᵀ, 1) U, D = Σ (native − x) xᵀ. FOEM (arXiv 2507.11017) draws each next column back towards the
original by beta and takes the same share out of the error.

There are no blocks here. Three flags put GPTQModel 7.6.0's deviations from that in, each of which comes
from its blocks of 128 columns: `stale_scales`, `foem_stops`, `gptaq_rounds`. Float64 throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Settings:
    bits: int = 4
    group_size: int = 32
    desc_act: bool = False
    static_groups: bool = False
    act_group_aware: bool = False
    damp_percent: float = 0.05
    mse: float = 0.0
    alpha: float = 0.0
    beta: float = 0.0
    block: int = 128
    stale_scales: bool = True
    foem_stops: bool = True
    gptaq_rounds: bool = True


@dataclass(frozen=True, kw_only=True)
class Result:
    """q [out, in] dequantized, codes [out, in], scale [out, groups], g_idx [in].

    `margin` [out, in] is how far each value was from the border of two codes, in codes; `order` [in] the
    columns as they were rounded.
    """

    q: Array
    codes: Array
    scale: Array
    g_idx: Array
    margin: Array
    order: Array


def scale_of(group: Array, settings: Settings) -> Array:
    """Symmetric scale [out] of a group [out, columns]: by its largest value, or the best of 80 smaller ones.

    The codes run from 0 to 2^bits − 1 around a zero point of 2^(bits − 1); the largest value takes half the
    span, so the scale is 2·max / (2^bits − 1). With `mse` the sum of |error|^mse decides among shrinkages of
    1.00, 0.99, … 0.21, the larger one where two are equal.
    """
    levels = 2**settings.bits - 1
    scales = np.zeros(len(group))
    for row, values in enumerate(group):
        largest = np.abs(values).max() or 1.0
        lowest = -largest if values.min() < 0 or not values.any() else 0.0
        best, scales[row] = np.inf, (largest - lowest) / levels
        for step in range(80 if settings.mse else 0):
            scale = (1 - step / 100) * (largest - lowest) / levels
            rounded = dequantized(code_of(values, scale, settings), scale, settings)
            error = np.abs(rounded - values) ** settings.mse
            if error.sum() < best:
                best, scales[row] = error.sum(), scale
    return scales


def code_of(values: Array, scale: Array | float, settings: Settings) -> Array:
    """The nearest code, ties to even."""
    return np.clip(np.round(values / scale) + 2 ** (settings.bits - 1), 0, 2**settings.bits - 1)


def dequantized(codes: Array, scale: Array | float, settings: Settings) -> Array:
    """w = (code − zero point) · scale."""
    return (codes - 2 ** (settings.bits - 1)) * scale


def order_of(diagonal: Array, settings: Settings) -> tuple[Array, Array]:
    """In which order the columns are rounded, and the group of each position.

    desc_act: the largest diagonal of H first, groups as they were. act_group_aware: so inside each group,
    and the groups by their largest diagonal.
    """
    columns, size = len(diagonal), settings.group_size
    if settings.desc_act:
        order = np.argsort(-diagonal, kind="stable")
        return order, (order // size if settings.static_groups else np.arange(columns) // size)
    if settings.act_group_aware:
        starts = sorted(range(0, columns, size), key=lambda start: -diagonal[start : start + size].max())
        order = np.concatenate(
            [start + np.argsort(-diagonal[start : start + size], kind="stable") for start in starts]
        )
        return order, order // size
    return np.arange(columns), np.arange(columns) // size


def update(w: Array, samples: list[Array], native: list[Array] | None, settings: Settings) -> Result:
    """Round W [out, in] on samples of inputs [tokens, in]; `native` are the same before any quantizing."""
    w = w.astype(np.float64).copy()
    x = np.concatenate(samples).astype(np.float64)
    h = x.T @ x
    dead = np.diag(h) == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    static = {
        start // settings.group_size: scale_of(w[:, start : start + settings.group_size], settings)
        for start in range(0, w.shape[1], settings.group_size)
    }
    order, groups = order_of(np.diag(h), settings)
    w, h = w[:, order], h[order][:, order]
    raw = w.copy()
    u = np.linalg.cholesky(np.linalg.inv(h + settings.damp_percent * np.diag(h).mean() * np.eye(len(h)))).T
    p = np.zeros_like(u)
    if settings.alpha:
        assert native is not None
        d = (np.concatenate(native).astype(np.float64) - x).T @ x
        d[:, dead] = 0
        p = settings.alpha * np.triu(d[order][:, order] @ u.T, 1) @ u
    codes, q, margin = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
    found: dict[int, Array] = dict(static) if settings.static_groups else {}
    at_block = w.copy()
    for j in range(w.shape[1]):
        if j % settings.block == 0:
            at_block = w.copy()
        end = min(j - j % settings.block + settings.block, w.shape[1])
        group = int(groups[j])
        if group not in found:
            source = at_block if settings.stale_scales else w
            found[group] = scale_of(source[:, j : j + settings.group_size], settings)
        codes[:, j] = code_of(w[:, j], found[group], settings)
        margin[:, j] = np.abs((w[:, j] / found[group]) % 1 - 0.5)
        q[:, j] = dequantized(codes[:, j], found[group], settings)
        before = w[:, j].copy()
        error = ((before - q[:, j]) - settings.beta * (before - raw[:, j])) / u[j, j]
        rounded = before - error * u[j, j]
        for k in range(j + 1, w.shape[1]):
            moved = rounded if settings.gptaq_rounds and k >= end else before
            w[:, k] += moved * p[j, k] - error * u[j, k]
        if j + 1 < w.shape[1] and not (settings.foem_stops and j + 1 == end):
            w[:, j + 1] -= settings.beta * (w[:, j + 1] - raw[:, j + 1])
    inverse = np.argsort(order)
    return Result(
        q=q[:, inverse],
        codes=codes[:, inverse],
        scale=np.stack([found[group] for group in sorted(found)], axis=1),
        g_idx=groups[inverse],
        margin=margin[:, inverse],
        order=order,
    )
