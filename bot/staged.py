"""A staged release taken over on another host: what the build left on the Hub becomes a work folder.

Between the jobs of a release only its pull request on the Hub carries weights, so that no job depends on the
disk of another one; the per-host cache makes that free on the same host. The build's evidence lies beside the
weights. The audit runs again over what arrived, since the evidence of an audit is about one folder's files.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Final

from bot import cache, evidence, log, repo
from bot.edges import hubcache
from bot.edges.hub import PullRequest
from bot.errors import InputError, Refused
from bot.job import Job, require_key
from bot.models import UploadEvidence, read_json, write_json
from bot.repo import HUB_OWN_FILES, SUMS
from bot.stages import upload as uploading
from bot.steps import building

# What the first commit holds beside the checkpoint.
BUILD: Final = "build_evidence.json"
EXTRA: Final = (BUILD, "recipe.yaml", "quant_log.csv", SUMS)


def take_over(job: Job) -> bool:
    """Fill the release's folder from its pull request; False when it holds the upload's evidence already.

    Raises InputError when nothing is staged, Refused when what is staged is another release.
    """
    space = job.workspace
    if space.existing("upload", UploadEvidence) and space.checkpoint.is_dir():
        return False
    pull = uploading.standing(job.release, job.hub)
    if pull is None:
        raise InputError(
            f"release {job.release.key} is not staged: there is no pull request of it",
            where=job.release.target_repo,
            fix="build it first",
        )
    with log.step(f"Taking over {job.release.target_repo}, pull request {pull.num}"):
        files = _bring(job, pull)
        building.audit(job)
        state = job.hub.state(job.release.target_repo, pull.revision)
        write_json(space.evidence("upload"), _uploaded(job, pull, state.revision, files))
    return True


def keep(job: Job) -> None:
    """Keep what was just uploaded in this host's cache, for the jobs that come after on the same host."""
    uploaded = job.workspace.existing("upload", UploadEvidence)
    if uploaded is None or not job.workspace.checkpoint.is_dir():
        return
    there = {each.path: each.sha256 for each in uploaded.files}
    found = {path: sha for path, sha in there.items() if (job.workspace.checkpoint / path).is_file()}
    hubcache.keep(job.workspace.checkpoint, found, cache.Cache(cache.location(job.config.home)))


def _bring(job: Job, pull: PullRequest) -> dict[str, repo.LocalFile]:
    """The pull request's files, in their places in the work folder; returns them with their digests."""
    space = job.workspace
    space.root.mkdir(parents=True, exist_ok=True)
    own = cache.Cache(cache.location(job.config.home))
    with tempfile.TemporaryDirectory(dir=space.root, prefix=".arrived.") as temporary:
        arrived = Path(temporary)
        hubcache.bring(job.hub, job.release.target_repo, pull.revision, arrived, own)
        shutil.rmtree(arrived / ".cache", ignore_errors=True)
        for name in [path for path in HUB_OWN_FILES if (arrived / path).is_file()]:
            (arrived / name).unlink()
        for path in [each for each in arrived.rglob("*") if each.is_file()]:
            if repo.is_card_file(path.relative_to(arrived).as_posix()):
                path.unlink()
        files = repo.digests(arrived, {})
        _adopt(job, arrived)
        for name in EXTRA:
            if (arrived / name).is_file():
                space.extra.mkdir(exist_ok=True)
                (arrived / name).replace(space.extra / name)
        shutil.rmtree(space.checkpoint, ignore_errors=True)
        shutil.copytree(arrived, space.checkpoint)
    return files


def _adopt(job: Job, arrived: Path) -> None:
    """The build's evidence, which must be of this very key; the recipe's limits may be newer here."""
    built = read_json(arrived / BUILD, evidence.Build)
    require_key(built.release, job.release.key)
    if built.release.target_repo != job.release.target_repo or built.base.base != job.base.base:
        raise Refused(
            f"what is staged is of {built.base.base.repo_id} for {built.release.target_repo}",
            where=job.release.target_repo,
            why="its evidence was edited",
            fix=f"`release-bot upload {job.release.key} --restage` where it was built",
        )
    write_json(job.workspace.evidence("quantize"), built.quantize)
    write_json(job.workspace.evidence("repair"), built.repair)


def _uploaded(job: Job, pull: PullRequest, revision: str, files: dict[str, repo.LocalFile]) -> UploadEvidence:
    """The upload's evidence as the job that uploaded would write it, from what is on the Hub."""
    hub, target = job.hub, job.release.target_repo
    main = hub.state(target)
    return UploadEvidence(
        inputs_digest=building.upload_inputs(job.workspace),
        repo_id=target,
        pr_num=pull.num,
        parent=uploading.parent_of(hub, target, pull, main),
        pr_head=revision,
        files=[each.digest for each in files.values()],
        blob_ids={path: each.git_sha1 for path, each in files.items()},
        removed=[],
        wall_s=0.0,
    )
