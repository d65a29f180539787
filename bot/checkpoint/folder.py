"""A checkpoint in a folder.

Symlinks are listed and never followed, with one exception: a snapshot in the Hub's own cache,
whose files are links into `blobs/` of the same repo; those are read as what they are.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from bot.checkpoint.files import CHUNK_BYTES, FileEntry, check_path, entry_of
from bot.errors import InfrastructureError, InputError

# Left by git and by the Hub's downloader; neither is part of a checkpoint, and neither is uploaded.
_HOUSEKEEPING = (".git", ".cache/huggingface")
MAX_FILES = 100_000
MAX_DEPTH = 64


class FolderSource:
    """Reads a folder. `revision` is known only for a snapshot in the Hub's cache."""

    remote = False

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise InputError("there is no such folder", where=str(path), fix="check the path")
        self.label = str(path)
        self.requests = 0
        self.bytes_read = 0
        self._root = self.path.resolve()
        snapshot = re.fullmatch(r"[0-9a-f]{40}", self._root.name) and self._root.parent.name == "snapshots"
        self.revision = self._root.name if snapshot else None
        self._blobs = self._root.parent.parent / "blobs" if snapshot else None
        self._files: dict[str, FileEntry] | None = None

    def files(self) -> dict[str, FileEntry]:
        """Every file below the folder, links and special files included."""
        if self._files is None:
            self._files = dict(sorted(self._walk()))
        return self._files

    def forget(self) -> None:
        """List the files anew at the next question."""
        self._files = None

    def _walk(self) -> Iterator[tuple[str, FileEntry]]:
        count = 0
        pending = [""]
        while pending:
            below = pending.pop()
            try:
                with os.scandir(self._root / below) as found:
                    items = list(found)
            except OSError as e:
                raise InputError(
                    f"the folder cannot be listed: {e.strerror}", where=str(self.path / below)
                ) from e
            for item in items:
                path = f"{below}/{item.name}" if below else item.name
                self._check_name(path)
                if path in _HOUSEKEEPING:
                    continue
                if item.is_dir(follow_symlinks=False):
                    pending.append(path)
                    continue
                count += 1
                if count > MAX_FILES:
                    raise InputError(
                        f"more than {MAX_FILES} files", where=self.label, fix="name a checkpoint's folder"
                    )
                yield path, self._entry(path, item)

    def _check_name(self, path: str) -> None:
        """InputError for a name that no report, index or Hub could carry, or that lies too deep."""
        try:
            path.encode()
        except UnicodeEncodeError as e:
            raise InputError(
                f"the name {path!a} is not UTF-8", where=ascii(self.label), fix="rename or delete the file"
            ) from e
        if path.count("/") > MAX_DEPTH:
            raise InputError(
                f"folders lie more than {MAX_DEPTH} deep: {path[:80]}…",
                where=self.label,
                why="no checkpoint is like this; it may be made to harm",
                fix="delete the folder",
            )

    def _entry(self, path: str, item: os.DirEntry[str]) -> FileEntry:
        status = item.stat(follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            target = self._cached(path)
            if target is None:
                return FileEntry(path=path, size_bytes=0, kind="symlink")
            status = target.stat()
        kind: Literal["file", "special"] = "file" if stat.S_ISREG(status.st_mode) else "special"
        return FileEntry(path=path, size_bytes=status.st_size, kind=kind)

    def _cached(self, path: str) -> Path | None:
        """The blob behind a link of a Hub cache snapshot; None for any other link."""
        target = Path(os.path.realpath(self._root / path))
        return target if self._blobs and target.parent == self._blobs and target.is_file() else None

    def open(self, path: str) -> int:
        """A file descriptor of the regular file `path`; InputError when it is anything else."""
        entry_of(self, path)
        full = self._cached(path) or self._root / path
        if Path(os.path.realpath(full.parent)) not in (full.parent, self._blobs):
            raise InputError(f"{path} lies behind a symlink, which is never followed", where=self.label)
        try:
            handle = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as e:
            raise InputError(
                f"{path} cannot be opened: {e.strerror}", where=self.label, fix="check its mode"
            ) from e
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise InputError(f"{path} is not a regular file", where=self.label, fix="replace it by a file")
        return handle

    def read(self, path: str, start: int, length: int) -> bytes:
        return b"".join(self.stream(path, start, length))

    def read_small(self, path: str, limit_bytes: int) -> bytes:
        size = entry_of(self, check_path(path)).size_bytes
        if size > limit_bytes:
            raise InputError(
                f"{path} has {size:,} bytes; at most {limit_bytes:,} are read",
                where=self.label,
                fix="it is not sane",
            )
        return self.read(path, 0, size)

    def stream(self, path: str, start: int, length: int) -> Iterator[bytes]:
        handle = self.open(path)
        try:
            end = start + length
            while start < end:
                chunk = self._pread(handle, min(CHUNK_BYTES, end - start), start, path)
                start += len(chunk)
                self.bytes_read += len(chunk)
                yield chunk
        finally:
            os.close(handle)

    def read_strided(self, path: str, start: int, width: int, stride: int, count: int) -> bytes:
        """`count` pieces of `width` bytes, `stride` apart: a block of columns of a matrix."""
        handle = self.open(path)
        try:
            pieces = [self._pread(handle, width, start + i * stride, path) for i in range(count)]
        finally:
            os.close(handle)
        self.bytes_read += width * count
        if any(len(piece) != width for piece in pieces):
            raise InputError(f"{path} is shorter than its header says", where=self.label)
        return b"".join(pieces)

    def _pread(self, handle: int, length: int, offset: int, path: str) -> bytes:
        try:
            chunk = os.pread(handle, length, offset)
        except OSError as e:
            raise InfrastructureError(f"{path} cannot be read: {e.strerror}", where=self.label) from e
        if not chunk:
            raise InputError(
                f"{path} ends at byte {offset:,}, before what was to be read",
                where=self.label,
                why="the file was cut short",
                fix="copy or download it again",
            )
        return chunk


# ── comparing two folders ──────────────────────────────────────────────────────────────────

WINDOW_BYTES = 1 << 20


def first_difference(
    one: FolderSource, place: tuple[str, int], other: FolderSource, place_there: tuple[str, int], length: int
) -> int | None:
    """Where `length` bytes at two places (path, offset) first differ; None where they do not.

    Reads into two buffers small enough for the processor's cache, which is several times faster than new
    chunks, and passes over what is a hole in both files.
    """
    a, b = one.open(place[0]), other.open(place_there[0])
    mine, theirs = bytearray(WINDOW_BYTES), bytearray(WINDOW_BYTES)
    at = 0
    try:
        while at < length:
            both = min(hole_at(a, place[1] + at), hole_at(b, place_there[1] + at), length - at)
            if both > 0:
                at += both
                continue
            count = min(WINDOW_BYTES, length - at)
            _fill(a, mine, place[1] + at, count, place[0], one)
            _fill(b, theirs, place_there[1] + at, count, place_there[0], other)
            if mine[:count] != theirs[:count] if count < WINDOW_BYTES else mine != theirs:
                return at + next(i for i in range(count) if mine[i] != theirs[i])
            at += count
    finally:
        os.close(a)
        os.close(b)
    return None


def hole_at(handle: int, offset: int) -> int:
    """How many bytes from `offset` on are a hole of a sparse file; 0 where that cannot be told."""
    try:
        return os.lseek(handle, offset, os.SEEK_DATA) - offset
    except OSError as e:
        return 1 << 62 if e.errno == errno.ENXIO else 0


def _fill(handle: int, buffer: bytearray, offset: int, count: int, path: str, source: FolderSource) -> None:
    done = 0
    with memoryview(buffer) as view:
        while done < count:
            got = os.preadv(handle, [view[done:count]], offset + done)
            if got == 0:
                raise InputError(f"{path} ends before what was to be read", where=source.label)
            done += got
    source.bytes_read += count
