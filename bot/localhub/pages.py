"""The web page: repos, rendered cards, files, history, pull requests and collections, to look at.

Reading only: nothing can be changed here but who is logged in, and that is a form that puts a token into a
cookie (HttpOnly, SameSite=Strict), never into an address. Everything shown is untrusted: templates escape by
default, cards are rendered without raw HTML, and the Content-Security-Policy allows this server's own style
sheet and images and nothing else, no script at all.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Route

from bot.localhub import cards, describe, diffs
from bot.localhub.accounts import Action
from bot.localhub.discussions import Discussions
from bot.localhub.errors import EntryNotFound, HubError, RepoNotFound
from bot.localhub.http import COOKIE, Call, identify_page
from bot.localhub.repos import Repo
from bot.localhub.shelf import Collection, Shelf
from bot.localhub.store import Commit

HERE = Path(__file__).parent
MAX_SHOWN_BYTES = 512 << 10
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def size_text(size: int) -> str:
    """A size as people read it: bytes up to a kilobyte, then three figures."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{size} B" if unit == "B" else f"{value:.3g} {unit}"


def address(repo: Repo, verb: str, revision: str, path: str = "") -> str:
    tail = f"/{quote(path)}" if path else ""
    return f"{quote(repo.web_path)}/{verb}/{quote(revision, safe='')}{tail}"


@cache
def templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["size"] = size_text
    environment.filters["day"] = lambda moment: moment[:16].replace("T", " ")
    environment.globals["address"] = address
    return environment


def _html(call: Call, template: str, status: int = 200, **values: Any) -> Response:
    text = templates().get_template(f"{template}.html.j2").render(user=call.caller.user, **values)
    return Response(text, status_code=status, media_type="text/html", headers=HEADERS)


def _card_html(repo: Repo, text: str, revision: str) -> Markup:
    """A card's text, rendered; its images and links point into the repo at this revision."""
    html = cards.render(
        text,
        image=lambda path: address(repo, "resolve", revision, path),
        link=lambda path: address(repo, "blob", revision, path),
    )
    return Markup(html)


def home(call: Call) -> Response:
    listed = {}
    for repo_type in ("model", "dataset", "space"):
        repos = [repo for repo in call.hub.store.repos.all(repo_type) if call.may(Action.READ, repo)]
        repos.sort(key=lambda repo: repo.modified_at, reverse=True)
        listed[repo_type] = [
            (repo, describe.Description(call.hub, repo, describe.head_commit(call.hub, repo)).card)
            for repo in repos[:500]
        ]
    return _html(call, "home", listed=listed)


def _frame(call: Call, tab: str, *, revision: str = "main") -> tuple[Repo, Commit, dict[str, Any]]:
    """The repo, the commit looked at, and what the frame around every page of a repo shows."""
    repo = call.repo()
    commit = call.hub.store.resolve(repo, revision)
    described = describe.Description(call.hub, repo, commit)
    listed = Discussions(call.hub.store, repo).all()
    frame = {
        "repo": repo,
        "commit": commit,
        "revision": revision,
        "tab": tab,
        "tags": described.tags,
        "num_open": sum(found.is_open for found in listed),
        "files": described.files,
        "card": described.card,
    }
    return repo, commit, frame


def repo_page(call: Call) -> Response:
    """The card at main, or at the revision in the address when a folder's listing is not asked for."""
    revision = call.param("revision") if call.has_param("revision") else "main"
    repo, commit, frame = _frame(call, "card", revision=revision)
    text = describe.card_text(call.hub.store, frame["files"])
    facts = {
        k: cards.listed(frame["card"].get(k))
        for k in ("license", "base_model", "pipeline_tag", "library_name", "datasets", "quantized_by")
    }
    total = sum(entry.size for entry in frame["files"].values())
    html = _card_html(repo, text, commit.oid) if text else None
    return _html(call, "card", html=html, facts={k: v for k, v in facts.items() if v}, total=total, **frame)


def files_page(call: Call) -> Response:
    _repo, commit, frame = _frame(call, "files", revision=call.param("revision"))
    folder = call.param("path").strip("/") if call.has_param("path") else ""
    prefix = f"{folder}/" if folder else ""
    inside = {p[len(prefix) :]: entry for p, entry in frame["files"].items() if p.startswith(prefix)}
    if folder and not inside:
        raise EntryNotFound(f"{folder} does not exist at {commit.oid}")
    folders: dict[str, int] = {}
    for name, entry in inside.items():
        if "/" in name:
            first = name.partition("/")[0]
            folders[first] = folders.get(first, 0) + entry.size
    here = {name: entry for name, entry in inside.items() if "/" not in name}
    total = sum(entry.size for entry in inside.values())
    return _html(
        call, "files", folder=folder, prefix=prefix, folders=folders, here=here, total=total, **frame
    )


def file_page(call: Call) -> Response:
    _repo, _, frame = _frame(call, "files", revision=call.param("revision"))
    entry = frame["files"].get(call.param("path"))
    if entry is None:
        raise EntryNotFound(f"Entry not found: {call.param('path')}")
    text = None
    if entry.size <= MAX_SHOWN_BYTES:
        try:
            text = call.hub.store.blobs.read(entry.sha256).decode()
        except UnicodeDecodeError:
            text = None
    return _html(call, "file", entry=entry, text=None if text and "\0" in text else text, **frame)


def commits_page(call: Call) -> Response:
    repo, commit, frame = _frame(call, "commits", revision=call.param("revision"))
    history = []
    for past in call.hub.store.history(repo, commit.oid):
        history.append(past)
        if len(history) == 500:
            break
    return _html(call, "commits", history=history, **frame)


def commit_page(call: Call) -> Response:
    repo, commit, frame = _frame(call, "commits", revision=call.param("revision"))
    store = call.hub.store
    parent = store.files(store.commit(repo, commit.parent).tree_oid) if commit.parent else {}
    diff = diffs.unified(store.blobs, parent, frame["files"])
    return _html(
        call, "commit", diff=_diff_lines(diff), changed=diffs.changed(parent, frame["files"]), **frame
    )


def refs_page(call: Call) -> Response:
    repo, _, frame = _frame(call, "refs")
    refs = call.hub.store.refs(repo)
    named = {
        kind: {
            ref.removeprefix(f"refs/{kind}/"): oid
            for ref, oid in refs.items()
            if ref.startswith(f"refs/{kind}/")
        }
        for kind in ("heads", "tags")
    }
    return _html(call, "refs", named=named, **frame)


def discussions_page(call: Call) -> Response:
    repo, _, frame = _frame(call, "discussions")
    return _html(call, "discussions", found=Discussions(call.hub.store, repo).all(), **frame)


def discussion_page(call: Call) -> Response:
    repo, _, frame = _frame(call, "discussions")
    discussions = Discussions(call.hub.store, repo)
    num = call.param("num")
    found = discussions.get(int(num) if num.isascii() and num.isdigit() and len(num) < 10 else 0)
    events = [
        (event, Markup(cards.render(event.data["latest"]["raw"])) if event.type == "comment" else None)
        for event in discussions.events(found.num)
    ]
    changes: dict[str, Any] = {"diff": [], "conflicts": [], "changed": {}}
    if found.is_pull_request:
        base, _, head, _, _ = discussions.sides(found)
        changes = {
            "diff": _diff_lines(discussions.diff(found)),
            "conflicts": discussions.conflicts(found) if found.is_open else [],
            "changed": diffs.changed(base, head),
        }
    return _html(call, "discussion", found=found, events=events, **changes, **frame)


def _diff_lines(diff: str) -> list[tuple[str, str]]:
    """Each line with the class that colours it."""
    kinds = {"+": "add", "-": "del", "@": "hunk", "d": "file"}
    return [
        ("meta" if line.startswith(("+++", "---", "index ")) else kinds.get(line[:1], ""), line)
        for line in diff.splitlines()[:5000]
    ]


def collections_page(call: Call) -> Response:
    shelf = Shelf(call.hub.store)
    shown = [(c, len(shelf.items(c))) for c in shelf.all() if _may_see(call, c)]
    return _html(call, "collections", shown=shown)


def collection_page(call: Call) -> Response:
    shelf = Shelf(call.hub.store)
    collection = shelf.get(f"{call.param('namespace')}/{call.param('slug')}")
    if not _may_see(call, collection):
        raise HubError("Collection not found", status=404)
    items = []
    for item in shelf.items(collection):
        namespace, _, name = item.item_id.partition("/")
        try:
            repo = (
                None if item.type == "collection" else call.hub.store.repos.find(item.type, namespace, name)
            )
        except HubError:
            continue
        if repo is None or call.may(Action.READ, repo):
            items.append((item, repo.web_path if repo else f"/collections/{item.item_id}"))
    return _html(call, "collection", collection=collection, items=items)


def _may_see(call: Call, collection: Collection) -> bool:
    return not collection.private or call.caller.may_in(Action.READ, collection.namespace)


def style(_: Request) -> Response:
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    return FileResponse(HERE / "static" / "style.css", media_type="text/css", headers=headers)


def login_page(call: Call) -> Response:
    return _html(call, "login", wrong=False)


async def log_in(request: Request) -> Response:
    """Put the token into the cookie if somebody has it, or take it out again."""
    from urllib.parse import parse_qs

    origin = request.headers.get("origin")
    if origin not in (None, f"{request.url.scheme}://{request.headers.get('host', '')}"):
        return Response("a form of another site", status_code=403, media_type="text/plain", headers=HEADERS)
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > 4096:
            return Response("too long", status_code=413, media_type="text/plain", headers=HEADERS)
    token = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0].strip()
    response: Response = RedirectResponse("/", status_code=303, headers=HEADERS)
    if not token:
        response.delete_cookie(COOKIE, path="/")
        return response
    hub = request.app.state.hub
    if hub.accounts.caller(token) is None:
        return _html(
            Call(hub=hub, request=request, caller=identify_page(hub, request)), "login", 403, wrong=True
        )
    response.set_cookie(COOKIE, token, httponly=True, samesite="strict", path="/")
    return response


def _page(path: str, handler: Callable[[Call], Response]) -> Route:
    """A route that answers with a page, errors too."""

    async def endpoint(request: Request) -> Response:
        hub = request.app.state.hub
        call = Call(hub=hub, request=request, caller=identify_page(hub, request))
        try:
            return await run_in_threadpool(handler, call)
        except HubError as error:
            status = 404 if isinstance(error, RepoNotFound) else error.status
            message = "Repository not found" if isinstance(error, RepoNotFound) else error.message
            return _html(call, "error", status, message=message, status_code=status)

    return Route(path, endpoint, methods=["GET"])


def _of_repo(tail: str, handler: Callable[[Call], Response]) -> list[Route]:
    prefixes = ("/{types:plural}/{namespace}/{name}", "/{namespace}/{name}")
    return [_page(posixpath.join(prefix, tail) if tail else prefix, handler) for prefix in prefixes]


ROUTES = [
    Route("/static/style.css", style),
    Route("/login", log_in, methods=["POST"]),
    _page("/login", login_page),
    _page("/", home),
    _page("/collections", collections_page),
    _page("/collections/{namespace}/{slug}", collection_page),
    *_of_repo("tree/{revision}", files_page),
    *_of_repo("tree/{revision}/{path:path}", files_page),
    *_of_repo("blob/{revision}/{path:path}", file_page),
    *_of_repo("card/{revision}", repo_page),
    *_of_repo("commits/{revision}", commits_page),
    *_of_repo("commit/{revision}", commit_page),
    *_of_repo("refs", refs_page),
    *_of_repo("discussions", discussions_page),
    *_of_repo("discussions/{num}", discussion_page),
    *_of_repo("", repo_page),
]
