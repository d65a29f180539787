"""The bootstrap against a loop that draws windows one by one, and against repeated draws of data."""

from __future__ import annotations

import numpy as np
import pytest

from bot.serving.bootstrap import interval, resampled_means


def test_against_a_loop_over_resamples() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=90) + 2
    window = np.sort(rng.integers(12, size=90))
    windows = np.unique(window)
    draw = np.random.default_rng(5)
    naive = []
    for _ in range(4000):
        chosen = draw.choice(windows, size=len(windows))
        naive.append(np.concatenate([values[window == w] for w in chosen]).mean())
    found = resampled_means(values, window, 10_000, seed=1)
    assert found.mean() == pytest.approx(np.mean(naive), abs=0.01)
    assert found.std() == pytest.approx(np.std(naive), rel=0.05)
    np.testing.assert_allclose(
        np.quantile(found, [0.025, 0.975]), np.quantile(naive, [0.025, 0.975]), atol=0.02
    )


def test_same_seed_same_interval_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    values, window = np.random.default_rng(2).normal(size=400), np.arange(400) // 10
    whole = interval(values, window)
    assert interval(values, window) == whole
    assert whole.num_resamples == 10_000
    monkeypatch.setattr("bot.serving.bootstrap._BLOCK_ENTRIES", 40 * 7)
    assert interval(values, window) == whole


def test_the_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    rng, window = np.random.default_rng(3), np.repeat(np.arange(30), 8)
    covered = 0
    for _ in range(300):
        values = rng.normal(size=30)[window] + 0.3 * rng.normal(size=240)
        found = interval(values, window, num_resamples=1000)
        covered += found.low <= 0 <= found.high
    assert 0.88 <= covered / 300 <= 0.98


def test_pairing_removes_what_is_hard_for_both() -> None:
    rng, window = np.random.default_rng(4), np.repeat(np.arange(40), 20)
    base = 3 + rng.normal(size=40)[window]
    other = base + 0.05 + 0.01 * rng.normal(size=800)
    paired = interval(other - base, window)
    alone = interval(other, window)
    assert 0.04 < paired.low < paired.high < 0.06
    assert alone.high - alone.low > 10 * (paired.high - paired.low)


def test_one_window_has_no_width() -> None:
    found = interval(np.array([1.0, 2.0]), np.array([0, 0]))
    assert found.low == found.high == 1.5
