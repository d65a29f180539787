"""`run --on hf-jobs:…` with the real client and real processes, on an embedded Hub that runs jobs."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from bot import commands_fleet, jobside, localhub, naming
from bot import job as jobs
from bot.config import Config
from bot.edges import hf_jobs
from bot.edges.hub import Hub
from bot.errors import InfrastructureError, InputError, Interrupted, Stopped, UsageError
from bot.job import Job

pytestmark = pytest.mark.contract
ROOT = Path(__file__).resolve().parents[2]
BASE = "Qwen/Qwen3.5-tiny"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, without_xet: None) -> Iterator[localhub.Running]:
    """A Hub with the tiny base and empty stand-ins of the data sets that the recipe names."""
    with localhub.running(tmp_path_factory.mktemp("hub"), options=("--run-jobs",)) as running:
        api = HfApi(endpoint=running.url, token=running.token)
        api.create_repo(BASE)
        api.upload_folder(repo_id=BASE, folder_path=ROOT / "tests/fixtures/qwen3.5-tiny")
        for each in jobs.load_recipe("gptq-w4a16-g128", {}).sets():
            api.create_repo(each.dataset, repo_type="dataset", exist_ok=True)
        yield running


@pytest.fixture
def prepared(server: localhub.Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A release of its own organization, so that no test finds another's work."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", server.token)
    hub = Hub(embedded=True, endpoint=server.url, token=server.token)
    config = Config(organization=f"org-{secrets.token_hex(4)}", home=tmp_path / "home")
    recipe = jobs.load_recipe("gptq-w4a16-g128", {})
    return jobs.prepare(BASE, recipe, {}, hub, config, tmp_path / "work")


def staged(job: Job) -> None:
    """The release is on the Hub already: a job that finds it so has nothing to quantize, and ends well."""
    job.hub.create_private(job.release.target_repo)
    job.hub.api.create_commit(
        job.release.target_repo,
        [CommitOperationAdd("model.safetensors", b"w" * 100)],
        commit_message=naming.commit_title(job.release.key, job.release.base, job.release.recipe_name),
        create_pr=True,
    )


def test_a_job_makes_the_release_and_its_results_come_back(
    prepared: Job, capfd: pytest.CaptureFixture[str]
) -> None:
    staged(prepared)
    shutil.rmtree(prepared.workspace.root / "evidence")
    found = hf_jobs.run(prepared, flavor="l40sx1", until="card", overrides={})
    assert found.key == prepared.release.key
    assert found.brought_back == ["evidence/base.json", "job.json"]
    assert prepared.workspace.release() == prepared.release
    assert prepared.workspace.evidence("base").is_file()
    said = capfd.readouterr().err
    assert "staged already" in said, "the job's log was followed"
    assert jobside.MARK not in said
    pulls = {each.title: each.status for each in prepared.hub.pull_requests(found.target_repo)}
    (work,) = [title for title in pulls if title.startswith("Work of")]
    assert pulls.pop(work) == "closed"
    assert list(pulls.values()) == ["open"], "the release's own pull request is left alone"
    info = prepared.hub.api.inspect_job(job_id=found.job_id)
    token = prepared.hub.api.token
    assert str(token) not in str(info.command) + str(info.environment) + str(info.labels)
    assert info.secrets == {"HF_TOKEN": "***"}
    assert str(token) not in said


def test_the_command_prints_what_came_back(prepared: Job, capsys: pytest.CaptureFixture[str]) -> None:
    staged(prepared)
    code = commands_fleet.run_on("hf-jobs:l40sx1", prepared, until="card", overrides={}, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert code == 0
    assert found["key"] == prepared.release.key
    assert found["brought_back"]


def test_the_job_gets_the_token_that_is_meant_for_it(prepared: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that nobody has: the job is refused by the Hub, and ends as the bot's own error."""
    staged(prepared)
    monkeypatch.setenv("RELEASE_BOT_JOBS_TOKEN", "hf_of_nobody_at_all")
    with pytest.raises(InputError, match="exit code 3"):
        hf_jobs.run(prepared, flavor="l40sx1", until=None, overrides={})


def test_a_run_that_fails_there_fails_alike_here(prepared: Job) -> None:
    broken = replace(prepared, release=prepared.release.model_copy(update={"recipe_name": "no-such"}))
    with pytest.raises(UsageError, match="exit code 2"):
        hf_jobs.run(broken, flavor="l40sx1", until=None, overrides={})


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("raise SystemExit(0)", InfrastructureError),
        ("import os; os.kill(os.getpid(), 9)", InfrastructureError),
        ('print(\'release-bot-job-ended {"nonce": "x", "exit_code": 0}\')', InfrastructureError),
        ("print('release-bot-job-ended []')", InfrastructureError),
    ],
)
def test_a_job_that_does_not_say_how_it_ended_is_not_believed(
    prepared: Job, monkeypatch: pytest.MonkeyPatch, code: str, error: type[Exception]
) -> None:
    monkeypatch.setattr(hf_jobs, "_launcher", lambda _: [sys.executable, "-c", code])
    with pytest.raises(error, match="before the run did"):
        hf_jobs.run(prepared, flavor="l40sx1", until=None, overrides={})


def test_a_running_job_is_followed_and_not_paid_twice(prepared: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """...and once it is cancelled, whoever follows it is told."""
    code = "import time; print('up', flush=True); time.sleep(600)"
    monkeypatch.setattr(hf_jobs, "_launcher", lambda _: [sys.executable, "-c", code])
    ends: list[Exception] = []

    def follow() -> None:
        try:
            hf_jobs.run(prepared, flavor="l40sx1", until=None, overrides={})
        except Interrupted as e:
            ends.append(e)

    threads = [threading.Thread(target=follow) for _ in range(2)]
    api = prepared.hub.api
    labels = {hf_jobs.LABEL: prepared.release.key}
    before = len(list(api.list_jobs(labels=labels, namespace="release-bot")))
    threads[0].start()
    deadline = time.monotonic() + 30
    while not (running := list(api.list_jobs(status="RUNNING", labels=labels, namespace="release-bot"))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    threads[1].start()
    time.sleep(1)
    everything = list(api.list_jobs(labels=labels, namespace="release-bot"))
    api.cancel_job(job_id=running[0].id)
    for thread in threads:
        thread.join(timeout=60)
    assert len(everything) == before + 1
    assert len(ends) == 2


def test_what_a_job_brings_is_data(prepared: Job) -> None:
    """Only the names that a work folder has are written, and nothing outside of it."""
    hub, release = prepared.hub, prepared.release
    hub.create_private(release.target_repo)
    names = ["job.json", "evidence/measure.json", "evidence/x.sh", "checkpoint/model.safetensors", ".lock"]
    content = [CommitOperationAdd(f"work/{name}", b"{}") for name in names]
    content.append(CommitOperationAdd("job.json", b"x"))
    hub.api.create_commit(release.target_repo, content, commit_message="Work", create_pr=True)
    work = prepared.workspace.root.parent / "fetched"
    assert hf_jobs.fetch(hub, release.target_repo, "Work", work) == ["evidence/measure.json", "job.json"]
    assert sorted(p.name for p in work.rglob("*") if p.is_file()) == ["job.json", "measure.json"]
    assert (work / "job.json").read_bytes() == b"{}"
    assert hf_jobs.fetch(hub, release.target_repo, "Another", work) == []


def carried(hub: Hub, repo_id: str, said: bytes) -> int:
    """A pull request under the title of a job's results."""
    content = [CommitOperationAdd("work/job.json", said)]
    return hub.api.create_commit(repo_id, content, commit_message="Work", create_pr=True).pr_num


def test_a_stranger_s_results_are_not_fetched(tmp_path: Path, without_xet: None) -> None:
    """The target may be public, and the title holds no secret; theirs is the newest here."""
    accounts = {
        "users": {"root": {"admin": True}, "ann": {}, "job": {}, "eve": {}},
        "orgs": {"acme": {"members": {"ann": "write", "job": "contributor"}}},
        "tokens": [{"token": f"hf_{user}", "user": user} for user in ("root", "ann", "job", "eve")],
    }
    (tmp_path / "accounts.json").write_text(json.dumps(accounts))
    with localhub.running(tmp_path / "hub", accounts=tmp_path / "accounts.json", token="hf_root") as running:
        root, ann, job, eve = (
            Hub(embedded=True, endpoint=running.url, token=f"hf_{user}")
            for user in ("root", "ann", "job", "eve")
        )
        root.api.create_repo("acme/x")
        carried(eve, "acme/x", b"evil")
        assert hf_jobs.fetch(ann, "acme/x", "Work", tmp_path / "work") == []
        ours = carried(job, "acme/x", b"{}")
        theirs = carried(eve, "acme/x", b"evil")
        assert hf_jobs.fetch(ann, "acme/x", "Work", tmp_path / "work") == ["job.json"]
        assert (tmp_path / "work" / "job.json").read_bytes() == b"{}"
        assert {e.num: e.status for e in root.pull_requests("acme/x") if e.num in (ours, theirs)} == {
            ours: "closed",
            theirs: "open",
        }


def test_results_are_fetched_while_writing_is_paused_and_stay_open(prepared: Job) -> None:
    def switch() -> None:
        raise Stopped("paused by ann: wait")

    repo_id = prepared.release.target_repo
    prepared.hub.create_private(repo_id)
    carried(prepared.hub, repo_id, b"{}")
    prepared.hub.before_write = switch
    work = prepared.workspace.root.parent / "fetched"
    assert hf_jobs.fetch(prepared.hub, repo_id, "Work", work) == ["job.json"]
    assert [each.status for each in prepared.hub.pull_requests(repo_id)] == ["open"]


@pytest.mark.parametrize(
    "name", ["../x", "evidence/../job.json", "/job.json", "logs/a/b", "logs/..", "card/plots/../../x", "a\n"]
)
def test_hostile_names_are_not_carried(name: str) -> None:
    assert not jobside.is_carried(name)


def test_publishing_is_no_job(prepared: Job) -> None:
    with pytest.raises(UsageError, match="does not publish"):
        hf_jobs.run(prepared, flavor="l40sx1", until="publish", overrides={})


@pytest.mark.parametrize("text", ["hf-jobs", "hf-jobs:", "hf-jobs:l40", "k8s:l40sx1", "hf-jobs:l40sx1;id"])
def test_only_a_known_flavor_is_a_place(text: str) -> None:
    with pytest.raises(UsageError, match="names no place"):
        hf_jobs.parse_target(text)
    assert hf_jobs.parse_target("hf-jobs:l40sx1") == "l40sx1"


# ── the real Hub's job: a clone of the repository ──────────────────────────────────────────


@pytest.fixture
def origin(tmp_path: Path) -> tuple[Path, str]:
    """A repository whose `make setup` makes a Python that prints what it is given."""
    folder = tmp_path / "origin"
    folder.mkdir()
    (folder / "Makefile").write_text(
        "setup:\n\tmkdir -p .venv/bin\n"
        '\tprintf \'#!/bin/sh\\nprintf "%%s|" "$$@"; git rev-parse HEAD\\n\' > .venv/bin/python\n'
        "\tchmod +x .venv/bin/python\n"
    )
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@localhost"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    sha = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    subprocess.run([*git, "commit", "-qm", "two", "--allow-empty"], check=True)
    return folder, sha.stdout.strip()


def test_the_bootstrap_runs_this_repository_at_the_commit_that_was_asked(
    origin: tuple[Path, str], tmp_path: Path
) -> None:
    folder, sha = origin
    hostile = ["key", "$(touch pwned)", "a b;id", "--set", "x='\"`id`"]
    command = ["bash", "-c", hf_jobs.BOOTSTRAP, "release-bot", str(folder), sha, *hostile]
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "TMPDIR": str(scratch)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "|".join(["-m", "bot.jobside", *hostile, sha])
    assert not list(tmp_path.rglob("pwned"))


def test_the_source_is_what_github_says_or_git_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_REPOSITORY", "acme/bot")
    monkeypatch.setenv("GITHUB_SHA", "ab" * 20)
    assert hf_jobs.source() == hf_jobs.Source(url="https://github.com/acme/bot", revision="ab" * 20)
    for sha in ("", "main", "ab" * 20 + "\n"):
        monkeypatch.setenv("GITHUB_SHA", sha)
        with pytest.raises(UsageError, match="cannot fetch"):
            hf_jobs.source()
    monkeypatch.setenv("GITHUB_SHA", "ab" * 20)
    monkeypatch.setenv("GITHUB_REPOSITORY", "acme/bot --upload-pack=id")
    with pytest.raises(UsageError, match="cannot fetch"):
        hf_jobs.source()
