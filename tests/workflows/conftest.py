"""The workflow files, parsed once."""

from __future__ import annotations

from typing import Any

import pytest
from workflowfiles import WORKFLOWS, parsed


@pytest.fixture(scope="session")
def workflows() -> dict[str, dict[str, Any]]:
    """Every workflow by its file's name."""
    return {each.name: parsed(each) for each in WORKFLOWS}


@pytest.fixture(scope="session")
def jobs(workflows: dict[str, dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Every job by its workflow's file and its id."""
    return {(name, job): body for name, each in workflows.items() for job, body in each["jobs"].items()}
