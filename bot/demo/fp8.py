"""A stand-in of the official FP8 repo of the tiny base, in the layout of Qwen's own `-FP8` repos.

Each Linear weight becomes E4M3 with one float32 scale a block of 128 × 128, `weight_scale_inv`, so that
`weight = fp8 * weight_scale_inv`; embeddings, head, norms, convolutions, the small projections of the linear
attention, the vision tower and `mtp.fc` stay BF16, and `modules_to_not_convert` names them. The activations
are quantized while serving (`activation_scheme: dynamic`).

It is there so that a rehearsal measures what a release measures: base, official FP8 and release in one run.
Rounded to nearest, as the real ones seem to be; nothing measured on it says anything of a real FP8 repo.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors import TensorSpec, serialize_file

from bot.checkpoint.folder import FolderSource
from bot.checkpoint.headers import TensorEntry
from bot.checkpoint.index import INDEX_NAME
from bot.checkpoint.numbers import E4M3, Bytes, Floats, decode
from bot.checkpoint.reading import Checkpoint, read_checkpoint

BLOCK: Final = 128
MAX: Final = 448.0
_DTYPES: Final = {"BF16": "bfloat16", "F32": "float32", "F16": "float16"}
_QUANTIZED: Final = re.compile(
    r"(model\.language_model|mtp)\.layers\.\d+\."
    r"(mlp\.(gate|up|down)_proj|self_attn\.[qkvo]_proj|linear_attn\.(in_proj_qkv|in_proj_z|out_proj))\.weight"
)
_POSITIVE: Final[Floats] = E4M3[:127]  # 0 to 448 in rising order; a value's place is its code
_MIDDLES: Final[Floats] = ((_POSITIVE[1:] + _POSITIVE[:-1]) / 2).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One tensor of a shard; NumPy has no E4M3, so its dtype is named beside its bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: npt.NDArray[Any]

    def spec(self) -> TensorSpec:
        """For safetensors, which reads the bytes where they lie: keep this Part until they are written."""
        return TensorSpec(
            dtype=self.dtype, shape=self.shape, data_ptr=self.data.ctypes.data, data_len=self.data.nbytes
        )


def write(base: Path, folder: Path, *, base_repo_id: str) -> Path:
    """The FP8 checkpoint of the one in `base`, written to `folder`: one shard at a time in memory."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors*", "README.md"))
    checkpoint = read_checkpoint(FolderSource(base))
    weight_map: dict[str, str] = {}
    total_bytes = 0
    for shard in checkpoint.shards.values():
        parts: dict[str, Part] = {}
        for entry in shard.tensors:
            parts |= _converted(checkpoint, entry)
        specs = {name: part.spec() for name, part in parts.items()}
        serialize_file(specs, folder / shard.file, {"format": "pt"})
        weight_map |= dict.fromkeys(parts, shard.file)
        total_bytes += sum(part.data.nbytes for part in parts.values())
    _write(folder / INDEX_NAME, {"metadata": {"total_size": total_bytes}, "weight_map": weight_map})
    config = checkpoint.config | {"quantization_config": _claim(list(checkpoint.tensors))}
    _write(folder / "config.json", config)
    (folder / "README.md").write_text(
        f"---\nbase_model: {base_repo_id}\nlicense: apache-2.0\n---\n"
        f"# {base_repo_id}-FP8\n\nA stand-in for rehearsals: {base_repo_id} in FP8, rounded to nearest.\n"
    )
    return folder


def _claim(names: list[str]) -> dict[str, Any]:
    kept = {name.removesuffix(".weight") for name in names if not _QUANTIZED.fullmatch(name)}
    return {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [BLOCK, BLOCK],
        "modules_to_not_convert": sorted(name for name in kept if not name.endswith(("norm", ".bias"))),
    }


def _converted(checkpoint: Checkpoint, entry: TensorEntry) -> dict[str, Part]:
    data = b"".join(checkpoint.stream(entry))
    if not _QUANTIZED.fullmatch(entry.name):
        kept = np.frombuffer(data, np.uint8)
        return {entry.name: Part(dtype=_DTYPES[entry.dtype], shape=entry.shape, data=kept)}
    codes, scales = quantized(decode(data, entry.dtype).reshape(entry.shape))
    return {
        entry.name: Part(dtype="float8_e4m3fn", shape=entry.shape, data=codes),
        f"{entry.name}_scale_inv": Part(dtype="float32", shape=scales.shape, data=scales),
    }


def quantized(W_OI: Floats) -> tuple[Bytes, npt.NDArray[np.float32]]:
    """E4M3 codes [O, I] and scales [⌈O/128⌉, ⌈I/128⌉] of a weight; the largest of a block becomes 448."""
    rows, columns = (-(-side // BLOCK) for side in W_OI.shape)
    padded = np.zeros((rows * BLOCK, columns * BLOCK), np.float32)
    padded[: W_OI.shape[0], : W_OI.shape[1]] = W_OI
    blocks = padded.reshape(rows, BLOCK, columns, BLOCK)
    largest = np.abs(blocks).max(axis=(1, 3))
    scales = np.where(largest > 0, largest / MAX, 1.0).astype(np.float32)
    scaled = (blocks / scales[:, None, :, None]).reshape(padded.shape)[: W_OI.shape[0], : W_OI.shape[1]]
    codes = np.searchsorted(_MIDDLES, np.abs(scaled)).astype(np.uint8)
    signs = np.signbit(scaled).astype(np.uint8) * np.uint8(128)
    return (codes | signs).astype(np.uint8), scales


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
