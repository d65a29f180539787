"""How fast headers are audited and a packed mtp.fc is repaired, at true size: `make bench`.

The checkpoints have Qwen3.6-27B's names and shapes, in sparse files: nothing but headers is on disk. Every
measurement runs in a process of its own, so that its peak memory is its own. Ratios, not seconds, are what
carries over to another machine.

    headers          audit --headers of 1,199 base tensors packed at 4 bits, about 20 GB: within 1 s, 200 MiB
    repair           mtp.fc packed: without a base (dequantized), and with one (every kept byte compared)
    load             the usual way to rebuild an index: open every shard, get every tensor, add up its bytes

Sparse files flatter both sides. Loading reads zeros instead of a disk. Repair passes over holes when it
compares kept tensors with the base and when it copies: on real data it reads the kept bytes of both sides
(6.9 GB each at this size) besides the shard it rewrites.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

HIDDEN, INTER, VOCAB, LAYERS = 5120, 17408, 248_320, 64
VISION_HIDDEN, VISION_INTER, VISION_BLOCKS, POSITIONS = 1152, 4304, 27, 2304
GROUP = 128
ITEM = {"BF16": 2, "F16": 2, "I32": 4}
Shapes = dict[str, tuple[str, tuple[int, ...]]]


def layer(full: bool) -> dict[str, tuple[int, ...]]:
    """One decoder layer of the 27B."""
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (HIDDEN,),
        "post_attention_layernorm.weight": (HIDDEN,),
        "mlp.gate_proj.weight": (INTER, HIDDEN),
        "mlp.up_proj.weight": (INTER, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, INTER),
    }
    if full:
        heads = {"q_proj": (12288, HIDDEN), "k_proj": (1024, HIDDEN), "v_proj": (1024, HIDDEN)}
        heads["o_proj"] = (HIDDEN, 6144)
        shapes |= {f"self_attn.{name}.weight": shape for name, shape in heads.items()}
        return shapes | {"self_attn.q_norm.weight": (256,), "self_attn.k_norm.weight": (256,)}
    return shapes | {
        "linear_attn.in_proj_qkv.weight": (10240, HIDDEN),
        "linear_attn.in_proj_z.weight": (6144, HIDDEN),
        "linear_attn.in_proj_a.weight": (48, HIDDEN),
        "linear_attn.in_proj_b.weight": (48, HIDDEN),
        "linear_attn.out_proj.weight": (HIDDEN, 6144),
        "linear_attn.conv1d.weight": (10240, 1, 4),
        "linear_attn.A_log": (48,),
        "linear_attn.dt_bias": (48,),
        "linear_attn.norm.weight": (128,),
    }


def base_shapes() -> Shapes:
    """All 1,199 tensors of the base."""
    shapes: dict[str, tuple[int, ...]] = {"model.language_model.embed_tokens.weight": (VOCAB, HIDDEN)}
    for i in range(LAYERS):
        shapes |= {f"model.language_model.layers.{i}.{k}": v for k, v in layer(i % 4 == 3).items()}
    shapes |= {"model.language_model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCAB, HIDDEN)}
    h, inter = VISION_HIDDEN, VISION_INTER
    vision: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (h, 3, 2, 16, 16),
        "patch_embed.proj.bias": (h,),
        "pos_embed.weight": (POSITIONS, h),
        "merger.norm.weight": (h,),
        "merger.norm.bias": (h,),
        "merger.linear_fc1.weight": (4 * h, 4 * h),
        "merger.linear_fc1.bias": (4 * h,),
        "merger.linear_fc2.weight": (HIDDEN, 4 * h),
        "merger.linear_fc2.bias": (HIDDEN,),
    }
    linears = {"attn.qkv": (3 * h, h), "attn.proj": (h, h)}
    linears |= {"mlp.linear_fc1": (inter, h), "mlp.linear_fc2": (h, inter)}
    for i in range(VISION_BLOCKS):
        for norm in ("norm1", "norm2"):
            vision |= {f"blocks.{i}.{norm}.weight": (h,), f"blocks.{i}.{norm}.bias": (h,)}
        for name, shape in linears.items():
            vision |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
    shapes |= {f"model.visual.{k}": v for k, v in vision.items()}
    shapes |= {f"mtp.layers.0.{k}": v for k, v in layer(True).items()} | {
        "mtp.fc.weight": (HIDDEN, 2 * HIDDEN)
    }
    shapes |= {f"mtp.{n}.weight": (HIDDEN,) for n in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden")}
    return {name: ("BF16", shape) for name, shape in shapes.items()}


QUANTIZED = ("_proj.weight", "in_proj_qkv.weight", "in_proj_z.weight", "out_proj.weight")


def packed_shapes(base: Shapes, *, fc: bool) -> Shapes:
    """The base as AutoRound packs it at 4 bits; `fc`: mtp.fc too."""
    shapes: Shapes = {}
    for name, (dtype, shape) in base.items():
        language = name.startswith("model.language_model.layers.") and name.endswith(QUANTIZED)
        if language or (fc and name == "mtp.fc.weight"):
            module, (out, width) = name.removesuffix(".weight"), shape
            shapes[f"{module}.qweight"] = ("I32", (width // 8, out))
            shapes[f"{module}.qzeros"] = ("I32", (width // GROUP, out // 8))
            shapes[f"{module}.scales"] = ("F16", (width // GROUP, out))
        else:
            shapes[name] = (dtype, shape)
    return shapes


def write_sparse(folder: Path, shapes: Shapes, *, shards: int, quantized: bool) -> int:
    """A checkpoint without data, `mtp.*` in the last shard; returns its tensor bytes."""
    folder.mkdir(parents=True)
    sizes = {name: prod(shape) * ITEM[dtype] for name, (dtype, shape) in shapes.items()}
    total, at = sum(sizes.values()), 0
    groups: list[list[str]] = [[] for _ in range(shards)]
    for name in shapes:
        groups[-1 if name.startswith("mtp.") else min(shards - 2, at * (shards - 1) // total)].append(name)
        at += sizes[name]
    weight_map = {}
    for i, names in enumerate(groups):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        weight_map |= dict.fromkeys(names, file)
        names.sort(key=lambda name: -ITEM[shapes[name][0]])
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in names:
            dtype, shape = shapes[name]
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + sizes[name]]}
            end += sizes[name]
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / file).open("wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            out.truncate(8 + len(text) + end)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config: dict[str, Any] = {"architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5"}
    if quantized:
        config["quantization_config"] = {
            "quant_method": "auto-round",
            "packing_format": "auto_round:auto_gptq",
            "bits": 4,
            "group_size": GROUP,
            "sym": True,
            "block_name_to_quantize": "model.language_model.layers",
        }
    (folder / "config.json").write_text(json.dumps(config))
    return total


# ── what is measured, each in its own process ──────────────────────────────────────────────


def audit_headers(folder: str, base: str) -> str:
    from bot.checkpoint.source import open_source
    from bot.stages.audit import audit

    source = open_source(base) if base else None
    report = audit(open_source(folder), base=source, recipe=None, headers_only=True)
    return f"{report.inventory.num_tensors} tensors, {report.inventory.total_bytes / 1e9:.1f} GB"


def repair_fc(folder: str, base: str) -> str:
    from bot.checkpoint.source import open_source
    from bot.recipe import load
    from bot.stages.repair import repair

    source = open_source(base) if base else None
    report = repair(Path(folder), base=source, recipe=load("autoround-w4a16-g128"))
    files = {name for action in report.actions for name in action.files if name.endswith(".safetensors")}
    return f"{len(files)} shard rewritten"


def load(folder: str, _: str) -> str:
    """Every tensor of every shard as bytes of its own, to add up their sizes."""
    total = 0
    for path in sorted(Path(folder).glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            for name, spec in json.loads(file.read(length)).items():
                if name != "__metadata__":
                    start, end = spec["data_offsets"]
                    file.seek(8 + length + start)
                    total += len(file.read(end - start))
    return f"{total / 1e9:.1f} GB"


TASKS: dict[str, Callable[[str, str], str]] = {
    "headers": audit_headers,
    "repair": repair_fc,
    "load": load,
}


def child(task: str, folder: str, base: str) -> None:
    started = time.perf_counter()
    note = TASKS[task](folder, base)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "peak_mib": peak / 1024, "note": note}))


def measure(task: str, folder: Path, base: Path | None) -> dict[str, Any]:
    argv = [sys.executable, __file__, task, str(folder), str(base or "")]
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        argv,
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": root, "PYTHONWARNINGS": ""},
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    shapes = base_shapes()
    with tempfile.TemporaryDirectory(prefix="bench-checkpoint-") as temporary:
        root = Path(temporary)
        write_sparse(root / "base", shapes, shards=15, quantized=False)
        write_sparse(root / "good", packed_shapes(shapes, fc=False), shards=5, quantized=True)
        rows = [
            ("audit headers, no base", measure("headers", root / "good", None)),
            (
                f"audit headers, base of {len(shapes):,} tensors",
                measure("headers", root / "good", root / "base"),
            ),
        ]
        rows.append(("load every tensor, 20 GB", measure("load", root / "good", None)))
        naive = rows[-1][1]["seconds"]
        for label, base in (("repair mtp.fc, no base", None), ("repair mtp.fc, base 55 GB", root / "base")):
            write_sparse(root / "broken", packed_shapes(shapes, fc=True), shards=5, quantized=True)
            rows.append((label, measure("repair", root / "broken", base)))
            shutil.rmtree(root / "broken")
        print(f"{'':42}{'seconds':>9}{'peak MiB':>10}{'loading ÷ this':>16}  note")
        for label, row in rows:
            ratio = f"{naive / row['seconds']:.1f}"
            print(f"{label:42}{row['seconds']:9.2f}{row['peak_mib']:10.0f}{ratio:>16}  {row['note']}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(*sys.argv[1:4])
    else:
        main()
