"""From base to an uploaded checkpoint: quantize, repair, audit, upload."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from bot import evidence, log, repo
from bot.checkpoint.source import FolderSource, Source
from bot.edges import environment
from bot.edges.device import device
from bot.errors import AuditFailed, Refused
from bot.evidence import AuditEvidence, RepairEvidence
from bot.job import Job
from bot.models import QuantizeEvidence, UploadEvidence, write_atomically, write_json
from bot.stages import audit as auditing
from bot.stages import quantize as quantizing
from bot.stages import repair as repairing
from bot.stages import upload as uploading
from bot.steps.inputs import digest, is_published
from bot.workspace import Workspace, fingerprint


def quantize(job: Job) -> bool:
    tools = environment.ensure(f"quantize-{device()}", job.config.home)
    folder = _base_folder(job)
    before = job.workspace.existing("quantize", QuantizeEvidence)
    after = quantizing.quantize(
        job.release,
        job.recipe,
        base_folder=folder,
        work=job.workspace.root,
        environment=tools,
        extra_env=_hub_environment(job),
    )
    return before != after


def _base_folder(job: Job) -> Path:
    """The base's files in the host's cache, at the pinned revision; downloaded when they are not there."""
    return job.hub.download(job.base.base.repo_id, job.base.base.revision)


def _hub_environment(job: Job) -> dict[str, str]:
    """What the quantizer's process needs to read the pinned calibration sets."""
    names = ("HF_ENDPOINT", "HF_TOKEN", "HF_HOME", "HF_HUB_DISABLE_XET", "HF_HUB_CACHE")
    return {name: os.environ[name] for name in names if name in os.environ}


def repair(job: Job) -> bool:
    space = job.workspace
    quantized = space.read("quantize", QuantizeEvidence)
    inputs = digest("repair", quantized.model_dump_json(), job.release.recipe_digest)
    before = space.existing("repair", RepairEvidence)
    if before and before.inputs_digest == inputs and space.checkpoint.is_dir():
        return False
    started = time.monotonic()
    _copy_by_links(space.quantized, space.checkpoint)
    report = repairing.repair(space.checkpoint, base=_base_source(job), recipe=job.recipe)
    for action in report.actions:
        log.info(f"  {action.kind}: {action.detail} ({', '.join((action.tensors or action.files)[:4])})")
    for left in report.unrepaired:
        log.warning(f"not repaired: {left.kind}: {left.detail}")
    report = report.model_copy(update={"path": job.release.target_repo})  # no path of this host in evidence
    found = RepairEvidence(inputs_digest=inputs, wall_s=round(time.monotonic() - started, 3), report=report)
    write_json(space.evidence("repair"), found)
    return True


def _base_source(job: Job) -> Source:
    """The base as repair and audit read it; evidence names its repo, never a folder of this host."""
    source = FolderSource(_base_folder(job))
    source.label = job.base.base.repo_id
    return source


def _copy_by_links(source: Path, target: Path) -> None:
    """`target` becomes a copy of `source` that shares its bytes; repair replaces files, never edits them."""
    fresh = target.with_name(target.name + ".partial")
    for stale in (fresh, target):
        shutil.rmtree(stale, ignore_errors=True)
    shutil.copytree(source, fresh, copy_function=os.link, ignore=shutil.ignore_patterns("quant_log.csv"))
    fresh.rename(target)


def audit(job: Job) -> bool:
    space = job.workspace
    inputs = _audited_from(job)
    before = space.existing("audit", AuditEvidence)
    if not (before and before.inputs_digest == inputs):
        started = time.monotonic()
        report = auditing.audit(FolderSource(space.checkpoint), base=_base_source(job), recipe=job.recipe)
        report = report.model_copy(update={"source": job.release.target_repo})
        found = AuditEvidence(
            inputs_digest=inputs, wall_s=round(time.monotonic() - started, 3), report=report
        )
        write_json(space.evidence("audit"), found)
    else:
        found = before
    _require_passed(found)
    return found is not before


def _require_passed(found: AuditEvidence) -> None:
    if found.report.passed:
        return
    failed = [f"{c.id}: {c.detail}" for c in found.report.checks if c.status == "failed"]
    skipped = [c.id for c in found.report.checks if c.status == "skipped"]
    raise AuditFailed(
        f"{len(failed)} of {len(found.report.checks)} checks failed:\n"
        + "\n".join(f"  - {each}" for each in failed),
        why=f"skipped: {', '.join(skipped)}" if skipped else "",
        fix="nothing was uploaded; look into the quantizer's log, mend the recipe or the tool, and run again",
    )


def _audited_from(job: Job) -> str:
    """What the audit depends on: the files, the base, what the recipe promises and its audit's limits."""
    limits = job.recipe.thresholds
    audited = [job.release.recipe_digest, str(limits.max_relative_error), str(limits.min_row_cosine)]
    return digest("audit", fingerprint(job.workspace.checkpoint), *audited, job.base.base.revision)


def require_unchanged(job: Job, audited: AuditEvidence) -> None:
    """Raises Refused when the checkpoint's files are not those that were audited."""
    if audited.inputs_digest != _audited_from(job):
        raise Refused(
            "the checkpoint changed after its audit",
            where=str(job.workspace.checkpoint),
            fix="run the release again: it audits first",
        )


def upload(job: Job) -> bool:
    space = job.workspace
    if is_published(job):
        return False
    repo.refuse_rehearsal(job.release, job.hub)
    audited = space.read("audit", AuditEvidence)
    _require_passed(audited)
    require_unchanged(job, audited)
    inputs = upload_inputs(space)
    before = space.existing("upload", UploadEvidence)
    if job.restage:
        uploading.withdraw(job.release, job.hub)
    elif before and before.inputs_digest == inputs and uploading.standing(job.release, job.hub):
        return False
    extra = _build_files(job, audited)
    files = repo.digests(space.checkpoint, extra)
    write_atomically(space.extra / repo.SUMS, repo.sums(f.digest for f in files.values()).encode())
    files |= repo.digests(space.extra / "none", {repo.SUMS: space.extra / repo.SUMS})
    write_json(
        space.evidence("upload"), uploading.upload(job.release, files, inputs_digest=inputs, hub=job.hub)
    )
    return True


def upload_inputs(space: Workspace) -> str:
    """What an upload depends on: the audited files, and how they were quantized."""
    audited, quantized = space.read("audit", AuditEvidence), space.read("quantize", QuantizeEvidence)
    return digest("upload", audited.inputs_digest, quantized.inputs_digest)


def _build_files(job: Job, audited: AuditEvidence) -> dict[str, Path]:
    """What the first commit holds beside the checkpoint: the resolved recipe and the build's evidence."""
    space = job.workspace
    build = evidence.Build(
        release=job.release,
        base=job.base,
        quantize=space.read("quantize", QuantizeEvidence),
        repair=space.read("repair", RepairEvidence),
        audit=audited,
    )
    write_json(space.extra / "build_evidence.json", build)
    write_atomically(space.extra / "recipe.yaml", evidence.recipe_yaml(job.release).encode())
    losses = evidence.losses_csv(build.quantize.result)
    write_atomically(space.extra / "quant_log.csv", losses.encode())
    return {name: space.extra / name for name in ("build_evidence.json", "recipe.yaml", "quant_log.csv")}
