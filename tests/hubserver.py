"""A small Hub for tests of reading: one listing, files by range, and every way in which a Hub fails.

The embedded Hub is the real thing to test against; this one misbehaves on demand.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

SHA = "c0ffee" * 6 + "beef"
LFS_FROM_BYTES = 2000


@dataclass
class Hub:
    """What is served, what was asked, and how to fail."""

    folder: Path
    port: int = 0
    redirect: bool = False
    ignore_ranges: bool = False
    status: int = 0
    error_code: str = ""
    flaky: int = 0
    cut: int = 0
    listing: Any = None
    asked: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.asked)


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        hub = self.hub
        path = unquote(self.path.partition("?")[0])
        hub.asked.append(path)
        hub.tokens.append(self.headers.get("Authorization"))
        if hub.flaky:
            hub.flaky -= 1
            self.answer(503)
        elif hub.status and not path.startswith("/store/"):
            self.answer(hub.status, headers={"X-Error-Code": hub.error_code} if hub.error_code else {})
        elif path.startswith("/api/models/"):
            self.answer(200, json.dumps(hub.listing or listing(hub.folder)).encode())
        elif hub.redirect and "/resolve/" in path:
            name = path.partition(f"/resolve/{SHA}/")[2]
            self.answer(302, headers={"Location": f"http://localhost:{hub.port}/store/{name}"})
        else:
            self.file(path.partition("/store/")[2] or path.partition(f"/resolve/{SHA}/")[2])

    def file(self, name: str) -> None:
        data = (self.hub.folder / name).read_bytes()
        wanted = self.headers.get("Range")
        if wanted and not self.hub.ignore_ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            self.answer(206, data[int(first) : int(last) + 1])
        else:
            self.answer(200, data)

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) - self.hub.cut] if self.hub.cut and status == 206 else body)
        if self.hub.cut and status == 206:
            self.close_connection = True


def listing(folder: Path) -> dict[str, Any]:
    """`model_info(files_metadata=True)` of the files in `folder`."""
    siblings = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        entry: dict[str, Any] = {"rfilename": str(path.relative_to(folder)), "size": len(data)}
        entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        if len(data) > LFS_FROM_BYTES:
            entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        siblings.append(entry)
    return {"id": "org/name", "sha": SHA, "siblings": siblings}


@contextmanager
def serve(folder: Path) -> Iterator[Hub]:
    """Serve `folder` as org/name on loopback."""
    hub = Hub(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
