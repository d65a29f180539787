"""A checkpoint as it will be: another one, with some small files replaced and some taken away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

from bot.checkpoint.files import CHUNK_BYTES, FileEntry, Source, entry_of
from bot.errors import InputError


class Overlay:
    """Reads `below`, but for the files in `over`, and without those in `gone`."""

    def __init__(self, below: Source, over: Mapping[str, bytes], gone: Set[str], *, label: str) -> None:
        self._below, self._over = below, over
        self.label = label
        self.revision: str | None = None
        self.remote = below.remote
        self.requests = self.bytes_read = 0
        kept = {path: entry for path, entry in below.files().items() if path not in gone}
        self._files = kept | {p: FileEntry(path=p, size_bytes=len(data)) for p, data in over.items()}

    def files(self) -> dict[str, FileEntry]:
        return self._files

    def read(self, path: str, start: int, length: int) -> bytes:
        return b"".join(self.stream(path, start, length))

    def read_small(self, path: str, limit_bytes: int) -> bytes:
        size = entry_of(self, path).size_bytes
        if size > limit_bytes:
            raise InputError(f"{path} has {size:,} bytes; at most {limit_bytes:,} are read", where=self.label)
        return self.read(path, 0, size)

    def stream(self, path: str, start: int, length: int) -> Iterator[bytes]:
        entry = entry_of(self, path)
        if path not in self._over:
            yield from self._below.stream(path, start, length)
            self.requests, self.bytes_read = self._below.requests, self._below.bytes_read
            return
        if start < 0 or start + length > entry.size_bytes:
            raise InputError(f"{path} has {entry.size_bytes:,} bytes", where=self.label)
        for at in range(start, start + length, CHUNK_BYTES):
            yield self._over[path][at : min(at + CHUNK_BYTES, start + length)]
