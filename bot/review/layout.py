"""Where reviewed cards lie: `model_cards/<owner>--<name>/{README.md,evidence.json,plots/}`.

No name on the Hub has two hyphens in a row, so no two repos share a folder, and `templates` and `examples`
beside them are no repo's.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from bot import naming
from bot.errors import InputError
from bot.repo import is_card_file

CARDS: Final = "model_cards"
MAX_FILES = 64
MAX_FILE_BYTES = 32 * 2**20
_REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}", re.ASCII)
_CARD_FILE = re.compile(
    r"README\.md|evidence\.json|plots/[A-Za-z0-9][A-Za-z0-9._-]{0,80}\.(png|svg)", re.ASCII
)
_BRANCH = re.compile(rf"release/([0-9a-f]{{{naming.KEY_LENGTH}}})", re.ASCII)


def folder_of(repo_id: str) -> str:
    """`org/name` → `model_cards/org--name`. Raises InputError for a name that could leave the folder."""
    parts = repo_id.split("/")
    if (
        not _REPO_ID.fullmatch(repo_id)
        or "--" in repo_id
        or ".." in repo_id
        or any(each.endswith((".", "-", ".git", ".lock")) for each in parts)
    ):
        raise InputError(
            f"{repo_id!r} is no name of a repo on the Hub",
            where="the evidence's target_repo",
            fix="a name is letters, digits, '-', '_' and '.', without '--' and '..'",
        )
    return f"{CARDS}/{'--'.join(parts)}"


def repo_of(path: str) -> str | None:
    """The repo whose card the file at `path` belongs to; None for another file."""
    top, _, rest = path.partition("/")
    repo_id = rest.partition("/")[0].replace("--", "/", 1)
    return repo_id if top == CARDS and _REPO_ID.fullmatch(repo_id) else None


def key_of(branch: str) -> str | None:
    """The release whose card `branch` holds; None for another branch."""
    found = _BRANCH.fullmatch(branch)
    return found[1] if found else None


def is_card_path(path: str) -> bool:
    """Whether `path`, relative to a card's folder, is one of a card's files."""
    return bool(_CARD_FILE.fullmatch(path)) and is_card_file(path)


def files_in(folder: Path) -> dict[str, Path]:
    """The card's files in `folder` by their names. Raises InputError for anything else that lies there."""
    found: dict[str, Path] = {}
    for root, folders, files in os.walk(folder):
        for name in [*files, *(each for each in folders if (Path(root) / each).is_symlink())]:
            path = Path(root) / name
            relative = path.relative_to(folder).as_posix()
            _require_plain(path, relative, folder)
            found[relative] = path
            if len(found) > MAX_FILES:
                raise InputError(f"the card has more than {MAX_FILES} files", where=str(folder))
    if missing := {"README.md", "evidence.json"} - found.keys():
        raise InputError(f"the card lacks {', '.join(sorted(missing))}", where=str(folder))
    return found


def _require_plain(path: Path, relative: str, folder: Path) -> None:
    if path.is_symlink() or not path.is_file():
        raise InputError(f"{relative!r} is no plain file", where=str(folder), fix="remove it")
    if not is_card_path(relative):
        raise InputError(
            f"{relative!r} does not belong to a card",
            where=str(folder),
            fix="a card is README.md, evidence.json and plots/*.png, *.svg",
        )
    if path.stat().st_size > MAX_FILE_BYTES:
        raise InputError(f"{relative} has more than {MAX_FILE_BYTES:,} bytes", where=str(folder))
