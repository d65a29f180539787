"""Makes a quantizer's output what the recipe promises, touching only what is wrong.

First everything is decided, from headers and comparisons (`bot.checkpoint.plan`); then every new
file is written beside its place; then all are switched (`bot.checkpoint.rewrite`). A tensor that is
right is never rewritten, a shard that is right is not even opened for writing, and a second repair
finds nothing to do. Without a base, what only the base can give back is listed, not guessed.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import Any, Literal

from bot.checkpoint.documents import dump, parse_json
from bot.checkpoint.facts import HEAD_BYTES, TEXT_LIMIT_BYTES, leak_in_text, pickles_of, same_as_base
from bot.checkpoint.files import Source, entry_of
from bot.checkpoint.folder import FolderSource
from bot.checkpoint.headers import TensorEntry
from bot.checkpoint.index import INDEX_NAME
from bot.checkpoint.inventory import linears, packed_modules
from bot.checkpoint.lists import disagreements
from bot.checkpoint.mending import mended, standalone
from bot.checkpoint.packing import STORED_MINUS_ONE, contradiction, label_of, packing_of
from bot.checkpoint.plan import Action, Plan, make_plan, pieces_of
from bot.checkpoint.reading import Checkpoint, read_checkpoint
from bot.checkpoint.rewrite import Piece, Staging, remove_leftovers
from bot.checkpoint.scans import scan_group_indexes, scan_scales, scan_zeros
from bot.checkpoint.sidefiles import (
    TEMPLATE_KEYS,
    is_scanned,
    is_side_file,
    is_stray_side_file,
    local_paths,
    looks_like_text,
    skipped_keys,
    strings_of,
    without_local_paths,
    without_paths_in_text,
)
from bot.errors import InputError
from bot.log import Progress
from bot.models import Model
from bot.recipe import Recipe

METADATA_LIMIT_BYTES = 1 << 30


class RepairAction(Model):
    """One thing that was done, or that could not be."""

    kind: str
    detail: str
    files: list[str]
    tensors: list[str]


class RepairReport(Model):
    """What `release-bot repair --json` prints. `bytes_fetched` are those read from the base."""

    schema_version: Literal[1] = 1
    path: str
    base: str | None
    base_revision: str | None
    recipe: str
    changed: bool
    actions: list[RepairAction]
    unrepaired: list[RepairAction]
    bytes_fetched: int
    bytes_written: int
    wall_s: float


def repair(
    folder: Path, *, base: Source | None, recipe: Recipe, metadata_limit_bytes: int = METADATA_LIMIT_BYTES
) -> RepairReport:
    """Repair the checkpoint in `folder` in place.

    A shard larger than `metadata_limit_bytes` is not rewritten only to add the metadata `format: pt`.

    Raises InputError (it or the base cannot be read, holds links, or a label contradicts its bytes)
    and InfrastructureError (disk, network); the folder is then as it was.
    """
    started = time.monotonic()
    source = _open(folder)
    original = _read_base(base, source) if base else None
    checkpoint = read_checkpoint(source, strays=True)
    _refuse_outside(checkpoint)
    work = _Work(checkpoint, original, recipe, metadata_limit_bytes)
    remove_leftovers(source)
    with Staging(source) as staging:
        work.run(staging)
    return RepairReport(
        path=str(folder),
        base=base.label if base else None,
        base_revision=base.revision if base else None,
        recipe=recipe.name,
        changed=bool(work.plan.actions),
        actions=[_line(action) for action in work.plan.actions],
        unrepaired=[_line(action) for action in work.plan.unrepaired],
        bytes_fetched=base.bytes_read if base else 0,
        bytes_written=staging.bytes_written,
        wall_s=time.monotonic() - started,
    )


def _line(action: Action) -> RepairAction:
    return RepairAction(
        kind=action.kind, detail=action.detail, files=list(action.files), tensors=list(action.tensors)
    )


def _open(folder: Path) -> FolderSource:
    """The folder, refused when writing into it could reach elsewhere."""
    source = FolderSource(folder)
    odd = [path for path, entry in source.files().items() if entry.kind != "file"]
    if odd or source.revision is not None:
        raise InputError(
            f"the folder holds links: {', '.join(odd[:3]) or 'it is a snapshot of a Hub cache'}",
            where=str(folder),
            why="writing through a link would change files outside the checkpoint",
            fix="copy the checkpoint to a folder of its own",
        )
    return source


def _read_base(base: Source, source: FolderSource) -> Checkpoint:
    """The base; InputError when it is the folder itself, or quantized: then it is no authority."""
    if isinstance(base, FolderSource) and base.path.resolve() == source.path.resolve():
        raise InputError("the base is the checkpoint itself", where=base.label, fix="name the original model")
    original = read_checkpoint(base)
    if original.quantization is not None or packed_modules(original.tensors):
        raise InputError(
            "the base is quantized itself",
            where=base.label,
            why="its weights cannot tell which of the checkpoint's are right",
            fix="name the original model in full precision",
        )
    return original


def _refuse_outside(checkpoint: Checkpoint) -> None:
    if checkpoint.index is not None and checkpoint.index.outside:
        raise InputError(
            f"the index names {checkpoint.index.outside[0]!r}, which is outside the checkpoint",
            where=f"{checkpoint.label}: {INDEX_NAME}",
            why="it may be hostile",
            fix=f"delete {INDEX_NAME} if you trust the rest: repair rebuilds it",
        )


class _Work:
    """One repair: the plan for the weights, then configs, side files and the index."""

    def __init__(self, checkpoint: Checkpoint, base: Checkpoint | None, recipe: Recipe, limit: int) -> None:
        self.checkpoint = checkpoint
        self.base = base
        minus_one = _minus_one(checkpoint)
        self.plan: Plan = make_plan(checkpoint, base, recipe, minus_one=minus_one, metadata_limit_bytes=limit)
        _keep_poisoned(self.plan, checkpoint)
        self.shards: dict[str, list[Piece]] = {}
        for file in sorted({*checkpoint.shards, *self.plan.changed_files()}):
            self.shards[file] = pieces_of(self.plan, checkpoint.shards.get(file), file)

    def did(self, kind: str, detail: str, *files: str) -> None:
        self.plan.actions.append(Action(kind=kind, detail=detail, files=files))

    def run(self, staging: Staging) -> None:
        """Stage everything, then switch."""
        self._stage_shards(staging)
        self._stage_side_files(staging)
        self._stage_configs(staging)
        self._stage_clean_texts(staging)
        self._stage_index(staging)
        self._note_pickles()
        if self.plan.actions:
            staging.commit()
        self._modes()

    # ── weights ────────────────────────────────────────────────────────────────────────────

    def _stage_shards(self, staging: Staging) -> None:
        changed = self.plan.changed_files()
        total = sum(piece.num_bytes for file in changed for piece in self.shards[file])
        staging.check_space(total)
        with Progress("writing shards", total=total, unit="bytes") as progress:
            done = 0

            def advance(count: int) -> None:
                nonlocal done
                done += count
                if total > 64 << 20:
                    progress.update(done)

            # A new shard first: until the index names it, nothing reads it.
            for file in sorted(changed, key=lambda file: (file in self.checkpoint.shards, file)):
                if self.shards[file]:
                    staging.write_shard(file, self.shards[file], self._metadata(file), advance)
                else:
                    staging.remove(file)

    def _metadata(self, file: str) -> dict[str, str]:
        shard = self.checkpoint.shards.get(file)
        return self.plan.metadata.get(file) or (dict(shard.metadata) if shard else {"format": "pt"})

    def _stage_index(self, staging: Staging) -> None:
        """The index from the headers as they will be; none for a lone model.safetensors that had none."""
        weight_map = {piece.name: file for file, pieces in self.shards.items() for piece in pieces}
        total = sum({p.name: p.num_bytes for pieces in self.shards.values() for p in pieces}.values())
        files = [file for file, pieces in self.shards.items() if pieces]
        index = self.checkpoint.index
        if index is None and files == ["model.safetensors"]:
            return
        stated = index.total_size if index else None
        clean = index is not None and not local_paths(strings_of(index.rest, skipped=TEMPLATE_KEYS))
        if index and clean and index.weight_map == weight_map and stated == total and type(stated) is int:
            return
        content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        staging.write(INDEX_NAME, [dump(content)])
        self.did("index", f"{len(weight_map):,} tensors, total_size {total:,}", INDEX_NAME)

    # ── files ──────────────────────────────────────────────────────────────────────────────

    def _stage_side_files(self, staging: Staging) -> None:
        """Side files are the base's; those that the base has not are taken away."""
        if self.base is None:
            return
        mine, theirs = self.checkpoint.source, self.base.source
        for path in theirs.files():
            if is_side_file(path) and not (path in mine.files() and same_as_base(mine, theirs, path)):
                staging.write(path, theirs.stream(path, 0, entry_of(theirs, path).size_bytes))
                self.did("side-file", "differed" if path in mine.files() else "was missing", path)
        for path in mine.files():
            if (is_side_file(path) or is_stray_side_file(path)) and path not in theirs.files():
                staging.remove(path)
                self.did("side-file", "taken away: the base has none", path)

    def _stage_configs(self, staging: Staging) -> None:
        """config.json = the base's + quantization_config, its lists mended; stand-alone copies equal."""
        config = self.checkpoint.config
        quantization = self._quantization()
        rest = {
            k: v for k, v in (self.base.config if self.base else config).items() if k != "quantization_config"
        }
        right = rest if self.base else without_local_paths(rest, skipped=TEMPLATE_KEYS)
        if quantization is not None:
            right = right | {"quantization_config": quantization}
        if right != config or not _same_types(right, config):
            staging.write("config.json", [dump(right)])
            what = "the base's, with quantization_config" if self.base else "mended"
            allowed = frozenset(t for _, t in strings_of(self.base.config if self.base else {}))
            leaks = local_paths(strings_of(config, skipped=TEMPLATE_KEYS), allowed)
            self.did("config", what + (", local paths taken out" if leaks else ""), "config.json")
        for file, copy in self.checkpoint.standalone.items():
            wanted = standalone(copy, quantization) if quantization is not None else copy
            wanted = without_local_paths(wanted, skipped=TEMPLATE_KEYS)
            if wanted != copy:
                staging.write(file, [dump(wanted)])
                self.did("config", "made equal to config.json", file)

    def _quantization(self) -> dict[str, Any] | None:
        """The mended quantization_config; from a stand-alone file where config.json has none."""
        given = self.checkpoint.quantization
        if given is None:
            given = next((c for c in self.checkpoint.standalone.values() if "quant_method" in c), None)
        after = {piece.name: piece for pieces in self.shards.values() for piece in pieces}
        entries = {name: _entry(piece, name) for name, piece in after.items()}
        modules = packed_modules(entries)
        if given is None:
            if modules:
                self.plan.unrepaired.append(
                    Action(kind="config", detail="no file says how the weights are packed; quantize again")
                )
            return None
        before = packed_modules(self.checkpoint.tensors)
        # A module that this repair unpacks has no say any more.
        indexes = scan_group_indexes(self.checkpoint, [m for name, m in before.items() if name in modules])
        trivial = not indexes.nontrivial and not indexes.unread
        if not trivial:
            detail = "g_idx is not trivial: engines that ignore it would read other weights; quantize again"
            self.plan.unrepaired.append(Action(kind="g_idx", detail=detail, tensors=indexes.nontrivial))
        found = linears(entries, modules)
        right = mended(given, found, trivial_g_idx=trivial)
        result: dict[str, Any] = without_local_paths(right, skipped=TEMPLATE_KEYS)
        for each in disagreements("config.json", result, found)[:20]:
            self.plan.unrepaired.append(Action(kind="lists", detail=str(each), tensors=each.modules))
        return result

    def _stage_clean_texts(self, staging: Staging) -> None:
        """Local paths are taken out of whatever else is there."""
        source = self.checkpoint.source
        for path, entry in source.files().items():
            ours = path == "config.json" or path in self.checkpoint.standalone or path == INDEX_NAME
            if ours or not entry.size_bytes or not is_scanned(path):
                continue
            if self.base is not None and (is_side_file(path) or is_stray_side_file(path)):
                continue
            if not looks_like_text(path, source.read(path, 0, min(HEAD_BYTES, entry.size_bytes))):
                continue
            if entry.size_bytes > TEXT_LIMIT_BYTES:
                if leak_in_text(source, path):
                    detail = "names a local path; it is too large to be written anew"
                    self.plan.unrepaired.append(Action(kind="local-path", detail=detail, files=(path,)))
                continue
            data = source.read_small(path, TEXT_LIMIT_BYTES)
            cleaned = _cleaned(path, data)
            if cleaned != data:
                staging.write(path, [cleaned])
                self.did("local-path", "a local path was taken out", path)

    def _modes(self) -> None:
        """Every file readable by all, writable by its owner."""
        folder = Path(self.checkpoint.label)
        wrong = []
        for path in self.checkpoint.source.files():
            full = folder / path
            if full.is_file() and stat.S_IMODE(full.lstat().st_mode) != 0o644:
                os.chmod(full, 0o644)
                wrong.append(path)
        if wrong:
            self.did("mode", "set to 0644", *wrong)

    def _note_pickles(self) -> None:
        found = tuple(pickles_of(self.checkpoint, shallow=False))
        if found:
            detail = "may run code when loaded; remove it if nothing needs it"
            self.plan.unrepaired.append(Action(kind="pickle", detail=detail, files=found))


def _keep_poisoned(plan: Plan, checkpoint: Checkpoint) -> None:
    """What would be dequantized from scales that are NaN or Inf stays as it is, and is said."""
    names = [name for action in plan.actions if action.kind == "dequantized" for name in action.tensors]
    modules = packed_modules(checkpoint.tensors)
    for name in names:
        module = modules[name.removesuffix(".weight")]
        if not (bad := scan_scales(checkpoint, None, [module]).nonfinite):
            continue
        plan.drops -= set(module.entries)
        for file, pieces in list(plan.puts.items()):
            pieces.pop(name, None)
            if not pieces:
                del plan.puts[file]
        plan.actions = [action for action in plan.actions if action.tensors != (name,)]
        detail = "is packed with a NaN or Inf scale; only the base can give it back"
        plan.unrepaired.append(Action(kind="packed", detail=detail, tensors=(module.name, *bad)))


def _minus_one(checkpoint: Checkpoint) -> bool:
    """How zero points are stored, by their bytes; InputError when the label says otherwise."""
    modules = packed_modules(checkpoint.tensors)
    label = label_of(checkpoint.quantization)
    packing = packing_of(
        (m.kind for m in modules.values()), scan_zeros(checkpoint, modules.values(), beginnings=True), label
    )
    if said := contradiction(label, packing):
        raise InputError(
            said,
            where=f"{checkpoint.label}: config.json",
            why="the config or the weights come from another export; neither is to be guessed",
            fix="restore the config that belongs to these weights, or quantize again",
        )
    return STORED_MINUS_ONE.get(packing, True)


def _entry(piece: Piece, name: str) -> TensorEntry:
    return TensorEntry(name, piece.dtype, piece.shape, 0, piece.num_bytes, "")


def _same_types(one: Any, other: Any) -> bool:
    """`1 == True` in Python, not in JSON."""
    return dump(_sorted(one)) == dump(_sorted(other))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(each) for each in value] if isinstance(value, list) else value


def _cleaned(path: str, data: bytes) -> bytes:
    """`data` without local paths: the entry goes from JSON, the directories go from text."""
    text = data.decode("utf-8", "surrogateescape")
    if path.endswith((".json", ".ipynb")):
        skipped = skipped_keys(path)
        try:
            content = parse_json(data, where=path)
        except InputError:
            pass
        else:
            leaks = local_paths(strings_of(content, skipped=skipped))
            # A lone string is left as it is: there is no entry to take it out of.
            whole = not isinstance(content, str)
            return dump(without_local_paths(content, skipped=skipped)) if leaks and whole else data
    return without_paths_in_text(text).encode("utf-8", "surrogateescape")
