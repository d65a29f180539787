"""GitHub on loopback for the tests of this folder: one server for all, a fresh one for those that count."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from emulated import Emulated, running

from bot import localhub
from bot.edges.github import GitHub
from bot.edges.hub import Hub
from bot.edges.state_branch import BranchState


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulated]:
    with running(tmp_path_factory.mktemp("github")) as found:
        yield found


@pytest.fixture
def emulated(server: Emulated) -> Emulated:
    """The server without faults and with nothing recorded."""
    server.proxy.faults.clear()
    server.proxy.asked.clear()
    server.proxy.dispatched.clear()
    return server


@pytest.fixture
def github(emulated: Emulated) -> GitHub:
    return emulated.client()


@pytest.fixture
def state(emulated: Emulated) -> BranchState:
    """A state branch of its own for each test."""
    return BranchState(emulated.client(), branch=f"state-{secrets.token_hex(4)}", pause_s=0.01)


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """An embedded Hub, where weights are staged."""
    with localhub.running(tmp_path_factory.mktemp("hub")) as server:
        yield Hub(embedded=True, endpoint=server.url, token=server.token)
