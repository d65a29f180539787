"""Which workflow run this is: who holds a lease, and where the log of what it did is read."""

from __future__ import annotations

import os


def run_id() -> str:
    """The workflow run that this is a job of; by hand, this process."""
    return os.environ.get("GITHUB_RUN_ID") or f"by-hand-{os.getpid()}"


def run_url() -> str:
    """Where the run's log is; empty by hand."""
    server, repository = os.environ.get("GITHUB_SERVER_URL", ""), os.environ.get("GITHUB_REPOSITORY", "")
    number = os.environ.get("GITHUB_RUN_ID", "")
    return f"{server}/{repository}/actions/runs/{number}" if server and repository and number else ""
