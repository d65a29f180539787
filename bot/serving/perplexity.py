"""Perplexity from per-token losses, and how far it can be trusted.

With n_t the negative log-likelihood of token t in nats, over T scored tokens:

    mean_nll = Σ n_t / T,    ppl = exp(mean_nll)

The standard error is of `mean_nll`, with the window as the cluster: tokens of one window share their text, so
their losses go up and down together, and counting them as independent would promise too much. For windows w
with sums S_w and counts T_w it is that of a ratio estimator (Cochran, Sampling Techniques, 6.4 and 9A):

    SE² = W / (W - 1) · Σ_w (S_w - mean_nll · T_w)² / T²

One window alone has no spread between windows; its tokens are then taken as independent. What is not
covered: the set is one sample of text, and another would have another perplexity altogether.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Losses in nats; `standard_error` is that of `mean_nll`. `ppl` is infinite above about 709 nats."""

    num_tokens: int
    num_windows: int
    mean_nll: float
    standard_error: float
    ppl: float


def estimate(nll_T: NDArray[np.float64], window_T: NDArray[np.integer]) -> Estimate:
    """From losses `[T]` and the number of the window that each was scored in."""
    mean = math.fsum(nll_T) / len(nll_T)
    sums_W, counts_W = by_window(nll_T, window_T)
    return Estimate(
        num_tokens=len(nll_T),
        num_windows=len(sums_W),
        mean_nll=mean,
        standard_error=_standard_error(nll_T, sums_W, counts_W, mean),
        ppl=math.exp(mean) if mean < 709 else math.inf,
    )


def by_window(
    values_T: NDArray[np.floating], window_T: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sum and number of the values in each window that has any."""
    _, index_T = np.unique(window_T, return_inverse=True)
    sums_W = np.bincount(index_T, weights=values_T)
    return sums_W.astype(np.float64), np.bincount(index_T).astype(np.int64)


def _standard_error(
    nll_T: NDArray[np.float64], sums_W: NDArray[np.float64], counts_W: NDArray[np.int64], mean: float
) -> float:
    if len(sums_W) < 2:
        return float(np.std(nll_T, ddof=1) / math.sqrt(len(nll_T))) if len(nll_T) > 1 else 0.0
    residuals_W = sums_W - mean * counts_W
    num_windows = len(sums_W)
    return float(np.sqrt(num_windows / (num_windows - 1) * np.sum(residuals_W**2)) / len(nll_T))
