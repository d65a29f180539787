"""The bar for house recipes: each of its conditions can fail, alone, and what ships passes all."""

from __future__ import annotations

from collections.abc import Callable

import housed
import pytest
from housed import with_base, with_figures
from hypothesis import given
from hypothesis import strategies as st

from bot import recipe as recipes
from bot.backends import patches
from bot.backends.patches import autoround, gptqmodel, modelopt
from bot.backends.patches.asked import asked_digest
from bot.house import bar
from bot.house.model import HouseEvidence, OnBase
from bot.lab.record import Measured

HOUSE, COUNTERPART = housed.pair()
FOUND = housed.evidence()


def refusals(found: HouseEvidence | None, **pins: str) -> list[str]:
    return bar.refusals(HOUSE, COUNTERPART, found, housed.PINS | pins)


def with_set(**values: str) -> HouseEvidence:
    """One base whose house recipe had these values set as well."""
    return with_base(house__overrides=FOUND.bases[1].house.overrides | values)


def with_seed(seed: str | None) -> HouseEvidence:
    """One base on which both drew their samples by this seed; None: by none that was set."""
    told = {k: v for k, v in FOUND.bases[1].house.overrides.items() if k != "calibration.seed"}
    theirs = {k: v for k, v in FOUND.bases[1].counterpart.overrides.items() if k != "calibration.seed"}
    set_ = {} if seed is None else {"calibration.seed": seed}
    return with_base(house__overrides=told | set_, counterpart__overrides=theirs | set_)


def with_other_seed(seed: int) -> recipes.Recipe:
    """The counterpart, shipping with this seed."""
    drawn = COUNTERPART.calibration.model_copy(update={"seed": seed})
    return COUNTERPART.model_copy(update={"calibration": drawn})


def with_highs(index: int = 1, **by_domain: float) -> HouseEvidence:
    """One base with these upper ends of the changes' intervals."""
    rows = [
        row.model_copy(update={"change_interval": row.change_interval.model_copy(update={"high": high})})
        if (high := by_domain.get(row.domain)) is not None
        else row
        for row in FOUND.bases[index].against
    ]
    return with_base(index, against=rows)


def test_evidence_that_shows_a_gain_everywhere_passes():
    assert refusals(FOUND) == []
    assert HouseEvidence.model_validate_json(FOUND.model_dump_json()) == FOUND


def of_two_shapes(**changes: int | None) -> HouseEvidence:
    """Four bases, of which the last two have the first one's shape, or the last one these sides."""
    sides = {"hidden_size", "intermediate_size", "num_hidden_layers"}
    alike = FOUND.bases[0].facts.model_dump(include=sides)
    bases = [
        each.model_copy(update={"facts": each.facts.model_copy(update=told)})
        for each, told in zip(FOUND.bases, ({}, {}, alike, changes or alike), strict=True)
    ]
    return FOUND.model_copy(update={"bases": bases})


def other_serving(found: recipes.Recipe) -> recipes.Recipe:
    return found.model_copy(update={"serve": found.serve.model_copy(update={"max_model_len": 4096})})


BROKEN: dict[str, tuple[Callable[[], list[str]], str]] = {
    "missing": (lambda: refusals(None), "house-g32.json is missing"),
    "another recipe's": (lambda: refusals(FOUND.model_copy(update={"recipe": "x"})), "the evidence is of x"),
    "the recipe changed": (
        lambda: refusals(FOUND.model_copy(update={"recipe_digest": "0" * 64})),
        "its making has changed",
    ),
    "the counterpart changed": (
        lambda: refusals(FOUND.model_copy(update={"counterpart_digest": "0" * 64})),
        "beside another gptq-foem-g32",
    ),
    "served otherwise": (
        lambda: bar.refusals(other_serving(HOUSE), COUNTERPART, FOUND, housed.PINS),
        "served otherwise than gptq-foem-g32",
    ),
    "no counterpart of it": (
        lambda: bar.refusals(HOUSE.model_copy(update={"counterpart": None}), COUNTERPART, FOUND, housed.PINS),
        "names None as its counterpart",
    ),
    "three bases": (
        lambda: refusals(FOUND.model_copy(update={"bases": FOUND.bases[:3]})),
        "3 different bases, of at least 4",
    ),
    "one base twice": (
        lambda: refusals(with_base(facts=FOUND.bases[0].facts)),
        "3 different bases, of at least 4",
    ),
    "two shapes": (
        lambda: refusals(of_two_shapes()),
        "bases of 2 different shapes, of at least 3",
    ),
    "a shape unknown": (
        lambda: refusals(of_two_shapes(hidden_size=None)),
        "bases of 2 different shapes, of at least 3",
    ),
    "another patch": (
        lambda: refusals(FOUND.model_copy(update={"patches_digest": "0" * 64})),
        "its patches have changed since",
    ),
    "patches not stated": (
        lambda: refusals(FOUND.model_copy(update={"patches_digest": None})),
        "or the evidence does not state which they were",
    ),
    "another quantizer": (
        lambda: refusals(with_base(quantizer_versions=housed.PINS | {"gptqmodel": "7.5.1"})),
        "on tiny-b: made with gptqmodel 7.5.1, and pinned is 7.6.0",
    ),
    "the quantizer not stated": (
        lambda: refusals(with_base(quantizer_versions={})),
        "on tiny-b: made with gptqmodel absent, and pinned is 7.6.0",
    ),
    "a part of the vocabulary": (
        lambda: refusals(with_figures("house", kind="lower_bound")),
        "on tiny-b: house-g32, prose: a divergence that is only a lower_bound",
    ),
    "figures missing": (
        lambda: refusals(with_base(house__figures=FOUND.bases[1].house.figures[1:])),
        "on tiny-b: house-g32 has no figures over prose",
    ),
    "no seed": (lambda: refusals(with_seed(None)), "on tiny-b: calibration.seed was set to nothing"),
    "no number as a seed": (lambda: refusals(with_seed("0x0")), "calibration.seed was set to 0x0"),
    "the seed that ships": (
        lambda: refusals(with_seed(str(HOUSE.calibration.seed))),
        f"on tiny-b: calibration.seed was set to {HOUSE.calibration.seed}",
    ),
    "the counterpart's seed": (
        lambda: [
            each
            for each in bar.refusals(HOUSE, with_other_seed(7), with_seed("7"), housed.PINS)
            if "its making has changed" not in each
        ],
        "calibration.seed was set to 7",
    ),
    "no word of what was tried": (
        lambda: refusals(FOUND.model_copy(update={"num_tried": 0})),
        "how many variants were tried",
    ),
    "more bits": (
        lambda: refusals(with_base(house__bits_per_weight=9.1 * 1.006)),
        "on tiny-b: bits_per_weight",
    ),
    "more bits in what is quantized": (
        lambda: refusals(with_base(house__quantized_bits_per_weight=4.66 * 1.006)),
        "on tiny-b: quantized_bits_per_weight",
    ),
    "bits unknown": (lambda: refusals(with_base(house__bits_per_weight=None)), "bits_per_weight None"),
    "no gain": (lambda: refusals(with_highs(all=0.0)), "on tiny-b: no gain"),
    "a domain worse": (lambda: refusals(with_highs(code=0.0101)), "on tiny-b: code may be worse by +1.01%"),
    "a domain missing": (
        lambda: refusals(with_base(against=FOUND.bases[1].against[1:])),
        "on tiny-b: not compared over prose",
    ),
    "a lever set": (
        lambda: refusals(with_set(**{"method.foem_alpha": "0.5"})),
        "method.foem_alpha was set",
    ),
    "other windows": (
        lambda: refusals(with_set(**{"evaluation.divergence_tokens": "64"})),
        "evaluation.divergence_tokens was set",
    ),
    "more to see": (
        lambda: refusals(with_base(house_calibration_tokens=1200, counterpart_calibration_tokens=1000)),
        "1.20 times the calibration tokens",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_each_condition_can_fail_alone(case: str):
    broken, words = BROKEN[case]
    (problem,) = broken()
    assert words in problem


def test_a_packing_that_is_another_format_is_refused():
    autoround, theirs = housed.pair(housed.AUTOROUND)
    found = housed.evidence_of(autoround, theirs)
    assert bar.refusals(autoround, theirs, found, housed.PINS) == []
    beside = bar.refusals(autoround, COUNTERPART, found, housed.PINS)
    assert "it is packed as auto_round:auto_gptq, not as gptq" in beside


@pytest.mark.parametrize("side", ["house", "counterpart"])
def test_few_windows_of_either_are_refused(side: str):
    name = getattr(FOUND.bases[1], side).recipe_name
    told = refusals(with_figures(side, num_windows=31))
    assert f"on tiny-b: {name}, prose: 31 windows, of at least 32" in told
    assert len(told) == 2  # the other has more: they were not scored alike


def test_what_is_not_a_number_is_no_gain():
    told = refusals(with_highs(all=float("nan")))
    assert any("on tiny-b: no gain" in each for each in told)


@given(
    st.sampled_from(["all", *housed.DOMAINS]),
    st.floats(-0.3, 0.9, allow_nan=False).map(lambda value: round(value, 4)),
)
def test_the_upper_end_of_each_interval_decides(domain: str, high: float):
    """At least the change itself, which is −0.3 here."""
    passes = high < 0 if domain == "all" else high <= 0.01
    assert (refusals(with_highs(2, **{domain: high})) == []) == passes


@given(st.floats(0.98, 1.02), st.sampled_from(["bits_per_weight", "quantized_bits_per_weight"]))
def test_bits_may_differ_by_half_a_hundredth(share: float, field: str):
    theirs = getattr(FOUND.bases[0].counterpart, field)
    found = refusals(with_base(0, **{f"house__{field}": theirs * share}))
    if abs(abs(share - 1) - 0.005) > 1e-9:
        assert (found == []) == (abs(share - 1) < 0.005)


@pytest.mark.parametrize("count", range(5))
def test_at_least_four_bases(count: int):
    found = FOUND.model_copy(update={"bases": FOUND.bases[:count]})
    assert (refusals(found) == []) == (count == 4)


def test_what_scales_both_alike_is_no_lever():
    ours, theirs = housed.pair(housed.AUTOROUND)
    found = housed.evidence_of(ours, theirs)

    def told(record: Measured, iterations: str) -> Measured:
        values = {"method.iterations": iterations, "method.torch_compile": "false"}
        return record.model_copy(update={"overrides": record.overrides | values})

    def scaled(each: OnBase, iterations: str) -> OnBase:
        records = {"house": told(each.house, iterations), "counterpart": told(each.counterpart, "50")}
        return each.model_copy(update=records)

    for iterations, passes in (("50", True), ("100", False)):
        changed = found.model_copy(update={"bases": [scaled(each, iterations) for each in found.bases]})
        assert (bar.refusals(ours, theirs, changed, housed.PINS) == []) == passes
    longer = ours.model_copy(update={"method": ours.method.model_copy(update={"iterations": 1000})})
    changed = found.model_copy(
        update={
            "recipe_digest": longer.making_digest(),
            "bases": [scaled(each, "50") for each in found.bases],
        }
    )
    refused = bar.refusals(longer, theirs, changed, housed.PINS)
    assert any("method.iterations was set" in each for each in refused)


def test_only_the_quantizer_s_own_version_counts():
    assert refusals(FOUND, **{"auto-round": "0.17.0", "torch": "2.14.0"}) == []
    assert refusals(with_base(quantizer_versions=housed.PINS | {"gptqmodel": "7.6.0+cu130"})) == []
    assert len(refusals(FOUND, gptqmodel="7.7.0")) == 4  # one a base
    theirs = housed.pair(housed.AUTOROUND)
    (problem, *_) = bar.refusals(*theirs, housed.evidence_of(*theirs), housed.PINS | {"auto-round": "0.17.0"})
    assert "made with auto-round 0.16.1, and pinned is 0.17.0" in problem


def test_a_recipe_without_patches_needs_no_word_of_them():
    assert asked_digest(COUNTERPART) is None
    assert asked_digest(recipes.load("nvfp4")) is None
    ours = ("bot.backends.modelopt_gptq",)
    assert asked_digest(recipes.load("house-nvfp4")) == patches.digest([modelopt.FP4_WITHOUT_CUDA], ours)
    assert asked_digest(recipes.load("house-nvfp4")) != patches.digest([modelopt.FP4_WITHOUT_CUDA])
    assert asked_digest(recipes.load("autoround-w4a16-g128")) is None
    assert asked_digest(HOUSE) == patches.digest([gptqmodel.descent(8)])
    swept = recipes.load(housed.AUTOROUND)
    assert asked_digest(swept) == patches.digest([autoround.descent(8, 0.05)])
    assert asked_digest(swept) != patches.digest([autoround.descent(8, 0.06)])
