"""What a change of files means for a release."""

from __future__ import annotations

import pytest

from bot.changes import kind_of

BEFORE = {"README.md": "1", "config.json": "2", "tokenizer.json": "3", "model.safetensors": "4"}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({}, "none"),
        ({"README.md": "9"}, "readme"),
        ({"README.md": None, ".gitattributes": "9", "assets/a.png": "9"}, "readme"),
        ({"pytorch_model.bin": "9", "x.gguf": "9"}, "readme"),
        ({"modeling_qwen.py": "9"}, "readme"),
        ({"config.json": "9"}, "side_files"),
        ({"LICENSE": "9"}, "side_files"),
        ({"chat_template.jinja": "9", "README.md": "9"}, "side_files"),
        ({"tokenizer.json": None}, "side_files"),
        ({"sub/config.json": "9"}, "readme"),
        ({"model.safetensors": "9", "tokenizer.json": "9"}, "new_weights"),
        ({"model.safetensors": None}, "new_weights"),
        ({"model.safetensors.index.json": "9"}, "new_weights"),
    ],
)
def test_the_weightiest_file_decides(change: dict[str, str | None], kind: str):
    after = {path: blob for path, blob in {**BEFORE, **change}.items() if blob is not None}
    found, paths = kind_of(BEFORE, after)
    assert found == kind
    assert paths == sorted(change)


def test_without_a_manifest_nothing_is_known():
    assert kind_of(None, BEFORE) == ("unknown", sorted(BEFORE))
    assert kind_of({}, BEFORE)[0] == "new_weights"
