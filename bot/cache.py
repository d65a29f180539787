"""The per-host cache of checkpoint files, by sha256: what one job uploaded, the next need not download.

It lies outside the workspace that a runner's hooks clean, and is shared by the runners of a host. The jobs
before ran other people's code with the right to write here, so nothing is believed: every read hashes the
whole file, and an entry that is not what its name says is dropped. A cache that lost everything costs a
download, never a wrong byte.

A file goes in and out by a hard link where it can, so that twenty gigabytes cost nothing. What is linked can
still be edited in place after it was hashed, by whoever may write it. So an entry is given out as a link only
when this user owns it and nobody else may write it, and jobs of one user run one after the other; whatever
another runner's user put here is copied, and the copy is what is hashed.

`removals` decides what a prune removes: oldest use first, until the rest is under the cap, and never what was
used within `KEEP_S`, since another job on the host may be reading it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bot.errors import UsageError

GIB: Final = 2**30
DEFAULT_MAX_GIB: Final = 400.0
KEEP_S: Final = 6 * 3600.0
CHUNK_BYTES: Final = 2**22
SEALED: Final = 0o644  # of what lies here: nobody but its owner may write it
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Something that a prune may remove: a file here, or a revision in the Hub client's own cache."""

    name: str
    size_bytes: int
    used_at: float


class Cache:
    """Files under `root` by their sha256; `root` is made when first written to."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"not a sha256: {sha256[:80]!r}")
        return self.root / "sha256" / sha256[:2] / sha256

    def put(self, file: Path, sha256: str) -> None:
        """Keep `file`, whose digest the caller knows. It is checked when it is read."""
        place = self.path(sha256)
        self._unlink_folders(place)
        if place.exists():
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        with _beside(place) as temporary:
            _link_or_copy(file, temporary, link=file.stat().st_uid == os.geteuid())
            os.replace(temporary, place)

    def take(self, sha256: str, to: Path) -> bool:
        """Put the file with this digest at `to`; False when there is none, or it is not what it should be."""
        place = self.path(sha256)
        self._unlink_folders(place)
        if not _is_file(place):
            return False
        to.parent.mkdir(parents=True, exist_ok=True)
        with _beside(to) as temporary:
            try:
                _link_or_copy(place, temporary, link=_only_ours(place))
            except FileNotFoundError:
                return False  # pruned in between
            if sha256_of(temporary) != sha256:
                place.unlink(missing_ok=True)
                return False
            os.replace(temporary, to)
        with suppress(OSError):
            os.utime(place, (time.time(), place.stat().st_mtime))
        return True

    def _unlink_folders(self, place: Path) -> None:
        """A link where a folder should be would lead what is kept or removed out of the cache."""
        for folder in (place.parent.parent, place.parent):
            if folder.is_symlink():
                folder.unlink(missing_ok=True)

    def entries(self) -> Iterator[Entry]:
        for place in sorted(self.root.glob("sha256/??/*")):
            if place.parent.is_symlink() or place.parent.parent.is_symlink():
                continue  # somebody's trap: what it leads to is not ours to prune
            with suppress(OSError):
                found = place.lstat()
                yield Entry(name=place.name, size_bytes=found.st_size, used_at=found.st_atime)

    def remove(self, name: str) -> None:
        """Remove an entry, whatever its name looks like: a temporary file that a crash left, too."""
        (self.root / "sha256" / name.lstrip(".")[:2] / name).unlink(missing_ok=True)


def location(home: Path) -> Path:
    """Where this host's cache is: RELEASE_BOT_CACHE, or `cache` in the bot's home."""
    return Path(os.environ.get("RELEASE_BOT_CACHE") or home / "cache").resolve()


def shared() -> Cache | None:
    """The cache that this host's jobs share, where RELEASE_BOT_CACHE names one.

    Bases go into it only there: on a machine used by hand the Hub client's own cache keeps them already.
    """
    place = os.environ.get("RELEASE_BOT_CACHE")
    return Cache(Path(place).resolve()) if place else None


def max_bytes(max_gib: float | None) -> int:
    """The cap: as given, or RELEASE_BOT_CACHE_MAX_GIB, or the default."""
    text = os.environ.get("RELEASE_BOT_CACHE_MAX_GIB") or str(DEFAULT_MAX_GIB)
    try:
        wanted = float(text) if max_gib is None else max_gib
    except ValueError:
        wanted = -1.0
    if not 0 <= wanted < 2**30:
        raise UsageError(
            f"the cache's cap is {text if max_gib is None else max_gib} GiB", fix="give a number, as in 400"
        )
    return int(wanted * GIB)


def removals(entries: Iterable[Entry], *, most_bytes: int, now: float) -> list[Entry]:
    """What to remove so that the rest fits, oldest use first; too recently used stays, and may not fit."""
    found = sorted(entries, key=lambda each: (each.used_at, each.name))
    total = sum(each.size_bytes for each in found)
    chosen = []
    for each in found:
        if total <= most_bytes or each.used_at > now - KEEP_S:
            break
        chosen.append(each)
        total -= each.size_bytes
    return chosen


def sha256_of(path: Path, read: Callable[[int], None] = lambda num_bytes: None) -> str:
    """The file's sha256; `read` is told of every block's bytes."""
    return _hashed(path, hashlib.sha256(), read)


def git_sha1_of(path: Path, read: Callable[[int], None] = lambda num_bytes: None) -> str:
    """The id that git gives to the file's bytes, which is what the Hub tells of a file that is not LFS."""
    header = b"blob %d\0" % path.stat().st_size
    return _hashed(path, hashlib.sha1(header, usedforsecurity=False), read)


def _hashed(path: Path, digest: hashlib._Hash, read: Callable[[int], None]) -> str:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            read(len(chunk))
    return digest.hexdigest()


def _only_ours(path: Path) -> bool:
    """Whether no other user may write this file: what is hashed now is what will be read later."""
    found = path.lstat()
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _is_file(path: Path) -> bool:
    """Whether a plain file lies there: a link could lead out of the cache."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A free name beside `path`; what was made under it and not moved away is removed."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:16]}.")
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _link_or_copy(source: Path, to: Path, *, link: bool) -> None:
    """`to` is `source`: with `link` the same bytes on disk where one file system holds both, else a copy."""
    to.unlink(missing_ok=True)
    if not (link and _linked(source, to)):
        shutil.copyfile(source, to)
    to.chmod(SEALED)


def _linked(source: Path, to: Path) -> bool:
    try:
        os.link(source, to, follow_symlinks=True)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or mounted twice
        return False
    return True
