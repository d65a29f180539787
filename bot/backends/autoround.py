"""AutoRound 0.16.1: rounding learned by signed gradient descent, decoder layer by decoder layer.

For each layer the rounding offsets and the clipping of each group are trained for `iterations` steps to
bring the quantized layer's output near the original's, on batches of the calibration samples; the best step
is kept. The weights become `auto_round:auto_gptq`: GPTQ's layout with zero points stored minus one.

With `descent_sweeps` codes and scales are improved one by one behind each layer's training, by a patch
(`block_descent.py`).

Traps of 0.16.1, and what is done about each:

- A model object loaded as CausalLM has its vision tower quantized: a path is passed.
- In multimodal mode (Qwen3.5 is one) each item of the data set counts as `batch_size` samples, whatever it
  holds: batches are made here, and the samples that reach the first layer are counted by a hook.
- A calibration forward that fails is only a warning, as is a parameter that is ignored: each is an error
  here.
- A NaN loss never counts as better, so plain rounding stays without a word: losses are read and checked.
- The MTP head's Linear layers become INT4 unless named, in_proj_a/b by chance do not: all are named.
- The output lies in a folder of the tool's naming, with one shard a layer when it can resume; a kill at the
  wrong moment leaves a layer twice, half, or unfound (`autoround_resume.py`).

**It resumes**, bit for bit: `AR_RESUME_DIR` keeps the activations between two layers, `AR_DISK_STREAM_MODEL`
has each finished layer written at once; both the tool's state and its output lie in the resume folder.
Losses of layers finished by an earlier run are kept there too. The tool alone resumes on other batches than
an uninterrupted run, since they come from a global generator: here each layer starts from a seed of its own.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.backends import imports, observe
from bot.backends.autoround_resume import reconcile
from bot.backends.autoround_watch import Watch
from bot.backends.patches import Patch, applied, said
from bot.backends.patches.autoround import asked, seeded_layers
from bot.backends.report import Report
from bot.backends.torchvision_ops import declare_missing
from bot.errors import RecipeError
from bot.models import BackendJob, BackendResult, ModuleResult, ParameterUse
from bot.recipe import Recipe
from bot.recipe_methods import AutoRoundMethod

if TYPE_CHECKING:
    from bot.backends.calibration import SampleSet

_KEEP = {"bits": 16, "data_type": "fp"}
_KEPT_PATTERNS = (".*mtp.*", ".*visual.*", ".*lm_head.*")


def quantize(
    job: BackendJob, recipe: Recipe, calibration: Sequence[SampleSet], report: Report
) -> BackendResult:
    """Quantize with AutoRound; see `bot.backends.Backend`."""
    method = recipe.method
    assert isinstance(method, AutoRoundMethod)
    if method.iterations == 0:
        raise RecipeError(
            "iterations 0 is plain rounding, not AutoRound", fix="set method.iterations above 0"
        )
    base, state = Path(job.base_folder), Path(job.resume_folder) / "autoround"
    shapes = observe.tensor_shapes(base)
    expected = observe.expected_modules(shapes, recipe)
    observe.require_divisible(shapes, expected, method.group_size)
    total = observe.num_layers(expected)
    reconcile(state, base)
    os.environ |= {"AR_RESUME_DIR": str(state / "layers"), "AR_DISK_STREAM_MODEL": "1"}
    os.environ["AR_WORK_SPACE"] = str(state / "work")
    patches = declare_missing() if job.device == "cpu" else []
    report.phase("load", 1)
    started = time.monotonic()
    with imports.set_aside():
        import auto_round

    watch = Watch(state / "losses.json", total, report)
    logging.getLogger("autoround").addHandler(watch)
    batches = Batches(calibration, method.batch_size)
    tool = auto_round.AutoRound(
        str(base),
        scheme="W4A16" if method.bits == 4 else "W8A16",
        bits=method.bits,
        group_size=method.group_size,
        sym=method.sym,
        iters=method.iterations,
        nsamples=recipe.calibration.num_samples,
        seqlen=_length(calibration),
        batch_size=method.batch_size,
        seed=recipe.calibration.seed,
        dataset=batches,
        layer_config={pattern: dict(_KEEP) for pattern in [*_KEPT_PATTERNS, *_uncovered(shapes, expected)]},
        **_tuning(method),
        low_gpu_mem_usage=method.low_gpu_mem_usage,
        enable_torch_compile=method.torch_compile,
        device_map="cpu" if job.device == "cpu" else 0,
    )
    loaded = time.monotonic()
    mends = [seeded_layers(recipe.calibration.seed), *asked(method)]
    with applied(mends) as acted, _counted(expected[0]) as count:
        _, folders = tool.quantize_and_save(str(state / "output"), format=method.packing)
    watch.check()
    quantized, resumed = time.monotonic(), total - watch.trained
    folder = Path(folders[0] if isinstance(folders, list) else folders)
    modules = _modules(folder, watch.losses, recipe.calibration.num_samples)
    observe.require_modules(expected, [each.name for each in modules])
    observe.require_finite(modules)
    used = observe.require_samples(calibration, batches.share(count.samples))
    report.phase("save", 1)
    shutil.move(folder, job.output_folder)
    report.progress(1)
    return BackendResult(
        versions=observe.versions("auto-round", "accelerate"),
        calibration=used,
        modules=modules,
        loss_unit="mean squared error of the layer's output after training"
        + (", before the descent" if method.descent_sweeps else "")
        + " (one figure a layer)",
        parameters=parameters(method, job, acted.counts(), resumed_layers=resumed),
        patches=[
            *patches,
            *_said(mends, acted.counts(), resumed),
        ],
        num_layers=total,
        resumed_layers=resumed,
        can_resume=True,
        peak_memory_bytes=observe.peak_memory_bytes(),
        peak_gpu_memory_bytes=observe.peak_gpu_memory_bytes(),
        load_s=loaded - started,
        quantize_s=quantized - loaded,
        save_s=time.monotonic() - quantized,
    )


def _tuning(method: AutoRoundMethod) -> dict[str, Any]:
    """What a recipe may say of the training; what it does not say is left to the tool."""
    said = {"lr": method.learning_rate, "minmax_lr": method.minmax_learning_rate}
    found: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    return found | ({"enable_alg_ext": True} if method.alg_ext else {})


def _length(calibration: Sequence[SampleSet]) -> int:
    lengths = {length for each in calibration for length in (each.use.min_tokens, each.use.max_tokens)}
    if len(lengths) > 1:
        raise RecipeError(
            f"AutoRound needs samples of one length, not of {sorted(lengths)}", fix="use lengths.mode exact"
        )
    return lengths.pop()


def _uncovered(shapes: dict[str, tuple[int, ...]], expected: Sequence[str]) -> list[str]:
    """Full names of the decoder layers' matrices that the recipe does not cover."""
    names = [name for name, shape in shapes.items() if observe.LAYER.match(name) and len(shape) == 2]
    return sorted({name.removesuffix(".weight") for name in names} - set(expected))


class Batches:
    """The samples as the batches that the tool counts; as text their digest, for its resume key."""

    def __init__(self, calibration: Sequence[SampleSet], batch_size: int) -> None:
        self._sets = calibration
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        import torch

        samples = [sample for each in self._sets for sample in each]
        for start in range(0, len(samples), self._batch_size):
            part = samples[start : start + self._batch_size]
            yield {
                name: torch.cat([sample[name] for sample in part]) for name in ("input_ids", "attention_mask")
            }

    def __str__(self) -> str:
        return " ".join(each.use.sha256 for each in self._sets) + f" by {self._batch_size}"

    def share(self, count: int) -> list[int]:
        """`count` samples, seen in order, as counts of each set."""
        shares = []
        for each in self._sets[:-1]:
            shares.append(min(count, len(each)))
            count -= shares[-1]
        return [*shares, count]


class _Count:
    samples = 0


@contextmanager
def _counted(module: str) -> Iterator[_Count]:
    """Count the samples that reach the first decoder layer while the tool calibrates, and only then."""
    from auto_round.calibration.mllm import MLLMCalibrator

    count, calib = _Count(), MLLMCalibrator.calib
    layer = observe.LAYER.match(f"{module}.weight")
    assert layer is not None

    def counting(self: Any, nsamples: int, bs: int) -> None:
        def seen(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            count.samples += hidden.shape[0]

        first = self.model.get_submodule(layer[1]).register_forward_pre_hook(seen, with_kwargs=True)
        try:
            calib(self, nsamples, bs)
        finally:
            first.remove()

    MLLMCalibrator.calib = counting
    try:
        yield count
    finally:
        MLLMCalibrator.calib = calib


def _modules(folder: Path, losses: dict[int, float], num_samples: int) -> list[ModuleResult]:
    """The modules that are packed in the output, each with its layer's loss."""
    packed = [
        name.removesuffix(".qweight") for name in observe.tensor_shapes(folder) if name.endswith(".qweight")
    ]
    found = []
    for name in sorted(packed):
        layer = observe.LAYER.match(f"{name}.weight")
        loss = losses[int(layer[2])] if layer else math.nan
        found.append(ModuleResult(name=name, loss=loss, num_samples=num_samples, damp=None))
    return found


def _said(mends: Sequence[Patch], acted: Mapping[str, int], resumed_layers: int) -> list[str]:
    """The patches that acted. Counts are of this run: layers of an interrupted one had the same patches."""
    if not resumed_layers:
        return said(mends, acted)
    return [
        f"{each.name}: {each.what} ({acted.get(each.name, 0):,} {each.unit} in this run; "
        f"an interrupted run made the first {resumed_layers} layers)"
        for each in mends
    ]


def parameters(
    method: AutoRoundMethod, job: BackendJob, acted: Mapping[str, int], *, resumed_layers: int = 0
) -> list[ParameterUse]:
    """Every parameter of the method, and whether it acted; `acted`: patch → modules that it changed."""
    inert = {"kv_cache": "the method leaves the cache alone"}
    if not (acted.get("descent") or resumed_layers):  # what an interrupted run changed is not counted
        inert |= dict.fromkeys(("descent_sweeps", "damp_percent"), "changed no value in this run")
    if job.device == "cpu":
        inert["low_gpu_mem_usage"] = "there is no GPU"
    if not method.torch_compile:
        inert["torch_compile"] = "off"
    values = {name: value for name, value in method.stated().items() if name != "backend"}
    return [
        ParameterUse(parameter=name, value=value, acted=name not in inert, why=inert.get(name, "read"))
        for name, value in values.items()
    ]
