"""The ledger: what the state's documents say, where a release can be looked at, and what cannot be read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bot import ledger
from bot.edges.state_folder import FolderState
from bot.ledger import CardPull, HubPull, Pair, Records, Target, World
from bot.state import (
    Attempt,
    Attempts,
    Decision,
    Decisions,
    Lease,
    Queued,
    attempts_path,
    decisions_path,
    lease_path,
    save,
)

KEY, OTHER = "0123456789abcdef", "fedcba9876543210"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
PAIR = Pair(key=KEY, base="Qwen/x", revision="a" * 40, recipe="nvfp4", target_repo="o/x-NVFP4")


def attempt(**fields: object) -> Attempt:
    values = {
        "key": KEY, "base": "Qwen/x", "revision": "a" * 40, "recipe": "nvfp4", "stage": "audit",
        "failure_class": "audit", "what": "mtp is missing", "at": NOW, "run_url": "https://g.test/1",
        "run_id": "1",
    }  # fmt: skip
    return Attempt.model_validate({**values, **fields})


def lease(**fields: object) -> Lease:
    values = {
        "key": KEY, "base": "Qwen/x", "revision": "a" * 40, "recipe": "nvfp4", "holder": "run-9",
        "run_url": "https://g.test/9", "taken_at": NOW, "expires_at": NOW + timedelta(hours=1),
    }  # fmt: skip
    return Lease.model_validate({**values, **fields})


def world(records: Records | None = None, **fields: object) -> World:
    values = {"targets": {}, "staged": {}, "cards": {}, "figures": {}, "hub_url": "https://hub.test"}
    return World(records=records or Records(), **{**values, **fields})  # type: ignore[arg-type]


def test_every_document_is_read(tmp_path: Path):
    state = FolderState(tmp_path)
    said = Decision(key=KEY, kind="skip", who="ada", why="x", at=NOW, gates=[])
    save(state, attempts_path(KEY), Attempts(key=KEY, attempts=[attempt()]), version=None)
    save(state, decisions_path(KEY), Decisions(key=KEY, decisions=[said]), version=None)
    save(state, lease_path(KEY), lease(), version=None)
    for n, keys in ((1, [KEY, OTHER]), (2, [KEY])):
        at = NOW + timedelta(hours=n)
        save(state, f"queued/{n}.json", Queued(run_id=str(n), keys=keys, at=at, expires_at=at), version=None)
    found = ledger.read(state)
    assert found.attempts[KEY].attempts == [attempt()]
    assert found.decisions[KEY].decisions == [said]
    assert found.leases[KEY] == lease()
    assert {key: each.run_id for key, each in found.queued.items()} == {KEY: "2", OTHER: "1"}
    assert found.unreadable == {}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"key": "x"}', '{"schema_version": 2}', "\x00"])
def test_what_cannot_be_read_quarantines_its_release_only(tmp_path: Path, text: str):
    state = FolderState(tmp_path)
    state.write(attempts_path(KEY), text, version=None)
    save(state, attempts_path(OTHER), Attempts(key=OTHER, attempts=[]), version=None)
    records = ledger.read(state)
    assert set(records.unreadable) == {KEY}
    found = ledger.status(PAIR, world(records), NOW)
    assert (found.state, found.detail.split(":")[0]) == (
        "quarantined",
        f"attempts/{KEY}.json is not a valid Attempts",
    )


def test_a_status_says_where_to_look():
    found = ledger.status(
        PAIR,
        world(
            Records(attempts={KEY: Attempts(key=KEY, attempts=[attempt()])}),
            targets={"o/x-NVFP4": Target(repo_id="o/x-NVFP4", private=True, keys=frozenset())},
            staged={KEY: HubPull(key=KEY, repo_id="o/x-NVFP4", number=3, status="open")},
            cards={KEY: CardPull(key=KEY, number=4, state="open", url="https://g.test/pull/4")},
            figures={KEY: {"size": "19.5 GiB"}},
        ),
        NOW,
    )
    assert (found.state, found.num_attempts, found.figures) == ("in_review", 1, {"size": "19.5 GiB"})
    assert found.links == {
        "repo": "https://hub.test/o/x-NVFP4",
        "weights": "https://hub.test/o/x-NVFP4/discussions/3",
        "card": "https://g.test/pull/4",
        "run": "https://g.test/1",
    }


def test_why_it_failed_and_who_works_on_it():
    failed = ledger.status(PAIR, world(Records(attempts={KEY: Attempts(key=KEY, attempts=[attempt()])})), NOW)
    assert (failed.state, failed.detail) == ("quarantined", "audit: mtp is missing")
    passing = attempt(failure_class="infrastructure", what="the disk is full")
    waits = ledger.status(PAIR, world(Records(attempts={KEY: Attempts(key=KEY, attempts=[passing])})), NOW)
    assert waits.state == "failed"
    assert "the disk is full; again at 2026-11-21 12:15 UTC" in waits.detail
    building = ledger.status(PAIR, world(Records(leases={KEY: lease()})), NOW)
    assert (building.state, building.links) == ("building", {"run": "https://g.test/9"})
    assert "run-9" in building.detail


def test_a_failed_publish_shows_over_a_merged_card():
    merged = {KEY: CardPull(key=KEY, number=4, state="merged", url="u")}
    waiting = ledger.status(PAIR, world(cards=merged), NOW)
    assert waiting.state == "waiting_for_publisher"
    records = Records(
        attempts={KEY: Attempts(key=KEY, attempts=[attempt(stage="publish", failure_class="refused")])}
    )
    assert ledger.status(PAIR, world(records, cards=merged), NOW).state == "quarantined"


def test_a_publish_that_may_pass_waits_and_says_why():
    """Nothing but a person or a later run publishes it: back-off is for what ticks start again."""
    merged = {KEY: CardPull(key=KEY, number=4, state="merged", url="u")}
    for num in (1, 4):
        passing = attempt(stage="publish", failure_class="infrastructure", what="the Hub failed (503)")
        tried = {KEY: Attempts(key=KEY, attempts=[passing] * num)}
        found = ledger.status(PAIR, world(Records(attempts=tried), cards=merged), NOW)
        assert found.state == "waiting_for_publisher"
        assert found.detail == "pull request 4 is merged; publish: the Hub failed (503)"
    final = attempt(stage="publish", failure_class="refused", at=NOW - timedelta(hours=1))
    tried = {KEY: Attempts(key=KEY, attempts=[final, passing])}
    assert ledger.status(PAIR, world(Records(attempts=tried), cards=merged), NOW).state == "quarantined"


def test_what_is_public_counts_most():
    targets = {"o/x-NVFP4": Target(repo_id="o/x-NVFP4", private=False, keys=frozenset({KEY}))}
    said = Decision(key=KEY, kind="refuse", who="ada", why="x", at=NOW, gates=[])
    records = Records(
        attempts={KEY: Attempts(key=KEY, attempts=[attempt()])},
        decisions={KEY: Decisions(key=KEY, decisions=[said])},
        leases={KEY: lease()},
    )
    assert ledger.status(PAIR, world(records, targets=targets), NOW).state == "published"
    assert ledger.status(PAIR, world(records), NOW).state == "refused"


@pytest.mark.parametrize(("minutes", "expected"), [(-1, "refused"), (0, "refused"), (1, "planned")])
def test_only_a_retry_after_the_closing_takes_it_back(minutes: int, expected: str):
    card = CardPull(key=KEY, number=4, state="closed", url="u", closed_at=NOW)
    at = NOW + timedelta(minutes=minutes)
    said = Decision(key=KEY, kind="retry", who="ada", why="x", at=at, gates=[])
    records = Records(decisions={KEY: Decisions(key=KEY, decisions=[said])})
    assert ledger.status(PAIR, world(records, cards={KEY: card}), NOW).state == expected


def test_of_two_pull_requests_of_one_branch_the_newer_counts():
    old, new = (CardPull(key=KEY, number=n, state=s, url="u") for n, s in ((1, "closed"), (2, "open")))  # type: ignore[arg-type]
    assert ledger.newest_cards([new, old]) == {KEY: new}
    assert ledger.status(PAIR, world(cards=ledger.newest_cards([old, new])), NOW).state == "in_review"
