"""Writing files: which way each travels, the large ones' bytes, and the commit that names them all.

The order is the client's: `preupload` sorts files into regular and LFS; the LFS batch says what is still to be
sent; contents are PUT (whole, or in parts) and verified by sha256; only then does one commit name everything,
or nothing. Contents stream from the socket to the disk; no request holds more than one buffer of a large file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import AsyncIterator
from fnmatch import fnmatchcase
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from bot.localhub import attributes, describe
from bot.localhub.accounts import Action
from bot.localhub.blobs import BUFFER_BYTES
from bot.localhub.changes import Changes
from bot.localhub.discussions import Discussion, Discussions, target_ref
from bot.localhub.errors import BadRequest, HubError, RevisionNotFound, StaleParent
from bot.localhub.events import discussion_json
from bot.localhub.http import Call, route
from bot.localhub.objects import check_path
from bot.localhub.store import Commit, Repo
from bot.localhub.uploads import Parts, Signer

_SHA256 = re.compile(r"[0-9a-f]{64}")


def allow_push(call: Call, repo: Repo, ref: str) -> None:
    """Refuse unless this caller may push here: writers anywhere, an author to its own pull request."""
    if ref.startswith("refs/pr/"):
        discussions = Discussions(call.hub.store, repo)
        pull = discussions.of_ref(ref)
        call.allow(Action.CONTRIBUTE, repo)
        if pull.author != call.require_user():
            call.allow(Action.WRITE, repo)
        discussions.check_open(pull)
    else:
        call.allow(Action.WRITE, repo)


def preupload(call: Call) -> dict[str, Any]:
    """For each file: LFS or regular, ignored by .gitignore or not, and the id of what is there now."""
    repo = call.repo(Action.CONTRIBUTE)
    commit = call.revision(repo)
    store, limits = call.hub.store, call.hub.limits
    files = store.files(commit.tree_oid)
    text = store.blobs.read(files[attributes.PATH].sha256) if attributes.PATH in files else b""
    lfs = attributes.Attributes(text)
    ignored = _ignored(call, files)
    out = []
    for file in call.field("files", list):
        if not isinstance(file, dict) or not isinstance(file.get("size"), int):
            raise BadRequest("each file needs `path`, `size` and `sample`")
        path = check_path(file.get("path"))
        try:
            base64.b64decode(str(file.get("sample", "")), validate=True)
        except (binascii.Error, ValueError):
            raise BadRequest(f"{path}: the sample is not base64") from None
        large = file["size"] > limits.regular_bytes or (lfs.is_lfs(path) and file["size"] > 0)
        known = files.get(path)
        out.append(
            {
                "path": path,
                "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": any(_is_ignored(path, pattern) for pattern in ignored),
                "oid": known.etag if known else None,
            }
        )
    return {"files": out, "commitOid": commit.oid}


def _ignored(call: Call, files: dict[str, Any]) -> list[str]:
    text = call.field("gitIgnore", default=None)
    if text is None and ".gitignore" in files:
        text = call.hub.store.blobs.read(files[".gitignore"].sha256).decode("utf-8", "replace")
    return [line.strip() for line in (text or "").splitlines() if line.strip() and not line.startswith(("#", "!"))]


def _is_ignored(path: str, pattern: str) -> bool:
    """The common part of .gitignore: a name or pattern, in any folder unless it holds a slash."""
    steps = path.split("/")
    bare = pattern.strip("/")
    if "/" in bare or pattern.startswith("/"):
        return fnmatchcase(path, bare) or fnmatchcase(path, bare + "/*")
    candidates = steps[:-1] if pattern.endswith("/") else steps
    return any(fnmatchcase(step, bare) for step in candidates)


def lfs_batch(call: Call) -> dict[str, Any]:
    """Git LFS's batch API: what to send where; nothing for contents this repo has already."""
    repo = call.repo(Action.CONTRIBUTE)
    if call.field("operation") != "upload":
        raise BadRequest("only uploads are served here: download through /resolve/")
    hub = call.hub
    objects = []
    for item in call.field("objects", list):
        oid, size = (item.get("oid"), item.get("size")) if isinstance(item, dict) else (None, None)
        if not isinstance(oid, str) or not _SHA256.fullmatch(oid) or not isinstance(size, int) or size < 0:
            raise BadRequest("each LFS object needs a sha256 `oid` and a `size`")
        entry: dict[str, Any] = {"oid": oid, "size": size}
        if hub.store.lfs_size(repo, oid) is None:
            entry["actions"] = _actions(call, repo, oid, size, "multipart" in call.field("transfers", list, default=[]))
        objects.append(entry)
    return {"transfer": "basic", "objects": objects, "hash_algo": "sha256"}


def _actions(call: Call, repo: Repo, oid: str, size: int, may_split: bool) -> dict[str, Any]:
    signer: Signer = call.request.app.state.signer
    parts: Parts = call.request.app.state.parts
    limits = call.hub.limits
    claim: dict[str, Any] = {"repo": repo.id, "oid": oid, "size": size}

    def address(verb: str, **more: Any) -> str:
        return f"{call.base_url}/lfs/{verb}/{signer.sign({**claim, 'verb': verb, **more})}"

    verify = {"href": address("verify")}
    if size <= limits.multipart_bytes or not may_split:
        return {"upload": {"href": address("object"), "header": {}}, "verify": verify}
    upload = parts.begin()
    count = -(-size // limits.part_bytes)
    header: dict[str, str] = {"chunk_size": str(limits.part_bytes)}
    header |= {
        str(n + 1): address("part", upload=upload, number=n + 1, offset=n * limits.part_bytes) for n in range(count)
    }
    return {"upload": {"href": address("complete", upload=upload, parts=count), "header": header}, "verify": verify}


def _claim(call: Call, verb: str) -> tuple[dict[str, Any], Repo]:
    claim = call.request.app.state.signer.read(call.param("claim"))
    repo = call.hub.store.repo_by_id(claim["repo"])
    if claim["verb"] != verb or repo is None:
        raise HubError("this upload address is not valid", status=403)
    return claim, repo


async def put_object(call: Call) -> dict[str, Any]:
    """One large file, whole: hashed on its way to the disk, kept only if it is what was announced."""
    claim, repo = await run_in_threadpool(_claim, call, "object")
    with call.hub.store.blobs.writer() as writer:
        async for chunk in _buffers(call, claim["size"]):
            await run_in_threadpool(writer.write, chunk)
        await run_in_threadpool(lambda: writer.keep(sha256=claim["oid"], size=claim["size"]))
    await run_in_threadpool(call.hub.store.link_lfs, repo, claim["oid"], claim["size"])
    return {}


async def put_part(call: Call) -> Any:
    """One part of a large file, written at its place; its etag is its sha256."""
    claim, _ = await run_in_threadpool(_claim, call, "part")
    parts: Parts = call.request.app.state.parts
    if not parts.known(claim["upload"]):
        raise HubError("this upload is over: ask for another", status=404)
    digest = hashlib.sha256()
    most = min(call.hub.limits.part_bytes, claim["size"] - claim["offset"])
    descriptor = os.open(call.hub.store.blobs.part_file(claim["upload"]), os.O_WRONLY | os.O_CREAT, 0o644)
    at = claim["offset"]
    try:
        async for chunk in _buffers(call, most):
            await run_in_threadpool(_write_at, descriptor, chunk, at)
            digest.update(chunk)
            at += len(chunk)
    finally:
        os.close(descriptor)
    if at != claim["offset"] + most:
        raise BadRequest(f"part {claim['number']} has {at - claim['offset']} bytes, not {most}")
    parts.add(claim["upload"], claim["number"], digest.hexdigest())
    return Response(headers={"ETag": f'"{digest.hexdigest()}"'})


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


async def _buffers(call: Call, most: int) -> AsyncIterator[bytes]:
    """The body in buffers of about a mebibyte; refused as soon as it is longer than announced."""
    held: list[bytes] = []
    size = total = 0
    async for chunk in call.request.stream():
        held.append(chunk)
        size += len(chunk)
        total += len(chunk)
        if total > most:
            raise BadRequest(f"size mismatch: more than the {most} bytes announced came")
        if size >= BUFFER_BYTES:
            yield b"".join(held)
            held, size = [], 0
    if size:
        yield b"".join(held)


def complete(call: Call) -> dict[str, Any]:
    """All parts are there: hash the whole, and keep it only if it is what was announced."""
    claim, repo = _claim(call, "complete")
    came = call.request.app.state.parts.take(claim["upload"])
    if came is None:
        raise HubError("this upload is over: ask for another", status=404)
    named = {}
    for part in call.field("parts", list):
        if isinstance(part, dict):
            named[part.get("partNumber")] = str(part.get("etag", "")).strip('"')
    if call.field("oid") != claim["oid"] or named != came or len(came) != claim["parts"]:
        call.hub.store.blobs.part_file(claim["upload"]).unlink(missing_ok=True)
        raise BadRequest(f"{len(came)} of {claim['parts']} parts came, or their etags are not those returned")
    call.hub.store.blobs.finish_parts(claim["upload"], claim["oid"], claim["size"])
    call.hub.store.link_lfs(repo, claim["oid"], claim["size"])
    return {}


def verify(call: Call) -> dict[str, Any]:
    claim, repo = _claim(call, "verify")
    if call.hub.store.lfs_size(repo, claim["oid"]) != claim["size"] or call.field("oid") != claim["oid"]:
        raise HubError("this content was not uploaded", status=404)
    return {}


async def commit(call: Call) -> dict[str, Any]:
    """One commit, to a branch, to a pull request, or (`create_pr=1`) to a new pull request."""
    repo, ref = await run_in_threadpool(_commit_target, call)
    changes = Changes(call.hub.store, repo, regular_bytes=call.hub.limits.regular_bytes)
    async for line in _lines(call, changes.line_bytes):
        await run_in_threadpool(changes.feed, line)
    return await run_in_threadpool(_commit, call, repo, ref, changes)


async def _lines(call: Call, most: int) -> AsyncIterator[bytes]:
    """The body's lines, none longer than a regular file could make it."""
    held: list[bytes] = []
    size = 0
    async for chunk in call.request.stream():
        head, newline, rest = chunk.partition(b"\n")
        while newline:
            yield b"".join((*held, head))
            held, size = [], 0
            head, newline, rest = rest.partition(b"\n")
        held.append(head)
        size += len(head)
        if size > most:
            raise HubError("a line of this commit is longer than the largest regular file could be", status=413)
    yield b"".join(held)


def _commit_target(call: Call) -> tuple[Repo, str]:
    """The repo, and the ref to move; for a new pull request, the branch it aims at."""
    repo, revision = call.repo(), call.param("revision")
    if call.flag("create_pr"):
        call.allow(Action.CONTRIBUTE, repo)
        return repo, target_ref(call.hub.store, repo, revision)[0]
    ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
    if ref not in call.hub.store.refs(repo):
        call.allow(Action.WRITE, repo)
        raise RevisionNotFound(f"Invalid rev id: {revision} (a commit goes to a branch or a pull request)")
    if not ref.startswith(("refs/heads/", "refs/pr/")):
        raise BadRequest(f"a commit goes to a branch or a pull request, not to {ref}")
    allow_push(call, repo, ref)
    return repo, ref


def _commit(call: Call, repo: Repo, ref: str, changes: Changes) -> dict[str, Any]:
    if not changes.summary.strip():
        raise BadRequest("a commit needs a summary")
    store, user, create_pr = call.hub.store, call.require_user(), call.flag("create_pr")
    discussions = Discussions(store, repo)
    with store.write():
        head = target_ref(store, repo, call.param("revision"))[1] if create_pr else store.head(repo, ref)
        if changes.parent_commit and not head.startswith(changes.parent_commit):
            raise StaleParent(f"A commit has happened since. Please refresh and try again. (head is {head})")
        before = store.files(store.commit(repo, head).tree_oid)
        after = changes.apply(before)
        if after == before:
            if create_pr:
                raise BadRequest("this pull request would change nothing")
            return {"success": True, "commitOid": head, "commitUrl": describe.commit_url(call.base_url, repo, head)}
        pull: Discussion | None = None
        target, title, text = ref, changes.summary, changes.description
        if create_pr:
            pull = discussions.create(title=title[:500], author=user, text=text or title, base=(ref, head))
            target = pull.ref
            call.announce(repo, "create", "discussion", discussion=discussion_json(call.base_url, repo, pull))
        elif ref.startswith("refs/pr/"):
            pull = discussions.of_ref(ref)
            discussions.check_open(pull)
        new = store.add_commit(
            repo, target, after, title=title, message=text, author=user, parent=head, expect=head
        )
        if pull is not None:
            discussions.add_event(pull.num, "commit", user, {"subject": title, "oid": new.oid})
        updated = [{"ref": target, "oldSha": None if create_pr else head, "newSha": new.oid}]
        call.announce(repo, "update", "repo.content", updatedRefs=updated)
    return _committed(call, repo, new, pull if create_pr else None)


def _committed(call: Call, repo: Repo, new: Commit, pull: Discussion | None) -> dict[str, Any]:
    out: dict[str, Any] = {
        "success": True,
        "commitOid": new.oid,
        "commitUrl": describe.commit_url(call.base_url, repo, new.oid),
        "hookOutput": "",
    }
    if pull is not None:
        out["pullRequestUrl"] = describe.discussion_url(call.base_url, repo, pull.num)
    return out


def no_xet(call: Call) -> Any:
    """This Hub has no Xet storage; saying so plainly beats a token that leads nowhere."""
    call.repo()
    raise HubError("this embedded Hub has no Xet storage: set HF_HUB_DISABLE_XET=1", status=404)


_REPO = "/api/{types}/{namespace}/{name}"
ROUTES = [
    route("POST", _REPO + "/preupload/{revision}", preupload, "json"),
    route("POST", _REPO + "/commit/{revision}", commit, "stream"),
    route("GET", _REPO + "/xet-write-token/{revision}", no_xet),
    route("GET", _REPO + "/xet-read-token/{revision}", no_xet),
    route("POST", "/{types}/{namespace}/{name}.git/info/lfs/objects/batch", lfs_batch, "json"),
    route("POST", "/{namespace}/{name}.git/info/lfs/objects/batch", lfs_batch, "json"),
    route("PUT", "/lfs/object/{claim}", put_object, "stream"),
    route("PUT", "/lfs/part/{claim}", put_part, "stream"),
    route("POST", "/lfs/complete/{claim}", complete, "json"),
    route("POST", "/lfs/verify/{claim}", verify, "json"),
]
