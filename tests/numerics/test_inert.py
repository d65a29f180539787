"""Which parameters act: the same small base quantized with each one on and off, by the real backends.

Cards list a parameter that the tool records and ignores as inert. Here that list is held to the bytes: what
is said to act must change a tensor when it is changed, and what is said to be inert must change none. The
base is the fixture's first linear and its full attention layer.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bot import recipe as recipes
from bot.demo.rehearsal import FIXTURE
from bot.recipe import Recipe
from bot.recipe_methods import AutoRoundMethod, GptqMethod, MethodModel, NvFp4Method
from tests.numerics.conftest import Tool, ToolError

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
Made = dict[str, Any]
LAYERS = "model.language_model.layers."
GPTQ = {"rounding": "gptq", "damp_percent": 0.01}


ONE_BY_ONE: list[tuple[str, str, dict[str, Any]]] = [
    ("gptq-foem-g32", "act_group_aware", {"act_group_aware": False}),
    ("gptq-foem-g32", "fallback_rtn_threshold", {"fallback_rtn_threshold": None}),
    ("gptq-foem-g32", "mse", {"mse": 0.0}),
    ("gptq-foem-g32", "foem_alpha", {"foem_alpha": 0.0}),
    ("gptq-foem-g32", "foem_beta", {"foem_beta": 0.0}),
    ("gptq-foem-g32", "true_sequential", {"true_sequential": False}),
    ("gptq-foem-g32", "damp_percent", {"damp_percent": 0.01}),
    ("gptq-foem-g32", "descent_sweeps", {"descent_sweeps": 2}),
    ("gptq-w4a16-g128", "desc_act", {"desc_act": False, "static_groups": False}),
    ("gptq-w4a16-g128", "damp_percent", {"damp_percent": 0.05}),
    ("gptq-w4a16-g128", "true_sequential", {"true_sequential": False}),
    ("autoround-w4a16-g128", "iterations", {"iterations": 30}),
    ("autoround-w4a16-g128", "batch_size", {"batch_size": 1}),
    ("autoround-w4a16-g128", "learning_rate", {"learning_rate": 0.02}),
    ("autoround-w4a16-g128", "minmax_learning_rate", {"minmax_learning_rate": 0.01}),
    ("autoround-w4a16-g128", "alg_ext", {"alg_ext": True}),
    ("autoround-w4a16-g128", "descent_sweeps", {"descent_sweeps": 2, "damp_percent": 0.05}),
    ("autoround-w4a16-g128", "low_gpu_mem_usage", {"low_gpu_mem_usage": False}),
    ("nvfp4", "algorithm", {"algorithm": "mse"}),
    ("nvfp4", "algorithm", {"algorithm": "local_hessian"}),
    ("nvfp4", "rounding", GPTQ),
]
# What makes another format, and what is asked elsewhere or cannot be here.
FORMAT = {"backend", "packing", "bits", "group_size", "sym"}
ELSEWHERE = {
    "static_groups": "with desc_act, which it is for",
    "patches": "test_a_patch_acts_in_a_whole_run",
    "kv_cache": "test_nvfp4s_cache_is_a_word_in_the_config; the other methods refuse it",
    "torch_compile": "off on CPUs, where compiling takes longer than the run",
}


@pytest.fixture(scope="module")
def base(tool: Tool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("short") / "base"
    tool("shorten", {}, base=str(FIXTURE), out=str(out), layers=[0, 3])
    return out


@pytest.fixture(scope="module")
def make(tool: Tool, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Made]:
    """`make(recipe name, **changes of its method)`: what its backend writes; each once."""
    folder, numbers, made = tmp_path_factory.mktemp("runs"), itertools.count(), {}

    def run(name: str, **changes: Any) -> Made:
        key = json.dumps([name, changes], sort_keys=True)
        if key not in made:
            content = small(recipes.load(name)).model_dump(mode="json")
            content["method"] |= changes
            place = folder / str(next(numbers))
            found = tool("backend", {}, recipe=content, base=str(base), folder=str(place))
            made[key] = json.loads(str(found["json"]))
        return made[key]

    return run


def small(recipe: Recipe) -> Recipe:
    """Four samples of 64 tokens. AutoRound's 20 steps are enough to leave plain rounding, 4 are not."""
    content = recipe.model_dump(mode="json")
    lengths = {"mode": "exact", "min_tokens": 64, "max_tokens": 64}
    one = content["calibration"]["sets"][-1] | {"rows": "text", "subsets": None, "num_samples": 4}
    content["calibration"]["sets"] = [one | {"columns": ["text"], "lengths": lengths}]
    if content["method"]["backend"] == "autoround":
        content["method"] |= {"iterations": 20, "batch_size": 2, "torch_compile": False}
    return Recipe.model_validate(content)


@pytest.mark.parametrize("method", [GptqMethod, AutoRoundMethod, NvFp4Method])
def test_every_parameter_is_asked_for(method: type[MethodModel]):
    """A field that a method gets must be seen to act, or to be inert: here, or where `ELSEWHERE` says."""
    backend = method.model_fields["backend"].annotation
    asked = {
        parameter
        for name, parameter, _ in ONE_BY_ONE
        if (backend.__args__ if backend else ()) == (recipes.load(name).method.backend,)
    }
    if method is not GptqMethod:
        asked |= {"damp_percent"}  # test_autorounds_descent_…, test_nvfp4s_damping_acts
    assert set(method.model_fields) - FORMAT - set(ELSEWHERE) == asked - FORMAT


@pytest.mark.parametrize(("name", "parameter", "changes"), ONE_BY_ONE)
def test_what_is_said_to_act_acts_and_nothing_else(
    make: Callable[..., Made], name: str, parameter: str, changes: dict[str, Any]
):
    on, off = make(name), make(name, **changes)
    if parameter not in on["acted"]:  # not said by the recipe: the other one is the run that has it
        on, off = off, on
    assert set(on["tensors"]) == set(off["tensors"])
    differ = {tensor for tensor, digest in on["tensors"].items() if off["tensors"][tensor] != digest}
    assert bool(differ) == on["acted"][parameter], f"{len(differ)} of {len(on['tensors'])} tensors differ"


def test_nvfp4s_cache_is_a_word_in_the_config(make: Callable[..., Made]):
    """fp8_cast measures nothing: no tensor differs, the config does; so the card says."""
    on, off = make("nvfp4"), make("nvfp4", kv_cache="none")
    assert on["tensors"] == off["tensors"]
    assert on["config"] != off["config"]
    assert on["acted"]["kv_cache"]
    assert not off["acted"]["kv_cache"]


@pytest.mark.parametrize(
    "changes", [{"algorithm": "mse"}, {"algorithm": "local_hessian"}, GPTQ | {"algorithm": "mse"}], ids=str
)
def test_nvfp4s_choices_are_other_numbers_in_the_same_format(
    make: Callable[..., Made], changes: dict[str, Any]
):
    """The same tensors, types, shapes and config; what differs is codes and blocks' scales."""
    plain, chosen = make("nvfp4"), make("nvfp4", **changes)
    assert chosen["config"] == plain["config"]
    assert chosen["layout"] == plain["layout"]
    differ = {name for name, digest in plain["tensors"].items() if chosen["tensors"][name] != digest}
    quantized = {name.removesuffix(".weight_scale") for name in differ if name.endswith(".weight_scale")}
    assert f"{LAYERS}0.mlp.down_proj" in quantized
    assert differ == {f"{name}.{part}" for name in quantized for part in ("weight", "weight_scale")}


def test_nvfp4s_damping_acts(make: Callable[..., Made]):
    weak, strong = make("nvfp4", **GPTQ), make("nvfp4", **GPTQ | {"damp_percent": 0.5})
    assert weak["acted"]["damp_percent"]
    assert weak["tensors"] != strong["tensors"]


def test_autorounds_descent_acts_behind_its_training(make: Callable[..., Made]):
    """Other codes and scales, in the same format; and its damping is not a word only."""
    plain = make("autoround-w4a16-g128")
    weak, strong = (make("autoround-w4a16-g128", descent_sweeps=2, damp_percent=damp) for damp in (0.05, 0.5))
    assert weak["layout"] == plain["layout"]
    assert weak["config"] == plain["config"]
    assert weak["acted"]["damp_percent"]
    assert len({json.dumps(each["tensors"], sort_keys=True) for each in (plain, weak, strong)}) == 3
    (said,) = [each for each in weak["patches"] if each.startswith("descent: ")]
    assert "(9 modules)" in said  # qkv, z, out, down of the linear layer; q, k, v, o, down of the other
    moved = {name for name, digest in plain["tensors"].items() if weak["tensors"][name] != digest}
    first = {name for name in moved if f"{LAYERS}0.mlp.gate_proj" in name or f"{LAYERS}0.mlp.up_proj" in name}
    assert first == set()  # as trained; the next layer's are trained on other inputs


def test_a_machine_without_cuda_says_what_stood_in(make: Callable[..., Made]):
    assert not [each for each in make("nvfp4")["patches"] if "fp4-without-cuda" in each]
    (said,) = [each for each in make("nvfp4", algorithm="mse")["patches"] if "fp4-without-cuda" in each]
    assert "tensors)" in said


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("nvfp4", {"algorithm": "mse"}),
        ("nvfp4", GPTQ),
        ("autoround-w4a16-g128", {"descent_sweeps": 2, "damp_percent": 0.05}),
    ],
    ids=str,
)
def test_choices_survive_an_interruption(
    make: Callable[..., Made], tool: Tool, base: Path, name: str, changes: dict[str, Any], tmp_path: Path
):
    """Stopped behind the first of two layers: scales, weights and activations come back from disk."""
    content = small(recipes.load(name)).model_dump(mode="json")
    content["method"] |= changes
    given: dict[str, Any] = {"recipe": content, "base": str(base), "folder": str(tmp_path / "run")}
    with pytest.raises(ToolError, match="InterruptedError"):
        tool("backend", {}, **given, stop_after_layer=True)
    found = json.loads(str(tool("backend", {}, **given)["json"]))
    assert found["resumed_layers"] == 1
    assert found["acted"] == make(name, **changes)["acted"]
    swept = [each for each in found["patches"] if each.startswith("descent: ")]
    assert all("an interrupted run made the first 1 layers" in each for each in swept)
    assert bool(swept) == ("descent_sweeps" in changes)
    assert found["tensors"] == make(name, **changes)["tensors"]


@pytest.mark.parametrize("name", ["gptq-foem-g32", "gptq-w4a16-g128", "autoround-w4a16-g128", "nvfp4"])
def test_the_same_again_is_the_same(
    make: Callable[..., Made], tool: Tool, base: Path, name: str, tmp_path: Path
):
    """Without this, two runs that differ would prove nothing of the parameter."""
    content = small(recipes.load(name)).model_dump(mode="json")
    again = tool("backend", {}, recipe=content, base=str(base), folder=str(tmp_path / "again"))
    assert json.loads(str(again["json"]))["tensors"] == make(name)["tensors"]


def test_a_patch_acts_in_a_whole_run(make: Callable[..., Made]):
    plain, patched = make("gptq-foem-g32"), make("gptq-foem-g32", patches=["fresh-group-scales"])
    assert patched["acted"]["patches.fresh-group-scales"]
    assert plain["tensors"] != patched["tensors"]
    assert make("gptq-foem-g32", patches=[])["tensors"] == plain["tensors"]
