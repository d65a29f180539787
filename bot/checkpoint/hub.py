"""A checkpoint in a repo of the Hub, read by range requests without downloading it.

The repo is listed once, at one commit; files are then read at that commit's sha. Where the Hub
redirects a large file to its store, the signed address is kept for the next ranges, so that a
shard costs one request a range. Passing faults (5xx, 429, a broken connection) are tried four
times; then InfrastructureError. What will not pass (gone, private, gated) is InputError.

`HF_ENDPOINT` is read at call time: it is the only difference between a rehearsal and the Hub.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urljoin

from bot.checkpoint.files import CHUNK_BYTES, FileEntry, check_path, entry_of
from bot.errors import InfrastructureError, InputError

ATTEMPTS = 4
TIMEOUT_S = 30.0
MAX_REDIRECTS = 5
MAX_LISTING_BYTES = 64 << 20
_PASSING = frozenset({408, 429, 500, 502, 503, 504})


class HubSource:
    """Reads `repo_id` at `revision`; `.revision` is the commit it resolved to."""

    remote = True

    def __init__(self, repo_id: str, revision: str | None = None, *, token: str | None = None) -> None:
        self.repo_id = repo_id
        self.requests = 0
        self.bytes_read = 0
        self._token = token
        self._wanted = revision or "main"
        self._resolved: dict[str, str] = {}
        self._files: dict[str, FileEntry] = {}
        self.label = f"{repo_id}@{self._wanted}"
        self.revision: str | None = None
        self._list()

    @property
    def _endpoint(self) -> str:
        from huggingface_hub import constants

        return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")

    def _list(self) -> None:
        address = (
            f"{self._endpoint}/api/models/{self.repo_id}/revision/{quote(self._wanted, safe='')}?blobs=true"
        )
        listing = self._json(address)
        try:
            self.revision = str(listing["sha"])
            self._files = {entry.path: entry for entry in map(_entry, listing["siblings"])}
        except (KeyError, TypeError, ValueError) as e:
            raise InfrastructureError(
                "the Hub's listing is not what it should be", where=self.label, why=f"{type(e).__name__}: {e}"
            ) from e
        self.label = f"{self.repo_id}@{self.revision}"

    def _json(self, address: str) -> Any:
        import json

        body = b"".join(self._body(address, {}, MAX_LISTING_BYTES))
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as e:
            raise InfrastructureError("the Hub's answer is not JSON", where=self.label) from e

    def files(self) -> dict[str, FileEntry]:
        return self._files

    def read(self, path: str, start: int, length: int) -> bytes:
        return b"".join(self.stream(path, start, length))

    def read_small(self, path: str, limit_bytes: int) -> bytes:
        size = entry_of(self, path).size_bytes
        if size > limit_bytes:
            raise InputError(f"{path} has {size:,} bytes; at most {limit_bytes:,} are read", where=self.label)
        return self.read(path, 0, size)

    def stream(self, path: str, start: int, length: int) -> Iterator[bytes]:
        size = entry_of(self, check_path(path)).size_bytes
        if start < 0 or start + length > size:
            raise InputError(
                f"{path} has {size:,} bytes; bytes {start:,} to {start + length:,} were asked for",
                where=self.label,
                why="a header lies, or the upload was cut short",
                fix="upload the file again",
            )
        if length == 0:
            return
        address = f"{self._endpoint}/{self.repo_id}/resolve/{self.revision}/{quote(path)}"
        whole = start == 0 and length == size
        headers = {} if whole else {"Range": f"bytes={start}-{start + length - 1}"}
        got = 0
        for chunk in self._body(address, headers, length):
            got += len(chunk)
            self.bytes_read += len(chunk)
            yield chunk
        if got != length:
            raise InfrastructureError(
                f"{path}: {got:,} of {length:,} bytes came", where=self.label, fix="try again"
            )

    # ── one request ────────────────────────────────────────────────────────────────────────

    def _body(self, address: str, headers: dict[str, str], limit: int) -> Iterator[bytes]:
        """The body behind `address`, at most `limit` bytes, in chunks; retried until the first came."""
        import httpx2

        for attempt in range(ATTEMPTS):
            sent = 0
            try:
                for chunk in self._attempt(address, headers, limit):
                    sent += len(chunk)
                    yield chunk
                return
            except (httpx2.HTTPError, OSError, InfrastructureError) as e:
                self._resolved.pop(address, None)
                if sent or attempt == ATTEMPTS - 1:
                    if isinstance(e, InfrastructureError):
                        raise
                    raise InfrastructureError(
                        f"the Hub cannot be read: {e or type(e).__name__}",
                        where=self.label,
                        why="network, proxy or a Hub that is down",
                        fix="try again; check HF_ENDPOINT and the network",
                    ) from e
                time.sleep(min(0.25 * 2**attempt, 4.0))

    def _attempt(self, address: str, headers: dict[str, str], limit: int) -> Iterator[bytes]:
        from huggingface_hub import get_session

        target = self._resolved.get(address, address)
        for _ in range(MAX_REDIRECTS):
            self.requests += 1
            given = self._headers(target) | headers | {"Accept-Encoding": "identity"}
            session = get_session()
            with session.stream(
                "GET", target, headers=given, follow_redirects=False, timeout=TIMEOUT_S
            ) as response:
                if response.status_code in (301, 302, 303, 307, 308) and "location" in response.headers:
                    target = urljoin(target, response.headers["location"])
                    continue
                if target != address:
                    self._resolved[address] = target
                self._raise(response, refreshable=target != address)
                skip = _skipped(response, headers)
                yield from _limited(response.iter_bytes(CHUNK_BYTES), skip, limit)
                return
        raise InfrastructureError("the Hub redirects in circles", where=self.label)

    def _headers(self, target: str) -> dict[str, str]:
        """The token goes to the Hub's own address only, never to a store it redirects to."""
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        at_home = target.startswith(self._endpoint + "/")
        headers = build_hf_headers(token=self._token if at_home else False, library_name="release-bot")
        return {str(k): str(v) for k, v in headers.items()}

    def _raise(self, response: Any, *, refreshable: bool) -> None:
        status = int(response.status_code)
        if status < 300:
            return
        code = response.headers.get("x-error-code", "")
        message = str(response.headers.get("x-error-message", ""))[:300]
        if status in _PASSING or (refreshable and status in (401, 403)):
            raise InfrastructureError(
                f"the Hub answers {status}", where=self.label, why=message, fix="try again"
            )
        raise InputError(
            *_refusal(status, code, self), where=self.label, why=message, fix=_advice(status, code)
        )


def _entry(sibling: dict[str, Any]) -> FileEntry:
    lfs = sibling.get("lfs") or {}
    sha256 = lfs.get("sha256") or None
    size = lfs["size"] if lfs else sibling["size"]
    blob = None if sha256 else sibling.get("blobId")
    return FileEntry(
        path=check_path(str(sibling["rfilename"])), size_bytes=int(size), sha256=sha256, git_sha1=blob
    )


def _skipped(response: Any, headers: dict[str, str]) -> int:
    """Bytes to drop in front: a server that ignores ranges sends the file from its start."""
    wanted = headers.get("Range")
    return int(wanted[6:].partition("-")[0]) if wanted and response.status_code == 200 else 0


def _limited(chunks: Iterator[bytes], skip: int, limit: int) -> Iterator[bytes]:
    for chunk in chunks:
        if skip >= len(chunk):
            skip -= len(chunk)
            continue
        chunk, skip = chunk[skip:], 0
        yield chunk[:limit]
        limit -= len(chunk)
        if limit <= 0:
            return


def _refusal(status: int, code: str, source: HubSource) -> tuple[str]:
    if code == "GatedRepo" or (status == 403 and not code):
        return (f"{source.repo_id} is gated or closed to this token",)
    if code == "RevisionNotFound":
        return (f"{source.repo_id} has no revision {source._wanted!r}",)
    if code == "EntryNotFound":
        return (f"{source.repo_id} lacks a file that its listing names",)
    if status in (401, 404, 410):
        return (f"{source.repo_id} does not exist, was removed, or is private",)
    return (f"the Hub refuses: {status} {code}".rstrip(),)


def _advice(status: int, code: str) -> str:
    if code == "GatedRepo" or status == 403:
        return "ask for access on the repo's page, and give a token that has it (HF_TOKEN)"
    if code == "RevisionNotFound":
        return "name a branch, tag or commit that exists"
    return "check the name; for a private repo give a token that may read it (HF_TOKEN)"
