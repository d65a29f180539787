"""A proxy in front of `emulate`: the routes of GitHub's API which that lacks or gets wrong, and faults.

- `GET /repos/…/collaborators/{login}/permission`: emulate says push and pull where GitHub says write and
  read, and 404 for who is no collaborator of a public repository, whom GitHub calls a reader.
- `GET /repos/…/tarball/{ref}`: not there. GitHub redirects to another host with a signed address, which is
  `GET /_archive/…` here.
- `PATCH`, `DELETE /repos/…/git/ref/{ref}`: emulate gives a ref's address as `/git/ref/`, GitHub as
  `/git/refs/`, which is where PyGithub then writes.
- `GET /repos/…/pulls`, `GET`, `PATCH /repos/…/pulls/{number}`: emulate keeps the head that a pull request was
  opened with; here it is where its branch is now, as on GitHub.
- `PUT /repos/…/pulls/{number}/merge`: emulate puts the branch's first tree onto the base's first commit, and
  loses what came to either since; here the changes of the branch are put onto the base as it is now.
- `POST /repos/…/pulls`: emulate opens a second pull request from one branch, GitHub answers 422.
- `POST /repos/…/dispatches`, `POST /repos/…/actions/workflows/{file}/dispatches`: 404 there; here 204, and
  what was sent is kept in `dispatched`.

Everything else goes to emulate as it is. `fail` makes the next requests that match fail as GitHub or a
network does.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import re
import socket
import struct
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

NAMES = {"push": "write", "pull": "read"}


@dataclass
class Fault:
    """`status` 0 cuts the connection; `after` lets emulate do what was asked first."""

    method: str
    path: str
    times: int
    status: int
    headers: dict[str, str]
    after: bool


@dataclass
class Proxy:
    """Where it listens, what was asked, what was dispatched, and how to fail."""

    upstream_port: int
    port: int = 0
    asked: list[str] = field(default_factory=list)
    dispatched: list[dict[str, Any]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    merged: dict[tuple[str, int], tuple[str, str]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    def fail(
        self, method: str, path: str, status: int, *, times: int = 1, after: bool = False, **headers: str
    ) -> None:
        """Let the next `times` requests fail whose method and path (a regular expression) match."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults.append(
            Fault(method=method, path=path, times=times, status=status, headers=named, after=after)
        )

    def fault(self, method: str, path: str) -> Fault | None:
        for each in self.faults:
            if each.times and each.method == method and re.search(each.path, path):
                each.times -= 1
                return each
        return None


@dataclass(frozen=True)
class Reply:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(self.path.partition("?")[0])
        self.proxy.asked.append(f"{self.command} {path}")
        fault = self.proxy.fault(self.command, path)
        if fault is None or fault.after:
            reply = self.added(path, body) or self.upstream(self.command, self.path, body)
        if fault is None:
            self.answer(reply)
        elif fault.status:
            words = json.dumps({"message": f"made to fail with {fault.status}"}).encode()
            self.answer(
                Reply(fault.status, [("Content-Type", "application/json"), *fault.headers.items()], words)
            )
        else:
            self.cut()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def added(self, path: str, body: bytes) -> Reply | None:
        """The reply of one of the added routes; None for a request that is emulate's."""
        for method, pattern, route in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command == method:
                return route(self, match, body)
        return None

    def upstream(self, method: str, path: str, body: bytes = b"") -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.upstream_port, timeout=30)
        skipped = {"host", "content-length", "connection", "accept-encoding"}
        headers = {k: v for k, v in self.headers.items() if k.lower() not in skipped}
        connection.request(method, path, body=body or None, headers=headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        skipped |= {"transfer-encoding", "keep-alive", "date"}
        return Reply(
            answer.status, [(k, v) for k, v in answer.getheaders() if k.lower() not in skipped], data
        )

    def json_of(self, path: str, method: str = "GET", content: Any = None) -> Any:
        body = b"" if content is None else json.dumps(content).encode()
        reply = self.upstream(method, path, body)
        if reply.status >= 400:
            raise RuntimeError(f"emulate: {method} {path}: {reply.status} {reply.body!r}")
        return json.loads(reply.body)

    def answer(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers:
            self.send_header(name, value)
        if reply.status != 204:
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def cut(self) -> None:
        """End the connection with a reset, as a network does in the middle of an upload."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


def as_json(content: Any, status: int = 200) -> Reply:
    return Reply(status, [("Content-Type", "application/json")], json.dumps(content).encode())


def permission(handler: Handler, match: re.Match[str], _: bytes) -> Reply:
    reply = handler.upstream("GET", handler.path)
    found = json.loads(reply.body)
    if reply.status == 404 and handler.upstream("GET", f"/users/{match['login']}").status == 200:
        return as_json({"permission": "read", "role_name": "read", "user": {"login": match["login"]}})
    if reply.status == 200:
        found["permission"] = NAMES.get(found["permission"], found["permission"])
        return as_json(found)
    return reply


def tarball(handler: Handler, match: re.Match[str], _: bytes) -> Reply:
    where = f"{handler.proxy.url}/_archive/{match['repo']}/{match['ref']}"
    return Reply(302, [("Location", where)], b"")


def archive(handler: Handler, match: re.Match[str], _: bytes) -> Reply:
    repo = f"/repos/{match['repo']}"
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as file:
        for entry in handler.json_of(f"{repo}/git/trees/{match['ref']}?recursive=1")["tree"]:
            if entry["type"] == "blob":
                blob = handler.json_of(f"{repo}/git/blobs/{entry['sha']}")
                data = base64.b64decode(blob["content"])
                member = tarfile.TarInfo(f"{match['repo'].replace('/', '-')}-x/{entry['path']}")
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
    return Reply(200, [("Content-Type", "application/x-gzip")], target.getvalue())


def ref(handler: Handler, match: re.Match[str], body: bytes) -> Reply:
    return handler.upstream(handler.command, handler.path.replace("/git/ref/", "/git/refs/", 1), body)


def pulls(handler: Handler, match: re.Match[str], body: bytes) -> Reply:
    """Pull requests with the heads that their branches have now, and the merges that were made here."""
    reply = handler.upstream(handler.command, handler.path, body)
    if reply.status != 200:
        return reply
    refs = handler.json_of(f"/repos/{match['repo']}/git/matching-refs/heads/")
    heads = {each["ref"].removeprefix("refs/heads/"): each["object"]["sha"] for each in refs}
    found = json.loads(reply.body)
    for each in found if isinstance(found, list) else [found]:
        merged = handler.proxy.merged.get((match["repo"], each["number"]))
        if merged:
            each["head"]["sha"], each["merge_commit_sha"] = merged
        elif each["state"] == "open":
            each["head"]["sha"] = heads.get(each["head"]["ref"], each["head"]["sha"])
    return Reply(200, reply.headers, json.dumps(found).encode())


def merge_pull(handler: Handler, match: re.Match[str], body: bytes) -> Reply:
    with handler.proxy.lock:
        repo, number = f"/repos/{match['repo']}", int(match["number"])
        pull = handler.json_of(f"{repo}/pulls/{number}")
        base = handler.json_of(f"{repo}/git/ref/heads/{pull['base']['ref']}")["object"]["sha"]
        head = handler.json_of(f"{repo}/git/ref/heads/{pull['head']['ref']}")["object"]["sha"]
        fork = handler.json_of(f"{repo}/compare/{base}...{head}")["merge_base_commit"]["sha"]
        reply = handler.upstream("PUT", handler.path, body)
        if reply.status != 200:
            return reply
        tree = handler.json_of(
            f"{repo}/git/trees", "POST", {"tree": _merged_tree(handler, repo, base, fork, head)}
        )
        asked = json.loads(body or b"{}")
        message = asked.get("commit_title") or f"{pull['title']} (#{number})"
        parents = [base] if asked.get("merge_method") in ("squash", "rebase") else [base, head]
        content = {"message": message, "tree": tree["sha"], "parents": parents}
        sha = handler.json_of(f"{repo}/git/commits", "POST", content)["sha"]
        moved = {"sha": sha, "force": True}
        handler.json_of(f"{repo}/git/refs/heads/{pull['base']['ref']}", "PATCH", moved)
        handler.proxy.merged[match["repo"], number] = (head, sha)
        return as_json({**json.loads(reply.body), "sha": sha})


def _merged_tree(handler: Handler, repo: str, base: str, fork: str, head: str) -> list[dict[str, str]]:
    """The base's files with what the branch changed since the fork."""

    def files(sha: str) -> dict[str, dict[str, str]]:
        entries = handler.json_of(f"{repo}/git/trees/{sha}?recursive=1")["tree"]
        names = ("path", "mode", "type", "sha")
        return {each["path"]: {k: each[k] for k in names} for each in entries if each["type"] == "blob"}

    found, before, after = files(base), files(fork), files(head)
    for path in before.keys() | after.keys():
        if before.get(path) != after.get(path):
            found.pop(path, None)
            found.update({path: after[path]} if path in after else {})
    return list(found.values())


def open_pull(handler: Handler, match: re.Match[str], body: bytes) -> Reply:
    with handler.proxy.lock:
        head = json.loads(body).get("head")
        found = handler.json_of(f"/repos/{match['repo']}/pulls?state=open&per_page=100")
        if any(each["head"]["ref"] == head for each in found):
            words = {"message": f"A pull request already exists for {head}."}
            return as_json({"message": "Validation Failed", "errors": [words]}, 422)
        return handler.upstream("POST", handler.path, body)


def dispatch(handler: Handler, match: re.Match[str], body: bytes) -> Reply:
    handler.proxy.dispatched.append(json.loads(body))
    return Reply(204, [], b"")


ROUTES = (
    ("GET", r"/repos/(?P<repo>[^/]+/[^/]+)/collaborators/(?P<login>[^/]+)/permission", permission),
    ("GET", r"/repos/(?P<repo>[^/]+/[^/]+)/tarball/(?P<ref>.+)", tarball),
    ("GET", r"/_archive/(?P<repo>[^/]+/[^/]+)/(?P<ref>.+)", archive),
    ("PATCH", r"/repos/(?P<repo>[^/]+/[^/]+)/git/ref/(?P<ref>.+)", ref),
    ("DELETE", r"/repos/(?P<repo>[^/]+/[^/]+)/git/ref/(?P<ref>.+)", ref),
    ("GET", r"/repos/(?P<repo>[^/]+/[^/]+)/pulls(/\d+)?", pulls),
    ("PATCH", r"/repos/(?P<repo>[^/]+/[^/]+)/pulls/\d+", pulls),
    ("PUT", r"/repos/(?P<repo>[^/]+/[^/]+)/pulls/(?P<number>\d+)/merge", merge_pull),
    ("POST", r"/repos/(?P<repo>[^/]+/[^/]+)/pulls", open_pull),
    ("POST", r"/repos/(?P<repo>[^/]+/[^/]+)(/actions/workflows/[\w.-]+)?/dispatches", dispatch),
)


@contextmanager
def listening(port: int = 0) -> Iterator[Proxy]:
    """Serve on loopback; `upstream_port` is set once emulate runs, which must be told this address."""
    proxy = Proxy(upstream_port=0)
    server = ThreadingHTTPServer(("127.0.0.1", port), type("Bound", (Handler,), {"proxy": proxy}))
    server.daemon_threads = True
    proxy.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
