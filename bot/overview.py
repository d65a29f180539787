"""Every release at a glance: each watched base by each recipe that applies, with what became of it.

The same answer in three places: the dashboard, `release-bot status`, its `--json`. Bases come from what
watching stored, so that looking asks the Hub for our own repos only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from bot import comparison, figures, ledger, log, naming
from bot.errors import InputError
from bot.evidence import Evidence
from bot.ledger import Pair, ReleaseState, ReleaseStatus, World
from bot.models import SCHEMA_VERSION, Base, Model, read_json
from bot.recipe import Recipe
from bot.state import Paused, Roster, State, Step, Tracked, load, watched_path
from bot.watching import shrunk, ticked

# What a person should look at stands first.
ORDER: tuple[ReleaseState, ...] = (
    "quarantined",
    "failed",
    "waiting_for_publisher",
    "in_review",
    "staged",
    "building",
    "planned",
    "refused",
    "skipped",
    "nothing_to_change",
    "published",
)
COLUMNS = ("base", "recipe", "state", "tries", "figures", "detail")


class Notice(Model):
    """What a person should know beside the releases; `confirm`: the author whose listing waits for a word."""

    text: str
    confirm: str | None


class Overview(Model):
    """`release-bot status --json`."""

    schema_version: int = SCHEMA_VERSION
    at: datetime
    paused: Paused | None
    notices: list[Notice]
    releases: list[ReleaseStatus]

    def counts(self) -> dict[str, int]:
        """How many releases are in each state that occurs."""
        counted = Counter(each.state for each in self.releases)
        return {state: counted[state] for state in ORDER if counted[state]}


def pairs(
    bases: Iterable[Tracked], recipes: Iterable[Recipe], *, organization: str, toolchain_epoch: int
) -> list[Pair]:
    """The newest step of each base that is still there, by each recipe that is for it."""
    known = list(recipes)
    return [
        _pair(base, recipe, organization, toolchain_epoch)
        for base in bases
        for recipe in known
        if base.steps and base.gone is None and _applies(recipe, base)
    ]


def overview(
    wanted: Iterable[Pair],
    world: World,
    *,
    paused: Paused | None,
    now: datetime,
    notices: Iterable[Notice] = (),
) -> Overview:
    """What became of each pair; what a person should look at stands first."""
    found = [ledger.status(pair, world, now) for pair in wanted]
    found.sort(key=lambda each: (ORDER.index(each.state), each.base, each.recipe))
    return Overview(at=now, paused=paused, notices=list(notices), releases=found)


def notices(state: State, authors: Iterable[str], *, paused: Paused | None, now: datetime) -> list[Notice]:
    """What watching waits for, and that it stopped; while writing is paused it notes nothing of itself."""
    late = None if paused else ticked.overdue(state, now)
    found = [Notice(text=late, confirm=None)] if late else []
    for author in authors:
        roster, _ = load(state, watched_path(author), Roster)
        if roster and roster.shrunk:
            asks = None if shrunk.is_believed(roster.shrunk) else author
            found.append(Notice(text=shrunk.told(author, roster.shrunk), confirm=asks))
    return found


def bases_of(state: State, authors: Iterable[str]) -> list[Tracked]:
    """What watching stored of the authors' bases."""
    rosters = [load(state, watched_path(author), Roster)[0] for author in authors]
    return [base for roster in rosters if roster for base in roster.bases]


def figures_of(root: Path) -> dict[str, dict[str, str]]:
    """The figures of every reviewed card below `root`, by key; a card that does not hold has none."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted((root / "model_cards").glob("*--*/evidence.json")):
        try:
            evidence = read_json(path, Evidence)
            found[evidence.release.key] = _figures(comparison.of(evidence).release)
        except (InputError, ValueError) as e:
            log.warning(f"{path.parent.name} shows no figures: {str(e).splitlines()[0]}")
    return found


def _figures(of: comparison.Side) -> dict[str, str]:
    """Size, and what the release costs in quality over its base."""
    shown = {
        "size": None if of.total_bytes is None else figures.gib(of.total_bytes),
        "ppl": None if of.ppl_change is None else figures.change(of.ppl_change),
        "KLD": None if of.kld is None else f"{figures.nats(of.kld)} nats",
        "drafts accepted": None if of.acceptance_rate is None else figures.percent(of.acceptance_rate),
    }
    return {name: value for name, value in shown.items() if value is not None}


def titled(of: ReleaseStatus) -> str:
    """A release's state in words, and that it is a metadata release where it is one."""
    return of.state.replace("_", " ") + (" (metadata)" if of.kind == "metadata" else "")


def rows(found: Overview) -> list[tuple[str, ...]]:
    """One row a release under COLUMNS, for the terminal."""
    cells = [
        (
            f"{each.base}@{each.revision[:8]}",
            each.recipe,
            titled(each),
            str(each.num_attempts or ""),
            ", ".join(f"{name} {value}" for name, value in each.figures.items()),
            each.detail or next(iter(each.links.values()), ""),
        )
        for each in found.releases
    ]
    # An error's words may hold a line break, behind which GitHub would look for a workflow command.
    return [tuple(" ".join(cell.split()) for cell in row) for row in cells]


def _applies(recipe: Recipe, base: Tracked) -> bool:
    if base.model_type is None:
        return False
    refusal = recipe.applies_to.refusal(
        model_type=base.model_type, architectures=base.architectures, num_parameters=base.num_parameters
    )
    return not refusal


def _pair(base: Tracked, recipe: Recipe, organization: str, toolchain_epoch: int) -> Pair:
    *earlier, newest = [_pair_at(step, recipe, organization, toolchain_epoch) for step in base.steps]
    return replace(newest, earlier=tuple(earlier))


def _pair_at(step: Step, recipe: Recipe, organization: str, toolchain_epoch: int) -> Pair:
    at = Base(repo_id=step.repo_id, revision=step.revision)
    return Pair(
        key=naming.release_key(at, recipe, toolchain_epoch),
        base=step.repo_id,
        revision=step.revision,
        recipe=recipe.name,
        target_repo=naming.target_repo(organization, at, recipe),
    )
