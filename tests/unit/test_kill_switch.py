"""The kill switch: asked again wherever hours may lie between the plan and what is written."""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from bot import attempts, commands, commands_workflow, pipeline
from bot.edges.state_folder import FolderState
from bot.errors import Stopped
from bot.state import PAUSED, Paused, save

KEY = "0123456789abcdef"


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
        ran.append(stage)
        if stage == "audit":
            pause(state)

    monkeypatch.setattr(commands_workflow, "_job", lambda _: SimpleNamespace())
    monkeypatch.setattr(pipeline, "done_elsewhere", lambda _: None)
    monkeypatch.setattr(pipeline, "run_one", run_one)
    with pytest.raises(Stopped, match="paused by ann: it is wrong"):
        commands_workflow.build(arguments())
    assert ran == ["quantize", "repair", "audit"]
    told = (tmp_path / "output").read_text()
    assert '"stage":"upload","failure_class":"infrastructure"' in told


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


def test_it_quarantines_nothing():
    assert attempts.failure_class(Stopped("paused by ann: it is wrong")) == "infrastructure"
