"""A checkpoint as it will be is read as if it lay there."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.checkpoint.folder import FolderSource
from bot.checkpoint.overlay import Overlay
from bot.errors import InputError
from bot.steps.metadata import changes


def source(folder: Path, **files: str) -> FolderSource:
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return FolderSource(folder)


def test_new_files_stand_over_old_ones_and_others_are_gone(tmp_path: Path):
    below = source(tmp_path / "a", merges__txt="old", LICENSE="kept", vocab__json="{}")
    found = Overlay(below, {"merges.txt": b"newer", "chat_template.jinja": b"x"}, {"vocab.json"}, label="it")
    assert sorted(found.files()) == ["LICENSE", "chat_template.jinja", "merges.txt"]
    assert found.read_small("merges.txt", 100) == b"newer"
    assert found.read("merges.txt", 1, 3) == b"ewe"
    assert found.read_small("LICENSE", 100) == b"kept"
    with pytest.raises(InputError):
        found.read_small("vocab.json", 100)
    with pytest.raises(InputError):
        found.read("merges.txt", 3, 9)


def test_a_metadata_release_takes_what_the_base_changed_and_keeps_the_quantization(tmp_path: Path):
    ours = source(
        tmp_path / "ours",
        config__json='{"a": 1, "quantization_config": {"bits": 4}}',
        merges__txt="old",
        vocab__json="{}",
        quant_log__csv="module",
    )
    theirs = source(tmp_path / "theirs", config__json='{"a": 2}', merges__txt="new", README__md="base")
    found = changes(ours, theirs)
    assert found.over["merges.txt"] == b"new"
    assert b'"bits": 4' in found.over["config.json"]
    assert b'"a": 2' in found.over["config.json"]
    assert found.over.keys() == {"merges.txt", "config.json"}
    assert found.gone == {"vocab.json"}


def test_what_did_not_change_is_left(tmp_path: Path):
    ours = source(tmp_path / "ours", config__json='{"a": 1, "quantization_config": {}}', merges__txt="same")
    theirs = source(tmp_path / "theirs", config__json='{"a": 1}', merges__txt="same")
    found = changes(ours, theirs)
    assert (found.over, found.gone) == ({}, frozenset())
