"""Proves from headers and bytes that a checkpoint is what its recipe promises.

Many checks, one report: a broken shard does not keep the others from being looked at. A check is
passed, failed or skipped; a skipped one never counts as passed, and unless there was nothing to
check (a base without MTP, say) it keeps the whole from passing. What cannot be read at all (no
config, a header that lies, a JSON bomb) is no report but an InputError.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from bot.checkpoint import checks_files, checks_tensors
from bot.checkpoint.facts import Facts, gather
from bot.checkpoint.files import Source
from bot.checkpoint.inventory import components, part_of, total_bytes
from bot.checkpoint.verdict import Verdict
from bot.models import Model
from bot.recipe import Recipe

CHECKS: dict[str, Callable[[Facts], Verdict]] = {
    "tensors.missing": checks_tensors.tensors_missing,
    "tensors.orphan": checks_tensors.tensors_orphan,
    "tensors.kept_bits": checks_tensors.tensors_kept_bits,
    "mtp.missing": checks_tensors.mtp_missing,
    "mtp.unindexed": checks_tensors.mtp_unindexed,
    "mtp.fc_packed": checks_tensors.mtp_fc_packed,
    "mtp.bits": checks_tensors.mtp_bits,
    "visual.bits": checks_tensors.visual_bits,
    "precision.visual": checks_tensors.precision_visual,
    "precision.in_proj_ab": checks_tensors.precision_in_proj_ab,
    "scales.finite": checks_tensors.scales_finite,
    "scales.zero": checks_tensors.scales_zero,
    "weights.distance": checks_tensors.weights_distance,
    "gidx.trivial": checks_tensors.gidx_trivial,
    "config.lists": checks_files.config_lists,
    "config.architecture": checks_files.config_architecture,
    "index.total_size": checks_files.index_total_size,
    "index.paths": checks_files.index_paths,
    "shards.missing": checks_files.shards_missing,
    "shards.truncated": checks_files.shards_truncated,
    "shards.overlap": checks_files.shards_overlap,
    "sidefiles.missing": checks_files.sidefiles_missing,
    "sidefiles.differ": checks_files.sidefiles_differ,
    "files.local_path": checks_files.files_local_path,
    "files.pickle": checks_files.files_pickle,
    "files.symlink": checks_files.files_symlink,
}


class Check(Model):
    """One line of the report. `passed` is true for the status `passed` alone."""

    id: str
    status: Literal["passed", "failed", "skipped"]
    passed: bool
    detail: str
    tensors: list[str]


class Component(Model):
    """What one part of the model is, in one precision."""

    part: str
    precision: str
    packed: bool
    num_tensors: int
    num_modules: int
    parameters: int
    bytes: int
    bits_per_weight: float


class Inventory(Model):
    """Counts, bytes and bits a weight, all from headers. `parameters` are the base's."""

    num_tensors: int
    num_shards: int
    num_packed_modules: int
    num_visual_tensors: int
    num_mtp_tensors: int
    parameters: int
    total_bytes: int
    file_bytes: int
    bits_per_weight: float
    quantized_parameters: int
    quantized_bytes: int
    quantized_bits_per_weight: float | None
    bytes_by_part: dict[str, int]
    components: list[Component]


class DistanceRow(Model):
    """One module's distance from the base; see `bot.checkpoint.distance`."""

    name: str
    relative_error: float
    max_row_error: float
    min_row_cosine: float
    gain: float
    max_row_gain_error: float
    max_group_error: float
    shift: float | None
    num_compared: int
    num_weights: int


class Distance(Model):
    """The distance of the packed weights from the base, overall and by module."""

    num_modules: int
    num_measured: int
    share_compared: float
    relative_error: float | None
    max_relative_error: float | None
    max_relative_error_module: str | None
    min_row_cosine: float | None
    max_abs_shift: float | None
    modules: list[DistanceRow]


class AuditReport(Model):
    """What `release-bot audit --json` prints."""

    schema_version: Literal[1] = 1
    source: str
    source_revision: str | None
    base: str | None
    base_revision: str | None
    recipe: str | None
    headers_only: bool
    packing: str
    passed: bool
    checks: list[Check]
    inventory: Inventory
    distance: Distance
    requests: int
    base_requests: int
    wall_s: float

    def failed(self) -> list[str]:
        """The ids of the checks that failed."""
        return [check.id for check in self.checks if check.status == "failed"]


def audit(
    source: Source, *, base: Source | None, recipe: Recipe | None, headers_only: bool = False
) -> AuditReport:
    """Every check on `source`; InputError when it or the base cannot be read at all."""
    started = time.monotonic()
    facts = gather(source, base, recipe, headers_only=headers_only)
    verdicts = {name: check(facts) for name, check in CHECKS.items()}
    fine = all(v.status == "passed" or not v.applicable for v in verdicts.values())
    return AuditReport(
        source=source.label,
        source_revision=source.revision,
        base=base.label if base else None,
        base_revision=base.revision if base else None,
        recipe=recipe.name if recipe else None,
        headers_only=headers_only,
        packing=facts.packing,
        passed=fine,
        checks=[_check(name, verdict) for name, verdict in verdicts.items()],
        inventory=_inventory(facts),
        distance=_distance(facts),
        requests=source.requests,
        base_requests=base.requests if base else 0,
        wall_s=time.monotonic() - started,
    )


def _check(name: str, verdict: Verdict) -> Check:
    return Check(
        id=name,
        status=verdict.status,
        passed=verdict.status == "passed",
        detail=verdict.detail,
        tensors=list(verdict.tensors),
    )


def _inventory(facts: Facts) -> Inventory:
    tensors = facts.checkpoint.tensors
    rows = components(facts.checkpoint, facts.modules, facts.packing)
    own = facts.base.tensors.values() if facts.base else ()
    parameters = sum(entry.num_elements for entry in own) or sum(row.parameters for row in rows)
    packed = [row for row in rows if row.packed]
    quantized, size = sum(row.parameters for row in packed), sum(row.bytes for row in packed)
    parts: dict[str, int] = {}
    for row in rows:
        parts[row.part] = parts.get(row.part, 0) + row.bytes
    whole = total_bytes(tensors.values())
    return Inventory(
        num_tensors=len(tensors),
        num_shards=len(facts.checkpoint.shards),
        num_packed_modules=len(facts.modules),
        num_visual_tensors=sum(part_of(name) == "visual" for name in tensors),
        num_mtp_tensors=sum(part_of(name) == "mtp" for name in tensors),
        parameters=parameters,
        total_bytes=whole,
        file_bytes=sum(shard.size_bytes for shard in facts.checkpoint.shards.values()),
        bits_per_weight=_bits(whole, parameters),
        quantized_parameters=quantized,
        quantized_bytes=size,
        quantized_bits_per_weight=_bits(size, quantized) if quantized else None,
        bytes_by_part=parts,
        components=[
            Component(
                part=row.part,
                precision=row.precision,
                packed=row.packed,
                num_tensors=row.num_tensors,
                num_modules=row.num_modules,
                parameters=row.parameters,
                bytes=row.bytes,
                bits_per_weight=_bits(row.bytes, row.parameters),
            )
            for row in rows
        ],
    )


def _bits(num_bytes: int, parameters: int) -> float:
    return num_bytes * 8 / parameters if parameters else 0.0


def _distance(facts: Facts) -> Distance:
    found = facts.distances
    worst = max(found, key=lambda d: d.relative_error, default=None)
    base = sum(d.sum_squared_base for d in found)
    overall = (sum(d.sum_squared_error for d in found) / base) ** 0.5 if base else None
    shifts = [abs(d.shift) for d in found if d.shift is not None]
    weights = sum(module.shape[0] * module.shape[1] for module in facts.modules.values())
    return Distance(
        num_modules=len(facts.modules),
        num_measured=len(found),
        share_compared=sum(d.num_compared for d in found) / weights if weights else 0.0,
        relative_error=overall,
        max_relative_error=worst.relative_error if worst else None,
        max_relative_error_module=worst.name if worst else None,
        min_row_cosine=min((d.min_row_cosine for d in found), default=None),
        max_abs_shift=max(shifts, default=None),
        modules=[
            DistanceRow(**{field: getattr(d, field) for field in DistanceRow.model_fields}) for d in found
        ],
    )
