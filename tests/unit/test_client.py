"""What the client makes of answers that are none, and the engine's counters.

A loopback server gives the wrong answers here, which a sound engine cannot be made to give; the right ones
are asked of the real vLLM in tests/serving.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from bot.errors import EngineError, NotServable
from bot.measurements import Drafts
from bot.serving import client as clients
from bot.serving.client import Client
from bot.serving.counters import drafts_between, drafts_of, samples_of

METRICS = """\
# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{engine="0",model_name="tiny"} 15.0
vllm:spec_decode_num_drafts_created{engine="0",model_name="tiny"} 1.7952613304105573e+09
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="tiny"} 30.0
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="tiny"} 21.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="tiny",position="0"} 12.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="tiny",position="1"} 9.0
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.0
vllm:cache_config_info{cache_dtype="auto",kv_cache_max_concurrency="43.1",kv_cache_size_tokens="353118"} 1.0
process_open_fds 12.0
"""
PLAIN = """\
vllm:cache_config_info{cache_dtype="auto",kv_cache_max_concurrency="None",kv_cache_size_tokens="None"} 1.0
"""


@contextmanager
def answering(status: int, body: str, *, delay_s: float = 0.0) -> Iterator[Client]:
    """A server that answers everything with `body`; one that is "" breaks the connection."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            time.sleep(delay_s)
            if body:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

        do_GET = do_POST

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


def completion(**choice: Any) -> str:
    fields = {"text": "ab", "finish_reason": "stop", "token_ids": [1, 2], "logprobs": None, **choice}
    return json.dumps({"choices": [fields]})


@pytest.mark.parametrize(
    "body",
    [
        "<html>not the server you meant</html>",
        "[1, 2]",
        "{}",
        '{"choices": []}',
        '{"choices": ["text"]}',
        completion(token_ids=None),
        completion(logprobs=None),
        completion(logprobs={"token_logprobs": [-0.5]}),
        completion(logprobs={"token_logprobs": [-0.5, None]}),
        completion(logprobs={"token_logprobs": [-0.5, float("nan")]}),
        completion(logprobs={"token_logprobs": [-0.5, float("-inf")]}),
        completion(logprobs={"token_logprobs": [-0.5, -9999.0]}),
        completion(logprobs=[-0.5, -0.5]),
    ],
)
def test_an_answer_that_is_none_is_the_checkpoints_fault(body: str) -> None:
    with answering(200, body) as client, pytest.raises(NotServable) as caught:
        client.complete([1], max_tokens=2, logprobs=0)
    assert caught.value.kind == "garbage"


@pytest.mark.parametrize("status", [400, 500])
def test_nan_that_the_server_cannot_write_is_garbage(status: int) -> None:
    body = '{"error": {"message": "Out of range float values are not JSON compliant"}}'
    with answering(status, body) as client, pytest.raises(NotServable) as caught:
        client.complete([1], max_tokens=2)
    assert caught.value.kind == "garbage"


def test_a_refusal_is_told_in_the_servers_words() -> None:
    body = '{"error": {"message": "max_tokens=40 cannot be greater than max_model_len=8", "code": 400}}'
    with (
        answering(400, body) as client,
        pytest.raises(EngineError, match="max_tokens=40 cannot be") as caught,
    ):
        client.complete([1], max_tokens=40)
    assert caught.value.kind == "refused_request"


@pytest.mark.parametrize("body", ["", '{"error": "EngineCore encountered an issue"}'])
def test_a_broken_server_is_the_engines_fault(body: str) -> None:
    with answering(500, body) as client, pytest.raises(EngineError) as caught:
        client.complete([1], max_tokens=2)
    assert caught.value.kind == "died"


def test_no_answer_in_time_hangs() -> None:
    with answering(200, "{}", delay_s=1.0) as base:
        client = Client(url=base.url, model="tiny", timeout_s=0.2)
        with pytest.raises(EngineError, match="no answer to /v1/completions") as caught:
            client.complete([1], max_tokens=2)
    assert caught.value.kind == "hung"


def test_the_end_of_the_process_is_the_better_error(monkeypatch: pytest.MonkeyPatch) -> None:
    noticed = time.monotonic() + 0.5  # the process is found dead a moment after the connection broke

    def alive() -> None:
        if time.monotonic() > noticed:
            raise EngineError("died", "it was killed by SIGKILL")

    with answering(200, "") as base, pytest.raises(EngineError, match="SIGKILL"):
        Client(url=base.url, model="tiny", alive=alive).complete([1], max_tokens=2)
    monkeypatch.setattr(clients, "DEATH_NOTICE_S", 0.2)
    with answering(200, "") as base, pytest.raises(EngineError, match="its process still runs"):
        Client(url=base.url, model="tiny", alive=lambda: None).complete([1], max_tokens=2)


def test_another_server_on_the_port_is_not_believed() -> None:
    for body in ('{"data": [{"id": "other"}]}', '{"data": null}', "[]", "no JSON", ""):
        with answering(200, body) as client:
            assert not client.answers()
    with answering(200, '{"data": [{"id": "other"}, {"id": "tiny"}]}') as client:
        assert client.answers()
    assert not client.answers()  # nobody listens there any more


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with answering(200, completion()) as client:
        assert client.complete([1], max_tokens=2).text == "ab"


def test_a_batch_keeps_its_order_and_its_bound() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def ask(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01 * (5 - number % 5))
        with lock:
            running -= 1
        return number * number

    client = Client(url="http://127.0.0.1:9", model="tiny")
    assert client.map(ask, range(20), workers=4) == [n * n for n in range(20)]
    assert most == 4
    assert client.map(ask, [], workers=4) == []


def test_the_first_error_of_a_batch_is_raised_and_the_rest_dropped() -> None:
    asked: list[int] = []

    def ask(number: int) -> int:
        asked.append(number)
        if number == 1:
            raise EngineError("died", "gone")
        time.sleep(0.2)
        return number

    with pytest.raises(EngineError, match="gone"):
        Client(url="http://127.0.0.1:9", model="tiny").map(ask, range(50), workers=2)
    assert len(asked) < 10


def test_counters_are_read_by_name_and_position() -> None:
    expected = Drafts(
        num_drafts=15, num_draft_tokens=30, num_accepted_tokens=21, accepted_by_position=[12, 9]
    )
    assert drafts_of(samples_of(METRICS)) == expected
    with answering(200, METRICS) as client:
        assert client.drafts() == expected
        assert client.kv_cache() == (353118, 43.1)


def test_several_engines_are_summed_and_positions_ordered_as_numbers() -> None:
    line = 'vllm:spec_decode_num_accepted_tokens_per_pos_total{{engine="{}",position="{}"}} {}.0'
    lines = [line.format(engine, position, 1) for engine in (0, 1) for position in (10, 2, 0)]
    assert drafts_of(samples_of("\n".join(lines))).accepted_by_position == [2, 2, 2]


def test_a_server_that_does_not_draft_counts_nothing() -> None:
    nothing = Drafts(num_drafts=0, num_draft_tokens=0, num_accepted_tokens=0, accepted_by_position=[])
    assert drafts_of(samples_of(PLAIN)) == nothing
    with answering(200, PLAIN) as client:
        assert client.kv_cache() == (None, None)
    assert drafts_between(nothing, nothing) == nothing


def test_the_difference_of_two_readings() -> None:
    before = Drafts(num_drafts=5, num_draft_tokens=10, num_accepted_tokens=7, accepted_by_position=[4, 3])
    after = Drafts(num_drafts=15, num_draft_tokens=30, num_accepted_tokens=21, accepted_by_position=[12, 9])
    found = drafts_between(before, after)
    assert found == Drafts(
        num_drafts=10, num_draft_tokens=20, num_accepted_tokens=14, accepted_by_position=[8, 6]
    )
    assert found.rate == 0.7


def test_a_label_may_hold_anything() -> None:
    sample = samples_of('vllm:x{a="br{ac}e, \\"quoted\\"",b="2"} 1e3')[0]
    assert (sample.labels["b"], sample.value) == ("2", 1000.0)
