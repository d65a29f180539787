"""What the lists say under every spelling, and that mending them makes them agree, once and for all."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import checkpoints as c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.checkpoint.lists import (
    Asked,
    disagreements,
    engine_names,
    excluded_by,
    mixed,
    not_excluded,
    to_listed,
)
from bot.checkpoint.mending import mended, standalone
from bot.errors import InputError

LAYER = "model.language_model.layers.0"
LINEARS = {
    f"{LAYER}.linear_attn.in_proj_qkv": True,
    f"{LAYER}.linear_attn.in_proj_z": True,
    f"{LAYER}.linear_attn.in_proj_a": False,
    f"{LAYER}.linear_attn.in_proj_b": False,
    f"{LAYER}.linear_attn.out_proj": True,
    f"{LAYER}.mlp.gate_proj": True,
    f"{LAYER}.mlp.up_proj": True,
    f"{LAYER}.mlp.down_proj": True,
    "model.language_model.layers.3.self_attn.q_proj": True,
    "model.language_model.layers.3.self_attn.k_proj": True,
    "model.language_model.layers.3.self_attn.v_proj": True,
    "lm_head": False,
    "model.visual.blocks.0.attn.qkv": False,
    "model.visual.merger.linear_fc1": False,
    "mtp.fc": False,
    "mtp.layers.0.self_attn.q_proj": False,
    "mtp.layers.0.self_attn.k_proj": False,
    "mtp.layers.0.self_attn.v_proj": False,
    "mtp.layers.0.mlp.gate_proj": False,
    "mtp.layers.0.mlp.up_proj": False,
}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
AUTOROUND = {
    "quant_method": "auto-round",
    "packing_format": "auto_round:auto_gptq",
    "bits": 4,
    "block_name_to_quantize": "model.language_model.layers",
}
MODELOPT = {"quant_method": "modelopt", "quant_algo": "NVFP4"}


def test_engines_ask_for_fused_names_under_their_own_prefixes() -> None:
    asked = {each.name: each for each in engine_names(LINEARS)}
    engine = "language_model.model.layers.0"
    assert asked[f"{engine}.linear_attn.in_proj_qkvz"].packed is True
    assert asked[f"{engine}.linear_attn.in_proj_ba"].modules == (
        f"{LAYER}.linear_attn.in_proj_a",
        f"{LAYER}.linear_attn.in_proj_b",
    )
    assert asked["language_model.model.layers.3.self_attn.qkv_proj"].packed is True
    assert asked["mtp.layers.0.mlp.gate_up_proj"].packed is False
    assert asked["language_model.lm_head"].packed is False
    assert asked["visual.blocks.0.attn.qkv"].packed is False
    assert mixed(LINEARS) == []
    assert [each.name for each in mixed(LINEARS | {f"{LAYER}.mlp.up_proj": False})] == [
        f"{engine}.mlp.gate_up_proj"
    ]


def test_the_first_matching_pattern_decides() -> None:
    assert excluded_by({"-:.*mtp.*": {}, "+:.*fc": {"bits": 8}}, "mtp.fc")
    assert not excluded_by({"+:.*fc": {"bits": 8}, "-:.*mtp.*": {}}, "mtp.fc")
    assert not excluded_by({"-:mtp": {}}, "model.mtp")
    assert not excluded_by({"-:(": {}}, "mtp.fc")


def test_modelopt_wildcards_are_split_and_renamed_as_vllm_does() -> None:
    assert to_listed(["model.visual*", "mtp*", "lm_head", "a.*"]) == [
        "model.visual", "visual.*", "mtp", "mtp.*", "lm_head", "a.*",
    ]  # fmt: skip
    assert not_excluded("x.in_proj_ba", ["x.in_proj_a", "x.in_proj_b"]) is False
    assert not_excluded("x.in_proj_ba", ["x.in_proj_a"]) is None
    assert not_excluded("language_model.lm_head", ["lm_head"]) is False


@pytest.mark.parametrize("config", [GPTQ, AUTOROUND, MODELOPT], ids=lambda c: c["quant_method"])
def test_mending_an_empty_config_makes_it_agree_and_is_done(config: dict[str, Any]) -> None:
    assert disagreements("f", config | {"ignore": [], "dynamic": {}} if config is GPTQ else config, LINEARS)
    before = copy.deepcopy(config)
    once = mended(config, LINEARS, trivial_g_idx=True)
    assert config == before
    assert disagreements("f", once, LINEARS) == []
    assert mended(once, LINEARS, trivial_g_idx=True) == once


def test_mtp_is_named_where_vllm_looks_for_it() -> None:
    once = mended(GPTQ, LINEARS, trivial_g_idx=True)
    assert any(pattern.startswith("-:") and "mtp" in pattern for pattern in once["dynamic"])
    assert once["modules_in_block_to_quantize"] == [[name for name, packed in LINEARS.items() if packed]]


def test_desc_act_goes_only_where_g_idx_is_trivial() -> None:
    assert mended(GPTQ | {"desc_act": True}, LINEARS, trivial_g_idx=True)["desc_act"] is False
    assert mended(GPTQ | {"desc_act": True}, LINEARS, trivial_g_idx=False)["desc_act"] is True


def test_overrides_of_the_tool_are_kept_and_wrong_entries_dropped() -> None:
    dynamic = {"+:.*down_proj": {"bits": 4}, "-:.*mlp.*": {}, "-:.*mtp.*": {}}
    once = mended(GPTQ | {"dynamic": dynamic}, LINEARS, trivial_g_idx=True)
    assert list(once["dynamic"])[-1] == "+:.*down_proj"
    assert "-:.*mlp.*" not in once["dynamic"]
    assert "-:.*mtp.*" in once["dynamic"]


def test_auto_round_blocks_follow_the_tensors() -> None:
    given = AUTOROUND | {"block_name_to_quantize": ["model.language_model.layers", "mtp.layers"]}
    assert mended(given, LINEARS, trivial_g_idx=True)["block_name_to_quantize"] == [
        "model.language_model.layers"
    ]


def test_the_tools_own_regex_entries_are_understood() -> None:
    extra = {".*in_proj_a.*": {"bits": 16}, ".*in_proj_b.*": {"bits": 16}, ".*mtp.*": {"bits": 16}}
    assert disagreements("f", AUTOROUND | {"extra_config": extra}, LINEARS) == []


def test_stand_alone_files_become_equal() -> None:
    right = mended(GPTQ, LINEARS, trivial_g_idx=True)
    assert standalone({"bits": 8}, right) == right
    right = mended(MODELOPT, LINEARS, trivial_g_idx=True)
    other = {"producer": 1, "quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}}
    wanted = {"producer": 1, "quantization": {"quant_algo": "NVFP4", "exclude_modules": right["ignore"]}}
    assert standalone(other, right) == wanted
    assert standalone(wanted, right) == wanted


_names = st.sampled_from(
    [*LINEARS, "mtp*", "model.visual*", "*in_proj_a", "lm_head*", "language_model.model.layers.0*"]
)


@settings(max_examples=150)
@given(st.lists(_names, max_size=6), st.sampled_from([GPTQ, AUTOROUND, MODELOPT]))
def test_mending_always_ends_in_agreement(names: list[str], config: dict[str, Any]) -> None:
    given_lists = {
        "dynamic": {f"-:{name.replace('*', '.*')}": {} for name in names},
        "extra_config": {name: {"bits": 16} for name in names},
        "ignore": names,
    }
    keys = {"gptq": "dynamic", "auto-round": "extra_config", "modelopt": "ignore"}
    key = keys[config["quant_method"]]
    try:
        once = mended(config | {key: given_lists[key]}, LINEARS, trivial_g_idx=True)
    except InputError:
        return
    assert disagreements("f", once, LINEARS) == []
    assert mended(once, LINEARS, trivial_g_idx=True) == once


def test_costly_patterns_are_refused() -> None:
    for pattern in ("-:(a+)+$", "-:(.*)*x", "-:((a*)*)", "-:" + ".*" * 20, "-:" + "a" * 3000, "-:a**"):
        with pytest.raises(InputError, match="forever"):
            excluded_by({pattern: {}}, "a" * 50)


def test_names_of_the_small_base_are_covered(tmp_path: Path) -> None:
    base = c.make_base(tmp_path / "base")
    for packing in c.PACKINGS:
        made = c.draft(base, packing)
        names = dict.fromkeys(c.kept_linears(made.tensors), False)
        assert names
        assert all(isinstance(each, Asked) for each in engine_names(names))
        assert disagreements("f", made.quantization, names) == []
