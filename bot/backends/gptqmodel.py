"""GPTQ by GPTQModel 7.6.0: plain, with activation order and fixed groups, or with FOEM's compensation.

GPTQ rounds a layer's columns one after the other and moves each one's error onto the columns not yet
rounded, weighted by the inverse Hessian of the layer's inputs. FOEM (alpha, beta) adds what earlier
quantized layers have already changed in those inputs (alpha: GPTAQ's asymmetric term) and a first-order
term (beta).

Followed here, seen in 7.6.0 (file and what it does):

- `looper/gptq_processor.py`: under FOEM, `act_group_aware` and `fallback` are never read, nor is
  `hessian.dedup_shared_inputs`. They are reported as inert.
- `quantization/foem.py` counts samples, `gptq.py` tokens, as `samples`: both are compared with what was
  given.
- `utils/calibration.py` drops samples of 10 tokens and fewer, and cuts at `max_position_embeddings`.
- `batch_size` must be 1 for this family, and the samples may not be shuffled under FOEM, whose two passes
  would shuffle apart. They are sorted by length, longest first (the tool's default): a lack of memory shows
  at once.
- `models/definitions/qwen3_5.py` carries `mtp.*` over from the base's files. Vision, embeddings, lm_head,
  in_proj_a/b, conv1d and norms are not in its tree of modules, so they stay.
- The pack kernel is compiled on first use unless `pack_impl="original"`, whose bytes are the same.
- Losses are in `quantize()`'s return value also for FOEM, for which the tool writes no file.

- FOEM with alpha keeps every module's inputs of the unquantized layer, on the GPU or in main memory
  (`native_inputs.py` decides).

It cannot resume for this family: an interrupted run starts over. Not covered: several GPUs (its data parallel
mode can pair FOEM's inputs wrongly), so one device is used.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.backends import imports, native_inputs, observe
from bot.backends.patches import applied, said
from bot.backends.patches.gptqmodel import PATCHES, asked
from bot.backends.report import Report
from bot.backends.torchvision_ops import declare_missing
from bot.errors import BackendError, InputError
from bot.models import BackendJob, BackendResult, ModuleResult, ParameterUse
from bot.recipe import Recipe
from bot.recipe_methods import GptqMethod

if TYPE_CHECKING:
    from bot.backends.calibration import SampleSet

SHORTEST_SAMPLE = 11  # shorter ones are dropped by the tool


def quantize(
    job: BackendJob, recipe: Recipe, calibration: Sequence[SampleSet], report: Report
) -> BackendResult:
    """Quantize with GPTQModel; see `bot.backends.Backend`."""
    method = recipe.method
    assert isinstance(method, GptqMethod)
    base = Path(job.base_folder)
    shapes = observe.tensor_shapes(base)
    expected = observe.expected_modules(shapes, recipe)
    observe.require_divisible(shapes, expected, method.group_size)
    if min(each.use.min_tokens for each in calibration) < SHORTEST_SAMPLE:
        raise InputError(
            f"GPTQModel drops samples of fewer than {SHORTEST_SAMPLE} tokens",
            fix="raise lengths.min_tokens in the recipe",
        )
    # Read by the tool when it is imported: with fewer workers than it asks for, loading fails.
    os.environ["GPTQMODEL_CPU_WORKERS"] = str(max(2, job.num_threads))
    patches = declare_missing() if job.device == "cpu" else []
    with imports.set_aside():
        import torch
        from gptqmodel import GPTQModel

    report.note("GPTQModel cannot resume: what an interrupted run did is done again")
    shutil.rmtree(Path(job.resume_folder) / "offload", ignore_errors=True)
    report.phase("load", 1)
    started = time.monotonic()
    num_tokens = sum(each.use.num_tokens for each in calibration)
    free_bytes = torch.cuda.mem_get_info()[0] if job.device == "cuda" else 0
    place = native_inputs.device(shapes, expected, num_tokens=num_tokens, free_bytes=free_bytes)
    config = _config(method, job, expected, place)
    model = GPTQModel.load(str(base), config, dtype=torch.bfloat16, trust_remote_code=False)
    loaded = time.monotonic()
    total = observe.num_layers(expected)
    _follow(model, report, total)
    samples = [sample for each in calibration for sample in each]
    mends = asked(method)
    with applied(mends) as acted:
        log = model.quantize(samples, batch_size=1)
    quantized = time.monotonic()
    found = modules(log, method, num_samples=len(samples), num_tokens=num_tokens)
    observe.require_modules(expected, [each.name for each in found])
    observe.require_finite(found)
    report.phase("save", 1)
    model.save(job.output_folder)
    report.progress(1)
    return BackendResult(
        versions=observe.versions("gptqmodel"),
        calibration=[each.seen(len(each)) for each in calibration],
        modules=found,
        loss_unit="squared error of the outputs under the Hessian, per "
        + ("sample" if _foem(method) else "token")
        + (", before the descent" if method.descent_sweeps else ""),
        parameters=parameters(method, found, acted.counts()),
        patches=[
            *patches,
            "pack_impl=original (the tool's reference packer; same bytes, nothing compiled)",
            *said(mends, acted.counts()),
        ],
        num_layers=total,
        resumed_layers=0,
        can_resume=False,
        peak_memory_bytes=observe.peak_memory_bytes(),
        peak_gpu_memory_bytes=observe.peak_gpu_memory_bytes(),
        load_s=loaded - started,
        quantize_s=quantized - loaded,
        save_s=time.monotonic() - quantized,
    )


def _foem(method: GptqMethod) -> bool:
    return method.foem_alpha is not None


def _config(method: GptqMethod, job: BackendJob, expected: Sequence[str], native: str) -> Any:
    from gptqmodel.quantization import QuantizeConfig
    from gptqmodel.quantization.config import Fallback, FallbackStrategy, FOEMConfig

    threshold = method.fallback_rtn_threshold
    return QuantizeConfig(
        bits=method.bits,
        group_size=method.group_size,
        sym=method.sym,
        desc_act=method.desc_act,
        static_groups=method.static_groups,
        act_group_aware=method.act_group_aware,
        true_sequential=method.true_sequential,
        damp_percent=method.damp_percent,
        mse=method.mse,
        foem=FOEMConfig(alpha=method.foem_alpha, beta=method.foem_beta, device=native)
        if _foem(method)
        else None,
        fallback=Fallback(strategy=FallbackStrategy.RTN, threshold=threshold) if threshold else None,
        dynamic=_uncovered(expected),
        device=job.device,
        pack_impl="original",
        auto_forward_data_parallel=False,
        offload_to_disk_path=str(Path(job.resume_folder) / "offload"),
    )


def _uncovered(expected: Sequence[str]) -> dict[str, dict[str, Any]] | None:
    """Rules that keep the modules which the tool would quantize and the recipe does not cover."""
    from gptqmodel.models.definitions.qwen3_5 import Qwen3_5QModel

    parts = Qwen3_5QModel.module_tree[-1]
    tree = [(parent, spec.split(":")) for parent, specs in parts.items() for spec in specs]
    offered = {f"{parent}.{spec[0]}" for parent, spec in tree if "!" not in spec}
    covered = {name.split(".", 4)[4] for name in expected}
    return {rf"-:.*\.{name.replace('.', chr(92) + '.')}$": {} for name in sorted(offered - covered)} or None


def _follow(model: Any, report: Report, total: int) -> None:
    """Report progress layer by layer, and the parts of a layer in between."""
    report.phase("layers", total)

    def subset(
        *, stage: str, layer_idx: int, subset_index: int, subset_total: int, processor: str, **_: Any
    ) -> None:
        if stage == "quantize_complete":
            part = min(0.95, (subset_index + 1) / max(1, subset_total))
            report.progress(round(layer_idx + part, 2), f"layer {layer_idx}, {processor}")

    def layer(*, layer_idx: int, submodule_finalized: bool) -> None:
        if submodule_finalized:
            report.progress(layer_idx + 1, f"layer {layer_idx}")

    model.subset_callback = subset
    model.layer_callback = layer


def modules(
    log: dict[str, list[dict[str, Any]]], method: GptqMethod, *, num_samples: int, num_tokens: int
) -> list[ModuleResult]:
    """Per-module results from the tool's log; BackendError unless each module saw every sample."""
    rows = [row for process, entries in log.items() if process != "native" for row in entries]
    wanted = num_samples if _foem(method) else num_tokens
    found: list[ModuleResult] = []
    for row in rows:
        name = f"model.language_model.layers.{row['layer']}.{row['module']}"
        try:
            loss = float(row["loss"])
        except ValueError as e:
            raise BackendError(
                f"plain rounding was used instead of GPTQ: {row['loss']}",
                where=name,
                why="its Hessian could not be used; in a dense model every sample reaches every module",
                fix="check the calibration data and damp_percent",
            ) from e
        counted = int(float(row["samples"]))
        if counted != wanted:
            unit = "samples" if _foem(method) else "tokens"
            raise BackendError(
                f"the tool saw {counted:,} calibration {unit}, and was given {wanted:,}",
                where=name,
                why="it drops short samples, cuts long ones at max_position_embeddings, or a forward failed",
                fix="see the tool's log for what it dropped",
            )
        found.append(ModuleResult(name=name, loss=loss, num_samples=num_samples, damp=float(row["damp"])))
    return sorted(found, key=lambda each: each.name)


def parameters(
    method: GptqMethod, quantized: Sequence[ModuleResult], acted: Mapping[str, int]
) -> list[ParameterUse]:
    """Every parameter of the method, and whether it acted.

    `acted` counts what each patch changed. How the rest was seen: tests/numerics holds this list to the
    checkpoints that the tool writes with each parameter on and off.
    """
    foem = _foem(method)
    inert: dict[str, str] = {"kv_cache": "the method leaves the cache alone"}
    if foem:
        inert["act_group_aware"] = "FOEM never reads it (looper/gptq_processor.py, quantization/foem.py)"
        inert["fallback_rtn_threshold"] = "FOEM has no fallback (looper/gptq_processor.py)"
        for name in ("foem_alpha", "foem_beta"):
            if getattr(method, name) == 0:
                inert[name] = "0: the term is off"
    else:
        inert["foem_alpha"] = inert["foem_beta"] = "not asked for"
        inert["fallback_rtn_threshold"] = "no module fell below it: every sample reached every module"
    if not method.desc_act:
        inert["desc_act"] = inert["static_groups"] = "off"
    if not method.act_group_aware:
        inert["act_group_aware"] = "off"
    if not acted.get("descent"):
        inert["descent_sweeps"] = "changed no value in this run"
    if method.mse == 0:
        inert["mse"] = "0: scales by minimum and maximum"
    raised = sorted(
        {each.damp for each in quantized if each.damp is not None and each.damp != method.damp_percent}
    )
    notes = {
        "damp_percent": f"raised by the tool to {raised} where the Hessian needed it"
        if raised
        else "as given"
    }
    values = {name: value for name, value in method.stated().items() if name not in ("backend", "patches")}
    return [
        ParameterUse(
            parameter=name, value=value, acted=name not in inert, why=inert.get(name, notes.get(name, "read"))
        )
        for name, value in values.items()
    ] + [_patch_use(name, acted.get(name, 0)) for name in method.patches]


def _patch_use(name: str, count: int) -> ParameterUse:
    why = f"changed {count:,} {PATCHES[name].unit}" if count else "changed no value in this run"
    return ParameterUse(parameter=f"patches.{name}", value=True, acted=count > 0, why=why)
