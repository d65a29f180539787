"""The command line: exit codes, one object with --json, no traceback without --debug, quick to start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bot import cli, commands
from bot import recipe as recipes
from bot.errors import (
    AuditFailed,
    BackendError,
    GateFailed,
    InfrastructureError,
    InputError,
    Interrupted,
    RecipeError,
    Refused,
    UsageError,
)

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "torch",
    "numpy",
    "httpx2",
    "requests",
    "pydantic",
    "huggingface_hub",
    "matplotlib",
    "starlette",
    "github",
)


def run(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bot", *argv]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **env}, timeout=120, check=False
    )


def test_importing_the_command_line_pulls_in_nothing_heavy():
    code = f"import sys, bot, bot.cli; sys.exit(','.join(m for m in {HEAVY!r} if m in sys.modules) or 0)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError, 2), (RecipeError, 2), (InputError, 3), (InfrastructureError, 4), (AuditFailed, 5),
        (GateFailed, 6), (Refused, 7), (Interrupted, 130), (BackendError, 1), (KeyboardInterrupt, 130),
        (ZeroDivisionError, 1), (PermissionError, 4),
    ],
)  # fmt: skip
def test_each_failure_has_its_exit_code_and_no_traceback(error, code, monkeypatch, capsys):
    def fail(_):
        raise error("what happened")

    monkeypatch.setattr(commands, "recipes_list", fail)
    assert cli.main(["recipes", "list"]) == code
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert shown.startswith("error (")


def test_debug_shows_the_traceback(monkeypatch, capsys):
    monkeypatch.setattr(commands, "recipes_list", lambda _: 1 / 0)
    assert cli.main(["--debug", "recipes", "list"]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_failure_with_json_is_one_object(monkeypatch, capsys):
    def fail(_):
        raise Refused("no", where="there")

    monkeypatch.setattr(commands, "recipes_list", fail)
    assert cli.main(["recipes", "list", "--json"]) == 7
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "schema_version": 1,
        "error": {
            "title": "refused", "what": "no", "where": "there", "why": "", "fix": "", "problems": [],
            "exit_code": 7,
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "--json"],
        ["nonsense", "--json"],
        ["hub", "serve", "x", "--port", "abc", "--json"],
        ["card", "--json"],
    ],
)
def test_a_command_that_cannot_be_parsed_is_a_usage_error_too(argv, capsys):
    assert cli.main(argv) == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out)["error"]["exit_code"] == 2
    assert "--help" in shown.err


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["run", "Qwen/x", "--recipe", "nvfp5"], 2, "did you mean 'nvfp4'"),
        (["run", "Qwen/x", "--recipe", "nvfp4", "--until", "audt"], 2, "did you mean 'audit'"),
        (["run", "Qwen/x", "--recipe", "nvfp4", "--set", "nonsense"], 2, "KEY=VALUE"),
        (["run", "../x", "--recipe", "nvfp4"], 2, "does not name a model"),
        (["publish", "../../etc"], 2, "not a release key"),
        (["publish", "0" * 16], 3, "no such release"),
        (["audit", "/nowhere/at/all"], 3, "no such folder"),
        (["repair", "/nowhere/at/all", "--recipe", "nvfp4"], 3, ""),
        (["card", "lint", "/nowhere/README.md"], 3, "cannot be read"),
        (["recipes", "show", "nope"], 2, "no recipe"),
        (["nonsense"], 2, "invalid choice"),
        (["hub", "serve", "/tmp", "--host", "0.0.0.0"], 2, ""),
    ],
)
def test_bad_input_from_outside(argv, code, words, tmp_path):
    found = run(*argv, RELEASE_BOT_HOME=str(tmp_path), HF_ENDPOINT="http://127.0.0.1:9")
    assert (found.returncode, found.stdout) == (code, "")
    assert words in found.stderr
    assert "Traceback" not in found.stderr


def test_recipes_as_json():
    listed = json.loads(run("recipes", "list", "--json").stdout)
    assert [each["name"] for each in listed["recipes"]] == recipes.names()
    beside = {each["name"]: each["counterpart"] for each in listed["recipes"]}
    assert (beside["house-g32"], beside["nvfp4"]) == ("gptq-foem-g32", None)
    shown = json.loads(run("recipes", "show", "nvfp4", "--json").stdout)
    assert shown["recipe"]["method"]["kv_cache"] == "fp8_cast"
    checked = json.loads(run("recipes", "check", "--json").stdout)
    assert checked["passed"] is True


def test_check_names_every_bad_recipe(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text("schema_version: 2\n")
    found = run("recipes", "check", str(tmp_path / "one.yaml"), str(tmp_path / "two.yaml"))
    assert found.returncode == 2
    assert "one.yaml" in found.stderr
    assert "two.yaml" in found.stderr


def test_settings_come_from_the_nearest_pyproject(tmp_path, monkeypatch):
    from bot import config

    (tmp_path / "pyproject.toml").write_text('[tool.release-bot]\norganization = "acme"\nhome = "state"\n')
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert config.load().organization == "acme"
    assert config.load().home == tmp_path / "state"
    monkeypatch.setenv("RELEASE_BOT_ORGANIZATION", "other")
    assert config.load().organization == "other"
    (tmp_path / "pyproject.toml").write_text("[tool.release-bot]\nunknown = 1\n")
    with pytest.raises(UsageError, match="unknown"):
        config.load()
