"""The real vLLM: it starts and answers, ends with us however we end, and tells its failures apart.

Only the hang is staged, by a program of that name that sleeps: the real one cannot be made to hang on demand.
Everything else is provoked: files are broken, ports taken, processes killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import rigged
from checkpoints import Tensor, bf16, floats, read_all, write_shards

from bot.demo.rehearsal import FIXTURE
from bot.edges import supervisor
from bot.errors import EngineError, NotServable
from bot.serving import command, server
from bot.serving.client import drafts_between
from bot.serving.engine import Engine
from bot.serving.server import Server
from bot.serving.subject import Subject

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
DOWN_PROJ = "model.language_model.layers.0.mlp.down_proj.weight"
FINAL_NORM = "model.language_model.norm.weight"
# A bot of its own, which can be killed: the arguments are the fixture, the bot's home and the logs' folder.
BOT = """
import sys
from pathlib import Path
from bot import recipe
from bot.serving import engine, server, subject
folder, home, logs = map(Path, sys.argv[1:])
vllm = engine.ready(home)
serve = recipe.load("gptq-w4a16-g128").serve
it = subject.of_folder(folder, vllm.facts, role="base", name="org/tiny", revision=None, serve=serve)
with server.serving(it, vllm, drafting=False, logs=logs):
    raise SystemExit("it was not stopped in time")
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return False
    return state != b"Z"


def all_gone(pids: list[int], timeout_s: float = 30.0) -> bool:
    end = time.monotonic() + timeout_s
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.1)
    return not any(map(alive, pids))


def processes(running: Server) -> list[int]:
    return [running.pid, *supervisor.descendants(running.pid)]


# ── a server that is well ──────────────────────────────────────────────────────────────────


def test_it_answers_as_the_command_says(tiny_server: Server, tiny: Subject, engine: Engine) -> None:
    load, client = tiny_server.load, tiny_server.client
    assert load.command.startswith("vllm serve Qwen/Qwen3.5-tiny --max-model-len 200000 ")
    assert load.overlay == command.overlay(tiny, engine, drafting=True)
    assert load.max_model_len == tiny.max_position_embeddings
    assert (load.max_num_seqs, load.drafting, load.weights_tracked) == (16, True, True)
    assert load.kv_cache_tokens is not None
    assert load.kv_cache_tokens >= load.max_model_len
    assert load.kv_max_concurrency == pytest.approx(load.kv_cache_tokens / load.max_model_len, rel=0.01)
    assert load.load_s > 0
    assert "cpu-prefix-caching-with-mtp" in load.quirks or engine.facts.device != "cpu"
    assert str(ROOT) not in load.model_dump_json()
    assert tiny_server.peak_memory_bytes > 2**29
    assert "Application startup complete" in tiny_server.log_file.read_text()

    chat = client.chat([{"role": "user", "content": "hi"}], max_tokens=8, logprobs=True)
    assert len(chat.token_ids) == 8
    assert chat.logprobs is not None
    assert len(chat.logprobs) == 8
    prompt = client.tokenize("def add(a, b):\n")
    by_text = client.complete("def add(a, b):\n", max_tokens=8)
    by_ids = client.complete(prompt, max_tokens=8, logprobs=0)
    assert by_text.token_ids == by_ids.token_ids
    assert all(each <= 0 for each in by_ids.logprobs or [1.0])
    assert len(client.tokenize([{"role": "user", "content": "hi"}])) > len(client.tokenize("hi"))


def test_many_threads_ask_at_once_and_drafts_are_counted(tiny_server: Server) -> None:
    client, before = tiny_server.client, tiny_server.client.drafts()
    prompts = [f"def function_{i}(x):\n" for i in range(12)]
    answers = client.map(
        lambda text: client.complete(text, max_tokens=24, ignore_eos=True), prompts, workers=6
    )
    assert [len(each.token_ids) for each in answers] == [24] * 12
    alone = client.complete(prompts[3], max_tokens=24, ignore_eos=True)
    assert answers[3].text[:8] == alone.text[:8]
    made = drafts_between(before, client.drafts())
    assert len(made.accepted_by_position) == 2
    assert made.num_draft_tokens == 2 * made.num_drafts > 0
    assert made.num_accepted_tokens == sum(made.accepted_by_position) > 0


def test_what_does_not_fit_is_refused_and_the_server_lives(tiny_server: Server) -> None:
    client = tiny_server.client
    with pytest.raises(EngineError, match="max_model_len=8192") as caught:
        client.complete("x", max_tokens=10**6)
    assert caught.value.kind == "refused_request"
    with pytest.raises(EngineError, match="out of vocabulary"):
        client.complete([10**6], max_tokens=1)
    assert client.answers()


# ── ends ───────────────────────────────────────────────────────────────────────────────────


def test_a_taken_port_is_left_alone_and_a_death_while_serving_is_told(
    tiny_server: Server, tiny: Subject, engine: Engine, tmp_path: Path
) -> None:
    """One start for both: the first port is another server's, and the second server's worker is killed."""
    ports = iter([int(tiny_server.url.rpartition(":")[2]), server.free_port()])
    pids: list[int] = []

    def ask_and_kill() -> None:
        with server.serving(
            tiny, engine, drafting=False, logs=tmp_path, pick_port=lambda: next(ports)
        ) as running:
            pids.extend(processes(running))
            assert running.url != tiny_server.url
            assert running.load.drafting is False
            assert running.client.drafts().num_drafts == 0
            assert len(list(tmp_path.iterdir())) == 2  # each start has a log of its own
            worker = next(pid for pid in reversed(pids) if alive(pid))
            threading.Timer(0.7, os.kill, (worker, signal.SIGKILL)).start()
            running.client.complete("x = 1\n", max_tokens=8000, ignore_eos=True)

    with pytest.raises(EngineError) as caught:
        ask_and_kill()
    assert caught.value.kind == "died"
    assert "engine core exited unexpectedly" in str(caught.value)
    assert all_gone(pids)
    assert tiny_server.client.answers()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_however_the_bot_ends_no_server_stays(engine: Engine, tmp_path: Path, sent: signal.Signals) -> None:
    bot = subprocess.Popen(
        [sys.executable, "-c", BOT, str(FIXTURE), str(engine.home), str(tmp_path / "logs")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )
    started = tmp_path / "logs" / "plain.log"
    try:
        end = time.monotonic() + 120
        # By then there are the API server, multiprocessing's tracker and the engine's core.
        while "Initializing a V1 LLM engine" not in (started.read_text() if started.exists() else ""):
            assert bot.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        pids = supervisor.descendants(bot.pid)
        assert len(pids) >= 4
        bot.send_signal(sent)
        told = bot.communicate(timeout=40)[1].decode()
    finally:
        bot.kill()
        bot.wait()
    assert bot.returncode == -sent, told[-2000:]
    assert all_gone(pids)


def test_a_hang_is_ended_after_its_time(tiny: Subject, engine: Engine, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\necho importing\nsleep 600 &\necho $! > sleeper\nwait\n".replace(
            "sleeper", str(tmp_path / "sleeper")
        )
    )
    program.chmod(0o755)
    stuck = replace(engine, environment=replace(engine.environment, python=program.with_name("python")))
    with (
        pytest.raises(EngineError, match="did not answer") as caught,
        server.serving(tiny, stuck, drafting=True, logs=tmp_path / "logs", start_timeout_s=1.5),
    ):
        raise AssertionError("it answered")
    assert caught.value.kind == "hung"
    assert "1.5 s" in caught.value.what
    assert "importing" in caught.value.fix
    assert all_gone([int((tmp_path / "sleeper").read_text())])


def test_too_much_memory_ends_it(tiny: Subject, engine: Engine, tmp_path: Path) -> None:
    with (
        pytest.raises(EngineError, match="above the limit") as caught,
        server.serving(tiny, engine, drafting=True, logs=tmp_path, memory_limit_bytes=150 * 2**20),
    ):
        raise AssertionError("it answered")
    assert caught.value.kind == "out_of_memory"


def test_a_port_that_is_taken_each_time_is_given_up(tiny: Subject, engine: Engine, tmp_path: Path) -> None:
    """The program says what vLLM says of a taken port; that vLLM says it, the test above has seen."""
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'OSError: [Errno 98] Address already in use'\nexit 1\n")
    program.chmod(0o755)
    refused = replace(engine, environment=replace(engine.environment, python=program.with_name("python")))
    with (
        pytest.raises(EngineError) as caught,
        server.serving(tiny, refused, drafting=True, logs=tmp_path / "logs"),
    ):
        raise AssertionError("it answered")
    assert caught.value.kind == "port"
    assert len(list((tmp_path / "logs").iterdir())) == server.PORT_ATTEMPTS


# ── checkpoints that are wrong ─────────────────────────────────────────────────────────────


def cut_off(folder: Path) -> None:
    shard = max(folder.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    os.truncate(shard, shard.stat().st_size // 2)


def turned(folder: Path) -> None:
    def turn(tensor: Tensor) -> Tensor:
        return Tensor(tensor.dtype, tensor.shape[::-1], tensor.data)

    rewrite(folder, DOWN_PROJ, turn)


def not_a_number(folder: Path) -> None:
    rewrite(folder, FINAL_NORM, lambda tensor: bf16(floats(tensor) * float("nan")))


def rewrite(folder: Path, name: str, change: Callable[[Tensor], Tensor]) -> None:
    tensors = read_all(folder)
    tensors[name] = change(tensors[name])
    for path in folder.glob("*.safetensors"):
        path.unlink()
    write_shards(folder, tensors, 3)


def of_another_architecture(folder: Path) -> None:
    config = (folder / "config.json").read_text()
    known = "Qwen3_5ForConditionalGeneration"
    assert known in config
    (folder / "config.json").write_text(config.replace(known, "Qwen9ForConditionalGeneration"))


@pytest.mark.parametrize(
    ("breaks", "kind", "words"),
    [
        (cut_off, "did_not_load", "SafetensorError"),
        (turned, "did_not_load", "exceeds dimension size"),
        (of_another_architecture, "unsupported", "Qwen9ForConditionalGeneration"),
        (rigged.break_mtp_missing, "weights_missing", "not initialized from checkpoint"),
    ],
)
def test_a_broken_checkpoint_is_not_servable(
    breaks: Callable[[Path], None], kind: str, words: str, tiny: Subject, engine: Engine, tmp_path: Path
) -> None:
    shutil.copytree(tiny.folder, tmp_path / "broken")
    breaks(tmp_path / "broken")
    broken = replace(tiny, folder=tmp_path / "broken")
    with (
        pytest.raises(NotServable) as caught,
        server.serving(broken, engine, drafting=True, logs=tmp_path / "logs"),
    ):
        raise AssertionError("it answered")
    assert caught.value.kind == kind
    assert words in caught.value.what
    assert caught.value.log_tail
    assert ("MTP head" in caught.value.why) == (kind == "weights_missing")
    assert str(tmp_path) not in "\n".join([caught.value.what, *caught.value.log_tail])


def test_weights_that_are_no_numbers_answer_garbage(tiny: Subject, engine: Engine, tmp_path: Path) -> None:
    shutil.copytree(tiny.folder, tmp_path / "nan")
    not_a_number(tmp_path / "nan")
    broken = replace(tiny, folder=tmp_path / "nan")
    with server.serving(broken, engine, drafting=True, logs=tmp_path / "logs") as running:
        silent = running.client.complete("x = 1\n", max_tokens=4)
        assert set(silent.token_ids) == {0}  # which is why log-probabilities are asked for
        for ask in (
            lambda: running.client.complete("x = 1\n", max_tokens=4, logprobs=0),
            lambda: running.client.chat([{"role": "user", "content": "hi"}], max_tokens=4, logprobs=True),
        ):
            with pytest.raises(NotServable) as caught:
                ask()
            assert caught.value.kind == "garbage"
