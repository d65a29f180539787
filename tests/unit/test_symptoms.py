"""Logs of vLLM 0.32.0 with a fault provoked, shortened, and what they are told apart as."""

from __future__ import annotations

import pytest

from bot import log
from bot.errors import EngineError, NotServable
from bot.serving import engine_log, symptoms

SITE = "/opt/envs/vllm/lib/python3.11/site-packages"
START = [
    "$ /opt/envs/vllm/bin/vllm serve /data/tiny --port 4321",
    "Triton is installed, but doesn't include CPU backend. Disabling Triton.",
    "(APIServer pid=8666) INFO 11-21 11:40:07 [api_utils.py:286] non-default args: {'host': '/data/tiny'}",
    "(APIServer pid=8666) WARNING 11-21 11:40:07 [system_utils.py:255] Found ulimit of 20000 and failed to "
    "automatically increase. This can cause fd limit errors like `OSError: [Errno 24] Too many open files`.",
    "(APIServer pid=8666) INFO 11-21 11:40:08 [model.py:733] Resolved architecture: Qwen3_5MTP",
]
API_END = [
    "Traceback (most recent call last):",
    f'  File "{SITE}/vllm/entrypoints/cli/main.py", line 120, in main',
    "    args.dispatch_function(args)",
]
WHERE = "logs/drafting.log"


def worker_log(*said: str) -> list[str]:
    """An exception in the worker that loads the weights, with the two processes above it failing in turn."""
    worker = "(Worker pid=12538) ERROR 11-21 11:47:39 [multiproc_executor.py:953] "
    core = "(EngineCore pid=12460) ERROR 11-21 11:47:40 [core.py:1510] "
    return [
        *START,
        "(Worker pid=12538) INFO 11-21 11:47:38 [cpu_model_runner.py:68] Starting to load model /data/tiny",
        worker + "WorkerProc failed to start.",
        worker + "Traceback (most recent call last):",
        worker + f'  File "{SITE}/vllm/model_executor/parameter.py", line 218, in load_row_parallel_weight',
        worker + "    loaded_weight = loaded_weight.narrow(",
        worker + "                    ^^^^^^^^^^^^^^^^^^^^^",
        *(worker + line for line in said),
        "(EngineCore pid=12460) INFO 11-21 11:47:40 [multiproc_executor.py:466] [shutdown] Executor: waiting",
        core + "EngineCore failed to start.",
        core + "Traceback (most recent call last):",
        core + f'  File "{SITE}/vllm/v1/engine/core.py", line 1500, in run_engine_core',
        core + "Exception: WorkerProc initialization failed due to an exception in a background process. See "
        "stack trace for root cause.",
        "Process EngineCore:",
        *API_END,
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
    ]


def api_log(*said: str) -> list[str]:
    """An exception before any process of the engine was started."""
    return [*START, *API_END, *said]


def pydantic(model: str, said: str) -> list[str]:
    return api_log(
        f"pydantic_core._pydantic_core.ValidationError: 1 validation error for {model}",
        f"  Value error, {said} [type=value_error, input_value=ArgsKwargs((), {{'model': ...}}), "
        "input_type=ArgsKwargs]",
        "    For further information visit https://errors.pydantic.dev/2.14/v/value_error",
    )


CHECKPOINT = {
    "norm_missing": (
        worker_log(
            "ValueError: Following weights were not initialized from checkpoint: {'model.norm.weight'}"
        ),
        "weights_missing",
        "model.norm.weight",
    ),
    "mtp_missing": (
        worker_log(
            "ValueError: Following weights were not initialized from checkpoint: {"
            + ", ".join(f"'model.layers.0.self_attn.part_{i}.weight'" for i in range(12))
            + ", 'model.pre_fc_norm_hidden.weight'}"
        ),
        "weights_missing",
        "model.layers.0.self_attn.part_1.weight",
    ),
    "truncated": (
        worker_log(
            "safetensors._safetensors_rust.SafetensorError: Error while deserializing header: incomplete "
            "metadata, file not fully covered"
        ),
        "did_not_load",
        "file not fully covered",
    ),
    "wrong_shape": (
        worker_log("RuntimeError: start (0) + length (512) exceeds dimension size (256)."),
        "did_not_load",
        "exceeds dimension size (256)",
    ),
    "extra_tensor": (
        worker_log(
            "ValueError: There is no module or parameter named 'layers.0.mlp.nonsense' in Qwen3_5Model. "
            "The available parameters belonging to layers.0.mlp (Qwen2MoeMLP) are: {'down_proj.weight'}"
        ),
        "did_not_load",
        "layers.0.mlp.nonsense",
    ),
    "no_shard": (
        worker_log(
            "FileNotFoundError: Weight files referenced in index but missing: "
            "{'/data/tiny/model-00001-of-00003.safetensors'}"
        ),
        "did_not_load",
        "{'…/model-00001-of-00003.safetensors'}",
    ),
    "nvfp4_no_kernel": (
        worker_log(
            "ValueError: Failed to find a kernel that can implement the NVFP4 linear layer. Reasons: "
        ),
        "unsupported",
        "NVFP4 linear layer",
    ),
    "fp8_no_kernel": (
        worker_log(
            "ValueError: Failed to find a kernel that can implement the ScaledMM linear layer. Reasons: ",
            "CPUFp8BlockScaledMMKernel requires AMX tile support (Sapphire Rapids or newer)..",
        ),
        "unsupported",
        "CPUFp8BlockScaledMMKernel requires AMX tile support",
    ),
    "unknown_architecture": (
        pydantic(
            "ModelConfig",
            "Model architectures ['Qwen9ForConditionalGeneration'] are not supported for now. Supported "
            f"architectures: dict_keys([{', '.join(['AfmoeForCausalLM'] * 200)}])",
        ),
        "unsupported",
        "Model architectures ['Qwen9ForConditionalGeneration'] are not supported for now.",
    ),
    "unknown_model_type": (
        pydantic(
            "ModelConfig",
            "The checkpoint you are trying to load has model type `qwen9` but Transformers does not "
            "recognize this architecture.",
        ),
        "unsupported",
        "`qwen9`",
    ),
    "desc_act": (
        pydantic(
            "VllmConfig",
            "GPTQ group activation ordering (desc_act=True) is no longer supported. Use a checkpoint with "
            "static activation ordering or desc_act=False.",
        ),
        "unsupported",
        "(desc_act=True) is no longer supported",
    ),
    "unknown_method": (
        pydantic("ModelConfig", "Unknown quantization method: magic. Must be one of ['awq', 'auto_awq']."),
        "unsupported",
        "Unknown quantization method: magic",
    ),
    "no_preprocessor": (
        api_log(
            "OSError: Can't load image processor for '/data/tiny'. Otherwise, make sure "
            "'/data/tiny' is the correct path to a directory containing a preprocessor_config.json file"
        ),
        "did_not_load",
        "Can't load image processor for '…/tiny'",
    ),
    "nothing known": (
        worker_log("KeyError: 'model.layers.0.self_attn.qkv_proj.g_idx'"),
        "did_not_load",
        "KeyError: 'model.layers.0.self_attn.qkv_proj.g_idx'",
    ),
}
ENGINE = {
    "port": (api_log("OSError: [Errno 98] Address already in use"), "port"),
    "kv_cache_too_small": (
        worker_log(
            "ValueError: To serve at least one request with the model's max seq len (8192), (0.01 GiB KV "
            "cache is needed, which is larger than the available KV cache memory (0.0 GiB)."
        ),
        "out_of_memory",
    ),
    "no_kv_cache": (worker_log("ValueError: No available memory for the cache blocks."), "out_of_memory"),
    "no_main_memory": (
        worker_log(
            "ValueError: Available memory on node 0 (10.27/14.21 GiB) on kv cache allocation is less than "
            "requested memory for kv (1024.0 GiB)."
        ),
        "out_of_memory",
    ),
    "no_gpu_memory": (
        worker_log("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."),
        "out_of_memory",
    ),
    "unknown_flag": (
        [*START, "usage: vllm [-h] [-v]", "vllm: error: unrecognized arguments: --no-such-flag 3"],
        "refused_request",
    ),
}


def at_start(lines: list[str], *, status: int = 1) -> NotServable | EngineError:
    return symptoms.of_end(lines, status=status, serving=False, killed_for_memory=False, where=WHERE)


@pytest.mark.parametrize("name", CHECKPOINT)
def test_the_checkpoints_faults(name: str) -> None:
    lines, kind, words = CHECKPOINT[name]
    error = at_start(lines)
    assert isinstance(error, NotServable)
    assert error.kind == kind
    assert words in error.what
    assert error.fix
    assert any(words in line for line in error.log_tail)
    assert len(error.what) <= engine_log.MAX_LINE


@pytest.mark.parametrize("name", ENGINE)
def test_the_engines_faults(name: str) -> None:
    lines, kind = ENGINE[name]
    error = at_start(lines)
    assert isinstance(error, EngineError)
    assert (error.kind, error.exit_code) == (kind, 4)
    assert error.why
    assert error.what in error.fix


@pytest.mark.parametrize("name", [*CHECKPOINT, *ENGINE])
def test_the_tail_is_short_and_shows_nothing_of_this_machine(name: str) -> None:
    lines = (CHECKPOINT.get(name) or ENGINE[name])[0]
    tail = engine_log.tail(lines)
    assert 0 < len(tail) <= engine_log.TAIL_LINES
    text = "\n".join(tail)
    for unwanted in ("/data/", "/opt/", "pid=", "^^^", "Traceback", "ulimit", "See root cause above"):
        assert unwanted not in text


def test_a_missing_mtp_head_is_called_by_its_name() -> None:
    assert "MTP head" in at_start(CHECKPOINT["mtp_missing"][0]).why
    assert "MTP head" not in at_start(CHECKPOINT["norm_missing"][0]).why


def test_a_warning_that_quotes_an_error_is_none() -> None:
    assert engine_log.cause(START) == ""
    assert engine_log.cause([*START, "RuntimeError: real"]) == "RuntimeError: real"


@pytest.mark.parametrize(
    ("killed", "kind"), [(True, "out_of_memory"), (None, "out_of_memory"), (False, "died")]
)
def test_a_kill_is_for_memory_where_the_kernel_says_so_or_says_nothing(
    killed: bool | None, kind: str
) -> None:
    error = symptoms.of_end(START, status=-9, serving=True, killed_for_memory=killed, where=WHERE)
    assert isinstance(error, EngineError)
    assert error.kind == kind


def test_what_ends_while_serving_is_the_engine_and_not_the_checkpoint() -> None:
    lines = [
        *START,
        "(EngineCore pid=16656) ERROR 11-21 12:01:02 [multiproc_executor.py:321] Worker proc VllmWorker-0 "
        "died unexpectedly (exit code: -11), shutting down executor.",
        "(EngineCore pid=16656) ERROR 11-21 12:01:02 [dump_input.py:74] Dumping scheduler stats: Stats()",
        "(EngineCore pid=16656) ERROR 11-21 12:01:02 [core.py:1400] EngineCore encountered a fatal error.",
        "(EngineCore pid=16656) ERROR 11-21 12:01:02 [core.py:1400] Traceback (most recent call last):",
        "(EngineCore pid=16656) ERROR 11-21 12:01:02 [core.py:1400] RuntimeError: cancelled",
    ]
    error = symptoms.of_end(lines, status=0, serving=True, killed_for_memory=False, where=WHERE)
    assert isinstance(error, EngineError)
    assert error.kind == "died"
    assert "exit code: -11" in error.what
    assert "Dumping" not in str(error)

    error = symptoms.of_end(
        [*START, "ValueError: Following weights were not initialized from checkpoint: {}"],
        status=1,
        serving=True,
        killed_for_memory=False,
        where=WHERE,
    )
    assert isinstance(error, EngineError)
    assert error.kind == "died"


def test_a_signal_without_a_word_at_the_start_is_no_verdict_on_the_checkpoint() -> None:
    error = at_start(START, status=-11)
    assert isinstance(error, EngineError)
    assert "SIGSEGV" in error.what


def test_hung_and_too_much_memory_say_their_limits() -> None:
    assert "within 30 s" in symptoms.hung(START, timeout_s=30, where=WHERE).what
    error = symptoms.too_much_memory(START, held_bytes=3 * 2**30, limit_bytes=2**30, where=WHERE)
    assert (error.kind, "3.00 GiB" in error.what, "1.00" in error.what) == ("out_of_memory", True, True)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at /data/tiny/config.json:", "at …/config.json:"),
        (f'File "{SITE}/vllm/x.py", line 3', 'File "…/vllm/x.py", line 3'),
        ("in ~/.cache/hub/x", "in …/x"),
        ("POST /v1/completions HTTP/1.1", "POST /v1/completions HTTP/1.1"),
        ("see https://docs.vllm.ai/en/latest/x/", "see https://docs.vllm.ai/en/latest/x/"),
        ("0.05 it/s and 3/3", "0.05 it/s and 3/3"),
        ("with hf_abcdefghijklmnop here", "with *** here"),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
    ],
)
def test_paths_and_secrets_are_masked(text: str, shown: str) -> None:
    assert engine_log.masked(text) == shown


def test_hidden_values_are_masked() -> None:
    log.hide("a-value-that-was-hidden")
    assert engine_log.masked("it is a-value-that-was-hidden.") == "it is ***."


def test_symptoms_name_kinds_that_the_errors_have() -> None:
    for each in symptoms.SYMPTOMS:
        assert each.why
        assert each.fix
    kinds = {each.kind for each in symptoms.SYMPTOMS}
    assert kinds == {
        *("weights_missing", "unsupported", "did_not_load"),
        *("out_of_memory", "port", "died", "refused_request"),
    }
