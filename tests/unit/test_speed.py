"""Loads of the bench, which runs are made, what a run's result must be, and readings of the KV cache."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any, cast

import measured
import pytest

from bot.edges import failures
from bot.edges.environment import Environment
from bot.errors import InfrastructureError, RecipeError
from bot.recipe import Serve
from bot.recipe_evaluation import SpeedPlan
from bot.serving import bench_worker, kv, speed
from bot.serving.bench_loads import BenchLoad, Target, arguments, check_fits, plan_runs, shown_command
from bot.serving.bench_worker import BenchResult, RequestsFailed
from bot.serving.engine import Engine
from bot.serving.server import Server
from bot.serving.subject import Subject

PLAN = SpeedPlan(
    input_tokens=1024,
    output_tokens=256,
    streams=[1, 16],
    num_runs=3,
    prompts_per_stream=2,
    prompts_per_kind=8,
)
KINDS = {"code": ["one", "two\nlines"], "prose": ["three"]}
TARGET = Target(url="http://127.0.0.1:9", model="m", tokenizer="/somewhere/checkpoint")


def loads(**changes: Any) -> list[BenchLoad]:
    return plan_runs(PLAN.model_copy(update=changes), max_num_seqs=8, kinds=KINDS)


def value(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def result(**changes: Any) -> dict[str, Any]:
    figures = {name: 1.5 for name in BenchResult.model_fields if name.endswith(("_ms", "throughput"))}
    return {**figures, "duration": 2.0, "completed": 2, "failed": 0, "total_output_tokens": 512, **changes}


# ── loads ──────────────────────────────────────────────────────────────────────────────────


def test_random_at_each_number_of_streams_then_each_kind_in_one():
    found = [(e.dataset, e.streams, e.input_tokens, e.output_tokens, e.num_prompts) for e in loads()]
    assert found == [
        ("random", 1, 1024, 256, 2),
        ("random", 16, 1024, 256, 32),
        ("code", 1, None, 256, 2),
        ("prose", 1, None, 256, 1),
    ]


def test_more_streams_than_the_server_runs_are_kept_and_said():
    assert [(each.streams, each.max_num_seqs) for each in loads()[:2]] == [(1, 8), (16, 8)]


@pytest.mark.parametrize(("limit", "fits"), [(1280, False), (1295, False), (1296, True), (8192, True)])
def test_a_plan_must_fit_into_the_context(limit: int, fits: bool):
    if fits:
        check_fits(PLAN, limit)
    else:
        with pytest.raises(RecipeError, match=rf"1024 \+ 256 tokens .* max_model_len is {limit}\n"):
            check_fits(PLAN, limit)


def test_no_two_runs_of_a_server_share_a_seed_or_a_cache_salt(tmp_path: Path):
    runs = speed.missing_runs(loads(num_runs=20), TARGET, tmp_path)
    seeds = [value(run.arguments, "--seed") for run in runs]
    salts = [value(run.arguments, "--extra-body") for run in runs if "custom" in run.arguments]
    assert len(runs) == 4 * 21
    assert len(set(seeds)) == len(seeds)
    assert len(set(salts)) == len(salts) == 2 * 21


def test_every_run_is_the_same_work_for_every_checkpoint():
    for load in loads():
        words = arguments(load, TARGET, seed=1, num_prompts=load.num_prompts, dataset_file="x.jsonl")
        assert "--ignore-eos" in words
        assert value(words, "--temperature") == "0"
        assert value(words, "--max-concurrency") == str(load.streams)
        assert value(words, "--percentile-metrics") == "ttft,tpot,itl,e2el"
        length = "--random-output-len" if load.dataset == "random" else "--custom-output-len"
        assert value(words, length) == "256"


@pytest.mark.parametrize(
    ("name", "shown"), [("Qwen/Qwen3.5-27B", "Qwen/Qwen3.5-27B"), ("/home/someone/My Model/", "My Model")]
)
def test_the_shown_command_names_the_repo_and_no_folder(name: str, shown: str):
    words = shlex.split(shown_command(loads()[0], name))
    assert value(words, "--model") == value(words, "--tokenizer") == shown
    assert not any(word.startswith("/") for word in words)


# ── which runs are made ────────────────────────────────────────────────────────────────────


def test_each_load_is_warmed_up_by_one_prompt_a_stream_before_its_runs(tmp_path: Path):
    runs = speed.missing_runs(loads(), TARGET, tmp_path)
    titles = [run.title for run in runs if run.title.startswith("random-16")]
    prompts = [value(run.arguments, "--num-prompts") for run in runs if run.title.startswith("random-16")]
    assert titles == [f"random-16 {each}" for each in ("warm-up", "run 1", "run 2", "run 3")]
    assert prompts == ["16", "32", "32", "32"]


def test_the_real_prompts_are_written_as_the_bench_reads_them(tmp_path: Path):
    runs = speed.missing_runs(loads(), TARGET, tmp_path)
    (path,) = {value(run.arguments, "--dataset-path") for run in runs if run.title.startswith("code")}
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"prompt": "one"}, {"prompt": "two\nlines"}]


def test_kept_runs_are_not_made_again_old_or_broken_ones_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for run in speed.missing_runs(loads(), TARGET, tmp_path):
        Path(run.result_file).write_text(json.dumps(result()), encoding="utf-8")
    assert speed.missing_runs(loads(), TARGET, tmp_path) == []

    long_ago = time.time() - 25 * 3600
    os.utime(tmp_path / "random-1-2.json", (long_ago, long_ago))
    (tmp_path / "code-1-3.json").write_text('{"duration": ', encoding="utf-8")
    (tmp_path / "prose-1-1.json").write_text(json.dumps(result(median_ttft_ms=float("nan"))))
    titles = [run.title for run in speed.missing_runs(loads(), TARGET, tmp_path)]
    assert titles == [
        *("random-1 warm-up", "random-1 run 2"),
        *("code-1 warm-up", "code-1 run 3"),
        *("prose-1 warm-up", "prose-1 run 1"),
    ]
    assert "code-1-3.json is no result" in capsys.readouterr().err


def subject(**changes: Any) -> Subject:
    serve = cast(Serve, None)
    facts = measured.subject(**changes)
    return Subject(folder=Path("x"), serve=serve, facts=facts, max_position_embeddings=8192, vocab_size=2048)


def engine(**changes: Any) -> Engine:
    environment = Environment(name="vllm-cpu", python=Path(sys.executable), digest="d" * 64, versions={})
    return Engine(environment=environment, facts=measured.engine(**changes), home=Path("x"))


def test_runs_of_another_checkpoint_engine_server_or_prompt_are_not_taken():
    same = (loads(), measured.load(), engine(), subject())
    digests = [
        speed.digest_of(*same),
        speed.digest_of(loads(output_tokens=128), *same[1:]),
        speed.digest_of(plan_runs(PLAN, max_num_seqs=8, kinds={**KINDS, "prose": ["other"]}), *same[1:]),
        speed.digest_of(same[0], measured.load(drafting=False), *same[2:]),
        speed.digest_of(same[0], measured.load(max_num_seqs=4), *same[2:]),
        speed.digest_of(*same[:2], engine(driver="other"), same[3]),
        speed.digest_of(*same[:3], subject(fingerprint="9" * 64)),
    ]
    assert len(set(digests)) == len(digests)
    assert speed.digest_of(*same) == digests[0]


def test_an_emulated_format_is_not_measured_and_says_why(tmp_path: Path):
    emulated = subject(emulated="there is no NVFP4 kernel for a CPU")
    found = speed.measure(
        cast(Server, None), engine(), PLAN, subject=emulated, drafting=True, kinds=KINDS, folder=tmp_path
    )
    assert (found.rows, found.not_measured) == ([], "there is no NVFP4 kernel for a CPU")
    assert list(tmp_path.iterdir()) == []


# ── a run's result ─────────────────────────────────────────────────────────────────────────


def accept(tmp_path: Path, **changes: Any) -> Path:
    partial, final = tmp_path / "r.json.partial", tmp_path / "r.json"
    partial.write_text(json.dumps(result(**changes)), encoding="utf-8")
    bench_worker.accept(partial, final)
    return final


def test_a_run_whose_requests_were_all_answered_takes_its_name(tmp_path: Path):
    assert BenchResult.model_validate_json(accept(tmp_path).read_bytes()).completed == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"failed": 1, "completed": 1, "errors": ["", "Traceback …\nOSError: gone"]},
            "1 of 2 .*: OSError: gone",
        ),
        ({"failed": 2, "completed": 0, "errors": ["Bad Request", ""]}, "2 of 2 requests failed: Bad Request"),
        ({"completed": 0}, "no request was answered"),
    ],
)
def test_a_run_with_failed_requests_does_not(tmp_path: Path, changes: dict[str, Any], words: str):
    with pytest.raises(RequestsFailed, match=words):
        accept(tmp_path, **changes)
    assert not (tmp_path / "r.json").exists()


def test_the_worker_leaves_an_error_that_the_bot_reads(tmp_path: Path):
    """This interpreter has no vLLM, which is one way for the worker to fail."""
    job = bench_worker.BenchJob(runs=[], error_file=str(tmp_path / "error.json"))
    (tmp_path / "job.json").write_text(job.model_dump_json(), encoding="utf-8")
    assert bench_worker.main([str(tmp_path / "job.json")]) == bench_worker.BENCH_FAILED
    error = failures.read_error(tmp_path / "error.json")
    assert type(error) is InfrastructureError
    assert "No module named 'vllm'" in error.what


# ── KV cache ───────────────────────────────────────────────────────────────────────────────


def test_drafting_costs_a_share_of_the_cache_under_the_same_conditions():
    on, off = measured.load(kv_cache_tokens=900), measured.load(drafting=False, kv_cache_tokens=1000)
    assert kv.share_lost_to_drafting(on, off) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "changes",
    [{"max_model_len": 4096}, {"kv_cache_dtype": "fp8"}, {"max_num_seqs": 1}, {"kv_cache_tokens": None}],
)
def test_caches_under_other_conditions_are_not_compared(changes: dict[str, Any]):
    assert kv.share_lost_to_drafting(measured.load(), measured.load(drafting=False, **changes)) is None


def test_a_cache_says_how_many_full_requests_and_bytes_a_token():
    load = measured.load(kv_cache_tokens=16384, kv_max_concurrency=None, kv_cache_memory_bytes=2**24)
    cache = kv.cache_of(load)
    assert cache == kv.KvCache(tokens=16384, max_concurrency=2.0, bytes_per_token=1024.0)
    assert kv.cache_of(measured.load(kv_cache_tokens=None)) is None
