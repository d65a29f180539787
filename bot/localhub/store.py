"""The content of repos and their history: the part of the embedded Hub that git is on the real one.

A commit names a tree; a tree is the flat list of its files, kept once per distinct tree id. A ref names a
commit: `refs/heads/*`, `refs/tags/*` and `refs/pr/*`. Everything is addressed by git's own ids
(`objects.py`).

Methods take and return plain values and raise `HubError`s; they know nothing of HTTP and nothing of who calls
(`http.Call` asks that first). A method that changes something joins the caller's transaction.
"""

from __future__ import annotations

import re
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bot.localhub import objects
from bot.localhub.blobs import BlobStore
from bot.localhub.database import Database
from bot.localhub.errors import BadRequest, Conflict, RevisionNotFound, StaleParent
from bot.localhub.objects import Entry
from bot.localhub.repos import Repo, Repos, now

MAIN = "refs/heads/main"
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+/-]{0,199}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    oid: str
    tree_oid: str
    parent: str | None
    title: str
    message: str
    author: str
    created_at: str


class Store:
    """One folder: `hub.sqlite3` and `blobs/`."""

    def __init__(self, root: Path):
        self.blobs = BlobStore(root)
        self.db = Database(root / "hub.sqlite3")
        self.repos = Repos(self.db)

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        with self.db.read() as db:
            yield db

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        with self.db.write() as db:
            yield db

    def secret(self, name: str) -> bytes:
        """A random key made once and kept in the folder, e.g. for signing upload addresses."""
        with self.write() as db:
            db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (name, secrets.token_hex(32)))
            return bytes.fromhex(db.execute("SELECT value FROM meta WHERE key = ?", (name,)).fetchone()[0])

    def sweep(self) -> None:
        """Forget trees of deleted repos and blobs of uploads never committed; run before serving."""
        with self.write() as db:
            db.execute("DELETE FROM entries WHERE tree_oid NOT IN (SELECT tree_oid FROM commits)")
        with self.read() as db:
            used = "SELECT sha256 FROM entries UNION SELECT sha256 FROM lfs_objects"
            self.blobs.sweep(row[0] for row in db.execute(used))

    # Refs and commits

    def refs(self, repo: Repo) -> dict[str, str]:
        with self.read() as db:
            rows = db.execute("SELECT ref, oid FROM refs WHERE repo_id = ? ORDER BY rowid", (repo.id,))
            return {row["ref"]: row["oid"] for row in rows}

    def head(self, repo: Repo, ref: str = MAIN) -> str:
        with self.read() as db:
            row = db.execute("SELECT oid FROM refs WHERE repo_id = ? AND ref = ?", (repo.id, ref)).fetchone()
        if row is None:
            raise RevisionNotFound(f"Invalid rev id: {ref}")
        return str(row["oid"])

    def resolve(self, repo: Repo, revision: str) -> Commit:
        """The commit behind a branch, tag, `refs/…` name, full id, or its unique first 7 or more digits."""
        names = (
            [revision]
            if revision.startswith("refs/")
            else [f"refs/heads/{revision}", f"refs/tags/{revision}"]
        )
        with self.read() as db:
            for name in names:
                row = db.execute(
                    "SELECT oid FROM refs WHERE repo_id = ? AND ref = ?", (repo.id, name)
                ).fetchone()
                if row:
                    return self.commit(repo, row["oid"])
            if re.fullmatch(r"[0-9a-f]{7,40}", revision):
                found = db.execute(
                    "SELECT * FROM commits WHERE repo_id = ? AND oid >= ? AND oid < ?",
                    (repo.id, revision, revision + "g"),
                ).fetchmany(2)
                if len(found) == 1:
                    return _commit(found[0])
        raise RevisionNotFound(f"Invalid rev id: {revision}")

    def commit(self, repo: Repo, oid: str) -> Commit:
        with self.read() as db:
            row = db.execute("SELECT * FROM commits WHERE repo_id = ? AND oid = ?", (repo.id, oid)).fetchone()
        if row is None:
            raise RevisionNotFound(f"Invalid rev id: {oid}")
        return _commit(row)

    def history(self, repo: Repo, oid: str) -> Iterator[Commit]:
        """A commit and its ancestors, newest first."""
        at: str | None = oid
        while at:
            commit = self.commit(repo, at)
            yield commit
            at = commit.parent

    def files(self, tree_oid: str) -> dict[str, Entry]:
        """Every file of a tree by path, in path order."""
        with self.read() as db:
            rows = db.execute(
                "SELECT * FROM entries WHERE tree_oid = ? ORDER BY path", (tree_oid,)
            ).fetchall()
        return {row["path"]: _entry(row) for row in rows}

    def file(self, tree_oid: str, path: str) -> Entry | None:
        with self.read() as db:
            row = db.execute(
                "SELECT * FROM entries WHERE tree_oid = ? AND path = ?", (tree_oid, path)
            ).fetchone()
        return _entry(row) if row else None

    def add_commit(
        self,
        repo: Repo,
        ref: str,
        files: Mapping[str, Entry],
        *,
        title: str,
        message: str = "",
        author: str,
        parent: str | None,
        expect: str | None = None,
    ) -> Commit:
        """Record a tree on top of `parent` and move `ref` to it, if `ref` still is at `expect` (or is new).

        Raises StaleParent when somebody else moved the ref in between.
        """
        for path in files:
            clash = next((p for p in _parents(path) if p in files), None)
            if clash is not None:
                raise BadRequest(f"{clash!r} cannot be both a file and a folder (of {path!r})")
        oids = objects.tree_oids(files.values())
        tree = oids.get("") or objects.git_oid("tree", b"")
        moment = now()
        text = f"{title}\n\n{message}".strip()
        seconds = int(datetime.fromisoformat(moment).timestamp())
        oid = objects.commit_oid(tree=tree, parent=parent, author=author, seconds=seconds, message=text)
        commit = Commit(
            oid=oid,
            tree_oid=tree,
            parent=parent,
            title=title,
            message=message,
            author=author,
            created_at=moment,
        )
        self.blobs.settle({entry.sha256 for entry in files.values()})
        with self.write() as db:
            row = db.execute("SELECT oid FROM refs WHERE repo_id = ? AND ref = ?", (repo.id, ref)).fetchone()
            if (row["oid"] if row else None) != expect:
                raise StaleParent(
                    f"A commit has happened since. Please refresh and try again: {ref} has moved"
                )
            db.executemany(
                "INSERT OR IGNORE INTO entries VALUES (?, ?, ?, ?, ?, ?)",
                [(tree, e.path, e.oid, e.size, e.sha256, e.lfs) for e in files.values()],
            )
            db.execute(
                "INSERT OR IGNORE INTO commits VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (repo.id, oid, tree, parent, title, message, author, moment),
            )
            self.set_ref(repo, ref, oid)
        return commit

    def set_ref(self, repo: Repo, ref: str, oid: str, message: str = "") -> None:
        with self.write() as db:
            db.execute(
                "INSERT INTO refs VALUES (?, ?, ?, ?) "
                "ON CONFLICT (repo_id, ref) DO UPDATE SET oid = excluded.oid",
                (repo.id, ref, oid, message),
            )
            if ref == MAIN:
                db.execute("UPDATE repos SET modified_at = ? WHERE id = ?", (now(), repo.id))

    def new_ref(self, repo: Repo, kind: str, name: str, oid: str, message: str = "") -> str:
        """A new branch (`heads`) or tag (`tags`); Conflict when it exists."""
        if not _REF.fullmatch(name) or ".." in name or "//" in name or name.endswith(("/", ".", ".lock")):
            raise BadRequest(f"not a valid ref name: {name[:100]!r}")
        ref = f"refs/{kind}/{name}"
        with self.write() as db:
            if db.execute("SELECT 1 FROM refs WHERE repo_id = ? AND ref = ?", (repo.id, ref)).fetchone():
                raise Conflict(f"Reference already exists: {ref}")
            self.set_ref(repo, ref, oid, message)
        return ref

    def delete_ref(self, repo: Repo, ref: str) -> None:
        if ref == MAIN:
            raise BadRequest("main cannot be deleted")
        with self.write() as db:
            if not db.execute("DELETE FROM refs WHERE repo_id = ? AND ref = ?", (repo.id, ref)).rowcount:
                raise RevisionNotFound(f"Invalid rev id: {ref}")

    # Large files

    def link_lfs(self, repo: Repo, sha256: str, size: int) -> None:
        """Note that this repo has uploaded this content; knowing a sha256 is not having the bytes."""
        with self.write() as db:
            row = (repo.id, sha256, size, now())
            db.execute("INSERT OR IGNORE INTO lfs_objects VALUES (?, ?, ?, ?)", row)

    def lfs_size(self, repo: Repo, sha256: str) -> int | None:
        """The size of a large file that this repo has uploaded, None when it has not."""
        with self.read() as db:
            row = db.execute(
                "SELECT size FROM lfs_objects WHERE repo_id = ? AND sha256 = ?", (repo.id, sha256)
            ).fetchone()
        return row["size"] if row and self.blobs.has(sha256) else None

    def lfs_objects(self, repo: Repo) -> list[sqlite3.Row]:
        with self.read() as db:
            sql = "SELECT * FROM lfs_objects WHERE repo_id = ? ORDER BY pushed_at, sha256"
            return db.execute(sql, (repo.id,)).fetchall()


def _parents(path: str) -> Iterator[str]:
    at = path.rfind("/")
    while at > 0:
        yield path[:at]
        at = path.rfind("/", 0, at)


def _commit(row: sqlite3.Row) -> Commit:
    return Commit(**{key: row[key] for key in Commit.__slots__})


def _entry(row: sqlite3.Row) -> Entry:
    values = {key: row[key] for key in ("path", "oid", "size", "sha256")}
    return Entry(**values, lfs=bool(row["lfs"]))
