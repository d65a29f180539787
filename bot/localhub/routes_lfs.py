"""Large files: what is still to be sent, and the bytes themselves, whole or in parts.

Contents stream from the socket to the disk, hashed on their way; no request holds more than one buffer of a
large file, and what does not have the announced sha256 is not kept. The addresses handed out are signed
(`uploads.py`).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import AsyncIterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from bot.localhub.accounts import Action
from bot.localhub.blobs import BUFFER_BYTES
from bot.localhub.errors import BadRequest, HubError
from bot.localhub.http import Call, route
from bot.localhub.repos import Repo
from bot.localhub.uploads import Parts, Signer

_SHA256 = re.compile(r"[0-9a-f]{64}")


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
            entry["actions"] = _actions(
                call, repo, oid, size, "multipart" in call.field("transfers", list, default=[])
            )
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
        str(n + 1): address("part", upload=upload, number=n + 1, offset=n * limits.part_bytes)
        for n in range(count)
    }
    return {
        "upload": {"href": address("complete", upload=upload, parts=count), "header": header},
        "verify": verify,
    }


def _claim(call: Call, verb: str) -> tuple[dict[str, Any], Repo]:
    claim = call.request.app.state.signer.read(call.param("claim"))
    repo = call.hub.store.repos.by_id(claim["repo"])
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


def no_xet(call: Call) -> Any:
    """This Hub has no Xet storage; saying so plainly beats a token that leads nowhere."""
    call.repo()
    raise HubError("this embedded Hub has no Xet storage: set HF_HUB_DISABLE_XET=1", status=404)


_REPO = "/api/{types:plural}/{namespace}/{name}"
ROUTES = [
    route("POST", "/{types:plural}/{namespace}/{name}.git/info/lfs/objects/batch", lfs_batch, "json"),
    route("POST", "/{namespace}/{name}.git/info/lfs/objects/batch", lfs_batch, "json"),
    route("PUT", "/lfs/object/{claim}", put_object, "stream"),
    route("PUT", "/lfs/part/{claim}", put_part, "stream"),
    route("POST", "/lfs/complete/{claim}", complete, "json"),
    route("POST", "/lfs/verify/{claim}", verify, "json"),
    route("GET", _REPO + "/xet-write-token/{revision}", no_xet),
    route("GET", _REPO + "/xet-read-token/{revision}", no_xet),
]
