"""Variants beside each other: figures from per-token arrays, paired intervals, and who is on the frontier.

The bootstrap is paired: a resample draws the same windows for both variants, since one seed draws alike for
arrays of the same windows. Over all domains it is stratified: each domain is drawn by itself, and the means
are averaged, so that the longest text does not decide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bot.errors import InputError
from bot.lab.record import ALL, Arrays, Measured, Paired, Variant
from bot.measurements import Interval
from bot.serving.bootstrap import NUM_RESAMPLES, SEED, resampled_means

_LEVEL = (0.025, 0.975)
Means = NDArray[np.float64]


def perplexity(nll_T: NDArray[np.floating]) -> float:
    """exp of the mean loss; infinite where that is too large."""
    mean = math.fsum(nll_T) / len(nll_T)
    return math.exp(mean) if mean < 709 else math.inf


def overall(by_domain: Mapping[str, Arrays]) -> float:
    """The mean of the domains' mean divergences."""
    return float(np.mean([each["kld"].mean() for each in by_domain.values()]))


def paired(one: Mapping[str, Arrays], reference: Mapping[str, Arrays]) -> list[Paired]:
    """`one` beside `reference`, each domain and then all of them.

    There is no row where the reference's divergence is 0, as a whole or in a resample: no change is defined.
    Raises InputError when the two were not scored on the same windows.
    """
    rows: list[Paired] = []
    differences, ratios = [], []
    for index, domain in enumerate(reference):
        mine, other = one[domain], reference[domain]
        _require_same(domain, mine, other)
        means = _resampled(mine, SEED + index), _resampled(other, SEED + index)
        rows += _row(domain, float(mine["kld"].mean()), float(other["kld"].mean()), *means)
        differences.append(means[0])
        ratios.append(means[1])
    mean: Means = np.mean(differences, axis=0)
    mean_of_reference: Means = np.mean(ratios, axis=0)
    return rows + _row(ALL, overall(one), overall(reference), mean, mean_of_reference)


def _resampled(arrays: Arrays, seed: int) -> Means:
    return resampled_means(arrays["kld"], arrays["window"], NUM_RESAMPLES, seed)


def _require_same(domain: str, mine: Arrays, other: Arrays) -> None:
    same = np.array_equal(mine["window"], other["window"]) and np.allclose(
        mine["base_nll"], other["base_nll"], rtol=0, atol=1e-6
    )
    if not same:
        raise InputError(
            f"two variants were scored on other {domain} tokens, or beside other scores of the base",
            why="the base's own scores were removed between them, and are not the same to the last digit",
            fix="remove `variants` below --out and `measured` below RELEASE_BOT_HOME: all is scored anew, "
            "and what lies in `work` is not quantized again",
        )


def _row(domain: str, mine: float, other: float, mine_R: Means, other_R: Means) -> list[Paired]:
    """The row, or none where it would divide by 0."""
    if other <= 0 or other_R.min() <= 0:
        return []
    row = Paired(
        domain=domain,
        kld=mine,
        difference=mine - other,
        difference_interval=_interval(mine_R - other_R),
        change=mine / other - 1,
        change_interval=_interval(mine_R / other_R - 1),
    )
    return [row]


def _interval(values_R: Means) -> Interval:
    low, high = np.quantile(values_R, _LEVEL)
    return Interval(low=float(low), high=float(high), num_resamples=len(values_R))


def variants(
    labelled: Sequence[tuple[str, Measured]], arrays: Mapping[str, Mapping[str, Arrays]]
) -> list[Variant]:
    """Every variant beside the first; `arrays` are by key and domain, of those that did not fail."""
    klds = {m.key: overall(arrays[m.key]) for _, m in labelled if m.failure is None}
    sizes = {m.key: m.bits_per_weight for _, m in labelled if m.failure is None}
    points = [(bits, klds[key]) for key, bits in sizes.items() if bits is not None]
    reference = labelled[0][1]
    found = []
    for label, measured in labelled:
        known = measured.failure is None
        compared = known and reference.failure is None and measured.key != reference.key
        found.append(
            Variant(
                label=label,
                measured=measured,
                kld=klds[measured.key] if known else None,
                against_reference=paired(arrays[measured.key], arrays[reference.key]) if compared else [],
                on_frontier=known and _on_frontier((sizes[measured.key] or 0.0, klds[measured.key]), points),
            )
        )
    return found


def _on_frontier(point: tuple[float, float], points: Sequence[tuple[float, float]]) -> bool:
    """Whether no other point is as small and nearer, or as near and smaller."""
    return not any(bits <= point[0] and kld <= point[1] and (bits, kld) != point for bits, kld in points)
