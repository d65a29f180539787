"""`release-bot pause` and `resume`: the kill switch, which is the file `PAUSED` on the state branch.

The same file can be made and deleted on GitHub's pages: whatever stands in it, or nothing, it is on. By hand
these two commands name GitHub as every other one does, with GITHUB_REPOSITORY and GITHUB_TOKEN; without those
they switch this machine's own state, and say so.
"""

from __future__ import annotations

import argparse
import getpass
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bot import log
from bot.commands import Handler, print_json

if TYPE_CHECKING:
    from bot.state import State

Command = Callable[[str, Handler, str], argparse.ArgumentParser]


def add_parsers(command: Command) -> None:
    """Declare `pause` and `resume`; `command` makes a subcommand with the options that all share."""
    stop = command("pause", pause, "stop all writing: to the Hub, to GitHub, to the state")
    stop.add_argument("--why", required=True, metavar="TEXT", help="what everybody is told who is stopped")
    stop.add_argument("--who", metavar="NAME", help="who stops it (default: GITHUB_ACTOR, or you)")
    go_on = command("resume", take_back, "take the pause back")
    for each in (stop, go_on):
        each.add_argument(
            "--state", type=Path, metavar="DIR", help="a folder for the state instead of its branch"
        )


def pause(arguments: argparse.Namespace) -> int:
    """`release-bot pause`. One that is on already stays as it is."""
    from bot.state import PAUSED, Paused, paused, save

    state, where = _state(arguments)
    found = paused(state)
    if found is None:
        who = arguments.who or os.environ.get("GITHUB_ACTOR") or getpass.getuser()
        found = Paused(who=who[:200], why=arguments.why[:2000], at=datetime.now(UTC))
        save(state, PAUSED, found, version=None)
    log.info(f"paused by {log.printable(found.who)}: {log.printable(found.why)} ({where})")
    if arguments.json:
        print_json(found.model_dump(mode="json"))
    return 0


def take_back(arguments: argparse.Namespace) -> int:
    """`release-bot resume`."""
    from bot.state import resume

    state, where = _state(arguments)
    was_on = resume(state)
    log.info(f"{'resumed' if was_on else 'it was not paused'} ({where})")
    if arguments.json:
        print_json({"schema_version": 1, "was_paused": was_on})
    return 0


def _state(arguments: argparse.Namespace) -> tuple[State, str]:
    """The state, and where it is in words. Without GitHub it is this machine's, which no workflow sees."""
    from bot import config
    from bot.commands_watching import switch_state, warn_if_local
    from bot.edges.state_branch import BRANCH
    from bot.edges.state_folder import FolderState

    state = FolderState(arguments.state) if arguments.state else switch_state(config.load())
    if not isinstance(state, FolderState):
        return state, f"{os.environ['GITHUB_REPOSITORY']}, branch {BRANCH}"
    warn_if_local(state, arguments.state)
    return state, "this machine"
