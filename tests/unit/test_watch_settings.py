"""`[tool.release-bot.watch]`: what ships, what is refused, and what a rehearsal may set."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot import config
from bot.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AUTHORS", "SETTLE_MINUTES"):
        monkeypatch.delenv(f"RELEASE_BOT_WATCH_{name}", raising=False)


def load(tmp_path: Path, text: str) -> config.Watch:
    (tmp_path / "pyproject.toml").write_text("[tool.release-bot]\n[tool.release-bot.watch]\n" + text)
    return config.load(tmp_path).watch


def test_what_ships_watches_qwen_and_lets_an_upload_finish():
    found = config.load(ROOT).watch
    assert found.authors == ["Qwen"]
    assert found.settle_minutes >= 30
    assert "qwen3_5" in found.model_types


def test_without_a_table_the_defaults_hold(tmp_path: Path):
    assert config.load(tmp_path).watch == config.Watch()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("authors = []", "watch.authors"),
        ('authors = ["a/b"]', "watch.authors"),
        ('authors = ["../x"]', "watch.authors"),
        ('include = ["a b"]', "watch.include"),
        ('include = [""]', "watch.include"),
        ("settle_minutes = -1", "watch.settle_minutes"),
        ("settle_minutes = inf", "watch.settle_minutes"),
        ("max_changes = 0", "watch.max_changes"),
        ("max_parameters = 0", "watch.max_parameters"),
        ('author = ["Qwen"]', "watch.author"),
    ],
)
def test_what_does_not_hold_is_named(tmp_path: Path, text: str, field: str):
    with pytest.raises(UsageError, match=field):
        load(tmp_path, text)


def test_a_rehearsal_sets_authors_and_delay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RELEASE_BOT_WATCH_AUTHORS", "acme, other")
    monkeypatch.setenv("RELEASE_BOT_WATCH_SETTLE_MINUTES", "0")
    found = load(tmp_path, 'exclude = ["*-x"]')
    assert (found.authors, found.settle_minutes, found.exclude) == (["acme", "other"], 0, ["*-x"])
    monkeypatch.setenv("RELEASE_BOT_WATCH_SETTLE_MINUTES", "soon")
    with pytest.raises(UsageError, match="settle_minutes"):
        load(tmp_path, "")
