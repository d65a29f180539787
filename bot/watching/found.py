"""What a tick of watching tells: changes, what was passed over, and the bases that planning goes on with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from bot.changes import Kind
from bot.models import SCHEMA_VERSION, Model
from bot.state import Tracked


class Change(Model):
    """A base that is not what it was. `files` are the paths that differ, the first fifty of them."""

    repo_id: str
    revision: str
    kind: Kind
    files: list[str]
    num_files: int
    since_revision: str | None
    renamed_from: str | None


class Skipped(Model):
    """A model, or an author as a whole, that nothing is done about in this tick."""

    repo_id: str
    code: str
    reason: str


class Watched(Model):
    """`release-bot watch --json`. Planning goes on with `bases`; what `failed` is tried again next tick."""

    schema_version: Literal[1] = SCHEMA_VERSION
    changes: list[Change]
    skipped: list[Skipped]
    failed: list[Skipped]
    num_listed: int
    num_calls: int
    recorded: bool
    bases: list[Tracked]


def counted(skipped: Iterable[Skipped]) -> dict[str, int]:
    """How many were skipped for each reason, the most frequent first."""
    found: dict[str, int] = {}
    for each in skipped:
        found[each.code] = found.get(each.code, 0) + 1
    return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))
