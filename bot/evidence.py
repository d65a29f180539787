"""The whole evidence of a release in one document: what a card is rendered from and checked against."""

from __future__ import annotations

from typing import Literal

import yaml
from pydantic import Field

from bot.house.model import Gain
from bot.measurements import Examined
from bot.models import (
    SCHEMA_VERSION,
    BackendResult,
    BaseEvidence,
    CommitSha,
    Model,
    QuantizeEvidence,
    Release,
    Sha256,
    UploadEvidence,
)
from bot.stages.audit import AuditReport
from bot.stages.repair import RepairReport


class RepairEvidence(Model):
    """`evidence/repair.json`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    stage: Literal["repair"] = "repair"
    inputs_digest: Sha256
    wall_s: float
    report: RepairReport


class AuditEvidence(Model):
    """`evidence/audit.json`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    stage: Literal["audit"] = "audit"
    inputs_digest: Sha256
    wall_s: float
    report: AuditReport


class Build(Model):
    """`build_evidence.json`: how the weights came to be; uploaded beside them."""

    schema_version: Literal[1] = SCHEMA_VERSION
    release: Release
    base: BaseEvidence
    quantize: QuantizeEvidence
    repair: RepairEvidence
    audit: AuditEvidence


class ValidateEvidence(Model):
    """`evidence/validate.json`: the first sitting: what the server as the card prints it showed."""

    schema_version: Literal[1] = SCHEMA_VERSION
    stage: Literal["validate"] = "validate"
    inputs_digest: Sha256
    wall_s: float
    release: Examined
    base: Examined


class MeasureEvidence(Model):
    """`evidence/measure.json`: everything that was seen of the release, its base and the official FP8 repo.

    All of one engine on one machine. `not_measured` says why a baseline is missing.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    stage: Literal["measure"] = "measure"
    inputs_digest: Sha256
    wall_s: float
    release: Examined
    base: Examined
    fp8: Examined | None
    not_measured: dict[str, str]


GateStatus = Literal["passed", "failed", "anomalous", "not_applicable"]


class GateResult(Model):
    """One gate's verdict: the value, the limit it was held to, and why that is the limit."""

    id: str
    title: str
    status: GateStatus
    value: float | None
    limit: float | None
    why: str
    detail: str


class Override(Model):
    """A maintainer's decision to publish in spite of a gate; for this evidence only."""

    gates: list[str]
    who: str
    why: str
    at: str
    inputs_digest: Sha256


class GatesEvidence(Model):
    """`evidence/gate.json`: every gate's verdict, and what a maintainer decided."""

    schema_version: Literal[1] = SCHEMA_VERSION
    stage: Literal["gate"] = "gate"
    inputs_digest: Sha256
    results: list[GateResult]
    override: Override | None


class Sibling(Model):
    """Another recipe's release of the same base, measured by the same engine on the same machine."""

    recipe_name: str
    headline: str
    repo_id: str
    key: str
    total_bytes: int
    bits_per_weight: float
    quantized_bits_per_weight: float
    relative_error: float
    passed: bool
    measured: Examined


class Republished(Model):
    """`evidence/republished.json`: a metadata release: whose weights and figures these are, what is new."""

    schema_version: Literal[1] = SCHEMA_VERSION
    stage: Literal["republished"] = "republished"
    key: str
    base_revision: CommitSha
    files: list[str]


class Evidence(Build):
    """`evidence.json`: the build, its upload, what was measured, the verdicts; published with the card.

    `republished` is None but for a metadata release, `house` but for a house recipe with evidence.
    """

    upload: UploadEvidence
    measurement: MeasureEvidence
    gates: GatesEvidence
    siblings: list[Sibling]
    republished: Republished | None = None
    house: Gain | None = Field(default=None, exclude_if=lambda value: value is None)


def losses_csv(result: BackendResult) -> str:
    """Per-module losses as a table, the same columns for every tool (some write none, or a broken one)."""
    rows = [f"{m.name},{m.loss!r},{_cell(m.num_samples)},{_cell(m.damp)}\n" for m in result.modules]
    return "module,loss,num_samples,damp\n" + "".join(rows)


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value)


def recipe_yaml(release: Release) -> str:
    """The resolved recipe as it acted, `--set` values and stand-in revisions included."""
    head = f"# {release.recipe_name}, resolved for release {release.key}\n"
    return head + yaml.safe_dump(release.recipe, sort_keys=False, allow_unicode=True)
