"""Coordinate descent behind AutoRound's training, against brute force on a small layer.

The objectives are written here as the module states them, in float64; what is asked is that no code and no
scale, changed alone, would lower them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.numerics.conftest import Arrays, Tool, ToolError
from tests.oracles import int4

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
HIDDEN, MIDDLE, SIZE, SAMPLES, DAMP = 64, 96, 32, 5, 0.05
SHAPES = {
    "q_proj": (HIDDEN, HIDDEN),
    "o_proj": (HIDDEN, HIDDEN),
    "gate_proj": (MIDDLE, HIDDEN),
    "up_proj": (MIDDLE, HIDDEN),
    "down_proj": (HIDDEN, MIDDLE),
}
IMPROVED = ("q_proj", "o_proj", "down_proj")


@pytest.fixture(scope="module")
def layer() -> Arrays:
    random = np.random.default_rng(5)
    arrays = {}
    for name, shape in SHAPES.items():
        arrays[f"base.{name}"] = (random.normal(size=shape) * 0.2).astype(np.float32)
        arrays[f"v.{name}"] = random.uniform(-0.5, 0.5, size=shape).astype(np.float32)
    mixing = random.normal(size=(HIDDEN, HIDDEN)) * 0.1 + np.eye(HIDDEN)
    for i in range(SAMPLES):
        native = random.normal(size=(80, HIDDEN)) @ mixing
        arrays[f"y{i}"] = native.astype(np.float32)
        arrays[f"x{i}"] = (native + 0.1 * random.normal(size=native.shape)).astype(np.float32)
    return arrays


def improved(tool: Tool, layer: Arrays, sweeps: int, kept: tuple[str, ...] = (), **more: Any) -> Arrays:
    given: dict[str, Any] = {"group_size": SIZE, "samples": SAMPLES, "damp": DAMP, "sweeps": sweeps}
    return tool("block_descent", layer, **given, kept=kept, **({"stored": False} | more))


@pytest.fixture(scope="module")
def found(tool: Tool, layer: Arrays) -> Arrays:
    return improved(tool, layer, 100)


def target(name: str, layer: Arrays, found: Arrays) -> np.ndarray:
    """What the outputs of a matrix should be [tokens, out]."""
    native = found[f"{name}.y"].astype(np.float64) @ layer[f"base.{name}"].T.astype(np.float64)
    streams = [
        np.concatenate([layer[f"{kind}{i}"] for i in range(SAMPLES)]).astype(np.float64) for kind in "yx"
    ]
    if name == "o_proj":
        return native + streams[0] - streams[1]
    if name == "down_proj":
        own = found[f"{name}.x"].astype(np.float64) @ found[f"{name}.q.after"].T.astype(np.float64)
        return found["outputs.base"] - (found["outputs.after"].astype(np.float64) - own)
    return native


def objective(q: np.ndarray, name: str, layer: Arrays, found: Arrays) -> np.ndarray:
    """Each row's squared error against the target, and what draws it to its weights, [out]."""
    x, w = found[f"{name}.x"].astype(np.float64), layer[f"base.{name}"].astype(np.float64)
    damp = DAMP * np.square(x).sum(axis=0).mean()
    away = np.square(q @ x.T - target(name, layer, found).T).sum(axis=1)
    return away + damp * np.square(q - w).sum(axis=1)


@pytest.mark.parametrize("name", IMPROVED)
def test_no_code_and_no_scale_changed_alone_would_be_better(found: Arrays, layer: Arrays, name: str):
    scale = found[f"{name}.scale.after"].astype(np.float64)
    groups = np.arange(SHAPES[name][1]) // SIZE
    codes = np.round(found[f"{name}.q.after"] / scale[:, groups])
    np.testing.assert_allclose(codes * scale[:, groups], found[f"{name}.q.after"], rtol=1e-5)
    assert ((codes >= -8) & (codes <= 7)).all()
    least = objective(codes * scale[:, groups], name, layer, found)
    slack = least * 1e-6
    for column in range(codes.shape[1]):
        for step in (-1, 1):
            changed = codes.copy()
            changed[:, column] = np.clip(changed[:, column] + step, -8, 7)
            assert (objective(changed * scale[:, groups], name, layer, found) >= least - slack).all()
    for group in range(scale.shape[1]):
        for factor in (0.98, 0.999, 1.001, 1.02):
            changed = scale.copy()
            changed[:, group] *= factor
            assert (objective(codes * changed[:, groups], name, layer, found) >= least - slack).all()


@pytest.mark.parametrize("name", IMPROVED)
def test_it_is_better_than_what_training_left(found: Arrays, layer: Arrays, name: str):
    before = objective(found[f"{name}.q.before"].astype(np.float64), name, layer, found)
    after = objective(found[f"{name}.q.after"].astype(np.float64), name, layer, found)
    assert (after <= before * (1 + 1e-6)).all()
    assert after.sum() < before.sum() * 0.9
    assert found["changed"] == len(IMPROVED)
    signs = np.sign(found[f"{name}.scale.before"])
    assert (signs == np.sign(found[f"{name}.scale.after"])).all()
    assert set(signs.flatten()) == {-1, 1}  # both kinds were there


def test_the_layers_error_falls_and_what_feeds_a_product_stays(found: Arrays):
    errors = [
        np.square(found["outputs.base"] - found[f"outputs.{when}"]).mean() for when in ("before", "after")
    ]
    assert errors[1] < errors[0] * 0.8
    for name in ("gate_proj", "up_proj"):
        for what in ("q", "scale"):
            assert found[f"{name}.{what}.before"].tobytes() == found[f"{name}.{what}.after"].tobytes()
    assert found["hooks"] == 0


def test_the_packer_writes_what_descent_gave(tool: Tool, layer: Arrays):
    """Through the dtypes of a real run, BF16 weights and FP16 scales: the file holds those codes exactly."""
    found = improved(tool, layer, 8, stored=True)
    for name in IMPROVED:
        parts = [found[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales", "g_idx")]
        again = int4.dequantized(parts[0], parts[1], parts[2].astype(np.float16), parts[3])
        assert (again.astype(np.float32) == found[f"{name}.meant"]).all()
        np.testing.assert_allclose(found[f"{name}.q.after"], found[f"{name}.meant"], rtol=2**-8)
    errors = [
        np.square(found["outputs.base"] - found[f"outputs.{when}"]).mean() for when in ("before", "after")
    ]
    assert errors[1] < errors[0] * 0.8


def test_a_matrix_that_is_kept_stays(tool: Tool, layer: Arrays):
    found = improved(tool, layer, 2, kept=("q_proj",))
    assert found["q_proj.q.before"].tobytes() == found["q_proj.q.after"].tobytes()
    assert found["changed"] == 2


def test_what_is_not_finite_is_refused_by_name(tool: Tool, layer: Arrays):
    broken = layer | {"y1": np.full_like(layer["y1"], np.nan)}
    with pytest.raises(ToolError, match=r"(?s)left a value that is not finite.*layers\.0\.q_proj"):
        improved(tool, broken, 1)
