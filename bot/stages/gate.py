"""Gate: every verdict on what was measured, and a maintainer's decision to publish in spite of one.

Judging never raises: a release that fails still gets its card, marked, so that people can look at it. What
refuses is `refuse`, before anything becomes public. An override names the gates, who decided and why, and
holds for that evidence alone: new evidence asks again.
"""

from __future__ import annotations

import difflib
import hashlib
import unicodedata
from collections.abc import Sequence

from bot.errors import GateFailed, UsageError
from bot.evidence import GateResult, GatesEvidence, MeasureEvidence, Override
from bot.gates import evaluate
from bot.gates.gate import Facts
from bot.recipe_evaluation import Thresholds
from bot.stages.audit import AuditReport

BLOCKING = ("failed", "anomalous")
COLUMNS = ("gate", "verdict", "value", "limit", "what was seen")
MIN_WHY_CHARS = 10
MAX_CHARS = 1000


def judge(
    thresholds: Thresholds,
    audit: AuditReport,
    measurement: MeasureEvidence,
    *,
    inputs_digest: str,
    override: Override | None,
) -> GatesEvidence:
    """Ask every gate. An `override` that was made for other evidence is dropped."""
    facts = Facts(
        thresholds=thresholds,
        audit=audit,
        release=measurement.release,
        base=measurement.base,
        fp8=measurement.fp8,
        not_measured=measurement.not_measured,
    )
    stands = override is not None and override.inputs_digest == inputs_digest
    return GatesEvidence(
        inputs_digest=inputs_digest, results=evaluate(facts), override=override if stands else None
    )


def inputs_of(thresholds: Thresholds, audit: AuditReport, measurement: MeasureEvidence) -> str:
    """sha256 over every figure and limit that is judged: what an override is bound to."""
    parts = [each.model_dump_json() for each in (thresholds, audit, measurement)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def blocking(gates: GatesEvidence) -> list[GateResult]:
    """The results that block publishing: failed or anomalous, and not overridden for this evidence."""
    return [result for result in gates.results if result.status in BLOCKING and not overridden(gates, result)]


def overridden(gates: GatesEvidence, result: GateResult) -> bool:
    """Whether a maintainer decided to publish in spite of this result, for this evidence."""
    decision = gates.override
    if decision is None or decision.inputs_digest != gates.inputs_digest:
        return False
    return result.status in BLOCKING and result.id in decision.gates


def refuse(gates: GatesEvidence) -> None:
    """Raises GateFailed naming every result that blocks; `problems` holds each as a mapping."""
    found = blocking(gates)
    if not gates.results:
        raise GateFailed("no gate was asked", fix="run the stage gate again")
    if not found:
        return
    names = ", ".join(result.id for result in found)
    error = GateFailed(
        "\n".join([f"{len(found)} of {len(gates.results)} gates block this release", *map(_line, found)]),
        why="the evidence is below the recipe's thresholds, or better than can be",
        fix=f"look at the card; then mend it, or let a maintainer override: {names}",
    )
    error.problems = [result.model_dump(mode="json") for result in found]
    raise error


def _line(result: GateResult) -> str:
    figures = f" ({_shown(result.value)}, limit {_shown(result.limit)})" if result.limit is not None else ""
    mark = " [anomalous]" if result.status == "anomalous" else ""
    return f"  {result.id}{mark}: {result.detail}{figures}"


def decide(gates: GatesEvidence, *, gate_ids: Sequence[str], who: str, why: str, at: str) -> Override:
    """A maintainer's decision to publish in spite of `gate_ids`, for this evidence alone.

    It replaces an earlier one. `at` is the moment, ISO 8601 in UTC. Raises UsageError for a gate that does
    not exist or does not block, and for a `who` or `why` that says nothing.
    """
    if not gate_ids:
        raise UsageError("an override names at least one gate", fix=f"name some of: {_blocking_ids(gates)}")
    for each in gate_ids:
        _require_blocking(gates, each)
    return Override(
        gates=list(dict.fromkeys(gate_ids)),
        who=_text("who", who, at_least=1),
        why=_text("why", why, at_least=MIN_WHY_CHARS),
        at=_text("at", at, at_least=1),
        inputs_digest=gates.inputs_digest,
    )


def _require_blocking(gates: GatesEvidence, gate_id: str) -> None:
    statuses = {result.id: result.status for result in gates.results}
    if statuses.get(gate_id) in BLOCKING:
        return
    if gate_id in statuses:
        what = f"the gate {gate_id!r} is {statuses[gate_id].replace('_', ' ')}: there is nothing to override"
        raise UsageError(what, fix=f"gates that block: {_blocking_ids(gates)}")
    near = difflib.get_close_matches(gate_id, statuses, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise UsageError(f"there is no gate {gate_id!r}", fix=f"{hint}Gates that block: {_blocking_ids(gates)}")


def _blocking_ids(gates: GatesEvidence) -> str:
    return ", ".join(result.id for result in gates.results if result.status in BLOCKING) or "none"


def _text(name: str, value: str, *, at_least: int) -> str:
    text = value.strip()
    if any(unicodedata.category(char).startswith(("C", "Zl", "Zp")) for char in text):
        raise UsageError(f"{name} holds a control character: {text!r}", fix="write it as one plain line")
    if not at_least <= len(text) <= MAX_CHARS:
        wanted = f"{at_least} to {MAX_CHARS:,} characters"
        raise UsageError(f"{name} has {len(text)} characters, not {wanted}", fix=f"say {name} in {wanted}")
    return text


# ── shown ──────────────────────────────────────────────────────────────────────────────────


def rows(gates: GatesEvidence) -> list[tuple[str, ...]]:
    """One row a result under COLUMNS, for the terminal and the job summary."""
    return [
        (result.id, _verdict(gates, result), _shown(result.value), _shown(result.limit), result.detail)
        for result in gates.results
    ]


def _verdict(gates: GatesEvidence, result: GateResult) -> str:
    text = result.status.replace("_", " ")
    return f"{text}, overridden" if overridden(gates, result) else text


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
