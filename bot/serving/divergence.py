"""Kullback-Leibler divergence of a quantized model from its base, token by token, in nats.

At each position both models give a distribution over the vocabulary, p the base's and q the other's:

    KL(p ‖ q) = Σ_v p_v · (log p_v - log q_v)

It is zero exactly when nothing changed, and it sees what perplexity averages away: a token that became less
likely here and more likely there.

Over a large vocabulary the engine does not give every entry. Then the base's top k tokens are kept apart and
all others are one bucket, with p_rest = 1 - Σ_top p and q_rest = 1 - Σ_top q over *the same* tokens:

    Σ_top p_v · (log p_v - log q_v) + p_rest · (log p_rest - log q_rest)

Merging outcomes can only lose information (data-processing inequality), so this is a lower bound of the full
divergence, equal to it when k is the vocabulary's size. Two models' own top-k lists are never intersected:
that drops just the tokens on which they differ, and bounds nothing.

Log-probabilities come from the engine in float32, so that Σ p is 1 to about 1e-7. All sums are in float64.

Shapes: T positions, V vocabulary, K scored tokens a position (K = V for the full divergence).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
F64 = NDArray[np.float64]

# Below this a mass is float32's rounding, not the model's.
RESOLUTION = 1e-7


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Over all positions; divergences in nats, `top1_agreement` a share."""

    num_tokens: int
    mean: float
    median: float
    p99: float
    p999: float
    max: float
    top1_agreement: float


def full(base_logprobs_TV: Floats, logprobs_TV: Floats) -> F64:
    """KL(base ‖ other) `[T]` from log-probabilities over the whole vocabulary."""
    base_TV = base_logprobs_TV.astype(np.float64)
    kld_T: F64 = _terms(base_TV, logprobs_TV.astype(np.float64)).sum(axis=1)
    return kld_T


def lower_bound(base_logprobs_TK: Floats, logprobs_TK: Floats) -> F64:
    """A lower bound of KL(base ‖ other) `[T]` from log-probabilities at the base's K tokens, both sides'."""
    base_TK, other_TK = base_logprobs_TK.astype(np.float64), logprobs_TK.astype(np.float64)
    base_rest_T = tail_mass(base_TK)
    other_rest_T = np.maximum(tail_mass(other_TK), RESOLUTION)
    with np.errstate(divide="ignore"):
        rest_T = _terms(np.log(base_rest_T), np.log(other_rest_T))
    kld_T: F64 = _terms(base_TK, other_TK).sum(axis=1) + rest_T
    return kld_T


def tail_mass(logprobs_TK: Floats) -> F64:
    """The probability `[T]` outside the K tokens; 0 where it is below the resolution."""
    rest_T = 1.0 - np.exp(logprobs_TK.astype(np.float64)).sum(axis=1)
    return np.where(rest_T > RESOLUTION, rest_T, 0.0)


def _terms(base: F64, other: F64) -> F64:
    """p · (log p - log q) elementwise from log p and log q; a token that the base excludes adds nothing."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isneginf(base), 0.0, np.exp(base) * (base - other))


def agreement(base_logprobs_TK: Floats, logprobs_TK: Floats, highest_T: Floats) -> NDArray[np.bool_]:
    """Whether both sides' most likely token is the same `[T]`, from scores at the base's K tokens.

    `highest_T`: the other side's highest log-probability anywhere. Logits in bfloat16 tie often: sides agree
    when one token is highest on both.
    """
    base_is_highest = base_logprobs_TK == base_logprobs_TK.max(axis=1, keepdims=True)
    other_is_highest = logprobs_TK >= np.asarray(highest_T)[:, None]
    return np.asarray((base_is_highest & other_is_highest).any(axis=1))


def summary(kld_T: F64, agree_T: NDArray[np.bool_]) -> Summary:
    """Mean, quantiles (interpolated linearly) and the largest of `kld_T`, and the share that agrees."""
    median, p99, p999 = np.quantile(kld_T, [0.5, 0.99, 0.999])
    return Summary(
        num_tokens=len(kld_T),
        mean=float(kld_T.mean()),
        median=float(median),
        p99=float(p99),
        p999=float(p999),
        max=float(kld_T.max()),
        top1_agreement=float(agree_T.mean()),
    )
