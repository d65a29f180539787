"""The commands that talk to GitHub: the card's pull request, its review, commands in comments, the dashboard.

As in `bot.commands`: a function a command, which imports what it needs when it runs. Each reads the event of
its workflow by itself, so that a workflow step is one call and no text of an event passes through a shell.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot import log
from bot.commands_watching import connect
from bot.errors import GateFailed, UsageError
from bot.workflow_edges import answer, connect_github

if TYPE_CHECKING:
    from bot.config import Config
    from bot.edges.github import Pull
    from bot.overview import Overview
    from bot.state import State

Handler = Callable[[argparse.Namespace], int]
Command = Callable[[str, Handler, str], argparse.ArgumentParser]


def add_parsers(command: Command, subcommands: Any, common: argparse.ArgumentParser) -> None:
    """Declare the commands; `command` makes a subcommand with the options that all share."""
    offer = command("card-pr", card_pr, "open or update the pull request of a release's card")
    offer.add_argument("key", metavar="KEY", help="the release's key")
    offer.add_argument("--work", type=Path, metavar="DIR", help="work folder (default: .release-bot/work)")
    offer.add_argument(
        "--card", type=Path, metavar="DIR", help="the card's folder (default: the work folder's)"
    )
    _review_parsers(subcommands, common)
    commanded = command("comment-command", comment_command, "do what a comment on a card's pull request says")
    board = command(
        "dashboard", dashboard, "bring the dashboard issue up to date; with --event, do its ticks"
    )
    merged = command("release-on-merge", release_on_merge, "say which merged cards are to be published")
    merged.add_argument("--key", metavar="KEY", help="only this release, instead of what the push changed")
    merged.add_argument("--matrix", action="store_true", help="print GitHub's matrix, and set it as output")
    shown = command("status", status, "show every base by every recipe: state, figures, failures")
    shown.add_argument(
        "--state", type=Path, metavar="DIR", help="a folder for the state instead of its branch"
    )
    for each in (commanded, board, merged):
        _event(each)


def _review_parsers(subcommands: Any, common: argparse.ArgumentParser) -> None:
    review = subcommands.add_parser("review", help="check cards, comment the verdict, record a refusal")
    kinds = review.add_subparsers(metavar="check|comment|refuse", required=True)
    for name, handler, text in (
        ("check", review_check, "check the cards of a checkout against their evidence; needs no token"),
        ("comment", review_comment, "keep the comment with the verdict current under the pull request"),
        ("refuse", review_refuse, "record that a card's pull request was closed without merging"),
    ):
        child = kinds.add_parser(name, help=text, description=text, parents=[common])
        child.set_defaults(handler=handler)
        if name != "check":
            _event(child)
        if name == "comment":
            child.add_argument(
                "--verdict", type=Path, required=True, metavar="FILE", help="what `check` wrote"
            )
        if name == "check":
            child.add_argument("--root", type=Path, default=Path(), metavar="DIR", help="the checkout (here)")
            child.add_argument("--branch", metavar="NAME", help="the branch (default: GITHUB_HEAD_REF)")
            child.add_argument("--since", metavar="COMMIT", help="only what changed since, as in HEAD^1")
            child.add_argument("--out", type=Path, metavar="FILE", help="write the verdict there")


def _event(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--event", type=Path, metavar="FILE", help="the event (default: GITHUB_EVENT_PATH)")


# ── the card's pull request ────────────────────────────────────────────────────────────────


def card_pr(arguments: argparse.Namespace) -> int:
    """`release-bot card-pr`."""
    from bot import config, naming
    from bot.errors import Refused
    from bot.evidence import Evidence
    from bot.models import read_json
    from bot.review.pull import offer
    from bot.workspace import Workspace

    settings = config.load()
    key = naming.parse_key(arguments.key)
    card = arguments.card or Workspace((arguments.work or settings.work) / key).card
    if (found := read_json(card / "evidence.json", Evidence).release.key) != key:
        raise Refused(f"the card is of release {found}, not of {key}", where=str(card), fix="name its folder")
    github, state = connect_github()
    offered = offer(github, state, card, hub_url=connect(settings).endpoint)
    return answer(arguments, offered, f"pull request {offered.number} is {offered.state}: {offered.url}")


def review_check(arguments: argparse.Namespace) -> int:
    """`release-bot review check`: exit 6 when a card does not hold."""
    from bot.models import write_json
    from bot.review import check, words
    from bot.review.layout import key_of

    branch = arguments.branch if arguments.branch is not None else os.environ.get("GITHUB_HEAD_REF", "")
    verdict = check.check(arguments.root.resolve(), key=key_of(branch), since=arguments.since)
    if arguments.out:
        write_json(arguments.out, verdict)
    lines = [f"{each.folder}: {_told(each.problems)}" for each in verdict.cards] or ["no card was found"]
    lines += [f"- {each}" for each in [*verdict.problems, *(p for c in verdict.cards for p in c.problems)]]
    log.append("GITHUB_STEP_SUMMARY", f"### Card review\n\n{words.block(lines)}\n")
    answer(arguments, verdict, "\n".join(lines))
    return 0 if verdict.passed else GateFailed.exit_code


def _told(problems: list[str]) -> str:
    return f"does not hold, {len(problems)} problems" if problems else "holds"


def review_comment(arguments: argparse.Namespace) -> int:
    """`release-bot review comment`."""
    from bot import config
    from bot.review import comment, events

    run = events.read(arguments.event, events.RunCompleted).workflow_run
    github, state = connect_github()
    found = comment.comment(
        github,
        state,
        connect(config.load()),
        head_sha=run.head_sha,
        branch=run.head_branch or "",
        verdict_file=arguments.verdict,
    )
    return answer(arguments, found, f"the comment is {found.state.replace('_', ' ')}")


def review_refuse(arguments: argparse.Namespace) -> int:
    """`release-bot review refuse`."""
    from bot import config
    from bot.review import events
    from bot.review.refuse import refuse

    event = events.read(arguments.event, events.PullClosed)
    if event.action != "closed":
        raise UsageError(f"the pull request was {event.action}, not closed", fix="run it on `closed` only")
    github, state = connect_github()
    pull = event.pull_request
    found = refuse(
        github,
        state,
        connect(config.load()),
        number=pull.number,
        who=event.sender.login,
        at=pull.closed_at or datetime.now(UTC),
    )
    return answer(arguments, found, f"release {found.key} is refused; the Hub's pull request: {found.hub}")


def comment_command(arguments: argparse.Namespace) -> int:
    """`release-bot comment-command`."""
    from bot import config
    from bot.review import events
    from bot.review.commanding import Obeyed, obey

    said = events.read(arguments.event, events.IssueComment).said()
    if said is None:
        nothing = Obeyed(number=0, who="", key=None, ignored="no new comment", done=[], failed=[])
        return answer(arguments, nothing, "nothing to do: not a new comment on a pull request")
    github, state = connect_github()
    found = obey(github, state, said, hub_url=connect(config.load()).endpoint)
    return answer(arguments, found, found.ignored or "; ".join([*found.done, *found.failed]))


def release_on_merge(arguments: argparse.Namespace) -> int:
    """`release-bot release-on-merge`."""
    from bot import naming
    from bot.errors import InputError
    from bot.review import events, merged
    from bot.review.check import changed_paths
    from bot.state import refuse_paused

    root = Path.cwd()
    github, state = connect_github()
    refuse_paused(state)
    if arguments.key:
        folder = merged.card_of(root, naming.parse_key(arguments.key))
        found = merged.Publishable(releases=[merged.merged_card(github, state, root, folder)], passed_over={})
    else:
        push = events.read(arguments.event, events.Push)
        if not re.fullmatch(r"[0-9a-f]{40}", push.before) or not push.before.strip("0"):
            raise InputError("the push has no commit before it", fix="name a release with --key")
        found = merged.publishable(github, state, root, changed_paths(root, push.before))
    if arguments.matrix:
        text = json.dumps(found.matrix())
        log.append("GITHUB_OUTPUT", f"matrix={text}\ncount={len(found.releases)}\n")
        print(log.redact(text))
        return 0
    names = ", ".join(f"{each.key} ({each.card})" for each in found.releases)
    return answer(arguments, found, names or "nothing to publish")


# ── what a person sees ─────────────────────────────────────────────────────────────────────


def dashboard(arguments: argparse.Namespace) -> int:
    """`release-bot dashboard`: with an event, what it ticked is done first, or refused while paused.

    Without one a pause is no failure: a red run an hour would hide the runs that did fail.
    """
    from bot import config
    from bot import dashboard as board
    from bot.review import events, labels
    from bot.state import paused

    settings = config.load()
    github, state = connect_github()
    if not arguments.event and (stopped := paused(state)):
        return answer(
            arguments, stopped, f"paused: by {stopped.who}: {stopped.why}; the dashboard stays as it is"
        )
    done: list[str] = []
    ignored: str | None = None
    if arguments.event:
        edit = events.read(arguments.event, events.IssueEdited).edit()
        done, ignored = board.obey(github, state, edit) if edit else ([], "the text was not edited")
        log.info(f"  {ignored or '; '.join(done) or 'done before'}")
    pulls = github.pulls()
    found = _overview(settings, state.snapshot(), pulls)
    shown = board.show(github, state, found, done=done, ignored=ignored)
    log.append("GITHUB_OUTPUT", f"approved={json.dumps(shown.approved)}\n")
    labels.mark_published(github, pulls, found.releases)
    return answer(arguments, shown, f"the dashboard is {shown.state}: {shown.url}")


def status(arguments: argparse.Namespace) -> int:
    """`release-bot status`."""
    from bot import config, overview

    settings = config.load()
    on_github = (
        arguments.state is None and os.environ.get("GITHUB_REPOSITORY") and os.environ.get("GITHUB_TOKEN")
    )
    if on_github:
        github, branch = connect_github()
        found = _overview(settings, branch.snapshot(), github.pulls())
    else:
        from bot.commands_watching import warn_if_local
        from bot.edges.state_folder import FolderState

        state = FolderState(arguments.state or settings.home / "state")
        warn_if_local(state, arguments.state)
        found = _overview(settings, state, None)
    counts = ", ".join(f"{num} {state.replace('_', ' ')}" for state, num in found.counts().items())
    stopped = f"\npaused by {found.paused.who}: {found.paused.why}" if found.paused else ""
    told = "".join(f"{each.text}\n" for each in found.notices)
    table = log.table(overview.COLUMNS, overview.rows(found))
    return answer(arguments, found, f"{told}{table}\n\n{counts}{stopped}")


def _overview(settings: Config, state: State, pulls: list[Pull] | None) -> Overview:
    from bot import overview, survey
    from bot.commands_watching import card_pulls
    from bot.state import paused

    hub = connect(settings)
    cards = None if pulls is None else card_pulls(pulls)
    figures = overview.figures_of(Path.cwd())
    world = survey.world(hub, state, settings.organization, cards=cards, figures=figures)
    wanted = overview.pairs(
        overview.bases_of(state, settings.watch.authors),
        survey.usable_recipes(hub).usable,
        organization=settings.organization,
        toolchain_epoch=settings.toolchain_epoch,
    )
    now, stopped = datetime.now(UTC), paused(state)
    first = {each.key: each for each in overview.overview(wanted, world, paused=stopped, now=now).releases}
    asked = ("planned", "failed", "quarantined", "in_review")  # the last may have been closed on the Hub
    unexplained = [pair for pair in wanted if first[pair.key].state in asked]
    world = survey.with_staged(world, hub, unexplained)
    told = overview.notices(state, settings.watch.authors, paused=stopped, now=now)
    return overview.overview(wanted, world, paused=stopped, now=now, notices=told)
