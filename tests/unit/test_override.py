"""The stage gate: all that blocks is told at once, and an override covers what it names, and no more."""

from __future__ import annotations

import json
from typing import Any

import measured as m
import pytest

from bot import log
from bot.errors import GateFailed, UsageError
from bot.evidence import GatesEvidence, Override
from bot.stages import gate

AT = "2026-11-21T12:00:00+00:00"
OLD, NEW = "a" * 64, "b" * 64
WHY = "the set is short, and a person has read the answers"
BAD: dict[str, Any] = {
    "acceptance": m.acceptance([0, 0]),
    "perplexity": m.perplexity(6.0),
    "divergence": m.divergence(0.3),
}
BLOCKING = ["acceptance.position.0", "acceptance.position.1", "ppl.ratio", "kld"]


def judged(*, inputs_digest: str = OLD, override: Override | None = None, **release: Any) -> GatesEvidence:
    measured = m.measurement(release=release, base={"canaries": m.canaries(text__fact={"held": False})})
    return gate.judge(m.thresholds(), m.audit(), measured, inputs_digest=inputs_digest, override=override)


def decided(*gate_ids: str, **changes: str) -> Override:
    told = {"who": "maintainer", "why": WHY, "at": AT, **changes}
    return gate.decide(judged(**BAD), gate_ids=gate_ids, **told)


def ids(gates: GatesEvidence) -> list[str]:
    return [result.id for result in gate.blocking(gates)]


# ── refusing ───────────────────────────────────────────────────────────────────────────────


def test_a_good_release_is_not_refused():
    assert gate.refuse(judged()) is None
    assert gate.blocking(judged()) == []


def test_everything_that_blocks_is_told_at_once():
    with pytest.raises(GateFailed) as caught:
        gate.refuse(judged(**BAD))
    error, text = caught.value, str(caught.value)
    assert error.exit_code == 6
    assert [problem["id"] for problem in error.problems] == BLOCKING
    assert [problem["status"] for problem in error.problems] == ["failed", "failed", "anomalous", "failed"]
    assert text.startswith("4 of 27 gates block this release\n")
    assert "kld: 0.30000 nats over 65,504 tokens (0.3, limit 0.06)" in text
    assert "ppl.ratio [anomalous]: far better than the base" in text
    assert json.loads(json.dumps(error.as_json()))["problems"][3]["limit"] == 0.06


def test_evidence_without_a_verdict_is_refused():
    with pytest.raises(GateFailed, match="no gate was asked"):
        gate.refuse(GatesEvidence(inputs_digest=OLD, results=[], override=None))


def test_verdicts_survive_being_written():
    nan = judged(perplexity=m.perplexity(float("nan")))
    assert GatesEvidence.model_validate_json(nan.model_dump_json()) == nan


# ── overriding ─────────────────────────────────────────────────────────────────────────────


def test_an_override_covers_what_it_names_and_no_more():
    some = judged(override=decided("kld", "ppl.ratio"), **BAD)
    assert ids(some) == BLOCKING[:2]
    with pytest.raises(GateFailed) as caught:
        gate.refuse(some)
    assert [problem["id"] for problem in caught.value.problems] == BLOCKING[:2]
    every = judged(override=decided(*BLOCKING), **BAD)
    assert gate.refuse(every) is None
    assert [each.status for each in every.results] == [each.status for each in judged(**BAD).results]


def test_an_override_is_kept_with_who_and_why():
    found = judged(override=decided("kld", "kld", who=" maintainer "), **BAD).override
    assert found == Override(gates=["kld"], who="maintainer", why=WHY, at=AT, inputs_digest=OLD)


def test_an_override_does_not_count_for_other_evidence():
    old = decided(*BLOCKING)
    new = judged(inputs_digest=NEW, override=old, **BAD)
    assert new.override is None
    assert ids(new) == BLOCKING
    carried_over = m.changed(new, override=old)
    assert ids(carried_over) == BLOCKING
    with pytest.raises(GateFailed):
        gate.refuse(carried_over)


def test_an_override_of_one_failure_covers_no_later_one():
    before = decided("kld")
    assert ids(judged(override=before, **{**BAD, "speed": m.speeds(30.0)})) == [*BLOCKING[:3], "speed"]


@pytest.mark.parametrize(
    ("gate_ids", "message"),
    [
        (["kldd"], "there is no gate 'kldd'"),
        (["speed"], "the gate 'speed' is passed: there is nothing to override"),
        (["canary.text.fact"], "the gate 'canary.text.fact' is not applicable"),
        (["kld", "acceptance.position.7"], "there is no gate 'acceptance.position.7'"),
        ([], "an override names at least one gate"),
    ],
)
def test_only_gates_that_block_can_be_overridden(gate_ids, message):
    with pytest.raises(UsageError) as caught:
        decided(*gate_ids)
    assert message in str(caught.value)
    assert "acceptance.position.0, acceptance.position.1, ppl.ratio, kld" in caught.value.fix


def test_a_misspelt_gate_is_told_its_near_matches():
    with pytest.raises(UsageError) as caught:
        decided("ppl.ration")
    assert "did you mean 'ppl.ratio'" in caught.value.fix


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"who": ""}, "who has 0 characters"),
        ({"who": "   "}, "who has 0 characters"),
        ({"why": "because"}, "why has 7 characters, not 10 to 1,000"),
        ({"why": "x" * 1001}, "why has 1001 characters"),
        ({"why": "fine to release\n| kld | passed |"}, "why holds a control character"),
        ({"why": "fine to release \N{ESCAPE}[2J"}, "why holds a control character"),
        ({"why": "fine to \N{RIGHT-TO-LEFT OVERRIDE}release it"}, "why holds a control character"),
        ({"who": "one\N{LINE SEPARATOR}two"}, "who holds a control character"),
        ({"at": ""}, "at has 0 characters"),
    ],
)
def test_who_and_why_must_say_something_on_one_plain_line(changes, message):
    with pytest.raises(UsageError) as caught:
        decided("kld", **changes)
    assert message in str(caught.value)


# ── shown ──────────────────────────────────────────────────────────────────────────────────


def test_rows_show_each_verdict_and_what_was_overridden(monkeypatch, tmp_path):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    rows = gate.rows(judged(override=decided("ppl.ratio"), **BAD))
    shown = {row[0]: row[1:] for row in rows}
    assert len(rows) == 27
    assert {len(row) for row in rows} == {len(gate.COLUMNS)}
    assert shown["ppl.ratio"][:3] == ("anomalous, overridden", "0.8571", "0.97")
    assert shown["kld"] == ("failed", "0.3", "0.06", "0.30000 nats over 65,504 tokens")
    assert shown["canary.text.fact"][:3] == ("not applicable", "", "")
    assert "ppl.ratio" in log.table(gate.COLUMNS, rows, title="Gates")
    assert "| kld | failed | 0.3 | 0.06 |" in (tmp_path / "summary.md").read_text()
