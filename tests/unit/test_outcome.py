"""How a run's last job reads what the others left: what it records, and what only looks like a failure."""

from __future__ import annotations

import argparse
import contextlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cards import golden

from bot import cli, commands_workflow, ledger, outcome
from bot import lease as leases
from bot.edges.state_folder import FolderState
from bot.errors import AuditFailed, InfrastructureError, InputError, NoPublisher, Refused, Stopped
from bot.lease import Work
from bot.ledger import Pair, World
from bot.models import write_json
from bot.outcome import Failure, JobResult
from bot.review import decisions
from bot.state import Attempts, Decision, attempts_path, lease_path, load, unchanged_path

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
KEY, BEFORE = "0123456789abcdef", "fedcba9876543210"
WORK = Work(key=KEY, base="Qwen/Qwen3.6-27B", revision="a" * 40, recipe="nvfp4", run_url="")
FAILURE = Failure(stage="prepare", failure_class="infrastructure", what="the Hub failed (503)")


def ended(job: str, result: str, **outputs: str) -> dict[str, JobResult]:
    """A job's entry in NEEDS, through the JSON that GitHub hands on."""
    return outcome.read(json.dumps({job: {"result": result, "outputs": outputs}}))


def failure(stage: str, kind: str = "audit") -> str:
    return json.dumps({"stage": stage, "failure_class": kind, "what": "two tensors are gone"})


@pytest.fixture
def state(tmp_path: Path) -> FolderState:
    return FolderState(tmp_path / "state")


# ── a job's word ───────────────────────────────────────────────────────────────────────────


def test_what_fails_is_left_as_one_line_and_read_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    with pytest.raises(AuditFailed), outcome.told("audit"):
        raise AuditFailed("two tensors\nproceed=true\nare gone")
    (line,) = (tmp_path / "output").read_text().splitlines()
    found = outcome.failure_in(ended("build", "failure", failure=line.removeprefix("failure=")))
    assert found is not None
    assert (found.stage, found.failure_class) == ("audit", "audit")
    assert "proceed=true" in found.what


def test_an_output_cannot_begin_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    with pytest.raises(ValueError, match="line break"):
        outcome.output(key="a\nproceed=true")
    assert not (tmp_path / "output").exists()


def test_the_first_failure_counts():
    skipped = ended("evaluate", "skipped", failure="")
    found = outcome.failure_in(ended("build", "failure", failure=failure("repair")) | skipped)
    assert found is not None
    assert (found.stage, found.failure_class) == ("repair", "audit")
    assert outcome.failure_in(ended("build", "success", failure="") | skipped) is None


@pytest.mark.parametrize("job", ["prepare", "evaluate"])
@pytest.mark.parametrize("word", [None, "", "{", '{"stage": "../x", "failure_class": "audit", "what": ""}'])
def test_a_job_without_a_word_lost_its_runner(job: str, word: str | None):
    outputs = {} if word is None else {"failure": word}
    found = outcome.failure_in(ended("build", "success") | ended(job, "cancelled", **outputs))
    assert found is not None
    assert (found.stage, found.failure_class) == (job, "infrastructure")


def test_what_is_no_needs_is_refused():
    with pytest.raises(InputError, match="NEEDS"):
        outcome.read('["build"]')


# ── what the last job records ──────────────────────────────────────────────────────────────


def test_the_run_gives_back_its_own_lease_only(state: FolderState):
    leases.take(state, WORK, holder="1", now=NOW, ttl=timedelta(hours=1))
    passed = ended("build", "success", failure="")
    assert not outcome.finish(state, WORK, passed, holder="2", now=NOW).given_back
    assert state.read(lease_path(KEY)) is not None
    assert outcome.finish(state, WORK, passed, holder="1", now=NOW).given_back
    assert state.list("") == []


@pytest.mark.parametrize(
    ("job", "word", "expected"),
    [
        ("prepare", FAILURE.model_dump_json(), ("prepare", "infrastructure")),
        ("build", failure("quantize", "backend"), ("quantize", "backend")),
        ("evaluate", "", ("evaluate", "infrastructure")),  # a runner that died, which GitHub noticed
    ],
)
def test_a_failure_is_an_attempt_and_the_lease_ends_with_it(
    state: FolderState, job: str, word: str, expected: tuple[str, str]
):
    leases.take(state, WORK, holder="7", now=NOW, ttl=timedelta(hours=80))
    results = ended(job, "failure", failure=word) | ended("card", "skipped")
    assert outcome.finish(state, WORK, results, holder="7", now=NOW).given_back
    (attempt,) = load(state, attempts_path(KEY), Attempts)[0].attempts
    assert (attempt.stage, attempt.failure_class, attempt.at) == (*expected, NOW)
    assert state.list("") == [attempts_path(KEY)]


@pytest.mark.parametrize(
    ("path", "results"),
    [
        (attempts_path(KEY), ended("build", "failure", failure=failure("audit"))),
        (
            unchanged_path(KEY),
            ended("prepare", "success", kind="metadata", predecessor=BEFORE)
            | ended("build", "success", ended="nothing_to_change"),
        ),
    ],
)
def test_the_lease_is_given_back_where_nothing_can_be_recorded(
    state: FolderState, path: str, results: dict[str, JobResult]
):
    """What stands there cannot be read; a person mends it, and is not kept waiting for the lease."""
    state.write(path, "{", version=None)
    leases.take(state, WORK, holder="7", now=NOW, ttl=timedelta(hours=80))
    with pytest.raises(InputError):
        outcome.finish(state, WORK, results, holder="7", now=NOW)
    assert state.list("") == [path]


def test_one_that_says_it_is_not_due_is_no_attempt(state: FolderState):
    results = ended("prepare", "failure", proceed="false") | ended("build", "skipped")
    assert outcome.finish(state, WORK, results, holder="7", now=NOW).recorded is None
    assert state.list("") == []


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
    leases.take(state, WORK, holder="6", now=NOW, ttl=timedelta(hours=1))
    assert commands_workflow.finish(arguments) == 0
    assert state.list("attempts/") == []
    state.delete(f"leases/{KEY}.json", state.read(f"leases/{KEY}.json").version)
    leases.take(state, WORK, holder="7", now=NOW, ttl=timedelta(hours=1))
    assert commands_workflow.finish(arguments) == 0
    assert state.list("") == [attempts_path(KEY)]


# ── nothing to change ──────────────────────────────────────────────────────────────────────


def of_metadata(ended_as: str = "nothing_to_change", *, result: str = "success", **prepared: str):
    """NEEDS of a metadata release whose build ended so."""
    told = {"kind": "metadata", "predecessor": BEFORE, **prepared}
    return ended("prepare", "success", **told) | ended("build", result, ended=ended_as)


def status(state: FolderState) -> str:
    pair = Pair(key=KEY, base=WORK.base, revision=WORK.revision, recipe=WORK.recipe, target_repo="o/x")
    world = World(records=ledger.read(state), targets={}, staged={}, cards={}, figures={}, hub_url="")
    return ledger.status(pair, world, NOW).state


def test_a_metadata_release_without_a_change_ends_well_and_is_not_made_again(state: FolderState):
    leases.take(state, WORK, holder="7", now=NOW, ttl=timedelta(hours=1))
    found = outcome.finish(state, WORK, of_metadata(), holder="7", now=NOW)
    assert (found.recorded, found.nothing_to_change, found.given_back) == (None, True, True)
    assert state.list("") == [unchanged_path(KEY)]
    assert status(state) == "nothing_to_change"


def test_a_retry_makes_it_once_more_and_what_that_finds_counts(state: FolderState):
    outcome.finish(state, WORK, of_metadata(), holder="7", now=NOW)
    later = NOW + timedelta(minutes=1)
    decisions.record(state, Decision(key=KEY, kind="retry", who="ann", why="look", at=later, gates=[]))
    assert status(state) == "planned"
    outcome.finish(state, WORK, of_metadata(), holder="8", now=later + timedelta(minutes=1))
    assert status(state) == "nothing_to_change"


@pytest.mark.parametrize(
    "results",
    [
        of_metadata("staged"),
        of_metadata(kind="release"),  # a build of weights runs other people's code: its word is not taken
        of_metadata(predecessor="../x"),
        of_metadata(result="failure"),
        ended("build", "success", ended="nothing_to_change"),
    ],
)
def test_only_a_metadata_release_can_say_so(state: FolderState, results: dict[str, JobResult]):
    assert not outcome.finish(state, WORK, results, holder="7", now=NOW).nothing_to_change
    assert state.list("unchanged/") == []


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


def test_the_commands_of_publish_and_record_fit_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
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
