"""Kept tensors against the base, byte by byte, in chunks.

Two folders are compared whole. On the Hub, a shard whose digest equals the base's shard needs no
reading; of the rest, up to `FULL_BUDGET_BYTES` are compared whole, and beyond that a fixed set of
ranges of every tensor (its beginning, middle and end): the same ranges every time, and the share
that was read is reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from bot.checkpoint.files import Source
from bot.checkpoint.folder import FolderSource, first_difference
from bot.checkpoint.headers import TensorEntry
from bot.checkpoint.reading import Checkpoint
from bot.log import Progress

FULL_BUDGET_BYTES = 64 << 20
SAMPLE_BYTES = 16 << 10
# Neighbours on the Hub are read in one request, with what lies between if it is little.
WINDOW_BYTES = 8 << 20
GAP_BYTES = 16 << 10
# Below this, the work is over before a progress line would help.
SHOWN_FROM_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What differs, and how much was looked at. `unread` could not be: their bytes are not there."""

    differing: dict[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    bytes_compared: int = 0
    bytes_total: int = 0

    @property
    def share(self) -> float:
        """The part of the bytes that was compared, 0 to 1."""
        return self.bytes_compared / self.bytes_total if self.bytes_total else 1.0


def compare(checkpoint: Checkpoint, base: Checkpoint, names: Iterable[str]) -> Comparison:
    """The tensors `names` of both, bit for bit."""
    wanted = [name for name in names if name in base.tensors and name in checkpoint.tensors]
    differing: dict[str, str] = {}
    unread, pairs = [], []
    for name in wanted:
        mine, theirs = checkpoint.tensors[name], base.tensors[name]
        if difference := _by_header(mine, theirs):
            differing[name] = difference
        elif not checkpoint.readable(mine):
            unread.append(name)
        else:
            pairs.append((mine, theirs))
    total = sum(mine.num_bytes for mine, _ in pairs)
    compared = 0
    full = _budget(checkpoint, base, pairs)
    ours, theirs_read = _readers(checkpoint, base, pairs, full)
    with Progress("comparing with the base", total=total, unit="bytes") as progress:
        done = 0
        for mine, theirs in pairs:
            if _same_file(checkpoint, base, mine, theirs):
                compared += mine.num_bytes
            else:
                at, count = _compare(ours, theirs_read, mine, theirs, full)
                compared += count
                if at is not None:
                    differing[mine.name] = f"differs from byte {at:,} on"
            done += mine.num_bytes
            if total >= SHOWN_FROM_BYTES:
                progress.update(done, note=mine.name)
    return Comparison(differing=differing, unread=tuple(unread), bytes_compared=compared, bytes_total=total)


def _by_header(mine: TensorEntry, theirs: TensorEntry) -> str:
    if mine.dtype != theirs.dtype:
        return f"is {mine.dtype}, the base has {theirs.dtype}"
    return (
        f"has shape {list(mine.shape)}, the base {list(theirs.shape)}" if mine.shape != theirs.shape else ""
    )


def _budget(checkpoint: Checkpoint, base: Checkpoint, pairs: list[tuple[TensorEntry, TensorEntry]]) -> bool:
    """Whether everything is compared: always in folders, on the Hub up to the budget."""
    if not (checkpoint.source.remote or base.source.remote):
        return True
    needed = sum(m.num_bytes for m, t in pairs if not _same_file(checkpoint, base, m, t))
    return needed <= FULL_BUDGET_BYTES


def _same_file(checkpoint: Checkpoint, base: Checkpoint, mine: TensorEntry, theirs: TensorEntry) -> bool:
    a, b = checkpoint.source.files()[mine.file], base.source.files()[theirs.file]
    return a.sha256 is not None and a.sha256 == b.sha256 and mine.start == theirs.start


def _compare(
    ours: _Reader, others: _Reader, mine: TensorEntry, theirs: TensorEntry, full: bool
) -> tuple[int | None, int]:
    """(offset of the first byte that differs, bytes compared)."""
    one, other = ours.source, others.source
    if isinstance(one, FolderSource) and isinstance(other, FolderSource):
        place, place_there = (mine.file, mine.start), (theirs.file, theirs.start)
        return first_difference(one, place, other, place_there, mine.num_bytes), mine.num_bytes
    count = 0
    for start, length in [(0, mine.num_bytes)] if full else sample_ranges(mine.num_bytes):
        streams = ours.stream(mine, start, length), others.stream(theirs, start, length)
        for offset, a, b in _aligned(*streams):
            count += len(a)
            if a != b:
                first = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
                return start + offset + first, count
    return None, count


def _readers(
    checkpoint: Checkpoint, base: Checkpoint, pairs: list[tuple[TensorEntry, TensorEntry]], full: bool
) -> tuple[_Reader, _Reader]:
    """Readers of both sides; the pairs are put in the order of the side that is on the Hub."""
    side = 0 if checkpoint.source.remote else 1
    pairs.sort(key=lambda pair: (pair[side].file, pair[side].start))
    needed = [pair[side] for pair in pairs if full and not _same_file(checkpoint, base, *pair)]
    mine = _Reader(checkpoint.source, needed if side == 0 else [])
    return mine, _Reader(base.source, needed if side == 1 and base.source.remote else [])


class _Reader:
    """Reads tensors that lie side by side in one request; `ordered` are those that will be asked for."""

    def __init__(self, source: Source, ordered: list[TensorEntry]) -> None:
        self.source = source
        self._window: dict[TensorEntry, tuple[int, int]] = {}
        self._loaded: tuple[str, int, bytes] = ("", 0, b"")
        run: list[TensorEntry] = []
        for entry in [*ordered, None]:
            if entry and run and _adjoins(run, entry):
                run.append(entry)
                continue
            self._window |= {each: (run[0].start, run[-1].end) for each in run if len(run) > 1}
            run = [entry] if entry else []

    def stream(self, entry: TensorEntry, start: int, length: int) -> Iterator[bytes]:
        window = self._window.get(entry)
        if window is None:
            yield from self.source.stream(entry.file, entry.start + start, length)
            return
        if self._loaded[:2] != (entry.file, window[0]):
            data = self.source.read(entry.file, window[0], window[1] - window[0])
            self._loaded = (entry.file, window[0], data)
        at = entry.start - window[0] + start
        yield self._loaded[2][at : at + length]


def _adjoins(run: list[TensorEntry], entry: TensorEntry) -> bool:
    near = entry.file == run[-1].file and 0 <= entry.start - run[-1].end <= GAP_BYTES
    return near and entry.end - run[0].start <= WINDOW_BYTES


def sample_ranges(num_bytes: int) -> list[tuple[int, int]]:
    """Fixed ranges of a tensor: all of a small one, else beginning, middle and end."""
    if num_bytes <= 4 * SAMPLE_BYTES:
        return [(0, num_bytes)]
    middle = (num_bytes - SAMPLE_BYTES) // 2
    return [(0, SAMPLE_BYTES), (middle, SAMPLE_BYTES), (num_bytes - SAMPLE_BYTES, SAMPLE_BYTES)]


def _aligned(one: Iterator[bytes], other: Iterator[bytes]) -> Iterator[tuple[int, bytes, bytes]]:
    """Equal-length pieces of two streams of the same length, whatever their chunks."""
    at, a, b = 0, b"", b""
    while True:
        a = a or next(one, b"")
        b = b or next(other, b"")
        length = min(len(a), len(b))
        if not length:
            return
        yield at, a[:length], b[:length]
        at += length
        a, b = a[length:], b[length:]
