"""What changed in a base between two looks at it, told by its blobs alone.

Blob ids say which files differ, whatever happened to the history: a month of commits and a force-push are one
comparison. What a file means for a release:

- weights: any `.safetensors`, and its index. A new release.
- side files: tokenizer, template, processors, generation config and licence, as the audit knows them, and
  `config.json`. The weights stay, so a metadata release is enough, unless the config now names another model.
- all else (README, pictures, weights in formats that no recipe reads): nothing that a release holds.

Where no manifest is left there is nothing to compare with: the change is unknown, and treated as new weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from bot.checkpoint.sidefiles import is_side_file

Kind = Literal["new_model", "new_weights", "side_files", "readme", "unknown", "none"]
# Which kinds need a release of their own, on a GPU.
OF_WEIGHTS: tuple[Kind, ...] = ("new_model", "new_weights", "unknown")


def is_weight(path: str) -> bool:
    return path.endswith((".safetensors", ".safetensors.index.json"))


def is_side(path: str) -> bool:
    return path == "config.json" or is_side_file(path)


def differing(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """The paths that were added, removed or changed, sorted."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def kind_of(before: Mapping[str, str] | None, after: Mapping[str, str]) -> tuple[Kind, list[str]]:
    """The class of the change between two manifests (path to blob id), and the paths that differ."""
    if before is None:
        return "unknown", sorted(after)
    paths = differing(before, after)
    if any(map(is_weight, paths)):
        return "new_weights", paths
    if any(map(is_side, paths)):
        return "side_files", paths
    return ("readme" if paths else "none"), paths
