"""What people decided about a release, written down on the state branch: who, why, when."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from bot import naming
from bot.edges.github import Pull
from bot.errors import InputError, Refused
from bot.evidence import Evidence
from bot.review.layout import key_of
from bot.state import Decision, Decisions, State, decisions_path, load, save

MAX_RACES: Final = 8
MAX_KEPT: Final = 200
UNKNOWN: Final = "unknown"


def record(state: State, decision: Decision) -> bool:
    """Add `decision` to its key's; False when it stands there already. Raises Refused after lost races.

    A refusal is one by the moment of the closing, whoever tells it; one by a known person names an unknown's.
    """
    path = decisions_path(decision.key)
    for races_left in reversed(range(MAX_RACES)):
        found, version = load(state, path, Decisions)
        before = found.decisions if found else []
        if any(_same(each, decision) for each in before):
            return False
        kept = [each for each in before if not _names(decision, each)]
        after = Decisions(key=decision.key, decisions=[*kept, decision][-MAX_KEPT:])
        try:
            save(state, path, after, version=version)
            return True
        except Refused:
            if not races_left:
                raise
    raise AssertionError("unreachable")


def _same(one: Decision, other: Decision) -> bool:
    """Whether `other` says nothing that `one` does not say."""
    if one.kind == other.kind == "refuse":
        return one.at == other.at and (one.who == other.who or one.who != UNKNOWN)
    return (one.kind, one.who, one.at, one.gates) == (other.kind, other.who, other.at, other.gates)


def _names(one: Decision, other: Decision) -> bool:
    """Whether `one` is the same refusal as `other`, which did not know whose it was."""
    return one.kind == other.kind == "refuse" and one.at == other.at and other.who == UNKNOWN


def newest(state: State, key: str) -> Literal["refuse", "skip", "retry"] | None:
    """The newest word of a person about `key`: no, not now, or once more."""
    found, _ = load(state, decisions_path(key), Decisions)
    said = [each for each in (found.decisions if found else []) if each.kind in ("refuse", "skip", "retry")]
    return max(said, key=lambda each: each.at).kind if said else None  # type: ignore[return-value]


def retried_since(state: State, key: str, at: datetime) -> bool:
    """Whether a person said retry after `at`."""
    found, _ = load(state, decisions_path(key), Decisions)
    return any(each.kind == "retry" and each.at > at for each in (found.decisions if found else []))


def knows_override(state: State, evidence: Evidence) -> bool:
    """Whether the evidence's override, if any, is on record: evidence is a file that people can edit."""
    override = evidence.gates.override
    if override is None:
        return True
    found, _ = load(state, decisions_path(evidence.release.key), Decisions)
    return any(
        (each.kind, each.who, each.why, each.gates)
        == ("override", override.who, override.why, override.gates)
        for each in (found.decisions if found else [])
    )


def release_of(pull: Pull) -> str:
    """The key that a card's pull request is for. Raises InputError for another pull request, or a fork's."""
    key = key_of(pull.branch)
    if key is None or not pull.same_repo:
        raise InputError(
            f"pull request {pull.number} is no card's",
            where=pull.url,
            why="a card's branch is release/<key> and lies in this repository, not in a fork",
            fix=f"a branch of this repository, as in {naming.branch('0' * naming.KEY_LENGTH)}",
        )
    return key
