"""Commits: which way each file is to travel, and the one request that names them all.

The order is the client's: `preupload` sorts files into regular and LFS; large contents are sent first
(`routes_lfs.py`); only then does one commit name everything, or nothing.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator
from fnmatch import fnmatchcase
from typing import Any

from starlette.concurrency import run_in_threadpool

from bot.localhub import attributes, describe
from bot.localhub.accounts import Action
from bot.localhub.changes import Changes
from bot.localhub.discussions import Discussion, Discussions, target_ref
from bot.localhub.errors import BadRequest, HubError, RevisionNotFound, StaleParent
from bot.localhub.events import discussion_json
from bot.localhub.http import Call, route
from bot.localhub.objects import check_path
from bot.localhub.repos import Repo
from bot.localhub.store import Commit


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
    return [
        line.strip() for line in (text or "").splitlines() if line.strip() and not line.startswith(("#", "!"))
    ]


def _is_ignored(path: str, pattern: str) -> bool:
    """The common part of .gitignore: a name or pattern, in any folder unless it holds a slash."""
    steps = path.split("/")
    bare = pattern.strip("/")
    if "/" in bare or pattern.startswith("/"):
        return fnmatchcase(path, bare) or fnmatchcase(path, bare + "/*")
    candidates = steps[:-1] if pattern.endswith("/") else steps
    return any(fnmatchcase(step, bare) for step in candidates)


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
            raise HubError(
                "a line of this commit is longer than the largest regular file could be", status=413
            )
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
            return {
                "success": True,
                "commitOid": head,
                "commitUrl": describe.commit_url(call.base_url, repo, head),
            }
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


_REPO = "/api/{types:plural}/{namespace}/{name}"
ROUTES = [
    route("POST", _REPO + "/preupload/{revision}", preupload, "json"),
    route("POST", _REPO + "/commit/{revision}", commit, "stream"),
]
