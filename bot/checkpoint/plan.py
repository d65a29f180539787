"""Which tensors a repair drops, brings back or makes, decided before a byte is written.

The base is the authority for what the recipe keeps: a kept tensor that is lost, altered, packed or
doubled becomes the base's own bytes again. What the recipe quantizes cannot come from the base and
is left alone, with the reason said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from math import prod

from bot.checkpoint.compare import compare
from bot.checkpoint.facts import covers
from bot.checkpoint.headers import Shard, TensorEntry
from bot.checkpoint.inventory import KV_SCALE, PackedModule, mtp_layers, packed_modules, part_of
from bot.checkpoint.packing import Block, decode_block
from bot.checkpoint.reading import Checkpoint
from bot.checkpoint.rewrite import Piece, ordered, own_piece
from bot.checkpoint.scans import scan_zeros
from bot.checkpoint.sidefiles import local_paths, metadata_strings
from bot.recipe import Recipe

RESTORED_FILE = "model-restored-tensors.safetensors"
WEIGHTS_A_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Action:
    """One thing that was done, or that could not be."""

    kind: str
    detail: str
    files: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Plan:
    """The tensors to drop and to put, by file, and why. `unrepaired` says what stays wrong."""

    drops: set[TensorEntry] = field(default_factory=set)
    puts: dict[str, dict[str, Piece]] = field(default_factory=dict)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    reframed: set[str] = field(default_factory=set)
    actions: list[Action] = field(default_factory=list)
    unrepaired: list[Action] = field(default_factory=list)

    def put(self, file: str, piece: Piece) -> None:
        self.puts.setdefault(file, {})[piece.name] = piece

    def changed_files(self) -> set[str]:
        """Shards that must be written anew."""
        return {entry.file for entry in self.drops} | set(self.puts) | set(self.metadata) | self.reframed


def make_plan(
    checkpoint: Checkpoint,
    base: Checkpoint | None,
    recipe: Recipe,
    *,
    minus_one: bool,
    metadata_limit_bytes: int,
) -> Plan:
    """What has to happen to the weights of `checkpoint`."""
    plan = Plan()
    modules = packed_modules(checkpoint.tensors)
    for module in modules.values():
        if covers(recipe, module.name):
            _stray_weight(plan, checkpoint, module)
        else:
            _unpack(plan, checkpoint, base, module, minus_one)
    _duplicates(plan, checkpoint, base)
    if base is not None:
        _altered(plan, checkpoint, base, modules, recipe)
        _lost(plan, checkpoint, base, modules, recipe)
        _unfit(plan, base, modules, recipe)
        _orphans(plan, checkpoint, base, modules)
    else:
        _need_base(plan, checkpoint)
    for shard in checkpoint.shards.values():
        _frame(plan, shard, metadata_limit_bytes)
    _spare_damaged(plan, checkpoint)
    return plan


def pieces_of(plan: Plan, shard: Shard | None, file: str) -> list[Piece]:
    """The tensors of a shard as it is to be written."""
    put = dict(plan.puts.get(file, {}))
    pieces = []
    for entry in shard.tensors if shard else ():
        if entry.name in put:
            pieces.append(put.pop(entry.name))
        elif entry not in plan.drops:
            pieces.append(own_piece(entry))
    return ordered([*pieces, *put.values()])


def base_piece(base: Checkpoint, name: str) -> Piece:
    """The tensor `name` of the base, its bytes fetched when it is written."""
    entry = base.tensors[name]
    data: Callable[[], Iterator[bytes]] = partial(
        base.source.stream, entry.file, entry.start, entry.num_bytes
    )
    return Piece(name=name, dtype=entry.dtype, shape=entry.shape, num_bytes=entry.num_bytes, data=data)


# ── packed where it should not be ──────────────────────────────────────────────────────────


def _stray_weight(plan: Plan, checkpoint: Checkpoint, module: PackedModule) -> None:
    """Drop `X.weight` where `X.qweight` stands."""
    stray = checkpoint.tensors.get(f"{module.name}.weight")
    if module.kind == "int" and stray is not None and not module.missing:
        plan.drops.add(stray)
        plan.actions.append(
            Action(
                kind="stray-weight",
                detail="dropped beside qweight",
                files=(stray.file,),
                tensors=(stray.name,),
            )
        )


def _unpack(
    plan: Plan, checkpoint: Checkpoint, base: Checkpoint | None, module: PackedModule, minus_one: bool
) -> None:
    """A module that the recipe keeps becomes its weight again: the base's, or the dequantized mtp.fc."""
    name = f"{module.name}.weight"
    places = module.entries
    file = places[0].file
    plain = module.kind == "int" and name in checkpoint.tensors
    if plain:
        piece, kind, detail = None, "unpacked", "its packed form is dropped; its weight stands beside it"
    elif base is not None and name in base.tensors:
        piece, kind, detail = base_piece(base, name), "unpacked", "packed; the base's bytes are back"
    elif module.name == "mtp.fc" and module.sound and all(map(checkpoint.readable, places)):
        piece, kind = _dequantized(checkpoint, module, minus_one), "dequantized"
        convention = (
            "" if module.kind == "nvfp4" else f", zero points stored {'minus one' if minus_one else 'as is'}"
        )
        detail = f"packed; dequantized to BF16, without the base ({module.bits} bits{convention})"
    else:
        why = "is packed although the recipe keeps it; only the base can give it back"
        plan.unrepaired.append(Action(kind="packed", detail=why, files=(file,), tensors=(module.name,)))
        return
    plan.drops |= set(places)
    if piece is not None:
        plan.put(file, piece)
    files = tuple(sorted({entry.file for entry in places}))
    plan.actions.append(Action(kind=kind, detail=detail, files=files, tensors=(name,)))


def _dequantized(checkpoint: Checkpoint, module: PackedModule, minus_one: bool) -> Piece:
    rows, columns = module.shape

    own = scan_zeros(checkpoint, [module]).get(module.name)
    minus_one = minus_one if own in (None, "undecided") else own == "minus_one"

    def data() -> Iterator[bytes]:
        from bot.checkpoint.numbers import to_bf16

        tall = max(8, WEIGHTS_A_BLOCK // columns // 8 * 8)
        for r0 in range(0, rows, tall):
            block = Block(r0=r0, r1=min(rows, r0 + tall), c0=0, c1=columns)
            yield to_bf16(decode_block(checkpoint.source, module, block, minus_one=minus_one).weight)

    return Piece(
        name=f"{module.name}.weight",
        dtype="BF16",
        shape=module.shape,
        num_bytes=2 * prod(module.shape),
        data=data,
    )


# ── doubled, altered, lost, unexplained ────────────────────────────────────────────────────


def _duplicates(plan: Plan, checkpoint: Checkpoint, base: Checkpoint | None) -> None:
    for name, others in checkpoint.duplicates.items():
        first = checkpoint.tensors[name]
        if not (base and name in base.tensors) and any(_differ(checkpoint, first, other) for other in others):
            detail = "stands in two shards with different bytes, and nothing tells which is right"
            plan.unrepaired.append(
                Action(kind="duplicate", detail=detail, files=(first.file,), tensors=(name,))
            )
            continue
        plan.drops |= set(others)
        files = tuple(entry.file for entry in others)
        plan.actions.append(
            Action(kind="duplicate", detail="second copy dropped", files=files, tensors=(name,))
        )


def _differ(checkpoint: Checkpoint, one: TensorEntry, other: TensorEntry) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape) or not checkpoint.readable(other):
        return True
    pairs = zip(checkpoint.stream(one), checkpoint.stream(other), strict=True)
    return any(a != b for a, b in pairs)


def _altered(
    plan: Plan, checkpoint: Checkpoint, base: Checkpoint, modules: dict[str, PackedModule], recipe: Recipe
) -> None:
    """Kept tensors whose bytes are not the base's are put right where they stand."""
    packed = {f"{name}.weight" for name, m in modules.items() if m.kind != "int"}
    kept = [name for name in base.tensors if name not in packed and _is_kept(name, recipe)]
    found = compare(checkpoint, base, kept)
    for name in [*found.differing, *found.unread]:
        entry = checkpoint.tensors[name]
        plan.drops.add(entry)
        plan.put(entry.file, base_piece(base, name))
        why = found.differing.get(name, "could not be read")
        plan.actions.append(
            Action(
                kind="corrected",
                detail=f"{why}; the base's bytes are back",
                files=(entry.file,),
                tensors=(name,),
            )
        )
    if found.share < 1:
        detail = f"{found.share:.1%} of the kept bytes were compared; give a folder as base to compare all"
        plan.unrepaired.append(Action(kind="not-compared", detail=detail))


def _is_kept(name: str, recipe: Recipe) -> bool:
    return not (name.endswith(".weight") and covers(recipe, name.removesuffix(".weight")))


def _lost(
    plan: Plan, checkpoint: Checkpoint, base: Checkpoint, modules: dict[str, PackedModule], recipe: Recipe
) -> None:
    """Kept tensors that are gone come back in a shard of their own; packed ones cannot."""
    lost = [name for name in base.tensors if name not in checkpoint.tensors]
    lost = [name for name in lost if name.removesuffix(".weight") not in modules]
    kept = [name for name in lost if _is_kept(name, recipe)]
    for name in kept:
        plan.put(RESTORED_FILE, base_piece(base, name))
    if kept:
        detail = f"{len(kept)} lost tensors are back from the base"
        plan.actions.append(
            Action(kind="restored", detail=detail, files=(RESTORED_FILE,), tensors=tuple(kept))
        )
    gone = [name for name in lost if name not in kept]
    gone += [f"{m.name}.{suffix}" for m in modules.values() if covers(recipe, m.name) for suffix in m.missing]
    integers = [m for m in modules.values() if m.kind == "int" and covers(recipe, m.name)]
    without_index = [f"{m.name}.g_idx" for m in integers if "g_idx" not in m.tensors]
    gone += without_index if len(without_index) * 2 < len(integers) else []
    if gone:
        detail = "lost, and packed in this recipe: only the quantizer can make them again"
        plan.unrepaired.append(Action(kind="lost", detail=detail, tensors=tuple(gone)))


def _unfit(plan: Plan, base: Checkpoint, modules: dict[str, PackedModule], recipe: Recipe) -> None:
    """Packed modules that are not what the recipe makes of the base's weight."""
    for module in modules.values():
        theirs = base.tensors.get(f"{module.name}.weight")
        if not covers(recipe, module.name) or module.missing or theirs is None:
            continue
        wanted = (theirs.shape, recipe.method.bits, recipe.method.group_size)
        if not module.sound or (module.shape, module.bits, module.group_size) != wanted:
            detail = "its tensors do not fit together, the base or the recipe; quantize again"
            plan.unrepaired.append(Action(kind="unfit", detail=detail, tensors=(module.name,)))


def _orphans(plan: Plan, checkpoint: Checkpoint, base: Checkpoint, modules: dict[str, PackedModule]) -> None:
    parts = {
        entry.name for m in modules.values() if f"{m.name}.weight" in base.tensors for entry in m.entries
    }
    for name, entry in checkpoint.tensors.items():
        if name in base.tensors or name in parts or entry in plan.drops or KV_SCALE.fullmatch(name):
            continue
        plan.drops.add(entry)
        plan.actions.append(
            Action(kind="orphan", detail="the base has no such tensor", files=(entry.file,), tensors=(name,))
        )


def _need_base(plan: Plan, checkpoint: Checkpoint) -> None:
    """What only a base could tell or give."""
    if mtp_layers(checkpoint.config) and not any(part_of(name) == "mtp" for name in checkpoint.tensors):
        detail = "the config promises an MTP head, there is none; only the base can give it back"
        plan.unrepaired.append(Action(kind="lost", detail=detail, tensors=("mtp.*",)))
    detail = "without a base, kept tensors, config.json and side files could not be compared or restored"
    plan.unrepaired.append(Action(kind="needs-base", detail=detail))


# ── frames ─────────────────────────────────────────────────────────────────────────────────


def _frame(plan: Plan, shard: Shard, limit: int) -> None:
    """A wrong metadata or layout means a new file; above `limit` bytes not for `format` alone."""
    leaking = [key for key, _ in local_paths(metadata_strings(shard.metadata))]
    unmarked = shard.metadata.get("format") != "pt"
    if unmarked and not leaking and shard.size_bytes > limit and shard.file not in plan.changed_files():
        detail = (
            "lacks the metadata format: pt, which transformers before 5 asks for; too large to rewrite for it"
        )
        plan.unrepaired.append(Action(kind="metadata", detail=detail, files=(shard.file,)))
    elif leaking or unmarked:
        right = {k: v for k, v in shard.metadata.items() if k not in leaking} | {"format": "pt"}
        plan.metadata[shard.file] = right
        detail = "format: pt" + (f", without {', '.join(leaking)}" if leaking else "")
        plan.actions.append(Action(kind="metadata", detail=detail, files=(shard.file,)))
    if shard.truncated or shard.overlap:
        plan.reframed.add(shard.file)
        detail = f"laid out anew: {shard.truncated or shard.overlap}"
        plan.actions.append(Action(kind="layout", detail=detail, files=(shard.file,)))


def _spare_damaged(plan: Plan, checkpoint: Checkpoint) -> None:
    """A shard that holds packed tensors whose bytes are gone cannot be written: leave it as it is."""
    for file in sorted(plan.changed_files()):
        shard = checkpoint.shards.get(file)
        pieces = pieces_of(plan, shard, file)
        broken = [
            p.name for p in pieces if p.own is not None and shard and p.name in shard.cut | shard.overlapping
        ]
        if broken:
            plan.drops -= {entry for entry in plan.drops if entry.file == file}
            plan.puts.pop(file, None)
            plan.metadata.pop(file, None)
            plan.reframed.discard(file)
            plan.actions = [a for a in plan.actions if a.files != (file,)]
            detail = "the shard is damaged and holds packed tensors that only the quantizer can make again"
            plan.unrepaired.append(
                Action(kind="damaged", detail=detail, files=(file,), tensors=tuple(broken))
            )
