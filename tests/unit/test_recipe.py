"""Recipes: every shipped one loads and holds the design's values; bad ones say where and what."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from bot import log, recipe_pins
from bot import recipe as recipes
from bot.errors import RecipeError
from bot.readme import README, updated
from bot.recipe_text import pin_text

FOEM = (recipes.RECIPES_DIR / "gptq-foem-g32.yaml").read_text(encoding="utf-8")
PLACE = {  # where each text stands in FOEM, by its first line
    line.strip(): number for number, line in reversed(list(enumerate(FOEM.splitlines(), start=1)))
}
FAITHFUL = ["autoround-w4a16-g128", "gptq-foem-g32", "gptq-w4a16-g128", "nvfp4"]
NAMES = recipes.names()


def parse(text: str, **overrides: str) -> recipes.Recipe:
    return recipes.parse(text, where="x.yaml", name="gptq-foem-g32", overrides=overrides)


def test_these_four_are_the_faithful_ones():
    assert recipes.faithful() == FAITHFUL


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
def test_all_cover_the_same_modules(name):
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
        ("backend: gptqmodel", "backend: gptq_model", "method.backend", "did you mean 'gptqmodel'"),
        ("mode: spread", "mode: spred", "calibration.sets.0.lengths.mode", "did you mean 'spread'"),
        ("group_size: 32", "group_size: 33", "method.group_size", "given 33"),
        ("sym: true", 'sym: "yes"', "method.sym", 'given "yes"'),
        (
            "desc_act: false",
            "desc_act: true",
            "method.desc_act",
            "desc_act and act_group_aware exclude each other",
        ),
        ("revision: unpinned", "revision: main", "calibration.sets.0.revision", 'given "main"'),
        ("min_tokens: 256", "min_tokens: 4096", "calibration.sets.0.lengths.min_tokens", "above max_tokens"),
        ("rows: text", "rows: image_text", "calibration.sets.1.rows", "takes text only"),
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


MODULE = "coverage.quantize.0"
FRESH = "fresh-group-scales"


@pytest.mark.parametrize(
    ("before", "after", "field", "words"),
    [
        ("mse: 2.0", "mse: .inf", "method.mse", "finite"),
        ("mse: 2.0", "mse: .nan", "method.mse", "finite"),
        (
            "min_parameters: 0",
            "min_parameters: 50000000000",
            "applies_to.min_parameters",
            "no base could fit",
        ),
        ("model_type: [qwen3_5]", "model_type: []", "applies_to.model_type", "at least 1"),
        (
            "architectures: [Qwen3_5ForConditionalGeneration]",
            "architectures: []",
            "applies_to.architectures",
            "at least 1",
        ),
        ("columns: [text]", "columns: []", "calibration.sets.1.columns", "at least 1"),
        ("stride_tokens: 512", "stride_tokens: 4096", "evaluation.stride_tokens", "above window_tokens 2048"),
        ("num_samples: 128", "num_samples: 100001", "calibration.sets.0.num_samples", "100000"),
        ("seed: 0", "seed: -1", "calibration.seed", "greater than or equal to 0"),
        ("seed: 0", "seed: 4294967296", "calibration.seed", "4294967295"),
        (
            'fallback_rtn_threshold: "0.5%"',
            'fallback_rtn_threshold: "101%"',
            "method.fallback_rtn_threshold",
            "at most 100%",
        ),
        ("- mlp.gate_proj", "- mtp.fc", MODULE, "not a module of a decoder layer"),
        ("- mlp.gate_proj", "- lm_head", MODULE, "not a module of a decoder layer"),
        ("- mlp.gate_proj", "- mlp.", MODULE, "not a module of a decoder layer"),
        ("- mlp.gate_proj", '- ""', MODULE, "not a module of a decoder layer"),
        ("- mlp.up_proj", "- mlp.gate_proj", "coverage.quantize.1", "stated twice"),
        ("sym: true", "sym: true\n  kv_cache: fp8", "method.kv_cache", "carry no FP8 KV scales"),
        ("static_groups: false", "static_groups: true", "method.static_groups", "is for desc_act"),
        ("mode: spread", "mode: exact", "calibration.sets.0.lengths.min_tokens", "one length"),
        ("foem_beta: 0.2", "", "method.foem_alpha", "go together"),
        ("mse: 2.0", "mse: 2.0\n  patches: [fresh]", "method.patches.0", "fresh-group-scales"),
        ("mse: 2.0", f"mse: 2.0\n  patches: [{FRESH}, {FRESH}]", "method.patches.1", "stated twice"),
        ("group_size: 32", f"group_size: 128\n  patches: [{FRESH}]", "method.patches.0", "starts with its"),
        ("foem_beta: 0.2", "foem_beta: 0\n  patches: [foem-cross-block]", "method.patches.0", "first-order"),
        ("foem_alpha: 0.25", "foem_alpha: 0\n  patches: [gptaq-cross-block]", "method.patches.0", "asymm"),
        ("backend: gptqmodel", "", "method.backend", "which tool quantizes"),
        ("{image: 2}", "{imag: 2}", "serve.limit_mm_per_prompt.imag", "did you mean 'image'"),
    ],
)
def test_what_cannot_be_is_refused_at_its_line_and_field(before, after, field, words):
    changed = FOEM.replace(before, after, 1)
    assert changed != FOEM
    with pytest.raises(RecipeError) as caught:
        parse(changed)
    (problem,) = caught.value.problems
    assert set(problem) == {"file", "line", "field", "message", "given"}
    assert (problem["file"], problem["field"]) == ("x.yaml", field)
    assert words in problem["message"]
    last = field.rpartition(".")[2]
    line = changed.splitlines()[problem["line"] - 1]
    assert last in line or last.isdigit() or last == "backend"
    assert f"x.yaml:{problem['line']}: {field}: " in str(caught.value)
    json.dumps(problem, allow_nan=False)


def test_rules_over_fields_name_the_line_and_what_was_given():
    for change, line, field, given in (
        (("desc_act: false", "desc_act: true"), PLACE["desc_act: false"], "method.desc_act", True),
        (("min_tokens: 256", "min_tokens: 4096"), None, "calibration.sets.0.lengths.min_tokens", 4096),
        (("rows: text", "rows: image_text"), PLACE["rows: text"], "calibration.sets.1.rows", "image_text"),
    ):
        with pytest.raises(RecipeError) as caught:
            parse(FOEM.replace(*change, 1))
        (problem,) = caught.value.problems
        assert (problem["field"], problem["given"]) == (field, given)
        assert line in (None, problem["line"])
    text = (recipes.RECIPES_DIR / "nvfp4.yaml").read_text(encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        recipes.parse(text.replace("kv_cache_dtype: fp8", "kv_cache_dtype: auto"), where="x", name="nvfp4")
    assert [each["field"] for each in caught.value.problems] == ["serve.kv_cache_dtype"]


@pytest.mark.parametrize(
    ("before", "after", "field", "second"),
    [
        ("  mse: 2.0", "  mse: 2.0\n  bits: 8", "method.bits", "  bits: 8"),
        (
            "schema_version: 1",
            "schema_version: 1\n'schema_version': 1",
            "schema_version",
            "'schema_version': 1",
        ),
        (
            "{mode: spread, min_tokens: 256,",
            "{mode: spread, min_tokens: 256, min_tokens: 1,",
            "calibration.sets.0.lengths.min_tokens",
            "min_tokens: 1,",
        ),
        ("  mse: 2.0", "  <<: {mse: 2.0}", "method.<<", "<<"),
    ],
)
def test_a_field_stands_once_and_where_it_acts(before, after, field, second):
    changed = FOEM.replace(before, after, 1)
    with pytest.raises(RecipeError) as caught:
        parse(changed)
    (problem,) = caught.value.problems
    assert problem["field"] == field
    assert second in changed.splitlines()[problem["line"] - 1]


def test_a_set_value_is_blamed_on_the_command_line_and_nothing_else_is():
    text = FOEM.replace("bits: 4", "bits: 5")
    with pytest.raises(RecipeError) as caught:
        recipes.parse(text, where="x.yaml with --set", name="gptq-foem-g32", overrides={"method.mse": "x"})
    by_field = {each["field"]: each for each in caught.value.problems}
    assert (by_field["method.bits"]["file"], by_field["method.bits"]["line"]) == ("x.yaml", PLACE["bits: 4"])
    assert (by_field["method.mse"]["file"], by_field["method.mse"]["line"]) == ("--set method.mse=x", None)
    assert "with --set" not in str(caught.value)
    assert '--set method.mse=x: method.mse: Input should be a valid number (given "x")' in str(caught.value)
    with pytest.raises(
        RecipeError, match=r"--set method.act_group_aware=true: method.act_group_aware: desc_act"
    ):
        parse(
            FOEM.replace("desc_act: false", "desc_act: true").replace("aware: true", "aware: false"),
            **{"method.act_group_aware": "true"},
        )
    with pytest.raises(RecipeError, match=r"--set method.mse=\[: method.mse: not YAML"):
        parse(FOEM, **{"method.mse": "["})
    with pytest.raises(RecipeError, match=r"--set calibration.sets.\*.num_samples=0: calibration.sets.1"):
        parse(FOEM, **{"calibration.sets.*.num_samples": "0"})


def test_autoround_takes_whole_batches_of_one_length():
    text = (recipes.RECIPES_DIR / "autoround-w4a16-g128.yaml").read_text(encoding="utf-8")
    for change, words in (
        ("num_samples: 127", "does not divide num_samples 127"),
        ("mode: truncate", "one length"),
    ):
        changed = text.replace("num_samples: 128" if "num" in change else "mode: exact", change)
        with pytest.raises(RecipeError, match=words) as caught:
            recipes.parse(changed, where="x.yaml", name="autoround-w4a16-g128")
        (problem,) = caught.value.problems
        assert change.split(": ")[0] in changed.splitlines()[problem["line"] - 1]
    start, end = text.index("    - dataset:"), text.index("evaluation:")
    other = text[start:end].replace("2048", "1024")
    with pytest.raises(RecipeError, match="the first set has 2048 tokens, this one 1024"):
        recipes.parse(text[:end] + other + text[end:], where="x.yaml", name="autoround-w4a16-g128")


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
        "a: 2026-13-45",
        "a: " + "9" * 5000,
        "a: !!bool maybe",
        "? [a]\n: 1",
        "method: {2026-01-01: 1}",
        "method: {backend: [1]}",
        "\x07",
    ],
)
def test_what_is_no_recipe_is_refused_with_its_type(text):
    with pytest.raises(RecipeError) as caught:
        parse(text)
    assert caught.value.problems
    json.dumps(caught.value.problems, allow_nan=False)
    with pytest.raises(RecipeError) as caught:
        parse(FOEM, method=text)
    json.dumps(caught.value.problems, allow_nan=False)


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


EVOL = "theblackcat102/evol-codealpaca-v1"
SHA = "a" * 40


def test_a_choice_that_is_not_made_leaves_the_digest_as_it_was():
    """Keys of releases that exist may not move when a recipe learns a new field."""
    plain = parse(FOEM)
    assert "patches" not in json.loads(plain.canonical())["method"]
    assert parse(FOEM.replace("mse: 2.0", "mse: 2.0\n  patches: []")).digest() == plain.digest()
    patched = parse(FOEM.replace("mse: 2.0", f"mse: 2.0\n  patches: [{FRESH}]"))
    assert patched.digest() != plain.digest()
    assert recipes.Recipe.model_validate(plain.model_dump(mode="json")) == plain


def test_a_counterpart_shapes_nothing_and_stands_only_where_there_is_one():
    plain = parse(FOEM)
    assert "counterpart" not in plain.model_dump(mode="json")
    beside = parse(FOEM.replace("schema_version: 1", "schema_version: 1\ncounterpart: nvfp4"))
    assert beside.digest() == plain.digest()
    assert beside.model_dump(mode="json")["counterpart"] == "nvfp4"
    with pytest.raises(RecipeError, match="counterpart"):
        parse(FOEM.replace("schema_version: 1", "schema_version: 1\ncounterpart: A/b"))


def test_the_making_is_told_whatever_the_commits_and_the_name():
    plain = parse(FOEM)
    assert plain.with_revisions({EVOL: SHA}).making_digest() == plain.making_digest()
    assert recipes.parse(FOEM, where="y.yaml", name="other").making_digest() == plain.making_digest()
    others = [
        parse(FOEM, **{path: value})
        for path, value in {
            "method.mse": "2.4",
            "calibration.seed": "1",
            "calibration.sets.0.num_samples": "64",
            "coverage.quantize": "[mlp.up_proj]",
        }.items()
    ]
    assert len({plain.making_digest(), *(each.making_digest() for each in others)}) == 5
    judged = parse(FOEM, **{"thresholds.max_kld": "0.5"})
    assert judged.making_digest() == plain.making_digest()


# sha256 of what shaped the artifact when the four were first released; calibration commits left out.
FIRST = {
    "gptq-foem-g32": "d19e0dd5107535660518fa501dd7621721f0c2e47e57798ac303446119e97bbc",
    "gptq-w4a16-g128": "9aa524c06b3de658d184573b8dbaa6498b8f6859e42766df535487a51b738113",
    "autoround-w4a16-g128": "97e9e36751b0186379cd6be9f6b164c6ac3d5574c3b65447be97b761219219e2",
    "nvfp4": "9a91339e88f6804a85dbd593fd71da4145aee9df47d608f2bab7c74e6a33b3ef",
}


@pytest.mark.parametrize("name", FIRST)
def test_the_faithful_recipes_are_what_they_were(name):
    """A new field with a default, or a changed value, would give every release another key."""
    recipe = recipes.load(name)
    pinned = recipe.with_revisions(dict.fromkeys(recipe.datasets(), "0" * 40))
    assert pinned.digest() == FIRST[name]


def test_descent_needs_the_path_that_has_it_and_is_no_part_of_a_recipe_without_it():
    plain = (recipes.RECIPES_DIR / "gptq-w4a16-g128.yaml").read_text(encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        parse(plain.replace("  mse: 0.0", "  mse: 0.0\n  descent_sweeps: 3"))
    (problem,) = caught.value.problems
    assert problem["field"] == "method.descent_sweeps"
    assert "foem_alpha 0" in problem["message"]
    assert (
        parse(FOEM.replace("  mse: 2.0", "  mse: 2.0\n  descent_sweeps: 0")).digest() == parse(FOEM).digest()
    )
    swept = parse(FOEM.replace("  mse: 2.0", "  mse: 2.0\n  descent_sweeps: 3"))
    assert swept.digest() != parse(FOEM).digest()
    assert "descent_sweeps" not in json.loads(parse(FOEM).canonical())["method"]


def test_autorounds_descent_and_its_damping_go_together():
    swept = (recipes.RECIPES_DIR / "house-autoround-g128.yaml").read_text(encoding="utf-8")
    damp, sweeps = "  damp_percent: 0.05\n", "  descent_sweeps: 8\n"
    for missing, words in ((damp, "descent needs damp_percent"), (sweeps, "damp_percent is for descent")):
        with pytest.raises(RecipeError) as caught:
            parse(swept.replace(missing, ""))
        assert words in caught.value.problems[0]["message"]
    plain = parse(swept.replace(damp, "").replace(sweeps, ""))
    assert parse(swept.replace(damp, "").replace(sweeps, "  descent_sweeps: 0\n")).digest() == plain.digest()
    assert parse(swept).digest() != plain.digest()
    assert not {"descent_sweeps", "damp_percent"} & set(json.loads(plain.canonical())["method"])


NVFP4 = (recipes.RECIPES_DIR / "nvfp4.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("after", "field", "words"),
    [
        ("algorithm: awq_lite", "method.algorithm", "'local_hessian'"),
        ("algorithm: max\n  rounding: gptq", "method.damp_percent", "needs damp_percent"),
        ("algorithm: mse\n  damp_percent: 0.01", "method.damp_percent", "is for rounding gptq"),
        ("algorithm: mse\n  rounding: gptq\n  damp_percent: 0", "method.damp_percent", "greater than 0"),
        ("algorithm: mse\n  rounding: up", "method.rounding", "'nearest' or 'gptq'"),
    ],
)
def test_nvfp4s_choices_that_cannot_be_are_refused(after, field, words):
    with pytest.raises(RecipeError) as caught:
        parse(NVFP4.replace("algorithm: max", after))
    (problem,) = caught.value.problems
    assert problem["field"] == field
    assert words in problem["message"]


def test_rounding_to_nearest_is_what_nvfp4_always_was():
    assert parse(NVFP4.replace("algorithm: max", "algorithm: max\n  rounding: nearest")) == parse(NVFP4)
    chosen = parse(NVFP4.replace("algorithm: max", "algorithm: mse\n  rounding: gptq\n  damp_percent: 0.01"))
    assert chosen.digest() != parse(NVFP4).digest()
    assert not {"rounding", "damp_percent"} & json.loads(parse(NVFP4).canonical())["method"].keys()


def test_pinning_replaces_only_revisions_and_keeps_comments():
    pinned = pin_text(FOEM, {EVOL: SHA})
    assert pinned == FOEM.replace("revision: unpinned", f"revision: {SHA}")
    assert parse(pinned).unpinned() == []
    assert parse(FOEM).unpinned() == [EVOL]


@pytest.mark.parametrize(
    "written",
    [
        "    - revision: unpinned  # why\n      dataset: theblackcat102/evol-codealpaca-v1\n",
        "    - dataset: 'theblackcat102/evol-codealpaca-v1'\n      revision: \"unpinned\"\n",
        "    - \"dataset\": \"theblackcat102/evol-codealpaca-v1\"  # c\n      'revision': 'unpinned'  # d\n",
        "    - dataset:\n        theblackcat102/evol-codealpaca-v1\n      revision:\n        unpinned\n",
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("sha", [SHA, "1" * 40, "0" * 39 + "e"])
def test_pins_land_on_their_data_set_however_it_is_written(written, newline, sha):
    start = FOEM.index("    - dataset: theblackcat102")
    end = FOEM.index("      split: train")
    text = (FOEM[:start] + written + FOEM[end:]).replace("\n", newline)
    pinned = pin_text(text, {EVOL: sha})
    assert parse(pinned) == parse(text).with_revisions({EVOL: sha})
    assert pinned.replace(f'"{sha}"', sha).replace(sha, "unpinned") == text.replace('"unpinned"', "unpinned")


def test_pins_follow_flow_style_and_the_evaluation_set():
    start, end = FOEM.index("evaluation:"), FOEM.index("thresholds:")
    flow = (
        "evaluation: {revision: unpinned, dataset: Salesforce/wikitext, config: wikitext-2-raw-v1,\n"
        "  split: test, window_tokens: 2048, stride_tokens: 512}  # kept\n\n"
    )
    text = FOEM[:start] + flow + FOEM[end:]
    pinned = pin_text(text, {"Salesforce/wikitext": SHA})
    assert pinned == text.replace("{revision: unpinned", f"{{revision: {SHA}")


def hub(*, embedded: bool) -> SimpleNamespace:
    return SimpleNamespace(embedded=embedded, head=lambda dataset, repo_type: SHA)


@pytest.mark.parametrize("embedded", [True, False])
def test_pin_writes_and_says_when_they_are_stand_ins(tmp_path, monkeypatch, embedded):
    said: list[str] = []
    monkeypatch.setattr(log, "warning", said.append)
    path = tmp_path / "gptq-foem-g32.yaml"
    path.write_bytes(FOEM.replace("\n", "\r\n").encode())
    assert recipe_pins.pin([str(path)], hub(embedded=embedded), update=False) == {str(path): {EVOL: SHA}}
    assert path.read_bytes() == FOEM.replace("\n", "\r\n").replace(": unpinned", f": {SHA}").encode()
    assert ["stand-ins" in each for each in said] == ([True] if embedded else [])
    assert recipe_pins.pin([str(path)], hub(embedded=embedded), update=False) == {str(path): {}}
    assert len(said) == int(embedded)


def test_a_pin_that_would_not_read_back_is_refused_and_nothing_written(tmp_path, monkeypatch):
    path = tmp_path / "gptq-foem-g32.yaml"
    path.write_text(FOEM)
    monkeypatch.setattr(recipe_pins, "pin_text", lambda text, revisions: text)
    with pytest.raises(RecipeError, match="would not read back"):
        recipe_pins.pin([str(path)], hub(embedded=False), update=False)
    assert path.read_text() == FOEM


@pytest.mark.parametrize("name", NAMES)
def test_the_comments_of_a_recipe_stay_true_when_it_is_pinned(name):
    text = (recipes.RECIPES_DIR / f"{name}.yaml").read_text(encoding="utf-8")
    assert "Not pinned yet" not in text


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
