"""What the commands of workflows share: GitHub with the state branch, and how a command answers.

The Hub of a command is `bot.commands_watching.connect`, which asks the kill switch before each write.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bot import log
from bot.commands import print_json

if TYPE_CHECKING:
    from pydantic import BaseModel

    from bot.edges.github import GitHub
    from bot.edges.state_branch import BranchState


def connect_github() -> tuple[GitHub, BranchState]:
    """The repository that the environment names, and its state branch. Raises UsageError as it does."""
    from bot.edges.github import GitHub
    from bot.edges.state_branch import BranchState

    github = GitHub.from_environment()
    return github, BranchState(github)


def answer(arguments: argparse.Namespace, found: BaseModel, text: str) -> int:
    """Print `found` with `--json`, else `text`, secrets masked; exit code 0."""
    if arguments.json:
        print_json(found.model_dump(mode="json"))
    else:
        print(log.redact(log.printable(text)))
    return 0
