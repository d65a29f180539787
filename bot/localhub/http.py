"""From a request to a `Call`, from what a handler returns or raises to a response.

Handlers are plain functions `handler(call) -> JSON value | Response`, run in a worker thread, so that SQLite
and the disk never block the event loop. Only uploads are coroutines, because they stream their body.

Two things differ from everyday Starlette. Revisions and paths arrive percent-encoded *inside* one path
segment (`refs%2Fpr%2F1`), and ASGI's decoded path has lost that border; `RawPath` lets the router match the
path as it was sent, and `Call.param` decodes afterwards. And with a loopback server the `Host` header is
checked, so that a web page whose name was re-pointed to 127.0.0.1 cannot talk to it."""

from __future__ import annotations

import errno
import json
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlencode

from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bot.localhub.accounts import ANONYMOUS, Action, Caller
from bot.localhub.errors import BadRequest, Forbidden, HubError, RepoNotFound, Unauthorized
from bot.localhub.hub import Hub
from bot.localhub.repos import REPO_TYPES, Repo
from bot.localhub.store import Commit
from bot.localhub.webhooks import is_loopback

MAX_BODY_BYTES = 32 << 20
COOKIE = "embedded_hub_token"
_log = logging.getLogger("bot.localhub")

Body = Literal["none", "json", "form", "stream"]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request, with its caller known and its body read (unless it is streamed)."""

    hub: Hub
    request: Request
    caller: Caller
    body: Any = None

    @property
    def base_url(self) -> str:
        return f"{self.request.url.scheme}://{self.request.headers.get('host', '')}"

    def param(self, name: str) -> str:
        """A piece of the path, decoded; BadRequest when it is not UTF-8."""
        try:
            return unquote(self.request.path_params[name], errors="strict")
        except UnicodeDecodeError:
            raise BadRequest("the address is not UTF-8") from None

    def has_param(self, name: str) -> bool:
        return name in self.request.path_params

    def query(self, name: str, default: str = "") -> str:
        return self.request.query_params.get(name, default)

    def flag(self, name: str) -> bool:
        return self.query(name).lower() in ("1", "true", "on", "yes")

    def many(self, name: str) -> list[str]:
        """All values of `name=…`, `name[]=…` and comma-separated ones."""
        found = self.request.query_params.getlist(name) + self.request.query_params.getlist(f"{name}[]")
        return [part for value in found for part in value.split(",") if part]

    def number(self, name: str, default: int, *, most: int) -> int:
        text = self.query(name)
        if not text:
            return default
        if not text.isascii() or not text.isdigit():
            raise BadRequest(f"{name} must be a whole number, not {text[:40]!r}")
        return min(int(text[:12]), most)

    def field(self, name: str, kind: type | tuple[type, ...] = str, *, default: Any = ...) -> Any:
        """A value of the JSON body, of this type; BadRequest when missing or of another."""
        body = self.body if isinstance(self.body, dict) else {}
        value = body.get(name)
        if value is None:
            if default is ...:
                raise BadRequest(f"{name!r} is missing from the request's body")
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise BadRequest(f"{name!r} has the wrong type in the request's body")
        return value

    # Who may do what

    def repo_type(self) -> str:
        return self.param("types")[:-1] if self.has_param("types") else "model"

    def repo(self, action: Action = Action.READ) -> Repo:
        """The repo in the path, if this caller may do this to it."""
        repo_type, namespace, name = self.repo_type(), self.param("namespace"), self.param("name")
        try:
            repo = self.hub.store.repos.find(repo_type, namespace, name)
        except RepoNotFound:
            raise self._hidden() from None
        return self.allow(action, repo)

    def may(self, action: Action, repo: Repo) -> bool:
        return self.caller.may(
            action, repo.namespace, repo.name, private=repo.private, created_by=repo.created_by
        )

    def allow(self, action: Action, repo: Repo) -> Repo:
        """The same repo, or the refusal that the real Hub gives: a private repo is as good as absent."""
        if not self.may(Action.READ, repo):
            raise self._hidden()
        if not self.may(action, repo):
            self.require_user()
            raise Forbidden(
                f"You don't have the right to do this ({action}) on {repo.full_name}: the token "
                f"{self.caller.token_name!r} has the scopes {', '.join(sorted(self.caller.scopes)) or 'none'}"
            )
        return repo

    def _hidden(self) -> RepoNotFound:
        anonymous = self.caller.user is None
        return RepoNotFound(
            "Invalid username or password." if anonymous else "Repository not found",
            status=401 if anonymous else 404,
        )

    def require_user(self) -> str:
        if self.caller.user is None:
            raise Unauthorized("Invalid username or password.")
        return self.caller.user

    def allow_in(self, action: Action, namespace: str) -> None:
        """Refuse unless this caller may do this in that namespace."""
        self.require_user()
        if not self.caller.may_in(action, namespace):
            raise Forbidden(
                f"You don't have the right to do this ({action}) under the namespace {namespace!r}"
            )

    def revision(self, repo: Repo) -> Commit:
        return self.hub.store.resolve(repo, self.param("revision") if self.has_param("revision") else "main")

    def announce(self, repo: Repo, action: str, scope: str, **more: Any) -> None:
        """Queue what webhooks are to be told, in the transaction that makes it true."""
        self.hub.webhooks.announce(repo, action, scope, base_url=self.base_url, **more)

    def page(self, items: list[Any], size: int) -> tuple[list[Any], dict[str, str]]:
        """One page of a list, and the `Link` header that leads to the next."""
        start = self.number("cursor", 0, most=1 << 40)
        part = items[start : start + size]
        if start + size >= len(items):
            return part, {}
        query = [(k, v) for k, v in self.request.query_params.multi_items() if k != "cursor"]
        query.append(("cursor", str(start + size)))
        path = self.request.scope["path"]
        return part, {"Link": f'<{self.base_url}{path}?{urlencode(query)}>; rel="next"'}


class _Plural(Convertor[str]):
    """`{types:plural}` in a route: the word that stands for a repo type in addresses."""

    regex = "|".join(f"{repo_type}s" for repo_type in REPO_TYPES)

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("plural", _Plural())

Handler = Callable[[Call], Any]
AsyncHandler = Callable[[Call], Awaitable[Any]]


def route(
    methods: str, path: str, handler: Handler | AsyncHandler, body: Body = "none", *, cookie: bool = False
) -> Route:
    """A Starlette route around a handler; `cookie` lets the page's log-in count, for reading only."""

    async def endpoint(request: Request) -> Response:
        try:
            call = await _call(request, body, cookie=cookie)
            if body == "stream":
                answer = await handler(call)
            else:
                answer = await run_in_threadpool(handler, call)
        except HubError as error:
            return refusal(error, request)
        except ClientDisconnect:
            return Response(status_code=400)
        except (OSError, sqlite3.OperationalError) as error:
            if getattr(error, "errno", None) not in (
                errno.ENOSPC,
                errno.EDQUOT,
            ) and "disk is full" not in str(error):
                raise
            _log.error("disk full while serving %s %s", request.method, request.url.path)
            return refusal(
                HubError("the embedded Hub's disk is full: free space and try again", status=507), request
            )
        return answer if isinstance(answer, Response) else JSONResponse(answer)

    return Route(path, endpoint, methods=methods.split())


def refusal(error: HubError, request: Request) -> Response:
    return JSONResponse(
        {"error": error.message, **error.extra}, status_code=error.status, headers=error.headers()
    )


async def _call(request: Request, body: Body, *, cookie: bool) -> Call:
    hub: Hub = request.app.state.hub
    caller = identify(hub, request)
    if cookie and caller is ANONYMOUS and request.method in ("GET", "HEAD"):
        caller = identify_page(hub, request)
    call = Call(hub=hub, request=request, caller=caller)
    if body == "json":
        text = await _read(request)
        return replace(call, body=parse_json(text) if text else {})
    if body == "form":
        text = await _read(request)
        if request.headers.get("content-type", "").startswith("application/json"):
            return replace(call, body=parse_json(text))
        return replace(call, body=parse_qsl(text.decode("utf-8", "replace"), keep_blank_values=True))
    return call


def identify(hub: Hub, request: Request) -> Caller:
    """The caller of an API request, by its Authorization header only (a cookie never authorizes a write)."""
    header = request.headers.get("authorization")
    if header is None:
        return ANONYMOUS
    kind, _, token = header.partition(" ")
    caller = hub.caller(token.strip()) if kind.lower() == "bearer" else None
    if caller is None:
        raise Unauthorized("Invalid credentials in Authorization header")
    return caller


def identify_page(hub: Hub, request: Request) -> Caller:
    """The caller of a page, by the cookie that its log-in form set; anonymous when it is of no use."""
    return hub.accounts.caller(request.cookies.get(COOKIE)) or ANONYMOUS


async def _read(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise HubError(f"the request's body is larger than {MAX_BODY_BYTES} bytes", status=413)
        parts.append(chunk)
    return b"".join(parts)


def parse_json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BadRequest("the request's body is not JSON") from None


class RawPath:
    """Lets the router see the path as sent, so that `%2F` stays inside its segment; checks `Host`."""

    def __init__(self, app: ASGIApp, *, any_host: bool):
        self.app = app
        self.any_host = any_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            if not self.any_host and not is_loopback(name.strip("[]")):
                refused = JSONResponse(
                    {"error": "this embedded Hub answers on loopback names only"}, status_code=421
                )
                return await refused(scope, receive, send)
            raw = scope.get("raw_path") or scope["path"].encode()
            scope = {**scope, "path": raw.decode("latin-1")}
        await self.app(scope, receive, send)
        return None
