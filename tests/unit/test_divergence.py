"""Divergences against sums written out, and the lower bound's two promises."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from bot.serving.divergence import agreement, full, lower_bound, summary, tail_mass
from bot.serving.score_divergence import _compare_window
from bot.serving.windows import Window


def logprobs(num_tokens: int, vocab: int, seed: int, scale: float = 2.0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(num_tokens, vocab)) * scale
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def top(base: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-base, axis=1, kind="stable")[:, :k]


def at(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, ids, axis=1)


BASE, OTHER = logprobs(64, 300, 0), logprobs(64, 300, 0) + 0.3 * logprobs(64, 300, 1)
OTHER = (OTHER - np.log(np.exp(OTHER).sum(axis=1, keepdims=True))).astype(np.float32)


def test_full_is_the_sum_over_the_vocabulary() -> None:
    expected = [
        sum(math.exp(p) * (float(p) - float(q)) for p, q in zip(row, other, strict=True))
        for row, other in zip(BASE, OTHER, strict=True)
    ]
    np.testing.assert_allclose(full(BASE, OTHER), expected, atol=1e-6)


def test_nothing_changed_is_zero() -> None:
    assert (full(BASE, BASE) == 0).all()
    ids = top(BASE, 10)
    np.testing.assert_allclose(lower_bound(at(BASE, ids), at(BASE, ids)), 0, atol=1e-12)


def test_lower_bound_is_the_sum_with_one_bucket() -> None:
    ids = top(BASE, 20)
    found = lower_bound(at(BASE, ids), at(OTHER, ids))
    for t in range(64):
        kept = set(ids[t].tolist())
        rest_p = sum(math.exp(BASE[t, v]) for v in range(300) if v not in kept)
        rest_q = sum(math.exp(OTHER[t, v]) for v in range(300) if v not in kept)
        terms = [math.exp(BASE[t, v]) * float(BASE[t, v] - OTHER[t, v]) for v in kept]
        assert found[t] == pytest.approx(sum(terms) + rest_p * math.log(rest_p / rest_q), abs=1e-6)
        assert tail_mass(at(BASE, ids))[t] == pytest.approx(rest_p, abs=1e-6)


@pytest.mark.parametrize("k", [1, 2, 16, 128, 299])
def test_lower_bound_is_never_above_the_full_divergence(k: int) -> None:
    ids = top(BASE, k)
    found, whole = lower_bound(at(BASE, ids), at(OTHER, ids)), full(BASE, OTHER)
    assert found.mean() <= whole.mean() + 1e-7
    assert (found <= whole + 3e-6).all()  # float32's rounding of a small rest, times its log ratio


def test_lower_bound_grows_with_k_and_ends_at_the_full_divergence() -> None:
    means = [
        lower_bound(at(BASE, ids), at(OTHER, ids)).mean() for ids in (top(BASE, k) for k in (4, 32, 128))
    ]
    assert means == sorted(means)
    assert means[0] < 0.9 * means[-1]
    ids = top(BASE, 300)
    np.testing.assert_allclose(lower_bound(at(BASE, ids), at(OTHER, ids)), full(BASE, OTHER), atol=1e-6)


def test_a_token_that_the_base_excludes_adds_nothing() -> None:
    base = np.log(np.array([[0.5, 0.5, 0.0]]), where=[[True, True, False]], out=np.full((1, 3), -np.inf))
    other = np.log(np.array([[0.25, 0.25, 0.5]]))
    assert full(base, other)[0] == pytest.approx(math.log(2))


def test_a_token_that_only_the_other_excludes_is_infinite() -> None:
    assert full(np.log([[0.5, 0.5]]), np.array([[0.0, -np.inf]]))[0] == math.inf


def test_nan_is_not_hidden() -> None:
    other = OTHER.copy()
    other[3, 7] = np.nan
    ids = top(BASE, 300)
    assert np.isnan(full(BASE, other)[3])
    assert np.isnan(lower_bound(at(BASE, ids), at(other, ids))[3])


def test_agreement_takes_any_of_tied_tokens() -> None:
    base = np.log(np.array([[0.4, 0.4, 0.2], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]))
    other = np.log(np.array([[0.2, 0.5, 0.3], [0.3, 0.5, 0.2], [0.4, 0.4, 0.2]]))
    assert agreement(base, other, other.max(axis=1)).tolist() == [True, False, True]
    # Scored at the base's two best only, the other side's best may lie outside of them.
    assert agreement(base[:, :2], other[:, :2], np.array([-0.1, -0.1, other[2].max()])).tolist() == [
        False,
        False,
        True,
    ]


def test_summary() -> None:
    kld = np.arange(1001) / 1000
    found = summary(kld, np.arange(1001) % 4 == 0)
    assert found.mean == pytest.approx(0.5)
    assert found.median == pytest.approx(0.5)
    assert found.p99 == pytest.approx(0.99)
    assert found.p999 == pytest.approx(0.999)
    assert found.max == 1.0
    assert found.top1_agreement == pytest.approx(251 / 1001)
    assert found.num_tokens == 1001


@dataclass
class Output:
    """What is read of vLLM's output of a prompt that was scored at given ids."""

    prompt_logprobs: SimpleNamespace
    prompt_token_id_logprobs: np.ndarray


def test_the_likeliest_token_at_given_ids_is_known_by_its_id() -> None:
    """Its own log-probability comes from another matrix product, a last bit above or below."""
    base = {
        "ids": np.int32([[4, 7], [4, 7], [4, 7], [4, 7], [4, 7], [4, 7]]),
        "logprobs": np.log(
            np.float32([[0.6, 0.2], [0.6, 0.2], [0.4, 0.4], [0.6, 0.2], [0.6, 0.2], [0.6, 0.2]])
        ),
        "nll": np.ones(6),
    }
    at_ids = np.log(np.float32([[0.5, 0.2], [0.5, 0.2], [0.3, 0.5], [0.2, 0.5], [0.4, 0.4], [0.2, 0.1]]))
    best = [(4, at_ids[0, 0], +1), (4, at_ids[1, 0], -1), (7, at_ids[2, 1], +1)]
    best += [(7, at_ids[3, 1], -1), (7, at_ids[4, 1], +1), (9, at_ids[5, 0], -1)]
    flat = SimpleNamespace(
        token_ids=[token for each, _, _ in best for token in (1, each)],
        logprobs=[
            value
            for _, one, bit in best
            for value in (-3.0, float(np.nextafter(one, np.float32(bit * np.inf))))
        ],
    )
    window = Window(start=0, end=7, score_from=1)
    found = _compare_window(base, Output(flat, at_ids), window, 10, at_ids=True)
    # Above and below its other score; one of the base's tied; another token; tied on this side; elsewhere.
    assert found["agree"].tolist() == [True, True, True, False, True, False]
    np.testing.assert_array_equal(found["nll"], np.full(6, 3.0))
