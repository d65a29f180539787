"""Reading a repo: trees, single files, and their bytes.

Repo content is untrusted and shares an origin with the web page, so it is never served as something a browser
would run: text of any kind, HTML included, is `text/plain`; SVG is an image inside a sandbox; what is unknown
is a download; and `nosniff` keeps the browser from second-guessing.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from starlette.responses import FileResponse, JSONResponse, Response

from bot.localhub import describe
from bot.localhub.accounts import Action
from bot.localhub.errors import EntryNotFound, GatedRepo, HubError
from bot.localhub.http import Call, refusal, route
from bot.localhub.objects import Entry, lfs_pointer, tree_oids
from bot.localhub.repos import Repo
from bot.localhub.store import Commit

PAGE = 1000
EXPANDED_PAGE = 100
_IMAGES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",
}
_TEXTS = {
    ".md",
    ".txt",
    ".json",
    ".jsonl",
    ".yaml",
    ".yml",
    ".toml",
    ".py",
    ".jinja",
    ".csv",
    ".html",
    ".htm",
    ".xml",
    ".js",
    ".css",
    ".sh",
    ".cfg",
    ".ini",
    ".log",
    ".xhtml",
}
SANDBOX = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"


class Streamed(FileResponse):
    """A file sent a mebibyte at a time, with single ranges answered by 206 and impossible ones by 416."""

    chunk_size = 1 << 20


def resolve(call: Call) -> Response:
    """`GET` or `HEAD` a file; large files are served here instead of redirecting to a store."""
    repo = call.repo()
    check_gate(call, repo)
    commit = call.revision(repo)
    path = call.param("path")
    entry = call.hub.store.file(commit.tree_oid, path)
    if entry is None:
        missing = refusal(EntryNotFound(f"Entry not found: {path}"), call.request)
        missing.headers["X-Repo-Commit"] = commit.oid
        return missing
    return send_file(call, commit, entry)


def send_file(call: Call, commit: Commit, entry: Entry) -> Response:
    """The bytes of one file with the headers that the client checks them by."""
    kind = media_type(entry.path)
    name = PurePosixPath(entry.path).name
    shown = "attachment" if kind == "application/octet-stream" or call.flag("download") else "inline"
    headers = {
        "X-Repo-Commit": commit.oid,
        "ETag": f'"{entry.etag}"',
        "Content-Type": kind,
        "Content-Disposition": f"{shown}; filename*=UTF-8''{quote(name, safe='')}",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": SANDBOX,
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-cache",
    }
    if entry.lfs:
        headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
    path = call.hub.store.blobs.path(entry.sha256)
    if not path.is_file():
        raise HubError(f"the content of {entry.path} is missing from the embedded Hub's folder", status=500)
    return Streamed(path, headers=headers, media_type=kind, stat_result=path.stat())


def media_type(path: str) -> str:
    """What a browser may be told a file is."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in _IMAGES:
        return _IMAGES[suffix]
    if suffix in _TEXTS or PurePosixPath(path).name in (
        ".gitattributes",
        ".gitignore",
        "LICENSE",
        "SHA256SUMS",
    ):
        return "text/plain; charset=utf-8"
    return "application/octet-stream"


def raw(call: Call) -> Response:
    """What git holds: the file, or for a large one its pointer."""
    repo = call.repo()
    check_gate(call, repo)
    commit = call.revision(repo)
    entry = call.hub.store.file(commit.tree_oid, call.param("path"))
    if entry is None:
        raise EntryNotFound(f"Entry not found: {call.param('path')}")
    if not entry.lfs:
        return send_file(call, commit, entry)
    headers = {"X-Repo-Commit": commit.oid, "X-Content-Type-Options": "nosniff"}
    return Response(lfs_pointer(entry.sha256, entry.size), headers=headers, media_type="text/plain")


def check_gate(call: Call, repo: Repo) -> None:
    """Refuse the files of a gated repo to those it has not let in."""
    if not repo.gated:
        return
    user = call.caller.user
    if user is None:
        raise GatedRepo(
            f"Access to {repo.type} {repo.full_name} is restricted. You must be authenticated to access it.",
            status=401,
        )
    member = call.caller.may(Action.READ, repo.namespace, repo.name, private=True, created_by=repo.created_by)
    if not member and user not in call.hub.store.repos.granted(repo):
        raise GatedRepo(
            f"Access to {repo.type} {repo.full_name} is restricted and you are not in the authorized list."
        )


class _Listing:
    """Files and folders of one commit, with the commit that last touched each when asked."""

    def __init__(self, call: Call, repo: Repo, commit: Commit, *, expand: bool):
        self._store, self._repo, self._commit, self._expand = call.hub.store, repo, commit, expand
        self.files = self._store.files(commit.tree_oid)
        self.folders = tree_oids(self.files.values())
        self._last: dict[str, Commit] = {}

    def attribute(self, paths: list[str]) -> None:
        """Walk the history back until every one of these paths has its last change."""
        if not self._expand:
            return
        waiting = set(paths)
        child, child_files = self._commit, self.files
        while waiting:
            parent = self._store.commit(self._repo, child.parent) if child.parent else None
            before = self._store.files(parent.tree_oid) if parent else {}
            touched = {p for p in {**before, **child_files} if before.get(p) != child_files.get(p)}
            for path in list(waiting):
                if path in touched or any(name.startswith(path + "/") for name in touched) or parent is None:
                    self._last[path] = child
                    waiting.discard(path)
            if parent is None:
                break
            child, child_files = parent, before

    def one(self, path: str) -> dict[str, Any] | None:
        last = self._last.get(path)
        if path in self.files:
            return describe.tree_file(self.files[path], last, expand=self._expand)
        if path in self.folders:
            return describe.tree_folder(path, self.folders[path], last, expand=self._expand)
        return None


def tree(call: Call) -> Response:
    repo = call.repo()
    commit = call.revision(repo)
    expand = call.flag("expand")
    listing = _Listing(call, repo, commit, expand=expand)
    folder = call.param("path").strip("/") if call.has_param("path") else ""
    if folder and folder not in listing.folders:
        raise EntryNotFound(f'{folder} does not exist on "{commit.oid}"')
    prefix = f"{folder}/" if folder else ""
    paths = [p for p in {**listing.files, **listing.folders} if p.startswith(prefix) and p != folder]
    if not call.flag("recursive"):
        paths = [p for p in paths if "/" not in p[len(prefix) :]]
    paths.sort(key=lambda p: (p not in listing.folders, p))
    size = call.number("limit", EXPANDED_PAGE if expand else PAGE, most=PAGE) or PAGE
    part, headers = call.page(paths, size)
    listing.attribute(part)
    body = [listing.one(path) for path in part]
    return JSONResponse(body, headers={**headers, "X-Repo-Commit": commit.oid})


def paths_info(call: Call) -> list[dict[str, Any]]:
    """Those of the named paths that exist; the client sends a form, others JSON."""
    repo = call.repo()
    if isinstance(call.body, dict):
        paths, expand = call.field("paths", list), call.field("expand", bool, default=False)
    else:
        paths = [value for key, value in call.body if key in ("paths", "paths[]")]
        expand = any(key == "expand" and str(value).lower() == "true" for key, value in call.body)
    listing = _Listing(call, repo, call.revision(repo), expand=expand)
    wanted = list(dict.fromkeys(str(path).strip("/") for path in paths))
    listing.attribute([p for p in wanted if p in listing.files or p in listing.folders])
    return [found for path in wanted if path and (found := listing.one(path))]


_REPO = "/api/{types:plural}/{namespace}/{name}"
FILES = "/resolve/{revision}/{path:path}"
ROUTES = [
    route("GET", _REPO + "/tree/{revision}", tree),
    route("GET", _REPO + "/tree/{revision}/{path:path}", tree),
    route("POST", _REPO + "/paths-info/{revision}", paths_info, "form"),
    route("GET", "/api/resolve-cache/{types:plural}/{namespace}/{name}/{revision}/{path:path}", resolve),
    *(
        route(
            "GET", f"{prefix}/{{namespace}}/{{name}}/{verb}/{{revision}}/{{path:path}}", handler, cookie=True
        )
        for prefix in ("/{types:plural}", "")
        for verb, handler in (("resolve", resolve), ("raw", raw))
    ),
]
