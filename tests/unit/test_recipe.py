"""Recipes: every shipped one loads and holds the design's values; bad ones say where and what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from bot import recipe as recipes
from bot.errors import RecipeError
from bot.readme import README, updated

FOEM = (recipes.RECIPES_DIR / "gptq-foem-g32.yaml").read_text(encoding="utf-8")
NAMES = ["autoround-w4a16-g128", "gptq-foem-g32", "gptq-w4a16-g128", "nvfp4"]


def parse(text: str, **overrides: str) -> recipes.Recipe:
    return recipes.parse(text, where="x.yaml", name="gptq-foem-g32", overrides=overrides)


def test_the_shipped_recipes_are_these_four():
    assert recipes.names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_loads_and_explains_each_choice(name):
    recipe = recipes.load(name)
    assert recipe.name == name
    text = (recipes.RECIPES_DIR / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.count("#") >= 15


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("gptq-foem-g32", "method.foem_alpha", 0.25),
        ("gptq-foem-g32", "method.foem_beta", 0.2),
        ("gptq-foem-g32", "method.mse", 2.0),
        ("gptq-foem-g32", "method.group_size", 32),
        ("gptq-foem-g32", "method.fallback_rtn_threshold", "0.5%"),
        ("gptq-foem-g32", "calibration.sets.0.lengths.min_tokens", 256),
        ("gptq-foem-g32", "calibration.sets.1.lengths.max_tokens", 2048),
        ("gptq-foem-g32", "serve.max_model_len", 262144),
        ("gptq-foem-g32", "serve.dtype", "float16"),
        ("gptq-w4a16-g128", "method.damp_percent", 0.01),
        ("gptq-w4a16-g128", "method.static_groups", True),
        ("gptq-w4a16-g128", "calibration.sets.0.num_samples", 512),
        ("gptq-w4a16-g128", "serve.max_model_len", 200000),
        ("gptq-w4a16-g128", "serve.max_num_seqs", 16),
        ("autoround-w4a16-g128", "method.iterations", 200),
        ("autoround-w4a16-g128", "calibration.sets.0.dataset", "NeelNanda/pile-10k"),
        ("autoround-w4a16-g128", "calibration.sets.0.num_samples", 128),
        ("nvfp4", "method.kv_cache", "fp8_cast"),
        ("nvfp4", "calibration.sets.0.subsets", ["sparsetables", "plotqa_cot", "wiki_en"]),
        ("nvfp4", "calibration.sets.1.dataset", "abisee/cnn_dailymail"),
        ("nvfp4", "serve.quantization", "modelopt"),
    ],
)
def test_recipes_hold_the_values_of_the_design(name, path, value):
    found = recipes.load(name).model_dump(mode="json")
    for part in path.split("."):
        found = found[int(part)] if part.isdigit() else found[part]
    assert found == value


@pytest.mark.parametrize("name", NAMES)
def test_all_four_cover_the_same_modules(name):
    coverage = recipes.load(name).coverage
    assert set(coverage.quantize) == {
        *(f"mlp.{p}_proj" for p in ("gate", "up", "down")),
        *(f"self_attn.{p}_proj" for p in "qkvo"),
        *(f"linear_attn.{p}" for p in ("in_proj_qkv", "in_proj_z", "out_proj")),
    }
    assert {"mtp.*", "model.visual.*", "lm_head.weight"} <= set(coverage.keep)


@pytest.mark.parametrize(
    ("before", "after", "line", "words"),
    [
        ("mse: 2.0", "msee: 2.0", "method.msee", "did you mean 'mse'"),
        ("backend: gptqmodel", "backend: gptq_model", "method", "did you mean 'gptqmodel'"),
        ("mode: spread", "mode: spred", "calibration.sets.0.lengths.mode", "did you mean 'spread'"),
        ("group_size: 32", "group_size: 33", "method.group_size", "given 33"),
        ("sym: true", 'sym: "yes"', "method.sym", 'given "yes"'),
        ("desc_act: false", "desc_act: true", "method", "desc_act and act_group_aware exclude each other"),
        ("revision: unpinned", "revision: main", "calibration.sets.0.revision", 'given "main"'),
        ("min_tokens: 256", "min_tokens: 4096", "calibration.sets.0.lengths", "above max_tokens"),
        ("rows: text", "rows: image_text", "recipe", "takes text only"),
        ("bits: 4", "bits: 4\n  kv_cache: fp8_cast", "method.kv_cache", 'given "fp8_cast"'),
        ("data_files: en/", "data_files: ../en/", "data_files", "inside the data set's repo"),
    ],
)
def test_a_bad_recipe_names_line_field_and_what_was_given(before, after, line, words):
    assert before in FOEM
    with pytest.raises(RecipeError) as caught:
        parse(FOEM.replace(before, after, 1))
    message = str(caught.value)
    assert "x.yaml:" in message
    assert line in message
    assert words in message


def test_autoround_takes_whole_batches_of_one_length():
    text = (recipes.RECIPES_DIR / "autoround-w4a16-g128.yaml").read_text(encoding="utf-8")
    for change, words in (
        ("num_samples: 127", "does not divide num_samples 127"),
        ("mode: truncate", "one length"),
    ):
        changed = text.replace("num_samples: 128" if "num" in change else "mode: exact", change)
        with pytest.raises(RecipeError, match=words):
            recipes.parse(changed, where="x.yaml", name="autoround-w4a16-g128")


def test_the_line_is_that_of_the_field():
    line = FOEM.replace("mse: 2.0", "msee: 2.0").splitlines().index("  msee: 2.0") + 1
    with pytest.raises(RecipeError, match=f"x.yaml:{line}: method.msee"):
        parse(FOEM.replace("mse: 2.0", "msee: 2.0"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a list",
        "a: [",
        "a: &x 1\nb: *x",
        "a: !!python/object/apply:os.system [ls]",
        "[" * 5000,
        "a: 1\n" * 100_000,
    ],
)
def test_what_is_no_recipe_is_refused_with_its_type(text):
    with pytest.raises(RecipeError):
        parse(text)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'gptq-foem-g32'"):
        recipes.load("gptq-foam-g32")


def test_overrides_reach_every_element_and_are_checked():
    found = parse(FOEM, **{"calibration.sets.*.num_samples": "8", "method.mse": "2.4"})
    assert [each.num_samples for each in found.calibration.sets] == [8, 8]
    assert found.method.mse == 2.4
    for path, value in (
        ("method.msee", "1"),
        ("nope.x", "1"),
        ("calibration.sets.7.split", "a"),
        ("name.x", "1"),
    ):
        with pytest.raises(RecipeError):
            parse(FOEM, **{path: value})


def test_the_digest_follows_content_and_not_comments_or_prose():
    recipe = parse(FOEM)
    assert parse(FOEM + "\n# a comment\n").digest() == recipe.digest()
    assert parse(FOEM.replace("mse: 2.0", "mse: 2.4")).digest() != recipe.digest()
    assert parse(FOEM.replace("revision: 1588ec4", "revision: 0588ec4")).digest() != recipe.digest()
    assert parse(FOEM.replace("headline: GPTQ", "headline: The GPTQ")).digest() == recipe.digest()
    assert json.loads(recipe.canonical())["method"]["bits"] == 4


def test_pinning_replaces_only_revisions_and_keeps_comments():
    sha = "a" * 40
    pinned = "".join(recipes.pin_text(FOEM, {"theblackcat102/evol-codealpaca-v1": sha}))
    assert pinned == FOEM.replace("revision: unpinned", f"revision: {sha}")
    assert parse(pinned).unpinned() == []
    assert parse(FOEM).unpinned() == ["theblackcat102/evol-codealpaca-v1"]


def test_replacing_revisions_gives_a_valid_recipe():
    found = parse(FOEM).with_revisions({"allenai/c4": "b" * 40})
    assert [each.revision for each in found.calibration.sets][1] == "b" * 40


def test_applies_to_decides_by_fields():
    applies = parse(FOEM).applies_to
    good = {
        "model_type": "qwen3_5",
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "num_parameters": 27_000_000_000,
    }
    assert applies.refusal(**good) is None
    assert "qwen3_5_moe" in (applies.refusal(**{**good, "model_type": "qwen3_5_moe"}) or "")
    assert "parameters" in (applies.refusal(**{**good, "num_parameters": 4 * 10**11}) or "")


def test_the_readme_table_is_current():
    text = README.read_text(encoding="utf-8")
    assert updated(text) == text, "run `make generated`"
    assert all(f"recipes/{name}.yaml" in text for name in NAMES)


def test_recipes_are_plain_yaml():
    for name in NAMES:
        assert isinstance(yaml.safe_load((Path(recipes.RECIPES_DIR) / f"{name}.yaml").read_text()), dict)
