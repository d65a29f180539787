"""From verdicts to a public repo: card and publishing."""

from __future__ import annotations

from bot import house, siblings
from bot.errors import Refused
from bot.evidence import (
    AuditEvidence,
    Evidence,
    GatesEvidence,
    MeasureEvidence,
    RepairEvidence,
    Republished,
)
from bot.job import Job, require_key
from bot.models import PublishEvidence, QuantizeEvidence, UploadEvidence, write_json
from bot.stages import card as carding
from bot.stages import gate as gating
from bot.stages import publish as publishing
from bot.steps.inputs import is_published


def evidence_of(job: Job) -> Evidence:
    """The whole document that a card is rendered from."""
    space = job.workspace
    measured = space.read("measure", MeasureEvidence)
    return Evidence(
        measurement=measured,
        gates=space.read("gate", GatesEvidence),
        siblings=siblings.of(job.release, measured, work=space.root.parent, hub=job.hub),
        release=job.release,
        base=job.base,
        quantize=space.read("quantize", QuantizeEvidence),
        repair=space.read("repair", RepairEvidence),
        audit=space.read("audit", AuditEvidence),
        upload=space.read("upload", UploadEvidence),
        republished=space.existing("republished", Republished),
        house=house.quoted(job.release),
    )


def card(job: Job) -> bool:
    if is_published(job):
        return False
    return carding.render_to(job.workspace.card, evidence_of(job))


def publish(job: Job) -> bool:
    space = job.workspace
    files = publishing.card_files(job.card)
    reviewed = carding.check(job.card)
    _require_same(job, reviewed)
    _judge_again(job, reviewed)
    before = space.existing("publish", PublishEvidence)
    changes: list[str] = []
    found = publishing.publish(
        job.release,
        job.base,
        reviewed.upload,
        files,
        audit_passed=reviewed.audit.report.passed,
        hub=job.hub,
        collection=job.config.collection if job.collects else None,
        before=before,
        after_step=changes.append,
    )
    if before is None or changes:
        write_json(space.evidence("publish"), found)
    if found.collection_error:
        raise publishing.collection_failure(found)
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


def _judge_again(job: Job, reviewed: Evidence) -> None:
    """The verdicts on the card are those of its own figures, and none of them blocks.

    Raises Refused when they are not (the evidence was edited), GateFailed when one does.
    """
    thresholds, judged = job.recipe.thresholds, reviewed.gates
    report, measured = reviewed.audit.report, reviewed.measurement
    again = gating.judge(
        thresholds,
        report,
        measured,
        inputs_digest=gating.inputs_of(thresholds, report, measured),
        override=judged.override,
    )
    if again != judged:
        raise Refused(
            "the card's verdicts are not those of its figures",
            where=str(job.card),
            why="evidence.json was edited, or judged by other thresholds",
            fix=f"judge and render again: `release-bot gate {job.release.key}`, then card",
        )
    gating.refuse(judged)
