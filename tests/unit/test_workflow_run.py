"""A run's name and address, in a workflow and by hand."""

from __future__ import annotations

import pytest

from bot import workflow_run


def test_a_runs_address(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.test")
    monkeypatch.setenv("GITHUB_REPOSITORY", "o/r")
    monkeypatch.setenv("GITHUB_RUN_ID", "7")
    assert (workflow_run.run_id(), workflow_run.run_url()) == ("7", "https://github.test/o/r/actions/runs/7")
    monkeypatch.delenv("GITHUB_RUN_ID")
    assert workflow_run.run_url() == ""
    assert workflow_run.run_id().startswith("by-hand-")
