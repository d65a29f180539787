"""Checkpoints whose drafts are all right by construction, and ways to break one.

The harness that counts drafts needs a checkpoint with a known answer. Here the next token is a function of
the last one alone: the embeddings are random, `lm_head` holds them with their rows permuted, and everything
between is small beside the residual stream, so that after token x comes π(x). The MTP head does the same
sum: `mtp.fc = [I | 0]` passes on the embedding of the token that was just chosen, its layer is small, and
the shared `lm_head` maps it to π of that. So every draft is accepted, at every position, exactly; a head that
is missing, packed or made of noise is not. π is one cycle over the vocabulary: the text never repeats itself
early.

`break_*` damage a checkpoint folder in place, rigged or not, in any of the packings of `checkpoints`. They
rewrite the shards and the index consistently; what they leave behind loads, unless its name says otherwise.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from checkpoints import (
    Tensor,
    bf16,
    floats,
    is_quantized,
    pack,
    quantization_config,
    read_all,
    standalone,
    write_json,
    write_shards,
)

SMALL = 0.02
NUM_SHARDS = 3
INDEX = "model.safetensors.index.json"
Tensors = dict[str, Tensor]


def make(folder: Path, base: Path, *, packing: str | None = "gptq", seed: int = 0) -> Path:
    """A rigged checkpoint in the shapes of `base`; vision tower, tokenizer and side files are the base's.

    `packing` is one of `checkpoints.PACKINGS`, or None for BF16.
    """
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    tensors = rigged(read_all(base), seed=seed)
    if packing is not None:
        tensors = packed(tensors, packing)
        claim_packing(folder, packing, tensors)
    write_shards(folder, tensors, NUM_SHARDS)
    return folder


def rigged(tensors: Tensors, *, seed: int) -> Tensors:
    """`tensors` with language model and MTP head replaced; names, shapes and dtypes stay."""
    rng = np.random.default_rng(seed)
    made = {name: _small(name, tensor, rng) for name, tensor in tensors.items()}
    vocab, hidden = tensors["lm_head.weight"].shape
    embeddings = rng.standard_normal((vocab, hidden))
    made["model.language_model.embed_tokens.weight"] = bf16(embeddings)
    made["lm_head.weight"] = bf16(embeddings[before(vocab, seed=seed)])
    made["mtp.fc.weight"] = bf16(np.concatenate([np.eye(hidden), np.zeros((hidden, hidden))], axis=1))
    return made


def before(vocab: int, *, seed: int) -> np.ndarray:
    """For each token the one that it follows: the inverse of π, one cycle over all of them. `[V]`"""
    cycle = np.random.default_rng(seed + 1).permutation(vocab)
    previous = np.empty(vocab, dtype=np.int64)
    previous[np.roll(cycle, -1)] = cycle
    return previous


def _small(name: str, tensor: Tensor, rng: np.random.Generator) -> Tensor:
    """Vision as it is; norms that do nothing (Qwen3.5 scales by 1 + w); the rest small and random."""
    if name.startswith("model.visual."):
        return tensor
    if "norm" in name:
        kept_plain = name.endswith("linear_attn.norm.weight")  # this one scales by w
        return bf16(np.ones(tensor.shape) if kept_plain else np.zeros(tensor.shape))
    return bf16(rng.standard_normal(tensor.shape) * SMALL)


def packed(tensors: Tensors, packing: str) -> Tensors:
    """What the recipes quantize, rounded to nearest and packed; the rest as it is."""
    made: Tensors = {}
    for name, tensor in tensors.items():
        if is_quantized(name):
            parts = pack(floats(tensor), packing)
            made |= {f"{name.removesuffix('.weight')}.{part}": value for part, value in parts.items()}
        else:
            made[name] = tensor
    return made


def claim_packing(folder: Path, packing: str, tensors: Tensors) -> None:
    """Write what the quantizer would say into `config.json` and the stand-alone file."""
    claimed = quantization_config(packing, tensors)
    if packing == "nvfp4":  # without it the engine takes the weights for W4A16, which needs a GPU
        group = claimed["config_groups"]["group_0"]
        group["input_activations"] = group["weights"] | {"dynamic": False}
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | {"quantization_config": claimed})
    name, content = standalone(packing, claimed)
    write_json(folder / name, content)


# ── ways to break one ──────────────────────────────────────────────────────────────────────


def copy(source: Path, folder: Path) -> Path:
    """A copy that may be broken."""
    shutil.copytree(source, folder, symlinks=False)
    return folder


def break_mtp_missing(folder: Path) -> None:
    """The head's tensors are gone, and config.json still promises them: what some quantizers leave."""
    _rewrite(folder, lambda tensors: {k: v for k, v in tensors.items() if not k.startswith("mtp.")})


def break_mtp_unindexed(folder: Path) -> None:
    """The head's shard lies there, and the index does not name it: engines pass it over."""
    path = folder / INDEX
    index = json.loads(path.read_text())
    index["weight_map"] = {k: v for k, v in index["weight_map"].items() if not k.startswith("mtp.")}
    write_json(path, index)


def break_mtp_fc_packed(folder: Path, *, claimed: bool) -> None:
    """`mtp.fc` packed as GPTQ; `claimed`: and the config no longer keeps it out of the quantized modules."""

    def change(tensors: Tensors) -> Tensors:
        fc = floats(tensors.pop("mtp.fc.weight"))
        dense = (
            fc + np.random.default_rng(0).standard_normal(fc.shape) * 1e-3
        )  # a group of zeros has no scale
        parts = pack(dense, "gptq")
        return tensors | {f"mtp.fc.{part}": value for part, value in parts.items()}

    _rewrite(folder, change)
    if claimed:
        _reconfigure(folder)


def _reconfigure(folder: Path) -> None:
    """`mtp.fc` is no longer excepted from quantization; the head's layer still is."""
    config = json.loads((folder / "config.json").read_text())
    dynamic = config["quantization_config"]["dynamic"]
    kept = {k: v for k, v in dynamic.items() if "mtp" not in k}
    config["quantization_config"]["dynamic"] = kept | {"-:.*mtp.layers.*": {}}
    write_json(folder / "config.json", config)
    write_json(folder / "quantize_config.json", config["quantization_config"])


def break_mtp_noise(folder: Path, *, std: float, seed: int = 0) -> None:
    """Gaussian noise on `mtp.fc`: 0.15 on a rigged head costs some drafts, 10 all of them."""
    rng = np.random.default_rng(seed)

    def change(tensors: Tensors) -> Tensors:
        fc = floats(tensors["mtp.fc.weight"])
        return tensors | {"mtp.fc.weight": bf16(fc + rng.standard_normal(fc.shape) * std)}

    _rewrite(folder, change)


def break_mtp_zeros(folder: Path) -> None:
    """Every tensor of the head is there, and zero: loads, and drafts nothing that is right."""
    _rewrite(folder, lambda tensors: _zeroed(tensors, "mtp."))


def break_vision(folder: Path) -> None:
    """The vision tower is there, and zero: every picture looks the same."""
    _rewrite(folder, lambda tensors: _zeroed(tensors, "model.visual."))


def break_body(folder: Path, *, noise: float, seed: int = 0) -> None:
    """Quality lost: the language model's Linears (where packed their scales) times 1 + `noise`·N(0, 1)."""
    rng = np.random.default_rng(seed)

    def change(tensors: Tensors) -> Tensors:
        return {name: _noised(name, tensor, noise, rng) for name, tensor in tensors.items()}

    _rewrite(folder, change)


def _noised(name: str, tensor: Tensor, noise: float, rng: np.random.Generator) -> Tensor:
    if not name.startswith("model.language_model.layers."):
        return tensor
    dtype = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}.get(tensor.dtype)
    if dtype is not None and name.endswith((".scales", ".weight_scale_2")):
        values = np.frombuffer(tensor.data, dtype).reshape(tensor.shape)
        changed = values * (1 + noise * rng.standard_normal(tensor.shape))
        return Tensor(tensor.dtype, tensor.shape, np.asarray(changed, dtype).tobytes())
    if tensor.dtype == "BF16" and is_quantized(name):
        return bf16(floats(tensor) * (1 + noise * rng.standard_normal(tensor.shape)))
    return tensor


def _zeroed(tensors: Tensors, prefix: str) -> Tensors:
    return {
        name: Tensor(t.dtype, t.shape, bytes(len(t.data))) if name.startswith(prefix) else t
        for name, t in tensors.items()
    }


def _rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    """Shards and index again, from changed tensors."""
    tensors = change(read_all(folder))
    for path in [*folder.glob("*.safetensors"), folder / INDEX]:
        path.unlink(missing_ok=True)
    write_shards(folder, tensors, NUM_SHARDS)
