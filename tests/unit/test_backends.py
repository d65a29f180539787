"""The backends' pure parts: what is expected, what is checked, and what is said to have acted."""

from __future__ import annotations

import json
import logging
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from bot import recipe as recipes
from bot.backends import autoround, autoround_resume, gptqmodel, modelopt, native_inputs, observe, worker
from bot.backends.autoround_watch import Watch
from bot.backends.patches import said
from bot.backends.patches.gptqmodel import PATCHES
from bot.backends.report import Report
from bot.edges import failures, process
from bot.edges.environment import Environment
from bot.errors import BackendError, InfrastructureError, InputError, RecipeError
from bot.models import BackendJob, BackendResult, Base, CalibrationUse, ModuleResult, Release, write_json
from bot.recipe_methods import NvFp4Method
from bot.stages import quantize as stage

PREFIX = "model.language_model.layers."


class Drawn:
    """A calibration set as far as counting goes."""

    def __init__(self, size: int, dataset: str = "org/set") -> None:
        self.size = size
        self.use = CalibrationUse(
            dataset=dataset, revision="0" * 40, config=None, split="train", subsets=None, rows="text",
            num_samples=size, num_samples_seen=0, num_tokens=10 * size, min_tokens=10, max_tokens=10,
            num_images=0, sha256="a" * 64,
        )  # fmt: skip

    def __len__(self) -> int:
        return self.size

    def seen(self, count: int) -> CalibrationUse:
        return self.use.model_copy(update={"num_samples_seen": count})


class Said(Report):
    """A report that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []

    def _send(self, event: dict[str, Any]) -> None:
        self.events.append(event)


def module(name: str, loss: float = 0.1, **more: Any) -> ModuleResult:
    return ModuleResult(name=name, loss=loss, num_samples=4, damp=more.get("damp"))


# ── what is expected ───────────────────────────────────────────────────────────────────────


@pytest.fixture
def base(tmp_path: Path) -> Path:
    shapes = {
        "0.mlp.down_proj.weight": (4, 48),
        "0.linear_attn.in_proj_a.weight": (2, 48),
        "1.mlp.down_proj.weight": (4, 48),
        "1.self_attn.q_norm.weight": (4,),
    }
    tensors = {PREFIX + name: np.zeros(shape, np.float16) for name, shape in shapes.items()}
    save_file(tensors, tmp_path / "a.safetensors")
    others = [
        "mtp.layers.0.mlp.down_proj.weight",
        "model.visual.blocks.0.mlp.down_proj.weight",
        "lm_head.weight",
    ]
    save_file({name: np.zeros((4, 48), np.float16) for name in others}, tmp_path / "b.safetensors")
    return tmp_path


def test_expected_modules_come_from_the_bases_headers(base: Path):
    expected = observe.expected_modules(observe.tensor_shapes(base), recipes.load("nvfp4"))
    assert expected == [PREFIX + "0.mlp.down_proj", PREFIX + "1.mlp.down_proj"]
    assert observe.num_layers(expected) == 2


def test_a_base_of_another_architecture_is_refused():
    with pytest.raises(InputError, match=r"coverage\.quantize"):
        observe.expected_modules(["model.layers.0.mlp.down_proj.weight"], recipes.load("nvfp4"))


def test_a_folder_without_weights_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no safetensors"):
        observe.tensor_shapes(tmp_path)


def test_a_group_size_that_does_not_divide_names_the_module(base: Path):
    shapes = observe.tensor_shapes(base)
    expected = observe.expected_modules(shapes, recipes.load("nvfp4"))
    observe.require_divisible(shapes, expected, 16)
    with pytest.raises(InputError, match="group_size 32 does not divide the input width 48") as caught:
        observe.require_divisible(shapes, expected, 32)
    assert "0.mlp.down_proj and 1 more" in caught.value.where


@pytest.mark.parametrize(("got", "words"), [(["a"], "not quantized: b"), (["a", "b", "c"], "not wanted: c")])
def test_other_modules_than_the_recipes_are_an_error(got: list[str], words: str):
    observe.require_modules(["a", "b"], ["b", "a"])
    with pytest.raises(BackendError) as caught:
        observe.require_modules(["a", "b"], got)
    assert words in caught.value.where


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_an_error(loss: float):
    observe.require_finite([module("a"), module("b", 0.0)])
    with pytest.raises(BackendError, match="not finite") as caught:
        observe.require_finite([module("a"), module("b", loss)])
    assert caught.value.where == "b"


@pytest.mark.parametrize("seen", [[4, 7], [4, 9], [3, 8], [8, 4]])
def test_every_sample_must_be_seen_once(seen: list[int]):
    sets = [Drawn(4), Drawn(8)]
    assert [use.num_samples_seen for use in observe.require_samples(sets, [4, 8])] == [4, 8]
    with pytest.raises(BackendError, match=r"the tool saw \d of the [48] calibration samples"):
        observe.require_samples(sets, seen)


# ── GPTQModel ──────────────────────────────────────────────────────────────────────────────


def gptq_row(**more: str) -> dict[str, Any]:
    row = {"layer": 3, "module": "mlp.down_proj", "loss": "0.0100000000", "samples": "64", "damp": "0.01000"}
    return {**row, **more}


def test_gptqmodels_log_becomes_modules():
    method = recipes.load("gptq-w4a16-g128").method
    found = gptqmodel.modules({"gptq": [gptq_row()]}, method, num_samples=4, num_tokens=64)
    assert found == [ModuleResult(name=PREFIX + "3.mlp.down_proj", loss=0.01, num_samples=4, damp=0.01)]


def test_foem_counts_samples_and_plain_gptq_tokens():
    foem = recipes.load("gptq-foem-g32").method
    log = {"native": [{"layer": 3}], "gptq": [gptq_row(samples="4")]}
    assert len(gptqmodel.modules(log, foem, num_samples=4, num_tokens=64)) == 1
    with pytest.raises(BackendError, match="saw 4 calibration tokens, and was given 64"):
        gptqmodel.modules(log, recipes.load("gptq-w4a16-g128").method, num_samples=4, num_tokens=64)
    with pytest.raises(BackendError, match="saw 3 calibration samples, and was given 4"):
        gptqmodel.modules({"gptq": [gptq_row(samples="3")]}, foem, num_samples=4, num_tokens=64)


def test_a_module_that_fell_back_to_plain_rounding_is_an_error():
    method = recipes.load("gptq-w4a16-g128").method
    with pytest.raises(BackendError, match=r"plain rounding.*fallback\(rtn\)"):
        gptqmodel.modules(
            {"gptq": [gptq_row(loss="fallback(rtn): 0.0012")]}, method, num_samples=4, num_tokens=64
        )


def test_what_of_the_gptq_recipes_acts():
    def inert(name: str) -> set[str]:
        method = recipes.load(name).method
        return {
            each.parameter
            for each in gptqmodel.parameters(method, [module("a", damp=method.damp_percent)], {})
            if not each.acted
        }

    assert {"act_group_aware", "fallback_rtn_threshold"} <= inert("gptq-foem-g32")
    assert not {"mse", "foem_alpha", "foem_beta", "true_sequential", "damp_percent"} & inert("gptq-foem-g32")
    assert {"mse", "act_group_aware", "foem_alpha"} <= inert("gptq-w4a16-g128")
    assert not {"desc_act", "static_groups", "damp_percent"} & inert("gptq-w4a16-g128")


def test_raised_damping_is_told():
    method = recipes.load("gptq-w4a16-g128").method
    found = gptqmodel.parameters(method, [module("a", damp=0.01), module("b", damp=0.03)], {})
    assert "0.03" in next(each.why for each in found if each.parameter == "damp_percent")


def test_patches_are_listed_one_by_one_with_what_they_changed():
    foem = recipes.load("gptq-foem-g32").method
    asked = foem.model_copy(update={"patches": ["fresh-group-scales", "foem-cross-block"]})
    acted = {"fresh-group-scales": 1234}
    found = {each.parameter: each for each in gptqmodel.parameters(asked, [], acted)}
    assert found["patches.fresh-group-scales"].acted
    assert "1,234 groups" in found["patches.fresh-group-scales"].why
    assert not found["patches.foem-cross-block"].acted
    (listed,) = said([PATCHES[name] for name in asked.patches], acted)
    assert listed.startswith("fresh-group-scales: ")
    assert said([], {}) == []
    assert sum("patch" in name for name in found) == 2


# ── AutoRound ──────────────────────────────────────────────────────────────────────────────

DONE = "quantized 8/10 layers in the block, loss iter 0: {} -> iter 19: {}"


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path / "losses.json", 2, Said())


def say(watch: Watch, message: str, level: int = logging.INFO) -> None:
    watch.handle(logging.LogRecord("autoround", level, "f", 1, message, None, None))


def test_autorounds_log_gives_the_loss_of_each_layer(watch: Watch):
    for last in ("1.200e-02", "8.000e-03"):
        say(watch, DONE.format("2.000e-02", last))
    watch.check()
    assert watch.losses == {0: 0.012, 1: 0.008}
    assert watch.trained == 2


def test_losses_of_an_earlier_run_are_kept(watch: Watch, tmp_path: Path):
    say(watch, DONE.format("2.000e-02", "1.200e-02"))
    again = Watch(tmp_path / "losses.json", 2, Said())
    say(again, "ResumeState: resuming after 1/2 already-quantized blocks")
    say(again, DONE.format("2.000e-02", "8.000e-03"))
    again.check()
    assert again.losses == {0: 0.012, 1: 0.008}
    assert again.trained == 1


def test_a_nan_at_the_start_is_the_layers_loss(watch: Watch):
    # AutoRound keeps the best step; nothing is better than NaN, so its last figure is a large constant.
    say(watch, DONE.format("nan", "3.403e+38"))
    assert math.isnan(watch.losses[0])


@pytest.mark.parametrize(
    "message",
    [
        "Calibration forward pass failed: out of memory",
        "AutoRound received unsupported runtime kwargs foo. They will be ignored.",
        "RTN-specific parameter x was provided, but RTN is not enabled. The parameter is ignored.",
        "Insufficient number of samples: required 128, but only 120 were processed.",
    ],
)
def test_what_autoround_only_warns_of_is_an_error(watch: Watch, message: str):
    for _ in range(2):
        say(watch, DONE.format("2.000e-02", "1.200e-02"))
    watch.check()
    say(watch, message, logging.WARNING)
    with pytest.raises(BackendError) as caught:
        watch.check()
    assert message in caught.value.what


def test_a_layer_without_a_loss_is_an_error(watch: Watch):
    say(watch, DONE.format("2.000e-02", "1.200e-02"))
    with pytest.raises(BackendError, match="trained 1 of 2 layers"):
        watch.check()


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """What AutoRound leaves when it is killed after two layers."""
    state, folder = tmp_path / "state", tmp_path / "state" / "output" / "tiny-w4g128"
    autoround_resume.reconcile(state, tmp_path / "base")
    folder.mkdir(parents=True)
    for number in (1, 2):
        save_file(layer_tensors(number - 1), folder / f"model-shard-0000{number}.safetensors")
    (state / "layers" / "group_0").mkdir(parents=True)
    manifest = {"signature": "x", "completed_blocks": [PREFIX + "0", PREFIX + "1"]}
    (state / "layers" / "group_0" / "resume_manifest.json").write_text(json.dumps(manifest))
    (state / "losses.json").write_text("{}")
    return state


def layer_tensors(number: int) -> dict[str, np.ndarray[Any, Any]]:
    return {f"{PREFIX}{number}.mlp.down_proj.{part}": np.ones((4, 4)) for part in ("qweight", "scales")}


def shards(state: Path) -> list[str]:
    return sorted(path.name for path in (state / "output").glob("*/*"))


WHOLE = ["model-shard-00001.safetensors", "model-shard-00002.safetensors"]


def test_whole_layers_are_gone_on_from(interrupted: Path, tmp_path: Path):
    assert autoround_resume.reconcile(interrupted, tmp_path / "base") == [PREFIX + "0", PREFIX + "1"]
    assert shards(interrupted) == WHOLE
    assert (interrupted / "losses.json").exists()


@pytest.mark.parametrize(
    "what", ["unnoted layer", "outside the layers", "cut", "twice", "empty", "index", "text"]
)
def test_what_is_not_of_finished_layers_is_removed(interrupted: Path, tmp_path: Path, what: str):
    folder = next((interrupted / "output").iterdir())
    third, second = folder / "model-shard-00003.safetensors", folder / "model-shard-00002.safetensors"
    if what == "unnoted layer":
        save_file(layer_tensors(2), third)
    elif what == "outside the layers":
        save_file({"lm_head.weight": np.ones(4), **layer_tensors(1)}, third)
    elif what == "cut":
        third.write_bytes(second.read_bytes()[:-8])
    elif what == "twice":
        third.write_bytes(second.read_bytes())
    elif what == "index":
        (folder / "model.safetensors.index.json").write_text("{}")
    else:
        third.write_bytes(b"" if what == "empty" else b"not a shard at all")
    assert len(autoround_resume.reconcile(interrupted, tmp_path / "base")) == 2
    assert shards(interrupted) == WHOLE


def test_shards_under_their_final_names_are_found(interrupted: Path, tmp_path: Path):
    for path in list((interrupted / "output").glob("*/*")):
        path.rename(path.with_name(f"model-{path.name[12:17]}-of-00003.safetensors"))
    save_file({"lm_head.weight": np.ones(4)}, path.with_name("model-00003-of-00003.safetensors"))
    assert len(autoround_resume.reconcile(interrupted, tmp_path / "base")) == 2
    assert shards(interrupted) == WHOLE


@pytest.mark.parametrize(
    "what", ["a finished layer is missing", "another base", "no manifest", "a broken manifest"]
)
def test_otherwise_everything_starts_over(interrupted: Path, tmp_path: Path, what: str):
    base, manifest = tmp_path / "base", interrupted / "layers" / "group_0" / "resume_manifest.json"
    if what == "a finished layer is missing":
        next(interrupted.glob("output/*/model-shard-00001*")).unlink()
    elif what == "another base":
        base = tmp_path / "elsewhere"
    elif what == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text("{")
    assert autoround_resume.reconcile(interrupted, base) == []
    assert [path.name for path in interrupted.iterdir()] == ["base"]


def test_counts_are_shared_over_the_sets_in_order():
    batches = autoround.Batches([Drawn(4), Drawn(8)], 4)
    assert batches.share(12) == [4, 8]
    assert batches.share(3) == [3, 0]
    assert batches.share(13) == [4, 9]


def test_the_batches_text_names_samples_and_batch_size():
    assert str(autoround.Batches([Drawn(4)], 4)) != str(autoround.Batches([Drawn(4)], 2))
    assert "a" * 64 in str(autoround.Batches([Drawn(4)], 4))


# ── ModelOpt ───────────────────────────────────────────────────────────────────────────────


def test_modelopt_turns_on_the_coverage_and_nothing_else(tmp_path: Path):
    recipe = recipes.load("nvfp4")
    expected = [f"{PREFIX}{layer}.{leaf}" for layer in (0, 1) for leaf in recipe.coverage.quantize]
    made = modelopt.config(expected, recipe.method, tmp_path)
    assert made["quant_cfg"][0] == {"quantizer_name": "*", "enable": False}
    names = [rule["quantizer_name"] for rule in made["quant_cfg"][1:]]
    assert all("language_model.layers." in name for name in names)
    assert len(names) == 2 * len(recipe.coverage.quantize) + 1
    assert not any(
        word in name for name in names for word in ("in_proj_a", "in_proj_b", "conv1d", "lm_head", "mtp")
    )
    assert made["algorithm"]["layerwise"]["checkpoint_dir"] == str(tmp_path / "layers")


def test_native_inputs_are_counted_once_an_input_and_kept_where_they_fit():
    """q, k and v read one tensor, o another; gate and up one, down another. The wider layer decides."""
    attention = {f"self_attn.{each}_proj": [8, 64] for each in "qkv"} | {"self_attn.o_proj": [8, 48]}
    mlp = {"mlp.gate_proj": [8, 64], "mlp.up_proj": [8, 64], "mlp.down_proj": [8, 160]}
    linear = {
        "linear_attn.in_proj_qkv": [8, 64],
        "linear_attn.in_proj_z": [8, 64],
        "linear_attn.out_proj": [8, 40],
    }
    layers = {0: linear | mlp, 1: attention | mlp}
    shapes = {
        f"{PREFIX}{at}.{name}.weight": shape for at, each in layers.items() for name, shape in each.items()
    }
    expected = [name.removesuffix(".weight") for name in shapes]
    shapes["model.language_model.embed_tokens.weight"] = [99, 64]
    held = 2 * 10 * (64 + 48 + 64 + 160 + 3 * 64)  # of the second layer, and the hidden states
    for free, where in ((2 * held, "auto"), (2 * held - 1, "cpu"), (0, "cpu")):
        assert native_inputs.device(shapes, expected, num_tokens=10, free_bytes=free) == where


def test_a_term_that_is_off_did_not_act():
    method = recipes.load("house-g32").method
    found = {each.parameter: each.acted for each in gptqmodel.parameters(method, [], {})}
    assert not found["foem_beta"]
    assert found["foem_alpha"]


def nvfp4(**choices: Any) -> NvFp4Method:
    stated = recipes.load("nvfp4").method.model_dump(exclude_unset=True)
    return NvFp4Method.model_validate(stated | choices)


@pytest.mark.parametrize("algorithm", ["max", "mse", "local_hessian"])
@pytest.mark.parametrize("rounding", [{}, {"rounding": "gptq", "damp_percent": 0.02}], ids=str)
def test_modelopt_is_told_each_choice(tmp_path: Path, algorithm: str, rounding: dict[str, Any]):
    """Stored scales need static blocks; changed weights are kept for a resume; fused pairs are named."""
    method = nvfp4(algorithm=algorithm, **rounding)
    made = modelopt.config([f"{PREFIX}0.linear_attn.in_proj_z"], method, tmp_path)
    weights, inputs = (rule["cfg"]["block_sizes"]["type"] for rule in made["quant_cfg"][1:3])
    told = made["algorithm"]
    assert (weights, inputs) == ("dynamic" if (algorithm, rounding) == ("max", {}) else "static", "dynamic")
    assert told["layerwise"]["calib_mutates_weights"] == bool(rounding)
    if rounding:
        assert (told["method"], told["damp_percent"]) == ("nvfp4_gptq", 0.02)
    scales = told.get("scale_algorithm", told)
    assert scales["method"] == algorithm
    assert scales.get("fp8_scale_sweep", False) == (algorithm != "max")
    if weights == "static":
        groups = scales["shared_states"]["weight_global_amax"]["patterns"]
        pair = [f"linear_attn.{leaf}" for leaf in ("in_proj_qkv", "in_proj_z")]
        assert sum(all(re.fullmatch(group, name) for name in pair) for group in groups) == 1


def test_modelopts_parameters_are_those_that_were_stated():
    plain = {each.parameter: each for each in modelopt.parameters(nvfp4())}
    assert plain["algorithm"].acted
    assert not {"rounding", "damp_percent"} & plain.keys()
    chosen = {each.parameter: each for each in modelopt.parameters(nvfp4(rounding="gptq", damp_percent=0.1))}
    assert chosen["rounding"].acted
    assert chosen["damp_percent"].value == 0.1


# ── the worker ─────────────────────────────────────────────────────────────────────────────


def job(tmp_path: Path, **more: Any) -> BackendJob:
    fields = {
        "backend": "modelopt", "base_folder": str(tmp_path), "base": Base(repo_id="a/b", revision="1" * 40),
        "output_folder": str(tmp_path / "out"), "resume_folder": str(tmp_path / "resume"),
        "result_file": str(tmp_path / "result.json"), "recipe": recipes.load("nvfp4").model_dump(mode="json"),
        "device": "cpu", "num_threads": 1,
    }  # fmt: skip
    return BackendJob.model_validate({**fields, **more})


class OutOfMemoryError(RuntimeError):
    """What torch calls a full GPU."""


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        (InputError("no template", fix="use another"), InputError, "no template"),
        (RecipeError("cannot"), RecipeError, "cannot"),
        (MemoryError(), InfrastructureError, "MemoryError"),
        (OutOfMemoryError("CUDA out of memory"), InfrastructureError, "CUDA out of memory"),
        (OSError(28, "No space left on device", "/x"), InfrastructureError, "No space left"),
        (ZeroDivisionError("division by zero"), BackendError, "ZeroDivisionError: division by zero"),
    ],
)
def test_a_workers_error_comes_back_as_the_same_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, kind: type[Exception], words: str
):
    def fail(*_: Any) -> None:
        raise raised

    monkeypatch.setitem(worker.PHASES, "calibrate", fail)
    made = job(tmp_path)
    (tmp_path / "job.json").write_text(made.model_dump_json())
    assert worker.main(["calibrate", str(tmp_path / "job.json")]) != 0
    back = failures.read_error(worker.error_file(made))
    assert type(back) is kind
    assert words in back.what


def test_reports_go_to_the_pipe_that_is_named(monkeypatch: pytest.MonkeyPatch):
    read, write = os.pipe()
    monkeypatch.setenv("RELEASE_BOT_EVENTS_FD", str(write))
    report = Report()
    report.phase("layers", 4)
    report.progress(2, "layer 1")
    report.note("resumed")
    os.close(write)
    with os.fdopen(read) as pipe:
        events = [json.loads(line) for line in pipe]
    assert events == [
        {"event": "phase", "label": "layers", "total": 4},
        {"event": "progress", "done": 2, "total": 4, "note": "layer 1"},
        {"event": "note", "text": "resumed"},
    ]
    report.progress(3)  # the bot is gone: no matter


# ── the stage around the worker ────────────────────────────────────────────────────────────


@dataclass
class Stage:
    """The quantize stage with a stand-in for the two processes."""

    work: Path
    base: Path
    runs: list[tuple[list[str], dict[str, str]]] = field(default_factory=list)
    fails: bool = False

    def run(self, argv: list[str], *, env: dict[str, str], log_file: Path, **_: Any) -> process.Child:
        self.runs.append((argv, env))
        if argv[-2] == "quantize":
            if self.fails:
                raise InfrastructureError("killed")
            made = BackendJob.model_validate_json(Path(argv[-1]).read_bytes())
            Path(made.output_folder).mkdir(exist_ok=True)
            (Path(made.output_folder) / "model.safetensors").write_bytes(b"weights")
            write_json(Path(made.result_file), RESULT)
        return process.Child(pid=1, argv=argv, log_file=log_file, peak_memory_bytes=7 * 2**20)

    def __call__(self, *, key: str = "k" * 16) -> Any:
        recipe = recipes.load("nvfp4")
        release = Release(
            key=key, base=Base(repo_id="a/b", revision="1" * 40), recipe_name="nvfp4",
            recipe_digest=recipe.digest(), recipe={}, toolchain_epoch=1, overrides={}, rehearsal=True,
            repinned={}, target_repo="x/y", endpoint_kind="embedded",
        )  # fmt: skip
        tools = Environment(name="quantize-cpu", python=Path("/env/python"), digest="e" * 64, versions={})
        env = {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_TOKEN": "hf_reading_token"}
        return stage.quantize(
            release, recipe, base_folder=self.base, work=self.work, environment=tools, extra_env=env
        )


RESULT = BackendResult(
    versions={}, calibration=[], modules=[], loss_unit="", parameters=[], patches=[], num_layers=1,
    resumed_layers=0, can_resume=True, peak_memory_bytes=5, peak_gpu_memory_bytes=None, load_s=0,
    quantize_s=0, save_s=0,
)  # fmt: skip


@pytest.fixture
def staged(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    (tmp_path / "work").mkdir()
    made = Stage(work=tmp_path / "work", base=base)
    monkeypatch.setattr(process, "run", made.run)
    return made


def test_only_drawing_samples_has_the_network_and_the_token(staged: Stage):
    staged()
    (draw, online), (make, offline) = staged.runs
    assert (draw[-2], make[-2]) == ("calibrate", "quantize")
    assert online["HF_TOKEN"] == "hf_reading_token"
    assert online["HF_ENDPOINT"] == "http://127.0.0.1:1"
    assert "HF_HUB_OFFLINE" not in online
    assert offline["HF_HUB_OFFLINE"] == offline["HF_DATASETS_OFFLINE"] == "1"
    assert not {"HF_TOKEN", "HF_ENDPOINT"} & offline.keys()


def test_the_worker_gets_the_bot_and_nothing_else_on_its_path(staged: Stage, monkeypatch: pytest.MonkeyPatch):
    seen: list[list[str]] = []
    inner = staged.run

    def look(argv: list[str], *, env: dict[str, str], **more: Any) -> process.Child:
        seen.append(sorted(os.listdir(env["PYTHONPATH"])))
        return inner(argv, env=env, **more)

    monkeypatch.setattr(process, "run", look)
    staged()
    assert seen == [["bot"], ["bot"]]


def test_nothing_runs_while_inputs_are_unchanged(staged: Stage):
    first = staged()
    assert first.result.peak_memory_bytes == 7 * 2**20  # the process tree's, where that is more
    assert [each.path for each in first.output_files] == ["model.safetensors"]
    assert staged() == first
    assert len(staged.runs) == 2


@pytest.mark.parametrize("change", ["key", "base", "output", "evidence"])
def test_a_change_runs_again(staged: Stage, change: str):
    staged()
    if change == "base":
        (staged.base / "config.json").write_text("{}")
    elif change == "output":
        (staged.work / "quantized" / "model.safetensors").write_bytes(b"cut")
    elif change == "evidence":
        (staged.work / "evidence" / "quantize.json").write_text("{")
    staged(key="l" * 16) if change == "key" else staged()
    assert len(staged.runs) == 4


def test_what_an_interrupted_run_left_is_kept_for_the_same_inputs_only(staged: Stage):
    staged.fails = True
    with pytest.raises(InfrastructureError):
        staged()
    assert not (staged.work / "evidence" / "quantize.json").exists()
    left = staged.work / "resume" / "layer-7"
    left.touch()
    with pytest.raises(InfrastructureError):
        staged()
    assert left.exists()
    (staged.base / "config.json").write_text("{}")
    with pytest.raises(InfrastructureError):
        staged()
    assert not left.exists()
    staged.fails = False
    staged()
    assert not (staged.work / "resume").exists()


def test_too_small_a_disk_is_refused_before_anything_runs(staged: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stage, "SPARE", 1e15)
    with pytest.raises(InfrastructureError, match="GiB are free"):
        staged()
    assert staged.runs == []
