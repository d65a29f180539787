"""The linters for workflows: all clean, and what is passed over is said and counted.

- zizmor: `self-repository` is off (.github/zizmor.yml says why); two triggers are ignored where they stand.
- act's parser does not know `queue: max`, which GitHub's own schema has: it is cut before act reads.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from workflowfiles import ROOT, WORKFLOWS

BIN = Path(sys.executable).parent


def linted(*command: str, cwd: Path = ROOT) -> str:
    """What a linter says; it must be content."""
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_actionlint():
    """Expressions, contexts, runner labels, and shellcheck over every `run:`."""
    linted("actionlint", "-shellcheck", str(BIN / "shellcheck"), *map(str, WORKFLOWS))


def test_zizmor():
    said = linted("zizmor", "--offline", "--no-progress", "--pedantic", "--min-severity", "low", ".github")
    assert "No findings to report" in said


def test_every_ignored_finding_stands_beside_its_reason():
    texts = {path.name: path.read_text() for path in WORKFLOWS}
    beside = re.compile(r"# *.*\n +\w+: # zizmor: ignore\[([\w-]+)\]")
    found = {name: beside.findall(text) for name, text in texts.items()}
    every = {name: re.findall(r"zizmor: ignore\[([\w-]+)\]", text) for name, text in texts.items()}
    assert found == every
    assert sorted(name for name, rules in every.items() if rules) == ["card-comment.yml", "commands.yml"]
    assert {rule for rules in every.values() for rule in rules} == {"dangerous-triggers"}


def test_github_s_schemas():
    linted("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS))
    actions = (ROOT / ".github" / "actions").glob("*/action.yml")
    linted("check-jsonschema", "--builtin-schema", "vendor.github-actions", *map(str, actions))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_act_s_strict_schema(workflow: Path, tmp_path: Path):
    copy = tmp_path / workflow.name
    copy.write_text(re.sub(r"(?m)^ *queue: max\n", "", workflow.read_text()))
    linted("act", "--validate", "--strict", "-W", str(copy))
