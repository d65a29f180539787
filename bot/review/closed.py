"""A card's pull request that is closed when its check has ended: whoever closed it refused the release.

The event of the closing itself belongs to the pull request, where no job may hold a secret. So the check's
workflow runs on closing too, and the run that follows on it, from the default branch, comes here.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from bot.edges.github import GitHub
from bot.edges.hub import Hub
from bot.review import events
from bot.review.layout import key_of
from bot.review.refuse import Refusal, refuse
from bot.state import State


class Run(events.RunBody):
    triggering_actor: events.Account


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
    who = run.triggering_actor.login
    return refuse(github, state, hub, number=pulls[0].number, who=who, at=datetime.now(UTC))
