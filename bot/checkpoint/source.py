"""Opens what a person names: a folder, or `org/name[@revision]` on the Hub."""

from __future__ import annotations

import re
from pathlib import Path

from bot.checkpoint.files import CHUNK_BYTES, FileEntry, Source, check_path, entry_of, same_content
from bot.checkpoint.folder import FolderSource
from bot.checkpoint.hub import HubSource
from bot.errors import InputError

__all__ = [
    "CHUNK_BYTES",
    "FileEntry",
    "FolderSource",
    "HubSource",
    "Source",
    "check_path",
    "entry_of",
    "open_source",
    "same_content",
]

_REPO = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@(?P<revision>[\w./-]{1,200}))?"
)


def open_source(text: str, *, token: str | None = None) -> Source:
    """The checkpoint that `text` names; an existing folder wins over a repo of the same name.

    Raises InputError when there is neither, InfrastructureError when the Hub cannot be reached.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        return FolderSource(path)
    match = _REPO.fullmatch(text)
    if path.exists():
        raise InputError(
            "this is a file, not a checkpoint's folder", where=text, fix="name the folder that holds it"
        )
    if match is None or text.startswith((".", "/", "~")):
        raise InputError(
            "there is no such folder, and this is no repo id",
            where=text,
            fix="give a folder, or org/name[@revision]",
        )
    return HubSource(match["repo"], match["revision"], token=token)
