"""The folder that the lab writes to: one base at one commit.

Evidence, tables and plot have the same names for every base, so a second base would overwrite the first's.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ConfigDict

from bot import log
from bot.errors import InputError, Refused, UsageError
from bot.models import Base, Model, read_json


class Held(Model):
    """Whose a lab's evidence is, whichever version of the bot wrote it."""

    model_config = ConfigDict(extra="ignore")

    base: Base


def require_folder(out: Path) -> None:
    """Raises UsageError when `out` cannot be a folder, since it or one above it is a file."""
    for path in (out, *out.parents):
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file, not a folder for a lab", fix="name a folder with --out")


def require_same_base(out: Path, base: Base) -> None:
    """Raises Refused when evidence in `out`, by either split, is of another base or commit."""
    for path in sorted(out.glob("lab-*.json")):
        held = _held(path)
        if held is not None and held != base:
            raise Refused(
                f"the folder holds a lab of {_name(held)}, and this one is of {_name(base)}",
                where=str(path),
                why="evidence, table and plot of the other base would be overwritten",
                fix=f"name another folder with --out, ask for {_name(held)}, or remove its lab-* files",
            )


def _held(path: Path) -> Base | None:
    try:
        return read_json(path, Held).base
    except InputError as e:
        log.warning(f"{e.what}: it will be written anew")
        return None


def _name(base: Base) -> str:
    return f"{base.repo_id}@{base.revision[:12]}"
