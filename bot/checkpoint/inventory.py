"""What a checkpoint really holds: parts, modules, precision and bytes, all from headers.

A module is what a Linear layer became: its `weight` as it was, or the tensors of a packed format.
Counts are counted, never assumed: a base without MTP or vision simply has none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bot.checkpoint.headers import TensorEntry
from bot.checkpoint.reading import Checkpoint

Part = Literal["language", "visual", "mtp", "embeddings", "lm_head"]
PARTS: tuple[Part, ...] = ("language", "embeddings", "lm_head", "visual", "mtp")

INT_PARTS = ("qweight", "qzeros", "scales", "g_idx")
FP4_PARTS = ("weight_scale", "weight_scale_2", "input_scale")
# ModelOpt's data-driven FP8 KV cache; `fp8_cast` writes none.
KV_SCALE = re.compile(
    r".*\.layers\.\d+\.self_attn\.(k_scale|v_scale|k_proj\.k_scale|v_proj\.v_scale|kv_scale)$"
)
_NOT_LINEAR = re.compile(r"(^|\.)(embed_tokens|pos_embed|position_embedding|conv1d|\w*norm\w*)$")
IN_PROJ_AB = re.compile(r".*\.linear_attn\.in_proj_(a|b)$")


def part_of(name: str) -> Part:
    """The part of the model that a tensor or module belongs to."""
    if name.startswith("mtp."):
        return "mtp"
    if name.startswith(("model.visual.", "visual.")):
        return "visual"
    if name.startswith("lm_head"):
        return "lm_head"
    return "embeddings" if ".embed_tokens" in name else "language"


@dataclass(frozen=True, kw_only=True)
class PackedModule:
    """The tensors of one packed Linear, by suffix. `kind` follows from which there are."""

    name: str
    kind: Literal["int", "nvfp4", "unknown"]
    tensors: Mapping[str, TensorEntry]

    @property
    def entries(self) -> list[TensorEntry]:
        return list(self.tensors.values())

    @property
    def num_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self.entries)

    @property
    def missing(self) -> list[str]:
        """Suffixes without which the module cannot be read."""
        needed = (
            ("qweight", "qzeros", "scales")
            if self.kind == "int"
            else ("weight", "weight_scale", "weight_scale_2")
        )
        return [suffix for suffix in needed if suffix not in self.tensors]

    @property
    def bits(self) -> int:
        """Bits a weight; 0 when the shapes do not fit together."""
        if self.kind == "nvfp4":
            return 4
        if self.missing or self.kind == "unknown":
            return 0
        out_packed, out = self.tensors["qzeros"].shape[-1:], self.tensors["scales"].shape[-1:]
        bits, rest = divmod(out_packed[0] * 32, out[0]) if out_packed and out and out[0] else (0, 1)
        return bits if rest == 0 and bits in (4, 8) else 0

    @property
    def shape(self) -> tuple[int, int]:
        """[out, in] of the weight it stands for; (0, 0) when it cannot be told."""
        main = self.tensors.get("qweight" if self.kind == "int" else "weight")
        if main is None or len(main.shape) != 2 or not self.bits:
            return (0, 0)
        if self.kind == "nvfp4":
            return (main.shape[0], main.shape[1] * 2)
        return (main.shape[1], main.shape[0] * 32 // self.bits)

    @property
    def group_size(self) -> int:
        """Weights that share a scale; 0 when it cannot be told."""
        scales = self.tensors.get("scales" if self.kind == "int" else "weight_scale")
        if scales is None or len(scales.shape) != 2 or not self.shape[1]:
            return 0
        groups = scales.shape[0] if self.kind == "int" else scales.shape[1]
        return self.shape[1] // groups if groups and self.shape[1] % groups == 0 else 0

    @property
    def sound(self) -> bool:
        """Whether dtypes and shapes of all its tensors fit together."""
        if self.missing or not self.bits or not self.group_size:
            return False
        out, width = self.shape
        groups = width // self.group_size
        if self.kind == "nvfp4":
            second = self.tensors["weight_scale_2"]
            if second.num_elements != 1 or second.dtype not in ("F32", "F16", "BF16"):
                return False
            wanted = {"weight": ("U8", (out, width // 2)), "weight_scale": ("F8_E4M3", (out, groups))}
            return self.group_size == 16 and all(_is(self.tensors[k], d, s) for k, (d, s) in wanted.items())
        wanted = {
            "qweight": ("I32", (width * self.bits // 32, out)),
            "qzeros": ("I32", (groups, out * self.bits // 32)),
        }
        if self.tensors["scales"].dtype not in ("F16", "BF16", "F32") or self.tensors["scales"].shape != (
            groups,
            out,
        ):
            return False
        return all(_is(self.tensors[k], d, s) for k, (d, s) in wanted.items())


def _is(entry: TensorEntry, dtype: str, shape: tuple[int, ...]) -> bool:
    return entry.dtype == dtype and entry.shape == shape


def packed_modules(tensors: Mapping[str, TensorEntry]) -> dict[str, PackedModule]:
    """Every packed module among `tensors`, by name, in the order of their names."""
    groups: dict[str, dict[str, TensorEntry]] = {}
    for name, entry in tensors.items():
        module, _, suffix = name.rpartition(".")
        if suffix in INT_PARTS or suffix in FP4_PARTS or (suffix == "weight" and entry.dtype in ("U8", "F4")):
            groups.setdefault(module, {})[suffix] = entry
    for module, parts in groups.items():
        weight = tensors.get(f"{module}.weight")
        if weight is not None and not set(parts) & set(INT_PARTS):
            parts.setdefault("weight", weight)
    return {module: _module(module, groups[module]) for module in sorted(groups)}


def _module(name: str, parts: dict[str, TensorEntry]) -> PackedModule:
    if set(parts) & set(INT_PARTS):
        return PackedModule(name=name, kind="int", tensors={k: v for k, v in parts.items() if k in INT_PARTS})
    kind: Literal["nvfp4", "unknown"] = "nvfp4"
    if "weight" in parts and parts["weight"].dtype != "U8":
        kind = "unknown"
    return PackedModule(name=name, kind=kind, tensors=parts)


def linears(tensors: Mapping[str, TensorEntry], modules: Mapping[str, PackedModule]) -> dict[str, bool]:
    """Every Linear by its saved name, and whether it is packed."""
    found = dict.fromkeys(modules, True)
    for name, entry in tensors.items():
        module, _, suffix = name.rpartition(".")
        if suffix == "weight" and len(entry.shape) == 2 and not _NOT_LINEAR.search(module):
            found.setdefault(module, False)
    return dict(sorted(found.items()))


def mtp_layers(config: Mapping[str, Any]) -> int:
    """`mtp_num_hidden_layers` as a config has it, in its text part or on top."""
    text = config.get("text_config")
    for part in (text if isinstance(text, dict) else {}, config):
        value = part.get("mtp_num_hidden_layers")
        if isinstance(value, int):
            return value
    return 0


# ── figures ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class ComponentFigures:
    """One row of the table "what is in which precision"."""

    part: Part
    precision: str
    packed: bool
    num_tensors: int
    num_modules: int
    parameters: int
    bytes: int


def precision_of(module: PackedModule, packing: str) -> str:
    """`INT4 g128 (gptq)`, `NVFP4 g16`."""
    if module.kind == "nvfp4":
        return f"NVFP4 g{module.group_size}"
    return f"INT{module.bits} g{module.group_size} ({packing})" if module.kind == "int" else "unknown"


def components(
    checkpoint: Checkpoint, modules: Mapping[str, PackedModule], packing: str
) -> list[ComponentFigures]:
    """Bytes and parameters by part and precision, in a fixed order; every tensor counted once."""
    rows: dict[tuple[Part, bool, str], Counter[str]] = {}
    of_module = {entry.name: module for module in modules.values() for entry in module.entries}
    for name, entry in checkpoint.tensors.items():
        module = of_module.get(name)
        packed = module is not None
        key = (part_of(name), packed, precision_of(module, packing) if module else entry.dtype)
        row = rows.setdefault(key, Counter())
        row["tensors"] += 1
        row["bytes"] += entry.num_bytes
        main = module is not None and name.endswith((".qweight", ".weight"))
        row["modules"] += 1 if main else 0
        row["parameters"] += (
            (module.shape[0] * module.shape[1] if main else 0) if module else entry.num_elements
        )
    order = sorted(rows, key=lambda key: (PARTS.index(key[0]), not key[1], key[2]))
    return [_row(key, rows[key]) for key in order]


def _row(key: tuple[Part, bool, str], row: Counter[str]) -> ComponentFigures:
    return ComponentFigures(
        part=key[0],
        precision=key[2],
        packed=key[1],
        num_tensors=row["tensors"],
        num_modules=row["modules"],
        parameters=row["parameters"],
        bytes=row["bytes"],
    )


def total_bytes(entries: Iterable[TensorEntry]) -> int:
    """The sum of tensor bytes: what `total_size` in an index must be."""
    return sum(entry.num_bytes for entry in entries)
