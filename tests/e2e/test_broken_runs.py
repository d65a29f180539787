"""Measurements that are broken off: the bot is killed, then the engine under it, and the next run goes on.

The checkpoint is a release of the demo with a little noise on its MTP head, so that it is another checkpoint
and nothing of it is known; what is known of its base is found again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import rigged
from rehearsed import ROOT, Rehearsed

from bot.demo.rehearsal import BASE, SCALE
from bot.edges import supervisor

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]
RECIPE = "gptq-foem-g32"
SOAK = ": soak"


def measure(demo: Rehearsed, folder: Path, log: Path, at_soak: Callable[[int], None]) -> tuple[int, str]:
    """Exit code and standard output of `release-bot measure`; `at_soak` gets its pid when the soak begins."""
    settings = [f"--set={key}={value}" for key, value in SCALE[RECIPE].items()]
    argv = [sys.executable, "-m", "bot", "measure", str(folder), "--base", BASE, "--recipe", RECIPE, "--json"]
    with log.open("w") as shown:
        argv += settings
        run = subprocess.Popen(
            argv, cwd=ROOT, env=demo.environment(), stdout=subprocess.PIPE, stderr=shown, text=True
        )
        end = time.monotonic() + 300
        while SOAK not in log.read_text() and run.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        assert SOAK in log.read_text(), log.read_text()[-3000:]
        at_soak(run.pid)
        printed, _ = run.communicate(timeout=600)
    return run.returncode, printed


def kill_the_bot(pid: int) -> None:
    below = supervisor.descendants(pid)
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 30
    while any(map(runs, below)) and time.monotonic() < end:
        time.sleep(0.1)
    assert len(below) >= 3
    assert not any(map(runs, below))


def kill_the_engine(pid: int) -> None:
    (core,) = [each for each in supervisor.descendants(pid) if b"VLLM::EngineCore" in command_of(each)]
    os.kill(core, signal.SIGKILL)


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def runs(pid: int) -> bool:
    return command_of(pid) != b""  # a zombie has none


def test_a_measurement_that_breaks_goes_on_and_an_engine_that_dies_twice_is_the_checkpoints_doing(
    demo: Rehearsed, tmp_path: Path
):
    folder = rigged.copy(Path(demo.release(RECIPE)["work"]) / "checkpoint", tmp_path / "other")
    rigged.break_mtp_noise(folder, std=0.001)

    code, printed = measure(demo, folder, tmp_path / "first.log", kill_the_bot)
    assert (code, printed) == (-signal.SIGKILL, "")
    assert "canaries, greedy, acceptance, soak, speed" in (tmp_path / "first.log").read_text()

    code, printed = measure(demo, folder, tmp_path / "second.log", kill_the_engine)
    assert code == 4
    assert json.loads(printed)["error"]["title"] == "the engine failed"
    # What was measured before the first break was kept.
    assert "other for soak, speed" in (tmp_path / "second.log").read_text()

    code, printed = measure(demo, folder, tmp_path / "third.log", kill_the_engine)
    assert code == 6
    found = json.loads(printed)
    assert found["measured"]["failure"]["kind"] == "dies"
    assert "soak" in found["measured"]["failure"]["what"]
    assert found["measured"]["canaries"]["rows"]
    assert {each["id"]: each["status"] for each in found["gates"]}["load"] == "failed"
