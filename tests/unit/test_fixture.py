"""The committed tiny Qwen3.5 is what its report says, and has the shapes that recipes and engines need.

Reads bytes only: safetensors headers, JSON and text; no torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "qwen3.5-tiny"
REPORT = FOLDER.with_name("qwen3.5-tiny.json")

MTP_LAYER = (
    "input_layernorm",
    "mlp.down_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "post_attention_layernorm",
    "self_attn.k_norm",
    "self_attn.k_proj",
    "self_attn.o_proj",
    "self_attn.q_norm",
    "self_attn.q_proj",
    "self_attn.v_proj",
)
MTP = {f"mtp.layers.0.{part}.weight" for part in MTP_LAYER} | {
    "mtp.fc.weight",
    "mtp.norm.weight",
    "mtp.pre_fc_norm_embedding.weight",
    "mtp.pre_fc_norm_hidden.weight",
}
QUANTIZED = (
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "linear_attn.in_proj_qkv", "linear_attn.in_proj_z", "linear_attn.out_proj",
)  # fmt: skip


def load(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return json.loads(REPORT.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tensors() -> dict[str, tuple[str, str, tuple[int, ...]]]:
    """name → (shard, dtype, shape), from the headers of every shard in the folder."""
    found: dict[str, tuple[str, str, tuple[int, ...]]] = {}
    for shard in sorted(FOLDER.glob("*.safetensors")):
        with safe_open(shard, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                part = file.get_slice(name)
                assert name not in found
                found[name] = (shard.name, part.get_dtype(), tuple(part.get_shape()))
    return found


def test_digest_of_every_file(report: dict[str, Any]) -> None:
    files = sorted(path for path in FOLDER.rglob("*") if path.is_file())
    each = {p.relative_to(FOLDER).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    assert each == report["sha256"]
    lines = sorted(f"{digest}  {name}\n" for name, digest in each.items())
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == report["digest"]


def test_size(report: dict[str, Any]) -> None:
    total = sum(path.stat().st_size for path in FOLDER.iterdir())
    assert total == report["total_bytes"] < 15_000_000


def test_index_agrees_with_the_headers(tensors: dict[str, tuple[str, str, tuple[int, ...]]]) -> None:
    index = load("model.safetensors.index.json")
    assert index["weight_map"] == {name: shard for name, (shard, _, _) in tensors.items()}
    assert index["metadata"]["total_size"] == sum(2 * math.prod(shape) for _, _, shape in tensors.values())
    assert len(set(index["weight_map"].values())) >= 2


def test_tensors(tensors: dict[str, tuple[str, str, tuple[int, ...]]], report: dict[str, Any]) -> None:
    assert {dtype for _, dtype, _ in tensors.values()} == {"BF16"}
    assert {name for name in tensors if name.startswith("mtp.")} == MTP
    assert len(MTP) == 15
    assert sum(name.startswith("model.visual.") for name in tensors) == 33
    assert len(tensors) == 104
    parameters = sum(math.prod(shape) for _, _, shape in tensors.values())
    assert 2_000_000 <= parameters == report["parameters"] <= 6_000_000


def test_shapes_follow_the_config(tensors: dict[str, tuple[str, str, tuple[int, ...]]]) -> None:
    config = load("config.json")
    text, vision = config["text_config"], config["vision_config"]
    hidden, heads, kv, dim = (
        text[k] for k in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    )
    key = text["linear_num_key_heads"] * text["linear_key_head_dim"]
    value = text["linear_num_value_heads"] * text["linear_value_head_dim"]
    linear, full = "model.language_model.layers.0.linear_attn", "model.language_model.layers.3.self_attn"
    expected = {
        "lm_head.weight": (text["vocab_size"], hidden),
        "model.language_model.embed_tokens.weight": (text["vocab_size"], hidden),
        f"{linear}.in_proj_qkv.weight": (2 * key + value, hidden),
        f"{linear}.in_proj_z.weight": (value, hidden),
        f"{linear}.in_proj_a.weight": (text["linear_num_value_heads"], hidden),
        f"{linear}.in_proj_b.weight": (text["linear_num_value_heads"], hidden),
        f"{linear}.conv1d.weight": (2 * key + value, 1, text["linear_conv_kernel_dim"]),
        f"{linear}.A_log": (text["linear_num_value_heads"],),
        f"{full}.q_proj.weight": (2 * heads * dim, hidden),  # attn_output_gate: query and gate
        f"{full}.k_proj.weight": (kv * dim, hidden),
        "mtp.fc.weight": (hidden, 2 * hidden),
        "mtp.layers.0.self_attn.q_proj.weight": (2 * heads * dim, hidden),
        "model.visual.merger.linear_fc2.weight": (hidden, 4 * vision["hidden_size"]),
        "model.visual.patch_embed.proj.weight": (vision["hidden_size"], 3, 2, 16, 16),
    }
    assert {name: tensors[name][2] for name in expected} == expected


def test_config_is_qwens() -> None:
    config = load("config.json")
    text = config["text_config"]
    assert config["architectures"] == ["Qwen3_5ForConditionalGeneration"]
    assert (config["model_type"], text["model_type"]) == ("qwen3_5", "qwen3_5_text")
    assert text["layer_types"] == ["linear_attention"] * 3 + ["full_attention"]
    assert text["mtp_num_hidden_layers"] == 1
    assert text["attn_output_gate"] is True
    assert config["tie_word_embeddings"] is text["tie_word_embeddings"] is False
    assert text["hidden_size"] >= 256
    assert text["max_position_embeddings"] >= 4096
    rope = text["rope_parameters"]
    assert sum(rope["mrope_section"]) * 2 == text["head_dim"] * rope["partial_rotary_factor"]


def test_quantized_linears_fit_groups_and_kernels(
    tensors: dict[str, tuple[str, str, tuple[int, ...]]],
) -> None:
    chosen = [
        n for n in tensors if n.startswith("model.language_model.") and n.split(".", 4)[-1][:-7] in QUANTIZED
    ]
    assert len(chosen) == 3 * 3 + 4 + 4 * 3
    for name in chosen:
        out_features, in_features = tensors[name][2]
        assert in_features % 128 == 0, name
        assert out_features % 64 == 0, name
    assert all(tensors[name][2][1] >= 2 * 128 for name in chosen)


def test_tokenizer_template_and_processor() -> None:
    tokenizer, config = load("tokenizer.json"), load("config.json")
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    assert len(tokenizer["model"]["vocab"]) + len(added) == config["text_config"]["vocab_size"]
    assert added["<|image_pad|>"] == config["image_token_id"]
    assert added["<|video_pad|>"] == config["video_token_id"]
    assert added["<|vision_start|>"] == config["vision_start_token_id"]
    assert added["<|im_end|>"] in load("generation_config.json")["eos_token_id"]
    assert load("vocab.json") == tokenizer["model"]["vocab"]
    assert len((FOLDER / "merges.txt").read_text().splitlines()) >= len(tokenizer["model"]["merges"])
    template = (FOLDER / "chat_template.jinja").read_text(encoding="utf-8")
    assert load("tokenizer_config.json")["chat_template"] == template
    markers = [
        "<|im_start|>",
        "<|im_end|>",
        "<think>",
        "</think>",
        "<tool_call>",
        "<function=",
        "<parameter=",
        "<tool_response>",
        "<|vision_start|><|image_pad|><|vision_end|>",
        "<|video_pad|>",
        "enable_thinking",
        "tools",
    ]
    assert [marker for marker in markers if marker not in template] == []
    assert load("preprocessor_config.json")["image_processor_type"].startswith("Qwen2VLImageProcessor")
    assert load("video_preprocessor_config.json")["video_processor_type"] == "Qwen3VLVideoProcessor"
    assert "license: apache-2.0" in (FOLDER / "README.md").read_text()
    assert "Apache License" in (FOLDER / "LICENSE").read_text()


def test_it_was_trained(report: dict[str, Any]) -> None:
    assert report["perplexity"]["unigram_over_model"] > 8
    assert report["mtp"]["teacher_forced_top1"]["position_1"] > 0.5
    answers = report["images"]["answers"]
    assert answers["flat red"] != answers["flat blue"]
