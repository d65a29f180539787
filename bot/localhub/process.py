"""The embedded Hub as a process of its own, and how to recognize one.

Light on purpose: no server library is imported here, so that the command line, the demo and the upload guard
("a scaled-down run may be published to an embedded Hub only") can use it at no cost.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import IO
from urllib.error import URLError
from urllib.parse import urlsplit

DEFAULT_TOKEN = "hf_embedded_release_bot_token"  # the same as in accounts.py, which a test holds them to
START_S = 30.0
STOP_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server that was started: where it listens, a token for it, and its process."""

    url: str
    token: str
    pid: int


@contextmanager
def running(
    root: Path,
    *,
    port: int = 0,
    accounts: Path | None = None,
    token: str = DEFAULT_TOKEN,
    options: Sequence[str] = (),
) -> Iterator[Running]:
    """Serve a folder from a child process for as long as the block runs, whatever way it ends.

    The child also ends when this process does, since it watches a pipe only this process holds. What it logs
    goes to `server.log` in the folder. `options` are
    further arguments of `python -m bot.localhub`. RuntimeError, with what the child said, when it does not
    start."""
    command = [
        sys.executable,
        "-m",
        "bot.localhub",
        str(root),
        "--port",
        str(port),
        "--json",
        "--until-stdin-closes",
    ]
    if accounts is not None:
        command += ["--accounts", str(accounts)]
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "server.log", "wb") as said:
        child = subprocess.Popen(
            [*command, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        try:
            line = _first_line(child)
            if not line:
                text = (root / "server.log").read_text("utf-8", "replace").strip()
                raise RuntimeError(
                    f"the embedded Hub for {root} did not start: {text[-2000:] or 'it said nothing'}"
                )
            yield Running(url=json.loads(line)["url"], token=token, pid=child.pid)
        finally:
            _stop(child)


def _first_line(child: subprocess.Popen[bytes]) -> bytes:
    """What the child prints once it listens; empty when it ended or took too long."""
    assert child.stdout is not None
    deadline = time.monotonic() + START_S
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            if selector.select(timeout=0.2):
                return child.stdout.readline()
    return b""


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for pipe in (child.stdin, child.stdout):
        _close(pipe)


def _close(pipe: IO[bytes] | None) -> None:
    try:
        if pipe is not None:
            pipe.close()
    except OSError:
        pass  # the child is gone, and with it the other end


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def probe(url: str, *, timeout_s: float = 2.0) -> bool:
    """Whether an embedded Hub answers at this endpoint.

    Asks loopback addresses only: any other host is False without a packet sent, so that the real Hub is never
    asked an odd question. Follows no redirect and uses no proxy.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme != "http" or not (host == "localhost" or ip_address(host).is_loopback):
            return False
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
        with opener.open(f"http://{parts.netloc}/api/embedded-hub", timeout=timeout_s) as answer:
            body = json.loads(answer.read(4096))
        return isinstance(body, dict) and body.get("embedded") is True
    except (URLError, OSError, ValueError):
        return False
