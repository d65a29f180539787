"""Webhooks: kept, delivered with their secret, retried, never lost by a restart, never sent elsewhere."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from contract.conftest import Hub
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub._webhooks_payload import WebhookPayload
from huggingface_hub.errors import HfHubHTTPError

from bot import localhub

pytestmark = pytest.mark.contract


@dataclass
class Listener:
    """A server that takes deliveries, and refuses the first `failures` of them."""

    url: str = ""
    failures: int = 0
    got: list[tuple[str | None, WebhookPayload]] = field(default_factory=list)
    refused: int = 0

    def wait(self, enough: Callable[[list[WebhookPayload]], bool]) -> list[WebhookPayload]:
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            payloads = [payload for _, payload in list(self.got)]
            if enough(payloads):
                return payloads
            time.sleep(0.02)
        raise AssertionError(f"not delivered in time; came: {[p.event for _, p in self.got]}")


@pytest.fixture
def listener() -> Iterator[Listener]:
    state = Listener()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if state.failures:
                state.failures -= 1
                state.refused += 1
                self.send_response(503)
            else:
                payload = WebhookPayload.model_validate(json.loads(body))
                state.got.append((self.headers["X-Webhook-Secret"], payload))
                self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/hook?x=1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def org(embedded: Hub) -> str:
    return "Org-" + embedded.name().rpartition("-")[2]


def test_registry(embedded: Hub) -> None:
    api = embedded.api
    watched = [{"type": "org", "name": "Qwen"}]
    made = api.create_webhook(url="http://127.0.0.1:9/x", watched=watched, domains=["repo"], secret="s3")
    try:
        found = api.get_webhook(made.id)
        assert (found.url, found.secret, found.disabled) == ("http://127.0.0.1:9/x", "s3", False)
        assert [(item.type, item.name) for item in found.watched] == [("org", "Qwen")]
        assert made.id in {webhook.id for webhook in api.list_webhooks()}
        assert api.disable_webhook(made.id).disabled
        assert not api.enable_webhook(made.id).disabled
        changed = api.update_webhook(made.id, url="http://127.0.0.1:9/y", domains=["discussion"])
        assert (changed.url, changed.domains) == ("http://127.0.0.1:9/y", ["discussion"])
        assert [item.name for item in changed.watched] == ["Qwen"]
    finally:
        api.delete_webhook(made.id)
    with pytest.raises(HfHubHTTPError):
        api.get_webhook(made.id)


@pytest.mark.parametrize(
    "url", ["http://example.org/x", "http://10.0.0.1/", "ftp://127.0.0.1/", "http://u@127.0.0.1/"]
)
def test_only_loopback_addresses(embedded: Hub, url: str) -> None:
    with pytest.raises(HfHubHTTPError) as refused:
        embedded.api.create_webhook(url=url, watched=[{"type": "org", "name": "Qwen"}])
    assert refused.value.response.status_code == 400


def test_a_push_is_told_with_the_secret(embedded: Hub, listener: Listener, org: str) -> None:
    api = embedded.api
    webhook = api.create_webhook(
        url=listener.url, watched=[{"type": "org", "name": org}], domains=["repo"], secret="s3cret"
    )
    api.create_repo(f"{org}/base")
    commit = api.create_commit(f"{org}/base", [CommitOperationAdd("a", b"a")], commit_message="a")
    api.create_repo("Elsewhere/base", exist_ok=True)
    api.create_tag(f"{org}/base", tag="v1")
    payloads = listener.wait(lambda came: len(came) >= 4)
    assert {secret for secret, _ in listener.got} == {"s3cret"}
    assert {payload.repo.name for payload in payloads} == {f"{org}/base"}
    assert {payload.webhook.id for payload in payloads} == {webhook.id}
    assert [(p.event.action, p.event.scope) for p in payloads] == [
        ("create", "repo"),
        ("update", "repo.content"),
        ("update", "repo.content"),
        ("update", "repo.content"),
    ]
    pushed, tagged = payloads[2].updatedRefs, payloads[3].updatedRefs
    assert pushed is not None
    assert tagged is not None
    assert (pushed[0].ref, pushed[0].newSha) == ("refs/heads/main", commit.oid)
    assert payloads[1].updatedRefs is not None
    assert pushed[0].oldSha == payloads[1].updatedRefs[0].newSha
    assert (tagged[0].ref, tagged[0].oldSha, tagged[0].newSha) == ("refs/tags/v1", None, commit.oid)
    assert payloads[0].repo.url.api == f"{embedded.endpoint}/api/models/{org}/base"
    api.delete_webhook(webhook.id)


def test_a_pull_request_is_told_as_discussion_and_content(
    embedded: Hub, listener: Listener, org: str
) -> None:
    api = embedded.api
    api.create_repo(f"{org}/release", private=True)
    webhook = api.create_webhook(url=listener.url, watched=[{"type": "model", "name": f"{org}/release"}])
    pull = api.create_commit(
        f"{org}/release", [CommitOperationAdd("a", b"a")], commit_message="Release", create_pr=True
    )
    api.comment_discussion(f"{org}/release", 1, "looks right")
    api.merge_pull_request(f"{org}/release", 1)
    api.update_repo_settings(f"{org}/release", visibility="public")
    payloads = listener.wait(lambda came: len(came) >= 6)
    assert [(p.event.action, p.event.scope) for p in payloads] == [
        ("create", "discussion"),
        ("update", "repo.content"),
        ("create", "discussion.comment"),
        ("update", "discussion"),
        ("update", "repo.content"),
        ("update", "repo.config"),
    ]
    opened, pushed, commented, merged, content, config = payloads
    assert opened.discussion is not None
    assert (opened.discussion.num, opened.discussion.status) == (1, "open")
    assert opened.discussion.isPullRequest
    assert opened.discussion.changes is not None
    assert opened.discussion.changes.base == "refs/heads/main"
    assert pushed.updatedRefs is not None
    assert (pushed.updatedRefs[0].ref, pushed.updatedRefs[0].newSha) == ("refs/pr/1", pull.oid)
    assert commented.comment is not None
    assert commented.comment.content == "looks right"
    assert merged.discussion is not None
    assert merged.discussion.changes is not None
    assert content.updatedRefs is not None
    assert merged.discussion.changes.mergeCommitId == content.updatedRefs[0].newSha
    assert not config.repo.private
    api.delete_webhook(webhook.id)


def test_a_refused_delivery_is_tried_again(embedded: Hub, listener: Listener, org: str) -> None:
    listener.failures = 3
    webhook = embedded.api.create_webhook(
        url=listener.url, watched=[{"type": "org", "name": org}], domains=["repo"]
    )
    embedded.api.create_repo(f"{org}/retried")
    listener.wait(lambda came: len(came) >= 2)
    assert listener.refused == 3
    embedded.api.delete_webhook(webhook.id)


def test_a_disabled_webhook_is_silent(embedded: Hub, listener: Listener, org: str) -> None:
    api = embedded.api
    webhook = api.create_webhook(url=listener.url, watched=[{"type": "org", "name": org}], domains=["repo"])
    api.disable_webhook(webhook.id)
    api.create_repo(f"{org}/unheard")
    api.enable_webhook(webhook.id)
    api.create_repo(f"{org}/heard")
    payloads = listener.wait(lambda came: len(came) >= 2)
    assert {payload.repo.name for payload in payloads} == {f"{org}/heard"}
    api.delete_webhook(webhook.id)


def test_private_repos_are_told_to_their_readers_only(guarded: Hub, listener: Listener) -> None:
    bob = guarded.as_token("hf_bob")
    webhook = bob.create_webhook(
        url=listener.url, watched=[{"type": "user", "name": "root"}], domains=["repo"]
    )
    guarded.api.create_repo("root/told-nobody", private=True)
    guarded.api.create_repo("root/told-all")
    payloads = listener.wait(lambda came: len(came) >= 2)
    assert {payload.repo.name for payload in payloads} == {"root/told-all"}
    with pytest.raises(HfHubHTTPError):
        guarded.api.get_webhook(webhook.id)
    bob.delete_webhook(webhook.id)


def test_the_queue_survives_a_restart(tmp_path: Path, listener: Listener, without_xet: None) -> None:
    """What could not be delivered before the server ended is delivered by the next one."""
    listener.failures = 1_000_000
    slow = ("--webhook-retry-s", "1")
    with localhub.running(tmp_path, options=slow) as server:
        api = HfApi(endpoint=server.url, token=server.token)
        api.create_webhook(url=listener.url, watched=[{"type": "org", "name": "o"}], domains=["repo"])
        api.create_repo("o/r")
        deadline = time.monotonic() + 10
        while listener.refused < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
    assert listener.refused >= 2
    assert listener.got == []
    listener.failures = 0
    with localhub.running(tmp_path, options=slow):
        payloads = listener.wait(lambda came: len(came) >= 2)
    assert sorted(payload.event.scope for payload in payloads) == ["repo", "repo.content"]
