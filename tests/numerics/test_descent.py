"""Coordinate descent behind GPTQModel's rounding, against brute force on the same layer.

Nothing of the method is written twice here: the objective is, in float64, and what is asked is that no code
and no scale, changed alone, would lower it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.numerics.conftest import Arrays, Tool, ToolError

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
ROWS, COLUMNS, DAMP = 12, 256, 0.05
SIZES: dict[str, dict[str, Any]] = {
    "group 32": {"group_size": 32},
    "fixed groups, other order": {"group_size": 128, "desc_act": True, "static_groups": True},
    "zero points": {"group_size": 64, "sym": False},
}
DEAD = 5  # a column that no input reaches


@pytest.fixture(scope="module")
def layer() -> Arrays:
    random = np.random.default_rng(11)
    mixing = random.normal(size=(COLUMNS, COLUMNS)) * 0.05 + np.eye(COLUMNS)
    arrays = {"w": random.normal(size=(ROWS, COLUMNS)).astype(np.float32)}
    for i in range(2):
        native = random.normal(size=(500, COLUMNS)) @ mixing * np.exp(0.4 * random.normal(size=COLUMNS))
        native[:, DEAD] = 0
        arrays[f"y{i}"] = native.astype(np.float32)
        arrays[f"x{i}"] = (native + 0.1 * random.normal(size=native.shape)).astype(np.float32)
        arrays[f"x{i}"][:, DEAD] = 0
    arrays["w"][:, DEAD] = 0
    return arrays


def rounded(tool: Tool, layer: Arrays, sweeps: int | None, alpha: float, **more: Any) -> Arrays:
    given = {"bits": 4, "sym": True, "damp_percent": DAMP, "mse": 2.4} | more
    return tool("gptq", layer, foem={"alpha": alpha, "beta": 0.0}, descent_sweeps=sweeps, **given)


def objective(q: np.ndarray, layer: Arrays, alpha: float) -> np.ndarray:
    """Each row's |Q X − W X − αW(X̃ − X)|² + λ|Q − W|², [..., out] of q [..., out, in]."""
    x, y = (np.concatenate([layer[f"{kind}{i}"] for i in range(2)]).astype(np.float64) for kind in "xy")
    w = layer["w"].astype(np.float64)
    moments = x.T @ x
    damp = DAMP * np.diag(moments).mean()
    away = np.square((q - w) @ x.T - alpha * (w @ (y - x).T)).sum(axis=-1)
    return away + damp * np.square(q - w).sum(axis=-1)


def dequantized(codes: np.ndarray, scale: np.ndarray, g_idx: np.ndarray) -> np.ndarray:
    return codes * scale[..., g_idx]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("alpha", [0.0, 0.75])
def test_no_code_and_no_scale_changed_alone_would_be_better(
    tool: Tool, layer: Arrays, size: str, alpha: float
):
    found = rounded(tool, layer, 100, alpha, **SIZES[size])
    scale, g_idx = found["scale"].astype(np.float64), found["g_idx"]
    codes = np.round(found["q"] / scale[:, g_idx])
    low, high = -found["zero"][:, g_idx], 15 - found["zero"][:, g_idx]
    np.testing.assert_allclose(dequantized(codes, scale, g_idx), found["q"], rtol=1e-5)
    assert ((low <= codes) & (codes <= high)).all()
    least = objective(dequantized(codes, scale, g_idx), layer, alpha)
    slack = least * 1e-6
    for column in range(COLUMNS):
        for step in (-1, 1):
            changed = codes.copy()
            changed[:, column] = np.clip(changed[:, column] + step, low[:, column], high[:, column])
            assert (objective(dequantized(changed, scale, g_idx), layer, alpha) >= least - slack).all()
    for group in range(scale.shape[1]):
        for factor in (0.98, 0.999, 1.001, 1.02):
            changed = scale.copy()
            changed[:, group] *= factor
            assert (objective(dequantized(codes, changed, g_idx), layer, alpha) >= least - slack).all()


@pytest.mark.parametrize("size", SIZES)
def test_every_sweep_lowers_what_gptq_left(tool: Tool, layer: Arrays, size: str):
    plain, *made = [rounded(tool, layer, sweeps, 0.75, **SIZES[size]) for sweeps in (None, 0, 1, 2, 8)]
    errors = np.array([objective(each["q"].astype(np.float64), layer, 0.75) for each in made])
    assert (np.diff(errors, axis=0) <= errors[:-1] * 1e-6).all()
    assert errors[-1].sum() < errors[0].sum() * 0.95
    assert made[1]["acted_descent"] == 1
    assert "acted_descent" not in made[0]
    for name in ("q", "scale", "zero", "g_idx"):  # without sweeps the tool is its own, bit for bit
        assert made[0][name].tobytes() == plain[name].tobytes()


def test_what_is_not_finite_is_refused(tool: Tool, layer: Arrays):
    broken = layer | {"y0": np.full_like(layer["y0"], np.nan)}
    with pytest.raises(ToolError, match="BackendError: coordinate descent left a value that is not finite"):
        rounded(tool, broken, 1, 0.75, group_size=32)
