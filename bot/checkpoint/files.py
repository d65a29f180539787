"""The port through which every byte of a checkpoint is read.

A checkpoint lies in a folder or in a repo on the Hub; the audit does not care which. Both give
a listing once, exact byte ranges, and nothing else: no path that climbs out of the checkpoint,
no symlink followed, no pipe or device opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, Protocol

from bot.errors import InputError

CHUNK_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """One file of a listing. `sha256` and `git_sha1` are known where the Hub tells them."""

    path: str
    size_bytes: int
    sha256: str | None = None
    git_sha1: str | None = None
    kind: Literal["file", "symlink", "special"] = "file"

    @property
    def is_symlink(self) -> bool:
        return self.kind == "symlink"


class Source(Protocol):
    """A readable checkpoint: a folder, or a Hub repo at one commit."""

    label: str
    revision: str | None
    requests: int
    bytes_read: int
    remote: bool

    def files(self) -> dict[str, FileEntry]:
        """Every file by its path, listed once."""
        ...

    def read(self, path: str, start: int, length: int) -> bytes:
        """Exactly `length` bytes from `start`; InputError when the file is shorter."""
        ...

    def read_small(self, path: str, limit_bytes: int) -> bytes:
        """The whole file; InputError when it is larger than `limit_bytes`."""
        ...

    def stream(self, path: str, start: int, length: int) -> Iterator[bytes]:
        """`read`, in chunks of at most `CHUNK_BYTES`."""
        ...


def check_path(path: str) -> str:
    """`path` if it stays inside a checkpoint; InputError when it is absolute or climbs out."""
    parts = PurePosixPath(path).parts
    hostile = not parts or path.startswith(("/", "\\")) or ".." in parts or "\\" in path or "\0" in path
    if hostile or (len(path) > 1 and path[1] == ":"):
        raise InputError(
            f"the path {path!r} leads outside the checkpoint",
            why="an index or a listing names it; it may be hostile",
            fix="do not use this checkpoint",
        )
    return path


def leads_outside(path: str) -> bool:
    """Whether `check_path` refuses `path`."""
    try:
        check_path(path)
    except InputError:
        return True
    return False


def entry_of(source: Source, path: str) -> FileEntry:
    """The regular file at `path`; InputError when it is missing, a link, or no file at all."""
    entry = source.files().get(check_path(path))
    if entry is None:
        raise InputError(
            f"{path} is missing", where=source.label, fix="check that the download or upload is complete"
        )
    if entry.kind != "file":
        what = "a symlink" if entry.kind == "symlink" else "a pipe, socket or device"
        raise InputError(
            f"{path} is {what}, which is never read", where=source.label, fix="replace it by a file"
        )
    return entry


def same_content(one: Source, other: Source, path: str) -> bool:
    """Whether `path` has the same bytes in both; digests from the Hub's listing save the reading."""
    a, b = entry_of(one, path), entry_of(other, path)
    if a.size_bytes != b.size_bytes:
        return False
    if a.sha256 and b.sha256:
        return a.sha256 == b.sha256
    if a.git_sha1 and b.git_sha1:
        return a.git_sha1 == b.git_sha1
    kind = "sha256" if (a.sha256 or b.sha256) else "git_sha1" if (a.git_sha1 or b.git_sha1) else None
    if kind:
        return _digest(one, a, kind) == _digest(other, b, kind)
    streams = zip(one.stream(path, 0, a.size_bytes), other.stream(path, 0, b.size_bytes), strict=True)
    return all(x == y for x, y in streams)


def _digest(source: Source, entry: FileEntry, kind: str) -> str:
    known = entry.sha256 if kind == "sha256" else entry.git_sha1
    if known:
        return known
    digest = hashlib.sha256() if kind == "sha256" else hashlib.sha1(b"blob %d\0" % entry.size_bytes)
    for chunk in source.stream(entry.path, 0, entry.size_bytes):
        digest.update(chunk)
    return digest.hexdigest()
