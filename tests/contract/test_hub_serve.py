"""`release-bot hub serve`: what it prints, accounts from flags, a port that is taken, a second server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from huggingface_hub import HfApi

pytestmark = pytest.mark.contract
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def serving(folder: Path, *argv: str) -> Iterator[dict[str, str]]:
    command = [sys.executable, "-m", "bot", "hub", "serve", str(folder), "--port", "0", "--json", *argv]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        lines = []
        for line in child.stdout:
            lines.append(line)
            if line.rstrip() == "}":
                break
        yield json.loads("".join(lines))
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(timeout=20)
        child.stdout.close()


def serve(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bot", "hub", "serve", str(folder), *argv]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ)
    )


def test_it_serves_with_nothing_configured(tmp_path: Path):
    with serving(tmp_path / "hub") as said:
        api = HfApi(endpoint=said["url"], token=said["token"])
        assert api.whoami()["name"] == "release-bot"
        api.create_repo("anyone/model")
        assert api.repo_exists("anyone/model")


def test_accounts_from_flags(tmp_path: Path):
    with serving(tmp_path / "hub", "--user", "alice:hf_alice", "--org", "acme:alice") as said:
        alice = HfApi(endpoint=said["url"], token="hf_alice")
        assert alice.whoami()["name"] == "alice"
        alice.create_repo("acme/model")
        with pytest.raises(Exception, match="403"):
            alice.create_repo("other/model")


def test_a_port_that_is_taken_is_infrastructure(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = serve(tmp_path / "hub", "--port", str(port))
    assert found.returncode == 4
    assert str(port) in found.stderr
    assert "--port" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_folder_has_one_server(tmp_path: Path):
    with serving(tmp_path / "hub"):
        found = serve(tmp_path / "hub", "--port", "0")
    assert found.returncode == 4
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    "argv", [("--host", "0.0.0.0"), ("--user", "alice"), ("--org", ":x"), ("--accounts", "/nowhere.yaml")]
)
def test_bad_arguments_are_usage_errors(tmp_path: Path, argv: tuple[str, ...]):
    found = serve(tmp_path / "hub", "--port", "0", *argv)
    assert found.returncode in (2, 4)
    assert "Traceback" not in found.stderr
