"""The long prompt, answered rightly, wrongly and not at all.

A loopback server answers: no model here is large enough to find the number, and a real server refuses no
prompt that it can hold. The real one is asked in tests/serving.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import get_args

import measured
import pytest

from bot import recipe as recipes
from bot.measurements import Canary, CanaryId
from bot.serving import canaries, quirks, subject
from bot.serving.client import Client

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "qwen3.5-tiny"
CONTEXT = 2048


@contextmanager
def answering(said: str | None) -> Iterator[Client]:
    """A server whose tokens are words, that answers every chat with `said`; None refuses it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.tell(200, {"data": [{"id": "tiny", "max_model_len": CONTEXT}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/tokenize":
                self.tell(200, {"tokens": [1] * len(body["messages"][0]["content"].split())})
            elif said is None or not self.path.endswith("/chat/completions"):
                self.tell(400, {"error": {"message": "no such prompt"}})
            else:
                choice = {"message": {"content": said}, "finish_reason": "stop", "token_ids": [5]}
                choice["logprobs"] = {"content": [{"logprob": -1.5}]}
                self.tell(200, {"choices": [choice]})

        def tell(self, status: int, body: object) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield Client(url=f"http://127.0.0.1:{server.server_port}", model="tiny", timeout_s=5)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def long_prompt(said: str | None, monkeypatch: pytest.MonkeyPatch) -> Canary:
    serve = recipes.load("gptq-w4a16-g128").serve
    tiny = subject.of_folder(FIXTURE, measured.engine(), role="base", name="tiny", revision=None, serve=serve)
    only = {"long_prompt": canaries.CANARIES["long_prompt"]}
    monkeypatch.setattr(canaries, "CANARIES", only)
    with answering(said) as client:
        (row,) = canaries.run(client, tiny, prefix_caching=False, spared={}).rows
    return row


@pytest.mark.parametrize(
    ("said", "held", "words"),
    [
        ("7412", True, "was found"),
        ("It is 74120.", False, "was not found"),
        ("the the", False, "was not found"),
    ],
)
def test_a_long_prompt_holds_only_where_the_number_in_it_is_found(said, held, words, monkeypatch):
    row = long_prompt(said, monkeypatch)
    assert (row.applicable, row.served, row.held) == (True, True, held)
    assert row.detail.endswith(words)
    assert f"of {CONTEXT} tokens" in row.detail
    assert row.answers == [said]


def test_a_long_prompt_that_is_refused_was_not_served(monkeypatch):
    row = long_prompt(None, monkeypatch)
    assert (row.applicable, row.served, row.held) == (True, False, False)
    assert "no such prompt" in row.detail


def test_what_a_quirk_spares_is_not_asked_and_says_why(monkeypatch: pytest.MonkeyPatch):
    serve = recipes.load("gptq-w4a16-g128").serve
    tiny = subject.of_folder(FIXTURE, measured.engine(), role="base", name="tiny", revision=None, serve=serve)
    monkeypatch.setattr(canaries, "CANARIES", {"sampled": canaries.CANARIES["sampled"]})
    with answering("a river") as client:
        (asked,) = canaries.run(client, tiny, prefix_caching=False, spared={}).rows
        (spared,) = canaries.run(client, tiny, prefix_caching=False, spared={"sampled": "it dies"}).rows
    assert (asked.applicable, asked.served, asked.held) == (True, True, False)
    assert asked.detail == "every prompt has the same answer"
    assert (spared.applicable, spared.served, spared.detail) == (False, False, "it dies")


def test_quirks_spare_only_canaries_that_there_are():
    spared = {canary for quirk in quirks.load() for canary in quirk.spares}
    assert spared == {"sampled"}
    assert spared <= canaries.CANARIES.keys()


def test_every_canary_that_evidence_may_name_is_asked() -> None:
    assert tuple(canaries.CANARIES) == get_args(CanaryId)
