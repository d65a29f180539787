"""The log: secrets masked, control characters and workflow commands defused, progress readable in CI."""

from __future__ import annotations

import re

import pytest

from bot import log


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(log, "_secrets", set())
    monkeypatch.setattr(log, "_quiet", False)


def test_a_hidden_value_never_shows(capsys):
    log.hide("hf_secret_value")
    log.info("token hf_secret_value")
    log.error("title", "it was hf_secret_value")
    shown = capsys.readouterr().err
    assert "hf_secret_value" not in shown
    assert "***" in shown


def test_outside_text_cannot_draw_or_command(capsys, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    log.info("::set-env name=x::y\n::error::z\x1b[2J")
    lines = capsys.readouterr().err.splitlines()
    assert not any(line.startswith("::") for line in lines)
    assert "\x1b" not in "".join(lines)


def test_a_step_says_how_it_ended(capsys):
    with pytest.raises(ValueError, match="x"), log.step("Working"):
        raise ValueError("x")
    with log.step("Working"):
        pass
    shown = capsys.readouterr().err
    assert "✗ Working" in shown
    assert "✓ Working" in shown


def test_progress_in_a_log_is_one_line_a_period_and_the_last(capsys):
    with log.Progress("layers", total=100) as progress:
        for done in range(101):
            progress.update(done)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "100/100" in lines[-1]


def test_a_table_is_also_a_job_summary(tmp_path, monkeypatch):
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    text = log.table(["a", "b"], [("1", "x|y")], title="T")
    assert "1  x|y" in text
    assert "| 1 | x\\|y |" in summary.read_text()


def test_a_cell_of_a_summary_is_text(tmp_path, monkeypatch):
    """A base's name or a server's words must not become markup on the run's page."""
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    log.hide("hf_token_of_tests")
    evil = "<img src=x> [x](https://evil) @eve `a`\n### b"
    log.table(["a"], [(evil,), ("it was hf_token_of_tests",)], title="*T* hf_token_of_tests")
    shown = summary.read_text()
    assert not re.search(r"(?<!\\)[<\[@`]", shown)
    assert not re.search(r"(?<!\\)://", shown)
    assert len(shown.splitlines()) == 7
    assert "of_tests" not in shown.replace("\\", "")


@pytest.mark.parametrize(("seconds", "text"), [(1.24, "1.2s"), (75, "1m 15s"), (3725, "1h 02m")])
def test_durations(seconds, text):
    assert log.duration(seconds) == text
