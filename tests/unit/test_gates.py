"""Gates: each wrong kind of checkpoint is refused by the right gate and no other.

Figures are made by `measured`; no engine runs here.
"""

from __future__ import annotations

import math
from typing import Any

import measured as m
import pytest
from judging import DRAFTED, blocked, family, having, judged

from bot.gates import GATES
from bot.gates.gate import unsound
from bot.measurements import Failure
from bot.recipe_evaluation import Thresholds

CANARIES = {f"canary.{each}" for each in m.CANARY_IDS}
SCORED = {"tokens", "ppl.ratio", "kld", "top1"}
# What sets release and base beside each other.
COMPARED = {"canary", "agreement", "acceptance.position", "soak.windows", "soak.fresh", "equality", "tokens",
            "ppl.ratio", "kld", "top1", "speed"}  # fmt: skip


def last_window_empty() -> Any:
    whole = m.soak()
    last = m.changed(whole.windows[-1], drafts=m.drafts([0, 0], num=0))
    return m.changed(whole, windows=[*whole.windows[:-1], last])


# ── a good release, and each wrong one ─────────────────────────────────────────────────────


@pytest.mark.parametrize(("device", "excused"), [("cuda", set()), ("cpu", {"speed"})])
def test_a_good_release_passes_every_gate(device, excused):
    results = judged(m.measurement(device=device))
    assert having(results, "failed", "anomalous") == set()
    assert having(results, "not_applicable") == excused
    assert CANARIES | DRAFTED | SCORED | {"audit", "size", "load", "load.base", "engine"} <= set(results)
    assert all(each.title and each.why and each.detail for each in results.values())


NAN = math.nan
WRONG: dict[str, tuple[dict[str, Any], set[str]]] = {
    "the MTP head is dead": ({"acceptance": m.acceptance([0, 0]), "soak": m.soak([0, 0])}, DRAFTED),
    "the head accepts by chance": ({"acceptance": m.acceptance([0.01, 0.0])},
                                   {"acceptance.position.0", "acceptance.position.1"}),
    "one draft position is dead": ({"acceptance": m.acceptance([0.79, 0])}, {"acceptance.position.1"}),
    "fewer drafts than the base": ({"acceptance": m.acceptance([0.79])}, {"acceptance.position.1"}),
    "nothing was drafted": ({"acceptance": m.acceptance([0, 0], num=0)},
                            {"acceptance.position.0", "acceptance.position.1"}),
    "too few drafts to tell": ({"acceptance": m.acceptance(num=20)},
                               {"acceptance.position.0", "acceptance.position.1"}),
    "answers run in circles": ({"acceptance": m.acceptance([0.99, 0.98])},
                               {"acceptance.position.0", "acceptance.position.1"}),
    "drafts are promised that nobody counted": ({"acceptance": m.acceptance(num_speculative_tokens=3)},
                                                {"acceptance.position.2"}),
    "acceptance counters cannot be": ({"acceptance": m.acceptance([1.2, 0.5])},
                                      {"acceptance.position.0", "acceptance.position.1"}),
    "drafting decays": ({"soak": m.soak(curve=[1, 0.7, 0.4, 0.1])}, {"soak.windows"}),
    "drafting stops in a window": ({"soak": last_window_empty()}, {"soak.windows"}),
    "the soak broke off": ({"soak": m.soak(curve=[1, 1])}, {"soak.windows"}),
    "a fresh prompt drafts worse": ({"soak": m.soak(fresh=0.6)}, {"soak.fresh"}),
    "the soak is of another conversation": ({"soak": m.changed(m.soak(), windows=[
        m.changed(w, context_tokens=w.context_tokens + 1) for w in m.soak().windows])}, {"soak.windows"}),
    "vision is broken": ({"canaries": m.canaries(image={"held": False, "answers": ["red", "red"]})},
                         {"canary.image"}),
    "vision is gone": ({"canaries": m.canaries(image={"applicable": False, "served": False})},
                       {"canary.image"}),
    "a video kills the request": ({"canaries": m.canaries(video={"served": False, "held": False})},
                                  {"canary.video"}),
    "no tool call is parsed": ({"canaries": m.canaries(tool_call={"held": False})}, {"canary.tool_call"}),
    "no reasoning is parsed": ({"canaries": m.canaries(reasoning={"held": False})}, {"canary.reasoning"}),
    "a long prompt fails": ({"canaries": m.canaries(long_prompt={"held": False})}, {"canary.long_prompt"}),
    "a batch mixes answers up": ({"canaries": m.canaries(batch={"held": False})}, {"canary.batch"}),
    "the prefix cache changes answers": ({"canaries": m.canaries(prefix_cache={"held": False})},
                                         {"canary.prefix_cache"}),
    "a canary was left out": ({"canaries": m.changed(m.canaries(), rows=m.canaries().rows[:-1])},
                              {"canary.prefix_cache"}),
    "it says other things": ({"canaries": m.canaries(text__agreement={"tokens": [[7] * 40, [8] * 40]})},
                             {"agreement"}),
    "answers are missing": ({"canaries": m.canaries(text__agreement={"tokens": [list(range(40))]})},
                            {"agreement"}),
    "a share above one": ({"divergence": m.divergence(top1_agreement=1.5)}, {"top1"}),
    "the agreement was left out": ({"canaries": m.changed(m.canaries(), rows=[
        row for row in m.canaries().rows if row.id != "text.agreement"])},
                                   {"canary.text.agreement", "agreement"}),
    "quality is lost": ({"perplexity": m.perplexity(9.0),
                         "divergence": m.divergence(0.3, top1_agreement=0.7)}, {"ppl.ratio", "kld", "top1"}),
    "quality is lost that perplexity hides": ({"divergence": m.divergence(0.3)}, {"kld"}),
    "a lower bound is above the limit": ({"divergence": m.divergence(0.1, kind="lower_bound", k=128)},
                                         {"kld"}),
    "perplexity is too good": ({"perplexity": m.perplexity(6.0)}, {"ppl.ratio"}),
    "nothing was quantized": ({"divergence": m.divergence(0.0)}, {"kld"}),
    "no perplexity": ({"perplexity": m.perplexity(0.5)}, {"ppl.ratio"}),
    "another tokenizer": ({"perplexity": m.perplexity(7.1, tokens_sha256="0" * 64)}, {"tokens", "ppl.ratio"}),
    "other windows": ({"perplexity": m.perplexity(7.1, stride_tokens=1024)}, {"tokens", "ppl.ratio"}),
    "divergence from another base": ({"divergence": m.divergence(reference_fingerprint="f" * 64)},
                                     {"kld", "top1"}),
    "NaN in the divergence": ({"divergence": m.divergence(NAN)}, {"tokens", "kld", "top1"}),
    "NaN in a tail of the divergence": ({"divergence": m.divergence(p999=NAN)}, {"tokens", "kld", "top1"}),
    "infinite perplexity": ({"perplexity": m.perplexity(math.inf)}, {"tokens", "ppl.ratio"}),
    "weights were not tracked": ({"load": m.load(weights_tracked=False)}, {"load"}),
    "it is slower than its base": ({"speed": m.speeds(40.0)}, {"speed"}),
    "it is too fast to be true": ({"speed": m.speeds(300.0)}, {"speed"}),
    "it has no speed": ({"speed": m.speeds(1.0, **m.NO_SPEED)}, {"speed"}),
    "only the loaded speed": ({"speed": m.speeds(1.0, rows=[m.speed(900.0, streams=16)])}, {"speed"}),
    "speed without drafting": ({"speed": m.speeds(118.0, drafting=False)}, {"speed"}),
    "requests failed": ({"speed": m.speeds(1.0, rows=[
        m.speed(118.0, runs=[m.speed_run(118.0, num_failed=1)])])}, {"speed"}),
    "only speed on real prompts": ({"speed": m.speeds(1.0, rows=[m.speed(118.0, dataset="code")])},
                                   {"speed"}),
    "a speed without runs": ({"speed": m.speeds(1.0, rows=[m.speed(118.0, runs=[])])}, {"speed"}),
    "drafting changes what it says": ({"equality": m.equality(promised=True)}, {"equality"}),
    "wrong drafts are accepted": ({"equality": m.equality(num_equal=0, mean_equal_share=0.1)}, {"equality"}),
}  # fmt: skip
ANOMALOUS = {"answers run in circles", "perplexity is too good", "nothing was quantized",
             "it is too fast to be true"}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_release_is_refused_by_the_right_gates_and_no_other(what):
    changes, gates = WRONG[what]
    results = judged(m.measurement(release=changes))
    assert having(results, "failed", "anomalous") == gates
    assert having(results, "anomalous") == (gates if what in ANOMALOUS else set())
    assert unsound(list(results.values())) == [], "no verdict holds a figure that JSON cannot"


def test_a_dead_head_is_called_dead_and_a_weak_one_is_not():
    dead = judged(m.measurement(release={"acceptance": m.acceptance([0.01, 0.0])}))
    weak = judged(m.measurement(release={"acceptance": m.acceptance([0.4, 0.3])}))
    assert dead["acceptance.position.0"].detail.startswith("the MTP head is dead")
    assert weak["acceptance.position.0"].status == "failed"
    assert "dead" not in weak["acceptance.position.0"].detail


@pytest.mark.parametrize(
    ("part", "gates"),
    [
        ("load", {"load"}),
        ("canaries", CANARIES | {"agreement"}),
        ("acceptance", {"acceptance.position.0", "acceptance.position.1"}),
        ("soak", {"soak.windows", "soak.fresh"}),
        ("equality", {"equality"}),
        ("perplexity", {"tokens", "ppl.ratio"}),
        ("divergence", {"tokens", "kld", "top1"}),
        ("speed", {"speed"}),
    ],
)
@pytest.mark.parametrize("role", ["release", "base"])
def test_what_was_not_measured_has_failed(role, part, gates):
    needed = {("base", "load"): {"load.base"}, ("base", "divergence"): set()}
    results = judged(m.measurement(**{role: {part: None}}))
    failed = having(results, "failed", "anomalous")
    assert failed == needed.get((role, part), gates)
    assert all("not measured" in results[each].detail for each in failed)


def test_a_release_that_does_not_serve_fails_everything_with_the_reason():
    failure = Failure(kind="weights_missing", what="mtp.fc.weight is not in the checkpoint", log_tail=["…"])
    nothing = dict.fromkeys(
        ("load", "canaries", "acceptance", "soak", "speed", "equality", "perplexity", "divergence")
    )
    results = judged(m.measurement(release={**nothing, "failure": failure}))
    assert set(results) - having(results, "failed") == {"audit", "size", "load.base", "engine"}
    assert results["load"].detail == "weights_missing: mtp.fc.weight is not in the checkpoint"
    assert results["kld"].detail.endswith("(mtp.fc.weight is not in the checkpoint)")


def test_a_base_that_wrote_nothing_is_no_yardstick_of_speed():
    still = m.speed(62.0, runs=[m.speed_run(62.0, output_tokens_per_s=0.0)])
    found = judged(m.measurement(base={"speed": m.speeds(62.0, rows=[still])}))["speed"]
    assert (found.status, found.value) == ("failed", None)


def test_what_is_missing_says_whose_it_is():
    short = m.changed(m.canaries(), rows=m.canaries().rows[:-1])
    for who in ("base", "release", "release and base"):
        results = judged(m.measurement(**{side: {"canaries": short} for side in who.split(" and ")}))
        assert results["canary.prefix_cache"].detail == f"not measured: the {who}'s canary prefix_cache"
    slow = judged(m.measurement(release={"speed": m.speeds(1.0, **m.NO_SPEED)}))["speed"]
    assert slow.detail.endswith("(release: a CPU says nothing about a GPU's kernels)")


def test_a_reason_for_a_missing_part_is_told():
    measured = m.measurement(base={"speed": None}, not_measured={"base.speed": "no memory left"})
    assert judged(measured)["speed"].detail == "not measured: base.speed (no memory left)"


@pytest.mark.parametrize("change", [{"version": "0.33.0"}, {"driver": "590.1"}, {"torch": "2.14.0"}])
def test_figures_of_two_engines_are_not_compared(change):
    results = judged(m.measurement(base={"engine": m.engine(**change)}))
    assert family(having(results, "failed")) == COMPARED | {"engine"}
    assert next(iter(change)) in results["kld"].detail
    assert results["kld"].value is None


def test_figures_of_two_machines_are_not_compared():
    other = m.changed(m.engine().hardware, num_cores=8)
    assert "engine" in blocked(m.measurement(base={"engine": m.engine(hardware=other)}))
    assert blocked(m.measurement(fp8={"engine": m.engine(hardware=other)})) == {"engine"}


def test_the_fp8_repo_is_scored_on_the_same_tokens():
    other = m.perplexity(7.02, tokens_sha256="0" * 64)
    assert blocked(m.measurement(fp8={"perplexity": other})) == {"tokens"}
    assert blocked(m.changed(m.measurement(), fp8=None)) == set()


# ── bytes ──────────────────────────────────────────────────────────────────────────────────


def test_the_audit_is_a_gate_and_a_skipped_check_has_not_passed():
    good = m.audit()
    for status, passed in (("failed", False), ("skipped", False)):
        checks = [m.changed(good.checks[0], status=status, passed=passed), *good.checks[1:]]
        found = judged(m.measurement(), audit=m.audit(checks=checks))
        assert having(found, "failed") == {"audit"}
        assert good.checks[0].id in found["audit"].detail
    assert blocked(m.measurement(), audit=m.audit(checks=[])) == {"audit"}
    assert blocked(m.measurement(), audit=m.audit(passed=False)) == {"audit"}


def test_what_the_base_does_not_have_keeps_no_audit_from_passing():
    good = m.audit()
    excused = m.changed(good.checks[4], status="skipped", passed=False, detail="not applicable: no MTP")
    assert blocked(m.measurement(), audit=m.audit(checks=[*good.checks, excused])) == set()


@pytest.mark.parametrize(
    ("bits", "blocks"), [(4.7, set()), (4.81, {"size"}), (None, {"size"}), (NAN, {"size"})]
)
def test_size(bits, blocks):
    inventory = m.changed(m.audit().inventory, quantized_bits_per_weight=bits)
    assert blocked(m.measurement(), audit=m.audit(inventory=inventory)) - {"audit"} == blocks


# ── the list of gates ──────────────────────────────────────────────────────────────────────


def test_every_gate_says_what_holds_and_why_and_reads_what_there_is():
    assert len({each.id for each in GATES}) == len(GATES)
    facts = m.measurement()
    for each in GATES:
        assert each.title
        assert each.why.endswith(".")
        assert set(each.limits) == {word for word in Thresholds.model_fields if f"`{word}`" in each.title}
        for path in (*each.requires, *each.optional):
            role, *names = path.split(".")
            assert role == "audit" or getattr(getattr(facts, role), names[0], 0) != 0


def test_every_threshold_of_a_recipe_is_held_to():
    by_audit = {"max_relative_error", "min_row_cosine"}
    assert {name for each in GATES for name in each.limits} | by_audit == set(Thresholds.model_fields)
