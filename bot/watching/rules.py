"""The rules of a tick, without any edge: who is who, and what a change means."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

from bot import changes, log
from bot.changes import OF_WEIGHTS, Kind
from bot.config import Watch
from bot.edges.hub import RepoState
from bot.edges.listing import Listed, Listing
from bot.errors import InputError
from bot.state import Seen, Step, Tracked

MAX_FILES: Final = 20_000
MAX_STEPS: Final = 20


def moved(known: dict[str, Tracked], found: Listing) -> dict[str, Tracked]:
    """New name → what is known under the old one, told by the Hub's own id."""
    by_id = {each.hub_id: each for each in known.values() if each.hub_id}
    return {
        name: before
        for name, listed in found.models.items()
        if (before := by_id.get(listed.hub_id)) and before.repo_id != name and listed.hub_id
    }


def same_name(before: Tracked | None, listed: Listed, moved: dict[str, Tracked]) -> Tracked | None:
    """What is known of this name, unless that one moved away and another took its name."""
    taken = before is not None and any(each.repo_id == before.repo_id for each in moved.values())
    return None if taken else before


def settling(listed: Listed, settings: Watch, now: datetime) -> str | None:
    """Why it is left alone for now. A time that lies in the future is no time to wait for."""
    if listed.modified_at is None:
        return None
    age = now - listed.modified_at
    if timedelta(hours=-1) <= age < timedelta(minutes=settings.settle_minutes):
        left = settings.settle_minutes - max(0.0, age.total_seconds() / 60)
        return f"it changed a moment ago: {left:.0f} more minutes for its upload to finish"
    return None


def kind_of(
    seen: Seen | None, before: Tracked | None, listed: Listed, files: dict[str, str]
) -> tuple[Kind, list[str]]:
    if seen is None and before is None:
        return "new_model", sorted(files)
    kind, paths = changes.kind_of(seen.files if seen else None, files)
    if kind == "side_files" and "config.json" in paths and before and _another_model(before, listed):
        return "new_weights", paths
    return kind, paths


def _another_model(before: Tracked, listed: Listed) -> bool:
    """Whether the config names another model now: then what was made of it is no release of this."""
    told = listed.model_type is not None and before.model_type is not None
    return told and (before.model_type, before.architectures) != (
        listed.model_type,
        list(listed.architectures),
    )


def steps_after(seen: Seen | None, kind: Kind, repo_id: str, revision: str) -> list[Step]:
    """The commits that releases can be of, from the newest weights on."""
    if seen is None or kind in OF_WEIGHTS:
        return [Step(repo_id=repo_id, revision=revision, kind="weights")]
    if kind != "side_files":
        return seen.steps
    first, *later = seen.steps
    return [first, *later[-(MAX_STEPS - 2) :], Step(repo_id=repo_id, revision=revision, kind="side_files")]


def manifest(found: RepoState) -> dict[str, str]:
    """Path to blob id. Raises InputError for a repo too large to keep, or told of in part only."""
    if not re.fullmatch(r"[0-9a-f]{40}", found.revision):
        raise InputError("the Hub does not tell its commit", where=found.repo_id, fix="look at it on the Hub")
    if len(found.files) > MAX_FILES:
        raise InputError(
            f"it has {len(found.files):,} files, more than {MAX_FILES:,}",
            where=found.repo_id,
            fix="exclude it by name in watch.exclude",
        )
    files = {path: each.blob_id or each.sha256 or "" for path, each in found.files.items()}
    if blank := [path for path, blob in files.items() if not blob]:
        raise InputError(f"the Hub does not tell the blob of {log.printable(blank[0])[:120]!r}")
    return files


def tracked(listed: Listed, revision: str, steps: list[Step]) -> Tracked:
    return Tracked(
        repo_id=listed.repo_id,
        hub_id=listed.hub_id,
        revision=revision,
        modified_at=listed.modified_at,
        model_type=listed.model_type,
        architectures=list(listed.architectures),
        num_parameters=listed.num_parameters,
        steps=steps,
        gone=None,
    )


def is_renamed(listed: Listed, before: Tracked | None) -> bool:
    return before is not None and before.repo_id != listed.repo_id


def newest_first(listed: Listed) -> tuple[float, str]:
    """A sort key."""
    return -listed.modified_at.timestamp() if listed.modified_at else 0.0, listed.repo_id
