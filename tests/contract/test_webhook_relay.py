"""The relay between real ends: deliveries of the embedded Hub in, PyGithub's requests out."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from contract.conftest import Hub, ask
from huggingface_hub import CommitOperationAdd
from loopback import Asked, serving

from bot.webhook import EVENT_TYPE, MAX_BODY_BYTES

pytestmark = pytest.mark.contract
SECRET = "a-secret-of-some-length"
TOKEN = "ghp_of_the_relay"
SERVE = """
from bot.edges import webhook_server as relay
relay.serve(relay.settings(["Qwen"]), host="127.0.0.1", port=0, ready=lambda url: print(url, flush=True))
"""


@dataclass
class GitHub:
    """What was dispatched; the next `failures` requests are refused with `status`."""

    url: str = ""
    failures: int = 0
    status: int = 503
    asked: list[tuple[str, str | None, Any]] = field(default_factory=list)


@contextmanager
def stand_in() -> Iterator[GitHub]:
    state = GitHub()

    def answer(asked: Asked) -> tuple[int, None]:
        if state.failures:
            state.failures -= 1
            return state.status, None
        state.asked.append((asked.path, asked.headers["Authorization"], asked.json))
        return 204, None

    with serving(answer) as port:
        state.url = f"http://localhost:{port}"
        yield state


@dataclass
class Relay:
    url: str
    github: GitHub


def environment(github_url: str, **more: str) -> dict[str, str]:
    own = {
        "RELEASE_BOT_WEBHOOK_SECRET": SECRET,
        "GITHUB_TOKEN": TOKEN,
        "GITHUB_REPOSITORY": "acme/bot",
        "GITHUB_API_URL": github_url,
    }
    return {**os.environ, **own, **more}


@pytest.fixture(scope="module")
def served() -> Iterator[Relay]:
    with (
        stand_in() as github,
        subprocess.Popen(
            [sys.executable, "-c", SERVE],
            env=environment(github.url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            yield Relay(url=process.stdout.readline().strip(), github=github)
        finally:
            process.terminate()
            said = process.stderr.read()
            assert process.wait(timeout=15) == 0, said
        assert SECRET not in said
        assert TOKEN not in said


@pytest.fixture
def relay(served: Relay) -> Relay:
    served.github.asked.clear()
    return served


def payload(name: str = "Qwen/Qwen3.6-27B") -> Any:
    """A push of a commit that no other delivery has."""
    return {
        "event": {"action": "update", "scope": "repo.content"},
        "repo": {"type": "model", "name": name},
        "updatedRefs": [{"ref": "refs/heads/main", "newSha": secrets.token_hex(20)}],
    }


def deliver(relay: Relay, body: Any, secret: str = SECRET) -> tuple[int, bytes]:
    answer = ask(relay.url, "POST", "/hub", body=body, X_Webhook_Secret=secret)
    return answer.status, answer.body


def test_from_a_push_on_the_hub_to_a_dispatch_on_github(relay: Relay, embedded: Hub) -> None:
    """Pushes to main of a watched model only: no pull request, tag, data set, stranger's repo."""
    api, name = embedded.api, f"Qwen/relayed-{os.getpid()}"
    watched = [{"type": "org", "name": "Qwen"}, {"type": "user", "name": "release-bot"}]
    webhook = api.create_webhook(url=f"{relay.url}/hub", watched=watched, secret=SECRET)
    try:
        api.create_repo(name)
        api.create_commit(name, [CommitOperationAdd("a", b"a")], commit_message="pull", create_pr=True)
        api.create_tag(name, tag="v1")
        api.create_repo(name, repo_type="dataset")
        api.create_repo(f"release-bot/relayed-{os.getpid()}")
        last = api.create_commit(name, [CommitOperationAdd("b", b"b")], commit_message="push").oid
        first = api.list_repo_commits(name)[-1].commit_id
        deadline = time.monotonic() + 30
        while len(relay.github.asked) < 2:
            assert time.monotonic() < deadline, relay.github.asked
            time.sleep(0.05)
    finally:
        api.delete_webhook(webhook.id)
    assert [content["client_payload"] for _, _, content in relay.github.asked] == [
        {"repo_id": name, "revision": first},
        {"repo_id": name, "revision": last},
    ]
    path, authorization, content = relay.github.asked[0]
    assert (path, content["event_type"]) == ("/repos/acme/bot/dispatches", EVENT_TYPE)
    assert authorization == f"token {TOKEN}"


def test_a_wrong_secret_is_refused_before_the_body_is_read(relay: Relay) -> None:
    for secret in ("", "wrong", f"{SECRET}x", SECRET[:-1]):
        assert deliver(relay, payload(), secret)[0] == 401
    parts = urlsplit(relay.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20) as connection:
        connection.sendall(b"POST /hub HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        assert b" 401 " in connection.recv(4096), "it answers although no body came"
    assert relay.github.asked == []


def test_a_replayed_delivery_is_passed_on_once(relay: Relay) -> None:
    delivery = payload()
    answers = [deliver(relay, delivery) for _ in range(3)]
    assert answers == [(202, b"passed on\n"), (200, b"ignored\n"), (200, b"ignored\n")]
    assert len(relay.github.asked) == 1
    assert deliver(relay, payload())[0] == 202


@pytest.mark.parametrize("status", [401, 404, 422, 429, 503])
def test_what_github_does_not_take_may_be_delivered_again(relay: Relay, status: int) -> None:
    relay.github.failures, relay.github.status = 1, status
    delivery = payload()
    assert deliver(relay, delivery) == (502, b"not passed on\n")
    assert deliver(relay, delivery) == (202, b"passed on\n")
    assert len(relay.github.asked) == 1


def test_bodies_have_a_limit_with_and_without_a_length(relay: Relay) -> None:
    large = b" " * (MAX_BODY_BYTES + 1)
    assert deliver(relay, large)[0] == 413
    parts = urlsplit(relay.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20) as connection:
        head = f"POST /hub HTTP/1.1\r\nHost: x\r\nX-Webhook-Secret: {SECRET}\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        for _ in range(5):
            connection.sendall(chunk)
        assert b" 413 " in connection.recv(4096)
    assert relay.github.asked == []


def test_garbage_and_other_addresses(relay: Relay) -> None:
    assert deliver(relay, b"{")[0] == 400
    assert deliver(relay, payload(name="Qwen/$(id)")) == (400, b"not understood\n")
    assert ask(relay.url, "GET", "/").status == 200
    assert ask(relay.url, "GET", "/hub").status == 405
    assert ask(relay.url, "POST", "/").status == 405
    assert ask(relay.url, "GET", "/docs").status == 404
    assert relay.github.asked == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("GITHUB_TOKEN", ""), ("GITHUB_REPOSITORY", ""), ("RELEASE_BOT_WEBHOOK_SECRET", "short")],
)
def test_it_does_not_start_without_its_secrets(name: str, value: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SERVE],
        env=environment("http://localhost:9", **{name: value}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert name in done.stderr
