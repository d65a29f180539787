"""Requests to one vLLM server of ours, and its counters.

Everything is greedy and seeded unless told otherwise, so that an answer is a property of the checkpoint. What
goes wrong is told apart: a server that died is an `EngineError` with the end of its log, one that does not
answer in time hangs, one that refuses says why, and one that answers nonsense (NaN, no log-probabilities
where some were asked for, no JSON) shows that the *checkpoint* does not serve.

The counters come from `/metrics`, since log lines round them and say nothing of a draft head that is never
right. Proxies of the environment are not used: the server listens on loopback.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import requests

from bot.errors import EngineError, NotServable
from bot.measurements import Drafts
from bot.serving.counters import Sample, drafts_of, samples_of
from bot.serving.counters import drafts_between as drafts_between

Json = dict[str, Any]
Messages = Sequence[Json]
I = TypeVar("I")  # noqa: E741 - what `map` is given
O = TypeVar("O")  # noqa: E741 - and gives

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 900.0
DEATH_NOTICE_S = 15.0  # how long a broken connection waits for the server's end to be noticed
GREEDY: Json = {"temperature": 0, "seed": 0}
_NOT_A_NUMBER = ("Out of range float values", "nan", "NaN")


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A call that the tool parser found; `arguments` is JSON text as the model wrote it."""

    name: str
    arguments: str


@dataclass(frozen=True, kw_only=True)
class ChatAnswer:
    """An answer as the server's parsers split it; `reasoning` None where the model wrote none.

    `logprobs`: nats, one for each token, where they were asked for.
    """

    content: str
    reasoning: str | None
    tool_calls: list[ToolCall]
    finish_reason: str
    token_ids: list[int]
    logprobs: list[float] | None


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A continuation; `logprobs` (nats, one for each token) where they were asked for."""

    text: str
    token_ids: list[int]
    finish_reason: str
    logprobs: list[float] | None


def nothing_known() -> None:
    """The `alive` of a server that nobody watches."""


@dataclass(frozen=True, kw_only=True)
class Client:
    """A server at `url` that calls itself `model`; safe to use from several threads at once.

    `alive` raises EngineError when the server's process has ended.
    """

    url: str
    model: str
    alive: Callable[[], None] = nothing_known
    timeout_s: float = ANSWER_TIMEOUT_S

    def chat(self, messages: Messages, *, max_tokens: int, **options: Any) -> ChatAnswer:
        """The answer to `messages`; `options` are fields of `/v1/chat/completions`.

        With `logprobs=True` each token's log-probability must be there and finite: a NaN shows nowhere else,
        the engine answers token 0 for ever. Raises EngineError (died, hung, refused_request) and
        NotServable("garbage").
        """
        body = {**GREEDY, "messages": list(messages), "max_tokens": max_tokens, **options}
        choice = self._choice("/v1/chat/completions", body)
        message = _mapping(choice.get("message"), "message")
        token_ids = _token_ids(choice)
        wanted = bool(options.get("logprobs"))
        return ChatAnswer(
            content=str(message.get("content") or ""),
            reasoning=message.get("reasoning") or message.get("reasoning_content"),
            tool_calls=[_tool_call(each) for each in message.get("tool_calls") or []],
            finish_reason=str(choice.get("finish_reason")),
            token_ids=token_ids,
            logprobs=_logprobs(choice, len(token_ids)) if wanted else None,
        )

    def complete(self, prompt: str | Sequence[int], *, max_tokens: int, **options: Any) -> Completion:
        """The continuation of a text or of token ids; `options` are fields of `/v1/completions`.

        Raises what `chat` does; `logprobs=0` asks for the log-probability of each token.
        """
        text = prompt if isinstance(prompt, str) else list(prompt)
        body = {**GREEDY, "prompt": text, "max_tokens": max_tokens, **options}
        choice = self._choice("/v1/completions", body)
        token_ids = _token_ids(choice)
        wanted = options.get("logprobs") is not None
        return Completion(
            text=str(choice.get("text") or ""),
            token_ids=token_ids,
            finish_reason=str(choice.get("finish_reason")),
            logprobs=_logprobs(choice, len(token_ids)) if wanted else None,
        )

    def tokenize(self, text_or_messages: str | Messages) -> list[int]:
        """Token ids of a text as it is, or of a conversation through the chat template."""
        if isinstance(text_or_messages, str):
            body: Json = {"prompt": text_or_messages, "add_special_tokens": False}
        else:
            body = {"messages": list(text_or_messages), "add_generation_prompt": True}
        answer = self._json("POST", "/tokenize", {"model": self.model, **body})
        tokens = answer.get("tokens")
        if not isinstance(tokens, list):
            raise garbage(f"/tokenize gave no tokens: {str(answer)[:200]}")
        return [int(each) for each in tokens]

    def drafts(self) -> Drafts:
        """Drafts since the server's start; zeros where it does not draft."""
        return drafts_of(self.metrics())

    def kv_cache(self) -> tuple[int | None, float | None]:
        """Tokens that the KV cache holds, and how many requests of full length that is."""
        for sample in self.metrics():
            if sample.name == "vllm:cache_config_info":
                tokens = _number(sample.labels.get("kv_cache_size_tokens"))
                return None if tokens is None else int(tokens), _number(
                    sample.labels.get("kv_cache_max_concurrency")
                )
        return None, None

    def metrics(self) -> list[Sample]:
        """The engine's own counters and gauges."""
        return samples_of(self._send("GET", "/metrics").text)

    def models(self) -> list[Json]:
        """What `/v1/models` lists; its `max_model_len` is the context that is really served."""
        listed = self._json("GET", "/v1/models").get("data")
        return [_mapping(each, "model") for each in listed] if isinstance(listed, list) else []

    def answers(self) -> bool:
        """Whether the server of this name answers; never raises."""
        try:
            body = self._exchange("GET", "/v1/models", None, CONNECT_TIMEOUT_S).json()
            return any(each["id"] == self.model for each in body["data"])
        except (requests.RequestException, ValueError, KeyError, TypeError):
            return False

    def map(self, ask: Callable[[I], O], items: Sequence[I], *, workers: int) -> list[O]:
        """`ask` for each of `items`, at most `workers` at a time, in their order; the first error is raised.

        What has not begun by then is dropped, and what runs is not waited for: it ends with the server.
        """
        pool = ThreadPoolExecutor(max_workers=max(1, min(workers, len(items))))
        try:
            return [future.result() for future in [pool.submit(ask, each) for each in items]]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    # ── one request ────────────────────────────────────────────────────────────────────────

    def _choice(self, path: str, body: Json) -> Json:
        answer = self._json("POST", path, {"model": self.model, "return_token_ids": True, **body})
        choices = answer.get("choices")
        if not isinstance(choices, list) or not choices:
            raise garbage(f"{path} answered without choices: {str(answer)[:200]}")
        return _mapping(choices[0], "choice")

    def _json(self, method: str, path: str, body: Json | None = None) -> Json:
        response = self._send(method, path, body)
        try:
            return _mapping(response.json(), "answer")
        except ValueError as e:
            raise garbage(f"{path} answered what is no JSON: {response.text[:200]!r}") from e

    def _send(self, method: str, path: str, body: Json | None = None) -> requests.Response:
        """One exchange; raises the typed error of whatever went wrong."""
        try:
            response = self._exchange(method, path, body, self.timeout_s)
        except requests.Timeout as e:
            self.alive()
            raise EngineError(
                "hung",
                f"no answer to {path} within {self.timeout_s:g} s",
                why="the engine is stuck, or this machine is far too slow for the request",
                fix="look into the server's log; run it again, which goes on from the next measurement",
            ) from e
        except requests.RequestException as e:
            self._await_death()
            raise EngineError(
                "died",
                f"the connection broke at {path}: {type(e).__name__}",
                why="the server closed it, and its process still runs",
                fix="run it again, which goes on from the next measurement",
            ) from e
        if response.status_code >= 400:
            self._refused(path, response)
        return response

    def _refused(self, path: str, response: requests.Response) -> None:
        said = _message(response)
        if any(word in said for word in _NOT_A_NUMBER):
            raise garbage(f"{path} could not write its answer: {said}")
        if response.status_code >= 500:
            self._await_death()
            raise EngineError(
                "died",
                f"{path} failed with status {response.status_code}: {said}",
                fix="see the server's log",
            )
        raise EngineError(
            "refused_request",
            f"{path} was refused with status {response.status_code}: {said}",
            why="the request does not fit the model or the server's limits",
            fix="ask for less, or raise the limit in the recipe's serve section",
        )

    def _await_death(self) -> None:
        """Give the end of the process time to be noticed; it is the better error."""
        deadline = time.monotonic() + DEATH_NOTICE_S
        while time.monotonic() < deadline and self.alive is not nothing_known:
            self.alive()
            time.sleep(0.1)

    def _exchange(self, method: str, path: str, body: Json | None, timeout_s: float) -> requests.Response:
        """One request on a connection of its own: one kept open may be closed by the server just then."""
        with requests.Session() as session:
            session.trust_env = False
            session.headers["Connection"] = "close"
            timeout = (CONNECT_TIMEOUT_S, timeout_s)
            return session.request(method, self.url + path, json=body, timeout=timeout)


# ── what an answer must be ─────────────────────────────────────────────────────────────────


def garbage(what: str) -> NotServable:
    """The engine runs, and what it says is no answer."""
    return NotServable(
        "garbage",
        what,
        log_tail=[],
        fix="look for NaN or a wrong scale in the checkpoint: `release-bot audit` checks both",
    )


def _mapping(value: object, name: str) -> Json:
    if not isinstance(value, dict):
        raise garbage(f"the {name} is no JSON object: {str(value)[:200]}")
    return value


def _tool_call(value: object) -> ToolCall:
    function = _mapping(_mapping(value, "tool call").get("function"), "tool call's function")
    return ToolCall(name=str(function.get("name")), arguments=str(function.get("arguments")))


def _token_ids(choice: Json) -> list[int]:
    token_ids = choice.get("token_ids")
    if not isinstance(token_ids, list) or not all(isinstance(each, int) for each in token_ids):
        raise garbage(f"the answer holds no token ids: {str(choice)[:200]}")
    return token_ids


def _logprobs(choice: Json, count: int) -> list[float]:
    """One finite log-probability for each token, or NotServable."""
    given = _mapping(choice.get("logprobs") or {}, "logprobs")
    found = given.get("token_logprobs") or [each.get("logprob") for each in given.get("content") or []]
    if len(found) != count:
        raise garbage(f"{len(found)} log-probabilities came for {count} tokens")
    for position, value in enumerate(found):
        # vLLM writes minus infinity as -9999.
        if not isinstance(value, (int, float)) or not math.isfinite(value) or value <= -9999:
            raise garbage(f"the log-probability of token {position} is {value}")
    return [float(value) for value in found]


def _message(response: requests.Response) -> str:
    """The server's own words of an error answer."""
    try:
        body = response.json()
        error = body.get("error", body) if isinstance(body, dict) else body
        said = error.get("message", error) if isinstance(error, dict) else error
    except ValueError:
        said = response.text
    return " ".join(str(said).split())[:500]


def _number(text: str | None) -> float | None:
    """A label's number; None for "None" and for what is missing."""
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
