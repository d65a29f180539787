"""What the figures say beside each other: ratios, medians, spreads and advice, computed in one place.

Parts of the evidence hold what was counted. A card also prints what follows from it: this release's
perplexity over its base's, the speedup of drafting, the recipe that lies closest to the base. All of that
is derived here, pure, as one frozen model, so that table, card, plots and the card's lint take the same
number from the same place.

Figures of two engines, two machines or two texts are never set beside each other: such a ratio is absent,
and why it is absent is part of the model.
"""

from __future__ import annotations

from bot.comparison.advice import advise
from bot.comparison.drafting import acceptance_of, soak_of, speedups_of
from bot.comparison.memory import memory_of
from bot.comparison.model import (
    Advice,
    Comparison,
    Kind,
    MemoryFigures,
    Position,
    Side,
    SoakPoint,
    SpeedFigures,
    Speedup,
    Spread,
    Verdicts,
)
from bot.comparison.sides import Weights, side, why_absent
from bot.comparison.tables import COLUMNS, Table, examined_rows, headline_table, rows
from bot.evidence import Evidence, Sibling
from bot.measurements import Examined
from bot.stages import gate

__all__ = [
    "COLUMNS",
    "Advice",
    "Comparison",
    "Kind",
    "MemoryFigures",
    "Position",
    "Side",
    "SoakPoint",
    "SpeedFigures",
    "Speedup",
    "Spread",
    "Table",
    "Verdicts",
    "examined_rows",
    "headline_table",
    "of",
    "rows",
    "why_absent",
]


def of(evidence: Evidence) -> Comparison:
    """Everything that follows from a release's evidence."""
    found = evidence.measurement
    release, base = _release(evidence), _base(evidence)
    siblings = [_sibling(each, evidence) for each in evidence.siblings]
    positions, kinds = acceptance_of(found.release, found.base)
    soak = soak_of(found.release, found.base)
    return Comparison(
        release=release,
        base=base,
        fp8=_fp8(found.fp8, evidence) if found.fp8 else None,
        siblings=siblings,
        positions=positions,
        kinds=kinds,
        soak=soak,
        tested_context_tokens=max((each.context_tokens for each in soak if each.rate is not None), default=0),
        speedups=speedups_of(found.release),
        memory=memory_of(found.release, evidence.audit.report.inventory.bytes_by_part.get("mtp", 0)),
        advice=advise([release, *siblings]),
        gates=_gates(evidence),
        checks=_checks(evidence),
    )


def _gates(evidence: Evidence) -> Verdicts:
    statuses = [each.status for each in evidence.gates.results]
    return Verdicts(
        passed=statuses.count("passed"),
        failed=sum(status in gate.BLOCKING for status in statuses),
        not_applicable=statuses.count("not_applicable"),
        blocking=len(gate.blocking(evidence.gates)),
    )


def _checks(evidence: Evidence) -> Verdicts:
    statuses = [each.status for each in evidence.audit.report.checks]
    failed = statuses.count("failed")
    return Verdicts(
        passed=statuses.count("passed"),
        failed=failed,
        not_applicable=statuses.count("skipped"),
        blocking=failed,
    )


def _base_weights(evidence: Evidence) -> Weights:
    base = evidence.base
    return Weights(total_bytes=base.tensor_bytes, bits_per_weight=base.tensor_bytes * 8 / base.num_parameters)


def _base(evidence: Evidence) -> Side:
    found = evidence.measurement
    return side("base", "base", found.base, weights=_base_weights(evidence), told=found.not_measured)


def _release(evidence: Evidence) -> Side:
    inventory = evidence.audit.report.inventory
    return side(
        "release",
        evidence.release.recipe_name,
        evidence.measurement.release,
        base=evidence.measurement.base,
        base_weights=_base_weights(evidence),
        weights=Weights(
            total_bytes=inventory.total_bytes,
            bits_per_weight=inventory.bits_per_weight,
            quantized_bits_per_weight=inventory.quantized_bits_per_weight,
        ),
        passed=not gate.blocking(evidence.gates),
        told=evidence.measurement.not_measured,
    )


def _fp8(found: Examined, evidence: Evidence) -> Side:
    told, base = evidence.measurement.not_measured, evidence.measurement.base
    total_bytes = found.subject.tensor_bytes
    bits = total_bytes * 8 / evidence.base.num_parameters
    weights = Weights(total_bytes=total_bytes, bits_per_weight=bits)
    known = _base_weights(evidence)
    return side("fp8", "official FP8", found, base=base, base_weights=known, weights=weights, told=told)


def _sibling(found: Sibling, evidence: Evidence) -> Side:
    return side(
        "sibling",
        found.recipe_name,
        found.measured,
        base=evidence.measurement.base,
        base_weights=_base_weights(evidence),
        weights=Weights(
            total_bytes=found.total_bytes,
            bits_per_weight=found.bits_per_weight,
            quantized_bits_per_weight=found.quantized_bits_per_weight,
        ),
        passed=found.passed,
        told={},
    )
