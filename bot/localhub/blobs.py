"""File contents by sha256, written so that a crash leaves either the whole file or nothing.

A large byte stream goes to a temporary file on the same file system, is hashed on its way, flushed to the
disk (`fsync`), and only then renamed to its final name. Memory is bounded by one buffer whatever the size. A
multipart upload writes each part at its offset in *one* temporary file, so that completing it costs a hashing
pass but no second copy. What does not have the promised sha256 is removed; temporary files of a killed server
are removed at the next start."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

from bot.localhub.errors import BadRequest

BUFFER_BYTES = 1 << 20


class BlobWriter:
    """One temporary file being filled; `keep` makes it a blob, anything else removes it."""

    def __init__(self, store: BlobStore):
        self._store = store
        self.path = store.temporary / secrets.token_hex(16)
        self._file = open(self.path, "wb")  # noqa: SIM115 (closed by __exit__)
        self._sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self.size += len(data)

    def keep(self, *, sha256: str | None = None, size: int | None = None) -> str:
        """Publish under its sha256, which is returned; BadRequest when it is not the promised one."""
        found = self._sha256.hexdigest()
        if size is not None and size != self.size:
            raise BadRequest(f"size mismatch: {self.size} bytes came, {size} were announced")
        if sha256 is not None and sha256 != found:
            raise BadRequest(f"sha256 mismatch: the content hashes to {found}, {sha256} was announced")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._store.publish(self.path, found)
        return found

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


class BlobStore:
    """A folder of blobs, `ab/abcdef…`, and a folder of unfinished ones."""

    def __init__(self, root: Path):
        self.root = root / "blobs"
        self.temporary = root / "unfinished"
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(parents=True)
        self.root.mkdir(exist_ok=True)
        self._lock = threading.Lock()
        self._unsettled: set[str] = set()

    def path(self, sha256: str) -> Path:
        return self.root / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        return self.path(sha256).is_file()

    def read(self, sha256: str) -> bytes:
        """The whole content: for small files only."""
        return self.path(sha256).read_bytes()

    def writer(self) -> BlobWriter:
        return BlobWriter(self)

    def put(self, content: bytes) -> str:
        """A small file; on the disk for good only after `settle`, which every commit calls."""
        sha256 = hashlib.sha256(content).hexdigest()
        if not self.has(sha256):
            temporary = self.temporary / secrets.token_hex(16)
            temporary.write_bytes(content)
            with self._lock:
                self._unsettled.add(sha256)
            self.path(sha256).parent.mkdir(exist_ok=True)
            os.replace(temporary, self.path(sha256))
        return sha256

    def settle(self, names: set[str]) -> None:
        """Wait until these are on the disk for good: many small files at once cost little more than one."""
        with self._lock:
            waiting = sorted(names & self._unsettled)
        for name in waiting:
            _sync(self.path(name))
        for folder in {self.path(name).parent for name in waiting} | ({self.root} if waiting else set()):
            _sync(folder)
        with self._lock:
            self._unsettled.difference_update(waiting)

    def publish(self, temporary: Path, sha256: str) -> None:
        """Give a finished, flushed file its name, and make the name itself durable."""
        final = self.path(sha256)
        final.parent.mkdir(exist_ok=True)
        os.replace(temporary, final)
        _sync(final.parent)
        _sync(self.root)

    def part_file(self, upload: str) -> Path:
        """The one file that all parts of a multipart upload are written into."""
        return self.temporary / f"multipart-{upload}"

    def finish_parts(self, upload: str, sha256: str, size: int) -> None:
        """Check the assembled file and publish it, or remove it and raise BadRequest."""
        path = self.part_file(upload)
        try:
            digest = hashlib.sha256()
            with open(path, "rb+") as file:
                found_size = 0
                while chunk := file.read(BUFFER_BYTES):
                    digest.update(chunk)
                    found_size += len(chunk)
                os.fsync(file.fileno())
            if found_size != size or digest.hexdigest() != sha256:
                raise BadRequest(
                    f"sha256 mismatch: {found_size} bytes hash to {digest.hexdigest()}, "
                    f"{size} bytes of {sha256} were announced"
                )
            self.publish(path, sha256)
        finally:
            path.unlink(missing_ok=True)

    def sweep(self, referenced: Iterable[str]) -> int:
        """Remove blobs nothing names, and say how many; only while no request is being served."""
        keep = set(referenced)
        removed = 0
        for path in self.root.glob("??/*"):
            if path.name not in keep:
                path.unlink()
                removed += 1
        return removed


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
