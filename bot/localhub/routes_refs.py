"""History and names: commits, branches, tags, and all refs at once."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from bot.localhub import describe
from bot.localhub.accounts import Action
from bot.localhub.errors import RevisionNotFound
from bot.localhub.http import Call, route
from bot.localhub.objects import lfs_pointer
from bot.localhub.store import MAIN

PAGE = 50


def refs(call: Call) -> dict[str, Any]:
    repo = call.repo()
    out: dict[str, list[dict[str, str]]] = {"branches": [], "converts": [], "tags": []}
    if call.flag("include_prs"):
        out["pullRequests"] = []
    kinds = {"refs/heads/": "branches", "refs/tags/": "tags", "refs/pr/": "pullRequests"}
    for ref, oid in call.hub.store.refs(repo).items():
        for prefix, kind in kinds.items():
            if ref.startswith(prefix) and kind in out:
                out[kind].append({"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": oid})
    return out


def commits(call: Call) -> Response:
    repo = call.repo()
    history = list(call.hub.store.history(repo, call.revision(repo).oid))
    part, headers = call.page(history, call.number("limit", PAGE, most=1000) or PAGE)
    formatted = "formatted" in call.many("expand")
    body = [describe.commit_json(commit, formatted=formatted) for commit in part]
    return JSONResponse(body, headers={**headers, "X-Total-Count": str(len(history))})


def create_branch(call: Call) -> dict[str, Any]:
    """A branch at `startingPoint`, by default at main."""
    repo, store = call.repo(Action.WRITE), call.hub.store
    name = call.param("revision")
    with store.write():
        commit = store.resolve(repo, call.field("startingPoint", default="main"))
        ref = store.new_ref(repo, "heads", name, commit.oid)
        _announce(call, repo, ref, None, commit.oid)
    return {}


def delete_branch(call: Call) -> dict[str, Any]:
    return _delete(call, "refs/heads/" + call.param("revision"))


def create_tag(call: Call) -> dict[str, Any]:
    """A tag on the revision in the path; 409 when the name is taken: a tag never moves by itself."""
    repo, store = call.repo(Action.WRITE), call.hub.store
    commit = call.revision(repo)
    with store.write():
        ref = store.new_ref(repo, "tags", call.field("tag"), commit.oid, call.field("message", default=""))
        _announce(call, repo, ref, None, commit.oid)
    return {}


def delete_tag(call: Call) -> dict[str, Any]:
    return _delete(call, "refs/tags/" + call.param("revision"))


def _delete(call: Call, ref: str) -> dict[str, Any]:
    repo, store = call.repo(Action.WRITE), call.hub.store
    with store.write():
        old = store.refs(repo).get(ref)
        if old is None:
            raise RevisionNotFound(f"Invalid rev id: {ref}")
        store.delete_ref(repo, ref)
        _announce(call, repo, ref, old, None)
    return {}


def super_squash(call: Call) -> dict[str, Any]:
    """A branch's whole history as one commit."""
    repo, store = call.repo(Action.WRITE), call.hub.store
    ref = "refs/heads/" + call.param("revision")
    with store.write():
        old = store.head(repo, ref)
        title, _, message = call.field("message", default="Super-squash branch").partition("\n")
        commit = store.add_commit(
            repo,
            ref,
            store.files(store.commit(repo, old).tree_oid),
            title=title,
            message=message.strip(),
            author=call.require_user(),
            parent=None,
            expect=old,
        )
        _announce(call, repo, ref, old, commit.oid)
    return {}


def lfs_files(call: Call) -> Response:
    """Large files that were ever uploaded, with a path that has them on main."""
    repo, store = call.repo(Action.WRITE), call.hub.store
    head = store.refs(repo).get(MAIN)
    files = store.files(store.commit(repo, head).tree_oid).values() if head else ()
    names = {entry.sha256: entry.path for entry in files if entry.lfs}
    body = [
        {
            "fileOid": row["sha256"],
            "oid": row["sha256"],
            "filename": names.get(row["sha256"], ""),
            "pushedAt": row["pushed_at"],
            "ref": MAIN if row["sha256"] in names else None,
            "size": row["size"],
            "pointerSize": len(lfs_pointer(row["sha256"], row["size"])),
        }
        for row in store.lfs_objects(repo)
    ]
    part, headers = call.page(body, 1000)
    return JSONResponse(part, headers=headers)


def _announce(call: Call, repo: Any, ref: str, old: str | None, new: str | None) -> None:
    updated = [{"ref": ref, "oldSha": old, "newSha": new}]
    call.announce(repo, "update", "repo.content", updatedRefs=updated)


_REPO = "/api/{types:plural}/{namespace}/{name}"
ROUTES = [
    route("GET", _REPO + "/refs", refs),
    route("GET", _REPO + "/commits/{revision}", commits),
    route("POST", _REPO + "/branch/{revision}", create_branch, "json"),
    route("DELETE", _REPO + "/branch/{revision}", delete_branch),
    route("POST", _REPO + "/tag/{revision}", create_tag, "json"),
    route("DELETE", _REPO + "/tag/{revision}", delete_tag),
    route("POST", _REPO + "/super-squash/{revision}", super_squash, "json"),
    route("GET", _REPO + "/lfs-files", lfs_files),
]
