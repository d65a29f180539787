"""From an uploaded checkpoint to verdicts: validate, measure, gate, and a maintainer's override."""

from __future__ import annotations

from datetime import UTC, datetime

from bot import examinations, log
from bot.evidence import AuditEvidence, GatesEvidence, MeasureEvidence, Override, ValidateEvidence
from bot.job import Job
from bot.models import UploadEvidence, write_json
from bot.serving import engine as engines
from bot.serving.engine import Engine
from bot.stages import gate as gating
from bot.stages import measure as measuring
from bot.stages import validate as validating
from bot.steps.inputs import digest, is_published


def validate(job: Job) -> bool:
    if is_published(job):
        return False
    engine = engines.ready(job.config.home)
    inputs = _measured_from(job, engine)
    before = job.workspace.existing("validate", ValidateEvidence)
    if before and before.inputs_digest == inputs and before.release.failure is None:
        return False
    base = examinations.of_base(job, engine)
    found = validating.validate(examinations.of_release(job, engine, base), base, inputs_digest=inputs)
    write_json(job.workspace.evidence("validate"), found)
    return True


def measure(job: Job) -> bool:
    space = job.workspace
    if is_published(job):
        return False
    engine = engines.ready(job.config.home)
    validated = space.read("validate", ValidateEvidence)
    inputs = digest("measure", _measured_from(job, engine), validated.model_dump_json())
    before = space.existing("measure", MeasureEvidence)
    if before and before.inputs_digest == inputs and before.release.failure is None:
        return False
    base = examinations.of_base(job, engine)
    fp8 = examinations.of_fp8(job, engine, base)
    found = measuring.measure(
        examinations.of_release(job, engine, base),
        base,
        fp8,
        failure=validated.release.failure,
        not_measured={} if fp8 else {"fp8": f"{job.base.base.repo_id} has no official FP8 repo"},
        inputs_digest=inputs,
    )
    write_json(space.evidence("measure"), found)
    return True


def _measured_from(job: Job, engine: Engine) -> str:
    """What the figures depend on: the uploaded files, the base, how they are served and measured, by what."""
    uploaded = job.workspace.read("upload", UploadEvidence)
    recipe, facts = job.recipe, engine.facts
    parts = [each.model_dump_json() for each in (recipe.serve, recipe.evaluation, facts)]
    return digest("validate", uploaded.inputs_digest, job.base.base.revision, *parts)


def gate(job: Job) -> bool:
    space = job.workspace
    if is_published(job):
        return False
    audited, measured = space.read("audit", AuditEvidence), space.read("measure", MeasureEvidence)
    thresholds = job.recipe.thresholds
    override = space.existing("override", Override)
    inputs = gating.inputs_of(thresholds, audited.report, measured)
    found = gating.judge(thresholds, audited.report, measured, inputs_digest=inputs, override=override)
    print_gates(found)
    if space.existing("gate", GatesEvidence) == found:
        return False
    write_json(space.evidence("gate"), found)
    return True


def print_gates(found: GatesEvidence) -> None:
    """Every verdict, on standard error and in the job summary."""
    columns = ("gate", "verdict", "value", "limit", "")
    log.info(log.table(columns, gating.rows(found), title="Gates"))


def decide(job: Job, *, gate_ids: list[str], who: str, why: str) -> GatesEvidence:
    """Record a maintainer's decision to publish in spite of gates, and judge again with it.

    Raises UsageError for a gate that does not exist or does not stand in the way.
    """
    space = job.workspace
    with space.locked():
        judged = space.read("gate", GatesEvidence)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        decided = gating.decide(judged, gate_ids=gate_ids, who=who, why=why, at=at)
        write_json(space.evidence("override"), decided)
        gate(job)
        return space.read("gate", GatesEvidence)
