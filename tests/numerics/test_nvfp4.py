"""NVFP4's choices of scales and codes against brute force: through ModelOpt's own calibration and export.

Two weights that the engine fuses share their inputs; one of them is small, so the shared scale shows. The
tool computes in float32, the oracle in float64: errors agree to a thousandth. Where GPTQ's value lies on the
border of two codes it may fall to either side, and the rest of its row differs from there on; no other row
may.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from tests.numerics.conftest import Arrays, Tool, ToolError
from tests.oracles import nvfp4

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
OUT, IN, TOKENS = 12, 64, 200
PAIR = ("in_proj_qkv", "in_proj_z")


@pytest.fixture(scope="module")
def layer() -> Arrays:
    """Two weights [12, 64], and correlated inputs [200, 64] of which few channels are large."""
    random = np.random.default_rng(11)
    mixing = random.normal(size=(IN, IN)) * 0.15 + np.eye(IN)
    x = (random.normal(size=(TOKENS, IN)) @ mixing) * np.exp(random.normal(size=IN))
    large = random.standard_t(4, size=(OUT, IN)) * 0.05
    return {"x": x.astype(np.float32)} | {
        name: (large * size).astype(np.float32) for name, size in zip(PAIR, (1, 0.2), strict=True)
    }


@pytest.fixture(scope="module")
def made(tool: Tool, layer: Arrays) -> Callable[..., Arrays]:
    """`made(algorithm, …)`: the pair as the tool quantizes it, each choice once."""
    found: dict[str, Arrays] = {}

    def run(algorithm: str, **more: object) -> Arrays:
        key = json.dumps([algorithm, more])
        if key not in found:
            found[key] = tool("modelopt", layer, algorithm=algorithm, **more)
        return found[key]

    return run


def test_inputs_are_rounded_as_the_oracle_rounds(made: Callable[..., Arrays], layer: Arrays):
    packed, scales, scale_2 = nvfp4.quantized(layer["x"])
    expected = nvfp4.dequantized(packed, scales, scale_2)
    np.testing.assert_allclose(made("mse")["x_seen"], expected, rtol=1e-6)


@pytest.mark.parametrize("algorithm", ["max", "mse", "local_hessian"])
@pytest.mark.parametrize("name", PAIR)
def test_what_is_exported_is_what_the_search_looked_at(
    made: Callable[..., Arrays], layer: Arrays, algorithm: str, name: str
):
    """The same by the oracle's reading of the bytes, by the tool's quantizer, and by rounding anew."""
    found = made(algorithm)
    scales, scale_2 = found[f"{name}.scale"], float(found["scale_2"])
    again = nvfp4.dequantized(found[f"{name}.packed"], scales, scale_2)
    np.testing.assert_allclose(found[f"{name}.q"], again, rtol=1e-6)
    np.testing.assert_allclose(nvfp4.at_scales(layer[name], scales, scale_2), again, rtol=1e-6)


@pytest.mark.parametrize("name", PAIR)
@pytest.mark.parametrize("algorithm", ["mse", "local_hessian"])
def test_no_other_scale_gives_a_smaller_error(
    made: Callable[..., Arrays], layer: Arrays, algorithm: str, name: str
):
    found, largest = made(algorithm), made("max")
    assert found["scale_2"] == largest["scale_2"]
    by = None if algorithm == "mse" else layer["x"].astype(np.float64).T @ layer["x"].astype(np.float64)
    w, scale_2 = layer[name], float(found["scale_2"])
    errors = {
        key: nvfp4.block_errors(w, nvfp4.at_scales(w, each[f"{name}.scale"], scale_2), by)
        for key, each in (("found", found), ("largest", largest))
    }
    np.testing.assert_allclose(errors["found"], nvfp4.least_errors(w, scale_2, by), rtol=1e-3)
    assert (errors["found"] <= errors["largest"] * 1.001).all()
    assert errors["found"].sum() < 0.9 * errors["largest"].sum()


def test_what_the_engine_fuses_has_one_scale_from_the_start(made: Callable[..., Arrays], layer: Arrays):
    """0.2 of the weights: a scale of its own would be a fifth."""
    expected = np.float32(max(np.abs(layer[name]).max() for name in PAIR)) / np.float32(6 * 448)
    for algorithm in ("max", "mse", "local_hessian"):
        assert made(algorithm)["scale_2"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", PAIR)
@pytest.mark.parametrize("algorithm", ["max", "mse"])
def test_gptq_rounds_as_the_oracle(made: Callable[..., Arrays], layer: Arrays, algorithm: str, name: str):
    found = made(algorithm, rounding="gptq", damp_percent=0.01)
    searched = made(algorithm)
    scales, scale_2 = found[f"{name}.scale"], float(found["scale_2"])
    assert (scales == searched[f"{name}.scale"]).all()
    x = found["x_seen"].astype(np.float64)
    q, margin, order = nvfp4.compensated(layer[name], scales, scale_2, x.T @ x, 0.01)
    again = nvfp4.dequantized(found[f"{name}.packed"], scales, scale_2)
    same = np.isclose(again, q, rtol=1e-5).all(axis=1)
    assert same.sum() >= OUT - 2
    for row in np.flatnonzero(~same):
        first = (~np.isclose(again, q, rtol=1e-5))[row, order].argmax()
        assert margin[row, order[first]] < 1e-3
    nearest = nvfp4.at_scales(layer[name], scales, scale_2)
    errors = [np.square((each - layer[name]) @ x.T).sum() for each in (again, nearest)]
    assert errors[0] < 0.7 * errors[1]


def test_damping_tends_to_rounding_to_nearest(made: Callable[..., Arrays], layer: Arrays):
    """So the damping is read: the more of it, the fewer codes differ."""
    nearest = made("mse")["in_proj_z.packed"]
    differ = []
    for damp in (0.01, 0.99):
        found = made("mse", rounding="gptq", damp_percent=damp)
        differ.append((found["in_proj_z.packed"] != nearest).sum())
    assert differ[0] > differ[1] > 0


def test_inputs_that_say_nothing_are_refused(tool: Tool, layer: Arrays):
    silent = layer | {"x": np.zeros_like(layer["x"])}
    with pytest.raises(ToolError, match=r"BackendError: .*cannot be inverted"):
        tool("modelopt", silent, algorithm="max", rounding="gptq", damp_percent=0.01)
