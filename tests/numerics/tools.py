"""The real quantizers on small arrays, in their own environment: one process that answers many tests.

Importing the tools takes half a minute, a layer milliseconds. So a session starts this module once with the
environment's python and speaks with it in lines: a task's name, the `.npz` (arrays) and `.json` (settings)
that it reads, and where its answer goes. What the tools print goes to a log.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]


def gptq(arrays: Arrays, settings: dict[str, Any]) -> Arrays:
    """Quantize W [out, in] float32 on samples x0, x1, … [tokens, in]; y0, … are FOEM's native inputs.

    Returns dequantized q, scale and zero [out, groups], g_idx, loss, damp, and how often each patch acted.
    """
    import torch
    from gptqmodel.looper.named_module import NamedModule
    from gptqmodel.looper.native_processor import NATIVE_INPUTS_STATE_KEY
    from gptqmodel.quantization import FOEM, GPTQ, QuantizeConfig
    from gptqmodel.quantization.config import Fallback, FallbackStrategy, FOEMConfig

    from bot.backends.patches import applied
    from bot.backends.patches.gptqmodel import PATCHES, descent

    given = dict(settings)
    sweeps = given.pop("descent_sweeps", None)
    patches, foem, threshold = given.pop("patches", []), given.pop("foem", None), given.pop("fallback", None)
    fallback = Fallback(strategy=FallbackStrategy.RTN, threshold=threshold) if threshold else None
    config = QuantizeConfig(
        **given, foem=FOEMConfig(**foem) if foem else None, fallback=fallback, device="cpu"
    )
    layer = torch.nn.Linear(arrays["w"].shape[1], arrays["w"].shape[0], bias=False)
    layer.weight.data = torch.from_numpy(arrays["w"].copy())
    named = NamedModule(layer, "layer", "model.layers.0.layer", 0)
    samples = [torch.from_numpy(arrays[f"x{i}"]) for i in range(sum(name.startswith("x") for name in arrays))]
    if foem and foem["alpha"]:
        named.state[NATIVE_INPUTS_STATE_KEY] = [
            torch.from_numpy(arrays[f"y{i}"]) for i in range(len(samples))
        ]
    task = (FOEM if foem else GPTQ)(module=named, qcfg=config)
    task.expected_nsamples = float(sum(len(each) for each in samples))
    task.quantizer.configure(perchannel=True)
    for each in samples:
        task.add_batch(each.unsqueeze(0), layer(each).detach().unsqueeze(0))
    with applied(
        [*(PATCHES[name] for name in patches), *([] if sweeps is None else [descent(sweeps)])]
    ) as acted:
        q, scale, zero, g_idx, _, loss, damp, _ = task.quantize()
    counts = {f"acted_{name}": np.array(count) for name, count in acted.counts().items()}
    numbers = {"q": q, "scale": scale, "zero": zero, "g_idx": g_idx}
    found = {name: value.cpu().numpy() for name, value in numbers.items()}
    return found | counts | {"loss": np.array(loss), "damp": np.array(damp)}


def pack_gptq(arrays: Arrays, settings: dict[str, Any]) -> Arrays:
    """GPTQModel's packer on q [out, in] with scale, zero [out, groups] and g_idx: the tensors of a file.

    The tool keeps zero points as they are while it works, and subtracts one when it saves: both are here.
    """
    import torch
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    out_features, in_features = arrays["q"].shape
    layer = torch.nn.Linear(in_features, out_features, bias=False)
    layer.weight.data = torch.from_numpy(arrays["q"])
    packed = TorchLinear(
        bits=4,
        sym=True,
        in_features=in_features,
        out_features=out_features,
        register_buffers=True,
        **settings,
    )
    packed.pack_original(layer, *(torch.from_numpy(arrays[name]) for name in ("scale", "zero", "g_idx")))
    kept = {name: getattr(packed, name).numpy().copy() for name in ("qweight", "scales", "g_idx")}
    zeros_before = packed.qzeros.numpy().copy()
    quant_config = type("Config", (), {"bits": 4, "pack_dtype": torch.int32, "runtime_format": None})()
    convert_gptq_v2_to_v1_format_module(module=packed, quantize_config=quant_config)
    return kept | {"qzeros_kept": zeros_before, "qzeros": packed.qzeros.numpy()}


def autoround(arrays: Arrays, settings: dict[str, Any]) -> Arrays:
    """AutoRound's rounding of w [out, in] with v, and factors low and high [out, groups]; then its packer."""
    import torch
    from auto_round.data_type.int import quant_tensor_sym
    from auto_round.export.utils import get_autogptq_packing_qlinear

    size = settings["group_size"]
    given = {name: torch.from_numpy(arrays[name]) for name in ("w", "v", "low", "high")}
    groups = (given["w"].shape[0] * given["w"].shape[1]) // size
    q, scale, zero = quant_tensor_sym(
        given["w"],
        bits=4,
        group_size=size,
        v=given["v"].reshape(groups, size),
        min_scale=given["low"].flatten(),
        max_scale=given["high"].flatten(),
    )
    scale = scale.reshape(given["low"].shape)
    layer = torch.nn.Linear(given["w"].shape[1], given["w"].shape[0], bias=False)
    layer.weight.data = q
    packed = get_autogptq_packing_qlinear("auto_gptq", 4, size, True)(
        4, size, layer.in_features, layer.out_features, False, g_idx=True
    )
    packed.device = torch.device("cpu")
    packed.pack(layer, scale, int(zero), None, "cpu")
    kept = {name: getattr(packed, name).numpy() for name in ("qweight", "qzeros", "scales", "g_idx")}
    return kept | {"q": q.numpy()}


def autoround_training(arrays: Arrays, settings: dict[str, Any]) -> Arrays:
    """AutoRound's own training of a layer that is one matrix w [out, in], on x [samples, tokens, in].

    It is drawn to targets [samples, tokens, out]; `v2`: by SignRound V2. Returns its values q [out, in] and
    scale [out, groups].
    """
    from types import SimpleNamespace

    import torch
    from auto_round.algorithms.block_runner import BlockForwardRunner
    from auto_round.algorithms.quantization.sign_round.config import SignRoundConfig
    from auto_round.algorithms.quantization.sign_round.quantizer import SignRoundQuantizer
    from auto_round.algorithms.quantization.sign_roundv2.quantizer import SignRoundV2Quantizer

    stated = {"bits": 4, "group_size": settings["group_size"], "sym": True, "data_type": "int"}
    config = SignRoundConfig(iters=settings["iterations"], **stated)
    config.finalize_scheme()
    tool = (SignRoundV2Quantizer if settings["v2"] else SignRoundQuantizer)(config)
    samples = {name: list(torch.from_numpy(arrays[name]).split(1)) for name in ("x", "targets")}
    count = len(samples["x"])
    tool.bind(
        SimpleNamespace(
            model_context=SimpleNamespace(amp=False, is_diffusion=False, model=None),
            compress_context=SimpleNamespace(
                low_gpu_mem_usage=False, enable_torch_compile=False, cache_device="cpu",
                clear_memory=lambda *_: None,
            ),
            calibration_context=SimpleNamespace(batch_size=count, batch_dim=0),
            scheme_context=SimpleNamespace(**stated, act_bits=16, super_group_size=None),
        )
    )  # fmt: skip
    tool.prepare_run()
    tool.bind_block_forward_runner(
        BlockForwardRunner(batch_size=count, amp=False, enable_torch_compile=False)
    )
    layer = torch.nn.Linear(*arrays["w"].shape[::-1], bias=False)
    layer.weight.data = torch.from_numpy(arrays["w"].copy())
    more = {"act_bits": 16, "act_dynamic": True, "scale_dtype": torch.float16}
    for name, value in (stated | more).items():
        setattr(layer, name, value)
    block = torch.nn.Sequential(layer)
    context = SimpleNamespace(block_index=0, block_cnt=1, block_name="layers.0")
    with torch.enable_grad():
        tool.quantize_block(block, samples["x"], {}, samples["targets"], None, context)
    (found,) = block
    return {"q": found.weight.detach().numpy(), "scale": found.scale.numpy()}


def block_descent(arrays: Arrays, settings: dict[str, Any]) -> Arrays:
    """A small layer rounded by AutoRound's own function, improved, and both seen by the tool's own runner.

    `base.<matrix>` are FP32 weights [out, in], `v.<matrix>` the offsets of the rounding; samples x0, … are
    what the layer gets behind quantized layers, y0, … in the base, [tokens, hidden]. Returns of each matrix q
    and scale before and after, and x, y, its inputs in the improved layer and in the base [tokens, in]; the
    layer's `outputs.base`, `.before` and `.after` [tokens, hidden]. `stored`: in BF16 with FP16 scales, as
    the tool keeps them, and with what its packer makes of them; `meant` is what descent gave, in FP32.
    """
    import torch
    from auto_round.algorithms.block_runner import BlockForwardRunner
    from auto_round.data_type.int import quant_tensor_sym
    from auto_round.export.utils import get_autogptq_packing_qlinear

    from bot.backends.block_descent import Descent, improve, untrained
    from bot.backends.descent import descended

    size, matrices = settings["group_size"], [name[5:] for name in arrays if name.startswith("base.")]
    runner = BlockForwardRunner(batch_size=2, amp=False, enable_torch_compile=False)
    runner.block_forward = None  # what a compiled one would be: not to be called
    kept, scales_in = (torch.bfloat16, torch.float16) if settings["stored"] else (torch.float32,) * 2
    samples = {
        kind: [torch.from_numpy(arrays[f"{kind}{i}"])[None].to(kept) for i in range(settings["samples"])]
        for kind in "xy"
    }
    block = _small_layer({name: torch.from_numpy(arrays[f"base.{name}"]).to(kept) for name in matrices})
    base = untrained(block, samples["y"], runner, {})
    for name in matrices:
        layer = block.get_submodule(name)
        v = torch.from_numpy(arrays[f"v.{name}"]).reshape(-1, size)
        q, scale, zero = quant_tensor_sym(
            layer.weight.data, bits=4, group_size=size, v=v, scale_dtype=scales_in
        )
        layer.weight.data, layer.zp, layer.bits, layer.group_size = q, zero, 4, size
        layer.scale = None if name in settings["kept"] else scale.reshape(len(q), -1)
    every = torch.arange(settings["samples"])
    outputs, native = base.run(matrices, every)
    found = {"outputs.base": outputs} | {f"{name}.y": each for name, each in native.items()}
    meant: list[torch.Tensor] = []
    changed: list[bool] = []

    def noted(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        changed.append(not old.equal(new))
        meant.append(new)
        return new

    how = Descent(descended=descended, damp=settings["damp"], sweeps=settings["sweeps"], note=noted)
    for when in ("before", "after"):
        if when == "after":
            wanted = [each[None] for each in outputs.reshape(settings["samples"], -1, outputs.shape[-1])]
            improve(block, samples["x"], base, wanted, how, where="layers.0")
        found[f"outputs.{when}"], inputs = type(base)(
            block=block, inputs=samples["x"], runner=base.runner, others={}
        ).run(matrices, every)
        for name in matrices:
            layer = block.get_submodule(name)
            found |= {f"{name}.q.{when}": layer.weight.data.clone(), f"{name}.x": inputs[name]}
            if layer.scale is not None:
                found[f"{name}.scale.{when}"] = layer.scale.clone()
    hooks = sum(len(each._forward_pre_hooks) for each in [*block.modules(), *base.block.modules()])
    if settings["stored"]:
        for name, value in zip(("q_proj", "o_proj", "down_proj"), meant, strict=True):
            layer = block.get_submodule(name)
            packed = get_autogptq_packing_qlinear("auto_gptq", 4, size, True)(
                4, size, layer.in_features, layer.out_features, False, g_idx=True
            )
            packed.device = torch.device("cpu")
            packed.pack(layer, layer.scale, layer.zp, None, "cpu")
            found |= {f"{name}.{part}": getattr(packed, part) for part in ("qweight", "qzeros", "scales")}
            found |= {f"{name}.g_idx": packed.g_idx, f"{name}.meant": value}
    numbers = {"changed": np.array(sum(changed)), "hooks": np.array(hooks)}
    return {
        name: (each.float() if each.is_floating_point() else each).detach().numpy()
        for name, each in found.items()
    } | numbers


def _small_layer(weights: dict[str, Any]) -> Any:
    """A decoder layer in little: mixing that reads the input and adds to it, then an MLP that does."""
    import torch

    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, weight in weights.items():
                layer = torch.nn.Linear(*weight.shape[::-1], bias=False)
                layer.weight.data = weight
                self.add_module(name, layer)

        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            mixed = torch.tanh(self.q_proj(hidden_states)).cumsum(dim=1) / 10
            hidden = hidden_states + self.o_proj(mixed)
            return hidden + self.down_proj(
                torch.nn.functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden)
            )

    return Small()


def nvfp4(arrays: Arrays, settings: dict[str, Any]) -> Arrays:
    """ModelOpt's quantization of w [out, in], and what it makes of that again."""
    import torch
    from modelopt.torch.quantization.qtensor import NVFP4QTensor

    w = torch.from_numpy(arrays["w"]).to(getattr(torch, settings["dtype"]))
    packed, scale, scale_2 = NVFP4QTensor.quantize(w.clone(), 16)
    again = packed.dequantize(dtype=torch.float32, scale=scale, double_scale=scale_2, block_sizes={-1: 16})
    return {
        "packed": packed._quantized_data.numpy(),
        "scale": scale.view(torch.uint8).numpy(),
        "scale_2": scale_2.float().numpy(),
        "q": again.numpy(),
        "w": w.float().numpy(),
    }


def modelopt(arrays: Arrays, settings: dict[str, Any]) -> Arrays:
    """ModelOpt's calibration of weights [out, in] on inputs x [tokens, in], then its export of them.

    Of each weight the packed bytes, the scales' E4M3 codes, and q, what its own quantizer makes of it; the
    scale_2 that all have; x_seen, the inputs as their quantizer leaves them. Max's scales are stored too.
    """
    import modelopt.torch.quantization as mtq
    import torch
    from modelopt.torch.export.quant_utils import get_weight_scaling_factor, get_weight_scaling_factor_2
    from modelopt.torch.quantization.qtensor import NVFP4QTensor

    from bot.backends import modelopt as backend
    from bot.backends import modelopt_gptq  # noqa: F401 (registers itself)
    from bot.backends.patches import applied
    from bot.backends.patches.modelopt import FP4_WITHOUT_CUDA
    from bot.recipe_methods import NvFp4Method

    stated = {name: settings[name] for name in ("algorithm", "rounding", "damp_percent") if name in settings}
    fixed = {"backend": "modelopt", "packing": "nvfp4", "bits": 4, "group_size": 16, "sym": True}
    method = NvFp4Method.model_validate(fixed | {"kv_cache": "none"} | stated)
    x, names = torch.from_numpy(arrays["x"]), sorted(set(arrays) - {"x"})
    layer = torch.nn.ModuleDict()
    for name in names:
        layer[name] = torch.nn.Linear(*arrays[name].shape[::-1], bias=False)
        layer[name].weight.data = torch.from_numpy(arrays[name].copy())
    kinds = {"weight_quantizer": backend.NVFP4_STATIC, "input_quantizer": backend.NVFP4}
    rules = [{"quantizer_name": "*", "enable": False}]
    rules += [{"quantizer_name": f"*{kind}", "cfg": cfg} for kind, cfg in kinds.items()]
    algorithm = backend._algorithm(method)
    if method.algorithm == "max" and method.rounding == "nearest":
        algorithm["shared_states"] = {"weight_global_amax": {"patterns": list(backend.FUSED)}}
    with applied([FP4_WITHOUT_CUDA]):
        config = {"quant_cfg": rules, "algorithm": algorithm}
        mtq.quantize(layer, config, lambda each: [each[name](x) for name in names])
        found = {"x_seen": layer[names[0]].input_quantizer(x)}
        for name in names:
            found[f"{name}.q"] = layer[name].weight_quantizer(layer[name].weight.data)
    scale_2 = {name: get_weight_scaling_factor_2(layer[name]) for name in names}
    for name in names:
        weight, scale = layer[name].weight.data, get_weight_scaling_factor(layer[name])
        packed, _, _ = NVFP4QTensor.quantize(weight.clone(), 16, scale, scale_2[name])
        found |= {f"{name}.packed": packed._quantized_data, f"{name}.scale": scale.view(torch.uint8)}
    assert len({float(each) for each in scale_2.values()}) == 1, scale_2
    return {name: each.detach().numpy() for name, each in found.items()} | {
        "scale_2": np.array(float(scale_2[names[0]]))
    }


def shorten(arrays: Arrays, settings: dict[str, Any]) -> Arrays:
    """A copy of a base that has only the given decoder layers."""
    import re
    import shutil

    from safetensors.torch import load_file, save_file

    base, out, layers = Path(settings["base"]), Path(settings["out"]), settings["layers"]
    shutil.copytree(base, out, ignore=shutil.ignore_patterns("*.safetensors*"))
    config = json.loads((base / "config.json").read_text())
    text = config["text_config"]
    text["layer_types"] = [text["layer_types"][layer] for layer in layers]
    text["num_hidden_layers"] = len(layers)
    (out / "config.json").write_text(json.dumps(config))
    tensors = {}
    for path in sorted(base.glob("*.safetensors")):
        for name, tensor in load_file(path).items():
            found = re.match(r"(model\.language_model\.layers\.)(\d+)(\..*)", name)
            if found is None:
                tensors[name] = tensor
            elif int(found[2]) in layers:
                tensors[f"{found[1]}{layers.index(int(found[2]))}{found[3]}"] = tensor
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return {"num_tensors": np.array(len(tensors))}


@contextlib.contextmanager
def _stopping(tool: str) -> Iterator[None]:
    """Have the tool stop as if killed, when its first finished layer is on disk."""
    owner, name = _saving(tool)
    save = getattr(owner, name)

    def once(*args: Any, **more: Any) -> None:
        save(*args, **more)
        raise InterruptedError("stopped")

    setattr(owner, name, once)
    try:
        yield
    finally:
        setattr(owner, name, save)


def _saving(tool: str) -> tuple[type, str]:
    """What keeps a finished layer."""
    if tool == "autoround":
        from auto_round.utils.resume import ResumeState

        return ResumeState, "mark_block_done"
    from modelopt.torch.quantization.utils.layerwise_calib import _CheckpointState

    return _CheckpointState, "save"


def backend(arrays: Arrays, settings: dict[str, Any]) -> Arrays:
    """A backend's whole run over a small base: a digest of every tensor that it writes, and what acted."""
    import hashlib
    import importlib

    import torch
    from safetensors.torch import save_file

    from bot.backends import BACKENDS
    from bot.backends.calibration import SampleSet
    from bot.backends.report import Report
    from bot.models import BackendJob, Base, CalibrationUse
    from bot.recipe import Recipe

    recipe, place = Recipe.model_validate(settings["recipe"]), Path(settings["folder"])
    place.mkdir(parents=True, exist_ok=True)
    random = torch.Generator().manual_seed(1)
    lengths = [64] * recipe.calibration.num_samples
    samples = {}
    for i, length in enumerate(lengths):
        samples[f"{i:06d}.input_ids"] = torch.randint(0, 2000, (1, length), generator=random)
        samples[f"{i:06d}.attention_mask"] = torch.ones((1, length), dtype=torch.int64)
    save_file(samples, place / "samples.safetensors")
    spec = recipe.calibration.sets[0]
    use = CalibrationUse(
        dataset=spec.dataset, revision="0" * 40, config=None, split="train", subsets=None, rows="text",
        num_samples=len(lengths), num_samples_seen=0, num_tokens=sum(lengths), min_tokens=min(lengths),
        max_tokens=max(lengths), num_images=0, sha256="0" * 64,
    )  # fmt: skip
    name = recipe.method.backend
    job = BackendJob(
        backend=name, base_folder=settings["base"], base=Base(repo_id="a/b", revision="1" * 40),
        output_folder=str(place / "out"), resume_folder=str(place / "resume"),
        result_file=str(place / "result.json"), recipe=settings["recipe"], device="cpu", num_threads=2,
    )  # fmt: skip
    torch.set_num_threads(2)
    calibration = [SampleSet(rows="text", file=place / "samples.safetensors", use=use)]
    module = importlib.import_module(BACKENDS[name][0])
    with _stopping(name) if settings.get("stop_after_layer") else contextlib.nullcontext():
        result = module.quantize(job, recipe, calibration, Report())
    digests, layout = {}, {}
    for path in sorted((place / "out").glob("*.safetensors")):
        data = path.read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        for tensor, entry in json.loads(data[8:end]).items():
            if tensor != "__metadata__":
                start, stop = entry["data_offsets"]
                layout[tensor] = [entry["dtype"], entry["shape"]]
                digests[tensor] = hashlib.sha256(data[end + start : end + stop]).hexdigest()
    config = json.loads((place / "out" / "config.json").read_text())["quantization_config"]
    found = {
        "tensors": digests,
        "layout": layout,
        "config": config,
        "patches": result.patches,
        "resumed_layers": result.resumed_layers,
        "acted": {each.parameter: each.acted for each in result.parameters},
    }
    return {"json": np.array(json.dumps(found))}


TASKS = {
    each.__name__: each
    for each in (
        gptq,
        pack_gptq,
        autoround,
        autoround_training,
        block_descent,
        nvfp4,
        modelopt,
        shorten,
        backend,
    )
}


def main() -> None:
    """Answer tasks until standard input ends; `ready`, then `done` or `failed` a task, on the given pipe."""
    answers = os.fdopen(int(sys.argv[1]), "w")
    os.environ["GPTQMODEL_CPU_WORKERS"] = "2"
    from bot.backends.torchvision_ops import declare_missing

    declare_missing()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        task, folder = json.loads(line)
        place = Path(folder)
        try:
            with np.load(place / "in.npz") as given:
                arrays = {name: given[name] for name in given.files}
            settings = json.loads((place / "in.json").read_text())
            np.savez(place / "out.npz", **TASKS[task](arrays, settings))
        except Exception as e:
            traceback.print_exc()
            error = {"type": type(e).__name__, "text": str(e)}
            (place / "error.json").write_text(json.dumps(error))
        print("done", file=answers, flush=True)


if __name__ == "__main__":
    main()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(0)  # the tools leave threads behind
