"""Repos as wholes: create, delete, move, settings; one described, many listed."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from bot.localhub import attributes, describe
from bot.localhub.accounts import Action
from bot.localhub.changes import put_regular
from bot.localhub.describe import Description
from bot.localhub.errors import BadRequest, Conflict, Forbidden, HubError
from bot.localhub.http import Call, route
from bot.localhub.repos import Repo
from bot.localhub.routes_files import check_gate
from bot.localhub.store import MAIN

PAGE = 1000


def _named(call: Call) -> tuple[str, str, str]:
    """Type, namespace and name as `create` and `delete` send them; the namespace defaults to the caller's."""
    user = call.require_user()
    repo_type = call.field("type", default="model")
    name = call.field("name")
    namespace = call.field("organization", default="")
    if "/" in name and not namespace:
        namespace, _, name = name.partition("/")
    return repo_type, namespace or user, name


def _private(call: Call, default: bool | None) -> bool | None:
    visibility: str | None = call.field("visibility", default=None)
    if visibility is None:
        private: bool | None = call.field("private", bool, default=default)
        return private
    if visibility not in ("public", "private"):
        raise BadRequest(f"visibility must be 'public' or 'private', not {visibility[:40]!r}")
    return visibility == "private"


def create(call: Call) -> dict[str, Any]:
    """A new repo with its first commit; 409 with the address when it exists."""
    repo_type, namespace, name = _named(call)
    user = call.require_user()
    if not call.caller.may(Action.CREATE, namespace, name, private=True):
        raise Forbidden(
            f"You don't have the rights to create a {repo_type} under the namespace {namespace!r}"
        )
    hub = call.hub
    try:
        with hub.store.write():
            repo = hub.store.repos.create(
                repo_type,
                namespace,
                name,
                private=bool(_private(call, False)),
                user=user,
                sdk=call.field("sdk", default=""),
            )
            entry = put_regular(hub.store, attributes.PATH, attributes.initial(repo_type))
            commit = hub.store.add_commit(
                repo, MAIN, {entry.path: entry}, title="initial commit", author=user, parent=None
            )
            call.announce(repo, "create", "repo")
            updated = [{"ref": MAIN, "oldSha": None, "newSha": commit.oid}]
            call.announce(repo, "update", "repo.content", updatedRefs=updated)
    except Conflict as error:
        found = hub.store.repos.find(repo_type, namespace, name)
        error.extra["url"] = describe.repo_url(call.base_url, found)
        raise
    return {"url": describe.repo_url(call.base_url, repo), "name": repo.full_name, "id": repo.id}


def delete(call: Call) -> dict[str, Any]:
    repo_type, namespace, name = _named(call)
    repo = call.allow(Action.ADMIN, call.hub.store.repos.find(repo_type, namespace, name))
    with call.hub.store.write():
        call.announce(repo, "delete", "repo")
        call.hub.store.repos.delete(repo)
    return {}


def move(call: Call) -> dict[str, Any]:
    """Rename or transfer; the old name keeps leading to the repo until somebody takes it."""
    call.require_user()
    repo_type = call.field("type", default="model")
    (old_namespace, _, old_name), (namespace, _, name) = (
        call.field(k).partition("/") for k in ("fromRepo", "toRepo")
    )
    repo = call.allow(Action.ADMIN, call.hub.store.repos.find(repo_type, old_namespace, old_name))
    call.allow_in(Action.CREATE, namespace)
    with call.hub.store.write():
        moved = call.hub.store.repos.move(repo, namespace, name)
        call.announce(
            repo, "move", "repo", movedTo={"name": moved.full_name, "owner": {"id": moved.namespace}}
        )
    return {"url": describe.repo_url(call.base_url, moved)}


def settings(call: Call) -> dict[str, Any]:
    repo = call.repo(Action.WRITE)
    private = _private(call, None)
    gated = call.field("gated", (str, bool), default=None)
    if gated not in (None, "auto", "manual", False):
        raise BadRequest("gated must be 'auto', 'manual' or false")
    with call.hub.store.write():
        call.hub.store.repos.set_settings(repo, private=private, gated=None if gated is None else gated or "")
        after = call.hub.store.repos.find(repo.type, repo.namespace, repo.name)
        if after.private != repo.private:
            # Told as the public sees it, so that going private reaches those who could see it until now.
            call.announce(after, "update", "repo.config", updatedConfig={"private": after.private})
    return {"private": after.private, "gated": after.gated or False}


def info(call: Call) -> dict[str, Any]:
    repo = call.repo()
    described = Description(call.hub, repo, call.revision(repo), blobs=call.flag("blobs"))
    if expand := call.many("expand"):
        return described.fields(_known(expand))
    out = described.fields(
        describe.INFO_FIELDS if repo.type == "model" else (*describe.INFO_FIELDS, "description")
    )
    if repo.type == "space":
        out |= {
            "sdk": repo.sdk,
            "subdomain": repo.full_name.replace("/", "-").lower(),
            "host": "",
            "models": [],
        }
    if call.flag("securityStatus"):
        out["securityRepoStatus"] = {"scansDone": False, "filesWithIssues": []}
    return out


def _known(expand: list[str]) -> list[str]:
    return [name for name in expand if name not in ("id", "_id")]


def index(call: Call) -> Any:
    """`list_models` and its siblings: filtered, sorted, a page at a time."""
    repo_type = call.repo_type()
    author, search = call.query("author").lower(), [text.lower() for text in call.many("search")]
    wanted, gated, pipeline = set(call.many("filter")), call.query("gated"), call.query("pipeline_tag")
    found: list[Repo] = []
    for repo in call.hub.store.repos.all(repo_type):
        if (author and repo.namespace.lower() != author) or not call.may(Action.READ, repo):
            continue
        if any(text not in repo.full_name.lower() for text in search):
            continue
        if gated and bool(repo.gated) != (gated.lower() == "true"):
            continue
        if wanted or pipeline:
            described = _described(call, repo)
            if not wanted <= set(described.tags) or (
                pipeline and described.card.get("pipeline_tag") != pipeline
            ):
                continue
        found.append(repo)
    found.sort(key=_order(call.query("sort")), reverse=call.query("direction", "-1") == "-1")
    part, headers = call.page(found, call.number("limit", PAGE, most=PAGE) or PAGE)
    fields = _list_fields(call)
    body = [_described(call, repo).fields(fields) for repo in part]
    return JSONResponse(body, headers=headers)


def _described(call: Call, repo: Repo) -> Description:
    return Description(call.hub, repo, describe.head_commit(call.hub, repo), blobs=call.flag("blobs"))


def _list_fields(call: Call) -> list[str]:
    if expand := call.many("expand"):
        return _known(expand)
    fields = list(describe.FULL_FIELDS if call.flag("full") else describe.LIST_FIELDS)
    if call.flag("cardData"):
        fields.append("cardData")
    if call.flag("config"):
        fields.append("config")
    return fields


def _order(sort: str) -> Any:
    if sort == "createdAt":
        return lambda repo: (repo.created_at, repo.full_name)
    if sort in ("", "lastModified", "trendingScore", "downloads", "likes"):
        return lambda repo: (repo.modified_at, repo.full_name)
    raise BadRequest(f"unknown sort: {sort[:40]!r}")


def auth_check(call: Call) -> dict[str, Any]:
    """Whether the caller may read (or write) the repo's files: a gate that keeps them closed answers 403."""
    repo = call.repo(Action.WRITE if call.request.url.path.endswith("/write") else Action.READ)
    check_gate(call, repo)
    return {}


def grant(call: Call) -> dict[str, Any]:
    """Let a user into a gated repo."""
    repo, user = call.repo(Action.WRITE), call.field("user")
    if user not in call.hub.accounts.users:
        raise HubError("User not found", status=404)
    call.hub.store.repos.grant(repo, user)
    return {}


def accepted(call: Call) -> list[dict[str, Any]]:
    repo = call.repo(Action.WRITE)
    users = call.hub.accounts.users
    return [
        {
            "requestId": f"{repo.id}-{u}",
            "user": {"_id": u, "user": u, "fullname": users[u].fullname, "email": None},
            "timestamp": at,
            "status": "accepted",
        }
        for u, at in call.hub.store.repos.granted(repo).items()
        if u in users
    ]


_REPO = "/api/{types:plural}/{namespace}/{name}"
ROUTES = [
    route("POST", "/api/repos/create", create, "json"),
    route("DELETE", "/api/repos/delete", delete, "json"),
    route("POST", "/api/repos/move", move, "json"),
    route("PUT", _REPO + "/settings", settings, "json"),
    route("GET", _REPO + "/auth-check", auth_check),
    route("GET", _REPO + "/auth-check/write", auth_check),
    route("POST", _REPO + "/user-access-request/grant", grant, "json"),
    route("GET", _REPO + "/user-access-request/accepted", accepted),
    route("GET", _REPO + "/revision/{revision}", info),
    route("GET", _REPO, info),
    route("GET", "/api/{types:plural}", index),
]
