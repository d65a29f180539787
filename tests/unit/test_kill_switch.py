"""The kill switch: asked again wherever hours may lie between the plan and what is written."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from bot import (
    attempts,
    cli,
    commands,
    commands_watching,
    commands_workflow,
    config,
    pipeline,
    preparing,
)
from bot.config import Config
from bot.edges.hub import Hub
from bot.edges.state_folder import FolderState
from bot.edges.supervisor import PR_SET_DUMPABLE
from bot.errors import InputError, Stopped
from bot.lease import Work
from bot.state import PAUSED, Paused, refuse_paused, save

PR_GET_DUMPABLE = 3
KEY = "0123456789abcdef"
BOT = Path(__file__).resolve().parents[2] / "bot"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderState:
    monkeypatch.setenv("RELEASE_BOT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_of_tests")
    return FolderState(tmp_path / "home" / "state")


def pause(state: FolderState) -> None:
    save(state, PAUSED, Paused(who="ann", why="it is wrong", at=datetime.now(UTC)), version=None)


def arguments(**more: object) -> argparse.Namespace:
    values = {"base": "Qwen/x@" + "a" * 40, "recipe": "nvfp4", "key": KEY, "work": None, "json": False}
    return argparse.Namespace(**{**values, "predecessor": "", "restage": False, "card": Path(), **more})


def test_it_is_asked_again_before_the_upload(state: FolderState, monkeypatch: pytest.MonkeyPatch, tmp_path):
    """What ran before it ran without the token that asks."""
    ran = []

    def run_one(job: object, stage: str) -> None:
        assert "GITHUB_TOKEN" not in os.environ
        assert ctypes.CDLL(None).prctl(PR_GET_DUMPABLE) == 0, "nor can a child read it from /proc"
        ran.append(stage)
        if stage == "audit":
            pause(state)

    monkeypatch.setattr(commands_workflow, "_job", lambda *_: SimpleNamespace())
    monkeypatch.setattr(pipeline, "done_elsewhere", lambda _: None)
    monkeypatch.setattr(pipeline, "run_one", run_one)
    with pytest.raises(Stopped, match="paused by ann: it is wrong"):
        commands_workflow.build(arguments())
    assert ran == ["quantize", "repair", "audit"]
    told = (tmp_path / "output").read_text()
    assert '"stage":"upload","failure_class":"infrastructure"' in told
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1)


def test_what_serves_a_release_cannot_read_the_evaluation_s_environment(
    state: FolderState, monkeypatch: pytest.MonkeyPatch
):
    seen: list[int] = []

    def job(*_: object) -> SimpleNamespace:
        seen.append(ctypes.CDLL(None).prctl(PR_GET_DUMPABLE))
        raise InputError("it goes no further here")

    monkeypatch.setattr(commands_workflow, "_job", job)
    with pytest.raises(InputError, match="no further"):
        commands_workflow.evaluate(arguments())
    assert seen == [0]
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1)


def test_nothing_is_built_published_or_curated_while_it_is_on(
    state: FolderState, monkeypatch: pytest.MonkeyPatch
):
    pause(state)
    for call in (
        lambda: commands_workflow.build(arguments()),
        lambda: commands_workflow.curate(arguments()),
        lambda: commands.one_stage_of("publish")(arguments()),
    ):
        with pytest.raises(Stopped):
            call()


def test_publishing_is_not_started_while_it_is_on(state: FolderState, monkeypatch: pytest.MonkeyPatch):
    started: list[str] = []
    github = SimpleNamespace(start_workflow=lambda file, inputs: started.append(file))
    monkeypatch.setattr(commands_workflow, "connect_github", lambda: (github, state))
    commands_workflow.start_publishing(argparse.Namespace(keys=f'["{KEY}"]'))
    assert started == ["publish.yml"]
    pause(state)
    with pytest.raises(Stopped):
        commands_workflow.start_publishing(argparse.Namespace(keys=f'["{KEY}"]'))
    assert started == ["publish.yml"]


def test_it_is_asked_again_before_a_lease_is_taken(state: FolderState, monkeypatch: pytest.MonkeyPatch):
    """Looking at the base and planning lie between the first question and this one."""
    found = SimpleNamespace(key=KEY, base="Qwen/x", revision="a" * 40, target_repo="acme/x")

    def planned(*_: object) -> SimpleNamespace:
        pause(state)
        return found

    monkeypatch.setattr(preparing, "_planned", planned)
    monkeypatch.setattr(preparing, "_base", lambda *_: None)
    monkeypatch.setattr("bot.repo.refuse_other_base", lambda *_: None)
    given = {"settings": None, "hub": None, "runners": None, "cards": None, "now": datetime.now(UTC)}
    work = Work(key="1", base="", revision="", recipe="", run_url="")
    with pytest.raises(Stopped):
        preparing.prepare("Qwen/x", "nvfp4", **given, state=state, work=work, key="", dry_run=False)
    assert state.list("") == []


@pytest.mark.parametrize("connect", [commands._connect, commands_watching.connect])
def test_every_command_s_hub_asks_it_before_each_write(state: FolderState, connect: Callable[[Config], Hub]):
    hub = connect(config.load())
    hub.before_write()
    pause(state)
    with pytest.raises(Stopped):
        hub.before_write()
    (state.root / PAUSED).unlink()
    hub.before_write()


def test_no_other_hub_is_made_than_those_that_never_write_for_a_release():
    made = {path.name for path in BOT.rglob("*.py") if re.search(r"\w\.Hub\(", path.read_text())}
    assert made == {
        "commands_watching.py",  # `connect`
        "checkup.py",  # reads
        "rehearsal.py",  # the demo's own embedded Hub
        "jobside.py",  # what a job brings back; who submitted it was asked
    }


def test_it_is_set_and_taken_back_by_hand(
    state: FolderState, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("GITHUB_ACTOR", "ann")
    assert cli.main(["pause", "--why", "the Hub is moving"]) == 0
    assert "only this machine" in capsys.readouterr().err
    with pytest.raises(Stopped, match="paused by ann: the Hub is moving"):
        refuse_paused(state)
    assert cli.main(["pause", "--why", "again", "--who", "bob"]) == 0
    assert "paused by ann: the Hub is moving" in capsys.readouterr().err, "who stopped it first is kept"
    assert cli.main(["resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, "was_paused": True}
    refuse_paused(state)
    assert cli.main(["resume"]) == 0
    assert "it was not paused" in capsys.readouterr().err


def test_a_listing_confirmed_on_this_machine_alone_is_told(
    state: FolderState, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    """It confirms nothing for the workflows, which read the state branch."""
    monkeypatch.setattr(commands_watching, "connect", lambda _: None)
    nothing = SimpleNamespace(failed={}, bases=[], changes=[])
    monkeypatch.setattr(commands_watching, "_watch", lambda *_, **__: nothing)
    said = {}
    for argv in (["--confirm", "Qwen"], ["--confirm", "Qwen", "--state", str(tmp_path / "s")], []):
        assert cli.main(["watch", *argv]) == 0
        said[len(argv)] = "only this machine" in capsys.readouterr().err
    assert said == {2: True, 4: False, 0: False}


def test_it_quarantines_nothing():
    assert attempts.failure_class(Stopped("paused by ann: it is wrong")) == "infrastructure"
