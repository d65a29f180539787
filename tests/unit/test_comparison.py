"""Derived figures: ratios by hand, what is never compared, why a figure is absent, advice, both tables."""

from __future__ import annotations

import math

import pytest
from cards import judged, sibling, siblings_of
from measured import (
    acceptance,
    base,
    divergence,
    drafts,
    engine,
    examined,
    load,
    measurement,
    perplexity,
    release,
    soak,
    speed,
    speeds,
    subject,
)

from bot import comparison
from bot.comparison import advice
from bot.comparison.model import Side
from bot.comparison.sides import Weights, side
from bot.measurements import Interval


def of(**changes: object) -> Side:
    weights = Weights(total_bytes=1000, bits_per_weight=8.0, quantized_bits_per_weight=4.5)
    whole = Weights(total_bytes=2000, bits_per_weight=16.0)
    found = release(**changes)
    return side("release", "x", found, base=base(), weights=weights, base_weights=whole, told={})


def test_ratios_are_over_the_base():
    found = of()
    assert found.size_ratio == 0.5
    assert found.ppl_ratio == pytest.approx(7.13 / 7.0)
    assert found.ppl_change == pytest.approx(0.13 / 7.0)
    assert found.ppl_standard_error == pytest.approx(7.13 * 0.0052)
    assert found.acceptance_rate == pytest.approx((0.785 + 0.58) / 2)
    assert found.acceptance_length == pytest.approx(1 + 0.785 + 0.58)
    assert found.acceptance_ratio == pytest.approx(1.365 / 1.4)
    assert found.speeds[0].ratio == pytest.approx(118 / 62)
    assert (found.kld, found.kld_is_full, found.top1_agreement) == (0.021, True, 0.942)


def test_speed_is_a_median_with_its_range():
    row = of().speeds[0]
    assert (row.tokens_per_s.low, row.tokens_per_s.median, row.tokens_per_s.high) == pytest.approx(
        (0.98 * 118, 118, 1.01 * 118)
    )
    assert row.num_runs == 3


@pytest.mark.parametrize(
    "change",
    [
        {"version": "0.33.0"},
        {"environment_digest": "1" * 64},
        {"torch": "2.14.0"},
        {"driver": "600.1"},
        {"hardware": engine("cpu").hardware},
    ],
)
def test_two_engines_or_machines_have_no_ratio(change: dict[str, object]):
    found = of(engine=engine(**change))
    assert (found.ppl_ratio, found.acceptance_ratio, found.speeds[0].ratio) == (None, None, None)
    assert found.ppl == 7.13


def test_perplexities_of_two_texts_have_no_ratio():
    assert of(perplexity=perplexity(7.1, tokens_sha256="0" * 64)).ppl_ratio is None
    assert of(perplexity=perplexity(7.1, stride_tokens=1024)).ppl_ratio is None


def test_speeds_of_two_loads_have_no_ratio():
    rows = [speed(100.0, input_tokens=128)]
    assert of(speed=speeds(100.0, rows=rows)).speeds[0].ratio is None


def test_two_numbers_of_drafted_tokens_are_not_compared():
    found = of(acceptance=acceptance([0.8]))
    assert (found.acceptance_ratio, found.speeds[0].ratio) == (None, None)
    assert found.plain_speeds[0].ratio == pytest.approx(118 / 62)
    assert (found.num_speculative_tokens, found.acceptance_rate) == (1, 0.8)


def test_nothing_is_divided_by_nothing():
    silent = base(acceptance=acceptance([0.0, 0.0]))
    found = side("release", "x", release(), base=silent, told={})
    assert found.acceptance_ratio is None


def test_why_a_figure_is_absent():
    parts = dict.fromkeys(("acceptance", "perplexity", "divergence", "speed"))
    told = {"release.perplexity": "the set is too short", "release": "stopped"}
    found = side("release", "x", release(**parts), told=told)
    assert found.absent == {
        "size": "its tensors were not counted",
        "acceptance": "stopped",
        "perplexity": "the set is too short",
        "divergence": "stopped",
        "speed": "stopped",
    }
    bare = release(**parts, subject=subject(drafts=False, emulated="no kernel"))
    absent = side("release", "x", bare, told={}).absent
    assert absent["acceptance"] == "it has no MTP head"
    assert absent["speed"] == "this machine only emulates the format (no kernel)"
    assert absent["perplexity"] == "it was left out of this run"
    undrafted = release(acceptance=None, load=load(drafting=False))
    assert side("release", "x", undrafted, told={}).absent["acceptance"] == "it is served without drafting"


# ── drafting and memory ────────────────────────────────────────────────────────────────────


def test_the_soak_is_compared_window_by_window():
    short = base(soak=soak([0.8, 0.6], curve=[1.0, 0.5]))
    points = comparison.of(judged(measurement(base={"soak": short.soak}))).soak
    assert [each.where for each in points] == ["opening", *["window"] * 4, "fresh"]
    assert points[2].ratio == pytest.approx(0.98 * 1.365 / (0.5 * 1.4), rel=0.02)
    assert [each.base_rate is None for each in points] == [False, False, False, True, True, False]


def test_a_window_without_drafts_has_no_share():
    empty = soak(num=0)
    points = comparison.of(judged(measurement(release={"soak": empty}))).soak
    assert {each.rate for each in points} == {None}


def test_tested_context_is_the_longest_window():
    assert comparison.of(judged()).tested_context_tokens == 8192
    assert comparison.of(judged(measurement(release={"soak": None}))).tested_context_tokens == 0


def test_speedup_is_the_ratio_of_medians_at_the_same_load():
    found = comparison.of(judged()).speedups
    assert [(each.dataset, each.streams) for each in found][:2] == [("random", 1), ("random", 16)]
    assert {round(each.ratio, 3) for each in found} == {1.9}
    other = {"speed_plain": speeds(62.0, drafting=False, rows=[speed(62.0, drafting=False, streams=4)])}
    assert comparison.of(judged(measurement(release=other))).speedups == []


def test_memory_that_drafting_takes():
    found = comparison.of(judged()).memory
    assert found is not None
    assert found.share_lost == pytest.approx(1 - 412 / 436)
    assert found.plain_tokens == 436_000
    capped = {"load_plain": load(drafting=False, kv_cache_memory_bytes=2**30)}
    found = comparison.of(judged(measurement(release=capped))).memory
    assert found is not None
    assert found.share_lost is None
    silent = {"load": load(kv_cache_tokens=None)}
    assert comparison.of(judged(measurement(release=silent))).memory is None


def test_positions_that_one_side_lacks():
    found = comparison.of(judged(measurement(base={"acceptance": acceptance([0.8])})))
    assert [(each.base_rate, each.ratio is None) for each in found.positions] == [(0.8, False), (None, True)]
    assert drafts([0.5]).by_position == [0.5]


# ── advice ─────────────────────────────────────────────────────────────────────────────────


def wide(mean: float, low: float, high: float) -> Side:
    interval = Interval(low=low, high=high, num_resamples=100)
    return of(divergence=divergence(mean).model_copy(update={"mean_interval": interval}))


def named(found: Side, title: str, **changes: object) -> Side:
    return found.model_copy(update={"title": title, "passed": True, **changes})


def winners(*sides: Side) -> dict[str, list[str]]:
    return {each.measure: each.winners for each in advice.advise(sides)}


def test_each_measure_has_its_winner():
    near, fast = named(wide(0.01, 0.009, 0.011), "near"), named(wide(0.02, 0.019, 0.021), "fast")
    slow = of(speed=speeds(50.0)).speeds
    found = winners(near.model_copy(update={"speeds": slow, "total_bytes": 900}), fast)
    assert found == {"closest": ["near"], "smallest": ["near"], "fastest": ["fast"]}


def test_what_intervals_and_runs_do_not_tell_apart_is_told_together():
    one, other = named(wide(0.01, 0.008, 0.012), "one"), named(wide(0.013, 0.011, 0.015), "other")
    assert winners(one, other) == {
        measure: ["one", "other"] for measure in ("closest", "smallest", "fastest")
    }


def test_of_each_size_the_closest_is_told_where_there_are_several_sizes():
    """A house recipe beside its counterpart is of one size; another pair is of another."""
    small = [named(wide(0.02, 0.019, 0.021), "house-g128"), named(wide(0.03, 0.029, 0.031), "gptq-g128")]
    large = [named(wide(0.009, 0.007, 0.011), "gptq-g32"), named(wide(0.008, 0.006, 0.010), "house-g32")]
    alone = named(wide(0.05, 0.04, 0.06), "nvfp4", total_bytes=1200)
    sized = [each.model_copy(update={"total_bytes": 1000 + n}) for n, each in enumerate(small)]
    sized += [each.model_copy(update={"total_bytes": 1100 + n}) for n, each in enumerate(large)]
    found = [each for each in advice.advise([alone, *sized]) if each.measure == "closest_of_size"]
    assert [(each.total_bytes, each.winners) for each in found] == [
        (1000, ["house-g128"]),
        (1100, ["house-g32", "gptq-g32"]),  # the best first; their intervals do not tell them apart
    ]
    assert winners(alone, *sized)["closest"] == ["house-g32", "gptq-g32"]
    assert "closest_of_size" not in winners(*sized[:2])  # of one size only: "closest" says it


@pytest.mark.parametrize(("size", "told"), [(1004, True), (1006, False)])
def test_half_a_hundredth_apart_is_one_size(size: int, told: bool):
    sides = [named(wide(0.02, 0.019, 0.021), name) for name in ("one", "other", "third")]
    sized = [e.model_copy(update={"total_bytes": n}) for e, n in zip(sides, (1000, size, 2000), strict=True)]
    assert ("closest_of_size" in winners(*sized)) == told


def test_no_advice_from_one_or_from_what_failed():
    one = named(of(), "one")
    assert winners(one) == {}
    assert winners(one, one.model_copy(update={"title": "failed", "passed": False})) == {}
    assert winners(one, one.model_copy(update={"title": "unjudged", "passed": None})) == {}


def test_a_lower_bound_does_not_win_over_a_full_divergence():
    one, other = named(of(), "one"), named(of(), "other", kld=0.001, kld_is_full=False)
    assert "closest" not in winners(one, other)


def test_an_emulated_recipe_is_no_rival_in_speed():
    one, other = named(of(), "one"), named(of(), "other", speeds=[], emulated="no kernel")
    assert "fastest" not in winners(one, other)


# ── tables ─────────────────────────────────────────────────────────────────────────────────


def test_the_terminal_has_a_row_a_checkpoint_base_first():
    one = judged(siblings=siblings_of("gptq-foem-g32"))
    rows = comparison.rows([one, judged(recipe="gptq-w4a16-g128")])
    assert [row[0] for row in rows] == ["Qwen/Qwen3.5-tiny", "official FP8", "gptq-foem-g32"]
    assert all(len(row) == len(comparison.COLUMNS) for row in rows)
    assert rows[2][3:] == (
        "7.1300 ± 0.0371 (+1.86%)",
        "0.0210",
        "94.2%",
        "68.2% of 2",
        "2.37",
        "118.0",
        "1298.0 at 16",
    )


def test_any_checkpoints_by_hand():
    rows = comparison.examined_rows([None, examined("other", divergence=None, speed=None)])
    assert len(rows) == 1
    assert rows[0][1:3] == ("", "")
    assert rows[0][3] == "7.2000 ± 0.0374"
    both = comparison.examined_rows([base(), examined("other")])
    assert [row[3].endswith("%)") for row in both] == [False, True]


def test_a_bound_and_an_emulated_format_are_marked_in_the_terminal():
    found = release(divergence=divergence(kind="lower_bound"), subject=subject(emulated="no kernel"))
    (row,) = comparison.examined_rows([found])
    assert row[4].startswith("≥ ")
    assert row[8:] == ("emulated", "")


def test_all_derived_figures_are_finite():
    found = comparison.of(judged(siblings=[sibling("nvfp4")])).model_dump_json()
    assert "NaN" not in found
    assert "Infinity" not in found
    assert math.isfinite(comparison.of(judged()).release.ppl_ratio or 0.0)
