"""What a measurement depends on, and what it does not: the same inputs find it again, others never do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import measured
import pytest

from bot import recipe as recipes
from bot.edges.environment import Environment
from bot.measurements import Speeds
from bot.serving.engine import Engine
from bot.serving.examination import MODELS, Examination, baseline_serve, made_by
from bot.serving.subject import Subject

RECIPE = recipes.load("gptq-w4a16-g128")
SCORES = {"perplexity", "divergence"}


@pytest.fixture
def examination(tmp_path: Path) -> Callable[..., Examination]:
    """Makes examinations of a checkpoint, changed in the serve section, the evaluation or its facts."""

    def make(
        serve: dict[str, Any] | None = None, evaluation: dict[str, Any] | None = None, **facts: Any
    ) -> Examination:
        python = tmp_path / "bin" / "python"
        environment = Environment(name="vllm-cpu", python=python, digest="0" * 64, versions={})
        subject = Subject(
            folder=tmp_path,
            serve=RECIPE.serve.model_copy(update=serve or {}),
            facts=measured.subject(**facts),
            max_position_embeddings=8192,
            vocab_size=2048,
        )
        return Examination(
            subject=subject,
            engine=Engine(environment=environment, facts=measured.engine("cpu"), home=tmp_path),
            evaluation=RECIPE.evaluation.model_copy(update=evaluation or {}),
            home=tmp_path,
            logs=tmp_path / "logs",
            dataset=tmp_path,
        )

    return make


def moved(one: Examination, other: Examination) -> set[str]:
    """The parts that the one would not find of the other's."""
    return {name for name in MODELS if one.path(name) != other.path(name)}


def test_the_same_checkpoint_finds_everything_again(examination: Callable[..., Examination]):
    assert moved(examination(), examination()) == set()
    assert examination().inputs() == examination().inputs()


@pytest.mark.parametrize(
    ("serve", "parts"),
    [
        ({"max_num_seqs": 2}, {"load", "canaries", "speed", "load_plain", "speed_plain"}),
        ({"max_model_len": 9000}, {"load"}),
        ({"limit_mm_per_prompt": {"image": 1}}, {"load", "canaries"}),
        ({"reasoning_parser": "other"}, {"load", "canaries"}),
        ({"num_speculative_tokens": 1}, {"load", "canaries", "greedy", "acceptance", "soak", "speed"}),
        ({"kv_cache_dtype": "auto"}, set(MODELS)),
        ({"quantization": "gptq"}, set(MODELS)),
    ],
)
def test_a_part_follows_the_flags_that_it_depends_on(
    examination: Callable[..., Examination], serve: dict[str, Any], parts: set[str]
):
    assert moved(examination(), examination(serve)) == parts


def test_a_base_is_found_again_by_recipes_that_serve_it_alike(examination: Callable[..., Examination]):
    """Whether a recipe names a value that would be taken anyway, and in which order, is no difference."""
    named, left = [
        baseline_serve(recipes.load(name).serve).model_dump()
        for name in ("autoround-w4a16-g128", "gptq-foem-g32")
    ]
    assert named["max_num_seqs"] != left["max_num_seqs"]
    assert moved(examination(named, role="base"), examination(left, role="base")) == set()


def test_prefix_caching_changes_no_score(examination: Callable[..., Examination]):
    assert not moved(examination(), examination({"enable_prefix_caching": False})) & SCORES


def test_the_printed_command_and_the_bench_follow_the_name(examination: Callable[..., Examination]):
    assert moved(examination(), examination(name="other/name")) == {"load", "speed", "speed_plain"}


def test_other_weights_find_nothing(examination: Callable[..., Examination]):
    assert moved(examination(), examination(fingerprint="1" * 64)) == set(MODELS)


def test_another_engine_or_machine_finds_nothing(examination: Callable[..., Examination]):
    here = examination()
    hardware = here.engine.facts.hardware.model_copy(update={"cpu": "another"})
    for change in ({"environment_digest": "2" * 64}, {"hardware": hardware}, {"driver": "600.1"}):
        facts = here.engine.facts.model_copy(update=change)
        there = replace(here, engine=replace(here.engine, facts=facts))
        assert moved(here, there) == set(MODELS)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"stride_tokens": 256}, {"perplexity"}),
        ({"max_tokens": 4096}, {"perplexity"}),
        ({"window_tokens": 1024}, SCORES),
        ({"divergence_tokens": 4096}, {"divergence"}),
        ({"revision": "f" * 40}, {*SCORES, "soak"}),
        ({"speed": RECIPE.evaluation.speed.model_copy(update={"num_runs": 5})}, {"speed", "speed_plain"}),
    ],
)
def test_a_part_follows_its_section_of_the_evaluation(
    examination: Callable[..., Examination], change: dict[str, Any], parts: set[str]
):
    assert moved(examination(), examination(evaluation=change)) == parts


def test_a_divergence_is_from_one_base(examination: Callable[..., Examination]):
    one = replace(examination(), reference=examination(fingerprint="3" * 64))
    other = replace(examination(), reference=examination(fingerprint="4" * 64))
    assert moved(one, other) == {"divergence"}


def test_every_part_names_the_code_that_makes_it():
    digests = [made_by(name) for name in MODELS]
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert empty not in digests


def test_a_speed_of_more_than_a_day_ago_is_taken_again(examination: Callable[..., Examination]):
    x = examination()
    for age, missing in ((timedelta(hours=1), False), (timedelta(hours=25), True)):
        at = (datetime.now(UTC) - age).isoformat()
        x.keep("speed", measured.speeds(100.0, started_at=at))
        assert x.is_missing("speed") is missing
        assert isinstance(x.read("speed"), Speeds)


def test_a_base_is_served_without_what_belongs_to_the_packing():
    packed = recipes.load("nvfp4").serve
    assert packed.quantization
    base = baseline_serve(packed)
    assert (base.quantization, base.kv_cache_dtype, base.dtype) == (None, "auto", "auto")
    assert base.num_speculative_tokens == packed.num_speculative_tokens
