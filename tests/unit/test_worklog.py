"""Work under a lease: every end of it is told by the state, and in the right class."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bot import lease as leases
from bot import log, worklog
from bot.edges.state_folder import FolderState
from bot.errors import AuditFailed, InfrastructureError, Refused
from bot.lease import Work
from bot.state import PAUSED, Attempts, Paused, attempts_path, lease_path, load, save

KEY = "0123456789abcdef"
WORK = Work(key=KEY, base="Qwen/x", revision="a" * 40, recipe="nvfp4", run_url="https://github.test/runs/1")


@pytest.fixture
def state(tmp_path: Path) -> FolderState:
    return FolderState(tmp_path)


def recorded(state: FolderState) -> list[tuple[str, str, str]]:
    found, _ = load(state, attempts_path(KEY), Attempts)
    return [(each.stage, each.failure_class, each.what) for each in found.attempts] if found else []


def run(state: FolderState, error: BaseException | None, holder: str = "run-1") -> None:
    with worklog.recorded(state, WORK, holder=holder, stage=lambda: "quantize"):
        if error:
            raise error


def test_what_goes_well_leaves_nothing(state: FolderState):
    run(state, None)
    assert state.list("") == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InfrastructureError("the disk is full"), ("quantize", "infrastructure", "the disk is full")),
        (AuditFailed("mtp is missing"), ("quantize", "audit", "mtp is missing")),
        (Refused("the base moved"), ("quantize", "refused", "the base moved")),
        (ZeroDivisionError("x"), ("quantize", "internal", "ZeroDivisionError: x")),
        (KeyboardInterrupt(), ("quantize", "infrastructure", "KeyboardInterrupt: ")),
    ],
)
def test_what_fails_is_an_attempt_and_the_lease_is_given_back(state: FolderState, error, expected):
    with pytest.raises(type(error)):
        run(state, error)
    assert recorded(state) == [expected]
    assert state.list("leases/") == []


def test_one_that_is_turned_away_leaves_no_trace(state: FolderState):
    leases.take(state, WORK, holder="run-2", now=datetime.now(UTC))
    before = state.read(lease_path(KEY))
    with pytest.raises(Refused, match="worked on by run-2"):
        run(state, None)
    assert (recorded(state), state.read(lease_path(KEY))) == ([], before)


def test_one_that_lost_its_lease_records_nothing(state: FolderState):
    def work() -> None:
        ttl = timedelta(seconds=0.2)
        with worklog.recorded(state, WORK, holder="run-1", stage=lambda: "upload", ttl=ttl) as held:
            state.delete(lease_path(KEY), state.read(lease_path(KEY)).version)
            leases.take(state, WORK, holder="run-2", now=datetime.now(UTC))
            _wait(held)
            held.check()

    with pytest.raises(Refused, match="is lost"):
        work()
    assert recorded(state) == []
    assert state.read(lease_path(KEY)) is not None


def _wait(held: leases.Held) -> None:
    for _ in range(1000):
        if held.lost:
            return
        time.sleep(0.005)
    raise AssertionError("the loss was not noticed")


def test_a_paused_bot_starts_no_work(state: FolderState):
    save(state, PAUSED, Paused(who="ada", why="x", at=datetime.now(UTC)), version=None)
    with pytest.raises(Refused, match="paused"):
        run(state, None)
    assert state.list("") == []


def test_a_secret_in_an_error_is_not_recorded(state: FolderState):
    log.hide("hf_very_secret_token")
    with pytest.raises(InfrastructureError):
        run(state, InfrastructureError("403 for hf_very_secret_token\x1b[31m"))
    assert "hf_very_secret_token" not in recorded(state)[0][2]
    assert "\x1b" not in recorded(state)[0][2]


def test_a_failure_that_cannot_be_recorded_still_shows(state: FolderState, monkeypatch):
    def away(*_: object) -> None:
        raise InfrastructureError("GitHub is away")

    monkeypatch.setattr("bot.attempts.record", away)
    with pytest.raises(AuditFailed):
        run(state, AuditFailed("mtp is missing"))


def test_a_runs_address(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.test")
    monkeypatch.setenv("GITHUB_REPOSITORY", "o/r")
    monkeypatch.setenv("GITHUB_RUN_ID", "7")
    assert (worklog.run_id(), worklog.run_url()) == ("7", "https://github.test/o/r/actions/runs/7")
    monkeypatch.delenv("GITHUB_RUN_ID")
    assert worklog.run_url() == ""
    assert worklog.run_id().startswith("by-hand-")
