"""Discussions and pull requests.

A pull request is a discussion with a ref of its own, `refs/pr/N`, that starts at a commit of its target
branch. Merging is three-way by whole files: what the pull request changed since that base is put on top of
the target branch as *one* new commit (the real Hub squashes too), and refused when the branch has since
changed one of the same files to something else. `.gitattributes` alone is merged line by line, since the Hub
itself edits it (`attributes.py`)."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from bot.localhub import attributes, diffs
from bot.localhub.changes import put_regular
from bot.localhub.errors import BadRequest, Conflict, Forbidden, HubError
from bot.localhub.objects import Entry
from bot.localhub.repos import Repo, new_id, now
from bot.localhub.store import MAIN, Commit, Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Discussion:
    num: int
    title: str
    status: str
    is_pull_request: bool
    author: str
    created_at: str
    base_ref: str | None
    base_oid: str | None
    merge_oid: str | None

    @property
    def ref(self) -> str:
        return f"refs/pr/{self.num}"

    @property
    def is_open(self) -> bool:
        return self.status in ("open", "draft")


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    id: str
    type: str
    author: str
    created_at: str
    data: dict[str, Any]


class Discussions:
    """The discussions of one repo."""

    def __init__(self, store: Store, repo: Repo):
        self.store = store
        self.repo = repo

    def create(
        self, *, title: str, author: str, text: str, base: tuple[str, str] | None = None, status: str = "open"
    ) -> Discussion:
        """A new discussion; with `base`, a (ref, commit id), a pull request that starts there."""
        title = title.strip()
        if not title or len(title) > 500:
            raise BadRequest("a discussion needs a title of at most 500 characters")
        with self.store.write() as db:
            sql = "SELECT coalesce(max(num), 0) + 1 FROM discussions WHERE repo_id = ?"
            num = db.execute(sql, (self.repo.id,)).fetchone()[0]
            ref, oid = base or (None, None)
            row = (self.repo.id, num, title, status, base is not None, author, now(), ref, oid, None)
            db.execute("INSERT INTO discussions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            if base is not None:
                self.store.set_ref(self.repo, f"refs/pr/{num}", base[1])
            self.add_comment(num, author, text)
        return self.get(num)

    def get(self, num: int) -> Discussion:
        with self.store.read() as db:
            sql = "SELECT * FROM discussions WHERE repo_id = ? AND num = ?"
            row = db.execute(sql, (self.repo.id, num)).fetchone()
        if row is None:
            raise HubError("Discussion not found", status=404)
        return _discussion(row)

    def all(self) -> list[Discussion]:
        """Newest first."""
        with self.store.read() as db:
            sql = "SELECT * FROM discussions WHERE repo_id = ? ORDER BY num DESC"
            return [_discussion(row) for row in db.execute(sql, (self.repo.id,))]

    def of_ref(self, ref: str) -> Discussion:
        """The pull request behind `refs/pr/N`."""
        tail = ref.removeprefix("refs/pr/")
        if not tail.isdigit():
            raise BadRequest(f"not a pull request's ref: {ref!r}")
        return self.get(int(tail))

    # Events

    def events(self, num: int) -> list[Event]:
        with self.store.read() as db:
            sql = "SELECT * FROM events WHERE repo_id = ? AND num = ? ORDER BY position"
            return [_event(row) for row in db.execute(sql, (self.repo.id, num))]

    def add_event(self, num: int, kind: str, author: str, data: dict[str, Any]) -> Event:
        event = Event(id=new_id(), type=kind, author=author, created_at=now(), data=data)
        with self.store.write() as db:
            sql = "SELECT coalesce(max(position), 0) + 1 FROM events WHERE repo_id = ? AND num = ?"
            position = db.execute(sql, (self.repo.id, num)).fetchone()[0]
            row = (event.id, self.repo.id, num, position, kind, author, event.created_at, json.dumps(data))
            db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        return event

    def add_comment(self, num: int, author: str, text: str) -> Event:
        if not text.strip() or len(text) > 65_536:
            raise BadRequest("a comment needs a text of at most 65536 characters")
        latest = {"raw": text, "updatedAt": now(), "author": author}
        data = {"edited": False, "hidden": False, "latest": latest, "history": []}
        return self.add_event(num, "comment", author, data)

    def edit_comment(self, num: int, event_id: str, author: str, text: str | None) -> Event:
        """Another text for a comment, or none: hidden for good."""
        for event in self.events(num):
            if event.id == event_id and event.type == "comment":
                break
        else:
            raise HubError("Comment not found", status=404)
        data = event.data
        data["history"] = [*data["history"], data["latest"]] if text is not None else []
        data["latest"] = {"raw": text or "", "updatedAt": now(), "author": author}
        data["edited"], data["hidden"] = True, data["hidden"] or text is None
        with self.store.write() as db:
            db.execute("UPDATE events SET data = ? WHERE id = ?", (json.dumps(data), event_id))
        return event

    def rename(self, num: int, author: str, title: str) -> Event:
        old = self.get(num).title
        title = title.strip()
        if not title or len(title) > 500:
            raise BadRequest("a discussion needs a title of at most 500 characters")
        with self.store.write() as db:
            db.execute(
                "UPDATE discussions SET title = ? WHERE repo_id = ? AND num = ?", (title, self.repo.id, num)
            )
            return self.add_event(num, "title-change", author, {"from": old, "to": title})

    def set_status(self, num: int, author: str, status: str) -> Event:
        found = self.get(num)
        if found.status == "merged":
            raise BadRequest("This pull request is merged: its status cannot change any more")
        if status not in ("open", "closed"):
            raise BadRequest("valid statuses are 'open' and 'closed'")
        with self.store.write() as db:
            db.execute(
                "UPDATE discussions SET status = ? WHERE repo_id = ? AND num = ?", (status, self.repo.id, num)
            )
            return self.add_event(num, "status-change", author, {"status": status})

    # Pull requests

    def check_open(self, pull: Discussion) -> None:
        if not pull.is_open:
            raise Forbidden(f"Pull request {pull.num} is {pull.status}: nothing can be pushed to it")

    def sides(
        self, pull: Discussion
    ) -> tuple[dict[str, Entry], dict[str, Entry], dict[str, Entry], str, str]:
        """Files of base, target and pull request, and the heads of the last two."""
        assert pull.base_oid
        assert pull.base_ref
        head, target = self.store.head(self.repo, pull.ref), self.store.head(self.repo, pull.base_ref)
        trees = [
            self.store.files(self.store.commit(self.repo, oid).tree_oid)
            for oid in (pull.base_oid, target, head)
        ]
        return trees[0], trees[1], trees[2], target, head

    def diff(self, pull: Discussion) -> str:
        base, _, head, _, _ = self.sides(pull)
        return diffs.unified(self.store.blobs, base, head)

    def conflicts(self, pull: Discussion) -> list[str]:
        """Files changed on both sides, to different ends."""
        base, target, head, _, _ = self.sides(pull)
        return _conflicts(base, target, head)

    def merge(self, num: int, author: str) -> tuple[Commit, Event]:
        """Put the pull request on its target branch as one commit; Conflict when it cannot be."""
        pull = self.get(num)
        if not pull.is_pull_request:
            raise BadRequest("only a pull request can be merged")
        if not pull.is_open or pull.status == "draft":
            raise Conflict(f"Pull request {num} is {pull.status}: only an open one can be merged")
        with self.store.write() as db:
            base, target, head, target_oid, head_oid = self.sides(pull)
            if clash := _conflicts(base, target, head):
                raise Conflict(
                    f"This pull request has conflicts: {', '.join(clash[:10])}", filesWithConflicts=clash
                )
            ours = diffs.changed(base, head)
            if not ours:
                raise Conflict("This pull request changes nothing")
            merged = dict(target)
            for path, entry in ours.items():
                if entry is None:
                    merged.pop(path, None)
                elif path == attributes.PATH and path in target and not entry.lfs:
                    texts = [self.store.blobs.read(side[path].sha256) for side in (target, head)]
                    merged[path] = put_regular(self.store, path, attributes.union(*texts))
                else:
                    merged[path] = entry
            assert pull.base_ref is not None
            commit = self.store.add_commit(
                self.repo,
                pull.base_ref,
                merged,
                title=f"{pull.title} (#{num})",
                message=self._squashed(pull, head_oid),
                author=author,
                parent=target_oid,
                expect=target_oid,
            )
            sql = "UPDATE discussions SET status = 'merged', merge_oid = ? WHERE repo_id = ? AND num = ?"
            db.execute(sql, (commit.oid, self.repo.id, num))
            data = {"status": "merged", "mergeCommitId": commit.oid}
            return commit, self.add_event(num, "status-change", author, data)

    def _squashed(self, pull: Discussion, head: str) -> str:
        lines = []
        for commit in self.store.history(self.repo, head):
            if commit.oid == pull.base_oid:
                break
            lines.append(f"- {commit.title} ({commit.oid})")
        return "\n".join(reversed(lines))


def _conflicts(base: dict[str, Entry], target: dict[str, Entry], head: dict[str, Entry]) -> list[str]:
    ours, theirs = diffs.changed(base, head), diffs.changed(base, target)
    clash = [p for p in ours if p in theirs and diffs.oid_of(ours[p]) != diffs.oid_of(theirs[p])]
    return [p for p in clash if p != attributes.PATH or ours[p] is None or theirs[p] is None]


def target_ref(store: Store, repo: Repo, revision: str) -> tuple[str, str]:
    """The branch that a pull request made on this revision aims at, and the commit it starts from."""
    ref = revision if revision.startswith("refs/heads/") else f"refs/heads/{revision}"
    refs = store.refs(repo)
    if ref in refs:
        return ref, refs[ref]
    return MAIN, store.resolve(repo, revision).oid


def _discussion(row: sqlite3.Row) -> Discussion:
    values = {key: row[key] for key in Discussion.__slots__}
    return Discussion(**{**values, "is_pull_request": bool(row["is_pull_request"])})


def _event(row: sqlite3.Row) -> Event:
    return Event(**{**{key: row[key] for key in Event.__slots__}, "data": json.loads(row["data"])})
