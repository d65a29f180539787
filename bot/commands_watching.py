"""`release-bot watch` and `plan`: what they are asked with, what they print, and what they write where.

`plan` watches first, so that one command makes a tick; `--dry-run` shows the same and writes nothing, neither
to the state nor for a workflow. The state is the state branch where GITHUB_REPOSITORY and GITHUB_TOKEN name
one, else a folder.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bot import log
from bot.errors import InfrastructureError, InputError, Refused

if TYPE_CHECKING:
    from bot.config import Config
    from bot.edges.hub import Hub
    from bot.ledger import CardPull, World
    from bot.plan import Plan
    from bot.state import State
    from bot.watch import Watched

# GitHub cancels a job that no runner took for a day.
QUEUE_TTL: Final = timedelta(hours=24)
_BRANCH: Final = "release/"

Handler = Callable[[argparse.Namespace], int]
Command = Callable[[str, Handler, str], argparse.ArgumentParser]


def add_parsers(command: Command) -> None:
    """Declare `watch` and `plan`; `command` makes a subcommand with the options that all share."""
    watch = command(
        "watch", watch_command, "reconcile the watched authors with the Hub and class what changed"
    )
    plan = command(
        "plan", plan_command, "say which releases to make now, on which runners, and why not others"
    )
    plan.add_argument(
        "--matrix",
        action="store_true",
        help="print GitHub's matrix only; in a workflow also set the outputs matrix and count",
    )
    watch.add_argument(
        "--confirm",
        action="append",
        default=[],
        metavar="AUTHOR",
        help="this author's listing is true, though it lacks most of what was there",
    )
    for each in (watch, plan):
        each.add_argument("--dry-run", action="store_true", help="show it and write nothing anywhere")
        each.add_argument(
            "--state", type=Path, metavar="DIR", help="a folder for the state instead of the state branch"
        )


def watch_command(arguments: argparse.Namespace) -> int:
    """`release-bot watch`."""
    from bot import commands, config

    settings = config.load()
    state, _ = open_state(settings, arguments.state)
    if arguments.confirm:
        warn_if_local(state, arguments.state)
    if not arguments.dry_run:
        _confirm(state, arguments.confirm)
    found = _watch(settings, connect(settings), state, dry_run=arguments.dry_run)
    if arguments.json:
        commands.print_json(found.model_dump(mode="json", exclude={"bases"}))
    return _require_some(found)


def _confirm(state: State, authors: list[str]) -> None:
    from bot.state import refuse_paused
    from bot.watching import shrunk

    if authors:
        refuse_paused(state)
    for each in authors:
        done = shrunk.confirm(state, each, who=os.environ.get("GITHUB_ACTOR") or getpass.getuser())
        log.info(f"  {each}: {'its listing is confirmed' if done else 'no listing waits to be confirmed'}")


def plan_command(arguments: argparse.Namespace) -> int:
    """`release-bot plan`."""
    from bot import commands, config, fleet, plansummary
    from bot import plan as planning
    from bot.state import refuse_paused

    settings = config.load()
    runners = fleet.load()
    state, cards = open_state(settings, arguments.state)
    hub = connect(settings)
    watched = _watch(settings, hub, state, dry_run=arguments.dry_run)
    found = tick(settings, hub, state, watched, runners, cards=cards, write=not arguments.dry_run)
    matrix = planning.matrix(found)
    _tell(found)
    if not arguments.dry_run:
        if arguments.matrix and matrix["include"]:
            refuse_paused(state)  # planning may have taken minutes
            _queue(state, [each["key"] for each in matrix["include"]])
        if arguments.matrix:
            log.append("GITHUB_OUTPUT", f"matrix={json.dumps(matrix)}\ncount={len(matrix['include'])}\n")
        log.append("GITHUB_STEP_SUMMARY", log.redact(plansummary.text(found, watched)))
    if arguments.matrix:
        print(log.redact(json.dumps(matrix)))
    elif arguments.json:
        commands.print_json(found.model_dump(mode="json"))
    return _require_some(watched)


def tick(
    settings: Config,
    hub: Hub,
    state: State,
    watched: Watched,
    runners: Any,
    *,
    cards: list[CardPull] | None,
    write: bool,
) -> Plan:
    """The plan over what was watched. What run-out leases tell is recorded first, unless `write` is off."""
    from bot import lease, ledger, survey
    from bot import plan as planning
    from bot.state import paused

    now = datetime.now(UTC)
    stopped = paused(state)
    if write and stopped is None:
        lease.reap(state, list(ledger.read(state).leases.values()), now)
        _forget_queues(state, now)
    with log.step("Planning"):
        world = _without_own_queue(survey.world(hub, state, settings.organization, cards=cards, figures={}))
        recipes, keys = survey.usable_recipes(hub), planning.Keys(settings.toolchain_epoch)

        def plan(over: ledger.World) -> Plan:
            return planning.plan(
                watched.bases,
                recipes,
                over,
                runners,
                organization=settings.organization,
                keys=keys,
                now=now,
                paused=f"by {stopped.who}: {stopped.why}" if stopped else None,
            )

        return plan(survey.with_staged(world, hub, plan(world).entries))


def connect(settings: Config, switch: State | None = None) -> Hub:
    """The Hub of these settings, which asks the kill switch (of `switch`, if given) before each write."""
    from bot.edges import hub
    from bot.state import refuse_paused

    embedded = hub.prepare_environment(settings.home)
    return hub.Hub(embedded=embedded, before_write=lambda: refuse_paused(switch or switch_state(settings)))


def open_state(settings: Config, folder: Path | None) -> tuple[State, list[CardPull] | None]:
    """The state, and the cards' pull requests where GitHub is there to be asked."""
    if folder is not None or not (os.environ.get("GITHUB_REPOSITORY") and os.environ.get("GITHUB_TOKEN")):
        from bot.edges.state_folder import FolderState

        return FolderState(folder or settings.home / "state"), None
    from bot.edges.github import GitHub
    from bot.edges.state_branch import BranchState

    github = GitHub.from_environment()
    return BranchState(github).snapshot(), card_pulls(github.pulls())


def switch_state(settings: Config) -> State:
    """The state for a job that only asks whether the kill switch is on, whenever it asks."""
    if not (os.environ.get("GITHUB_REPOSITORY") and os.environ.get("GITHUB_TOKEN")):
        from bot.edges.state_folder import FolderState

        return FolderState(settings.home / "state")
    from bot.edges.github import GitHub
    from bot.edges.state_branch import BranchState

    return BranchState(GitHub.from_environment())


def warn_if_local(state: State, folder: Path | None) -> None:
    """Say that `state` is this machine's own, which no workflow sees, unless `folder` asked for that."""
    from bot.edges.state_folder import FolderState

    if folder is None and isinstance(state, FolderState):
        log.warning("only this machine: for the workflows set GITHUB_REPOSITORY and GITHUB_TOKEN")


def card_pulls(pulls: Any) -> list[CardPull]:
    """The bot's own among a repository's pull requests: by branch, and never from a fork."""
    from bot import naming
    from bot.ledger import CardPull

    return [
        CardPull(key=key, number=each.number, state=each.state, url=each.url, closed_at=each.closed_at)
        for each in pulls
        if each.same_repo
        and naming.is_key(key := each.branch.removeprefix(_BRANCH))
        and each.branch == naming.branch(key)
    ]


def _watch(settings: Config, hub: Hub, state: State, *, dry_run: bool) -> Watched:
    from bot.watch import watch
    from bot.watching.found import counted

    with log.step(f"Watching {', '.join(settings.watch.authors)}"):
        found = watch(settings.watch, hub, state, now=datetime.now(UTC), dry_run=dry_run)
        for change in found.changes:
            log.info(f"  {change.repo_id}: {change.kind}, {change.num_files} files, at {change.revision[:8]}")
        for reason, num in counted(found.skipped).items():
            log.info(f"  {num} passed over: {reason}")
        log.info(f"  {found.num_listed:,} models listed with {found.num_calls} requests")
        if not found.recorded:
            log.info("  nothing recorded")
    return found


def _require_some(found: Watched) -> int:
    """Exit code 4 when no base could be looked at at all: the next tick tries again."""
    nothing = found.failed and not found.bases and not found.changes
    return InfrastructureError.exit_code if nothing else 0


def _tell(found: Plan) -> None:
    from bot.plan import MAX_JOBS

    for each in found.entries:
        log.info(
            f"  {each.key} {each.kind}: {each.base}@{each.revision[:8]} by {each.recipe}, "
            f"on {each.runner_class}"
        )
    if found.num_left:
        log.info(f"  {found.num_left} of them wait for the next tick: one tick starts {MAX_JOBS} at most")
    for skip in found.skips:
        log.info(f"  not {skip.base} by {skip.recipe}: {skip.code}: {skip.reason}")


def _queue(state: State, keys: list[str]) -> None:
    """Note which keys this run's matrix holds, so that the next tick does not queue them once more."""
    from bot.state import Queued, load, queued_path, save

    run_id = os.environ.get("GITHUB_RUN_ID", "")
    if not keys or not run_id:
        return
    now = datetime.now(UTC)
    _, version = load(state, queued_path(run_id), Queued)
    save(
        state,
        queued_path(run_id),
        Queued(run_id=run_id, keys=keys, at=now, expires_at=now + QUEUE_TTL),
        version=version,
    )


def _without_own_queue(found: World) -> World:
    """A run that is run again is not kept from its own jobs by what it noted the first time."""
    own = os.environ.get("GITHUB_RUN_ID", "")
    queued = {key: each for key, each in found.records.queued.items() if each.run_id != own}
    return replace(found, records=replace(found.records, queued=queued))


def _forget_queues(state: State, now: datetime) -> None:
    """Delete the queues whose time is up. One that cannot be read, or was written since, is left."""
    from bot.state import Queued, load

    for path in state.list("queued/"):
        try:
            found, version = load(state, path, Queued)
            if found and version and found.expires_at <= now:
                state.delete(path, version)
        except (InputError, Refused) as e:
            log.warning(e.what)
