"""The lab's pure parts: what is asked for, what is compared, what is kept and shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from housed import facts

from bot.errors import InputError, RecipeError, UsageError
from bot.lab import compare, domains, tables, variants
from bot.lab.record import Arrays, Figures, LabEvidence, Measured, Records, Text, Variant, key_of
from bot.measurements import Interval
from bot.models import Base, Hardware

WINDOWS, TOKENS = 40, 32


def arrays(kld: float, *, seed: int = 1, spread: float = 0.3) -> Arrays:
    """Divergences around `kld`, hard windows hard for everyone; the base's losses the same for all."""
    shared, own = np.random.default_rng(0), np.random.default_rng(seed)
    window = np.repeat(np.arange(WINDOWS, dtype=np.int32), TOKENS)
    hard = np.repeat(np.exp(shared.normal(size=WINDOWS)), TOKENS)
    base_nll = shared.uniform(1, 3, len(window))
    found = kld * hard * np.exp(spread * own.normal(size=len(window)))
    return {
        "kld": found,
        "nll": base_nll + 0.01,
        "base_nll": base_nll,
        "agree": np.ones(len(window), bool),
        "window": window,
    }


def by_domain(kld: float, **more: float) -> dict[str, Arrays]:
    return {name: arrays(kld, **more) for name in ("prose", "code", "chat")}  # type: ignore[arg-type]


def measured(key: str, bits: float | None = 4.5, failure: str | None = None, kld: float = 0.1) -> Measured:
    figures = [
        Figures(
            domain=name, kind="full", tokens_sha256="0" * 64, num_tokens=WINDOWS * TOKENS,
            num_windows=WINDOWS,
            kld=kld, kld_interval=Interval(low=kld / 2, high=kld * 2, num_resamples=10), kld_p99=kld * 5,
            top1_agreement=0.9, ppl=7.0, base_ppl=6.9,
        )
        for name in ("prose", "code", "chat")
    ]  # fmt: skip
    return Measured(
        key=key, release_key=key, recipe_name="gptq-foem-g32", recipe_digest="0" * 64, overrides={},
        failure=failure, bits_per_weight=bits, quantized_bits_per_weight=4.5, tensor_bytes=1,
        relative_error=0.1, parameters=[], patches=[], quantize_wall_s=12.3,
        quantize_peak_memory_bytes=2**30, quantize_peak_gpu_memory_bytes=None, score_wall_s=1.0,
        score_peak_memory_bytes=1, figures=[] if failure else figures,
    )  # fmt: skip


# ── what is asked for ──────────────────────────────────────────────────────────────────────


def test_recipes_and_variations_come_in_order_with_what_is_set():
    asked = variants.parse(
        [["gptq-foem-g32"], ["a=gptq-foem-g32", "method.mse=2.4", "method.patches=[fresh-group-scales]"]],
        {"calibration.seed": "1", "method.mse": "3.0"},
    )
    assert [each.label for each in asked] == ["gptq-foem-g32", "a"]
    first, second = (each.recipe() for each in asked)
    assert (first.calibration.seed, first.method.mse) == (1, 3.0)
    assert (second.calibration.seed, second.method.mse) == (1, 2.4)  # a variation's own value wins
    assert second.method.patches == ["fresh-group-scales"]


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([], "nothing to compare"),
        ([["nvfp4"], ["nvfp4"]], "two variants are called 'nvfp4'"),
        ([["nvfp4", "method.mse=1"]], "is not LABEL=RECIPE"),
        ([["a="]], "is not LABEL=RECIPE"),
        ([["../x=nvfp4"]], "is not LABEL=RECIPE"),
        ([["a=nvfp4", "method.mse"]], "'method.mse' of a is not KEY=VALUE"),
        ([["a=nvfp4", "=1"]], "'=1' of a is not KEY=VALUE"),
    ],
)
def test_what_makes_no_sense_is_refused(texts: list[list[str]], words: str):
    with pytest.raises(UsageError) as caught:
        variants.parse(texts, {})
    assert words in str(caught.value)


def test_a_recipe_that_is_none_is_refused_when_it_is_read():
    (asked,) = variants.parse([["a=gptq-foem-g33"]], {})
    with pytest.raises(RecipeError, match="gptq-foem-g33"):
        asked.recipe()


def test_no_text_is_at_both_splits_and_none_is_calibrated_on():
    from bot import recipe as recipes

    calibrated = {
        (each.dataset, each.split) for name in recipes.names() for each in recipes.load(name).calibration.sets
    }
    for domain in domains.DOMAINS:
        assert domain.splits["choose"] != domain.splits["report"]
        assert not {(domain.dataset, split) for split in domain.splits.values()} & calibrated


# ── what is compared ───────────────────────────────────────────────────────────────────────


def test_a_real_gain_has_an_interval_below_zero_and_pairing_narrows_it():
    one, reference = by_domain(0.08, seed=2), by_domain(0.1, seed=3)
    rows = {each.domain: each for each in compare.paired(one, reference)}
    assert list(rows) == ["prose", "code", "chat", "all"]
    assert rows["all"].change == pytest.approx(-0.2, abs=0.02)
    for row in rows.values():
        assert row.change_interval.low < row.change < row.change_interval.high < 0
        assert row.difference_interval.low < row.difference < row.difference_interval.high < 0
    alone = compare.paired(one, one)[0].kld
    width = rows["prose"].change_interval.high - rows["prose"].change_interval.low
    by_window = one["prose"]["kld"].reshape(WINDOWS, TOKENS).mean(axis=1)
    unpaired = 2 * 1.96 * by_window.std() / np.sqrt(WINDOWS) / alone
    assert width < unpaired / 4


def test_no_difference_is_none():
    found = compare.paired(by_domain(0.1), by_domain(0.1))
    assert all(
        each.change == each.difference_interval.low == each.change_interval.high == 0 for each in found
    )


def test_chance_is_not_taken_for_a_gain():
    """A hundred pairs that differ by chance alone: about five intervals leave zero out, not twenty."""
    outside = 0
    for seed in range(100):
        one, other = arrays(0.1, seed=2 * seed + 10, spread=1), arrays(0.1, seed=2 * seed + 11, spread=1)
        row = compare.paired({"prose": one}, {"prose": other})[0]
        outside += not row.difference_interval.low < 0 < row.difference_interval.high
    assert outside <= 14


def test_all_weighs_domains_alike_however_long():
    one = {"prose": arrays(0.1), "code": {name: value[:64] for name, value in arrays(0.4).items()}}
    means = [each["kld"].mean() for each in one.values()]
    assert compare.overall(one) == pytest.approx(sum(means) / 2)
    (*_, row) = compare.paired(one, one)
    assert row.kld == pytest.approx(sum(means) / 2)


@pytest.mark.parametrize("name", ["window", "base_nll"])
def test_other_tokens_or_another_base_are_not_compared(name: str):
    other = by_domain(0.1)
    other["code"][name] = other["code"][name] + 1
    with pytest.raises(InputError, match="other code tokens, or beside another base"):
        compare.paired(by_domain(0.1), other)


def test_the_frontier_is_what_nothing_else_beats():
    found = {"a": (4.5, 0.10), "b": (4.5, 0.08), "c": (4.2, 0.09), "d": (4.3, 0.095), "e": (5.0, 0.08)}
    labelled = [(key, measured(key, bits)) for key, (bits, _) in found.items()]
    made = compare.variants(labelled, {key: by_domain(kld, spread=0.0) for key, (_, kld) in found.items()})
    assert [each.label for each in made if each.on_frontier] == ["b", "c"]
    assert made[0].against_reference == []
    assert all(each.against_reference for each in made[1:])


def test_a_variant_that_failed_stands_without_figures():
    labelled = [("a", measured("a")), ("b", measured("b", None, "its audit failed"))]
    made = compare.variants(labelled, {"a": by_domain(0.1), "b": {}})
    assert (made[1].kld, made[1].against_reference, made[1].on_frontier) == (None, [], False)
    evidence = lab(made)
    assert "b: its audit failed" in tables.text(evidence)
    assert [each.title for each in tables.points(evidence)] == ["a"]


def test_where_the_reference_failed_there_is_nothing_to_compare_with():
    labelled = [("a", measured("a", None, "no")), ("b", measured("b"))]
    made = compare.variants(labelled, {"a": {}, "b": by_domain(0.1)})
    assert made[1].kld is not None
    assert made[1].against_reference == []


# ── what is kept and shown ─────────────────────────────────────────────────────────────────


def text_of(**more: object) -> Text:
    given = {
        "domain": "prose", "dataset": "a/b", "revision": "0" * 40, "config": "c", "split": "test",
        "column": "text", "window_tokens": 256, "max_tokens": 1024,
    }  # fmt: skip
    return Text.model_validate(given | more)


def lab(found: list[Variant]) -> LabEvidence:
    hardware = Hardware(
        cpu="c", num_cores=2, memory_bytes=1, gpu=None, gpu_memory_bytes=None, platform="p", python="3"
    )
    return LabEvidence.model_validate(
        {
            "base": Base(repo_id="a/b", revision="0" * 40), "split": "choose", "texts": [text_of()],
            "base_facts": facts("a"), "quantizer_versions": {"torch": "2"},
            "making_digests": {each.label: "0" * 64 for each in found},
            "engine": "e 1", "engine_environment_digest": "x", "quantizer_environment_digest": "y",
            "hardware": hardware, "reference": "a", "num_variants": len(found), "variants": found,
            "measured_at": "now",
        }
    )  # fmt: skip


def test_a_record_is_found_again_with_its_arrays(tmp_path: Path):
    records, kept = Records(tmp_path), by_domain(0.1)
    assert records.read("k") is None
    records.keep(measured("k"), kept)
    assert records.read("k") == measured("k")
    assert (records.arrays("k", "code")["kld"] == kept["code"]["kld"]).all()
    next(tmp_path.rglob("*-code.npz")).unlink()
    assert records.read("k") is None  # half a record is none


def test_the_key_follows_everything_that_the_figures_depend_on():
    keys = {
        key_of("r", ["e"], [text_of()]),
        key_of("s", ["e"], [text_of()]),
        key_of("r", ["f"], [text_of()]),
        key_of("r", ["e"], [text_of(window_tokens=512)]),
        key_of("r", ["e"], [text_of(split="validation")]),
        key_of("r", ["e"], [text_of(revision="1" * 40)]),
        key_of("r", ["e"], [text_of(column="code")]),
    }
    assert len(keys) == 7
    assert key_of("r", ["e"], [text_of()]) in keys


def test_the_tables_say_what_is_better_and_how_sure_that_is():
    labelled = [("a", measured("a")), ("b", measured("b"))]
    made = compare.variants(labelled, {"a": by_domain(0.1, seed=2), "b": by_domain(0.08, seed=3)})
    shown = tables.text(lab(made))
    change = made[1].against_reference[-1]
    assert f"{change.change:+.1%}" in shown
    assert f"{change.change_interval.low:+.1%} to {change.change_interval.high:+.1%}" in shown
    assert "4.500" in shown
    assert "b *" in shown
    assert LabEvidence.model_validate_json(lab(made).model_dump_json()) == lab(made)
