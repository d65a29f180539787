"""The whole evidence of a release in one document: what a card is rendered from and checked against."""

from __future__ import annotations

from typing import Literal

import yaml

from bot.models import (
    SCHEMA_VERSION,
    BackendResult,
    BaseEvidence,
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


class Evidence(Build):
    """`evidence.json`: the build and its upload; reviewed and published with the card."""

    upload: UploadEvidence


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
