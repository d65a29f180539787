"""One release made ready to be built: is it due, on which runner, and is it ours to make.

The same rules as the plan's, over one base: whoever asks by hand gets the same answer as the schedule does.
The lease is taken before anything is made, so that of two runs one goes on and the other leaves no trace. It
lasts as long as the run may, and the run's last job gives it back (`bot.lease`).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, Literal

from bot import changes, hubpulls, lease, log, naming, recipe, repo
from bot.commands_watching import QUEUE_TTL, tick
from bot.config import Config
from bot.edges import listing
from bot.edges.hub import Hub
from bot.errors import InfrastructureError, InputError, Refused
from bot.fleet import Fleet
from bot.lease import Work
from bot.ledger import CardPull
from bot.models import SCHEMA_VERSION, Model
from bot.plan import PlanEntry, Skip
from bot.review import decisions
from bot.state import (
    Queued,
    Seen,
    State,
    Step,
    Tracked,
    load,
    queued_path,
    refuse_paused,
    save,
    seen_path,
)
from bot.watch import Watched
from bot.watching import rules

# What needs no person: the release is there, or somebody is at it.
QUIET: Final = (
    "published", "nothing_to_change", "in_review", "building", "queued", "waiting_for_publisher", "lost_race",
)  # fmt: skip

MAX_RACES: Final = 16


class Prepared(Model):
    """`release-bot prepare --json`: what the run's other jobs are told; `code` says why it stops here.

    `restage`: what is staged was refused, and a person said retry since.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    proceed: bool
    code: str
    why: str
    entry: PlanEntry | None
    restage: bool = False

    @property
    def is_quiet(self) -> bool:
        return self.proceed or self.code in (*QUIET, "dry_run")


def prepare(
    text: str,
    recipe_name: str,
    *,
    settings: Config,
    hub: Hub,
    state: State,
    runners: Fleet,
    cards: list[CardPull] | None,
    work: Work,
    key: str,
    now: datetime,
    dry_run: bool,
) -> Prepared:
    """Plan one base by one recipe, take its lease, and make the private repo that the build will fill.

    `work` names the run; `key` is the matrix's, empty where a person asked. Raises UsageError, InputError,
    and Refused when the key is another one by now, or the repo is another base's.
    """
    recipe.load(recipe_name)
    found = _planned(_base(text, hub, state), recipe_name, settings, hub, state, runners, cards)
    if isinstance(found, Skip):
        return Prepared(proceed=False, code=found.code, why=found.reason, entry=None)
    if key and found.key != key:
        raise Refused(
            f"the release is {found.key} by now, planned was {key}",
            where=f"{found.base}@{found.revision[:8]} by {recipe_name}",
            why="the base, the recipe or the data sets' stand-ins changed since the plan",
            fix="nothing: the next tick plans it again",
        )
    repo.refuse_other_base(hub, found.target_repo, found.base)
    if dry_run:
        return Prepared(proceed=False, code="dry_run", why=found.why, entry=found)
    ours = Work(
        key=found.key, base=found.base, revision=found.revision, recipe=recipe_name, run_url=work.run_url
    )
    refuse_paused(state)
    try:
        held = lease.take(state, ours, holder=work.key, now=now, ttl=term(found))
    except Refused as e:
        return Prepared(proceed=False, code="lost_race", why=e.what, entry=None)
    try:
        hub.create_private(found.target_repo)
        restage = _is_to_restage(found, hub, state)
    except BaseException:  # the next jobs will not run, and the lease lasts as long as they might
        lease.release(state, held)
        raise
    return Prepared(proceed=True, code="due", why=found.why, entry=found, restage=restage)


def leave_queue(state: State, key: str, *, run: str) -> None:
    """Take `key` out of its run's queue: nothing of it is under way there, and the next tick may plan it.

    Many jobs of a run may do so at once. That it cannot be done hides nothing: a queue's time runs out.
    """
    path = queued_path(run)
    for _ in range(MAX_RACES):
        try:
            found, version = load(state, path, Queued)
            if found is None or key not in found.keys:
                return
            left = [each for each in found.keys if each != key]
            save(state, path, found.model_copy(update={"keys": left}), version=version)
        except Refused:
            continue
        except (InfrastructureError, InputError) as e:
            log.warning(f"{key} was not taken out of {path}: {e.what}")
        return


def _is_to_restage(entry: PlanEntry, hub: Hub, state: State) -> bool:
    """Whether weights of this release were refused on the Hub, and a person said retry since."""
    if decisions.newest(state, entry.key) != "retry":
        return False
    staged = hubpulls.of_release(hub, entry.target_repo, entry.key)
    return any(each.status == "closed" for each in staged)


def term(entry: PlanEntry) -> timedelta:
    """How long a run may hold its lease: two jobs on a runner, each of which waits for it a day at most."""
    return 2 * (QUEUE_TTL + timedelta(minutes=entry.timeout_minutes))


def _planned(
    base: Tracked,
    recipe_name: str,
    settings: Config,
    hub: Hub,
    state: State,
    runners: Fleet,
    cards: list[CardPull] | None,
) -> PlanEntry | Skip:
    watched = Watched(
        changes=[], skipped=[], failed=[], num_listed=1, num_calls=0, recorded=False, bases=[base]
    )
    found = tick(settings, hub, state, watched, runners, cards=cards, write=False)
    both: list[PlanEntry | Skip] = [*found.entries, *found.skips]
    for each in both:
        if each.recipe == recipe_name:
            return each
    raise InputError(f"nothing is planned for {base.repo_id} by {recipe_name}")


def _base(text: str, hub: Hub, state: State) -> Tracked:
    """The base at the wanted commit, with the steps that lead to it. Raises InputError, UsageError."""
    repo_id, revision = naming.parse_base(text)
    found = hub.state(repo_id, revision)
    listed = listing.models_of(hub, found.repo_id.split("/")[0]).models.get(found.repo_id)
    if listed is None:
        raise InputError(
            f"{found.repo_id} is not listed on the Hub", where=hub.endpoint, fix="check its name and author"
        )
    steps = _steps(state, found.repo_id, found.revision, rules.manifest(found))
    return rules.tracked(listed, found.revision, steps)


def _steps(state: State, repo_id: str, revision: str, files: dict[str, str]) -> list[Step]:
    """As watching would note them: a base that only changed its side files follows on its last weights."""
    seen, _ = load(state, seen_path(repo_id), Seen)
    if seen is None:
        return [Step(repo_id=repo_id, revision=revision, kind="weights")]
    known = [number for number, step in enumerate(seen.steps) if step.revision == revision]
    if known:
        return seen.steps[: known[0] + 1]
    kind, _ = changes.kind_of(seen.files, files)
    return rules.steps_after(seen, kind, repo_id, revision)
