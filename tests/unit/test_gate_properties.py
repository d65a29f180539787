"""Properties of gates: noise fails nothing, worse is never better, and no figure makes one stumble."""

from __future__ import annotations

import math
from typing import Any

import measured as m
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import judged

from bot.gates.counts import NOISE, Share, impossible, told_below
from bot.gates.gate import unsound
from bot.measurements import Drafts


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("num", [50, 200])
def test_equal_heads_are_seldom_told_apart(num, share):
    """By the whole binomial distribution of both counts: at most one in twenty-five."""
    chance = [math.comb(num, k) * share**k * (1 - share) ** (num - k) for k in range(num + 1)]
    told = sum(
        chance[a] * chance[b]
        for a in range(num + 1)
        for b in range(a, num + 1)
        if told_below(Share(a / num, num), Share(b / num, num))
    )
    assert told < 0.04


counts = st.integers(50, 3000).flatmap(lambda num: st.tuples(st.just(num), st.integers(0, num)))


@settings(max_examples=40)
@given(own=counts, head=counts, fewer=st.integers(0, 3000), scale=st.sampled_from([0.3, 0.8, 1.0, 1.15]))
def test_fewer_accepted_drafts_are_never_told_above(own, head, fewer, scale):
    (num, accepted), (base_num, base_accepted) = own, head
    base = Share(base_accepted / base_num, base_num)
    less = max(0, accepted - fewer)
    if told_below(Share(accepted / num, num), base, scale):
        assert told_below(Share(less / num, num), base, scale)
    assert NOISE == 2.0, "the docstring's proof holds for 2"


# ── properties of the whole ────────────────────────────────────────────────────────────────

share = st.floats(0, 1)
RANK = {"anomalous": 2, "not_applicable": 1, "passed": 1, "failed": 0}


@settings(max_examples=40)
@given(base=share, pair=st.tuples(share, share), num=st.integers(50, 4000))
def test_worse_acceptance_never_turns_failed_into_passed(base, pair, num):
    def status(shown: float) -> str:
        parts = {"acceptance": m.acceptance([shown], num), "soak": m.soak([base], curve=[1, shown], num=num)}
        held = {"acceptance": m.acceptance([base], num), "soak": m.soak([base], curve=[1, 1], num=num)}
        found = judged(m.measurement(release=parts, base=held))
        return [found[each].status for each in ("acceptance.position.0", "soak.windows")]

    for worse, better in zip(status(min(pair)), status(max(pair)), strict=True):
        assert RANK[worse] <= RANK[better] or worse == "not_applicable"


FIGURES: dict[str, tuple[Any, str, bool]] = {
    "ppl": (lambda v: {"perplexity": m.perplexity(1 + 20 * v)}, "ppl.ratio", False),
    "kld": (lambda v: {"divergence": m.divergence(v)}, "kld", False),
    "top1": (lambda v: {"divergence": m.divergence(top1_agreement=v)}, "top1", True),
    "speed": (lambda v: {"speed": m.speeds(1 + 400 * v)}, "speed", True),
    "fresh": (lambda v: {"soak": m.soak(fresh=v)}, "soak.fresh", True),
    "agreement": (lambda v: {"canaries": m.canaries(text__agreement={
        "tokens": [[*range(round(40 * v)), *[7] * (40 - round(40 * v))], list(range(100, 140))]})},
        "agreement", True),
}  # fmt: skip


@pytest.mark.parametrize("figure", FIGURES)
@settings(max_examples=40)
@given(pair=st.tuples(share, share))
def test_a_worse_figure_never_turns_failed_into_passed(figure, pair):
    changes, name, more_is_better = FIGURES[figure]
    worse, better = sorted(pair, reverse=not more_is_better)
    statuses = [judged(m.measurement(release=changes(v)))[name].status for v in (worse, better)]
    assert RANK[statuses[0]] <= RANK[statuses[1]]


@settings(max_examples=40)
@given(
    drafted=st.integers(-5, 400),
    tokens=st.integers(-5, 800),
    accepted=st.integers(-5, 900),
    positions=st.lists(st.integers(-5, 500), max_size=3),
)
def test_no_counters_make_a_gate_stumble(drafted, tokens, accepted, positions):
    odd = Drafts(num_drafts=drafted, num_draft_tokens=tokens, num_accepted_tokens=accepted,
                 accepted_by_position=positions)  # fmt: skip
    soak = m.changed(m.soak(), opening=odd, fresh=odd, windows=[m.changed(m.soak().windows[0], drafts=odd)])
    parts = {"acceptance": m.changed(m.acceptance(), total=odd), "soak": soak}
    for measured in (m.measurement(release=parts), m.measurement(base=parts)):
        results = judged(measured)
        assert unsound(list(results.values())) == []
        if accepted > tokens or drafted < 0:
            assert results["soak.fresh"].status == "failed"


@pytest.mark.parametrize(
    "counts", [(-1, 0, 0, [0]), (9, 9, -1, [0]), (9, 9, 0, [-1]), (9, 9, 10, [9]), (9, 18, 9, [10])]
)
def test_counters_that_cannot_be_are_seen(counts):
    names = ("num_drafts", "num_draft_tokens", "num_accepted_tokens", "accepted_by_position")
    assert impossible(Drafts(**dict(zip(names, counts, strict=True))))
    assert not impossible(m.drafts([1.0, 0.0]))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("perplexity", "tokens"), ("perplexity", "ppl.ratio"), ("divergence", "kld"), ("divergence", "top1"),
        ("divergence", "tokens"), ("acceptance", "acceptance.position.0"), ("soak", "soak.fresh"),
        ("canaries", "canary.image"), ("canaries", "agreement"), ("speed", "speed"), ("load", "load"),
    ],
)  # fmt: skip
def test_no_figure_that_is_no_number_passes(part, name, value):
    good = getattr(m.release(), part)
    floats = [field for field, each in dict(good).items() if isinstance(each, float)]
    assert floats
    for field in floats:
        found = judged(m.measurement(release={part: m.changed(good, **{field: value})}))[name]
        assert found.status == "failed"
        assert field in found.detail
