"""Discussions and their events as JSON, for the API and for webhooks (`community.py` in
`huggingface_hub`)."""

from __future__ import annotations

from typing import Any

from bot.localhub import cards, describe
from bot.localhub.discussions import Discussion, Discussions, Event
from bot.localhub.repos import Repo


def summary(repo: Repo, found: Discussion, comments: int) -> dict[str, Any]:
    """One line of a repo's list of discussions."""
    return {
        "num": found.num,
        "title": found.title,
        "status": found.status,
        "isPullRequest": found.is_pull_request,
        "author": describe.author(found.author),
        "createdAt": found.created_at,
        "repo": {"name": repo.full_name, "type": repo.type, "id": repo.id},
        "repoOwner": {"name": repo.namespace},
        "numComments": comments,
        "pinned": False,
        "topReactions": [],
        "numReactionUsers": 0,
    }


def details(discussions: Discussions, found: Discussion, *, diff: bool) -> dict[str, Any]:
    """One discussion with its events; for a pull request its changes, conflicts and diff too."""
    events = discussions.events(found.num)
    out = summary(discussions.repo, found, sum(event.type == "comment" for event in events))
    out |= {"events": [event_json(event) for event in events], "locked": False}
    if found.is_pull_request:
        out["changes"] = _changes(found)
        out["filesWithConflicts"] = discussions.conflicts(found) if found.is_open else []
        if diff:
            out["diff"] = discussions.diff(found)
    return out


def _changes(found: Discussion) -> dict[str, Any]:
    changes: dict[str, Any] = {"base": found.base_ref}
    if found.merge_oid:
        changes["mergeCommitId"] = found.merge_oid
    return changes


def event_json(event: Event) -> dict[str, Any]:
    out = {
        "id": event.id,
        "type": event.type,
        "createdAt": event.created_at,
        "author": describe.author(event.author),
        "data": event.data,
    }
    if event.type == "comment":
        history = [_version(version) for version in event.data["history"]]
        out["data"] = {
            **event.data,
            "latest": _version(event.data["latest"]),
            "history": history,
            "numEdits": len(history),
            "reactions": [],
        }
    return out


def _version(version: dict[str, Any]) -> dict[str, Any]:
    html = cards.render(version["raw"])
    return {**version, "html": html, "author": describe.author(version["author"])}


def discussion_json(base_url: str, repo: Repo, found: Discussion) -> dict[str, Any]:
    """A discussion as a webhook's payload carries it."""
    address = describe.discussion_url(base_url, repo, found.num)
    out: dict[str, Any] = {
        "id": f"{repo.id}{found.num:08x}",
        "num": found.num,
        "title": found.title,
        "status": found.status,
        "isPullRequest": found.is_pull_request,
        "author": {"id": found.author},
        "url": {
            "web": address,
            "api": f"{base_url}/api/{repo.type}s/{repo.full_name}/discussions/{found.num}",
        },
        "pinned": False,
    }
    if found.is_pull_request:
        out["changes"] = _changes(found)
    return out


def comment_json(base_url: str, repo: Repo, num: int, event: Event) -> dict[str, Any]:
    """A comment as a webhook's payload carries it."""
    address = f"{describe.discussion_url(base_url, repo, num)}#{event.id}"
    return {
        "id": event.id,
        "author": {"id": event.author},
        "hidden": event.data["hidden"],
        "content": event.data["latest"]["raw"],
        "url": {"web": address},
    }
