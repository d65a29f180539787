"""Everything the audit's checks look at, gathered once: after this, no check reads a byte."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bot.checkpoint.compare import SHOWN_FROM_BYTES, Comparison, compare
from bot.checkpoint.distance import ModuleDistance, measure, selection
from bot.checkpoint.documents import CONFIG_LIMIT_BYTES, parse_json, parse_object
from bot.checkpoint.files import Source, entry_of, same_content
from bot.checkpoint.index import INDEX_NAME
from bot.checkpoint.inventory import IN_PROJ_AB, PackedModule, linears, packed_modules, part_of
from bot.checkpoint.packing import STORED_MINUS_ONE, Packing, Zeros, label_of, packing_of
from bot.checkpoint.reading import Checkpoint, read_checkpoint
from bot.checkpoint.scans import GroupIndexes, ScaleFaults, scan_group_indexes, scan_scales, scan_zeros
from bot.checkpoint.sidefiles import (
    PICKLE_HEAD_BYTES,
    is_scanned,
    is_side_file,
    is_stray_side_file,
    local_path_in_stream,
    local_paths,
    looks_like_text,
    metadata_strings,
    named_like_pickle,
    skipped_keys,
    starts_like_pickle,
    strings_of,
)
from bot.errors import InputError
from bot.log import Progress
from bot.recipe import Recipe

# What all shipped recipes quantize; used where no recipe is given.
COVERED = (
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "linear_attn.in_proj_qkv",
    "linear_attn.in_proj_z",
    "linear_attn.out_proj",
)
TEXT_LIMIT_BYTES = 64 << 20
HEAD_BYTES = 64 << 10


@dataclass(frozen=True, kw_only=True)
class SideFiles:
    """Side files of the base that the checkpoint lacks, has otherwise, or has although the base does not."""

    missing: tuple[str, ...]
    differing: tuple[str, ...]
    extra: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A checkpoint, its base, and what their bytes say. `None` where bytes were not to be read."""

    checkpoint: Checkpoint
    base: Checkpoint | None
    recipe: Recipe | None
    headers_only: bool
    modules: dict[str, PackedModule]
    linears: dict[str, bool]
    label: Packing
    packing: Packing
    zeros: dict[str, Zeros]
    kept: Comparison | None
    mtp: Comparison | None
    visual: Comparison | None
    scales: ScaleFaults | None
    group_indexes: GroupIndexes | None
    distances: tuple[ModuleDistance, ...]
    unmeasured: dict[str, str]
    side_files: SideFiles | None
    local_paths: tuple[tuple[str, str], ...]
    pickles: tuple[str, ...]
    scanned_all: bool

    def covered(self, module: str) -> bool:
        """Whether the recipe (or, without one, every shipped recipe) quantizes this module."""
        return covers(self.recipe, module)

    @property
    def wrongly_packed(self) -> list[str]:
        """Packed modules that the recipe keeps and that no check of their own is about."""
        return [
            name
            for name in self.modules
            if not self.covered(name)
            and part_of(name) not in ("visual", "mtp")
            and not IN_PROJ_AB.fullmatch(name)
        ]


def covers(recipe: Recipe | None, module: str) -> bool:
    """Whether `module` is a Linear of a decoder layer that is to be quantized."""
    names = recipe.coverage.quantize if recipe else COVERED
    return part_of(module) == "language" and any(module.endswith(f".{name}") for name in names)


def gather(source: Source, base: Source | None, recipe: Recipe | None, *, headers_only: bool) -> Facts:
    """Reads what the checks need. InputError when either checkpoint cannot be read at all."""
    checkpoint = read_checkpoint(source, strays=True)
    original = read_checkpoint(base) if base else None
    modules = packed_modules(checkpoint.tensors)
    label = label_of(checkpoint.quantization)
    deep = not headers_only
    readable = [m for m in modules.values() if all(checkpoint.readable(e) for e in m.entries)]
    zeros = scan_zeros(checkpoint, modules.values()) if deep else {}
    packing = packing_of((m.kind for m in modules.values()), zeros, label)
    kept, mtp, visual = _comparisons(checkpoint, original) if deep and original else (None, None, None)
    distances, unmeasured = (
        _distances(checkpoint, original, modules, label, packing) if deep and original else ((), {})
    )
    paths, scanned_all = _local_paths(checkpoint, original, shallow=headers_only)
    return Facts(
        checkpoint=checkpoint,
        base=original,
        recipe=recipe,
        headers_only=headers_only,
        modules=modules,
        linears=linears(checkpoint.tensors, modules),
        label=label,
        packing=packing,
        zeros=zeros,
        kept=kept,
        mtp=mtp,
        visual=visual,
        scales=scan_scales(checkpoint, original, readable) if deep else None,
        group_indexes=scan_group_indexes(checkpoint, modules.values()) if deep else None,
        distances=tuple(distances),
        unmeasured=unmeasured,
        side_files=_side_files(checkpoint.source, original.source) if original else None,
        local_paths=tuple(paths),
        pickles=tuple(pickles_of(checkpoint, shallow=headers_only)),
        scanned_all=scanned_all,
    )


# ── weights ────────────────────────────────────────────────────────────────────────────────


def _comparisons(checkpoint: Checkpoint, base: Checkpoint) -> tuple[Comparison, Comparison, Comparison]:
    """Language (with embeddings and lm_head), MTP, vision."""
    names: dict[str, list[str]] = {"language": [], "mtp": [], "visual": []}
    for name in base.tensors:
        part = part_of(name)
        names[part if part in names else "language"].append(name)
    packed = {f"{m}.weight" for m in packed_modules(checkpoint.tensors)}
    kept = {part: [n for n in found if n not in packed] for part, found in names.items()}
    one, two, three = (compare(checkpoint, base, kept[part]) for part in ("language", "mtp", "visual"))
    return one, two, three


def _distances(
    checkpoint: Checkpoint,
    base: Checkpoint,
    modules: dict[str, PackedModule],
    label: Packing,
    packing: Packing,
) -> tuple[list[ModuleDistance], dict[str, str]]:
    """The distance of each module as an engine that trusts the label reads it, and why some have none."""
    minus_one = STORED_MINUS_ONE.get(label, STORED_MINUS_ONE.get(packing, True))
    found: list[ModuleDistance] = []
    unmeasured: dict[str, str] = {}
    remote = checkpoint.source.remote or base.source.remote
    # What lacks a part is for tensors.missing to say.
    complete = [module for module in modules.values() if not module.missing]
    chosen = selection(complete, remote=remote)
    sum_bytes = sum(module.num_bytes for module in chosen)
    with Progress("measuring weights", total=len(chosen)) as progress:
        for count, module in enumerate(chosen, 1):
            if why := _unmeasurable(checkpoint, base, module):
                unmeasured[module.name] = why
                continue
            try:
                found.append(measure(checkpoint, base, module, minus_one=minus_one))
            except InputError as e:
                unmeasured[module.name] = e.what
            if sum_bytes >= SHOWN_FROM_BYTES:
                progress.update(count, note=module.name)
    return found, unmeasured


def _unmeasurable(checkpoint: Checkpoint, base: Checkpoint, module: PackedModule) -> str:
    theirs = base.tensors.get(f"{module.name}.weight")
    if theirs is None:
        return "the base has no such weight"
    if module.kind == "unknown" or not module.sound:
        return "its tensors do not fit together, or are of a packing that is not read here"
    if theirs.shape != module.shape:
        return f"it unpacks to {list(module.shape)}, the base has {list(theirs.shape)}"
    if theirs.dtype not in ("BF16", "F16", "F32", "F64"):
        return f"the base's weight is {theirs.dtype}"
    if not base.readable(theirs):
        return "the base's shard is damaged"
    return "" if all(checkpoint.readable(e) for e in module.entries) else "its shard is damaged"


# ── files ──────────────────────────────────────────────────────────────────────────────────


def _side_files(mine: Source, theirs: Source) -> SideFiles:
    own = {path for path, entry in mine.files().items() if is_side_file(path) and entry.kind != "symlink"}
    links = {path for path, entry in mine.files().items() if entry.is_symlink}
    wanted = {path for path in theirs.files() if is_side_file(path)}
    strays = {path for path in mine.files() if is_stray_side_file(path) and path not in theirs.files()}
    return SideFiles(
        missing=tuple(sorted(wanted - own - links)),
        differing=tuple(sorted(path for path in wanted & own if not same_content(mine, theirs, path))),
        extra=tuple(sorted((own - wanted) | strays)),
    )


def _local_paths(
    checkpoint: Checkpoint, base: Checkpoint | None, *, shallow: bool
) -> tuple[list[tuple[str, str]], bool]:
    """(file, path) for each leak, and whether every file was looked into."""
    source = checkpoint.source
    found: list[tuple[str, str]] = []
    complete = True
    for path, entry in source.files().items():
        if entry.kind != "file" or not is_scanned(path):
            continue
        known = path in ("config.json", INDEX_NAME) or path in checkpoint.standalone
        if source.remote and not known and (shallow or entry.size_bytes > TEXT_LIMIT_BYTES):
            complete = complete and not _may_be_text(path)
            continue
        if not (base and same_as_base(source, base.source, path)):
            found += [(path, leak) for leak in _leaks(checkpoint, base, path)]
    for shard in checkpoint.shards.values():
        found += [(shard.file, leak) for _, leak in local_paths(metadata_strings(shard.metadata))]
    return found, complete


def same_as_base(source: Source, base: Source, path: str) -> bool:
    """Whether the base has a file `path` with the same bytes."""
    theirs = base.files().get(path)
    return theirs is not None and theirs.kind == "file" and same_content(source, base, path)


def _leaks(checkpoint: Checkpoint, base: Checkpoint | None, path: str) -> list[str]:
    document = _document(checkpoint, path)
    if document is not None:
        allowed = frozenset(text for _, text in strings_of(_base_document(base, path), skipped=frozenset()))
        return [leak for _, leak in local_paths(strings_of(document, skipped=skipped_keys(path)), allowed)]
    leak = leak_in_text(checkpoint.source, path)
    return [leak] if leak else []


def _may_be_text(path: str) -> bool:
    return looks_like_text(path, b"\0")


def leak_in_text(source: Source, path: str) -> str | None:
    """The first local path in a file that is text, whatever its size; None for any other file."""
    size = entry_of(source, path).size_bytes
    if not size or not looks_like_text(path, source.read(path, 0, min(HEAD_BYTES, size))):
        return None
    return local_path_in_stream(source.stream(path, 0, size))


def _document(checkpoint: Checkpoint, path: str) -> Any:
    """The content of a file that is JSON; None for any other file."""
    if path == "config.json" and checkpoint.has_config:
        return checkpoint.config
    if path in checkpoint.standalone:
        return checkpoint.standalone[path]
    if path == INDEX_NAME and checkpoint.index is not None:
        return checkpoint.index.rest
    small = entry_of(checkpoint.source, path).size_bytes <= TEXT_LIMIT_BYTES
    if small and path.endswith((".json", ".ipynb")):
        try:
            return parse_json(checkpoint.source.read_small(path, TEXT_LIMIT_BYTES), where=path)
        except InputError:
            return None
    return None


def _base_document(base: Checkpoint | None, path: str) -> dict[str, Any]:
    if base is None:
        return {}
    if path == "config.json":
        return base.config
    entry = base.source.files().get(path)
    if entry is None or entry.kind != "file" or entry.size_bytes > CONFIG_LIMIT_BYTES:
        return {}
    try:
        return parse_object(base.source.read_small(path, CONFIG_LIMIT_BYTES), where=path)
    except InputError:
        return {}


def pickles_of(checkpoint: Checkpoint, *, shallow: bool) -> list[str]:
    """Files that a tool would unpickle, by name or by their first bytes."""
    source, found = checkpoint.source, []
    for path, entry in source.files().items():
        if entry.kind != "file" or path in checkpoint.shards:
            continue
        if named_like_pickle(path):
            found.append(path)
        elif entry.size_bytes and not (source.remote and (shallow or _may_be_text(path))):
            entry_of(source, path)
            if starts_like_pickle(source.read(path, 0, min(PICKLE_HEAD_BYTES, entry.size_bytes))):
                found.append(path)
    return found
