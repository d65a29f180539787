"""`model.safetensors.index.json`: which file holds which tensor, and the sum of tensor bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bot.checkpoint.documents import parse_object
from bot.checkpoint.files import Source, entry_of, leads_outside
from bot.errors import InputError

INDEX_NAME = "model.safetensors.index.json"
INDEX_LIMIT_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Index:
    """`total_size` as the file has it, of any type; `outside` are paths that leave the checkpoint.

    `rest` is everything in the file but `weight_map`.
    """

    weight_map: dict[str, str]
    total_size: object
    outside: tuple[str, ...]
    rest: dict[str, Any]

    @property
    def inside(self) -> set[str]:
        """The files it names that lie in the checkpoint."""
        return set(self.weight_map.values()) - set(self.outside)


def read_index(source: Source) -> Index | None:
    """The index of `source`; None where there is none. InputError when it is not one."""
    entry = source.files().get(INDEX_NAME)
    if entry is None or entry.kind == "symlink":
        return None
    entry_of(source, INDEX_NAME)
    where = f"{source.label}: {INDEX_NAME}"
    content = parse_object(source.read_small(INDEX_NAME, INDEX_LIMIT_BYTES), where=where, unique=True)
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise InputError(
            "weight_map is not a mapping of tensors to files", where=where, fix="rebuild the index"
        )
    metadata = content.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    outside = tuple(sorted(path for path in set(weight_map.values()) if leads_outside(path)))
    rest = {key: value for key, value in content.items() if key != "weight_map"}
    return Index(weight_map=weight_map, total_size=total, outside=outside, rest=rest)
