"""A metadata release: the base changed its template, tokenizer or processor files, and not its weights.

What is public gets the base's new side files; weights stay where they are, by the Hub's own objects, so no
GPU is needed and nothing large moves. The audit runs over the result as it will be, by range requests, before
anything is sent. Figures stay those of the release that the weights come from, and the card says so.

The base may have changed only what our own repo has by now, or never took from it: then nothing is sent, and
that is a good end of its own, which the run's last job writes down (`bot.outcome`).
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from bot import evidence, log, naming, repo
from bot.checkpoint import sidefiles
from bot.checkpoint.documents import dump, parse_object
from bot.checkpoint.files import Source, same_content
from bot.checkpoint.overlay import Overlay
from bot.checkpoint.source import HubSource
from bot.edges.hub import Hub, PullRequest, RepoState
from bot.errors import AuditFailed, InfrastructureError, Refused
from bot.evidence import AuditEvidence, Evidence, Republished
from bot.job import Job, recipe_of, require_key
from bot.models import FileDigest, UploadEvidence, write_json
from bot.repo import HUB_OWN_FILES, SUMS, is_card_file
from bot.stages import audit as auditing
from bot.stages import gate as gating
from bot.stages import upload as uploading
from bot.steps.inputs import digest

MAX_SIDE_FILE_BYTES: Final = 256 * 2**20
BUILD: Final = "build_evidence.json"
Built = Literal["staged", "standing", "nothing_to_change"]


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What becomes of the published files: new content by path, and the paths that the base has no more."""

    over: dict[str, bytes]
    gone: frozenset[str]


def build(job: Job, predecessor: str) -> Built:
    """Stage the release with the weights of release `predecessor`; what was to do and is done.

    `standing`: this folder has done so before. `nothing_to_change`: what is public has the base's side
    files, and nothing was sent. Raises Refused when `predecessor` is not what is public now; AuditFailed.
    """
    space, hub, target = job.workspace, job.hub, job.release.target_repo
    if space.existing("upload", UploadEvidence):
        return "standing"
    repo.refuse_rehearsal(job.release, hub)
    main = hub.state(target)
    before = _published(hub, target, main, naming.parse_key(predecessor))
    if job.restage:
        uploading.withdraw(job.release, hub)
    pull = uploading.standing(job.release, hub)
    if pull is None:
        pull = _stage(job, before, main)
    if pull is None:
        log.info(
            f"  nothing to change: {target} has the side files of {job.release.base.revision[:8]} already"
        )
        return "nothing_to_change"
    _write_evidence(job, before, pull)
    return "staged"


def _published(hub: Hub, target: str, main: RepoState, key: str) -> Evidence:
    """The evidence on main, which must be of the release whose weights are kept."""
    found = Evidence.model_validate_json(repo.read(hub, target, "evidence.json", main.revision))
    require_key(found.release, key)
    if found.release.target_repo != target:
        raise Refused(f"the evidence on {target} is of {found.release.target_repo}", where=target)
    return found


def changes(published: Source, base: Source) -> Changes:
    """The side files and config that differ from what the base has now."""
    theirs, ours = base.files(), published.files()
    wanted = [path for path in theirs if sidefiles.is_side_file(path)]
    differing = [path for path in wanted if path not in ours or not same_content(published, base, path)]
    over = {path: base.read_small(path, MAX_SIDE_FILE_BYTES) for path in differing}
    config = _config(published, base)
    if config is not None:
        over["config.json"] = config
    gone = {path for path in ours if sidefiles.is_side_file(path) and path not in theirs}
    return Changes(over=over, gone=frozenset(gone))


def _config(published: Source, base: Source) -> bytes | None:
    """config.json as the base has it now, with our quantization_config; None when it is so already."""
    one, other = (
        parse_object(each.read_small("config.json", MAX_SIDE_FILE_BYTES), where=each.label)
        for each in (published, base)
    )
    wanted = {**other, "quantization_config": one.get("quantization_config")}
    return None if wanted == one else dump(wanted)


def _stage(job: Job, before: Evidence, main: RepoState) -> PullRequest | None:
    """Audit what it will be, then open the pull request: one commit of what changes. None: nothing does."""
    target, base = job.release.target_repo, job.release.base
    repo.refuse_other_base(job.hub, target, base.repo_id)
    token = str(job.hub.api.token) if job.hub.api.token else None
    published = HubSource(target, main.revision, token=token)
    original = HubSource(base.repo_id, base.revision, token=token)
    found = changes(published, original)
    if not found.over and not found.gone:
        return None
    with log.step(f"Auditing {target} with {len(found.over)} new side files"):
        audited = _audited(job, Overlay(published, found.over, found.gone, label=target), original)
    built = evidence.Build(
        release=job.release, base=job.base, quantize=before.quantize, repair=before.repair, audit=audited
    )
    files = dict(found.over)
    files[BUILD] = (built.model_dump_json(indent=2) + "\n").encode()
    files["recipe.yaml"] = evidence.recipe_yaml(job.release).encode()
    kept = [each for each in before.upload.files if each.path not in {*files, SUMS, *found.gone}]
    files[SUMS] = repo.sums([*kept, *(_digest(path, data) for path, data in files.items())]).encode()
    return _open(job, files, found.gone, main)


def _audited(job: Job, source: Source, base: Source) -> AuditEvidence:
    started = time.monotonic()
    base.label = job.base.base.repo_id
    report = auditing.audit(source, base=base, recipe=job.recipe)
    if not report.passed:
        failed = [f"{each.id}: {each.detail}" for each in report.checks if each.status == "failed"]
        raise AuditFailed(
            f"with the base's new side files {len(failed)} checks fail:\n" + "\n".join(failed),
            where=job.release.target_repo,
            fix="nothing was uploaded; look at what the base changed",
        )
    inputs = digest("metadata", job.release.key, job.release.recipe_digest)
    return AuditEvidence(inputs_digest=inputs, wall_s=round(time.monotonic() - started, 3), report=report)


def _open(job: Job, files: dict[str, bytes], gone: frozenset[str], main: RepoState) -> PullRequest:
    release = job.release
    with tempfile.TemporaryDirectory() as temporary:
        paths = {}
        for name, data in files.items():
            paths[name] = Path(temporary) / name
            paths[name].parent.mkdir(parents=True, exist_ok=True)
            paths[name].write_bytes(data)
        job.hub.commit(
            release.target_repo,
            title=naming.commit_title(release.key, release.base, release.recipe_name),
            description=f"Opened by release-bot. Branch of the card: {naming.branch(release.key)}",
            add=paths,
            delete=sorted(gone),
            parent=main.revision,
            create_pr=True,
        )
    pull = uploading.standing(release, job.hub)
    if pull is None:
        raise InfrastructureError(
            "the Hub opened no pull request", where=release.target_repo, fix="run it again"
        )
    return pull


# ── what it leaves ─────────────────────────────────────────────────────────────────────────


def _write_evidence(job: Job, before: Evidence, pull: PullRequest) -> None:
    """The work folder as a full build would leave it, from what is staged."""
    space, hub, target = job.workspace, job.hub, job.release.target_repo
    state = hub.state(target, pull.revision)
    data = repo.read(hub, target, BUILD, state.revision)
    built = evidence.Build.model_validate_json(data)
    if built.release != job.release:
        raise Refused("what is staged is another release", where=target, fix="close its pull request")
    uploaded = _uploaded(job, before, pull, state)
    changed = {each.path: each.sha256 for each in before.upload.files}
    files = [each.path for each in uploaded.files if changed.get(each.path) != each.sha256]
    note = Republished(
        key=before.republished.key if before.republished else before.release.key,
        base_revision=(before.republished.base_revision if before.republished else before.base.base.revision),
        files=[path for path in files if path == "config.json" or sidefiles.is_side_file(path)],
    )
    limits = recipe_of(job.release).thresholds
    inputs = gating.inputs_of(limits, built.audit.report, before.measurement)
    gates = gating.judge(limits, built.audit.report, before.measurement, inputs_digest=inputs, override=None)
    documents = {
        "base": built.base,
        "quantize": built.quantize,
        "repair": built.repair,
        "audit": built.audit,
        "measure": before.measurement,
        "gate": gates,
        "republished": note,
        "upload": uploaded,
    }
    for name, document in documents.items():
        write_json(space.evidence(name), document)


def _uploaded(job: Job, before: Evidence, pull: PullRequest, state: RepoState) -> UploadEvidence:
    """Digests of everything staged: told by the Hub, known of the predecessor, or read (small files)."""
    target = job.release.target_repo
    known = {each.path: each for each in before.upload.files}
    files, blobs = [], {}
    for path, remote in sorted(state.files.items()):
        if path in HUB_OWN_FILES or is_card_file(path):
            continue
        blobs[path] = remote.blob_id
        if remote.sha256:
            files.append(FileDigest(path=path, size_bytes=remote.size_bytes, sha256=remote.sha256))
        elif path in known and before.upload.blob_ids.get(path) == remote.blob_id:
            files.append(known[path])
        else:
            files.append(_digest(path, repo.read(job.hub, target, path, state.revision)))
    main = job.hub.state(target)
    return UploadEvidence(
        inputs_digest=digest("metadata", job.release.key, before.release.key),
        repo_id=target,
        pr_num=pull.num,
        parent=uploading.parent_of(job.hub, target, pull, main),
        pr_head=state.revision,
        files=files,
        blob_ids=blobs,
        removed=[],
        wall_s=0.0,
    )


def _digest(path: str, data: bytes) -> FileDigest:
    return FileDigest(path=path, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
