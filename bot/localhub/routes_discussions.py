"""Discussions and pull requests over HTTP: list, open, comment, rename, close, merge."""

from __future__ import annotations

from typing import Any

from bot.localhub.accounts import Action
from bot.localhub.discussions import Discussion, Discussions, target_ref
from bot.localhub.errors import BadRequest, HubError
from bot.localhub.events import comment_json, details, discussion_json, event_json, summary
from bot.localhub.http import Call, route
from bot.localhub.repos import Repo

PAGE = 50


def _of(call: Call, action: Action) -> tuple[Repo, Discussions]:
    repo = call.repo(action)
    return repo, Discussions(call.hub.store, repo)


def _num(call: Call) -> int:
    text = call.param("num")
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise HubError("Discussion not found", status=404)
    return int(text)


def index(call: Call) -> dict[str, Any]:
    repo, discussions = _of(call, Action.READ)
    everything = discussions.all()
    kind, status, author = call.query("type", "all"), call.query("status", "all"), call.query("author")
    kinds = {"all": (True, False), "pull_request": (True,), "discussion": (False,)}
    if kind not in kinds or status not in ("all", "open", "closed"):
        raise BadRequest("type is all, pull_request or discussion; status is all, open or closed")
    found = [
        d
        for d in everything
        if d.is_pull_request in kinds[kind]
        and (status == "all" or d.is_open == (status == "open"))
        and (not author or d.author == author)
    ]
    start = call.number("p", 0, most=1_000_000) * PAGE
    page = found[start : start + PAGE]
    return {
        "discussions": [summary(repo, d, _comments(discussions, d)) for d in page],
        "count": len(found),
        "start": start,
        "numClosedDiscussions": sum(not d.is_open for d in everything),
    }


def _comments(discussions: Discussions, found: Discussion) -> int:
    return sum(event.type == "comment" for event in discussions.events(found.num))


def create(call: Call) -> dict[str, Any]:
    """A discussion, or an empty pull request: a draft until it is given changes and opened."""
    repo, discussions = _of(call, Action.CONTRIBUTE)
    user = call.require_user()
    is_pull_request = call.field("pullRequest", bool, default=False)
    with call.hub.store.write():
        base = target_ref(call.hub.store, repo, "main") if is_pull_request else None
        found = discussions.create(
            title=call.field("title"),
            author=user,
            text=call.field("description"),
            base=base,
            status="draft" if is_pull_request else "open",
        )
        _announce(call, repo, "create", "discussion", found)
        if base is not None:
            updated = [{"ref": found.ref, "oldSha": None, "newSha": base[1]}]
            call.announce(repo, "update", "repo.content", updatedRefs=updated)
    return {
        "num": found.num,
        "pullRequest": is_pull_request,
        "url": discussion_json(call.base_url, repo, found)["url"]["web"],
    }


def show(call: Call) -> dict[str, Any]:
    _, discussions = _of(call, Action.READ)
    return details(discussions, discussions.get(_num(call)), diff=call.flag("diff"))


def comment(call: Call) -> dict[str, Any]:
    repo, discussions = _of(call, Action.CONTRIBUTE)
    found = discussions.get(_num(call))
    with call.hub.store.write():
        event = discussions.add_comment(found.num, call.require_user(), call.field("comment"))
        _announce_comment(call, repo, "create", found, event)
    return {"newMessage": event_json(event)}


def edit_comment(call: Call) -> dict[str, Any]:
    """Change or hide a comment: its author may, and those who may write to the repo."""
    repo, discussions = _of(call, Action.CONTRIBUTE)
    num, event_id, user = _num(call), call.param("event"), call.require_user()
    mine = any(e.id == event_id and e.author == user for e in discussions.events(num))
    if not mine:
        call.allow(Action.WRITE, repo)
    hide = call.request.url.path.endswith("/hide")
    with call.hub.store.write():
        event = discussions.edit_comment(num, event_id, user, None if hide else call.field("content"))
        _announce_comment(call, repo, "update", discussions.get(num), event)
    return {"updatedComment": event_json(event)}


def rename(call: Call) -> dict[str, Any]:
    repo, discussions, num = _steward(call)
    with call.hub.store.write():
        event = discussions.rename(num, call.require_user(), call.field("title"))
        _announce(call, repo, "update", "discussion", discussions.get(num))
    return {"newTitle": event_json(event)}


def status(call: Call) -> dict[str, Any]:
    """Close or reopen; the only way a pull request is refused."""
    repo, discussions, num = _steward(call)
    user, said = call.require_user(), call.field("comment", default="")
    with call.hub.store.write():
        if said.strip():
            discussions.add_comment(num, user, said)
        event = discussions.set_status(num, user, call.field("status"))
        _announce(call, repo, "update", "discussion", discussions.get(num))
    return {"newStatus": event_json(event)}


def _steward(call: Call) -> tuple[Repo, Discussions, int]:
    """Those who may rename and close: the author, and those who may write to the repo."""
    repo, discussions = _of(call, Action.CONTRIBUTE)
    num = _num(call)
    if discussions.get(num).author != call.require_user():
        call.allow(Action.WRITE, repo)
    return repo, discussions, num


def merge(call: Call) -> dict[str, Any]:
    repo, discussions = _of(call, Action.WRITE)
    num, user, said = _num(call), call.require_user(), call.field("comment", default="")
    with call.hub.store.write():
        commit, event = discussions.merge(num, user)
        if said.strip():
            discussions.add_comment(num, user, said)
        found = discussions.get(num)
        _announce(call, repo, "update", "discussion", found)
        updated = [{"ref": found.base_ref, "oldSha": commit.parent, "newSha": commit.oid}]
        call.announce(repo, "update", "repo.content", updatedRefs=updated)
    return {"newStatus": event_json(event), "mergeCommitId": commit.oid}


def _announce(call: Call, repo: Repo, action: str, scope: str, found: Discussion) -> None:
    call.announce(repo, action, scope, discussion=discussion_json(call.base_url, repo, found))


def _announce_comment(call: Call, repo: Repo, action: str, found: Discussion, event: Any) -> None:
    call.announce(
        repo,
        action,
        "discussion.comment",
        discussion=discussion_json(call.base_url, repo, found),
        comment=comment_json(call.base_url, repo, found.num, event),
    )


_BASE = "/api/{types:plural}/{namespace}/{name}/discussions"
ROUTES = [
    route("GET", _BASE, index),
    route("POST", _BASE, create, "json"),
    route("GET", _BASE + "/{num}", show),
    route("POST", _BASE + "/{num}/comment", comment, "json"),
    route("POST", _BASE + "/{num}/comment/{event}/edit", edit_comment, "json"),
    route("POST", _BASE + "/{num}/comment/{event}/hide", edit_comment, "json"),
    route("POST", _BASE + "/{num}/title", rename, "json"),
    route("POST", _BASE + "/{num}/status", status, "json"),
    route("POST", _BASE + "/{num}/merge", merge, "json"),
]
