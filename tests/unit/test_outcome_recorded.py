"""How a release's run ended, told to its last job: what is recorded, and what only looks like a failure."""

from __future__ import annotations

import argparse
import contextlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cards import golden

from bot import cli, commands_workflow, outcome
from bot import lease as leases
from bot.edges.state_folder import FolderState
from bot.errors import InfrastructureError, InputError, NoPublisher, Refused, Stopped
from bot.lease import Work
from bot.models import write_json
from bot.outcome import Failure, JobResult
from bot.state import Attempts, attempts_path, load

KEY = "0123456789abcdef"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
WORK = Work(key=KEY, base="Qwen/x", revision="a" * 40, recipe="nvfp4", run_url="")
FAILURE = Failure(stage="prepare", failure_class="infrastructure", what="the Hub failed (503)")


def ended(job: str, result: str, **outputs: str) -> dict[str, JobResult]:
    return {job: JobResult(result=result, outputs=outputs)}


@pytest.fixture
def state(tmp_path: Path) -> FolderState:
    return FolderState(tmp_path / "state")


def test_what_a_job_leaves_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    with pytest.raises(InfrastructureError), outcome.told("prepare"):
        raise InfrastructureError("the Hub failed (503)")
    line = (tmp_path / "output").read_text().removeprefix("failure=").strip()
    assert outcome.failure_in(ended("prepare", "failure", failure=line)) == FAILURE


def test_a_prepare_that_fails_is_recorded_and_holds_nothing(state: FolderState):
    leases.take(state, WORK, holder="7", now=NOW, ttl=timedelta(hours=80))
    results = ended("prepare", "failure", failure=FAILURE.model_dump_json()) | ended("build", "skipped")
    found = outcome.finish(state, WORK, results, holder="7", now=NOW)
    assert (found.recorded, found.given_back) == (FAILURE, True)
    (attempt,) = load(state, attempts_path(KEY), Attempts)[0].attempts
    assert (attempt.stage, attempt.failure_class) == ("prepare", "infrastructure")


def test_one_that_says_it_is_not_due_is_no_attempt(state: FolderState):
    results = ended("prepare", "failure", proceed="false") | ended("build", "skipped")
    assert outcome.finish(state, WORK, results, holder="7", now=NOW).recorded is None
    assert state.list("") == []


def test_one_that_left_no_word_lost_its_runner():
    found = outcome.failure_in(ended("prepare", "cancelled"))
    assert found is not None
    assert (found.stage, found.failure_class) == ("prepare", "infrastructure")


def test_by_hand_the_lease_tells_which_release_it_was(
    state: FolderState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A run that a person starts names no key; its `prepare` may break off before it told one."""
    monkeypatch.setenv("RELEASE_BOT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GITHUB_RUN_ID", "7")
    monkeypatch.setenv("NEEDS", json.dumps({"prepare": {"result": "cancelled", "outputs": {}}}))
    arguments = argparse.Namespace(
        base="Qwen/x@main", recipe="nvfp4", key="", state=tmp_path / "state", json=False
    )
    assert commands_workflow.finish(arguments) == 0
    assert state.list("") == []
    leases.take(state, WORK, holder="6", now=NOW)
    assert commands_workflow.finish(arguments) == 0
    assert state.list("attempts/") == []
    state.delete(f"leases/{KEY}.json", state.read(f"leases/{KEY}.json").version)
    leases.take(state, WORK, holder="7", now=NOW)
    assert commands_workflow.finish(arguments) == 0
    assert state.list("") == [attempts_path(KEY)]


# ── publishing ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, None),
        (NoPublisher("the Hub gives this job no token"), None),
        (Refused("main moved"), "refused"),
        (InputError("the repo is gone"), "input"),
        (InfrastructureError("the Hub failed (503)"), "infrastructure"),
        (Stopped("paused"), "infrastructure"),
        (ZeroDivisionError("x"), "internal"),
    ],
)
def test_how_publishing_ended_is_recorded_but_for_a_missing_publisher(
    state: FolderState, tmp_path: Path, error: Exception | None, expected: str | None
):
    file = tmp_path / "evidence" / "ended.json"
    with contextlib.suppress(Exception), outcome.left(file, "publish"):
        if error:
            raise error
    found = outcome.finish_publishing(state, WORK, file, holder="7", now=NOW)
    assert (found.recorded.failure_class if found.recorded else None) == expected
    assert len(state.list("attempts/")) == (expected is not None)


@pytest.mark.parametrize("text", [None, "", "{}", '{"waits": false}'])
def test_publishing_that_left_no_word_is_the_infrastructure_s(
    state: FolderState, tmp_path: Path, text: str | None
):
    if text is not None:
        (tmp_path / "ended.json").write_text(text)
    outcome.finish_publishing(state, WORK, tmp_path / "ended.json", holder="7", now=NOW)
    (attempt,) = load(state, attempts_path(KEY), Attempts)[0].attempts
    assert (attempt.stage, attempt.failure_class) == ("publish", "infrastructure")
    assert "without a word" in attempt.what


def test_the_commands_of_publish_and_record_fit_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A card whose release is not on the Hub: refused for what it is, and on record under its key."""
    monkeypatch.setenv("RELEASE_BOT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    evidence = golden("nvfp4")
    write_json(tmp_path / "card" / "evidence.json", evidence)
    key, ended = evidence.release.key, tmp_path / "ended.json"
    common = ["--card", str(tmp_path / "card"), "--ended", str(ended)]
    work = ["--work", str(tmp_path / "work"), "--no-collection"]
    assert cli.main(["publish", key, *common, *work]) != 0
    assert cli.main(["finish-publishing", key, *common, "--state", str(tmp_path / "state")]) == 0
    (attempt,) = load(FolderState(tmp_path / "state"), attempts_path(key), Attempts)[0].attempts
    assert (attempt.stage, attempt.base) == ("publish", evidence.release.base.repo_id)
