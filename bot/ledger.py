"""What became of each release, told from the Hub, GitHub and the state; nothing here asks any of them.

The facts come in as plain values (`World`); `status` puts them in order. Where they disagree, what is public
counts most, then what a person said, then what is under way, then how it failed. The plan, the dashboard and
`release-bot status` read the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from bot import attempts as tries
from bot import log
from bot.attempts import Standing
from bot.errors import InputError
from bot.lease import expired
from bot.models import Model
from bot.state import Attempts, D, Decision, Decisions, Lease, Queued, State, Unchanged, load

ReleaseState = Literal[
    "planned",
    "building",
    "staged",
    "in_review",
    "published",
    "refused",
    "quarantined",
    "failed",
    "waiting_for_publisher",
    "skipped",
    "nothing_to_change",
]
Kind = Literal["release", "metadata"]


class ReleaseStatus(Model):
    """One base by one recipe, as the dashboard shows it. `until`: when a failed one is tried again.

    `kind` is metadata where the weights of an earlier step are public: only side files are to be published.
    """

    key: str
    base: str
    revision: str
    recipe: str
    kind: Kind
    state: ReleaseState
    detail: str
    num_attempts: int
    until: datetime | None
    queued_by: str | None
    links: dict[str, str]
    figures: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A base at a commit, by a recipe; `earlier` are its steps since the same weights, by that recipe."""

    key: str
    base: str
    revision: str
    recipe: str
    target_repo: str
    earlier: tuple[Pair, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CardPull:
    """The card's pull request on GitHub, the newest of its branch `release/<key>`.

    `closed_at`: when it was closed or merged, if it is known.
    """

    key: str
    number: int
    state: Literal["open", "merged", "closed"]
    url: str
    closed_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class HubPull:
    """The weights' pull request on the Hub, opened by one of us (`bot.hubpulls`)."""

    key: str
    repo_id: str
    number: int
    status: str


@dataclass(frozen=True, kw_only=True)
class Target:
    """A repo of ours on the Hub; `keys` are those that its card on main is tagged with."""

    repo_id: str
    private: bool
    keys: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Records:
    """The state's documents by key. `unreadable` says of a key why its document does not hold."""

    attempts: Mapping[str, Attempts] = field(default_factory=dict)
    decisions: Mapping[str, Decisions] = field(default_factory=dict)
    leases: Mapping[str, Lease] = field(default_factory=dict)
    queued: Mapping[str, Queued] = field(default_factory=dict)
    unchanged: Mapping[str, Unchanged] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class World:
    """All that is known outside of the bases. `cards` is None where GitHub was not asked (a local run)."""

    records: Records
    targets: Mapping[str, Target]
    staged: Mapping[str, HubPull]
    cards: Mapping[str, CardPull] | None
    figures: Mapping[str, dict[str, str]]
    hub_url: str


def read(state: State) -> Records:
    """Every document that tells of a release; one that does not hold is told by its key."""
    unreadable: dict[str, str] = {}
    leases = _documents(state, "leases/", Lease, unreadable)
    queues = _documents(state, "queued/", Queued, unreadable)
    return Records(
        attempts=_documents(state, "attempts/", Attempts, unreadable),
        decisions=_documents(state, "decisions/", Decisions, unreadable),
        leases=leases,
        queued={key: each for each in sorted(queues.values(), key=lambda q: q.at) for key in each.keys},
        unchanged=_documents(state, "unchanged/", Unchanged, unreadable),
        unreadable=unreadable,
    )


def _documents(state: State, prefix: str, model: type[D], unreadable: dict[str, str]) -> dict[str, D]:
    found: dict[str, D] = {}
    for path in state.list(prefix):
        stem = path.removeprefix(prefix).removesuffix(".json")
        try:
            document, _ = load(state, path, model)
        except InputError as e:
            log.warning(e.what)
            unreadable[stem] = e.what
        else:
            if document is not None:
                found[stem] = document
    return found


Told = tuple[ReleaseState, str] | None
_NOTHING: tuple[ReleaseState, str] = ("planned", "")


# ── one release ────────────────────────────────────────────────────────────────────────────


def status(pair: Pair, world: World, now: datetime) -> ReleaseStatus:
    """What became of `pair`."""
    key, records = pair.key, world.records
    decisions = records.decisions[key].decisions if key in records.decisions else []
    tried = records.attempts[key].attempts if key in records.attempts else []
    standing = tries.standing(tried, decisions, now)
    state, detail = (
        _unreadable(key, records)
        or _public(pair, world)
        or _by_person(pair, world, decisions)
        or _under_review(pair, world, standing)
        or _nothing_to_change(pair, records, decisions)
        or _under_way(pair, world, standing, now)
        or _failed(standing)
        or _NOTHING
    )
    queue = records.queued.get(key)
    return ReleaseStatus(
        key=key,
        base=pair.base,
        revision=pair.revision,
        recipe=pair.recipe,
        kind="metadata" if _is_public(pair.earlier, world, now) else "release",
        state=state,
        detail=detail,
        num_attempts=standing.num_attempts,
        until=standing.until if state == "failed" else None,
        queued_by=queue.run_id if queue and waits_in(queue, key, records, now) else None,
        links=_links(pair, world, standing),
        figures=dict(world.figures.get(key, {})),
    )


def _is_public(earlier: Iterable[Pair], world: World, now: datetime) -> bool:
    return any(status(each, world, now).state == "published" for each in earlier)


def _unreadable(key: str, records: Records) -> Told:
    """What cannot be read is not guessed at: a person has to mend it."""
    return ("quarantined", records.unreadable[key]) if key in records.unreadable else None


def _public(pair: Pair, world: World) -> Told:
    target = world.targets.get(pair.target_repo)
    if target is None or pair.key not in target.keys:
        return None
    if target.private:
        return "waiting_for_publisher", "its card is on the Hub's main, and the repo is still private"
    return "published", ""


def _by_person(pair: Pair, world: World, decisions: list[Decision]) -> Told:
    """The newest of refuse, skip and retry counts; a closed pull request is a refusal until a later retry."""
    said = [each for each in decisions if each.kind in ("refuse", "skip", "retry", "approve")]
    last = max(said, key=lambda each: each.at) if said else None
    if last and last.kind == "refuse":
        return "refused", f"by {last.who}: {last.why}"
    if last and last.kind == "skip":
        return "skipped", f"by {last.who}: {last.why}"
    card = world.cards.get(pair.key) if world.cards else None
    closed_at = card.closed_at if card and card.state == "closed" else None
    if last and last.kind == "retry" and (closed_at is None or last.at > closed_at):
        return None
    if card and card.state == "closed":
        return "refused", f"pull request {card.number} was closed without merging"
    staged = world.staged.get(pair.key)
    if staged and staged.status == "closed" and not (card and card.state == "merged"):
        return "refused", f"pull request {staged.number} of {staged.repo_id} was closed"
    return None


def _under_review(pair: Pair, world: World, standing: Standing) -> Told:
    card = world.cards.get(pair.key) if world.cards else None
    if card is None or card.state == "closed":
        return None
    if card.state == "open":
        return "in_review", f"pull request {card.number}"
    if later := _later(pair, card, world):
        return "published", f"and replaced since by release {later.key}"
    if standing.is_final:
        return _failed(standing)
    why = f"; {standing.last.stage}: {standing.last.what}" if standing.last else ""
    return "waiting_for_publisher", f"pull request {card.number} is merged{why}"


def _nothing_to_change(pair: Pair, records: Records, decisions: list[Decision]) -> Told:
    """A metadata release whose side files were public already, unless a person said retry since."""
    found = records.unchanged.get(pair.key)
    if found is None or any(each.kind == "retry" and each.at > found.at for each in decisions):
        return None
    return "nothing_to_change", f"{pair.target_repo} has these side files, by release {found.predecessor}"


def _later(pair: Pair, card: CardPull, world: World) -> CardPull | None:
    """The card that took the place of this one on the Hub's main: only the newest key is told there."""
    target = world.targets.get(pair.target_repo)
    there = [(world.cards or {}).get(key) for key in target.keys] if target else []
    return next((each for each in there if each and each.number > card.number), None)


def _under_way(pair: Pair, world: World, standing: Standing, now: datetime) -> Told:
    lease = world.records.leases.get(pair.key)
    if lease and not expired(lease, now):
        return "building", f"by {lease.holder}, at it since {lease.taken_at:%Y-%m-%d %H:%M} UTC"
    staged = world.staged.get(pair.key)
    if staged and staged.status in ("open", "draft", "merged"):
        return _failed(standing) or ("staged", f"pull request {staged.number} of {staged.repo_id}")
    return None


def _failed(standing: Standing) -> Told:
    if standing.state == "clear" or standing.last is None:
        return None
    what = f"{standing.last.stage}: {standing.last.what}"
    if standing.state == "quarantined":
        failed = standing.last.failure_class
        return "quarantined", what if failed == standing.last.stage else f"{failed} in {what}"
    return "failed", f"{what}; again at {standing.until:%Y-%m-%d %H:%M} UTC"


def waits_in(queue: Queued, key: str, records: Records, now: datetime) -> bool:
    """Whether a run's matrix holds this key: not once its job failed, a person said retry, or time is up."""
    tried = records.attempts[key].attempts if key in records.attempts else []
    said = records.decisions[key].decisions if key in records.decisions else []
    ended = [each.at for each in tried] + [each.at for each in said if each.kind == "retry"]
    return now < queue.expires_at and not any(at >= queue.at for at in ended)


def _links(pair: Pair, world: World, standing: Standing) -> dict[str, str]:
    found = {}
    if pair.target_repo in world.targets:
        found["repo"] = f"{world.hub_url}/{pair.target_repo}"
    if staged := world.staged.get(pair.key):
        found["weights"] = f"{world.hub_url}/{staged.repo_id}/discussions/{staged.number}"
    if world.cards and (card := world.cards.get(pair.key)):
        found["card"] = card.url
    lease = world.records.leases.get(pair.key)
    run = lease.run_url if lease else standing.last.run_url if standing.last else ""
    return {**found, "run": run} if run else found


def newest_cards(pulls: Iterable[CardPull]) -> dict[str, CardPull]:
    """Of several pull requests of one branch the newest counts."""
    return {each.key: each for each in sorted(pulls, key=lambda each: each.number)}
