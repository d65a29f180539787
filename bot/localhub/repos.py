"""Repos as names: made, found, moved, deleted, and their settings. Their content is `store.py`'s.

Names are unique whatever their case, as on the real Hub. A moved repo is still found by its old name until
somebody takes that name.
"""

from __future__ import annotations

import re
import secrets
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime

from bot.localhub.database import Database
from bot.localhub.errors import BadRequest, Conflict, RepoNotFound

REPO_TYPES = ("model", "dataset", "space")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_RESERVED = {"api", "collections", "datasets", "embedded-hub", "lfs", "login", "models", "spaces", "static"}
_FORGET_REDIRECT = "DELETE FROM redirects WHERE (type, namespace, name) = (?, ?, ?)"


def now() -> str:
    """The time as the client parses it, with milliseconds and a Z."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_id() -> str:
    """An object id in the real Hub's form: 24 hex digits."""
    return secrets.token_hex(12)


@dataclass(frozen=True, kw_only=True, slots=True)
class Repo:
    id: str
    type: str
    namespace: str
    name: str
    private: bool
    gated: str
    sdk: str
    created_by: str
    created_at: str
    modified_at: str

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def web_path(self) -> str:
        return f"/{self.full_name}" if self.type == "model" else f"/{self.type}s/{self.full_name}"


class Repos:
    """The repos of one embedded Hub."""

    def __init__(self, db: Database):
        self.db = db

    def create(
        self, repo_type: str, namespace: str, name: str, *, private: bool, user: str, sdk: str
    ) -> Repo:
        if repo_type not in REPO_TYPES:
            raise BadRequest(f"unknown repo type {repo_type!r}: one of {', '.join(REPO_TYPES)}")
        check_name(namespace, name)
        moment = now()
        repo = Repo(
            id=new_id(),
            type=repo_type,
            namespace=namespace,
            name=name,
            private=private,
            gated="",
            sdk=sdk,
            created_by=user,
            created_at=moment,
            modified_at=moment,
        )
        with self.db.write() as db:
            if self._row(db, repo_type, namespace, name):
                raise Conflict(f"You already created this {repo_type} repo: {namespace}/{name}")
            db.execute(_FORGET_REDIRECT, (repo_type, namespace, name))
            db.execute(
                "INSERT INTO repos (id, type, namespace, name, private, sdk, created_by, created_at, "
                "modified_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (repo.id, repo_type, namespace, name, private, sdk, user, moment, moment),
            )
        return repo

    def _row(self, db: sqlite3.Connection, repo_type: str, namespace: str, name: str) -> sqlite3.Row | None:
        key = (repo_type, namespace, name)
        sql = "SELECT * FROM repos WHERE (type, namespace, name) = (?, ?, ?)"
        row: sqlite3.Row | None = db.execute(sql, key).fetchone()
        return row

    def find(self, repo_type: str, namespace: str, name: str) -> Repo:
        """The repo of this name, or the one that was moved away from it."""
        with self.db.read() as db:
            row = self._row(db, repo_type, namespace, name)
            if row is None:
                row = db.execute(
                    "SELECT repos.* FROM repos JOIN redirects ON repos.id = redirects.repo_id "
                    "WHERE (redirects.type, redirects.namespace, redirects.name) = (?, ?, ?)",
                    (repo_type, namespace, name),
                ).fetchone()
        if row is None:
            raise RepoNotFound("Repository not found")
        return _repo(row)

    def by_id(self, repo_id: str) -> Repo | None:
        with self.db.read() as db:
            row = db.execute("SELECT * FROM repos WHERE id = ?", (repo_id,)).fetchone()
        return _repo(row) if row else None

    def all(self, repo_type: str) -> list[Repo]:
        with self.db.read() as db:
            return [_repo(row) for row in db.execute("SELECT * FROM repos WHERE type = ?", (repo_type,))]

    def delete(self, repo: Repo) -> None:
        with self.db.write() as db:
            db.execute("DELETE FROM repos WHERE id = ?", (repo.id,))

    def move(self, repo: Repo, namespace: str, name: str) -> Repo:
        check_name(namespace, name)
        with self.db.write() as db:
            found = self._row(db, repo.type, namespace, name)
            if found is not None and found["id"] != repo.id:
                raise Conflict(f"a {repo.type} named {namespace}/{name} exists already")
            db.execute(_FORGET_REDIRECT, (repo.type, namespace, name))
            db.execute("UPDATE repos SET namespace = ?, name = ? WHERE id = ?", (namespace, name, repo.id))
            if (namespace, name) != (repo.namespace, repo.name):
                old = (repo.type, repo.namespace, repo.name, repo.id)
                db.execute("INSERT OR REPLACE INTO redirects VALUES (?, ?, ?, ?)", old)
        return self.find(repo.type, namespace, name)

    def set_settings(self, repo: Repo, *, private: bool | None, gated: str | None) -> None:
        with self.db.write() as db:
            if private is not None:
                db.execute("UPDATE repos SET private = ? WHERE id = ?", (private, repo.id))
            if gated is not None:
                db.execute("UPDATE repos SET gated = ? WHERE id = ?", (gated, repo.id))

    def grant(self, repo: Repo, user: str) -> None:
        with self.db.write() as db:
            db.execute("INSERT OR IGNORE INTO access VALUES (?, ?, ?)", (repo.id, user, now()))

    def granted(self, repo: Repo) -> dict[str, str]:
        """Users let into a gated repo, with the time."""
        with self.db.read() as db:
            return {
                r["user"]: r["granted_at"]
                for r in db.execute("SELECT * FROM access WHERE repo_id = ?", (repo.id,))
            }


def check_name(namespace: str, name: str) -> None:
    """BadRequest unless both are names the real Hub would take."""
    for part in (namespace, name):
        if not isinstance(part, str) or not _NAME.fullmatch(part) or ".." in part or "--" in part:
            raise BadRequest(f"not a valid repo id: {namespace!s:.100}/{name!s:.100}")
    if namespace.lower() in _RESERVED or name.endswith((".git", ".ipynb")):
        raise BadRequest(f"a reserved name: {namespace}/{name}")


def _repo(row: sqlite3.Row) -> Repo:
    return Repo(**{key: row[key] for key in Repo.__slots__ if key != "private"}, private=bool(row["private"]))
