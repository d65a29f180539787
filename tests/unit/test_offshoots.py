"""Which of an author's models are bases: facts first, names last."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bot.config import Watch
from bot.edges.listing import Listed
from bot.offshoots import passed_over

BASE = Listed(
    repo_id="Qwen/Qwen3.6-27B",
    hub_id="1",
    revision="a" * 40,
    modified_at=None,
    private=False,
    disabled=False,
    gated=False,
    tags=("transformers", "safetensors", "base_model:Qwen/Qwen3.6-27B-Base"),
    quantized=False,
    model_type="qwen3_5",
    architectures=("Qwen3_5ForConditionalGeneration",),
    num_parameters=27_000_000_000,
)


def code(listed: Listed, **settings: object) -> str | None:
    found = passed_over(listed, Watch(**settings))  # type: ignore[arg-type]
    return found.code if found else None


def test_a_base_passes():
    assert code(BASE) is None
    assert (
        code(BASE, include=["qwen3.*"], model_types=["qwen3_5"], architectures=list(BASE.architectures))
        is None
    )


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("base_model:finetune:Qwen/Qwen3.6-27B-Base", None),  # the author's own chat model
        ("base_model:finetune:qwen/other", None),
        ("base_model:merge:Qwen/one", None),
        ("base_model:finetune:meta/Llama", "derived"),
        ("base_model:merge:somebody/x", "derived"),
        ("base_model:adapter:Qwen/Qwen3.6-27B", "derived"),
        ("base_model:quantized:Qwen/Qwen3.6-27B", "quantized"),
        ("base_model:Qwen/Qwen3.6-27B", None),
        ("gguf", "quantized"),
        ("FP8", "quantized"),
        ("auto-round", "quantized"),
        ("text-generation", None),
    ],
)
def test_tags_decide(tag: str, expected: str | None):
    assert code(replace(BASE, tags=(*BASE.tags, tag))) == expected


@pytest.mark.parametrize(
    "name",
    [
        "Qwen3.6-27B-FP8",
        "Qwen3.6-27B-GGUF",
        "Qwen3.6-27B-AWQ",
        "Qwen3.6-27B-GPTQ-Int4",
        "Qwen3.6-27B-4bit",
        "Qwen3.6-27B-MLX-8bit",
        "Qwen3.6-27B.gguf",
        "Qwen3.6-27B_w4a16",
        "Qwen3.6-27B-NVFP4",
        "Qwen3.6-27B-bnb-4-bit",
    ],
)
def test_a_name_decides_where_nothing_else_does(name: str):
    assert code(replace(BASE, repo_id=f"Qwen/{name}")) == "quantized"


@pytest.mark.parametrize(
    "name",
    [
        "Qwen3.6-27B-Instruct",
        "Qwen3.6-35B-A3B",
        "Qwen3.6-4B",
        "Qwen3.6-0.8B",
        "Qwen3.6-8B-Thinking-2507",
        "QwQ-32B",
    ],
)
def test_sizes_and_dates_are_no_packing(name: str):
    assert code(replace(BASE, repo_id=f"Qwen/{name}")) is None


@pytest.mark.parametrize(
    ("change", "settings", "expected"),
    [
        ({"private": True}, {}, "private"),
        ({"disabled": True}, {}, "disabled"),
        ({"quantized": True}, {}, "quantized"),
        ({}, {"include": ["Qwen4*"]}, "name"),
        ({}, {"exclude": ["*-27b"]}, "name"),
        ({}, {"model_types": ["qwen4"]}, "model_type"),
        ({"model_type": None}, {"model_types": ["qwen4"]}, "unknown_type"),
        ({"model_type": None}, {}, None),
        ({}, {"architectures": ["Other"]}, "architecture"),
        ({}, {"max_parameters": 10}, "size"),
        ({}, {"min_parameters": 10**12}, "size"),
        ({"num_parameters": None}, {"max_parameters": 10}, None),
    ],
)
def test_filters(change: dict[str, object], settings: dict[str, object], expected: str | None):
    assert code(replace(BASE, **change), **settings) == expected
