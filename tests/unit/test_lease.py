"""The lease: one of two wins, and a run that never ends counts as an attempt."""

from __future__ import annotations

import contextlib
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bot import lease as leases
from bot.edges.state_folder import FolderState
from bot.errors import InfrastructureError, Refused
from bot.lease import GRACE, Work
from bot.state import Attempts, Lease, attempts_path, lease_path, load

KEY = "0123456789abcdef"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
TTL = timedelta(hours=50)
WORK = Work(key=KEY, base="Qwen/x", revision="a" * 40, recipe="nvfp4", run_url="https://github.test/runs/1")


@pytest.fixture
def state(tmp_path: Path) -> FolderState:
    return FolderState(tmp_path)


def test_of_two_runners_one_wins_and_the_other_leaves_no_trace(state: FolderState):
    mine = leases.take(state, WORK, holder="run-1", now=NOW, ttl=TTL)
    before = state.read(lease_path(KEY))
    with pytest.raises(Refused, match="worked on by run-1"):
        leases.take(state, WORK, holder="run-2", now=NOW + timedelta(minutes=1), ttl=TTL)
    assert state.read(lease_path(KEY)) == before
    assert state.list("") == [lease_path(KEY)]
    assert leases.release(state, mine)
    assert state.list("") == []
    assert leases.take(state, WORK, holder="run-2", now=NOW, ttl=TTL).holder == "run-2"


def test_runners_that_race_for_the_same_moment(state: FolderState):
    won = []

    def run(n: int) -> None:
        with contextlib.suppress(Refused):
            won.append(leases.take(state, WORK, holder=f"run-{n}", now=NOW, ttl=TTL))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(12)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(won) == 1
    assert load(state, lease_path(KEY), Lease)[0] == won[0]


def test_a_later_job_of_the_same_run_goes_on_with_its_lease(state: FolderState):
    first = leases.take(state, WORK, holder="run-1", now=NOW, ttl=TTL)
    again = leases.take(state, WORK, holder="run-1", now=NOW + timedelta(minutes=30), ttl=TTL)
    assert again.taken_at == first.taken_at
    assert again.expires_at == NOW + timedelta(minutes=30) + TTL


def test_a_dead_runners_lease_is_taken_over_and_recorded_once(state: FolderState):
    dead = leases.take(state, WORK, holder="run-1", now=NOW, ttl=TTL)
    with pytest.raises(Refused):
        leases.take(state, WORK, holder="run-2", now=NOW + TTL + GRACE, ttl=TTL)
    later = NOW + TTL + GRACE + timedelta(seconds=1)
    assert leases.reap(state, [dead], later) == [dead]
    assert leases.reap(state, [dead], later) == []
    assert state.read(lease_path(KEY)) is None
    leases.take(state, WORK, holder="run-2", now=later, ttl=TTL)
    found = load(state, attempts_path(KEY), Attempts)[0]
    assert [(each.run_id, each.failure_class, each.stage) for each in found.attempts] == [
        ("run-1", "infrastructure", "lease")
    ]
    assert not leases.release(state, dead)
    assert load(state, lease_path(KEY), Lease)[0].holder == "run-2"


def test_taking_over_records_what_was_lost(state: FolderState):
    leases.take(state, WORK, holder="run-1", now=NOW, ttl=TTL)
    leases.take(state, WORK, holder="run-2", now=NOW + 2 * TTL, ttl=TTL)
    assert len(load(state, attempts_path(KEY), Attempts)[0].attempts) == 1


def test_one_that_lives_is_not_reaped(state: FolderState):
    mine = leases.take(state, WORK, holder="run-1", now=NOW, ttl=TTL)
    assert leases.reap(state, [mine], NOW + TTL) == []
    assert state.read(lease_path(KEY)) is not None


def test_one_that_was_taken_anew_since_it_was_read_is_not_deleted(state: FolderState):
    read_then = leases.take(state, WORK, holder="run-1", now=NOW, ttl=TTL)
    leases.take(state, WORK, holder="run-1", now=NOW + TTL, ttl=TTL)
    assert leases.reap(state, [read_then], NOW + 2 * TTL) == []
    assert state.list("") == [lease_path(KEY)]


class Behind(FolderState):
    """A state that reads as it was a while ago, as a snapshot does; what it writes meets what is there."""

    frozen = None

    def read(self, path):
        return self.frozen or super().read(path)

    def _require(self, path, version):
        frozen, self.frozen = self.frozen, None
        super()._require(path, version)
        self.frozen = frozen


def test_one_that_was_taken_anew_behind_a_snapshot_is_neither_deleted_nor_counted(tmp_path: Path):
    state, behind = FolderState(tmp_path), Behind(tmp_path)
    read_then = leases.take(state, WORK, holder="run-1", now=NOW, ttl=TTL)
    behind.frozen = state.read(lease_path(KEY))
    leases.take(state, WORK, holder="run-1", now=NOW + TTL, ttl=TTL)
    assert leases.reap(behind, [read_then], NOW + 2 * TTL) == []
    with pytest.raises(Refused):
        leases.take(behind, WORK, holder="run-2", now=NOW + 2 * TTL, ttl=TTL)
    assert state.list("") == [lease_path(KEY)]


def test_a_loss_is_on_record_before_its_lease_is_gone(tmp_path: Path):
    """A tick that dies between the two must not lose it."""

    class Dying(FolderState):
        def delete(self, path, version):
            raise InfrastructureError("GitHub failed (503)")

    state = FolderState(tmp_path)
    dead = leases.take(state, WORK, holder="run-1", now=NOW, ttl=TTL)
    with pytest.raises(InfrastructureError):
        leases.reap(Dying(tmp_path), [dead], NOW + 2 * TTL)
    assert leases.reap(state, [dead], NOW + 2 * TTL) == [dead]
    assert len(load(state, attempts_path(KEY), Attempts)[0].attempts) == 1
    assert state.read(lease_path(KEY)) is None
