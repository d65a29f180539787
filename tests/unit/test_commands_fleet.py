"""`fleet`, `cache` and `webhook` on a command line of their own."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from bot import commands_fleet
from bot.cache import KEEP_S, Cache
from bot.errors import UsageError


def run(*texts: str) -> int:
    parser = argparse.ArgumentParser()
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true")
    commands_fleet.add_parsers(parser.add_subparsers(required=True), common)
    arguments = parser.parse_args(texts)
    code: int = arguments.handler(arguments)
    return code


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_the_shipped_fleet_is_checked_and_shown(capsys: pytest.CaptureFixture[str]):
    assert run("fleet", "check", "--json") == 0
    assert printed(capsys)["passed"] is True
    assert run("fleet", "show", "l40s", "--json") == 0
    (one,) = printed(capsys)["classes"]
    assert one["labels"] == ["self-hosted", "linux", "x64", "gpu-l40s"]
    assert run("fleet", "show") == 0
    assert "gpu-h200" in capsys.readouterr().out


def test_a_class_is_printed_for_the_set_up_script(capsys: pytest.CaptureFixture[str]):
    assert run("fleet", "show", "l40s", "--env") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "RUNNER_LABELS=self-hosted,linux,x64,gpu-l40s" in lines
    assert "MIN_GPU_MEMORY_MIB=45056" in lines
    assert "MIN_COMPUTE_CAPABILITY=8.9" in lines


@pytest.mark.parametrize("texts", [("show", "nobody"), ("show", "--env"), ("check", "--file", "absent.yaml")])
def test_mistakes_are_usage_errors(texts: tuple[str, ...]):
    with pytest.raises(UsageError):
        run("fleet", *texts)


def test_the_cache_is_pruned_to_its_cap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("RELEASE_BOT_HOME", str(tmp_path / "home"))  # never what was measured in this checkout
    monkeypatch.setenv("RELEASE_BOT_CACHE", str(tmp_path / "cache"))
    own, digest = Cache(tmp_path / "cache"), "ab" * 32
    source = tmp_path / "file"
    source.write_bytes(b"x" * 2**20)
    own.put(source, digest)
    old = time.time() - 2 * KEEP_S
    os.utime(own.path(digest), (old, old))
    assert run("cache", "prune", "--max-gib", "0", "--dry-run", "--json") == 0
    assert printed(capsys)["removed"] == [{"what": digest, "size_bytes": 2**20}]
    assert own.path(digest).exists()
    assert run("cache", "prune", "--max-gib", "0") == 0
    assert "removed" in capsys.readouterr().err
    assert not own.path(digest).exists()


def test_the_relay_does_not_start_without_secrets(monkeypatch: pytest.MonkeyPatch):
    for name in ("RELEASE_BOT_WEBHOOK_SECRET", "GITHUB_TOKEN", "GITHUB_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="RELEASE_BOT_WEBHOOK_SECRET"):
        run("webhook", "serve", "--author", "Qwen")


@pytest.mark.parametrize("port", ["-1", "65536", "x", "٣"])
def test_a_port_is_a_port(port: str):
    with pytest.raises(SystemExit):
        run("webhook", "serve", "--port", port)
