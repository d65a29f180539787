"""Gates excused by the base or the machine alone, and drafting held to the base's own head."""

from __future__ import annotations

from typing import Any

import measured as m
import pytest
from judging import DRAFTED, blocked, having, judged

from bot.evidence import MeasureEvidence

# ── excuses ────────────────────────────────────────────────────────────────────────────────


def excused(measured: MeasureEvidence) -> set[str]:
    results = judged(measured)
    assert having(results, "failed", "anomalous") == set()
    return having(results, "not_applicable")


UNDRAFTED: dict[str, Any] = {
    "acceptance": None,
    "soak": None,
    "equality": None,
    "load": m.load(drafting=False),
}


def test_a_base_without_mtp_asks_for_no_drafting():
    without = {
        role: {**UNDRAFTED, "subject": m.subject(role, drafts=False, num_mtp_tensors=0)}
        for role in ("release", "base")
    }
    assert excused(m.measurement(**without)) == {
        "acceptance.position.0",
        "soak.windows",
        "soak.fresh",
        "equality",
    }
    alone = m.measurement(release=without["release"])
    assert blocked(alone) >= DRAFTED, "a release that lost its head is not excused"


def test_a_recipe_without_drafting_is_not_asked_for_it():
    assert {"soak.fresh", "equality"} <= excused(m.measurement(release=UNDRAFTED, base=UNDRAFTED))
    assert blocked(m.measurement(release=UNDRAFTED)) >= DRAFTED, "the base's command decides"


def test_a_base_without_vision_is_asked_for_no_picture():
    blind = m.canaries(image={"applicable": False, "served": False, "held": False, "detail": "no vision"})
    measured = m.measurement(release={"canaries": blind}, base={"canaries": blind})
    assert excused(measured) == {"canary.image"}
    assert judged(measured)["canary.image"].detail == "no vision"


@pytest.mark.parametrize("held", [True, False])
def test_what_the_base_cannot_do_is_not_asked(held):
    base = m.canaries(text__fact={"held": False, "answers": ["Lyon"], "detail": "Paris is right"})
    measured = m.measurement(
        base={"canaries": base}, release={"canaries": m.canaries(text__fact={"held": held})}
    )
    assert excused(measured) == {"canary.text.fact"}
    assert "Lyon" in judged(measured)["canary.text.fact"].detail


UNABLE = {"held": False, "detail": "1 of 4 colours right"}
REFUSED = {"served": False, "held": False, "detail": "cannot decode"}
GONE = {"applicable": False, "served": False, "held": False, "detail": "no vision tower"}


@pytest.mark.parametrize(
    ("release", "base", "status", "words"),
    [
        ({}, {}, "passed", "as it should be"),
        (UNABLE, {}, "failed", "1 of 4 colours right"),
        (REFUSED, {}, "failed", "gave no answer: cannot decode"),
        (GONE, {}, "failed", "no vision tower"),
        (UNABLE, UNABLE, "not_applicable", "the base itself does not do it"),
        (REFUSED, UNABLE, "failed", "gave no answer: cannot decode"),
        (GONE, UNABLE, "failed", "no vision tower"),
        ({}, REFUSED, "failed", "not measured"),
        (REFUSED, REFUSED, "failed", "gave no answer"),
        ({}, GONE, "not_applicable", "no vision tower"),
        (REFUSED, GONE, "failed", "gave no answer"),
        (GONE, GONE, "not_applicable", "no vision tower"),
    ],
)
def test_a_canary_must_be_answered_whatever_the_base_can_do(release, base, status, words):
    sides = {"release": release, "base": base}
    measured = m.measurement(**{role: {"canaries": m.canaries(image=row)} for role, row in sides.items()})
    found = judged(measured)["canary.image"]
    assert found.status == status
    assert words in found.detail


def test_a_prefix_cache_that_only_the_release_is_served_with_stands_alone():
    off = m.canaries(prefix_cache={"applicable": False, "detail": "prefix caching is off"})
    base = {"canaries": off}
    assert excused(m.measurement(base=base)) == set()
    assert excused(m.measurement(base=base, release=base)) == {"canary.prefix_cache"}
    broken = {"canaries": m.canaries(prefix_cache={"held": False})}
    assert blocked(m.measurement(base=base, release=broken)) == {"canary.prefix_cache"}


def test_an_emulated_format_has_no_speed():
    emulated = {"subject": m.subject(emulated="NVFP4 off Blackwell"), "speed": m.speeds(1.0, **m.NO_SPEED)}
    measured = m.measurement(release=emulated)
    assert excused(measured) == {"speed"}
    assert judged(measured)["speed"].detail == "emulated: NVFP4 off Blackwell"


def test_equality_is_held_where_the_engine_promises_it():
    kept = m.equality(promised=True, num_equal=24, mean_equal_share=1.0)
    assert judged(m.measurement(release={"equality": kept}))["equality"].status == "passed"
    for role in ("release", "base"):
        assert blocked(m.measurement(**{role: {"equality": m.equality(num_prompts=0)}})) == {"equality"}


@pytest.mark.parametrize(
    ("share", "base", "blocks"),
    [(0.895, 0.958, False), (0.48, 0.958, False), (0.47, 0.958, True), (0.0, 0.958, True), (0.5, 0.0, True)],
)
def test_without_a_promise_equality_is_held_to_half_of_the_bases(share, base, blocks):
    release = {"equality": m.equality(num_equal=0, mean_equal_share=share)}
    measured = m.measurement(release=release, base={"equality": m.equality(mean_equal_share=base)})
    assert blocked(measured) == ({"equality"} if blocks else set())


# ── drafting beside the base's own head ────────────────────────────────────────────────────


def test_a_decline_like_the_bases_passes():
    falling: dict[str, Any] = {"curve": [1, 0.6, 0.3, 0.1], "fresh": 0.5, "num": 2000}
    assert (
        blocked(m.measurement(release={"soak": m.soak(**falling)}, base={"soak": m.soak(**falling)})) == set()
    )
    steep = {"soak": m.soak(**{**falling, "fresh": 0.3})}
    assert blocked(m.measurement(release=steep, base={"soak": m.soak(**falling)})) == {"soak.fresh"}
    assert blocked(m.measurement(release={"soak": m.soak(**falling)})) == {"soak.windows", "soak.fresh"}


@pytest.mark.parametrize(("share", "blocks"), [(0.26, False), (0.24, True)])
def test_a_window_is_held_to_a_quarter_of_the_bases(share, blocks):
    release = {"soak": m.soak(curve=[1, 1, 1, share], num=2000)}
    base = {"soak": m.soak(curve=[1, 1, 1, 1], num=2000)}
    assert blocked(m.measurement(release=release, base=base)) == ({"soak.windows"} if blocks else set())


@pytest.mark.parametrize(("share", "blocks"), [(0.81, False), (0.79, True)])
def test_a_fresh_prompt_is_held_to_four_fifths_of_the_opening(share, blocks):
    release = {"soak": m.soak(fresh=share, num=2000)}
    assert blocked(m.measurement(release=release)) == ({"soak.fresh"} if blocks else set())


def test_the_soak_says_how_far_it_went():
    detail = judged(m.measurement())["soak.windows"].detail
    assert "soaked to 8,192 of 40,960 tokens of context (the model's own context" in detail


def test_the_lowest_window_is_the_one_that_is_told():
    low = judged(m.measurement(release={"soak": m.soak(curve=[1, 0.5, 0.8, 0.9])}))["soak.windows"]
    assert low.value == pytest.approx(0.5, abs=0.02)
    assert low.detail.startswith("lowest at 4,096 tokens")


def test_windows_beyond_the_bases_are_not_held_to_anything():
    longer = {"soak": m.soak(curve=[1, 0.98, 0.97, 0.95, 0.94])}
    assert blocked(m.measurement(release=longer)) == set()
    assert blocked(m.measurement(base={"soak": m.soak(curve=[])})) == {"soak.windows"}


def test_a_decline_like_the_bases_has_its_noise_too():
    base, release = {"soak": m.soak(fresh=0.6)}, {"soak": m.soak(fresh=0.55)}
    found = judged(m.measurement(release=release, base=base))["soak.fresh"]
    assert found.status == "passed"
    assert found.value < found.limit < 0.8


def test_a_soak_too_short_to_tell_has_failed():
    few, enough = {"soak": m.soak(curve=[1], num=1)}, {"soak": m.soak(curve=[1])}
    assert blocked(m.measurement(release=few, base=enough)) == {"soak.windows", "soak.fresh"}


def test_a_base_whose_own_head_is_dead_is_no_yardstick_and_blocks():
    """An engine whose drafting is broken must release nothing, although release and base look alike."""
    dead = {"acceptance": m.acceptance([0, 0]), "soak": m.soak([0, 0])}
    both = judged(m.measurement(release=dead, base=dead))
    assert having(both, "failed") == DRAFTED - {"acceptance.position.1"}
    assert having(both, "not_applicable") == {"acceptance.position.1"}
    for each in having(both, "failed"):
        assert "the base's own head drafts nothing here" in both[each].detail
    alive = judged(m.measurement(base=dead))
    assert alive["acceptance.position.0"].status == "anomalous"
    assert having(alive, "failed") == {"soak.windows", "soak.fresh"}


def test_a_later_position_at_which_the_base_accepts_nothing_asks_nothing():
    short = {"acceptance": m.acceptance([0.8, 0])}
    assert excused(m.measurement(release=short, base=short)) == {"acceptance.position.1"}


def test_counting_noise_alone_fails_nothing():
    base = {"acceptance": m.acceptance([0.5], num=60)}
    near = judged(m.measurement(base=base, release={"acceptance": m.acceptance([0.4], num=60)}))
    assert near["acceptance.position.0"].status == "passed"
    assert near["acceptance.position.0"].value < 0.85
    assert "within counting noise" in near["acceptance.position.0"].detail
    more = judged(m.measurement(base=base, release={"acceptance": m.acceptance([0.6], num=60)}))
    assert more["acceptance.position.0"].status == "passed"
    far = judged(m.measurement(base=base, release={"acceptance": m.acceptance([0.2], num=60)}))
    assert far["acceptance.position.0"].status == "failed"


def test_too_few_drafts_to_tell_a_dead_head_have_failed():
    base, few = {"acceptance": m.acceptance([0.03])}, {"acceptance": m.acceptance([0.03], num=50)}
    found = judged(m.measurement(base=base, release=few))["acceptance.position.0"]
    assert found.status == "failed"
    assert found.detail.startswith("too few drafts: even a dead head would pass")


def test_a_base_that_was_not_asked_for_agreement_is_no_yardstick():
    unasked = {"canaries": m.canaries(text__agreement={"applicable": False, "detail": "not asked"})}
    results = judged(m.measurement(base=unasked))
    assert results["agreement"].status == "not_applicable"
