"""The runners' scripts and unit, run for real in a folder: only the GPU, GitHub and root are stand-ins."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from loopback import Asked, serving

from bot import doctor
from bot.edges import hf_jobs

RUNNERS = Path(__file__).resolve().parents[2] / "runners"
SCRIPTS = sorted(RUNNERS.rglob("*.sh"))
SHEBANGS = (b"#!/usr/bin/env bash", b"#!/bin/bash", b"#!/bin/sh", b"#!/usr/bin/env sh")
JIT = base64.b64encode(b"a just-in-time configuration").decode()


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def shellcheck(*arguments: str, text: str | None = None) -> str:
    beside = Path(sys.executable).parent / "shellcheck"
    command = [str(beside) if beside.exists() else "shellcheck", *arguments]
    done = subprocess.run(
        command, cwd=RUNNERS.parent, input=text, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def starts_a_shell(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(64).startswith(SHEBANGS)


def test_no_shell_script_of_the_repository_is_left_out():
    """`SCRIPTS` is what shellcheck reads below: one elsewhere, or without the ending, would be missed."""
    roots = [each for each in RUNNERS.parent.iterdir() if not each.name.startswith(".")]
    files = [path for each in roots for path in ([each] if each.is_file() else each.rglob("*"))]
    assert sorted(path for path in files if path.is_file() and starts_a_shell(path)) == SCRIPTS
    assert len(SCRIPTS) == 7


def test_a_skipped_check_says_why():
    """In every run's output: `-rs` is on, and no check of a script or unit is skipped without a reason."""
    options = tomllib.loads((RUNNERS.parent / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert "-rs" in options["addopts"].split()
    assert analyze.kwargs["reason"]


def test_shellcheck_finds_nothing():
    assert shellcheck("-x", "-P", ".", *map(str, SCRIPTS)) == ""
    assert shellcheck(str(RUNNERS.parent / ".ci" / "run")) == ""
    assert shellcheck("-s", "bash", "-", text=hf_jobs.BOOTSTRAP) == ""
    assert "SC2086" in shellcheck("-s", "bash", "-", text="x=$1; rm $x"), "it does look"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda each: each.name)
def test_every_script_stops_at_its_first_failure(script: Path):
    text = script.read_text()
    assert "set -euo pipefail" in text
    assert os.access(script, os.X_OK)
    assert "eval " not in text


def test_the_pins_are_whole_and_agree_with_the_doctor():
    lines = (RUNNERS / "runner.env").read_text().splitlines()
    pins = dict(line.split("=", 1) for line in lines if "=" in line)
    assert re.fullmatch(r"2\.\d+\.\d+", pins["RUNNER_VERSION"])
    assert re.fullmatch(r"[0-9a-f]{64}", pins["RUNNER_SHA256_X64"])
    assert int(pins["MIN_DRIVER"]) == doctor.MIN_DRIVER


# ── setup.sh ───────────────────────────────────────────────────────────────────────────────


class Host:
    """A copy of `runners/` with a small class, an archive to install, and GPUs that `nvidia-smi` tells of."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runners = root / "runners"
        self.destdir = root / "host"
        shutil.copytree(RUNNERS, self.runners)
        for name in ("bot", "recipes"):
            (root / name / "__pycache__").mkdir(parents=True)
            (root / name / "file.py").write_text("x = 1\n")
        shutil.copy(RUNNERS.parent / "pyproject.toml", root)
        self.write_class()
        self.gpus("0, 46068, 580.95.05, 8.9", "1, 46068, 580.95.05, 8.9")
        self.digest = self.archive()
        self.pins(self.digest)

    def write_class(self, **changes: object) -> None:
        values = {
            "RUNNER_CLASS": "small",
            "RUNNER_LABELS": "self-hosted,gpu-small",
            "MIN_GPU_MEMORY_MIB": 45056,
            "MIN_COMPUTE_CAPABILITY": "8.9",
            "MIN_MEMORY_GIB": 0,
            "MIN_DISK_GIB": 0,
        }
        text = "".join(f"{k}={v}\n" for k, v in {**values, **changes}.items())
        (self.runners / "classes" / "small.env").write_text(f"# a class\n{text}")

    def gpus(self, *lines: str) -> None:
        program(self.root / "bin", "nvidia-smi", "cat <<'X'\n" + "\n".join(lines) + "\nX")

    def archive(self) -> str:
        content = self.root / "content"
        program(content, "run.sh", 'echo "runs in $PWD with $ACTIONS_RUNNER_INPUT_JITCONFIG"')
        program(content, "bin/installdependencies.sh", "exit 1")
        path = self.root / "v9.9.9" / "actions-runner-linux-x64-9.9.9.tar.gz"
        path.parent.mkdir()
        with tarfile.open(path, "w:gz") as file:
            file.add(content, arcname=".")
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def pins(self, digest: str) -> None:
        (self.root / "pins.env").write_text(
            f"RUNNER_VERSION=9.9.9\nRUNNER_SHA256_X64={digest}\nRUNNER_BASE_URL=file://{self.root}\nMIN_DRIVER=580\n"
        )

    def setup(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        given = arguments or ("--class", "small", "--repo", "acme/bot")
        command = [str(self.runners / "setup.sh"), *given, "--pins", str(self.root / "pins.env")]
        command += ["--destdir", str(self.destdir)]
        path = f"{self.root / 'bin'}:{os.environ['PATH']}"
        return subprocess.run(
            command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
        )


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_machine_is_set_up_and_again_without_change(host: Host):
    done = host.setup()
    assert done.returncode == 0, done.stderr
    assert "GPUs 0,1 will do" in done.stdout
    opt, etc = host.destdir / "opt/release-bot-runner", host.destdir / "etc/release-bot-runner"
    assert (opt / "current").readlink() == Path("9.9.9")
    assert os.access(opt / "current" / "run.sh", os.X_OK)
    libexec = {path.name for path in (opt / "libexec").iterdir()}
    assert libexec == {path.name for path in SCRIPTS} - {"setup.sh"}
    sources = opt / "sources"
    assert (sources / "bot" / "file.py").is_file()
    assert (sources / "runners/environments/bot.txt").is_file()
    assert not list(sources.rglob("__pycache__"))
    assert not [path for path in sources.rglob("*") if path.stat().st_mode & 0o022], "root's alone to write"
    config = (etc / "config.env").read_text()
    assert "RUNNER_REPOSITORY=acme/bot\n" in config
    assert "RUNNER_LABELS=self-hosted,gpu-small\n" in config
    assert (etc / "credential").stat().st_mode & 0o777 == 0o700
    python = re.search(r"^PYTHON=(/.+)$", config, re.MULTILINE)
    assert python
    assert os.access(python[1], os.X_OK)
    units = {path.name for path in (host.destdir / "etc/systemd/system").iterdir()}
    assert units == {"release-bot-runner@.service", "release-bot-environments.service"}
    shutil.rmtree(host.root / "v9.9.9")
    assert host.setup().returncode == 0, "what is installed is not fetched again"
    assert (etc / "config.env").read_text() == config
    assert sorted(path.name for path in opt.iterdir()) == ["9.9.9", "current", "libexec", "sources"]


def test_an_archive_that_is_not_the_pinned_one_is_not_installed(host: Host):
    host.pins("0" * 64)
    done = host.setup()
    assert done.returncode == 1
    assert "is not the file that runner.env pins" in done.stderr
    assert list((host.destdir / "opt/release-bot-runner").iterdir()) == []


def test_a_check_changes_nothing(host: Host):
    done = host.setup("--class", "small", "--repo", "acme/bot", "--gpus", "1", "--check")
    assert done.returncode == 0, done.stderr
    assert "GPUs 1 will do" in done.stdout
    assert not (host.destdir / "opt").exists()


@pytest.mark.parametrize(
    ("gpu", "changes", "complaint"),
    [
        ("0, 46068, 570.10, 8.9", {}, "driver 570.10 is older than 580"),
        ("0, 24564, 580.1, 8.9", {}, "GPU 0 has 24564 MiB, class small needs 45056"),
        ("0, 46068, 580.1, 8.6", {}, "compute capability 8.6"),
        ("0, 46068, 580.1, 9.0", {"MIN_COMPUTE_CAPABILITY": "12.0"}, "compute capability 9.0"),
        ("", {}, "nvidia-smi lists no GPU"),
        ("No devices were found", {}, "nvidia-smi lists no GPU"),
        ("0, 46068, 580.1, 8.9", {"MIN_MEMORY_GIB": 99999}, "GiB of memory"),
        ("0, 46068, 580.1, 8.9", {"MIN_DISK_GIB": 9999999}, "GiB are free"),
    ],
    ids=str,
)
def test_a_machine_below_its_class_is_refused(
    host: Host, gpu: str, changes: dict[str, object], complaint: str
):
    host.gpus(gpu)
    host.write_class(**changes)
    done = host.setup()
    assert done.returncode == 1
    assert complaint in done.stderr
    assert not (host.destdir / "opt").exists()


@pytest.mark.parametrize(
    ("free", "cached", "devices", "complaint"),
    [
        (500, 0, "1 1", ""),
        (300, 250, "1 1", ""),
        (300, 150, "1 1", "300 GiB are free on the disk of"),
        (300, 250, "1 2", "0 in the cache; class small needs 500"),
        (200, 400, "1 1", "less than half of the 500"),
    ],
)
def test_what_the_cache_gives_back_counts_on_the_same_disk(
    host: Host, free: int, cached: int, devices: str, complaint: str
):
    state, cache = devices.split()
    host.write_class(MIN_DISK_GIB=500)
    (host.destdir / "var/cache/release-bot/files").mkdir(parents=True)
    program(host.root / "bin", "df", f"echo Avail; echo {free}")
    program(host.root / "bin", "du", f"printf '%d\\tx\\n' {cached * 2**30}")
    program(host.root / "bin", "stat", f"case $2 in */files) echo {cache} ;; *) echo {state} ;; esac")
    done = host.setup("--class", "small", "--repo", "acme/bot", "--check")
    assert done.returncode == bool(complaint), done.stderr
    assert complaint in done.stderr


def test_a_cache_that_is_there_is_counted_in_whole_gib(host: Host):
    """With the real programs: a small cache on this disk adds nothing, and stops nothing."""
    kept = host.destdir / "var/cache/release-bot/files/sha256/ab/x"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"x" * 5000)
    host.write_class(MIN_DISK_GIB=9999999)
    done = host.setup("--class", "small", "--repo", "acme/bot", "--check")
    assert ", 0 in the cache; class small needs 9999999" in done.stderr


def test_a_python_too_old_is_passed_over_and_then_refused(host: Host):
    program(host.root / "bin", "python3", "exit 1")
    program(host.root / "bin", "python3.11", f'exec {sys.executable} "$@"')
    assert host.setup().returncode == 0
    config = (host.destdir / "etc/release-bot-runner/config.env").read_text()
    assert f"PYTHON={host.root / 'bin/python3.11'}\n" in config
    done = host.setup("--class", "small", "--repo", "acme/bot", "--python", str(host.root / "bin/python3"))
    assert done.returncode == 1
    assert "no Python 3.11 or newer" in done.stderr


@pytest.mark.parametrize("capability", ["8.9", "9.0", "10.0", "12.0"])
def test_a_newer_capability_will_do(host: Host, capability: str):
    host.gpus(f"0, 46068, 600.1, {capability}")
    assert host.setup("--class", "small", "--repo", "acme/bot", "--check").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--class", "absent", "--repo", "acme/bot"),
        ("--class", "../../etc/passwd", "--repo", "acme/bot"),
        ("--class", "small", "--repo", "acme/bot;id"),
        ("--class", "small", "--repo", "acme"),
        ("--class", "small"),
        ("--class",),
        ("--class", "small", "--repo", "acme/bot", "--gpus", "0,$(id)"),
        ("--class", "small", "--repo", "acme/bot", "--gpus", "7"),
        ("--class", "small", "--repo", "acme/bot", "--colour"),
    ],
    ids=str,
)
def test_arguments_are_checked(host: Host, arguments: tuple[str, ...]):
    done = host.setup(*arguments)
    assert done.returncode == 1
    assert "error: " in done.stderr


# ── request-config.sh and start.sh ─────────────────────────────────────────────────────────


class GitHub:
    """GitHub's three addresses that registering a runner needs."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.answers: dict[str, tuple[int, Any]] = {
            "/repos/acme/bot/installation": (200, {"id": 42}),
            "/app/installations/42/access_tokens": (201, {"token": "ghs_installation"}),
            "/repos/acme/bot/actions/runners/generate-jitconfig": (201, {"encoded_jit_config": JIT}),
        }
        self.url = ""


@pytest.fixture
def github() -> Iterator[GitHub]:
    state = GitHub()

    def answer(asked: Asked) -> tuple[int, Any]:
        state.asked.append((asked.path, asked.headers["Authorization"], asked.json))
        return state.answers.get(asked.path, (404, {"message": "Not Found"}))

    with serving(answer) as port:
        state.url = f"http://127.0.0.1:{port}"
        yield state


@pytest.fixture
def request_config(tmp_path: Path, github: GitHub):  # type: ignore[no-untyped-def]
    """Runs the script; every argument that curl is given is written down first."""
    (tmp_path / "run").mkdir()
    (tmp_path / "credential").mkdir()
    curl = shutil.which("curl")
    program(tmp_path / "bin", "curl", f'printf "%s\\n" "$@" >>{tmp_path}/argv\nexec {curl} "$@"')
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "RUNNER_REPOSITORY": "acme/bot",
        "RUNNER_LABELS": "self-hosted,gpu-l40s",
        "RUNNER_GROUP_ID": "1",
        "RUNNER_CREDENTIAL": str(tmp_path / "credential"),
        "RUNNER_USER": str(os.getuid()),
        "RUNTIME_DIRECTORY": str(tmp_path / "run"),
        "GITHUB_API_URL": github.url,
    }

    def run(gpu: str = "3") -> subprocess.CompletedProcess[str]:
        command = [str(RUNNERS / "request-config.sh"), gpu]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


def test_a_runner_is_registered_with_a_token(tmp_path: Path, github: GitHub, request_config: Any):
    (tmp_path / "credential" / "token").write_text("github_pat_secret\n")
    done = request_config()
    assert done.returncode == 0, done.stderr
    ((path, authorization, content),) = github.asked
    assert path.endswith("/generate-jitconfig")
    assert authorization == "Bearer github_pat_secret"
    assert re.fullmatch(r".+-gpu3-[0-9a-f]{8}", content.pop("name"))
    assert content == {
        "runner_group_id": 1,
        "labels": ["self-hosted", "gpu-l40s"],
        "work_folder": "_work",
    }
    config = tmp_path / "run" / "jitconfig"
    assert config.read_text() == JIT
    assert config.stat().st_mode & 0o777 == 0o600
    assert "secret" not in (tmp_path / "argv").read_text() + done.stdout + done.stderr


def test_a_runner_is_registered_with_an_app(tmp_path: Path, github: GitHub, request_config: Any):
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    (tmp_path / "credential" / "app-key.pem").write_bytes(pem)
    (tmp_path / "credential" / "app-id").write_text("12345\n")
    done = request_config()
    assert done.returncode == 0, done.stderr
    (_, first, _), (_, second, wanted), (_, third, _) = github.asked
    claims = jwt.decode(first.removeprefix("Bearer "), key.public_key(), algorithms=["RS256"])
    assert claims["iss"] == "12345"
    assert claims["exp"] - claims["iat"] <= 600, "GitHub takes no longer one"
    assert second == first
    assert wanted == {"repositories": ["bot"], "permissions": {"administration": "write"}}
    assert third == "Bearer ghs_installation"
    said = (tmp_path / "argv").read_text() + done.stdout + done.stderr
    assert "ghs_installation" not in said
    assert first.removeprefix("Bearer ") not in said


@pytest.mark.parametrize(
    "answer",
    [
        (401, {"message": "Bad credentials"}),
        (422, {"message": "x"}),
        (201, {}),
        (201, {"encoded_jit_config": "$(touch pwned)"}),
    ],
    ids=str,
)
def test_without_a_configuration_nothing_starts(
    tmp_path: Path, github: GitHub, request_config: Any, answer: Any
):
    (tmp_path / "credential" / "token").write_text("github_pat_secret")
    github.answers["/repos/acme/bot/actions/runners/generate-jitconfig"] = answer
    assert request_config().returncode != 0
    assert not (tmp_path / "run" / "jitconfig").exists()


@pytest.mark.parametrize("gpu", ["", "x", "0;id", "100"])
def test_a_gpu_is_a_number(request_config: Any, gpu: str):
    assert request_config(gpu).returncode != 0


def test_a_runner_starts_in_a_fresh_copy(tmp_path: Path, host: Host):
    state, runtime = tmp_path / "state", tmp_path / "runtime"
    left = state / "runner" / "locked"
    left.mkdir(parents=True)
    (left / "left-by-the-job-before").write_text("x")
    left.chmod(0o500)
    outside, job_cache = tmp_path / "outside", tmp_path / "jobs" / "0"
    for path in ("home/.config/pip/pip.conf", "home/.bashrc", "release-bot/work/0123456789abcdef/job.json"):
        (state / path).parent.mkdir(parents=True, exist_ok=True)
        (state / path).write_text("of the job before")
    for path in (outside / "kept", job_cache / "hub/models--a--b/blobs/x"):
        path.parent.mkdir(parents=True)
        path.write_text("x")
    (state / "home" / "link").symlink_to(outside)
    runtime.mkdir()
    (runtime / "jitconfig").write_text(JIT)
    environment = {
        **os.environ,
        "STATE_DIRECTORY": str(state),
        "RUNTIME_DIRECTORY": str(runtime),
        "RUNNER_PRISTINE": str(host.root / "content"),
        "JOB_CACHE": str(job_cache),
    }
    done = subprocess.run(
        [str(RUNNERS / "start.sh")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == f"runs in {state / 'runner'} with {JIT}\n", done.stderr
    assert not (runtime / "jitconfig").exists()
    assert not left.exists()
    assert sorted(path.name for path in state.iterdir()) == ["home", "release-bot", "runner"]
    assert [*(state / "home").iterdir(), *(state / "release-bot").iterdir(), *job_cache.iterdir()] == []
    assert (outside / "kept").exists()


# ── build-environments.sh ──────────────────────────────────────────────────────────────────

PYTHON = """if [[ $1 == --version ]]; then echo "Python 3.11.7"; exit; fi
printf '%s %s\\n' "${RELEASE_BOT_HOME:-}" "$*" >>LOG
[[ "$1 $2" != "-m venv" ]] || { mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; umask >>LOG; }
[[ "$*" != *FAILS* ]] || exit 1"""


def test_environments_are_built_once_by_their_own_user(tmp_path: Path):
    """The interpreter is a stand-in that notes what it is asked; test_environment.py has the rest."""
    sources, state, noted = tmp_path / "sources", tmp_path / "state", tmp_path / "noted"
    (sources / "runners").mkdir(parents=True)
    shutil.copytree(RUNNERS / "environments", sources / "runners" / "environments")
    shutil.copy(RUNNERS.parent / "pyproject.toml", sources)
    (state / "bot-of-older-pins").mkdir(parents=True)
    program(tmp_path, "python", PYTHON.replace("LOG", str(noted)))
    environment = {
        **os.environ,
        "STATE_DIRECTORY": str(state),
        "RELEASE_BOT_SOURCES": str(sources),
        "PYTHON": str(tmp_path / "python"),
    }

    def build() -> list[str]:
        noted.write_text("")
        command = [str(RUNNERS / "build-environments.sh")]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return noted.read_text().splitlines()

    first = build()
    assert " -m venv " in first[0]
    assert first[1] == "0022", "nobody else may write it"
    assert any(f"--constraint {sources}/runners/environments/bot.txt" in line for line in first)
    assert first[-1] == f"{state} -m bot environments build --prune"
    assert build() == first[-1:], "the bot's own packages are there"
    assert len(list(state.glob("bot-*"))) == 1


# ── hooks ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def hook(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Runs a hook as the runner does, in a workspace with something in it."""
    state = tmp_path / "state"
    workspace, temporary = state / "runner/_work/bot/bot", state / "runner/_work/_temp"
    home = state / "release-bot"
    for folder in (workspace / "deep", temporary / "release-bot", home / "work" / "0123456789abcdef"):
        folder.mkdir(parents=True)
        (folder / "file").write_text("x")
    (temporary / "of-the-runner").write_text("x")
    program(tmp_path / "bin", "nvidia-smi", 'echo "NVIDIA L40S, 1 MiB"')
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "STATE_DIRECTORY": str(state),
        "GITHUB_WORKSPACE": str(workspace),
        "RUNNER_TEMP": str(temporary),
        "RELEASE_BOT_HOME": str(home),
        "RUNNER_REPOSITORY": "acme/bot",
        "GITHUB_REPOSITORY": "acme/bot",
        "GITHUB_EVENT_NAME": "workflow_dispatch",
        "GITHUB_REF": "refs/heads/main",
        "CUDA_VISIBLE_DEVICES": "0",
    }

    def run(name: str, **changes: str) -> subprocess.CompletedProcess[str]:
        command = [str(RUNNERS / "hooks" / name)]
        return subprocess.run(
            command, env={**environment, **changes}, capture_output=True, text=True, check=False
        )

    return run


@pytest.mark.parametrize("name", ["job-started.sh", "job-completed.sh"])
def test_hooks_empty_the_workspace_and_follow_no_link(tmp_path: Path, hook: Any, name: str):
    workspace = tmp_path / "state/runner/_work/bot/bot"
    outside = tmp_path / "cache"
    outside.mkdir()
    (outside / "kept").write_text("x")
    (workspace / "link").symlink_to(outside)
    (workspace / ".hidden").write_text("x")
    (workspace / "deep").chmod(0o500)
    done = hook(name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(workspace.iterdir()) == []
    assert (outside / "kept").exists()
    assert list((tmp_path / "state/release-bot").iterdir()) == [], "no work folder passes to the next job"
    temporary = tmp_path / "state/runner/_work/_temp"
    assert sorted(path.relative_to(temporary).as_posix() for path in temporary.rglob("*")) == [
        "of-the-runner",
        "release-bot",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"GITHUB_REPOSITORY": "mallory/bot"},
        {"GITHUB_REPOSITORY": ""},
        {"GITHUB_EVENT_NAME": "pull_request"},
        {"GITHUB_EVENT_NAME": "pull_request_target"},
        {"GITHUB_EVENT_NAME": "workflow_run"},
        {"GITHUB_EVENT_NAME": "issue_comment"},
        {"GITHUB_EVENT_NAME": ""},
        {"GITHUB_REF": "refs/pull/1/merge"},
        {"GITHUB_REF": "refs/tags/v1"},
        {"MIN_DISK_GIB": "9999999"},
    ],
    ids=str,
)
def test_a_job_that_is_not_ours_does_not_start(tmp_path: Path, hook: Any, changes: dict[str, str]):
    done = hook("job-started.sh", **changes)
    assert done.returncode == 1
    assert done.stdout.startswith("::error title=runner::")
    assert (tmp_path / "state/runner/_work/bot/bot/deep/file").exists()


def test_a_gpu_that_does_not_answer_fails_the_job(tmp_path: Path, hook: Any):
    program(tmp_path / "bin", "nvidia-smi", "exit 9")
    done = hook("job-started.sh")
    assert done.returncode == 1
    assert "does not answer" in done.stdout


@pytest.mark.parametrize("where", ["..", "../elsewhere", "."])
def test_nothing_outside_of_the_runner_is_emptied(tmp_path: Path, hook: Any, where: str):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_text("x")
    done = hook("clean.sh", GITHUB_WORKSPACE=str(tmp_path / "state" / where))
    assert done.returncode == 1
    assert "refusing to empty" in done.stdout
    assert (tmp_path / "elsewhere" / "kept").exists()
    assert (tmp_path / "state/runner/_work/bot/bot/deep/file").exists()


# ── the systemd unit ───────────────────────────────────────────────────────────────────────

analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze here: the unit is not verified"
)


@pytest.fixture(params=["release-bot-runner@.service", "release-bot-environments.service"])
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A unit (of the template: GPU 0's instance), with the scripts where this machine has them."""
    libexec = tmp_path / "libexec"
    libexec.mkdir()
    for script in SCRIPTS:
        shutil.copy(script, libexec)
    text = (RUNNERS / "systemd" / request.param).read_text()
    path = tmp_path / request.param.replace("@.", "@0.")
    path.write_text(text.replace("/opt/release-bot-runner/libexec", str(libexec)))
    return path


@analyze
def test_systemd_understands_the_units(unit: Path):
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "release-bot" in line]
    assert ours == []
    assert done.returncode == 0, done.stderr


@analyze
def test_the_units_are_hardened(unit: Path):
    """systemd's own measure, 0 to 100: a unit without any of it is at 96."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=35", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-600:]


def test_every_start_registers_anew_for_one_gpu_and_jobs_see_no_credential():
    text = (RUNNERS / "systemd/release-bot-runner@.service").read_text()
    lines = set(text.splitlines())
    assert "User=release-bot-%i" in lines
    assert any("CUDA_VISIBLE_DEVICES=%i" in line for line in lines)
    assert "ExecStartPre=+/opt/release-bot-runner/libexec/request-config.sh %i" in lines
    assert "Restart=always" in lines
    assert "InaccessiblePaths=/etc/release-bot-runner/credential" in lines


def settings(name: str) -> dict[str, str]:
    """Every variable that a unit sets, and its directives that are named once."""
    found: dict[str, str] = {}
    for line in (RUNNERS / "systemd" / name).read_text().splitlines():
        key, _, value = line.partition("=")
        found |= dict(each.split("=", 1) for each in value.split()) if key == "Environment" else {key: value}
    return found


def test_jobs_share_hashed_files_and_read_only_environments_and_nothing_else():
    """Every place that a job may write is its own and emptied, but the cache, which is hashed when read."""
    unit = settings("release-bot-runner@.service")
    own = "/var/lib/release-bot-runner/%i/"
    for name in ("HOME", "RELEASE_BOT_HOME", "HF_HOME"):
        assert unit[name].startswith(own), name
    assert unit["HF_HUB_CACHE"].startswith(unit["JOB_CACHE"] + "/"), "start.sh empties it"
    assert unit["JOB_CACHE"].endswith("/%i")
    assert "PIP_CACHE_DIR" not in unit, "pip runs what lies in its cache without looking"
    assert unit["RELEASE_BOT_CACHE"] == "/var/cache/release-bot/files"
    assert unit["ReadWritePaths"] == "/var/cache/release-bot"
    assert unit["ProtectSystem"] == "strict"
    builder = settings("release-bot-environments.service")
    place = f"/var/lib/{builder['StateDirectory']}"
    assert unit["RELEASE_BOT_ENVIRONMENTS"] == f"{place}/envs"
    assert unit["ReadOnlyPaths"] == f"-{place}"
    assert builder["User"] not in ("root", unit["User"])
    assert builder["UMask"] == "0022"
    assert "HF_TOKEN" not in builder
    setup = (RUNNERS / "setup.sh").read_text()
    assert f"useradd --system --user-group --no-create-home --home-dir {place} " in setup
    assert 'install -d -m 0700 -o "release-bot-$gpu" -g release-bot "$cache/jobs/$gpu"' in setup
