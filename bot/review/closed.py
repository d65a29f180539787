"""A card's pull request that is closed when its check has ended: whoever closed it refused the release.

The event of the closing itself belongs to the pull request, where no job may hold a secret. So the check's
workflow runs on closing too, and the run that follows on it, from the default branch, comes here. So does one
that follows on a check which ended after the closing, or on a run that somebody started again: the refusal is
dated by the pull request itself, so that it is one however often it is told, and stands before a `/retry` of
later; and who refused is known only of the first run that began once it was closed.

GitHub starts no workflow of a pull request that conflicts with its base, so that closing one is told by
nobody; nor is one that was closed while Actions were away. So each tick of watching looks at all of them
(`every`).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime

from bot import log
from bot.edges.github import GitHub, Pull
from bot.edges.hub import Hub
from bot.errors import ReleaseBotError
from bot.models import Model
from bot.review import decisions, events, labels
from bot.review.layout import key_of
from bot.review.refuse import Refusal, refuse
from bot.state import State, paused


class Run(events.RunBody):
    actor: events.Account
    created_at: AwareDatetime
    run_attempt: int = 1


class RunEnded(events.Part):
    """`workflow_run`, with who caused the run."""

    workflow_run: Run


def read(path: Path | None) -> Run:
    """The run in the event. Raises UsageError, InputError."""
    return events.read(path, RunEnded).workflow_run


class Refusals(Model):
    """`closed --all --json`. `failed`: the releases whose refusal is not through, with why."""

    refused: list[Refusal]
    failed: dict[str, str]


def every(github: GitHub, state: State, hub: Hub) -> Refusals:
    """Refuse each release whose newest card was closed without merging, where no run has done so yet.

    Who closed it is not known here. What a person took back with `retry` since is left alone: it may be under
    way again. Does nothing while writing is paused.
    """
    if paused(state):
        return Refusals(refused=[], failed={})
    refused, failed = [], {}
    for pull in _newest(github.pulls()):
        key, at = key_of(pull.branch), pull.closed_at
        if key is None or at is None or pull.state != "closed" or labels.REFUSED in pull.labels:
            continue
        try:
            if not decisions.retried_since(state, key, at):
                found = refuse(github, state, hub, number=pull.number, who=decisions.UNKNOWN, at=at)
                refused.append(found)
        except ReleaseBotError as e:
            log.warning(f"the refusal of {key} is not through: {e.what}")
            failed[key] = e.what
    return Refusals(refused=refused, failed=failed)


def _newest(pulls: Iterable[Pull]) -> list[Pull]:
    """Of each branch of this repository the newest pull request."""
    found: dict[str, Pull] = {}
    for each in sorted(pulls, key=lambda pull: pull.number):
        if each.same_repo:
            found[each.branch] = each
    return list(found.values())


def closed(github: GitHub, state: State, hub: Hub, run: Run) -> Refusal | None:
    """Refuse the release of the run's branch if its newest pull request is closed without merging."""
    branch = run.head_branch or ""
    pulls = github.pulls(branch=branch) if key_of(branch) else []
    if not pulls or pulls[0].state != "closed" or pulls[0].head_sha != run.head_sha:
        return None
    at = pulls[0].closed_at or datetime.now(UTC)
    is_of_closing = run.run_attempt == 1 and run.created_at >= at
    who = run.actor.login if is_of_closing else decisions.UNKNOWN
    return refuse(github, state, hub, number=pulls[0].number, who=who, at=at)
