"""Synthetic checkpoints for tests: a small random Qwen3.5-shaped base, and its five packings.

Written from the formats' descriptions with plain loops over NumPy, apart from `bot.checkpoint`, so
that a mistake there is not repeated here. Weights are rounded to nearest (RTN); no quantizer is needed.
Everything follows from a seed.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN, INTER, VOCAB, LAYERS = 256, 512, 320, 4
VISION_HIDDEN, VISION_INTER, VISION_BLOCKS = 64, 128, 2
QUANTIZED = (
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "linear_attn.in_proj_qkv", "linear_attn.in_proj_z", "linear_attn.out_proj",
)  # fmt: skip
PACKINGS = ("gptq", "gptq_v2", "auto_round:auto_gptq", "auto_round", "nvfp4")
RECIPE_OF = {"gptq": "gptq-w4a16-g128", "auto_round:auto_gptq": "autoround-w4a16-g128", "nvfp4": "nvfp4"}


@dataclass(frozen=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]
    data: bytes


def bf16(values: np.ndarray) -> Tensor:
    """Rounded to nearest even, by the textbook."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    upper = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return Tensor("BF16", values.shape, upper.tobytes())


def floats(tensor: Tensor) -> np.ndarray:
    """A BF16 tensor as float32."""
    upper = np.frombuffer(tensor.data, "<u2").astype(np.uint32)
    return (upper << 16).view(np.float32).reshape(tensor.shape)


def int32(values: np.ndarray) -> Tensor:
    return Tensor("I32", values.shape, values.astype(np.uint32).tobytes())


def f32(value: float) -> Tensor:
    return Tensor("F32", (), struct.pack("<f", value))


# ── the base ───────────────────────────────────────────────────────────────────────────────


def base_shapes(*, mtp: bool = True, vision: bool = True) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Qwen3.5 dense model, scaled down."""
    shapes: dict[str, tuple[int, ...]] = {"model.language_model.embed_tokens.weight": (VOCAB, HIDDEN)}
    for i in range(LAYERS):
        layer = f"model.language_model.layers.{i}"
        full = i % 4 == 3
        shapes |= {f"{layer}.{k}": v for k, v in _layer(full).items()}
    shapes |= {"model.language_model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCAB, HIDDEN)}
    if vision:
        shapes |= {f"model.visual.{k}": v for k, v in _vision().items()}
    if mtp:
        shapes |= {f"mtp.layers.0.{k}": v for k, v in _layer(True).items()}
        shapes["mtp.fc.weight"] = (HIDDEN, 2 * HIDDEN)
        for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
            shapes[f"mtp.{name}.weight"] = (HIDDEN,)
    return shapes


def _layer(full: bool) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (HIDDEN,),
        "post_attention_layernorm.weight": (HIDDEN,),
        "mlp.gate_proj.weight": (INTER, HIDDEN),
        "mlp.up_proj.weight": (INTER, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, INTER),
    }
    if full:
        return shapes | {
            "self_attn.q_proj.weight": (512, HIDDEN),
            "self_attn.k_proj.weight": (64, HIDDEN),
            "self_attn.v_proj.weight": (64, HIDDEN),
            "self_attn.o_proj.weight": (HIDDEN, 256),
            "self_attn.q_norm.weight": (64,),
            "self_attn.k_norm.weight": (64,),
        }
    return shapes | {
        "linear_attn.in_proj_qkv.weight": (512, HIDDEN),
        "linear_attn.in_proj_z.weight": (256, HIDDEN),
        "linear_attn.in_proj_a.weight": (8, HIDDEN),
        "linear_attn.in_proj_b.weight": (8, HIDDEN),
        "linear_attn.out_proj.weight": (HIDDEN, 256),
        "linear_attn.conv1d.weight": (512, 1, 4),
        "linear_attn.A_log": (8,),
        "linear_attn.dt_bias": (8,),
        "linear_attn.norm.weight": (64,),
    }


def _vision() -> dict[str, tuple[int, ...]]:
    h, inter = VISION_HIDDEN, VISION_INTER
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (h, 3, 2, 4, 4),
        "patch_embed.proj.bias": (h,),
        "pos_embed.weight": (16, h),
        "merger.norm.weight": (h,),
        "merger.norm.bias": (h,),
        "merger.linear_fc1.weight": (4 * h, 4 * h),
        "merger.linear_fc1.bias": (4 * h,),
        "merger.linear_fc2.weight": (HIDDEN, 4 * h),
        "merger.linear_fc2.bias": (HIDDEN,),
    }
    linears = {
        "attn.qkv": (3 * h, h),
        "attn.proj": (h, h),
        "mlp.linear_fc1": (inter, h),
        "mlp.linear_fc2": (h, inter),
    }
    for i in range(VISION_BLOCKS):
        for norm in ("norm1", "norm2"):
            shapes |= {f"blocks.{i}.{norm}.weight": (h,), f"blocks.{i}.{norm}.bias": (h,)}
        for name, shape in linears.items():
            shapes |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
    return shapes


def base_config(*, mtp: bool = True, vision: bool = True) -> dict[str, Any]:
    text = {
        "model_type": "qwen3_5_text",
        "hidden_size": HIDDEN,
        "intermediate_size": INTER,
        "num_hidden_layers": LAYERS,
        "vocab_size": VOCAB,
        "mtp_num_hidden_layers": 1 if mtp else 0,
        "rope_parameters": {"rope_theta": 10000000, "partial_rotary_factor": 0.25},
    }
    config = {
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "model_type": "qwen3_5",
        "text_config": text,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    return config | (
        {"vision_config": {"depth": VISION_BLOCKS, "hidden_size": VISION_HIDDEN}} if vision else {}
    )


SIDE_FILES = {
    "tokenizer.json": {
        "version": "1.0",
        "model": {"type": "BPE", "vocab": {"/home": 0, "/tmp/x": 1}, "merges": []},
    },
    "tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer", "model_max_length": 4096},
    "generation_config.json": {"eos_token_id": [1, 2], "temperature": 0.6},
    "preprocessor_config.json": {"image_processor_type": "Qwen2VLImageProcessorFast", "patch_size": 4},
    "video_preprocessor_config.json": {"video_processor_type": "Qwen3VLVideoProcessor"},
}
TEXTS = {
    "chat_template.jinja": "{% for m in messages %}{{ m.content }}{% endfor %}{# cat /home/user/x #}",
    "LICENSE": "Apache License, Version 2.0\n",
    "merges.txt": "#version: 0.2\n/ home\n",
    "README.md": "# Base\n",
}


def make_base(folder: Path, *, seed: int = 0, mtp: bool = True, vision: bool = True, shards: int = 2) -> Path:
    """Write the base, weights Gaussian with a few large ones, split over `shards` files."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, Tensor] = {}
    for name, shape in base_shapes(mtp=mtp, vision=vision).items():
        values = rng.standard_normal(shape) * 0.05
        tensors[name] = bf16(values * rng.choice([1.0, 4.0], shape, p=[0.995, 0.005]))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", base_config(mtp=mtp, vision=vision))
    for name, content in SIDE_FILES.items():
        write_json(folder / name, content)
    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    write_shards(folder, tensors, shards)
    return folder


# ── packing ────────────────────────────────────────────────────────────────────────────────


def pack_int(
    weight: np.ndarray,
    *,
    bits: int,
    group: int,
    minus_one: bool,
    g_idx: bool,
    signed: bool = False,
    asym: bool = False,
) -> dict[str, Tensor]:
    """RTN to qweight, qzeros, scales[, g_idx]; `signed`: every other scale negative, as from AutoRound."""
    out, width = weight.shape
    groups, top, half = width // group, 2**bits - 1, 2 ** (bits - 1)
    w = weight.reshape(out, groups, group).astype(np.float64)
    if asym:
        low, high = np.minimum(w.min(2), 0), np.maximum(w.max(2), 0)
        scales = ((high - low) / top).astype(np.float16)
        zeros = np.clip(np.rint(-low / scales), 1, top).astype(np.int64)
    else:
        scales = (np.abs(w).max(2) / (half - 0.5)).astype(np.float16)
        zeros = np.full((out, groups), half)
    if signed:
        scales = np.where(np.arange(out)[:, None] % 2, -scales, scales)
    q = np.clip(np.rint(w / scales[:, :, None].astype(np.float64)) + zeros[:, :, None], 0, top)
    codes = q.reshape(out, width).T.astype(np.uint64)
    stored = (zeros.T - (1 if minus_one else 0)).astype(np.uint64)
    parts = {
        "qweight": int32(_pack(codes, bits, axis=0)),
        "qzeros": int32(_pack(stored, bits, axis=1)),
        "scales": Tensor("F16", (groups, out), np.ascontiguousarray(scales.T).tobytes()),
    }
    if g_idx:
        parts["g_idx"] = int32(np.arange(width) // group)
    return parts


def _pack(values: np.ndarray, bits: int, *, axis: int) -> np.ndarray:
    """Consecutive values along `axis` into one 32-bit word, the first in the lowest bits."""
    each = 32 // bits
    v = np.moveaxis(values, axis, 0)
    words = np.zeros((v.shape[0] // each, *v.shape[1:]), np.uint64)
    for i in range(each):
        words |= v[i::each] << np.uint64(bits * i)
    return np.ascontiguousarray(np.moveaxis(words, 0, axis))


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def e4m3_values() -> np.ndarray:
    """The 127 finite values of E4M3FN with a plus sign, by code."""
    values = []
    for code in range(127):
        exponent, mantissa = code >> 3, code & 7
        values.append(mantissa / 8 * 2**-6 if exponent == 0 else (1 + mantissa / 8) * 2 ** (exponent - 7))
    return np.array(values)


def pack_nvfp4(weight: np.ndarray) -> dict[str, Tensor]:
    """Max calibration: weight_scale_2 = amax / (6 * 448), a block's scale = its amax / 6 in E4M3."""
    out, width = weight.shape
    w = weight.astype(np.float64).reshape(out, width // 16, 16)
    second = float(np.float32(np.abs(w).max() / (6 * 448)))
    table = e4m3_values()
    wanted = np.abs(w).max(2) / 6 / second
    scale_codes = np.abs(wanted[..., None] - table).argmin(-1).astype(np.uint8)
    scales = table[scale_codes] * second
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.nan_to_num(w / scales[..., None])
    codes = np.abs(np.abs(steps)[..., None] - E2M1).argmin(-1).astype(np.uint8) | ((steps < 0) << 3).astype(
        np.uint8
    )
    flat = codes.reshape(out, width)
    packed = (flat[:, 0::2] | (flat[:, 1::2] << 4)).astype(np.uint8)
    return {
        "weight": Tensor("U8", packed.shape, packed.tobytes()),
        "weight_scale": Tensor("F8_E4M3", scale_codes.shape, scale_codes.tobytes()),
        "weight_scale_2": f32(second),
        "input_scale": f32(0.01),
    }


def pack(weight: np.ndarray, packing: str, **options: Any) -> dict[str, Tensor]:
    """`weight` in one of `PACKINGS`."""
    if packing == "nvfp4":
        return pack_nvfp4(weight)
    auto_round = packing.startswith("auto_round")
    minus_one = packing in ("gptq", "auto_round:auto_gptq")
    given = {"bits": 4, "group": 128, "minus_one": minus_one, "g_idx": not auto_round} | options
    given.setdefault("signed", auto_round and not given.get("asym"))
    return pack_int(weight, **given)


# ── the checkpoint ─────────────────────────────────────────────────────────────────────────


def is_quantized(name: str) -> bool:
    """Whether the shipped recipes pack the weight `name`."""
    return name.startswith("model.language_model.layers.") and any(
        name.endswith(f".{q}.weight") for q in QUANTIZED
    )


def kept_linears(tensors: dict[str, Tensor]) -> list[str]:
    """Every Linear that stays in full precision."""
    skip = ("embed", "conv1d", "norm")
    return sorted(
        name.removesuffix(".weight")
        for name, t in tensors.items()
        if name.endswith(".weight")
        and len(t.shape) == 2
        and t.dtype == "BF16"
        and not any(s in name for s in skip)
    )


def quantization_config(
    packing: str, tensors: dict[str, Tensor], *, bits: int = 4, group: int = 128
) -> dict[str, Any]:
    """What the tools write, complete: every kept Linear named in every spelling."""
    kept = kept_linears(tensors)
    packed = sorted({n.rpartition(".")[0] for n in tensors if n.endswith((".qweight", ".weight_scale"))})
    if packing.startswith("gptq"):
        patterns = ["-:.*mtp.*", "-:.*visual.*", "-:.*in_proj_(a|b|ba)$", "-:.*lm_head$"]
        return {
            "bits": bits, "checkpoint_format": packing, "desc_act": False, "group_size": group,
            "lm_head": False, "quant_method": "gptq", "sym": True, "dynamic": {p: {} for p in patterns},
            "modules_in_block_to_quantize": [packed], "meta": {"quantizer": ["gptqmodel:7.6.0"]},
        }  # fmt: skip
    if packing.startswith("auto_round"):
        form = "auto_round:gptqmodel" if packing == "auto_round" else packing
        return {
            "bits": bits, "data_type": "int", "group_size": group, "sym": True, "autoround_version": "0.16.1",
            "block_name_to_quantize": "model.language_model.layers", "quant_method": "auto-round",
            "packing_format": form, "extra_config": {n: {"bits": 16, "data_type": "fp"} for n in kept},
        }  # fmt: skip
    gates = [name for name in kept if "in_proj_" in name]
    return {
        "quant_algo": "NVFP4", "quant_method": "modelopt",
        "ignore": ["lm_head", "model.visual*", "mtp*", *gates],
        "kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"},
        "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "float", "group_size": 16}}},
        "producer": {"name": "modelopt", "version": "0.47.0"},
    }  # fmt: skip


def standalone(packing: str, config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and content of the tool's stand-alone file."""
    if packing == "nvfp4":
        inner = {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "group_size": 16}
        return "hf_quant_config.json", {"quantization": inner | {"exclude_modules": config["ignore"]}}
    return ("quantize_config.json" if packing.startswith("gptq") else "quantization_config.json"), config


@dataclass
class Draft:
    """A checkpoint in memory, to be rigged before it is written."""

    packing: str
    tensors: dict[str, Tensor]
    quantization: dict[str, Any] = field(default_factory=dict)

    def repack(self, name: str, weight: np.ndarray, **options: Any) -> None:
        """Put the packed form of `weight` in place of whatever module `name` is."""
        for key in [
            key for key in self.tensors if key.rpartition(".")[0] == name and not key.endswith(".bias")
        ]:
            del self.tensors[key]
        self.tensors |= {f"{name}.{k}": v for k, v in pack(weight, self.packing, **options).items()}


def draft(base: Path, packing: str, **options: Any) -> Draft:
    """A right checkpoint of `base`: language Linears packed, the rest as it is."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in read_all(base).items():
        if is_quantized(name):
            parts = pack(floats(tensor), packing, **options)
            tensors |= {f"{name.removesuffix('.weight')}.{k}": v for k, v in parts.items()}
        else:
            tensors[name] = tensor
    config = quantization_config(
        packing, tensors, bits=options.get("bits", 4), group=options.get("group", 128)
    )
    return Draft(packing=packing, tensors=tensors, quantization=config)


def write(folder: Path, made: Draft, base: Path, *, shards: int = 3) -> Path:
    """Write a draft as a finished release: config, stand-alone copy, side files, shards, index."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((base / "config.json").read_text())
    write_json(folder / "config.json", config | {"quantization_config": made.quantization})
    name, content = standalone(made.packing, made.quantization)
    write_json(folder / name, content)
    for each in [*SIDE_FILES, *TEXTS]:
        (folder / each).write_bytes((base / each).read_bytes())
    write_shards(folder, made.tensors, shards)
    return folder


def make(folder: Path, base: Path, packing: str, **options: Any) -> Path:
    """A right checkpoint on disk."""
    return write(folder, draft(base, packing, **options), base)


# ── files ──────────────────────────────────────────────────────────────────────────────────


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2))


def write_shards(folder: Path, tensors: dict[str, Tensor], shards: int) -> None:
    """Tensors in turn over `shards` files, `mtp.*` in the last, with an index unless there is one file."""
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors)
        return
    groups: list[dict[str, Tensor]] = [{} for _ in range(shards)]
    for i, name in enumerate(tensors):
        last = name.startswith("mtp.")
        groups[-1 if last else i * (shards - 1) // len(tensors)][name] = tensors[name]
    weight_map = {}
    for i, group in enumerate(groups):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        write_safetensors(folder / file, group)
        weight_map |= dict.fromkeys(group, file)
    total = sum(len(t.data) for t in tensors.values())
    write_json(
        folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
    )


def write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Widest dtypes first, as the library orders them, header padded to eight bytes."""
    width = {"F32": 4, "I32": 4, "BF16": 2, "F16": 2, "U8": 1, "F8_E4M3": 1}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"} if metadata is None else metadata}
    at, order = 0, sorted(tensors, key=lambda name: (-width[tensors[name].dtype], name))
    for name in order:
        t = tensors[name]
        header[name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [at, at + len(t.data)]}
        at += len(t.data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            file.write(tensors[name].data)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    found = {}
    for name, spec in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            start, end = (8 + length + o for o in spec["data_offsets"])
            found[name] = Tensor(spec["dtype"], tuple(spec["shape"]), data[start:end])
    return found


def read_all(folder: Path) -> dict[str, Tensor]:
    """Every tensor of every shard."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= read_safetensors(path)
    return found
