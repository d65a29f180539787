"""What a config claims of packed modules is held to their tensors; scales and groups to the base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints as c
import numpy as np
import pytest

from bot.checkpoint.source import open_source
from bot.errors import InputError
from bot.recipe import load
from bot.stages.audit import audit

DOWN = "model.language_model.layers.1.mlp.down_proj"
RECIPES = {"gptq": "gptq-w4a16-g128", "auto_round:auto_gptq": "autoround-w4a16-g128", "nvfp4": "nvfp4"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return c.make_base(tmp_path_factory.mktemp("base") / "base")


def failed(folder: Path, base: Path, packing: str, *, with_recipe: bool = True) -> set[str]:
    recipe = load(RECIPES[packing]) if with_recipe and packing in RECIPES else None
    return set(audit(open_source(str(folder)), base=open_source(str(base)), recipe=recipe).failed())


def claimed(folder: Path, base: Path, packing: str, change: Callable[[dict[str, Any]], Any]) -> set[str]:
    made = c.draft(base, packing)
    change(made.quantization)
    return failed(c.write(folder, made, base), base, packing, with_recipe=False)


@pytest.mark.parametrize("packing", ["gptq", "gptq_v2", "auto_round:auto_gptq", "auto_round"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"bits": 8}, {"bits": "4"}, {"bits": None}, {"bits": True}, {"group_size": 64}, {"group_size": -1},
        {"group_size": "128"}, {"sym": "true"}, {"desc_act": "false"}, {"quant_method": "awq"},
    ],
)  # fmt: skip
def test_a_wrong_figure_is_no_figure(tmp_path: Path, base: Path, packing: str, wrong: dict[str, Any]):
    assert "config.lists" in claimed(tmp_path / "x", base, packing, lambda config: config.update(wrong))


@pytest.mark.parametrize(
    ("packing", "key", "entry"),
    [
        ("gptq", "dynamic", {r"+:.*down_proj": {"bits": 8}}),
        ("gptq", "dynamic", {r".*down_proj": {"group_size": 64}}),
        ("auto_round:auto_gptq", "extra_config", {DOWN: {"bits": 8}}),
        ("auto_round:auto_gptq", "extra_config", {DOWN: {"bits": 4, "group_size": 64}}),
    ],
)
def test_an_override_is_held_to_its_modules(tmp_path: Path, base: Path, packing: str, key: str, entry: Any):
    def change(config: dict[str, Any]) -> None:
        config[key] = {**entry, **config.get(key, {})}

    assert "config.lists" in claimed(tmp_path / "x", base, packing, change)


def test_a_method_without_a_name_is_no_method(tmp_path: Path, base: Path):
    for packing in c.PACKINGS:
        folder = tmp_path / packing.replace(":", "-")
        assert "config.lists" in claimed(folder, base, packing, lambda config: config.pop("quant_method"))


def test_nvfp4_needs_its_input_scales_and_its_kv_cache(tmp_path: Path, base: Path):
    made = c.draft(base, "nvfp4")
    del made.tensors[f"{DOWN}.input_scale"]
    assert "config.lists" in failed(c.write(tmp_path / "scale", made, base), base, "nvfp4")
    made = c.draft(base, "nvfp4")
    made.quantization.pop("kv_cache_scheme", None)
    assert "config.lists" in failed(c.write(tmp_path / "kv", made, base), base, "nvfp4")


@pytest.mark.parametrize("packing", ["gptq", "auto_round:auto_gptq"])
@pytest.mark.parametrize("damage", ["scaled", "one group lost", "one scale negated"])
def test_scales_and_groups_are_held_to_the_base(tmp_path: Path, base: Path, packing: str, damage: str):
    made = c.draft(base, packing)
    tensor = made.tensors[f"{DOWN}.scales"]
    assert tensor.dtype == "F16"
    scales = np.frombuffer(tensor.data, np.float16).reshape(tensor.shape).copy()
    if damage == "scaled":
        scales *= np.float16(1.2)
    elif damage == "one group lost":
        scales[0, 0] *= np.float16(2**-9)
    else:
        scales[0, 0] = -scales[0, 0]
    made.tensors[f"{DOWN}.scales"] = c.Tensor(tensor.dtype, tensor.shape, scales.tobytes())
    assert "weights.distance" in failed(c.write(tmp_path / "x", made, base), base, packing)


@pytest.mark.parametrize("pattern", ["-:(.|.)*X", "-:(?=.*)a", "-:" + ".*" * 4, "-:" + ".?" * 60, r"-:(a)\1"])
def test_a_pattern_that_could_take_forever_is_refused(tmp_path: Path, base: Path, pattern: str):
    def change(config: dict[str, Any]) -> None:
        config["dynamic"] = {pattern: {}, **config["dynamic"]}

    with pytest.raises(InputError, match="forever"):
        claimed(tmp_path / "x", base, "gptq", change)


def test_too_many_patterns_are_refused(tmp_path: Path, base: Path):
    def change(config: dict[str, Any]) -> None:
        config["dynamic"] = {f"-:module{i}": {} for i in range(20_000)}

    with pytest.raises(InputError, match="entries"):
        claimed(tmp_path / "x", base, "gptq", change)
