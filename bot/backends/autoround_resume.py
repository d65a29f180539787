"""What an interrupted AutoRound run left, made consistent before the tool goes on from it.

AutoRound 0.16.1 notes a layer as finished after its tensors are on disk, and takes over every temporary shard
(`model-shard-00001.safetensors`, …) that it finds. A kill at the wrong moment leaves what it does not see:

- between a shard and its note: the layer is trained again and stands in two shards;
- in the middle of a shard: a file that cannot be read;
- after the shards got their final names: they are not found, and all finished layers are lost.

Here shards get their temporary names back, those that are not wholly of finished layers are removed (what
lies outside the layers is written at the end anyway), and where a finished layer is missing all the same,
everything starts over. A folder left by a base in another place is not used either: the tool takes the path
for the model.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

_FINAL = re.compile(r"model-(\d{5})-of-\d{5}\.safetensors")


def reconcile(state: Path, base: Path) -> list[str]:
    """The layers in `state` that are finished and whole; everything else in it is removed."""
    mark = state / "base"
    finished = _finished(state)
    if not (mark.is_file() and mark.read_text(encoding="utf-8") == str(base) and finished):
        return _start_over(state, base)
    held: set[str] = set()
    for path in sorted((state / "output").glob("*/*")):
        if final := _FINAL.fullmatch(path.name):
            path = path.rename(path.with_name(f"model-shard-{final[1]}.safetensors"))
        layers = _layers(path, finished) if path.name.startswith("model-shard-") else set()
        if not layers or layers & held:
            path.unlink()
        held |= layers
    return finished if held == set(finished) else _start_over(state, base)


def _start_over(state: Path, base: Path) -> list[str]:
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True)
    (state / "base").write_text(str(base), encoding="utf-8")
    return []


def _finished(state: Path) -> list[str]:
    try:
        manifest = state / "layers" / "group_0" / "resume_manifest.json"
        return [str(name) for name in json.loads(manifest.read_text(encoding="utf-8"))["completed_blocks"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _layers(shard: Path, finished: list[str]) -> set[str]:
    """The finished layers whose tensors are all that `shard` holds; empty when it holds others or is cut."""
    try:
        with open(shard, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, shard.stat().st_size)))
        header.pop("__metadata__", None)
        size = 8 + length + max(spec["data_offsets"][1] for spec in header.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
    layers = {name: next((each for each in finished if name.startswith(f"{each}.")), None) for name in header}
    if size != shard.stat().st_size or None in layers.values():
        return set()
    return {layer for layer in layers.values() if layer is not None}
