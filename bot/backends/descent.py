"""Coordinate descent on a layer that GPTQ has rounded: the same format, less error of its outputs.

GPTQ rounds each column once, with the scales that it began with, and never looks back. What it leaves can be
lowered: taken one at a time, with all others as they are, every code and every group's scale has a best value
in closed form. With X the inputs that the layer gets behind quantized layers, and D what its outputs should
be more than W X, what falls is

    J(Q) = |Q X − W X − D|² + λ |Q − W|² = tr Q H Qᵀ − 2 tr M Qᵀ + …,   H = XXᵀ + λI,   M = W H + D Xᵀ

where λ is GPTQ's damping. GPTAQ's target is D = αW (X̃ − X), X̃ being the base's inputs: at α = 1 the error
is that of Q X against W X̃. With R = QH − M, half of J's gradient: the best value of column j is
Q_j − R_j / H_jj, rounded to the grid; a group whose codes are c takes the scale s − (c · R_g) / (c H_gg cᵀ).
Neither can raise J.

Sources: codes as in QuantEase (Behdin et al. 2023, arXiv:2309.01885) and CDQuant (Nair and Suggala 2024,
arXiv:2406.17542); codes and scales in turn as in COMQ (Zhang et al. 2024, arXiv:2403.07134); the asymmetric
target is GPTAQ's (Li et al. 2025, arXiv:2504.02692). `patches/gptqmodel.py` puts it behind GPTQ, and
`block_descent.py` behind AutoRound.
"""

from __future__ import annotations

import torch

from bot.errors import BackendError

BLOCK = 128  # columns whose effect on the rest is one product


def descended(
    q: torch.Tensor,
    weight: torch.Tensor,
    moments: torch.Tensor,
    lacking: torch.Tensor | None,
    scales: torch.Tensor,
    zeros: torch.Tensor,
    groups: torch.Tensor,
    *,
    maxq: int,
    damp: float,
    sweeps: int,
    where: str = "",
) -> tuple[torch.Tensor, torch.Tensor]:
    """`q` [out, in] and `scales` [out, groups] after `sweeps` passes over scales and codes, in FP32.

    `weight` [out, in] is what was rounded; `moments` [in, in] is XXᵀ, `lacking` [out, in] DXᵀ or None for 0;
    `zeros` [out, groups] are zero points, `groups` [in] each column's group, `damp` λ as a share of the mean
    of the moments' diagonal. Codes lie between 0 and `maxq`. Raises BackendError, which names the module
    `where`, when a value is not finite in the end.
    """
    h = moments.clone()
    h.diagonal().add_(damp * h.diagonal().mean())
    q, scales = q.clone(), scales.clone()
    codes = torch.round(q / scales[:, groups])
    wanted = torch.zeros_like(q) if lacking is None else lacking
    of = groups.tolist()  # on the host, or each column would wait for the device
    members = [torch.nonzero(groups == each).flatten() for each in range(scales.shape[1])]
    for _ in range(sweeps):
        rest = (q - weight) @ h - wanted  # anew: what rounding adds to it in one sweep does not pile up
        for group, columns in enumerate(members):
            step = _best_scale(codes[:, columns], rest[:, columns], h[columns][:, columns], scales[:, group])
            scales[:, group] += step
            change = codes[:, columns] * step[:, None]
            q[:, columns] += change
            rest.addmm_(change, h[columns])
        for start in range(0, q.shape[1], BLOCK):
            block = slice(start, min(start + BLOCK, q.shape[1]))
            before, local = q[:, block].clone(), rest[:, block].clone()
            for at in range(block.stop - start):
                column = start + at
                scale, zero = scales[:, of[column]], zeros[:, of[column]]
                best = (q[:, column] - local[:, at] / h[column, column]) / scale
                codes[:, column] = torch.maximum(torch.minimum(best.round(), maxq - zero), -zero)
                value = codes[:, column] * scale
                local.addr_(value - q[:, column], h[column, block])
                q[:, column] = value
            rest.addmm_(q[:, block] - before, h[block])
    if not (q.isfinite().all() and scales.isfinite().all()):
        raise BackendError(
            "coordinate descent left a value that is not finite",
            where=where,
            why="the second moments of its inputs are, or they are singular and damp_percent is too small",
            fix="check the base and the calibration sets, or raise method.damp_percent",
        )
    return q, scales


def _best_scale(
    codes: torch.Tensor, rest: torch.Tensor, moments: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """What to add to a group's scales [out]; nothing where all codes are 0, or FP16 cannot hold the best."""
    curvature = ((codes @ moments) * codes).sum(dim=1)
    step = -(codes * rest).sum(dim=1) / curvature
    possible = (curvature > 0) & (scale + step > torch.finfo(torch.float16).tiny) & step.isfinite()
    return torch.where(possible, step, torch.zeros_like(step))
