"""Verdicts on measurements, for tests: by gate, by status."""

from __future__ import annotations

from typing import Any

import measured as m

from bot.evidence import GateResult, MeasureEvidence
from bot.gates import GATES
from bot.stages import gate

DRAFTED = {"acceptance.position.0", "acceptance.position.1", "soak.windows", "soak.fresh"}


def judged(measured: MeasureEvidence, *, audit: Any = None, **limits: Any) -> dict[str, GateResult]:
    found = gate.judge(
        m.thresholds(**limits), audit or m.audit(), measured, inputs_digest="a" * 64, override=None
    )
    results = {result.id: result for result in found.results}
    assert len(results) == len(found.results), "an id stands for one gate"
    return results


def having(results: dict[str, GateResult], *statuses: str) -> set[str]:
    return {each.id for each in results.values() if each.status in statuses}


def family(ids: set[str]) -> set[str]:
    return {next(g.id for g in GATES if each == g.id or (g.parts and each.startswith(g.id))) for each in ids}


def blocked(measured: MeasureEvidence, **changes: Any) -> set[str]:
    return having(judged(measured, **changes), "failed", "anomalous")
