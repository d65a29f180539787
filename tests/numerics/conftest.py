"""One process of the quantizer environment for all these tests."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bot import config
from bot.edges import environment

ROOT = Path(__file__).resolve().parents[2]
Arrays = dict[str, np.ndarray]
Tool = Callable[..., Arrays]


class ToolError(Exception):
    """What a task raised in the quantizer environment: the error's type, and its text."""


@pytest.fixture(scope="session")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tool]:
    """`tool(task, arrays, **settings)`: a task of tests/numerics/tools.py, run by the real quantizers."""
    python = environment.ensure("quantize-cpu", config.load(ROOT).home).python
    folder = tmp_path_factory.mktemp("tools")
    read, write = os.pipe()
    names = ("PATH", "HOME", "LANG", "TMPDIR")
    env = {name: os.environ[name] for name in names if name in os.environ}
    env |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
    env |= {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "2", "GPTQMODEL_CPU_WORKERS": "2"}
    with (folder / "tools.log").open("wb") as log, os.fdopen(read) as answers:
        process = subprocess.Popen(
            [str(python), str(Path(__file__).with_name("tools.py")), str(write)],
            stdin=subprocess.PIPE, stdout=log, stderr=log, env=env, pass_fds=(write,), text=True,
            cwd=folder,
        )  # fmt: skip
        os.close(write)
        assert process.stdin is not None
        assert answers.readline() == "ready\n", (folder / "tools.log").read_text()[-3000:]
        numbers = itertools.count()

        def run(task: str, arrays: Arrays, **settings: Any) -> Arrays:
            place = folder / str(next(numbers))
            place.mkdir()
            np.savez(place / "in.npz", **arrays)
            (place / "in.json").write_text(json.dumps(settings))
            print(json.dumps([task, str(place)]), file=process.stdin, flush=True)
            assert answers.readline() == "done\n", (folder / "tools.log").read_text()[-3000:]
            if (place / "error.json").is_file():
                error = json.loads((place / "error.json").read_text())
                raise ToolError(f"{error['type']}: {error['text']}")
            with np.load(place / "out.npz") as found:
                return {name: found[name] for name in found.files}

        yield run
        process.stdin.close()
        process.wait(60)
