"""AutoRound's training of a matrix, by the tool itself, against the oracle of its weight update."""

from __future__ import annotations

import numpy as np
import pytest

from tests.numerics.conftest import Arrays, Tool
from tests.oracles import autoround

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
OUT, IN, SIZE, TOKENS = 24, 128, 32, 40


@pytest.fixture(scope="module")
def layer() -> Arrays:
    random = np.random.default_rng(8)
    mixing = random.normal(size=(IN, IN)) * 0.1 + np.eye(IN)
    native = random.normal(size=(4, TOKENS, IN)) @ mixing
    w = random.normal(size=(OUT, IN)) * np.exp(random.normal(size=(OUT, 1))) * 0.05
    given = {"w": w, "x": native + 0.05 * random.normal(size=native.shape), "targets": native @ w.T}
    return {name: each.astype(np.float32) for name, each in given.items()}


def flat(layer: Arrays, name: str) -> np.ndarray:
    return layer[name].reshape(-1, layer[name].shape[-1]).astype(np.float64)


@pytest.mark.parametrize("iterations", [1, 8, 25])
def test_it_trains_as_the_oracle(tool: Tool, layer: Arrays, iterations: int):
    """The same codes and scales, but for signs of gradients that float32 cannot tell from zero."""
    found = tool("autoround_training", layer, group_size=SIZE, iterations=iterations)
    x, targets = flat(layer, "x"), flat(layer, "targets")
    codes, scales, losses = autoround.trained(layer["w"], x, targets, SIZE, iterations)
    wide = np.repeat(found["scale"].astype(np.float64), SIZE, axis=1)
    theirs = np.round(found["q"] / wide) + 8
    assert (theirs == codes).mean() >= 0.999
    assert (found["scale"] == scales).mean() >= 0.99
    error = np.square(x @ found["q"].T.astype(np.float64) - targets).mean()
    np.testing.assert_allclose(error, min(losses), rtol=1e-3)
    moved = (theirs != _plain(layer["w"])).any()
    assert moved == (iterations > 1)  # the first step's values are plain rounding
    assert error < losses[0] * 0.9 or iterations < 25


def _plain(w: np.ndarray) -> np.ndarray:
    ones = np.ones((OUT, IN // SIZE))
    return autoround.rounded(w, np.zeros(w.shape), ones, ones, SIZE)[0]
