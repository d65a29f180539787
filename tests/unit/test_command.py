"""The printed command, the overlay, and what is run: every field acts, and nothing is added in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import measured
import pytest

from bot import recipe as recipes
from bot.edges.environment import Environment
from bot.recipe import Serve
from bot.serving import command
from bot.serving.engine import Engine
from bot.serving.subject import Subject

FOLDER = Path("/somewhere/of/this/machine")
SERVE = Serve(
    max_model_len=4096,
    dtype="auto",
    kv_cache_dtype="auto",
    max_num_seqs=8,
    limit_mm_per_prompt={"image": 2},
    reasoning_parser="qwen3",
    tool_call_parser="qwen3_coder",
    num_speculative_tokens=2,
)


def engine(device: str = "cuda") -> Engine:
    facts = measured.engine(device)
    environment = Environment(
        name=facts.environment, python=Path("/env/bin/python"), digest=facts.environment_digest, versions={}
    )
    return Engine(environment=environment, facts=facts, home=Path("/home-of-the-bot"))


def subject(serve: Serve = SERVE, *, limit: int = 8192, **facts: Any) -> Subject:
    return Subject(
        folder=FOLDER,
        serve=serve,
        facts=measured.subject("release", **facts),
        max_position_embeddings=limit,
        vocab_size=2048,
    )


def serve(**changes: Any) -> Serve:
    return Serve.model_validate({**SERVE.model_dump(), **changes})


def run(it: Subject, on: Engine, *, drafting: bool = True) -> list[str]:
    return command.argv(it, on, port=4321, served_name="nonce", drafting=drafting)


def value(argv: list[str], flag: str) -> str:
    assert argv.count(flag) == 1, (flag, argv)
    return argv[argv.index(flag) + 1]


def test_the_printed_command_is_portable() -> None:
    assert command.printed(SERVE, "org/name") == [
        *("vllm", "serve", "org/name", "--max-model-len", "4096", "--max-num-seqs", "8"),
        *("--limit-mm-per-prompt", '{"image":2}'),
        *("--speculative-config", '{"method":"mtp","num_speculative_tokens":2}'),
        *("--reasoning-parser", "qwen3", "--enable-auto-tool-choice", "--tool-call-parser", "qwen3_coder"),
    ]


FIELDS: list[tuple[str, object, list[str]]] = [
    ("max_model_len", 5000, ["--max-model-len", "5000"]),
    ("dtype", "float16", ["--dtype", "float16"]),
    ("quantization", "modelopt", ["--quantization", "modelopt"]),
    ("kv_cache_dtype", "fp8", ["--kv-cache-dtype", "fp8"]),
    ("max_num_seqs", 3, ["--max-num-seqs", "3"]),
    ("enable_prefix_caching", True, ["--enable-prefix-caching"]),
    ("enable_prefix_caching", False, ["--no-enable-prefix-caching"]),
    ("limit_mm_per_prompt", {"video": 1}, ["--limit-mm-per-prompt", '{"video":1}']),
    ("reasoning_parser", "other", ["--reasoning-parser", "other"]),
    ("tool_call_parser", "other", ["--tool-call-parser", "other"]),
    (
        "num_speculative_tokens",
        1,
        ["--speculative-config", '{"method":"mtp","num_speculative_tokens":1}'],
    ),
]


@pytest.mark.parametrize(("field", "value", "words"), FIELDS)
def test_every_field_acts(field: str, value: object, words: list[str]) -> None:
    printed = command.printed(serve(**{field: value}), "org/name")
    assert printed != command.printed(SERVE, "org/name")
    assert any(printed[i : i + len(words)] == words for i in range(len(printed)))


def test_no_field_of_the_recipe_is_forgotten() -> None:
    assert {field for field, _, _ in FIELDS} == set(Serve.model_fields)


def test_what_asks_for_the_engines_default_prints_nothing() -> None:
    open_ = serve(max_num_seqs=None, num_speculative_tokens=0, limit_mm_per_prompt={})
    printed = command.printed(open_, "org/name")
    for flag in ("--dtype", "--quantization", "--kv-cache-dtype", "--max-num-seqs", "--speculative-config"):
        assert flag not in printed
    assert not any("prefix" in word or "limit-mm" in word for word in printed)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("drafting", [True, False])
@pytest.mark.parametrize("name", recipes.names())
def test_run_is_printed_and_the_overlay_and_nothing_else(name: str, drafting: bool, device: str) -> None:
    it, on = subject(recipes.load(name).serve), engine(device)
    items = command.overlay(it, on, drafting=drafting)
    assert len({(item.kind, item.name) for item in items}) == len(items)
    assert all(item.why for item in items)

    overlaid = {item.name.replace("--no-", "--") for item in items if item.kind == "argument"}
    printed, run_here = command.printed(it.serve, it.facts.name), run(it, on, drafting=drafting)
    for word in (w for w in run_here if w.startswith("--")):
        assert word in printed or word.replace("--no-", "--") in overlaid
    for word in (w for w in printed if w.startswith("--")):
        assert word in run_here or word.replace("--no-", "--") in overlaid


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_path_and_no_port_of_this_machine_in_the_overlay(device: str) -> None:
    it, on = subject(), engine(device)
    shown = [f"{item.name} {item.value} {item.why}" for item in command.overlay(it, on, drafting=True)]
    assert not any(str(FOLDER) in each or "/home-of-the-bot" in each or "4321" in each for each in shown)
    argv = run(it, on)
    assert argv[:3] == ["/env/bin/vllm", "serve", str(FOLDER)]
    assert (value(argv, "--host"), value(argv, "--port")) == ("127.0.0.1", "4321")
    assert value(argv, "--served-model-name") == "nonce"


def test_weights_are_tracked_for_every_packing() -> None:
    for packing in ("none", "gptq", "nvfp4"):
        argv = run(subject(packing=packing), engine())
        assert json.loads(value(argv, "--model-loader-extra-config")) == {"enable_weights_track": True}


def test_the_context_is_lowered_to_the_bases_limit_and_never_raised() -> None:
    assert value(run(subject(limit=8192), engine()), "--max-model-len") == "4096"
    it = subject(limit=1024)
    assert value(run(it, engine()), "--max-model-len") == "1024"
    assert "4096" in command.printed(it.serve, "org/name")


def test_without_drafts_the_printed_flag_is_left_out_and_said_to_be() -> None:
    it = subject()
    assert "--speculative-config" in run(it, engine(), drafting=True)
    assert "--speculative-config" not in run(it, engine(), drafting=False)
    left = [item for item in command.overlay(it, engine(), drafting=False) if item.value == command.LEFT_OUT]
    assert [item.name for item in left] == ["--speculative-config"]


@pytest.mark.parametrize("it", [subject(drafts=False), subject(serve(num_speculative_tokens=0))])
def test_what_cannot_draft_prints_no_drafts_and_leaves_nothing_out(it: Subject) -> None:
    assert not command.drafts(it)
    assert "--speculative-config" not in run(it, engine(), drafting=True)
    assert all(item.value != command.LEFT_OUT for item in command.overlay(it, engine(), drafting=False))


def test_on_a_cpu_memory_is_capped_and_kernels_are_those_it_has() -> None:
    it = subject(serve(dtype="float16", enable_prefix_caching=True))
    argv = run(it, engine("cpu"))
    assert value(argv, "--dtype") == "bfloat16"
    assert "--enforce-eager" in argv
    assert int(value(argv, "--kv-cache-memory-bytes")) >= 512 * 2**20
    # A quirk of the CPU build: the printed switch is replaced, not joined, by its opposite.
    assert "--no-enable-prefix-caching" in argv
    assert "--enable-prefix-caching" not in argv
    on_gpu = run(it, engine("cuda"))
    assert value(on_gpu, "--dtype") == "float16"
    assert "--enable-prefix-caching" in on_gpu
    assert "--kv-cache-memory-bytes" not in on_gpu


def test_the_cache_grows_with_the_context_and_stays_within_the_machine() -> None:
    machine = engine("cpu")
    memory = machine.facts.hardware.memory_bytes
    small, large, huge = (
        command.kv_cache_bytes(subject(serve(max_model_len=n), limit=10**9), machine)
        for n in (1024, 65536, 10**8)
    )
    assert (small, large, huge) == (512 * 2**20, 2**30, memory // 8)


def test_scoring_runs_on_the_same_settings() -> None:
    it = subject(serve(dtype="float16", quantization="modelopt", kv_cache_dtype="fp8"))
    for device, dtype in (("cpu", "bfloat16"), ("cuda", "float16")):
        keywords = command.engine_arguments(it, engine(device))
        argv = run(it, engine(device), drafting=False)
        assert keywords["dtype"] == value(argv, "--dtype") == dtype
        assert keywords["max_model_len"] == int(value(argv, "--max-model-len"))
        assert keywords["quantization"] == "modelopt"
        assert keywords["kv_cache_dtype"] == "fp8"
        assert keywords["model_loader_extra_config"] == {"enable_weights_track": True}
        assert keywords["enable_prefix_caching"] is False
        assert keywords["limit_mm_per_prompt"] == {"image": 0, "video": 0, "audio": 0}
        assert not {"port", "host", "served_model_name", "reasoning_parser", "speculative_config"} & set(
            keywords
        )
    assert command.engine_arguments(it, engine("cpu"))["enforce_eager"] is True
    assert isinstance(command.engine_arguments(it, engine("cpu"))["kv_cache_memory_bytes"], int)
