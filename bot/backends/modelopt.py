"""NVFP4 weights and activations by NVIDIA ModelOpt 0.47.0.

NVFP4 holds a weight as E2M1 (0, ±0.5, ±1, ±1.5, ±2, ±3, ±4, ±6), with one E4M3 scale for 16 of them along
the input and one FP32 scale a tensor: w = e2m1 · weight_scale · weight_scale_2. Activations get their block
scales at run time; calibration finds only the tensor's scale, `input_scale` = (largest value seen) / (6 ·
448). So the order of the samples does not matter, and each pass can only widen the range. The KV cache is
`fp8_cast`: the range of E4M3 itself (scale 1), so nothing is written for it.

A weight's block scale is a choice. `algorithm` max makes its largest weight ±6 exactly, and the others pay
for it: between 4 and 6 the grid is coarse. `mse` and `local_hessian` are the tool's searches through all
positive E4M3 numbers, by the squared error of the weights, or of the outputs (second moments of each block's
inputs). `rounding` gptq then chooses codes together instead of one by one (`modelopt_gptq.py`). Bits, tensors
and kernels stay the same.

How it is driven (0.47.0), and why:

- Quantizers are turned on by the full names of the recipe's coverage, and nothing else: the vision tower,
  MTP, lm_head and in_proj_a/b have none. The tool's default list, by contrast, is everything but some
  names.
- `layerwise` calibration: layer by layer, each one's inputs kept on disk, so that an interrupted run goes on
  after the last finished layer, bit for bit. Only scales are kept where weights do not change, GPTQ's weights
  too; a layer's inputs are removed when the next has its own, or 64 layers would keep 64 times some GB.
- Searched scales are stored, so their weight quantizers are `static`. What the engine fuses shares one global
  scale before the search; the tool's own list lacks in_proj_qkv with in_proj_z, which its export would change
  afterwards.
- Images go through the whole model, so that real vision tokens reach the language model; then text, as
  `full(input_ids=…)`: layerwise calibration replays both through the same entry.
- The tool has no loss. What is reported for a module is the relative Frobenius error of its dequantized
  weight.
- transformers does not know `mtp.*`: the tensors are passed to the export as they are in the base.

The tool rounds to FP4 in CUDA kernels only. Max calibration rounds nothing; for the rest a machine without
CUDA takes `patches/modelopt.py`. A forward after calibration is not made.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.backends import imports, observe
from bot.backends.patches import applied, said
from bot.backends.patches.modelopt import asked
from bot.backends.report import Report
from bot.backends.torchvision_ops import declare_missing
from bot.models import BackendJob, BackendResult, ParameterUse, write_atomically
from bot.recipe import Recipe
from bot.recipe_methods import NvFp4Method

if TYPE_CHECKING:
    from bot.backends.calibration import SampleSet

NVFP4 = {"num_bits": (2, 1), "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": (4, 3)}}
NVFP4_STATIC = {"num_bits": (2, 1), "block_sizes": {-1: 16, "type": "static", "scale_bits": (4, 3)}}
FP8_CAST = {"num_bits": (4, 3), "axis": None, "use_constant_amax": True}
GPTQ = "nvfp4_gptq"
# Full-match patterns of modules that the engine fuses: one global scale for all of a group.
FUSED = (
    r"(?:(.*)\.)?(?:q_proj|k_proj|v_proj)",
    r"(?:(.*)\.)?(?:gate_proj|up_proj)",
    r"(?:(.*)\.)?(?:in_proj_qkv|in_proj_z)",
)
MAX_SHARD_SIZE = "5GB"


def quantize(
    job: BackendJob, recipe: Recipe, calibration: Sequence[SampleSet], report: Report
) -> BackendResult:
    """Quantize with ModelOpt; see `bot.backends.Backend`."""
    method = recipe.method
    assert isinstance(method, NvFp4Method)
    base, state = Path(job.base_folder), Path(job.resume_folder) / "modelopt"
    shapes = observe.tensor_shapes(base)
    expected = observe.expected_modules(shapes, recipe)
    observe.require_divisible(shapes, expected, method.group_size)
    patches = declare_missing() if job.device == "cpu" else []
    report.phase("load", 1)
    started = time.monotonic()
    with imports.set_aside():
        import modelopt.torch.quantization as mtq
        import torch
        from modelopt.torch.export import export_hf_checkpoint
        from transformers import AutoModelForImageTextToText

        from bot.backends.nvfp4 import weight_errors

    if method.rounding == "gptq":
        from bot.backends import modelopt_gptq  # noqa: F401 (it registers its algorithm with the tool)

    placed = {"device_map": "auto"} if job.device == "cuda" else {}
    model = AutoModelForImageTextToText.from_pretrained(
        base, dtype=torch.bfloat16, local_files_only=True, **placed
    )
    model.eval()
    loaded = time.monotonic()
    calibrator = Calibrator(calibration, state, observe.num_layers(expected), report)
    rounding = asked(method) if job.device == "cpu" else []
    with calibrator.counting(model), applied(rounding) as acted:
        mtq.quantize(model, config(expected, method, state), calibrator.run)
    quantized = time.monotonic()
    report.phase("save", 1)
    model._mtp_layer_prefixes = ["mtp"]
    with torch.inference_mode():
        export_hf_checkpoint(
            model,
            export_dir=job.output_folder,
            extra_state_dict=observe.mtp_tensors(base),
            max_shard_size=MAX_SHARD_SIZE,
        )
    report.progress(1)
    modules = weight_errors(base, Path(job.output_folder), recipe.calibration.num_samples)
    observe.require_modules(expected, [each.name for each in modules])
    observe.require_finite(modules)
    return BackendResult(
        versions=observe.versions("nvidia-modelopt", "accelerate"),
        calibration=observe.require_samples(calibration, calibrator.seen()),
        modules=modules,
        loss_unit="relative Frobenius error of the dequantized weight (the tool itself has no loss)",
        parameters=parameters(method),
        patches=[*patches, *said(rounding, acted.counts())],
        num_layers=calibrator.total,
        resumed_layers=calibrator.resumed,
        can_resume=True,
        peak_memory_bytes=observe.peak_memory_bytes(),
        peak_gpu_memory_bytes=observe.peak_gpu_memory_bytes(),
        load_s=loaded - started,
        quantize_s=quantized - loaded,
        save_s=time.monotonic() - quantized,
    )


def config(expected: Sequence[str], method: NvFp4Method, state: Path) -> dict[str, Any]:
    """ModelOpt's configuration: everything off, then the recipe's modules on."""
    leaves = sorted({name.split(".", 4)[4] for name in expected})
    rules: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
    kinds = {"weight_quantizer": NVFP4 if _by_largest(method) else NVFP4_STATIC, "input_quantizer": NVFP4}
    for leaf in leaves:
        for kind, cfg in kinds.items():
            rules.append({"quantizer_name": f"*language_model.layers.*.{leaf}.{kind}", "cfg": cfg})
    if method.kv_cache == "fp8_cast":
        rules.append({"quantizer_name": "*language_model.layers.*[kv]_bmm_quantizer", "cfg": FP8_CAST})
    gptq = method.rounding == "gptq"
    layerwise = {"enable": True, "checkpoint_dir": str(state / "layers"), "calib_mutates_weights": gptq}
    return {"quant_cfg": rules, "algorithm": _algorithm(method) | {"layerwise": layerwise}}


def _by_largest(method: NvFp4Method) -> bool:
    """Whether nothing is searched or compensated: the tool's default, which stores no choice of its own."""
    return method.algorithm == "max" and method.rounding == "nearest"


def _algorithm(method: NvFp4Method) -> dict[str, Any]:
    scales: dict[str, Any] = {"method": method.algorithm}
    if _by_largest(method):
        return scales
    scales["shared_states"] = {"weight_global_amax": {"patterns": list(FUSED)}}
    if method.algorithm != "max":
        scales["fp8_scale_sweep"] = True
    if method.rounding == "nearest":
        return scales
    return {"method": GPTQ, "scale_algorithm": scales, "damp_percent": method.damp_percent}


class Calibrator:
    """Feeds every sample through the model each time the tool asks, and counts what its layers take in."""

    def __init__(self, sets: Sequence[SampleSet], state: Path, total: int, report: Report) -> None:
        self.total = total
        self.resumed = 0
        self._sets, self._state, self._report = sets, state, report
        self._counts = [0] * len(sets)
        self._current = 0
        self._rounds = 0
        finished = self._finished()
        self.resumed = finished if finished < total else 0  # all of them: the tool starts over
        if self.resumed:
            report.note(f"ModelOpt goes on after layer {self.resumed} of {total}")
        report.phase("layers", total)

    @contextmanager
    def counting(self, model: Any) -> Iterator[None]:
        """Count the samples that the last layer's calibration takes in: none got lost on the way to it."""
        last = model.model.language_model.layers[-1]

        def seen(module: Any, _args: Any) -> None:
            if getattr(getattr(module, "_layerwise_calib", None), "mode", "") == "capture":
                self._counts[self._current] += 1

        hook = last.register_forward_pre_hook(seen)
        try:
            yield
        finally:
            hook.remove()

    def run(self, model: Any) -> None:
        """The tool's forward loop: one round a layer."""
        import torch

        done = self.resumed + self._rounds
        self._rounds += 1
        self._counts = [0] * len(self._sets)
        finished, total = 0, sum(len(each) for each in self._sets)
        for index, each in enumerate(self._sets):
            self._current = index
            for sample in each:
                inputs = {name: value.to(model.device) for name, value in sample.items()}
                with torch.inference_mode():
                    model(**inputs, use_cache=False)
                finished += 1
                if finished % 16 == 0 or finished == total:
                    share = min(self.total, done + 0.95 * finished / total)
                    self._report.progress(round(share, 2), f"{each.use.rows} sample {finished} of {total}")
        if any(
            self._counts
        ):  # the last layer's inputs are on disk from now on: a later run does not see them
            write_atomically(self._state / "seen.json", json.dumps(self._counts).encode())
        for layer in range(self._finished() - 1):
            (self._state / "layers" / f"layer_{layer:04d}" / "next_inputs.pt").unlink(missing_ok=True)

    def _finished(self) -> int:
        try:
            manifest = self._state / "layers" / "manifest.json"
            return int(json.loads(manifest.read_text(encoding="utf-8"))["last_completed_layer"]) + 1
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def seen(self) -> list[int]:
        """Samples that the last layer took in, of each set."""
        return [int(count) for count in json.loads((self._state / "seen.json").read_text(encoding="utf-8"))]


def parameters(method: NvFp4Method) -> list[ParameterUse]:
    """Every parameter of the method, and whether it acted."""
    notes = {"kv_cache": "the range of FP8 itself: recorded in the config, no scale is measured or written"}
    values = {name: value for name, value in method.stated().items() if name != "backend"}
    return [
        ParameterUse(parameter=name, value=value, acted=value != "none", why=notes.get(name, "read"))
        for name, value in values.items()
    ]
