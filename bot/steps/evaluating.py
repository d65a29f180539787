"""From an uploaded checkpoint to verdicts: validate, measure, gate, and a maintainer's override."""

from __future__ import annotations

from datetime import UTC, datetime

from bot import examinations, log
from bot.errors import InfrastructureError, InputError, NotServable
from bot.evidence import AuditEvidence, GatesEvidence, MeasureEvidence, Override, ValidateEvidence
from bot.job import Job
from bot.models import write_json
from bot.serving import engine as engines
from bot.serving.examination import Examination
from bot.stages import gate as gating
from bot.stages import measure as measuring
from bot.stages import validate as validating
from bot.steps import building
from bot.steps.inputs import digest, is_published


def validate(job: Job) -> bool:
    """Serve the uploaded checkpoint and its base, as the card prints it."""
    if is_published(job):
        return False
    base, release = _examined(job)
    inputs = digest("validate", *release.inputs(), *base.inputs())
    before = job.workspace.existing("validate", ValidateEvidence)
    if before and before.inputs_digest == inputs and before.release.failure is None:
        return False
    write_json(job.workspace.evidence("validate"), validating.validate(release, base, inputs_digest=inputs))
    return True


def _examined(job: Job) -> tuple[Examination, Examination]:
    """The base and the release, whose files must be those that were audited."""
    building.require_unchanged(job, job.workspace.read("audit", AuditEvidence))
    engine = engines.ready(job.config.home)
    base = examinations.of_base(job, engine)
    return base, examinations.of_release(job, engine, base)


def measure(job: Job) -> bool:
    """Complete what the engine can tell of release, base and the official FP8 repo."""
    space = job.workspace
    if is_published(job):
        return False
    validated = space.read("validate", ValidateEvidence)
    base, release = _examined(job)
    inputs = digest("measure", validated.inputs_digest, *release.inputs(), *base.inputs())
    before = space.existing("measure", MeasureEvidence)
    if before and before.inputs_digest == inputs and before.release.failure is None:
        return False
    fp8, why_not = _fp8(job, base)
    found = measuring.measure(
        release,
        base,
        fp8,
        failure=validated.release.failure,
        not_measured={"fp8": why_not} if why_not else {},
        inputs_digest=inputs,
    )
    write_json(space.evidence("measure"), found)
    return True


def _fp8(job: Job, base: Examination) -> tuple[Examination | None, str | None]:
    """The official FP8 repo of the base, or why there is none to measure."""
    try:
        found = examinations.of_fp8(job, base.engine, base)
    except NotServable as e:
        return None, f"{e.where} cannot be measured here: {e.what}"
    except (InputError, InfrastructureError) as e:
        return None, f"it cannot be had: {e.what}"
    return found, None if found else f"{job.base.base.repo_id} has no official FP8 repo"


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
