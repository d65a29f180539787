"""Perplexity and its standard error against sums written out, and against drawn samples."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bot.serving.perplexity import by_window, estimate


def test_arithmetic_on_identical_logprobs() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(500, 37)) * 3
    targets = rng.integers(37, size=500)
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    nll = -logprobs[np.arange(500), targets]
    total = sum(
        math.log(sum(math.exp(x) for x in row)) - row[t] for row, t in zip(logits, targets, strict=True)
    )
    found = estimate(nll, np.arange(500) // 50)
    assert found.mean_nll == pytest.approx(total / 500, abs=1e-6)
    assert found.ppl == pytest.approx(math.exp(total / 500), abs=1e-6)
    assert (found.num_tokens, found.num_windows) == (500, 10)


def test_standard_error_is_the_spread_of_repeated_draws() -> None:
    """Windows with a common level: the clustered error is right, the token-wise one far too small."""
    rng = np.random.default_rng(1)
    window = np.repeat(np.arange(40), 25)

    def draw() -> np.ndarray:
        return 3 + rng.normal(size=40)[window] + 0.5 * rng.normal(size=1000)

    estimates = [estimate(draw(), window) for _ in range(400)]
    spread = np.std([each.mean_nll for each in estimates], ddof=1)
    assert np.mean([each.standard_error for each in estimates]) == pytest.approx(spread, rel=0.1)
    tokenwise = np.std(draw(), ddof=1) / math.sqrt(1000)
    assert tokenwise < spread / 3


def test_standard_error_weighs_windows_by_their_tokens() -> None:
    nll = np.array([1.0, 1.0, 1.0, 4.0])
    found = estimate(nll, np.array([0, 0, 0, 1]))
    mean = 7 / 4
    residuals = [3 - 3 * mean, 4 - mean]
    assert found.standard_error == pytest.approx(math.sqrt(2 * sum(r * r for r in residuals)) / 4, rel=1e-12)


def test_one_window_takes_its_tokens_as_independent() -> None:
    nll = np.array([1.0, 2.0, 3.0, 4.0])
    found = estimate(nll, np.zeros(4, dtype=np.int32))
    assert found.standard_error == pytest.approx(np.std(nll, ddof=1) / 2)


def test_a_loss_beyond_exp_is_infinite() -> None:
    assert estimate(np.full(3, 800.0), np.arange(3)).ppl == math.inf


def test_sums_by_window_leave_out_windows_without_tokens() -> None:
    sums, counts = by_window(np.array([1.0, 2.0, 5.0]), np.array([3, 3, 9]))
    assert sums.tolist() == [3.0, 5.0]
    assert counts.tolist() == [2, 1]
