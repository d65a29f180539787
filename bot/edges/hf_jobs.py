"""`release-bot run --on hf-jobs:FLAVOR`: a release made on Hugging Face Jobs, for those with no fleet.

The base is resolved here, and the target repo made; the job then runs the same command at the same commit of
this repository, its log is followed, and its evidence, card and logs are brought back into the work folder,
so that what comes after is as if it had run here. How it ends is one of the bot's own errors.

The same command again finds a job that still runs for this release and follows it, instead of paying twice.
^C cancels the job. The job's token travels as a secret, never in a command or its environment as told:
RELEASE_BOT_JOBS_TOKEN where that is set (it needs to read, and to open pull requests on the target repo),
else the token in use. Against an embedded Hub the job is a process of the Hub's machine, with this Python.
"""

from __future__ import annotations

import difflib
import os
import re
import secrets
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ValidationError

from bot import errors, hubpulls, jobside, log, repo
from bot.edges.hub import Hub, PullRequest, translated
from bot.errors import InfrastructureError, Interrupted, Refused, ReleaseBotError, UsageError
from bot.job import Job
from bot.models import SCHEMA_VERSION, Model, write_atomically

ROOT: Final = Path(__file__).resolve().parents[2]
IMAGE: Final = "python:3.11-bookworm"  # has git and make; the quantizers bring their own CUDA libraries
TIMEOUT_S: Final = 16 * 3600
LABEL: Final = "release-bot-key"
NONCE_LABEL: Final = "release-bot-nonce"
BOOTSTRAP: Final = """set -euo pipefail
git clone --quiet --no-checkout -- "$1" "${TMPDIR:-/tmp}/release-bot"
cd "${TMPDIR:-/tmp}/release-bot"
git checkout --quiet --detach "$2"
shift 2
make setup
exec .venv/bin/python -m bot.jobside "$@"
"""
_BY_EXIT_CODE: Final[dict[int, type[ReleaseBotError]]] = {
    each.exit_code: each
    for each in (
        errors.UsageError,
        errors.InputError,
        errors.InfrastructureError,
        errors.AuditFailed,
        errors.GateFailed,
        errors.Refused,
        errors.Interrupted,
    )
}


class JobsRun(Model):
    """`release-bot run --on hf-jobs:… --json`: the job, and where its results are."""

    schema_version: Literal[1] = SCHEMA_VERSION
    key: str
    target_repo: str
    flavor: str
    job_id: str
    job_url: str
    work: str
    brought_back: list[str]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a job gets the bot from."""

    url: str
    revision: str


def parse_target(text: str) -> str:
    """The flavor in `hf-jobs:FLAVOR`. Raises UsageError, with the nearest flavor there is."""
    from huggingface_hub import JobHardware

    kind, _, flavor = text.partition(":")
    flavors = [str(each.value) for each in JobHardware]
    if kind != "hf-jobs" or flavor not in flavors:
        near = difflib.get_close_matches(flavor, flavors, n=1)
        hint = f"did you mean hf-jobs:{near[0]}? " if near else ""
        raise UsageError(
            f"--on {text!r} names no place to run", fix=f"{hint}There are: hf-jobs:{{{','.join(flavors)}}}"
        )
    return flavor


def run(job: Job, *, flavor: str, until: str | None, overrides: dict[str, str]) -> JobsRun:
    """Run `job` on Hugging Face Jobs up to `until` (default: the card). Raises how it ended, if not well."""
    hub, release = job.hub, job.release
    if until == "publish":
        raise UsageError(
            "a job does not publish", fix="run it until the card, then `release-bot publish KEY` after review"
        )
    repo.refuse_rehearsal(release, hub)
    hub.create_private(release.target_repo)
    found = _running(hub, release.key) or _submit(job, flavor, until or "card", overrides)
    nonce = str((found.labels or {})[NONCE_LABEL])
    log.info(f"  job {found.id}: {found.url}")
    try:
        exit_code = _follow(hub, found, nonce)
    except KeyboardInterrupt:
        with translated(f"job {found.id}"):
            hub.api.cancel_job(job_id=found.id, namespace=found.owner.name)
        log.warning(f"job {found.id} is cancelled")
        raise
    brought = fetch(hub, release.target_repo, jobside.title(release.key, nonce), job.workspace.root)
    _require_well(hub, found, exit_code)
    return JobsRun(
        key=release.key,
        target_repo=release.target_repo,
        flavor=flavor,
        job_id=found.id,
        job_url=found.url,
        work=str(job.workspace.root),
        brought_back=brought,
    )


# ── the job ────────────────────────────────────────────────────────────────────────────────


def _running(hub: Hub, key: str) -> Any:
    """The job that still runs for this release; None when there is none."""
    namespace = hub.account()
    with translated(f"jobs of {namespace}"):
        jobs = hub.api.list_jobs(status=["SCHEDULING", "RUNNING"], labels={LABEL: key}, namespace=namespace)
        return next((each for each in jobs if NONCE_LABEL in (each.labels or {})), None)


def _submit(job: Job, flavor: str, until: str, overrides: dict[str, str]) -> Any:
    hub, release = job.hub, job.release
    nonce = secrets.token_hex(8)
    base = f"{release.base.repo_id}@{release.base.revision}"
    arguments = [release.key, nonce, base, release.recipe_name, until]
    arguments += [text for name, value in overrides.items() for text in ("--set", f"{name}={value}")]
    token = os.environ.get("RELEASE_BOT_JOBS_TOKEN") or hub.api.token
    if not token:
        raise UsageError("a job needs a token", fix="set HF_TOKEN or RELEASE_BOT_JOBS_TOKEN")
    log.hide(str(token))
    hub.before_write()
    with translated(f"a job for release {release.key}"):
        return hub.api.run_job(
            image=os.environ.get("RELEASE_BOT_JOBS_IMAGE") or IMAGE,
            command=[*_launcher(hub), *arguments],
            env=_environment(job),
            secrets={"HF_TOKEN": str(token)},
            flavor=flavor,
            timeout=TIMEOUT_S,
            labels={LABEL: release.key, NONCE_LABEL: nonce, "name": f"release-bot {release.key}"},
            namespace=hub.account(),
        )


def _launcher(hub: Hub) -> list[str]:
    """What stands before the arguments; whatever is not fixed text is an argument, never in a script."""
    if hub.embedded:
        return [sys.executable, "-m", "bot.jobside"]
    found = source()
    return ["bash", "-c", BOOTSTRAP, "release-bot", found.url, found.revision]


def _environment(job: Job) -> dict[str, str]:
    values = {"RELEASE_BOT_ORGANIZATION": job.release.target_repo.split("/")[0]}
    if job.hub.embedded:  # the same machine: what was built for one run serves the other
        home = str(job.config.home.resolve())
        values |= {"HF_ENDPOINT": job.hub.endpoint, "PYTHONPATH": str(ROOT), "RELEASE_BOT_HOME": home}
    return values


def source() -> Source:
    """This repository at the commit that is checked out. Raises UsageError when a job could not get it."""
    url = revision = ""
    if repository := os.environ.get("GITHUB_REPOSITORY"):
        url = f"{os.environ.get('GITHUB_SERVER_URL') or 'https://github.com'}/{repository}"
        revision = os.environ.get("GITHUB_SHA", "")
    elif (ROOT / ".git").exists():
        if _git("status", "--porcelain", "--untracked-files=no"):
            raise UsageError(
                "the checkout has changes that a job would not have", fix="commit and push them first"
            )
        url, revision = _git("remote", "get-url", "origin"), _git("rev-parse", "HEAD")
    if not re.fullmatch(r"https://[\w.-]+/[\w./-]+", url, re.ASCII) or not re.fullmatch(
        r"[0-9a-f]{40}", revision
    ):
        raise UsageError(
            "a job cannot fetch this checkout: its origin is no https address, or its commit is not known",
            where=str(ROOT),
            fix="run it from a clone of a repository that is on GitHub, at a pushed commit",
        )
    return Source(url=url, revision=revision)


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout.strip() if done.returncode == 0 else ""


# ── how it ends ────────────────────────────────────────────────────────────────────────────


def _follow(hub: Hub, found: Any, nonce: str) -> int | None:
    """Show the job's log until it is over; the exit code that its last line tells, if it came so far."""
    exit_code = None
    with translated(f"job {found.id}"), log.step(f"job {found.id}"):
        for line in hub.api.fetch_job_logs(job_id=found.id, namespace=found.owner.name, follow=True):
            text = line.rstrip("\n")
            if text.startswith(f"{jobside.MARK} "):
                exit_code = _exit_code(text.partition(" ")[2], nonce)
            else:
                log.info(text)
    return exit_code


def _exit_code(text: str, nonce: str) -> int | None:
    try:
        ended = jobside.Ended.model_validate_json(text)
    except ValidationError:
        return None
    return ended.exit_code if secrets.compare_digest(ended.nonce.encode(), nonce.encode()) else None


def _require_well(hub: Hub, found: Any, exit_code: int | None) -> None:
    """Raises the bot's own error for a job that did not end well."""
    with translated(f"job {found.id}"):
        last = hub.api.wait_for_job(found.id, namespace=found.owner.name)
    stage, where = str(getattr(last.status.stage, "value", last.status.stage)), str(found.url)
    message = log.printable(str(last.status.message or ""))[:300]
    if stage == "CANCELED":
        raise Interrupted("the job was cancelled", where=where, fix="run the same command again")
    if exit_code == 0 and stage == "COMPLETED":
        return
    if exit_code:
        kind = _BY_EXIT_CODE.get(exit_code, ReleaseBotError)
        raise kind(f"the job ended with exit code {exit_code}", where=where, why="its log above says more")
    raise InfrastructureError(
        f"the job ended as {stage} before the run did",
        where=where,
        why=message or "the machine was lost, or its memory, disk or time ran out",
        fix="run the same command again, on a larger flavor if it was too small",
    )


# ── what it leaves ─────────────────────────────────────────────────────────────────────────


def fetch(hub: Hub, repo_id: str, title: str, work: Path) -> list[str]:
    """Write what the job carried out into `work`, and close its pull request. Empty when it carried nothing.

    What comes is data from outside: only the names that a work folder has, each below its limit, and only
    from a pull request of ours: the title holds no secret, and the repo may be public.
    """
    found = [each for each in hub.pull_requests(repo_id) if each.title == title]
    ours = hubpulls.accounts(hub, repo_id.split("/")[0]) if found else frozenset()
    pull = next((each for each in found if each.author.lower() in ours), None)
    if pull is None:
        return []
    state = hub.state(repo_id, pull.revision)
    brought = []
    for path, file in sorted(state.files.items()):
        name = path.removeprefix(f"{jobside.PREFIX}/")
        if name == path or not jobside.is_carried(name):
            continue
        if file.size_bytes > jobside.MAX_FILE_BYTES:
            raise Refused(f"{path} is larger than what a job may bring back", where=hub.url(repo_id))
        write_atomically(work / name, _read(hub, repo_id, path, state.revision))
        brought.append(name)
    _close(hub, repo_id, pull)
    return brought


def _read(hub: Hub, repo_id: str, path: str, revision: str) -> bytes:
    import tempfile

    with translated(f"{repo_id} {path}"), tempfile.TemporaryDirectory() as folder:
        found = hub.api.hf_hub_download(repo_id, path, revision=revision, local_dir=folder)
        return Path(found).read_bytes()


def _close(hub: Hub, repo_id: str, pull: PullRequest) -> None:
    """It has served; where the right to close it is missing, or writing is paused, it stays open."""
    if pull.status not in ("open", "draft"):
        return
    try:
        hub.before_write()
        with translated(f"{repo_id} pull request {pull.num}"):
            hub.api.change_discussion_status(repo_id, pull.num, "closed", comment="Fetched.")
    except ReleaseBotError as e:
        log.warning(f"pull request {pull.num} of {repo_id} stays open: {e.what}")
