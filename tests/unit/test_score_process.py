"""How the scoring process may end, with small programs in the place of the engine's interpreter.

What the real engine says when a checkpoint does not load: tests/serving/test_scoring.py.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import measured
import pytest

from bot.edges.environment import Environment
from bot.errors import EngineError, InputError, NotServable
from bot.serving import score_process
from bot.serving.engine import Engine
from bot.serving.score_job import ScoreJob
from bot.serving.store import Identity


def engine(tmp_path: Path, script: str) -> Engine:
    """An engine whose interpreter is a shell script."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/bash\n" + script, encoding="utf-8")
    python.chmod(0o755)
    facts = measured.engine()
    found = Environment(name=facts.environment, python=python, digest=facts.environment_digest, versions={})
    return Engine(environment=found, facts=facts, home=tmp_path)


def job(tmp_path: Path) -> ScoreJob:
    return ScoreJob(
        folder=str(tmp_path),
        name="a/b",
        engine_arguments={},
        vocab_size=10,
        rows_file="-",
        where="-",
        window_tokens=8,
        stride_tokens=4,
        max_tokens=None,
        divergence_tokens=8,
        perplexity_file=None,
        divergence_file=None,
        store_file=None,
        store_is="written",
        max_full_bytes=0,
        reference=Identity(
            base="a/b",
            base_fingerprint="a" * 64,
            dataset="-",
            revision="0" * 40,
            config="-",
            split="-",
            window_tokens=8,
            divergence_tokens=8,
            engine="-",
            environment_digest="b" * 64,
        ),
        result_file=str(tmp_path / "result.json"),
    )


def run(tmp_path: Path, script: str, **options: float) -> int:
    return score_process.run([job(tmp_path)], engine(tmp_path, script), tmp_path, **options)


def test_an_end_without_error_tells_the_memory(tmp_path: Path) -> None:
    assert run(tmp_path, "sleep 0.7\n") > 0
    assert (tmp_path / "score-job.json").is_file()


def test_what_it_is_given(tmp_path: Path) -> None:
    run(
        tmp_path,
        'echo "$@"; echo "$VLLM_ENABLE_V1_MULTIPROCESSING $HF_HUB_OFFLINE"; ls "${PYTHONPATH%%:*}"\n',
    )
    lines = (tmp_path / "scoring.log").read_text(encoding="utf-8").splitlines()[1:]
    assert lines == [f"-m bot.serving.score_worker {tmp_path / 'score-job.json'}", "0 1", "bot"]


def test_several_sets_are_one_start(tmp_path: Path) -> None:
    second = job(tmp_path).model_copy(update={"where": "elsewhere"})
    score_process.run([job(tmp_path), second], engine(tmp_path, 'echo "$@"\n'), tmp_path)
    (line,) = (tmp_path / "scoring.log").read_text(encoding="utf-8").splitlines()[1:]
    assert line.endswith(f"{tmp_path / 'score-job.json'} {tmp_path / 'score-job-1.json'}")
    assert "elsewhere" in (tmp_path / "score-job-1.json").read_text(encoding="utf-8")


def test_its_own_typed_error_comes_back(tmp_path: Path) -> None:
    fields = {"error": "InputError", "what": "too short", "where": "here", "why": "so", "fix": "longer"}
    script = f"printf '%s' '{json.dumps(fields)}' > {tmp_path}/result.json.error; exit 3\n"
    with pytest.raises(InputError, match="too short") as caught:
        run(tmp_path, script)
    assert (caught.value.where, caught.value.fix) == ("here", "longer")


def test_an_error_of_an_earlier_run_is_not_this_one_s(tmp_path: Path) -> None:
    (tmp_path / "result.json.error").write_text("{}", encoding="utf-8")
    assert run(tmp_path, "exit 0\n") >= 0


def test_one_that_says_nothing_hangs_and_is_ended(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="did not answer within 1 s") as caught:
        run(tmp_path, f"echo $$ > {tmp_path}/pid; sleep 60\n", quiet_timeout_s=1)
    assert caught.value.kind == "hung"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text(encoding="ascii")), 0)


def test_a_checkpoint_that_lacks_weights(tmp_path: Path) -> None:
    script = "echo \"ValueError: Following weights were not initialized from checkpoint: {'x'}\"; exit 1\n"
    with pytest.raises(NotServable) as caught:
        run(tmp_path, script)
    assert caught.value.kind == "weights_missing"


EVENTS = """
say() { printf '%s\\n' "$1" >&"$RELEASE_BOT_EVENTS_FD"; }
say '{"event": "phase", "label": "starting the engine", "total": 1}'
say '{"event": "progress", "done": 1, "total": 1}'
say '{"event": "phase", "label": "perplexity", "total": 9}'
sleep 0.5
"""


def test_one_that_dies_after_it_had_loaded_is_the_engine_s_fault(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        run(tmp_path, EVENTS + "echo 'RuntimeError: something inside'; exit 1\n")
    assert caught.value.kind == "died"
    assert "something inside" in caught.value.what


def test_one_that_dies_before_is_the_checkpoint_s(tmp_path: Path) -> None:
    with pytest.raises(NotServable) as caught:
        run(tmp_path, "echo 'RuntimeError: something inside'; exit 1\n")
    assert caught.value.kind == "did_not_load"


def test_out_of_memory(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        run(tmp_path, EVENTS + "echo 'torch.OutOfMemoryError: CUDA out of memory.'; exit 1\n")
    assert caught.value.kind == "out_of_memory"
