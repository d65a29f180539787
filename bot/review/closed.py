"""A card's pull request that is closed when its check has ended: whoever closed it refused the release.

The event of the closing itself belongs to the pull request, where no job may hold a secret. So the check's
workflow runs on closing too, and the run that follows on it, from the default branch, comes here. So does one
that follows on a check which ended after the closing, or on a run that somebody started again: the refusal is
dated by the pull request itself, so that it is one however often it is told, and stands before a `/retry` of
later; and who refused is known only of the first run that began once it was closed.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime

from bot.edges.github import GitHub
from bot.edges.hub import Hub
from bot.review import decisions, events
from bot.review.layout import key_of
from bot.review.refuse import Refusal, refuse
from bot.state import State


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
