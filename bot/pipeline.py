"""The order of the stages, and nothing else: watch → plan → quantize → repair → audit → upload →
validate → measure → card → publish (watch, plan, validate and measure are not built yet).

Each stage reads the release's folder and writes `evidence/<stage>.json` there. A stage whose
inputs are unchanged does nothing. Only this module knows the order; stages do not know each other.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bot import evidence, log, repo
from bot.checkpoint.source import FolderSource, Source
from bot.edges import environment
from bot.edges.device import device
from bot.errors import AuditFailed, Refused, UsageError
from bot.evidence import AuditEvidence, Evidence, RepairEvidence
from bot.job import Job, require_key
from bot.models import (
    PublishEvidence,
    QuantizeEvidence,
    UploadEvidence,
    write_atomically,
    write_json,
)
from bot.stages import audit, card, publish, quantize, repair, upload
from bot.workspace import fingerprint

STAGES = ("quantize", "repair", "audit", "upload", "card", "publish")
Summary = dict[str, Any]


def check_stage(name: str | None) -> None:
    """Raises UsageError when there is no such stage."""
    if name is not None and name not in STAGES:
        near = difflib.get_close_matches(name, STAGES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"there is no stage {name!r}", fix=f"{hint}Stages: {', '.join(STAGES)}")


def run(job: Job, *, until: str | None = None) -> Summary:
    """Run the stages up to `until`; returns what `--json` prints.

    On the real Hub the default ends with the card, since a person reviews it before it is published.
    What could not be uploaded at the end is refused at the start.
    """
    last = until or ("publish" if job.hub.embedded else "card")
    names = STAGES[: STAGES.index(last) + 1]
    states: dict[str, str] = {}
    if "upload" in names:
        repo.refuse_rehearsal(job.release, job.hub)
        if done := _done_elsewhere(job):
            return summary(job, dict.fromkeys(names, done))
    with job.workspace.locked():
        for name in names:
            states[name] = _run_stage(job, name)
    return summary(job, states)


def run_one(job: Job, name: str) -> dict[str, Any]:
    """Run one stage; returns its evidence."""
    with job.workspace.locked():
        _run_stage(job, name)
    path = job.card / "evidence.json" if name == "card" else job.workspace.evidence(name)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _run_stage(job: Job, name: str) -> str:
    with log.step(name):
        state = "done" if _RUNNERS[name](job) else "unchanged"
        log.info(f"  {state}")
    return state


def _done_elsewhere(job: Job) -> str | None:
    """`staged` or `published` when the Hub holds this key and this folder did not make it.

    Such work is not done again: quantizing twice gives other bytes. Where the folder holds an audited
    checkpoint, the stages go on from it instead. Raises Refused when the release was refused.
    """
    if job.workspace.evidence("audit").is_file():
        return None
    found = upload.standing(job.release, job.hub)
    if found is None:
        return None
    state = "published" if found.status == "merged" else "staged"
    log.info(f"  {state} already; nothing to do")
    return state


def summary(job: Job, states: dict[str, str]) -> Summary:
    """The release as `run --json` prints it."""
    space = job.workspace
    written = {s: str(space.evidence(s)) for s in ("base", *STAGES) if space.evidence(s).is_file()}
    addresses = {}
    if uploaded := space.existing("upload", UploadEvidence):
        addresses["repo"] = job.hub.url(uploaded.repo_id)
        addresses["pull_request"] = f"{addresses['repo']}/discussions/{uploaded.pr_num}"
    if (space.card / "README.md").is_file():
        addresses["card"] = str(space.card / "README.md")
    return {
        "schema_version": 1,
        "key": job.release.key,
        "base": job.release.base.model_dump(),
        "recipe": job.release.recipe_name,
        "rehearsal": job.release.rehearsal,
        "target_repo": job.release.target_repo,
        "stages": states,
        "evidence": written,
        "addresses": addresses,
        "work": str(space.root),
    }


# ── the stages, each with what it depends on ───────────────────────────────────────────────


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _quantize(job: Job) -> bool:
    tools = environment.ensure(f"quantize-{device()}", job.config.home)
    folder = _base_folder(job)
    before = job.workspace.existing("quantize", QuantizeEvidence)
    after = quantize.quantize(
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


def _repair(job: Job) -> bool:
    space = job.workspace
    quantized = space.read("quantize", QuantizeEvidence)
    inputs = _digest("repair", quantized.model_dump_json(), job.release.recipe_digest)
    before = space.existing("repair", RepairEvidence)
    if before and before.inputs_digest == inputs and space.checkpoint.is_dir():
        return False
    started = time.monotonic()
    _copy_by_links(space.quantized, space.checkpoint)
    report = repair.repair(space.checkpoint, base=_base_source(job), recipe=job.recipe)
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


def _audit(job: Job) -> bool:
    space = job.workspace
    inputs = _digest(
        "audit", fingerprint(space.checkpoint), job.release.recipe_digest, job.base.base.revision
    )
    before = space.existing("audit", AuditEvidence)
    if not (before and before.inputs_digest == inputs):
        started = time.monotonic()
        report = audit.audit(FolderSource(space.checkpoint), base=_base_source(job), recipe=job.recipe)
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


def _is_published(job: Job) -> bool:
    """Whether this folder's release is out: then its upload and card are history and not made again."""
    return job.workspace.existing("publish", PublishEvidence) is not None


def _upload(job: Job) -> bool:
    space = job.workspace
    if _is_published(job):
        return False
    repo.refuse_rehearsal(job.release, job.hub)
    audited = space.read("audit", AuditEvidence)
    _require_passed(audited)
    if audited.inputs_digest != _digest(
        "audit", fingerprint(space.checkpoint), job.release.recipe_digest, job.base.base.revision
    ):
        raise Refused(
            "the checkpoint changed after its audit",
            where=str(space.checkpoint),
            fix="run the release again: it audits first",
        )
    inputs = _digest("upload", audited.inputs_digest, space.read("quantize", QuantizeEvidence).inputs_digest)
    before = space.existing("upload", UploadEvidence)
    if job.restage:
        upload.withdraw(job.release, job.hub)
    elif before and before.inputs_digest == inputs and upload.standing(job.release, job.hub):
        return False
    extra = _build_files(job, audited)
    files = repo.digests(space.checkpoint, extra)
    write_atomically(space.extra / repo.SUMS, repo.sums(f.digest for f in files.values()).encode())
    files |= repo.digests(space.extra / "none", {repo.SUMS: space.extra / repo.SUMS})
    write_json(space.evidence("upload"), upload.upload(job.release, files, inputs_digest=inputs, hub=job.hub))
    return True


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


def evidence_of(job: Job) -> Evidence:
    """The whole document that a card is rendered from."""
    space = job.workspace
    return Evidence(
        release=job.release,
        base=job.base,
        quantize=space.read("quantize", QuantizeEvidence),
        repair=space.read("repair", RepairEvidence),
        audit=space.read("audit", AuditEvidence),
        upload=space.read("upload", UploadEvidence),
    )


def _card(job: Job) -> bool:
    if _is_published(job):
        return False
    return card.render_to(job.workspace.card, evidence_of(job))


def _publish(job: Job) -> bool:
    space = job.workspace
    files = publish.card_files(job.card)
    reviewed = card.check(job.card)
    _require_same(job, reviewed)
    before = space.existing("publish", PublishEvidence)
    changes: list[str] = []
    found = publish.publish(
        job.release,
        job.base,
        reviewed.upload,
        files,
        audit_passed=reviewed.audit.report.passed,
        hub=job.hub,
        collection=job.config.collection,
        before=before,
        after_step=changes.append,
    )
    if before is None or changes:
        write_json(space.evidence("publish"), found)
    if found.collection_error:
        raise publish.collection_failure(found)
    return bool(changes)


def _require_same(job: Job, reviewed: Evidence) -> None:
    """The reviewed card is of this very job: what is published is what this key stands for."""
    require_key(reviewed.release, job.release.key)
    same = reviewed.release == job.release and reviewed.base == job.base
    if not same or reviewed.upload != job.workspace.read("upload", UploadEvidence):
        raise Refused(
            "the card's evidence is not the evidence of this release",
            where=str(job.card),
            why="it was edited, or rendered before the release was staged again",
            fix=f"render it again: `release-bot card {job.release.key}`",
        )


_RUNNERS: dict[str, Callable[[Job], bool]] = {
    "quantize": _quantize,
    "repair": _repair,
    "audit": _audit,
    "upload": _upload,
    "card": _card,
    "publish": _publish,
}
