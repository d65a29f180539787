"""GitHub on loopback for the tests of this folder: one server for all, a fresh one for those that count."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from emulated import Emulated, running

from bot.edges.github import GitHub


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
