"""What to make next: bases × recipes, less what is done, decided, under way, failed for good or not possible.

Pure: everything it weighs comes in as values, so that planning again over the same facts gives the same plan,
and five hundred bases by four recipes take a fraction of a second. Nothing of a base is asked that watching
has not stored; what only headers tell (`bases.refuse_unfit`) is asked again before a job downloads weights.

A base's steps are the commits since its weights changed. The newest one is wanted. Where a release of an
earlier step is public and only side files changed since, a metadata release brings those up to date without a
GPU; where none is public, the newest is released as a whole, since a release whose base moved on cannot be
published any more.

Every pair that is not planned is told with its reason. A tick starts `MAX_JOBS` at most: what is over
waits for the next tick, and is told too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from bot import ledger, naming, needs
from bot.fleet import Fleet, RunnerClass
from bot.ledger import Kind, Pair, ReleaseStatus, World
from bot.models import SCHEMA_VERSION, Base, Model
from bot.recipe import Recipe
from bot.state import Step, Tracked

MAX_OF_MATRIX: Final = 256  # GitHub's own bound
# How many releases one tick starts. All jobs of a repository share the workflow token's 1,000 requests an
# hour, and a release makes some 15 of them, most of them soon after it starts and while it holds its lease.
# So 40 take 600, and the rest is left to the tick itself, to reviews and to publishing.
MAX_JOBS: Final = 40
assert MAX_JOBS <= MAX_OF_MATRIX
METADATA_MINUTES: Final = 45
# States in which something of a release is at its target, or about to be.
CLAIMING: Final = ("published", "waiting_for_publisher", "in_review", "staged", "building")


class PlanEntry(Model):
    """A job to start. `predecessor`: the key that is public now; a metadata release takes its weights."""

    key: str
    base: str
    revision: str
    recipe: str
    kind: Kind
    runs_on: list[str]
    timeout_minutes: int
    runner_class: str
    target_repo: str
    predecessor: str | None
    why: str


class Skip(Model):
    """A pair that is not planned, why, and until when if that is known; `code` is the reason in one word."""

    base: str
    recipe: str
    code: str
    reason: str
    key: str | None
    until: datetime | None


class Plan(Model):
    """`release-bot plan --json`. The first `MAX_JOBS` entries are the matrix, `num_left` wait their turn."""

    schema_version: Literal[1] = SCHEMA_VERSION
    entries: list[PlanEntry]
    skips: list[Skip]
    num_left: int
    paused: str | None


class Keys:
    """Release keys by base and recipe; made once each, since a recipe's canonical form takes a while."""

    def __init__(self, toolchain_epoch: int) -> None:
        self.toolchain_epoch = toolchain_epoch
        self._known: dict[tuple[str, str, str], str] = {}

    def of(self, repo_id: str, revision: str, recipe: Recipe) -> str:
        known = (repo_id, revision, recipe.name)
        if known not in self._known:
            base = Base(repo_id=repo_id, revision=revision)
            self._known[known] = naming.release_key(base, recipe, self.toolchain_epoch)
        return self._known[known]


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """The recipes that releases are made by, and those that none can be made by, with why."""

    usable: list[Recipe]
    unusable: dict[str, str] = field(default_factory=dict)


def plan(
    bases: Iterable[Tracked],
    recipes: Recipes,
    world: World,
    fleet: Fleet,
    *,
    organization: str,
    keys: Keys,
    now: datetime,
    paused: str | None = None,
) -> Plan:
    """Every job to start now, in the order to start them, and every pair that is none."""
    planner = _Planner(recipes, world, fleet, organization, keys, now)
    known = list(bases)
    planner.own(known)
    for base in known:
        planner.consider(base)
    entries = [each for _, each in sorted(planner.entries, key=lambda pair: pair[0])]
    if paused is not None:
        planner.skips += [_paused(each, paused) for each in entries]
        entries = []
    return Plan(entries=entries, skips=planner.skips, num_left=max(0, len(entries) - MAX_JOBS), paused=paused)


def matrix(found: Plan) -> dict[str, list[dict[str, Any]]]:
    """GitHub's matrix: the first `MAX_JOBS` entries."""
    fields = {"key", "base", "revision", "recipe", "kind", "runs_on", "timeout_minutes", "predecessor"}
    return {"include": [each.model_dump(include=fields) for each in found.entries[:MAX_JOBS]]}


def _paused(entry: PlanEntry, why: str) -> Skip:
    return Skip(base=entry.base, recipe=entry.recipe, code="paused", reason=why, key=entry.key, until=None)


@dataclass
class _Planner:
    recipes: Recipes
    world: World
    fleet: Fleet
    organization: str
    keys: Keys
    now: datetime
    entries: list[tuple[tuple[object, ...], PlanEntry]] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    owners: dict[str, str] = field(default_factory=dict)

    def own(self, bases: list[Tracked]) -> None:
        """Whose each target repo is, over every base by every recipe and not only those that are due now.

        Of two bases of one name it is the one whose release is there or on its way, else the first.
        """
        rivals: dict[str, list[tuple[Tracked, Recipe]]] = {}
        for base in bases:
            for recipe in self.recipes.usable:
                if base.steps and _unfit(base, recipe) is None:
                    for name in {base.repo_id, base.steps[-1].repo_id}:
                        rivals.setdefault(self._target(name, recipe), []).append((base, recipe))
        for target, pairs in rivals.items():
            owner = pairs[0] if len(pairs) == 1 else min(pairs, key=lambda pair: self._rank(*pair))
            self.owners[target] = owner[0].repo_id

    def _rank(self, base: Tracked, recipe: Recipe) -> int:
        """The less, the more a target is this base's. What a person does not want holds no place."""
        states = [self._status(step, recipe).state for step in base.steps]
        if any(each in CLAIMING for each in states):
            return 0
        return 2 if states[-1] in ("refused", "skipped") else 1

    def consider(self, base: Tracked) -> None:
        for name, why in self.recipes.unusable.items():
            self._skip(base, name, "unusable_recipe", why)
        for recipe in self.recipes.usable:
            if reason := _unfit(base, recipe):
                self._skip(base, recipe.name, *reason)
            else:
                self._pair(base, recipe)

    def _skip(
        self,
        base: Tracked,
        recipe: str,
        code: str,
        reason: str,
        key: str | None = None,
        until: datetime | None = None,
    ) -> None:
        self.skips.append(
            Skip(base=base.repo_id, recipe=recipe, code=code, reason=reason, key=key, until=until)
        )

    def _pair(self, base: Tracked, recipe: Recipe) -> None:
        *earlier, newest = base.steps
        wanted = self._status(newest, recipe)
        if newest.repo_id != base.repo_id and wanted.state == "planned":
            wanted = self._status(newest.model_copy(update={"repo_id": base.repo_id}), recipe)
        if not self._is_open(wanted):
            code = wanted.state if wanted.queued_by is None or wanted.state != "planned" else "queued"
            detail = wanted.detail or (f"in the matrix of run {wanted.queued_by}" if code == "queued" else "")
            return self._skip(base, recipe.name, code, detail, wanted.key, wanted.until)
        # One whose publishing failed for good is quarantined by now, and holds nothing up.
        before = (self._status(step, recipe) for step in reversed(earlier))
        last = next((e for e in before if e.state in ("published", "waiting_for_publisher")), None)
        if last and last.state == "waiting_for_publisher":
            reason = "the release of its earlier side files is being published: a metadata release follows"
            return self._skip(base, recipe.name, "waiting_for_publisher", reason, wanted.key)
        return self._enter(base, recipe, wanted, last.key if last else None)

    def _status(self, step: Step, recipe: Recipe) -> ReleaseStatus:
        pair = Pair(
            key=self.keys.of(step.repo_id, step.revision, recipe),
            base=step.repo_id,
            revision=step.revision,
            recipe=recipe.name,
            target_repo=self._target(step.repo_id, recipe),
        )
        return ledger.status(pair, self.world, self.now)

    def _target(self, repo_id: str, recipe: Recipe) -> str:
        return f"{self.organization}/{repo_id.split('/')[1]}-{recipe.repo_suffix}"

    def _is_open(self, found: ReleaseStatus) -> bool:
        """Whether a job may start: nothing of it is there, or its weights are staged and it has no card."""
        if found.queued_by is not None:
            return False
        return found.state == "planned" or (found.state == "staged" and self.world.cards is not None)

    def _enter(self, base: Tracked, recipe: Recipe, wanted: ReleaseStatus, public: str | None) -> None:
        target = self._target(wanted.base, recipe)
        owner = self.owners.get(target, base.repo_id)
        if owner != base.repo_id:
            reason = f"{target} is where the release of {owner} goes: two bases of one name"
            return self._skip(base, recipe.name, "target_taken", reason, wanted.key)
        kind: Kind = "metadata" if public else "release"
        need = needs.OF_METADATA if public else needs.of_release(recipe, base.num_parameters)
        runner = self.fleet.pick(need)
        if not isinstance(runner, RunnerClass):
            return self._skip(base, recipe.name, "no_runner", str(runner), wanted.key)
        there = self.world.targets.get(target)
        entry = PlanEntry(
            key=wanted.key,
            base=wanted.base,
            revision=wanted.revision,
            recipe=recipe.name,
            kind=kind,
            runs_on=list(runner.labels),
            timeout_minutes=METADATA_MINUTES if public else runner.timeout_minutes,
            runner_class=runner.name,
            target_repo=target,
            predecessor=public or (min(there.keys) if there and there.keys else None),
            why=_why(wanted, kind),
        )
        age = -base.modified_at.timestamp() if base.modified_at else 0.0
        self.entries.append(((kind != "metadata", age, base.repo_id, recipe.name), entry))
        return None


def _unfit(base: Tracked, recipe: Recipe) -> tuple[str, str] | None:
    """Why the recipe is not for this base, by what watching knows of it."""
    if base.model_type is None:
        return "unknown_type", "the Hub does not tell its model_type (yet)"
    refusal = recipe.applies_to.refusal(
        model_type=base.model_type, architectures=base.architectures, num_parameters=base.num_parameters
    )
    return ("not_applicable", refusal) if refusal else None


def _why(wanted: ReleaseStatus, kind: Kind) -> str:
    if wanted.state == "staged":
        return f"its weights are staged, its card is missing: {wanted.detail}"
    if wanted.num_attempts:
        return f"tried {wanted.num_attempts}× before, stopped by the infrastructure"
    return "only side files changed since the published release" if kind == "metadata" else "not made yet"
