"""Attempts: two retries for the infrastructure's faults, quarantine for all else, forgiveness by a person."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bot import attempts, errors
from bot.attempts import BACKOFF, standing
from bot.edges.state_folder import FolderState
from bot.state import Attempt, Attempts, Decision, attempts_path, load, lost_race

KEY = "0123456789abcdef"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def attempt(kind: str = "infrastructure", *, at: datetime = NOW, run_id: str = "1") -> Attempt:
    return Attempt(
        key=KEY, base="Qwen/x", revision="a" * 40, recipe="nvfp4", stage="quantize", failure_class=kind,
        what="the disk is full", at=at, run_url="https://github.test/runs/1", run_id=run_id,
    )  # fmt: skip


def decision(kind: str, at: datetime) -> Decision:
    return Decision(key=KEY, kind=kind, who="ada", why="", at=at, gates=[])


def test_what_was_never_tried_is_clear():
    assert standing([], [], NOW).state == "clear"


def test_an_infrastructure_fault_is_retried_twice_and_later_each_time():
    tried, at = [], NOW
    for wait in BACKOFF:
        tried.append(attempt(at=at))
        assert standing(tried, [], at + wait - timedelta(seconds=1)).state == "waiting"
        assert standing(tried, [], at).until == at + wait
        assert standing(tried, [], at + wait).state == "clear"
        at += wait
    tried.append(attempt(at=at))
    found = standing(tried, [], at + timedelta(days=30))
    assert (found.state, found.num_attempts) == ("quarantined", 3)
    assert len(BACKOFF) == 2


@pytest.mark.parametrize("kind", ["input", "audit", "gate", "refused", "backend", "internal"])
def test_nothing_else_is_retried(kind: str):
    assert standing([attempt(kind)], [], NOW + timedelta(days=30)).state == "quarantined"
    mixed = [attempt(kind), attempt(at=NOW + timedelta(hours=1))]
    assert standing(mixed, [], NOW + timedelta(days=30)).state == "quarantined"


def test_a_retry_forgives_what_was_before_it_only():
    before, after = attempt("audit"), attempt("audit", at=NOW + timedelta(hours=2))
    forgiven = [decision("retry", NOW + timedelta(hours=1))]
    assert standing([before], forgiven, NOW + timedelta(hours=1)).state == "clear"
    assert standing([before, after], forgiven, NOW + timedelta(hours=3)).state == "quarantined"
    assert standing([before], [decision("approve", NOW)], NOW).state == "quarantined"


def test_an_attempt_is_recorded_once(tmp_path: Path):
    state = FolderState(tmp_path)
    for each in (attempt(), attempt(), attempt(run_id="2")):
        attempts.record(state, each)
    found = load(state, attempts_path(KEY), Attempts)[0]
    assert [each.run_id for each in found.attempts] == ["1", "2"]


class Busy(FolderState):
    """A state that somebody else writes to just before we do, so many times."""

    others = 0

    def write(self, path, text, *, version):
        if self.others:
            self.others -= 1
            raise lost_race(path)
        super().write(path, text, version=version)


def test_recording_survives_others_and_gives_up_in_the_end(tmp_path: Path):
    state = Busy(tmp_path)
    state.others = 3
    assert attempts.record(state, attempt()).attempts == [attempt()]
    state.others = 100
    with pytest.raises(errors.Refused):
        attempts.record(state, attempt(run_id="2"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.InfrastructureError("x"), "infrastructure"),
        (errors.EngineError("hung", "x"), "infrastructure"),
        (errors.Interrupted("x"), "infrastructure"),
        (OSError(28, "No space left on device"), "infrastructure"),
        (errors.InputError("x"), "input"),
        (errors.RecipeError("x"), "input"),
        (errors.AuditFailed("x"), "audit"),
        (errors.NotServable("garbage", "x", log_tail=[]), "gate"),
        (errors.Refused("x"), "refused"),
        (errors.BackendError("x"), "backend"),
        (errors.ReleaseBotError("x"), "internal"),
        (ZeroDivisionError(), "internal"),
    ],
)
def test_an_errors_class_decides(error: BaseException, expected: str):
    assert attempts.failure_class(error) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [(1, "internal"), (2, "input"), (3, "input"), (4, "infrastructure"), (5, "audit"), (6, "gate"),
     (7, "refused"), (130, "infrastructure"), (137, "infrastructure"), (-9, "infrastructure"),
     (99, "internal")],
)  # fmt: skip
def test_a_status_decides_where_nothing_else_is_left(code: int, expected: str):
    assert attempts.class_of_exit_code(code) == expected
