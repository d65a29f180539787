"""Reads every scale, zero point and g_idx of the packed modules, in chunks.

They are few (a scale for 16 to 128 weights), and one bad value silences or poisons a whole group,
so they are all read. Only on the Hub, and only beyond a budget, is the beginning of each taken.

A zero scale is an error, except in NVFP4, where a block of weights too small for its smallest scale
has scale 0 and codes 0: that block is zero in the base too, or all but.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bot.checkpoint.compare import SHOWN_FROM_BYTES
from bot.checkpoint.headers import TensorEntry
from bot.checkpoint.inventory import KV_SCALE, PackedModule
from bot.checkpoint.packing import Zeros, zeros_of
from bot.checkpoint.reading import Checkpoint
from bot.log import Progress

REMOTE_BUDGET_BYTES = 64 << 20
REMOTE_SAMPLE_BYTES = 16 << 10
CHUNK = 4 << 20
# Above this many zero block scales in one tensor, the first ones stand for all.
MAX_ZEROS_EXAMINED = 4096


@dataclass(frozen=True, kw_only=True)
class ScaleFaults:
    """Tensors with a NaN or Inf, tensors with a zero where none may be, and the share that was read."""

    nonfinite: tuple[str, ...]
    zero: tuple[str, ...]
    unread: tuple[str, ...]
    share: float


def scan_scales(
    checkpoint: Checkpoint, base: Checkpoint | None, modules: Iterable[PackedModule]
) -> ScaleFaults:
    """All scales of all modules, and the KV cache's."""
    entries = [(m, entry) for m in modules for suffix, entry in m.tensors.items() if "scale" in suffix]
    found = [(None, entry) for name, entry in checkpoint.tensors.items() if KV_SCALE.fullmatch(name)]
    todo: list[tuple[PackedModule | None, TensorEntry]] = [*entries, *found]
    total = sum(entry.num_bytes for _, entry in todo)
    limited = checkpoint.source.remote and total > REMOTE_BUDGET_BYTES
    nonfinite, zero, unread = [], [], []
    read = 0
    with Progress("reading scales", total=total, unit="bytes") as progress:
        for module, entry in todo:
            if not checkpoint.readable(entry):
                unread.append(entry.name)
                continue
            is_bad, zeros, count = _scan(checkpoint, entry, limited)
            read += count
            if is_bad:
                nonfinite.append(entry.name)
            if zeros and not _harmless(checkpoint, base, module, entry, zeros):
                zero.append(entry.name)
            if total >= SHOWN_FROM_BYTES:
                progress.update(read)
    return ScaleFaults(
        nonfinite=tuple(nonfinite),
        zero=tuple(zero),
        unread=tuple(unread),
        share=read / total if total else 1.0,
    )


def _scan(checkpoint: Checkpoint, entry: TensorEntry, limited: bool) -> tuple[bool, list[int], int]:
    """(has NaN or Inf, positions of zeros, bytes read)."""
    import numpy as np

    from bot.checkpoint.numbers import decode

    length = min(entry.num_bytes, REMOTE_SAMPLE_BYTES) if limited else entry.num_bytes
    bad, at = False, 0
    zeros: list[int] = []
    for data in _whole_items(checkpoint.source.stream(entry.file, entry.start, length), 8):
        try:
            values = decode(data, entry.dtype)
        except ValueError:
            return True, [], at
        bad = bad or not np.isfinite(values).all()
        if len(zeros) < MAX_ZEROS_EXAMINED:
            zeros += [at + int(i) for i in np.flatnonzero(values == 0)[:MAX_ZEROS_EXAMINED]]
        at += values.size
    return bool(bad), zeros, length


def _whole_items(chunks: Iterable[bytes], item: int) -> Iterator[bytes]:
    """Chunks whose borders fall on multiples of `item` bytes, except the last."""
    rest = b""
    for chunk in chunks:
        data = rest + chunk if rest else chunk
        cut = len(data) // item * item
        rest = data[cut:]
        if cut:
            yield data[:cut]
    if rest:
        yield rest


def _harmless(
    checkpoint: Checkpoint,
    base: Checkpoint | None,
    module: PackedModule | None,
    entry: TensorEntry,
    zeros: list[int],
) -> bool:
    """Whether every zero is an NVFP4 block scale over a block without content."""
    if (
        module is None
        or module.kind != "nvfp4"
        or not entry.name.endswith(".weight_scale")
        or not module.sound
    ):
        return False
    weight = module.tensors["weight"]
    original = base.tensors.get(f"{module.name}.weight") if base else None
    for position in zeros:
        codes = checkpoint.source.read(weight.file, weight.start + position * 8, 8)
        if any(code & 0x77 for code in codes):
            return False
        if original is not None and not _faint(checkpoint, base, module, original, position):
            return False
    return True


def _faint(
    checkpoint: Checkpoint, base: Any, module: PackedModule, original: TensorEntry, position: int
) -> bool:
    """Whether the base's block is within reach of the smallest E4M3 scale, 2^-9."""
    import numpy as np

    from bot.checkpoint.numbers import decode

    second = module.tensors["weight_scale_2"]
    step = decode(checkpoint.source.read(second.file, second.start, second.num_bytes), second.dtype)[0]
    item = original.num_bytes // max(1, original.num_elements)
    data = base.source.read(original.file, original.start + position * 16 * item, 16 * item)
    return bool(np.abs(decode(data, original.dtype)).max() <= 6 * abs(step) * 2.0**-9)


# ── zero points and g_idx ──────────────────────────────────────────────────────────────────


def scan_zeros(
    checkpoint: Checkpoint, modules: Iterable[PackedModule], *, beginnings: bool = False
) -> dict[str, Zeros]:
    """Which zero-point convention the bytes of each integer module follow; `beginnings` reads no more."""
    found: dict[str, Zeros] = {}
    integers = [
        m for m in modules if m.kind == "int" and m.sound and checkpoint.readable(m.tensors["qzeros"])
    ]
    total = sum(m.tensors["qzeros"].num_bytes for m in integers)
    limited = beginnings or (checkpoint.source.remote and total > REMOTE_BUDGET_BYTES // 8)
    for module in integers:
        found[module.name] = _zeros(checkpoint, module, limited)
    return found


def _zeros(checkpoint: Checkpoint, module: PackedModule, limited: bool) -> Zeros:
    import numpy as np

    entry = module.tensors["qzeros"]
    length = min(entry.num_bytes, REMOTE_SAMPLE_BYTES) if limited else entry.num_bytes
    seen: set[Zeros] = set()
    for data in _whole_items(checkpoint.source.stream(entry.file, entry.start, length), 4):
        seen.add(zeros_of(np.frombuffer(data, "<u4"), module.bits))
    return seen.pop() if len(seen) == 1 else "undecided"


@dataclass(frozen=True, kw_only=True)
class GroupIndexes:
    """Modules whose g_idx is not i // group_size, and those whose could not be read."""

    nontrivial: tuple[str, ...]
    unread: tuple[str, ...]
    num_read: int


def scan_group_indexes(checkpoint: Checkpoint, modules: Iterable[PackedModule]) -> GroupIndexes:
    """Every g_idx."""
    nontrivial, unread, count = [], [], 0
    for module in modules:
        entry = module.tensors.get("g_idx")
        if entry is None:
            continue
        if not checkpoint.readable(entry) or not module.group_size:
            unread.append(module.name)
            continue
        count += 1
        if not _trivial(checkpoint, module, entry):
            nontrivial.append(module.name)
    return GroupIndexes(nontrivial=tuple(nontrivial), unread=tuple(unread), num_read=count)


def _trivial(checkpoint: Checkpoint, module: PackedModule, entry: TensorEntry) -> bool:
    import numpy as np

    group = module.group_size
    if entry.dtype != "I32" or entry.shape != (module.shape[1],) or not group:
        return False
    index = np.frombuffer(checkpoint.source.read(entry.file, entry.start, entry.num_bytes), "<i4")
    return bool((index == np.arange(index.size) // group).all())
