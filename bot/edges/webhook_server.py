"""`release-bot webhook serve`: Hub webhooks in, GitHub's `repository_dispatch` out.

One address takes deliveries (`POST /hub`), one says that it lives (`GET /`). The secret is looked at before
a byte of the body is read, and the body is read no further than its limit. An answer is one short word, so
that a stranger learns nothing; why something was ignored stands in the log.

The two secrets come from the environment: `RELEASE_BOT_WEBHOOK_SECRET`, the one that the Hub sends, and
`GITHUB_TOKEN`, which needs *Contents: write* on the one repository and nothing else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from bot import log
from bot.edges.github_errors import translate
from bot.errors import InputError, ReleaseBotError, UsageError
from bot.webhook import EVENT_TYPE, MAX_BODY_BYTES, Ignored, Memory, Push, is_secret, judge

MIN_SECRET_CHARS: Final = 16
GITHUB_TIMEOUT_S: Final = 10

Dispatch = Callable[[Push], None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the relay runs with; the secrets are not shown."""

    authors: frozenset[str]
    repository: str
    api_url: str
    webhook_secret: str = field(repr=False)
    github_token: str = field(repr=False)


def settings(authors: list[str]) -> Settings:
    """The settings in the environment. Raises UsageError for what is missing or too short to be a secret."""
    values = {
        name: os.environ.get(name, "")
        for name in ("RELEASE_BOT_WEBHOOK_SECRET", "GITHUB_TOKEN", "GITHUB_REPOSITORY")
    }
    if missing := [name for name, value in values.items() if not value]:
        raise UsageError(f"not set: {', '.join(missing)}", fix="see runners/relay/README.md")
    secret = values["RELEASE_BOT_WEBHOOK_SECRET"]
    log.hide(secret)
    log.hide(values["GITHUB_TOKEN"])
    if len(secret) < MIN_SECRET_CHARS or not secret.isascii():
        raise UsageError(
            f"RELEASE_BOT_WEBHOOK_SECRET is shorter than {MIN_SECRET_CHARS} characters, or not ASCII",
            fix="make one with `openssl rand -hex 32`, and give the same to the webhook on the Hub",
        )
    return Settings(
        authors=frozenset(authors),
        repository=values["GITHUB_REPOSITORY"],
        api_url=os.environ.get("GITHUB_API_URL") or "https://api.github.com",
        webhook_secret=secret,
        github_token=values["GITHUB_TOKEN"],
    )


def github_dispatch(found: Settings) -> Dispatch:
    """A function that starts the watch workflow. It raises the bot's own errors."""
    import github

    api = github.Github(
        auth=github.Auth.Token(found.github_token),
        base_url=found.api_url,
        retry=None,
        timeout=GITHUB_TIMEOUT_S,
        lazy=True,
        user_agent="release-bot",
        seconds_between_requests=0,
        seconds_between_writes=0,
    )
    repo = api.get_repo(found.repository)

    def dispatch(push: Push) -> None:
        content = {"event_type": EVENT_TYPE, "client_payload": push.model_dump()}
        try:  # PyGithub's own method hides the status, and with it why it failed
            repo.requester.requestJsonAndCheck("POST", f"{repo.url}/dispatches", input=content)
        except Exception as e:
            error = translate(e, found.repository)
            if error is None:
                raise
            raise error from e

    return dispatch


def app(*, secret: str, authors: frozenset[str], dispatch: Dispatch, memory: Memory) -> Starlette:
    """The relay as an ASGI application."""

    async def deliver(request: Request) -> Response:
        if not is_secret(request.headers.get("x-webhook-secret"), secret):
            return PlainTextResponse("refused\n", status_code=401)
        try:
            body = await _read(request)
        except ClientDisconnect:
            return Response(status_code=400)
        if body is None:
            return PlainTextResponse("too large\n", status_code=413)
        return await run_in_threadpool(_handle, body)

    def _handle(body: bytes) -> Response:
        try:
            found = judge(body, authors)
        except InputError as e:
            log.warning(e.what)
            return PlainTextResponse("not understood\n", status_code=400)
        if isinstance(found, Push):
            found = memory.claim(found) or found
        if isinstance(found, Ignored):
            log.info(f"ignored: {found.why}")
            return PlainTextResponse("ignored\n")
        return _pass_on(found)

    def _pass_on(push: Push) -> Response:
        try:
            dispatch(push)
        except ReleaseBotError as e:
            memory.forget(push)
            log.warning(f"{push.repo_id} was not passed on: {e}")
            return PlainTextResponse("not passed on\n", status_code=502)
        except BaseException:
            memory.forget(push)
            raise
        log.info(f"passed on: {push.repo_id}@{push.revision}")
        return PlainTextResponse("passed on\n", status_code=202)

    async def alive(_: Request) -> Response:
        return PlainTextResponse("release-bot webhook relay\n")

    return Starlette(routes=[Route("/", alive), Route("/hub", deliver, methods=["POST"])])


async def _read(request: Request) -> bytes | None:
    """The body; None when it is larger than its limit, whatever its length is said to be."""
    said = request.headers.get("content-length", "0")
    if not said.isdigit() or int(said[:12]) > MAX_BODY_BYTES:
        return None
    parts, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            return None
        parts.append(chunk)
    return b"".join(parts)


def serve(found: Settings, *, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; `ready(url)` is called once it listens.

    Raises OSError that names host:port when it cannot listen there.
    """
    import uvicorn

    from bot.localhub.server import Listening, bound

    application = app(
        secret=found.webhook_secret,
        authors=found.authors,
        dispatch=github_dispatch(found),
        memory=Memory(time.monotonic),
    )
    with bound(host, port) as listener:
        config = uvicorn.Config(
            application,
            http="h11",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=64,
            timeout_keep_alive=10,
        )
        url = f"http://{host}:{listener.getsockname()[1]}"
        Listening(config, lambda: ready(url)).run(sockets=[listener])
