"""What a checkpoint says it holds: config, index and every shard's header, and no weight.

On the Hub this costs one listing, one request a shard (two where a header is larger than 512 KiB)
and one for each of config.json, the index and the one or two stand-alone quantization files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bot.checkpoint.documents import read_object
from bot.checkpoint.files import Source, entry_of
from bot.checkpoint.headers import Shard, TensorEntry, read_shard
from bot.checkpoint.index import Index, read_index
from bot.checkpoint.sidefiles import PICKLE_HEAD_BYTES, starts_like_pickle
from bot.errors import InputError

# Stand-alone copies of the quantization config: GPTQModel, AutoRound, ModelOpt.
QUANT_FILES = ("quantize_config.json", "quantization_config.json", "hf_quant_config.json")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything but the weights. `tensors` has one entry a name; `duplicates` the other places."""

    source: Source
    config: dict[str, Any]
    has_config: bool
    standalone: dict[str, dict[str, Any]]
    index: Index | None
    shards: dict[str, Shard]
    tensors: dict[str, TensorEntry]
    duplicates: dict[str, tuple[TensorEntry, ...]]

    @property
    def quantization(self) -> dict[str, Any] | None:
        """`quantization_config` as an engine finds it: in config.json or its text_config."""
        text = self.config.get("text_config")
        found = self.config.get("quantization_config")
        if found is None and isinstance(text, dict):
            found = text.get("quantization_config")
        return found if isinstance(found, dict) else None

    @property
    def label(self) -> str:
        return self.source.label

    def readable(self, entry: TensorEntry) -> bool:
        """Whether the bytes of `entry` are all there and its own."""
        shard = self.shards[entry.file]
        return entry.name not in shard.cut and entry.name not in shard.overlapping

    def stream(self, entry: TensorEntry) -> Any:
        """The bytes of one tensor, in chunks."""
        return self.source.stream(entry.file, entry.start, entry.num_bytes)


def read_checkpoint(source: Source, *, strays: bool = False) -> Checkpoint:
    """Reads config, index and headers; InputError when this is no readable checkpoint.

    `strays`: a safetensors file in a subfolder that the index does not name is a shard too, so that a
    second checkpoint hidden there shows. A base may have such copies; what they hold is not asked of it.
    """
    files = source.files()
    config = _config(source)
    index = read_index(source)
    standalone = {
        name: read_object(source, name)
        for name in QUANT_FILES
        if name in files and files[name].kind == "file"
    }
    shards = _shards(source, index, strays=strays)
    tensors, duplicates = _by_name(shards, index)
    return Checkpoint(
        source=source,
        config=config or {},
        has_config=config is not None,
        standalone=standalone,
        index=index,
        shards=shards,
        tensors=tensors,
        duplicates=duplicates,
    )


def _config(source: Source) -> dict[str, Any] | None:
    """config.json; None when it is a symlink (reported, never followed)."""
    entry = source.files().get("config.json")
    if entry is not None and entry.is_symlink:
        return None
    entry_of(source, "config.json")
    content: dict[str, Any] = read_object(source, "config.json")
    return content


def _shards(source: Source, index: Index | None, *, strays: bool) -> dict[str, Shard]:
    """Every shard. One that is a pickle, and that the index does not name, is left to `files.pickle`."""
    shards: dict[str, Shard] = {}
    paths = _shard_paths(source, index, strays=strays)
    for path in paths:
        try:
            shards[path] = read_shard(source, path)
        except InputError:
            named = len(paths) == 1 or (index is not None and path in index.inside)
            if named or not _is_pickle(source, path):
                raise
    return shards


def _is_pickle(source: Source, path: str) -> bool:
    size = entry_of(source, path).size_bytes
    return size > 0 and starts_like_pickle(source.read(path, 0, min(PICKLE_HEAD_BYTES, size)))


def _shard_paths(source: Source, index: Index | None, *, strays: bool) -> list[str]:
    files = source.files()
    paths = {path for path in files if path.endswith(".safetensors") and (strays or "/" not in path)}
    paths |= {path for path in (index.inside if index else ()) if path in files}
    if not paths:
        raise InputError("no safetensors file", where=source.label, fix="name a checkpoint's folder or repo")
    for path in paths:
        if files[path].kind == "special":
            entry_of(source, path)
    return sorted(path for path in paths if files[path].kind == "file")


def _by_name(
    shards: dict[str, Shard], index: Index | None
) -> tuple[dict[str, TensorEntry], dict[str, tuple[TensorEntry, ...]]]:
    """One place a name (the one that the index gives, where it stands in several), and the others."""
    places: dict[str, list[TensorEntry]] = {}
    for shard in shards.values():
        for entry in shard.tensors:
            places.setdefault(entry.name, []).append(entry)
    named = index.weight_map if index else {}
    for name, found in places.items():
        found.sort(key=lambda entry: (entry.file != named.get(name), "/" in entry.file, entry.file))
    return (
        {name: found[0] for name, found in places.items()},
        {name: tuple(found[1:]) for name, found in places.items() if len(found) > 1},
    )
