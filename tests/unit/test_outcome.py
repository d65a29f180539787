"""How a run's last job reads what the others left: the first failure, and never more than data."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bot import lease, outcome
from bot.edges.state_folder import FolderState
from bot.errors import AuditFailed, InputError
from bot.lease import Work
from bot.state import Attempts, attempts_path, lease_path, load

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
KEY = "0123456789abcdef"
WORK = Work(key=KEY, base="Qwen/Qwen3.6-27B", revision="a" * 40, recipe="nvfp4", run_url="")


def needs(**jobs: tuple[str, str]) -> dict[str, outcome.JobResult]:
    text = json.dumps({name: {"result": r, "outputs": {"failure": f}} for name, (r, f) in jobs.items()})
    return outcome.read(text)


def failure(stage: str, kind: str = "audit") -> str:
    return json.dumps({"stage": stage, "failure_class": kind, "what": "two tensors are gone"})


@pytest.fixture
def state(tmp_path: Path) -> FolderState:
    return FolderState(tmp_path / "state")


def test_what_fails_is_left_as_one_line_for_the_last_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    with pytest.raises(AuditFailed), outcome.told("audit"):
        raise AuditFailed("two tensors\nproceed=true\nare gone")
    (line,) = (tmp_path / "output").read_text().splitlines()
    found = outcome.Failure.model_validate_json(line.removeprefix("failure="))
    assert (found.stage, found.failure_class) == ("audit", "audit")
    assert "proceed=true" in found.what


def test_an_output_cannot_begin_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    with pytest.raises(ValueError, match="line break"):
        outcome.output(key="a\nproceed=true")
    assert not (tmp_path / "output").exists()


def test_the_first_failure_counts():
    found = outcome.failure_in(needs(build=("failure", failure("repair")), evaluate=("skipped", "")))
    assert found is not None
    assert (found.stage, found.failure_class) == ("repair", "audit")
    assert outcome.failure_in(needs(build=("success", ""), evaluate=("skipped", ""))) is None


@pytest.mark.parametrize("word", ["", "{", '{"stage": "../x", "failure_class": "audit", "what": ""}'])
def test_a_job_without_a_word_lost_its_runner(word: str):
    found = outcome.failure_in(needs(build=("success", ""), evaluate=("cancelled", word)))
    assert found is not None
    assert (found.stage, found.failure_class) == ("evaluate", "infrastructure")


def test_what_is_no_needs_is_refused():
    with pytest.raises(InputError, match="NEEDS"):
        outcome.read('["build"]')


def test_the_run_gives_back_its_own_lease_only(state: FolderState):
    lease.take(state, WORK, holder="1", now=NOW, ttl=timedelta(hours=1))
    passed = needs(build=("success", ""))
    assert not outcome.finish(state, WORK, passed, holder="2", now=NOW).given_back
    assert state.read(lease_path(KEY)) is not None
    assert outcome.finish(state, WORK, passed, holder="1", now=NOW).given_back
    assert state.read(lease_path(KEY)) is None
    assert state.read(attempts_path(KEY)) is None


def test_a_failure_is_an_attempt(state: FolderState):
    lost = needs(build=("failure", failure("quantize", "backend")))
    found = outcome.finish(state, WORK, lost, holder="1", now=NOW)
    assert found.recorded is not None
    attempts, _ = load(state, attempts_path(KEY), Attempts)
    assert attempts is not None
    assert [(each.stage, each.failure_class, each.at) for each in attempts.attempts] == [
        ("quantize", "backend", NOW)
    ]
