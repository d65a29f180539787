"""What one commit changes: read from the request line by line, then applied to a tree.

The body of `POST …/commit/{revision}` is ndjson: a header, then one operation a line, regular files inline
as base64. It is parsed as it streams, and each file goes to disk before the next line is read, so that memory
is bounded by the largest single regular file (10 MiB by default), not by the commit.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from bot.localhub import attributes
from bot.localhub.errors import BadRequest, EntryNotFound
from bot.localhub.http import parse_json
from bot.localhub.objects import Entry, blob_oid, check_path, lfs_entry
from bot.localhub.repos import Repo
from bot.localhub.store import Store

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Changes:
    """A commit's header and operations; nothing of it is visible until applied."""

    def __init__(self, store: Store, repo: Repo, *, regular_bytes: int):
        self._store = store
        self._repo = repo
        self._regular_bytes = regular_bytes
        self.summary = ""
        self.description = ""
        self.parent_commit: str | None = None
        self._operations: list[tuple[str, str, Entry | None]] = []

    @property
    def line_bytes(self) -> int:
        """The longest line worth reading: base64 of the largest regular file, and its wrapping."""
        return self._regular_bytes * 4 // 3 + (1 << 20)

    def feed(self, line: bytes) -> None:
        """Take one line of the body."""
        if not line.strip():
            return
        item = parse_json(line)
        value = item.get("value") if isinstance(item, dict) else None
        if not isinstance(value, dict):
            raise BadRequest("each line of a commit is an object with `key` and `value`")
        take = {
            "header": self._header,
            "file": self._file,
            "lfsFile": self._lfs_file,
            "deletedFile": self._deleted,
            "deletedFolder": self._deleted,
        }.get(str(item.get("key")))
        if take is None:
            raise BadRequest(f"unknown operation in a commit: {str(item.get('key'))[:40]!r}")
        take(item["key"], value)

    def _header(self, _: str, value: Mapping[str, Any]) -> None:
        self.summary = str(value.get("summary") or "")
        self.description = str(value.get("description") or "")
        parent = value.get("parentCommit")
        if parent is not None and not (isinstance(parent, str) and re.fullmatch(r"[0-9a-f]{7,40}", parent)):
            raise BadRequest("parentCommit must be a commit id")
        self.parent_commit = parent

    def _file(self, _: str, value: Mapping[str, Any]) -> None:
        path = check_path(value.get("path"))
        content = value.get("content")
        if not isinstance(content, str):
            raise BadRequest(f"{path}: no content")
        if value.get("encoding", "utf-8") == "base64":
            try:
                data = base64.b64decode(content, validate=True)
            except (binascii.Error, ValueError):
                raise BadRequest(f"{path}: the content is not base64") from None
        else:
            data = content.encode("utf-8", "surrogatepass")
        if len(data) > self._regular_bytes:
            raise BadRequest(
                f"Your push was rejected because it contains files larger than {self._regular_bytes} "
                f"bytes: {path} has to be uploaded as LFS"
            )
        self._operations.append(("put", path, put_regular(self._store, path, data)))

    def _lfs_file(self, _: str, value: Mapping[str, Any]) -> None:
        path, oid = check_path(value.get("path")), value.get("oid")
        if value.get("algo", "sha256") != "sha256" or not isinstance(oid, str) or not _SHA256.fullmatch(oid):
            raise BadRequest(f"{path}: an LFS file is named by its sha256")
        size = self._store.lfs_size(self._repo, oid)
        if size is None:
            raise BadRequest(f"{path}: the LFS object {oid} was not uploaded to {self._repo.full_name}")
        if value.get("size", size) != size:
            raise BadRequest(f"{path}: the LFS object {oid} has {size} bytes, not {value['size']}")
        self._operations.append(("put", path, lfs_entry(path, oid, size)))

    def _deleted(self, key: str, value: Mapping[str, Any]) -> None:
        path = value.get("path")
        path = check_path(path.rstrip("/") if isinstance(path, str) else path)
        self._operations.append((key, path, None))

    def apply(self, files: Mapping[str, Entry]) -> dict[str, Entry]:
        """The tree after this commit, with `.gitattributes` naming every LFS file."""
        after = dict(files)
        for kind, path, entry in self._operations:
            if kind == "put":
                assert entry is not None
                after[path] = entry
            elif kind == "deletedFile":
                if after.pop(path, None) is None:
                    raise EntryNotFound(f"A file with this name doesn't exist: {path}")
            else:
                inside = [name for name in after if name.startswith(path + "/")]
                if not inside:
                    raise EntryNotFound(f"A folder with this name doesn't exist: {path}")
                for name in inside:
                    del after[name]
        return self._attribute(after)

    def _attribute(self, files: dict[str, Entry]) -> dict[str, Entry]:
        new = [
            path
            for kind, path, entry in self._operations
            if entry is not None and entry.lfs and path in files
        ]
        known = files.get(attributes.PATH)
        if not new or (known is not None and known.lfs):
            return files
        text = self._store.blobs.read(known.sha256) if known else b""
        wanted = attributes.Attributes(text).with_paths(dict.fromkeys(new))
        if wanted != text:
            files[attributes.PATH] = put_regular(self._store, attributes.PATH, wanted)
        return files


def put_regular(store: Store, path: str, data: bytes) -> Entry:
    """Store a small file's bytes and describe it."""
    return Entry(path=path, oid=blob_oid(data), size=len(data), sha256=store.blobs.put(data), lfs=False)
