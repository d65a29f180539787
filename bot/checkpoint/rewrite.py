"""Writes files of a checkpoint anew, so that a kill or a full disk leaves the old or the new, never half.

Everything that changes is first written beside its place under a temporary name and synced. Only
when all of it is on disk are the names switched, one by one: shards, then side files and configs,
the index last. The old files stay as hard links until the last switch, so that an error takes
everything back; a kill between two switches leaves a folder that the next repair finishes, since each
switched file is right by itself and the index is rebuilt from headers.

Weights are copied by the kernel or in chunks of 8 MiB, holes of sparse files as holes: memory does not
grow with the checkpoint.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bot.checkpoint.folder import FolderSource, hole_at
from bot.checkpoint.headers import DTYPE_BITS, TensorEntry
from bot.errors import InfrastructureError, InputError

SUFFIX = ".release-bot-new"
OLD_SUFFIX = ".release-bot-old"
COPY_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One tensor of a shard to be written: copied from the folder where `own` is set, else made by `data`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int
    own: TensorEntry | None = None
    data: Callable[[], Iterator[bytes]] | None = None


def own_piece(entry: TensorEntry) -> Piece:
    """`entry` as it stands in the folder."""
    return Piece(name=entry.name, dtype=entry.dtype, shape=entry.shape, num_bytes=entry.num_bytes, own=entry)


def ordered(pieces: Iterable[Piece]) -> list[Piece]:
    """Widest dtypes first, otherwise as they came: every tensor then starts on a multiple of its element."""
    return sorted(pieces, key=lambda piece: -DTYPE_BITS[piece.dtype])


def header_of(pieces: list[Piece], metadata: Mapping[str, str]) -> bytes:
    """Length and JSON of a safetensors header, padded to eight bytes."""
    content: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    for piece in pieces:
        offsets = [at, at + piece.num_bytes]
        content[piece.name] = {"dtype": piece.dtype, "shape": list(piece.shape), "data_offsets": offsets}
        at += piece.num_bytes
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


class Staging:
    """Files to be put in place together. Use as a context: leaving it without `commit` takes all back."""

    def __init__(self, source: FolderSource) -> None:
        self.source = source
        self.folder = source.path
        self.bytes_written = 0
        self._ready: list[tuple[Path, Path]] = []
        self._removed: list[Path] = []
        self._made: list[Path] = []

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_: object) -> None:
        for temporary, _final in self._ready:
            temporary.unlink(missing_ok=True)
        self._ready.clear()
        for directory in reversed(self._made):
            if not any(directory.iterdir()):
                directory.rmdir()

    def remove(self, path: str) -> None:
        """Take `path` away when everything else is in place."""
        self._removed.append(self.folder / path)

    def write(self, path: str, chunks: Iterable[bytes]) -> None:
        """Stage a file of plain bytes."""
        with _disk(path):
            descriptor = self._create(path)
            with os.fdopen(descriptor, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                    self.bytes_written += len(chunk)
                file.flush()
                os.fsync(file.fileno())

    def write_shard(
        self, path: str, pieces: list[Piece], metadata: Mapping[str, str], progress: Callable[[int], None]
    ) -> None:
        """Stage a safetensors file of `pieces`, in their order."""
        with _disk(path):
            descriptor = self._create(path)
            try:
                self._put(descriptor, header_of(pieces, metadata))
                for piece in pieces:
                    self._piece(descriptor, piece, progress)
                os.ftruncate(descriptor, os.lseek(descriptor, 0, os.SEEK_CUR))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def commit(self) -> None:
        """Switch the names, in the order of staging, then remove what is to go."""
        done: list[tuple[Path, Path | None, bool]] = []
        try:
            for temporary, final in self._ready:
                with _disk(final.name):
                    done.append((final, _second_name(final), final.exists()))
                    os.replace(temporary, final)
            for path in self._removed:
                with _disk(path.name):
                    done.append((path, _second_name(path), True))
                    path.unlink(missing_ok=True)
        except BaseException:
            _take_back(done)
            raise
        for _final, old, _existed in done:
            if old is not None:
                old.unlink(missing_ok=True)
        self._ready.clear()
        self._made.clear()
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def check_space(self, needed_bytes: int) -> None:
        """InfrastructureError when the disk cannot hold what is to be written."""
        free = shutil.disk_usage(self.folder).free
        if needed_bytes > free:
            raise InfrastructureError(
                f"{needed_bytes:,} bytes are to be written, {free:,} are free",
                where=str(self.folder),
                why="changed shards are written beside the old ones before they replace them",
                fix="free disk space, or move the folder",
            )

    def _create(self, path: str) -> int:
        final = self.folder / path
        if final.is_dir():
            raise InputError(
                f"{path} is a folder where a file belongs",
                where=str(self.folder),
                fix="delete or rename the folder",
            )
        for directory in [d for d in reversed(final.parents) if self.folder in d.parents and not d.exists()]:
            directory.mkdir(mode=0o755)
            self._made.append(directory)
        temporary = final.with_name(f".{final.name}{SUFFIX}")
        descriptor = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644
        )
        self._ready.append((temporary, final))
        os.fchmod(descriptor, 0o644)
        return descriptor

    def _piece(self, descriptor: int, piece: Piece, progress: Callable[[int], None]) -> None:
        written = 0
        if piece.own is not None:
            written = self._copy(descriptor, piece.own, progress)
        elif piece.data is not None:
            for chunk in piece.data():
                self._put(descriptor, chunk)
                written += len(chunk)
                progress(len(chunk))
        if written != piece.num_bytes:
            raise InfrastructureError(f"{piece.name}: {written:,} of {piece.num_bytes:,} bytes were written")

    def _copy(self, descriptor: int, entry: TensorEntry, progress: Callable[[int], None]) -> int:
        origin = self.source.open(entry.file)
        try:
            at = entry.start
            while at < entry.end:
                skipped = min(hole_at(origin, at), entry.end - at)
                if skipped > 0:
                    os.lseek(descriptor, skipped, os.SEEK_CUR)
                    at += skipped
                    progress(skipped)
                    continue
                count = _transfer(origin, descriptor, at, min(COPY_BYTES, entry.end - at))
                if count == 0:
                    break
                at += count
                self.bytes_written += count
                progress(count)
            return at - entry.start
        finally:
            os.close(origin)

    def _put(self, descriptor: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            count = os.write(descriptor, view)
            self.bytes_written += count
            view = view[count:]


def _transfer(origin: int, target: int, start: int, length: int) -> int:
    """Bytes moved from `origin` at `start` to the end of `target`, without passing through this process."""
    try:
        return os.sendfile(target, origin, start, length)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    data = os.pread(origin, length, start)
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]
    return len(data)


class _disk:
    """Turns an OSError of writing into the typed error for it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise InfrastructureError(
                f"{self.path} cannot be written: {error.strerror or error}",
                why="the disk is full" if full else "the folder does not take it",
                fix="free disk space" if full else "check the folder's mode and file system",
            ) from error


def _second_name(path: Path) -> Path | None:
    """A hard link to `path` as it is; None where there is no file, or the disk knows no hard links."""
    old = path.with_name(f".{path.name}{OLD_SUFFIX}")
    try:
        old.unlink(missing_ok=True)
        os.link(path, old, follow_symlinks=False)
    except OSError:
        return None
    return old


def _take_back(done: list[tuple[Path, Path | None, bool]]) -> None:
    """Give switched names their old files again; what was not there before goes."""
    for final, old, existed in reversed(done):
        with contextlib.suppress(OSError):
            if old is not None:
                os.replace(old, final)
                # Where both are one file, the rename did nothing.
                old.unlink(missing_ok=True)
            elif not existed:
                final.unlink(missing_ok=True)


def remove_leftovers(source: FolderSource) -> list[str]:
    """Delete what a killed repair left beside the files; returns their names."""
    found = [path for path in source.files() if _is_leftover(path.rpartition("/")[2])]
    for path in found:
        with _disk(path):
            (source.path / path).unlink()
    if found:
        source.forget()
    return found


def _is_leftover(name: str) -> bool:
    return name.startswith(".") and name.endswith((SUFFIX, OLD_SUFFIX))
