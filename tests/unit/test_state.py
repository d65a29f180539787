"""The state's documents: paths that stay inside, compare-and-swap, the kill switch."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bot import state as states
from bot.edges.state_folder import FolderState
from bot.errors import InputError, Refused, UsageError
from bot.state import Paused, Queued

KEY = "0123456789abcdef"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def state(tmp_path: Path) -> FolderState:
    return FolderState(tmp_path / "state")


def test_a_document_is_read_as_it_was_written(state: FolderState):
    assert state.read("attempts/x.json") is None
    state.write("attempts/x.json", "{}\n", version=None)
    found = state.read("attempts/x.json")
    assert found is not None
    assert found.text == "{}\n"


def test_a_write_needs_the_version_that_is_there(state: FolderState):
    state.write("leases/a.json", "1", version=None)
    first = state.read("leases/a.json")
    with pytest.raises(Refused):
        state.write("leases/a.json", "2", version=None)
    state.write("leases/a.json", "2", version=first.version)
    with pytest.raises(Refused):
        state.write("leases/a.json", "3", version=first.version)
    with pytest.raises(Refused):
        state.delete("leases/a.json", first.version)
    assert state.read("leases/a.json").text == "2"


def test_of_many_writers_at_once_one_wins(state: FolderState):
    won, lost = [], []

    def write(n: int) -> None:
        try:
            state.write("leases/a.json", str(n), version=None)
            won.append(n)
        except Refused:
            lost.append(n)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(16)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(won) == 1
    assert len(lost) == 15
    assert state.read("leases/a.json").text == str(won[0])


def test_a_listing_has_the_documents_of_its_prefix_only(state: FolderState):
    for path in ("leases/b.json", "leases/a.json", "seen/Qwen--x.json"):
        state.write(path, "{}", version=None)
    assert state.list("leases/") == ["leases/a.json", "leases/b.json"]
    assert state.list("attempts/") == []
    state.delete("leases/a.json", state.read("leases/a.json").version)
    assert state.list("leases/") == ["leases/b.json"]


@pytest.mark.parametrize("path", ["../x.json", "/etc/passwd", "a/../b", "a//b", ".git/x", "a b", "", "a/.x"])
def test_no_path_leaves_the_folder(state: FolderState, path: str):
    for act in (state.read, lambda p: state.write(p, "", version=None), lambda p: state.delete(p, "")):
        with pytest.raises(UsageError):
            act(path)


@pytest.mark.parametrize("repo_id", ["Qwen/../x", "Qwen", "a/b/c", "Qwen/x y", "-/x", "Qwen/x\n"])
def test_a_hostile_name_has_no_path(repo_id: str):
    with pytest.raises(UsageError):
        states.seen_path(repo_id)


def test_names_make_paths():
    assert states.seen_path("Qwen/Qwen3.6-27B") == "seen/Qwen--Qwen3.6-27B.json"
    assert states.lease_path(KEY) == f"leases/{KEY}.json"
    with pytest.raises(UsageError):
        states.attempts_path("../../x")
    with pytest.raises(UsageError):
        states.queued_path("../x")


def test_models_come_back_and_what_does_not_hold_is_named(state: FolderState):
    queued = Queued(run_id="7", keys=[KEY], at=NOW, expires_at=NOW)
    states.save(state, states.queued_path("7"), queued, version=None)
    found, version = states.load(state, "queued/7.json", Queued)
    assert found == queued
    state.write("queued/7.json", '{"run_id": 3}', version=version)
    with pytest.raises(InputError, match=r"queued/7\.json is not a valid Queued"):
        states.load(state, "queued/7.json", Queued)
    assert states.load(state, "queued/8.json", Queued) == (None, None)


def test_the_kill_switch_stops_even_when_it_cannot_be_read(state: FolderState):
    assert states.paused(state) is None
    states.refuse_paused(state)
    states.save(state, states.PAUSED, Paused(who="ada", why="the Hub is moving", at=NOW), version=None)
    with pytest.raises(Refused, match="paused by ada: the Hub is moving"):
        states.refuse_paused(state)
    state.write(states.PAUSED, "", version=state.read(states.PAUSED).version)
    with pytest.raises(Refused, match="paused by somebody: no reason was given"):
        states.refuse_paused(state)
    state.write(states.PAUSED, "the Hub\nis moving\n", version=state.read(states.PAUSED).version)
    with pytest.raises(Refused, match="paused by somebody: the Hub is moving"):
        states.refuse_paused(state)
    (state.root / states.PAUSED).write_bytes(b"\xff\xfe")
    with pytest.raises(Refused, match="is not text"):
        states.refuse_paused(state)
    (state.root / states.PAUSED).unlink()
    states.refuse_paused(state)
