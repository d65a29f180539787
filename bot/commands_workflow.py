"""The commands that a workflow's steps are: one release from `prepare` to `finish`, a job each, and `curate`.

By hand `release-bot run` does the same on one machine. What a step needs of GitHub's contexts comes by the
environment, never by a shell: GITHUB_*, and NEEDS for the results of other jobs. Each sets the outputs that
the next job reads.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bot import log
from bot.commands_watching import connect
from bot.errors import InfrastructureError, Refused, UsageError
from bot.workflow_edges import answer, connect_github

if TYPE_CHECKING:
    from bot.job import Job
    from bot.lease import Work
    from bot.plan import PlanEntry
    from bot.state import State

Handler = Callable[[argparse.Namespace], int]
Command = Callable[[str, Handler, str], argparse.ArgumentParser]
BUILD = ("quantize", "repair", "audit", "upload")
EVALUATE = ("validate", "measure", "gate")


def add_parsers(command: Command) -> None:
    """Declare the commands; `command` makes a subcommand with the options that all share."""
    prepared = command("prepare", prepare, "say whether a release is due, take its lease, make its repo")
    built = command("build", build, "quantize, repair, audit and upload a release that is prepared")
    evaluated = command("evaluate", evaluate, "serve, measure and judge a release as it is staged on the Hub")
    finished = command("finish", finish, "record how a release's run ended, and give its lease back")
    for each in (prepared, built, evaluated, finished):
        each.add_argument("base", metavar="BASE[@REV]", help="a model on the Hub")
        each.add_argument("--recipe", required=True, metavar="NAME")
        each.add_argument("--key", default="", metavar="KEY", help="what the release's key must be")
    prepared.add_argument("--dry-run", action="store_true", help="say it, and write nothing anywhere")
    for each in (prepared, finished):
        each.add_argument("--state", type=Path, metavar="DIR", help="a folder instead of the state branch")
    built.add_argument(
        "--predecessor", default="", metavar="KEY", help="a metadata release: keep the weights of this one"
    )
    built.add_argument(
        "--restage", action="store_true", help="a person refused what is staged and said retry: stage it anew"
    )
    for each in (built, evaluated):
        each.add_argument("--work", type=Path, metavar="DIR", help="work folder (default: .release-bot/work)")
    curated = command("curate", curate, "put a public release into the collection, and tell its predecessor")
    curated.add_argument("key", metavar="KEY", help="the release's key")
    curated.add_argument("--card", type=Path, required=True, metavar="DIR", help="the reviewed card's folder")
    recorded = command("finish-publishing", finish_publishing, "record how publishing a release failed")
    recorded.add_argument("key", metavar="KEY", help="the release's key")
    recorded.add_argument("--card", type=Path, required=True, metavar="DIR", help="the card's folder")
    recorded.add_argument(
        "--ended", type=Path, required=True, metavar="FILE", help="what `publish --ended` left"
    )
    recorded.add_argument("--state", type=Path, metavar="DIR", help="a folder instead of the state branch")
    closed = command("closed", closed_pull, "refuse the release whose card was closed without merging")
    closed.add_argument("--event", type=Path, metavar="FILE", help="the event (default: GITHUB_EVENT_PATH)")
    closed.add_argument("--all", action="store_true", help="look at every closed card instead of an event")
    offered = command("offer", offer, "render a release's card, and open or update its pull request")
    offered.add_argument("key", metavar="KEY", help="the release's key")
    offered.add_argument("--work", type=Path, metavar="DIR", help="work folder (default: .release-bot/work)")
    started = command("start-publishing", start_publishing, "start publish.yml for approved releases")
    started.add_argument("keys", metavar="JSON", help="a JSON list of keys")
    command("runner-matrix", runner_matrix, "print GitHub's matrix of the fleet's classes")


# ── one release, a job each ────────────────────────────────────────────────────────────────


def prepare(arguments: argparse.Namespace) -> int:
    """`release-bot prepare`: exit code 7 where only a person can make it go on."""
    from bot import config, fleet, outcome, preparing
    from bot.commands_watching import open_state
    from bot.lease import Work
    from bot.workflow_run import run_id, run_url

    with outcome.told("prepare"):
        settings = config.load()
        state, cards = open_state(settings, arguments.state)
        hub = connect(settings, state)
        found = preparing.prepare(
            arguments.base,
            arguments.recipe,
            settings=settings,
            hub=hub,
            state=state,
            runners=fleet.load(),
            cards=cards,
            work=Work(key=run_id(), base="", revision="", recipe="", run_url=run_url()),
            key=arguments.key,
            now=datetime.now(UTC),
            dry_run=arguments.dry_run,
        )
        if arguments.key and not found.proceed and not arguments.dry_run:
            preparing.leave_queue(state, arguments.key, run=run_id())
    told_too = {"proceed": json.dumps(found.proceed), "restage": json.dumps(found.restage)}
    outcome.output(**told_too, **(_told_of(found.entry) if found.entry else {}))
    rows = [(arguments.base, arguments.recipe, found.code, found.why)]
    if found.entry:
        each = found.entry
        rows = [(f"{each.base}@{each.revision[:8]}", each.recipe, found.code, each.why)]
        rows += [("", "", name, value) for name, value in _told_of(each).items()]
    answer(arguments, found, log.table(("base", "recipe", "", ""), rows, title="Release"))
    if not found.is_quiet:
        log.error("not due", f"{found.code}: {found.why}")
        return Refused.exit_code
    return 0


def _told_of(entry: PlanEntry) -> dict[str, str]:
    """What the other jobs of the run are told."""
    return {
        "key": entry.key,
        "base": f"{entry.base}@{entry.revision}",
        "kind": entry.kind,
        "runs_on": json.dumps(entry.runs_on),
        "timeout_minutes": str(entry.timeout_minutes),
        "repo": entry.target_repo,
        "predecessor": (entry.predecessor or "") if entry.kind == "metadata" else "",
    }


def build(arguments: argparse.Namespace) -> int:
    """`release-bot build`. Hours may pass before the upload: the kill switch is asked again before that.

    What is built with is other people's code: of our tokens it gets HF_TOKEN, to read data sets.
    """
    from bot import config, outcome, pipeline, staged
    from bot.commands_watching import switch_state
    from bot.edges import supervisor
    from bot.outcome import told
    from bot.state import refuse_paused
    from bot.steps import metadata

    with told("build"):
        supervisor.hide()
        state = switch_state(config.load())
        os.environ.pop("GITHUB_TOKEN", None)  # what comes now runs other people's code
        refuse_paused(state)
        made = _job(arguments, state)
        if arguments.restage:
            made = pipeline.afresh(made)
        done = None if arguments.predecessor else pipeline.done_elsewhere(made)
    if arguments.predecessor:
        with told("metadata"):
            ended = metadata.build(made, arguments.predecessor)
        outcome.output(ended=ended)
    elif done is None:
        for stage in BUILD:
            with told(stage):
                if stage == "upload":
                    refuse_paused(state)
                pipeline.run_one(made, stage)
        with told("upload"):
            staged.keep(made)
    return _summary(arguments, made)


def evaluate(arguments: argparse.Namespace) -> int:
    """`release-bot evaluate`: exit code 0 whatever the gates say: the card shows it, and people decide."""
    from bot import pipeline, staged
    from bot.edges import supervisor
    from bot.outcome import told

    with told("evaluate"):
        supervisor.hide()
        made = _job(arguments)
        staged.take_over(made)
    for stage in EVALUATE:
        with told(stage):
            pipeline.run_one(made, stage)
    return _summary(arguments, made)


def offer(arguments: argparse.Namespace) -> int:
    """`release-bot offer`: the card from the work folder's evidence; its pull request's text as summary."""
    from bot import config, job, naming, pipeline
    from bot.outcome import told
    from bot.review import pull

    settings = config.load()
    with told("card"):
        hub, (github, state) = connect(settings), connect_github()
        key = naming.parse_key(arguments.key)
        made = job.reopen(key, hub, settings, arguments.work or settings.work)
        pipeline.run_one(made, "card")
        offered = pull.offer(github, state, made.card, hub_url=hub.endpoint)
    text = f"{offered.url}\n\n{github.pull(offered.number).body}\n"
    log.append("GITHUB_STEP_SUMMARY", log.redact(text))
    return answer(arguments, offered, f"pull request {offered.number} is {offered.state}: {offered.url}")


def _summary(arguments: argparse.Namespace, made: Job) -> int:
    from bot import commands, pipeline

    found = pipeline.summary(made, {})
    if arguments.json:
        commands.print_json(found)
    else:
        log.info(f"release {made.release.key} is in {made.workspace.root}")
    return 0


def finish(arguments: argparse.Namespace) -> int:
    """`release-bot finish`: NEEDS holds the results of the run's other jobs.

    By hand there is no key before `prepare` told it: then the lease that the run holds, if any, tells.
    """
    from bot import config, outcome
    from bot.commands_watching import open_state
    from bot.workflow_run import run_id, run_url

    settings = config.load()
    results = outcome.read(os.environ.get("NEEDS", ""))
    state, _ = open_state(settings, arguments.state)
    work = _work(arguments) if arguments.key else outcome.held_by(state, run_id(), run_url())
    if work is None:
        log.info("it ended before it was known which release it is of: nothing to record")
        return 0
    found = outcome.finish(state, work, results, holder=run_id(), now=datetime.now(UTC))
    failure = found.recorded
    text = "nothing was to change" if found.nothing_to_change else "every job came through"
    if failure:
        text = f"{failure.stage}: {failure.failure_class}: {failure.what}"
    return answer(arguments, found, text)


def _work(arguments: argparse.Namespace) -> Work:
    from bot import naming
    from bot.lease import Work
    from bot.workflow_run import run_url

    repo_id, revision = naming.parse_base(arguments.base)
    if revision is None:
        raise UsageError("the base has no commit", fix="name it as BASE@REV")
    return Work(
        key=naming.parse_key(arguments.key),
        base=repo_id,
        revision=revision,
        recipe=arguments.recipe,
        run_url=run_url(),
    )


# ── after it is public, or refused ─────────────────────────────────────────────────────────


def curate(arguments: argparse.Namespace) -> int:
    """`release-bot curate`."""
    from bot import config, job
    from bot.commands_watching import switch_state
    from bot.evidence import Evidence
    from bot.models import read_json
    from bot.stages import curate as curating
    from bot.state import refuse_paused

    settings = config.load()
    refuse_paused(switch_state(settings))
    release = read_json(arguments.card / "evidence.json", Evidence).release
    job.require_key(release, arguments.key)
    cards = arguments.card.parent.glob("*--*/evidence.json")
    known = [path.parent.name.replace("--", "/", 1) for path in cards]
    found = curating.curate(release, known, hub=connect(settings), collection=settings.collection)
    word = f"; {found.predecessor}: new_version {found.new_version}" if found.predecessor else ""
    return answer(arguments, found, f"{found.repo_id} is in {found.collection}{word}")


def finish_publishing(arguments: argparse.Namespace) -> int:
    """`release-bot finish-publishing`."""
    from bot import config, job, outcome
    from bot.commands_watching import open_state, switch_state
    from bot.evidence import Evidence
    from bot.lease import Work
    from bot.models import read_json
    from bot.workflow_run import run_id, run_url

    settings = config.load()
    release = read_json(arguments.card / "evidence.json", Evidence).release
    job.require_key(release, arguments.key)
    work = Work(
        key=release.key,
        base=release.base.repo_id,
        revision=release.base.revision,
        recipe=release.recipe_name,
        run_url=run_url(),
    )
    state = switch_state(settings) if arguments.state is None else open_state(settings, arguments.state)[0]
    found = outcome.finish_publishing(state, work, arguments.ended, holder=run_id(), now=datetime.now(UTC))
    failure = found.recorded
    text = f"{failure.stage}: {failure.failure_class}: {failure.what}" if failure else "nothing failed"
    return answer(arguments, found, text)


def closed_pull(arguments: argparse.Namespace) -> int:
    """`release-bot closed`: after a check whose pull request is closed by now; else it does nothing.

    With `--all` every closed card is looked at; exit code 4 when one could not be refused.
    """
    from bot import config
    from bot.review import closed

    github, state = connect_github()
    if arguments.all:
        every = closed.every(github, state, connect(config.load()))
        lines = [
            f"release {each.key} is refused; the Hub's pull request: {each.hub}" for each in every.refused
        ]
        answer(arguments, every, "\n".join(lines) or "no closed card is new")
        return InfrastructureError.exit_code if every.failed else 0
    found = closed.closed(github, state, connect(config.load()), closed.read(arguments.event))
    if found is None:
        log.info("no card's pull request was closed: nothing to refuse")
        return 0
    return answer(arguments, found, f"release {found.key} is refused; the Hub's pull request: {found.hub}")


def start_publishing(arguments: argparse.Namespace) -> int:
    """`release-bot start-publishing`: a run of its own: a publisher is bound to that workflow's file."""
    from pydantic import TypeAdapter, ValidationError

    from bot import naming
    from bot.state import refuse_paused

    github, state = connect_github()
    refuse_paused(state)
    try:
        keys = TypeAdapter(list[str]).validate_json(arguments.keys)
    except ValidationError as e:
        raise UsageError("the keys are no JSON list of texts", fix="""as in '["0123456789abcdef"]'""") from e
    for key in keys:
        github.start_workflow("publish.yml", {"key": naming.parse_key(key)})
        log.info(f"publishing of {key} is started")
    return 0


def runner_matrix(arguments: argparse.Namespace) -> int:
    """`release-bot runner-matrix`."""
    from bot import fleet, outcome

    classes = [each for each in fleet.load().classes if each.count]
    matrix = {"include": [{"name": each.name, "runs_on": list(each.labels)} for each in classes]}
    outcome.output(matrix=json.dumps(matrix))
    print(json.dumps(matrix))
    return 0


# ── shared ─────────────────────────────────────────────────────────────────────────────────


def _job(arguments: argparse.Namespace, switch: State | None = None) -> Job:
    """The release, prepared here as it was by the run's first job. Raises Refused for another key.

    `switch` is the state whose kill switch is asked, where the token that asks is no longer about.
    """
    from bot import config, job

    settings = config.load()
    recipe = job.load_recipe(arguments.recipe, {})
    made = job.prepare(
        arguments.base, recipe, {}, connect(settings, switch), settings, arguments.work or settings.work
    )
    if arguments.key and made.release.key != arguments.key:
        raise Refused(
            f"the release is {made.release.key} here, prepared was {arguments.key}",
            fix="run the workflow again: it prepares anew",
        )
    return made
