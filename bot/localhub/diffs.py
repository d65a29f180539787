"""Differences between two trees: which paths, and git's unified text.

Large files are compared by their pointers, as git does. A text above `MAX_TEXT_BYTES` or `MAX_LINES`, or one
that is not UTF-8, is only said to differ."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from bot.localhub.blobs import BlobStore
from bot.localhub.objects import Entry, lfs_pointer

MAX_TEXT_BYTES = 1 << 20
MAX_DIFF_CHARS = 4 << 20
MAX_LINES = 20_000


def changed(before: Mapping[str, Entry], after: Mapping[str, Entry]) -> dict[str, Entry | None]:
    """Paths whose content differs, with what they became; None for those removed."""
    paths = {**after, **before}
    return {p: after.get(p) for p in sorted(paths) if oid_of(before.get(p)) != oid_of(after.get(p))}


def unified(blobs: BlobStore, before: Mapping[str, Entry], after: Mapping[str, Entry]) -> str:
    """The diff as `git diff` prints it."""
    out: list[str] = []
    room = MAX_DIFF_CHARS
    for path in changed(before, after):
        text = "".join(_one(blobs, path, before.get(path), after.get(path)))
        room -= len(text)
        if room < 0:
            out.append(f"diff --git a/{path} b/{path}\n(the rest of this diff is too long to show)\n")
            break
        out.append(text)
    return "".join(out)


def _one(blobs: BlobStore, path: str, before: Entry | None, after: Entry | None) -> Iterator[str]:
    yield f"diff --git a/{path} b/{path}\n"
    if before is None:
        yield "new file mode 100644\n"
    if after is None:
        yield "deleted file mode 100644\n"
    zero = "0" * 40
    yield f"index {oid_of(before) or zero}..{oid_of(after) or zero}\n"
    old, new = _text(blobs, before), _text(blobs, after)
    a, b = f"a/{path}" if before else "/dev/null", f"b/{path}" if after else "/dev/null"
    if old is None or new is None:
        yield f"Binary files {a} and {b} differ\n"
        return
    for line in difflib.unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True), a, b):
        yield line if line.endswith("\n") else line + "\n\\ No newline at end of file\n"


def _text(blobs: BlobStore, entry: Entry | None) -> str | None:
    if entry is None:
        return ""
    if entry.lfs:
        return lfs_pointer(entry.sha256, entry.size).decode()
    if entry.size > MAX_TEXT_BYTES:
        return None
    try:
        text = blobs.read(entry.sha256).decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text or text.count("\n") > MAX_LINES else text


def oid_of(entry: Entry | None) -> str | None:
    """The id of a file that may be absent."""
    return entry.oid if entry else None
