"""Speed as vLLM's own bench measures it, on a real server; no test looks at a time."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from bot.errors import EngineError, RecipeError
from bot.measurements import Speeds
from bot.recipe_evaluation import SpeedPlan
from bot.serving import bench_loads, server, speed
from bot.serving.engine import Engine
from bot.serving.server import Server
from bot.serving.subject import Subject

PLAN = SpeedPlan(
    input_tokens=64, output_tokens=16, streams=[1, 2], num_runs=3, prompts_per_stream=2, prompts_per_kind=8
)
KINDS = {"code": ["Write a function that adds two numbers.", "def fib(n):\n"], "prose": ["Tell a story."]}
LOADS = [("random", 1, 2), ("random", 2, 4), ("code", 1, 2), ("prose", 1, 1)]
Measure = Callable[..., Speeds]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture
def measure(tiny_server: Server, engine: Engine, tiny: Subject, folder: Path) -> Measure:
    def call(plan: SpeedPlan = PLAN) -> Speeds:
        return speed.measure(
            tiny_server, engine, plan, subject=tiny, drafting=True, kinds=KINDS, folder=folder
        )

    return call


@pytest.fixture(scope="module")
def measured(tiny_server: Server, engine: Engine, tiny: Subject, folder: Path) -> Speeds:
    return speed.measure(tiny_server, engine, PLAN, subject=tiny, drafting=True, kinds=KINDS, folder=folder)


def results(folder: Path) -> dict[str, dict[str, object]]:
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in folder.glob("*/*-[0-9]*.json")
        if not path.stem.endswith("-0")
    }


def test_every_load_is_run_with_all_its_requests(measured: Speeds, folder: Path):
    assert [(row.dataset, row.streams, row.runs[0].num_requests) for row in measured.rows] == LOADS
    for row in measured.rows:
        assert (len(row.runs), row.drafting, row.max_num_seqs) == (3, True, 16)
        assert {run.num_failed for run in row.runs} == {0}
        assert all(run.acceptance_rate is not None for run in row.runs)
        for number, run in enumerate(row.runs, start=1):
            found = results(folder)[f"{row.dataset}-{row.streams}-{number}"]
            assert found["output_lens"] == [16] * run.num_requests
            assert found["max_concurrency"] == row.streams


def test_prompts_of_random_runs_differ_and_have_their_length(measured: Speeds, folder: Path):
    found = [each for name, each in results(folder).items() if name.startswith("random")]
    lengths = [length for each in found for length in each["input_lens"]]  # type: ignore[attr-defined]
    assert all(abs(length - 64) <= bench_loads.SLACK_TOKENS for length in lengths)
    answers = [tuple(each["generated_texts"]) for each in found]  # type: ignore[arg-type]
    assert len(set(answers)) == len(found) == 6


def test_the_recorded_command_shows_no_path_of_this_machine(measured: Speeds, tiny: Subject):
    words = shlex.split(measured.command)
    assert words[:3] == ["vllm", "bench", "serve"]
    assert words[words.index("--tokenizer") + 1] == words[words.index("--model") + 1] == tiny.facts.name
    assert not any(word.startswith("/") for word in words)


def test_finished_runs_are_not_made_again(
    measured: Speeds, measure: Measure, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    (lost,) = folder.glob("*/code-1-2.json")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.json")}
    lost.unlink()
    job = lost.with_name("job.json")
    again = measure()
    titles = [each["title"] for each in json.loads(job.read_text(encoding="utf-8"))["runs"]]
    assert titles == ["code-1 warm-up", "code-1 run 2"]
    changed = {path.name for path, at in before.items() if path.exists() and path.stat().st_mtime_ns != at}
    assert changed == {"job.json", "code-1-0.json", "code-1-2.json"}
    kept = [row.runs for row in measured.rows if row.dataset == "random"]
    assert [row.runs for row in again.rows if row.dataset == "random"] == kept
    job.unlink()
    assert measure().rows == again.rows
    assert not job.exists(), "nothing was left to do, so no process was started"


def test_one_process_gives_what_the_program_gives(
    measured: Speeds, tiny_server: Server, engine: Engine, tiny: Subject, folder: Path, tmp_path: Path
):
    words = shlex.split(measured.command)[1:]
    words[words.index("--base-url") + 1] = tiny_server.url
    words[words.index("--model") + 1] = tiny_server.client.model
    words[words.index("--tokenizer") + 1] = str(tiny.folder)
    program = str(engine.environment.python.parent / "vllm")
    env = {**speed.variables(engine), "NO_PROXY": "127.0.0.1"}
    subprocess.run(
        [program, *words, "--result-filename", str(tmp_path / "result.json")],
        env=env,
        check=True,
        capture_output=True,
        timeout=300,
    )
    alone = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    ours = results(folder)["random-1-1"]
    same = ("input_lens", "output_lens", "generated_texts", "completed", "max_concurrency")
    assert {name: alone[name] for name in same} == {name: ours[name] for name in same}
    assert alone.keys() == ours.keys()


def test_a_plan_above_the_context_is_refused_before_anything_runs(measure: Measure, tiny_server: Server):
    limit = tiny_server.load.max_model_len
    with pytest.raises(RecipeError) as caught:
        measure(PLAN.model_copy(update={"input_tokens": limit}))
    assert f"{limit} + 16" in caught.value.what
    assert f"max_model_len is {limit}" in caught.value.what


# ── a server of its own, which is broken ───────────────────────────────────────────────────


@pytest.fixture(scope="module")
def own(tiny: Subject, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server.serving(tiny, engine, drafting=True, logs=tmp_path_factory.mktemp("own")) as running:
        yield running


def processes(running: Server) -> list[psutil.Process]:
    return [
        each
        for each in psutil.Process(running.pid).children(recursive=True)
        if "vllm" in each.name().lower() or "python" in each.name()
    ]


def when(condition: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    """`act` once, as soon as `condition` holds."""

    def wait() -> None:
        deadline = time.monotonic() + 240
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_a_server_that_stops_answering_and_one_that_is_killed(
    own: Server, engine: Engine, tiny: Subject, tmp_path: Path
):
    plan = PLAN.model_copy(update={"streams": [1], "num_runs": 8, "output_tokens": 64})

    def run(stall_s: float) -> Speeds:
        return speed.measure(
            own, engine, plan, subject=tiny, drafting=True, kinds={}, folder=tmp_path, stall_s=stall_s
        )

    def finished() -> list[str]:
        return sorted(p.stem for p in tmp_path.glob("*/random-1-[1-9].json"))

    def signalled(number: signal.Signals) -> Callable[[], None]:
        return lambda: [os.kill(each.pid, number) for each in processes(own)] and None

    stopping = when(lambda: len(finished()) >= 1, signalled(signal.SIGSTOP))
    with pytest.raises(EngineError) as hung:
        run(10.0)
    stopping.join()
    signalled(signal.SIGCONT)()
    kept = finished()
    assert hung.value.kind == "hung"
    assert "log's last words" in hung.value.fix
    assert 1 <= len(kept) < 8

    killing = when(lambda: len(finished()) > len(kept), signalled(signal.SIGKILL))
    with pytest.raises(EngineError) as died:
        run(60.0)
    killing.join()
    assert died.value.kind == "died"
    assert "log's last words" in died.value.fix
    assert len(kept) < len(finished()) < 8
    assert not psutil.pid_exists(own.pid) or not processes(own)
