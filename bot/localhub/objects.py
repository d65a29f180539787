"""Git's object ids, computed without git.

The real Hub is a git server, and clients check what they download against its ids: a regular file's id is the
sha1 of `blob <length>\\0` and its bytes; an LFS file's git id is that of its small *pointer* text, while its
content is known by sha256; a folder's id is that of its git tree object, a commit's that of its commit
object. Computing the same ids here makes `verify_repo_checksums`, caches and ETags work unchanged, and makes
commits deterministic: same parent, same tree, same text, same second, same id.

Nothing here reads or writes a file. Packs, signatures and symlinks are not covered: every entry is a plain
file of mode 100644.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bot.localhub.errors import BadRequest

MAX_PATH_BYTES = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One file in a tree: its git id, its size, and the sha256 under which the bytes are kept."""

    path: str
    oid: str
    size: int
    sha256: str
    lfs: bool

    @property
    def etag(self) -> str:
        """What a download is checked against: sha256 for LFS files, the git id for others."""
        return self.sha256 if self.lfs else self.oid

    @property
    def pointer_size(self) -> int:
        return len(lfs_pointer(self.sha256, self.size))


def git_oid(kind: str, body: bytes) -> str:
    """The sha1 git gives an object of this kind."""
    return hashlib.sha1(b"%s %d\0" % (kind.encode(), len(body)) + body, usedforsecurity=False).hexdigest()


def blob_oid(content: bytes) -> str:
    return git_oid("blob", content)


def lfs_pointer(sha256: str, size: int) -> bytes:
    """The text git holds in place of a large file (git-lfs, docs/spec.md)."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def lfs_entry(path: str, sha256: str, size: int) -> Entry:
    return Entry(path=path, oid=blob_oid(lfs_pointer(sha256, size)), size=size, sha256=sha256, lfs=True)


def tree_oids(entries: Iterable[Entry]) -> dict[str, str]:
    """Git tree ids of every folder, keyed by path; the root is keyed by the empty string.

    Git sorts a folder's entries as if folder names ended in a slash.
    """
    nested: dict[str, object] = {}
    for entry in entries:
        *folders, name = entry.path.split("/")
        at = nested
        for folder in folders:
            at = at.setdefault(folder, {})  # type: ignore[assignment]
        at[name] = entry.oid
    oids: dict[str, str] = {}
    _hash_folder("", nested, oids)
    return oids


def _hash_folder(path: str, folder: Mapping[str, object], oids: dict[str, str]) -> str:
    lines: list[tuple[bytes, bytes]] = []
    for name, child in folder.items():
        raw = name.encode()
        if isinstance(child, str):
            lines.append((raw, b"100644 " + raw + b"\0" + bytes.fromhex(child)))
        else:
            oid = _hash_folder(f"{path}/{name}" if path else name, child, oids)  # type: ignore[arg-type]
            lines.append((raw + b"/", b"40000 " + raw + b"\0" + bytes.fromhex(oid)))
    oids[path] = git_oid("tree", b"".join(line for _, line in sorted(lines)))
    return oids[path]


def commit_oid(*, tree: str, parent: str | None, author: str, seconds: int, message: str) -> str:
    who = f"{author} <{author}@users.noreply.localhub> {seconds} +0000"
    parents = f"parent {parent}\n" if parent else ""
    return git_oid("commit", f"tree {tree}\n{parents}author {who}\ncommitter {who}\n\n{message}\n".encode())


def check_path(path: object) -> str:
    """A path that can only ever name a file inside its repo, or BadRequest.

    Refused: absolute paths, `.` and `..` steps, anything under `.git`, backslashes, control characters, and
    text that is not in Unicode's composed form (two spellings of one name would be two files).
    """
    if not isinstance(path, str) or not path:
        raise BadRequest("a file needs a path")
    steps = path.split("/")
    bad = (
        "" in steps
        or any(step in (".", "..") or step.lower() == ".git" for step in steps)
        or "\\" in path
        or any(ord(c) < 32 or ord(c) == 127 for c in path)
        or len(path.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES
        or any("\ud800" <= c <= "\udfff" for c in path)
        or unicodedata.normalize("NFC", path) != path
    )
    if bad:
        raise BadRequest(f"invalid path in repo: {path[:200]!r}")
    return path
