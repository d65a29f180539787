"""How sure a mean over an evaluation set is: the bootstrap over windows.

Tokens of one window hang together, so whole windows are drawn, with replacement, as many as there are; the
mean over the tokens of those drawn is one resample. The middle 95% of 10,000 resamples is the interval
(percentile bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13).

It is paired: what is averaged is the difference between two models on the same token, so a window that is
hard for both widens nothing; and the seed is fixed, so that the same windows are drawn for every model of a
table. One window alone gives an interval without width, which says that there is no knowing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bot.measurements import Interval
from bot.serving.perplexity import by_window

NUM_RESAMPLES = 10_000
SEED = 20260
_LEVEL = (0.025, 0.975)
_BLOCK_ENTRIES = 2**22  # draws held at once: memory does not grow with the set


def interval(
    values_T: NDArray[np.floating],
    window_T: NDArray[np.integer],
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """95% interval of the mean of `values_T`, where `window_T` says which window each belongs to."""
    low, high = np.quantile(resampled_means(values_T, window_T, num_resamples, seed), _LEVEL)
    return Interval(low=float(low), high=float(high), num_resamples=num_resamples)


def resampled_means(
    values_T: NDArray[np.floating], window_T: NDArray[np.integer], num_resamples: int, seed: int
) -> NDArray[np.float64]:
    """The mean in each resample `[num_resamples]`."""
    sums_W, counts_W = by_window(values_T, window_T)
    rng, num_windows = np.random.default_rng(seed), len(sums_W)
    block = max(1, _BLOCK_ENTRIES // num_windows)
    means = []
    for start in range(0, num_resamples, block):
        rows = min(block, num_resamples - start)
        # How often each window is drawn says the same as which ones are drawn in which order.
        times_RW = rng.multinomial(num_windows, np.full(num_windows, 1 / num_windows), size=rows)
        means.append((times_RW @ sums_W) / (times_RW @ counts_W))
    return np.concatenate(means)
