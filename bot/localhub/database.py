"""The embedded Hub's one SQLite file: everything but the bytes of files.

Durability is the point. `journal_mode=WAL` with `synchronous=FULL` means that a committed transaction
survives `kill -9` and a power cut; every API write is exactly one transaction, so that a torn write cannot
exist. File contents live beside it, content-addressed (`blobs.py`), and are on disk *before* the row that
names them.

Readers use their own connection per thread and never wait for writers. Writers take one lock in this process
(another process is kept out by the folder lock in `server.py`).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE repos (
  id TEXT PRIMARY KEY, type TEXT NOT NULL, namespace TEXT NOT NULL COLLATE NOCASE,
  name TEXT NOT NULL COLLATE NOCASE, private INTEGER NOT NULL, gated TEXT NOT NULL DEFAULT '',
  sdk TEXT NOT NULL DEFAULT '', created_by TEXT NOT NULL, created_at TEXT NOT NULL, modified_at TEXT NOT NULL,
  UNIQUE (type, namespace, name));
CREATE TABLE redirects (
  type TEXT NOT NULL, namespace TEXT NOT NULL COLLATE NOCASE, name TEXT NOT NULL COLLATE NOCASE,
  repo_id TEXT NOT NULL REFERENCES repos(id) ON DELETE CASCADE, PRIMARY KEY (type, namespace, name));
CREATE TABLE commits (
  repo_id TEXT NOT NULL REFERENCES repos(id) ON DELETE CASCADE, oid TEXT NOT NULL, tree_oid TEXT NOT NULL,
  parent TEXT, title TEXT NOT NULL, message TEXT NOT NULL, author TEXT NOT NULL, created_at TEXT NOT NULL,
  PRIMARY KEY (repo_id, oid));
CREATE INDEX commits_by_tree ON commits (tree_oid);
CREATE TABLE refs (
  repo_id TEXT NOT NULL REFERENCES repos(id) ON DELETE CASCADE, ref TEXT NOT NULL, oid TEXT NOT NULL,
  message TEXT NOT NULL DEFAULT '', PRIMARY KEY (repo_id, ref),
  FOREIGN KEY (repo_id, oid) REFERENCES commits(repo_id, oid));
CREATE TABLE entries (
  tree_oid TEXT NOT NULL, path TEXT NOT NULL, oid TEXT NOT NULL, size INTEGER NOT NULL, sha256 TEXT NOT NULL,
  lfs INTEGER NOT NULL, PRIMARY KEY (tree_oid, path)) WITHOUT ROWID;
CREATE TABLE lfs_objects (
  repo_id TEXT NOT NULL REFERENCES repos(id) ON DELETE CASCADE, sha256 TEXT NOT NULL, size INTEGER NOT NULL,
  pushed_at TEXT NOT NULL, PRIMARY KEY (repo_id, sha256));
CREATE TABLE discussions (
  repo_id TEXT NOT NULL REFERENCES repos(id) ON DELETE CASCADE, num INTEGER NOT NULL, title TEXT NOT NULL,
  status TEXT NOT NULL, is_pull_request INTEGER NOT NULL, author TEXT NOT NULL, created_at TEXT NOT NULL,
  base_ref TEXT, base_oid TEXT, merge_oid TEXT, PRIMARY KEY (repo_id, num));
CREATE TABLE events (
  id TEXT PRIMARY KEY, repo_id TEXT NOT NULL, num INTEGER NOT NULL, position INTEGER NOT NULL,
  type TEXT NOT NULL, author TEXT NOT NULL, created_at TEXT NOT NULL, data TEXT NOT NULL,
  FOREIGN KEY (repo_id, num) REFERENCES discussions(repo_id, num) ON DELETE CASCADE);
CREATE INDEX events_by_discussion ON events (repo_id, num, position);
CREATE TABLE access (
  repo_id TEXT NOT NULL REFERENCES repos(id) ON DELETE CASCADE, user TEXT NOT NULL, granted_at TEXT NOT NULL,
  PRIMARY KEY (repo_id, user));
CREATE TABLE webhooks (
  id TEXT PRIMARY KEY, owner TEXT NOT NULL, url TEXT NOT NULL, secret TEXT, watched TEXT NOT NULL,
  domains TEXT NOT NULL, disabled INTEGER NOT NULL DEFAULT 0);
CREATE TABLE deliveries (
  id INTEGER PRIMARY KEY, webhook_id TEXT NOT NULL REFERENCES webhooks(id) ON DELETE CASCADE,
  payload TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, due_at REAL NOT NULL,
  state TEXT NOT NULL DEFAULT 'queued', detail TEXT NOT NULL DEFAULT '');
CREATE INDEX deliveries_by_due ON deliveries (state, due_at);
CREATE TABLE collections (
  id TEXT PRIMARY KEY, slug TEXT NOT NULL UNIQUE, namespace TEXT NOT NULL, title TEXT NOT NULL,
  description TEXT NOT NULL DEFAULT '', private INTEGER NOT NULL, theme TEXT NOT NULL,
  position INTEGER NOT NULL, updated_at TEXT NOT NULL, UNIQUE (namespace, title));
CREATE TABLE collection_items (
  id TEXT PRIMARY KEY, collection_id TEXT NOT NULL REFERENCES collections(id) ON DELETE CASCADE,
  type TEXT NOT NULL, item_id TEXT NOT NULL, note TEXT NOT NULL DEFAULT '', position INTEGER NOT NULL,
  UNIQUE (collection_id, type, item_id));
"""


class Database:
    """Connections to one file: `read` for a consistent look, `write` for one atomic change."""

    def __init__(self, path: Path):
        self.path = path
        self._local = threading.local()
        self._writing = threading.RLock()
        with self.write() as db:
            if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone() is None:
                for statement in SCHEMA.split(";\n"):
                    if statement.strip():
                        db.execute(statement)
                db.execute("INSERT INTO meta VALUES ('schema_version', ?)", (str(SCHEMA_VERSION),))
            found = db.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()[0]
            if int(found) != SCHEMA_VERSION:
                raise OSError(
                    f"{path} was written by another version of the embedded Hub (schema {found}, this one "
                    f"reads {SCHEMA_VERSION}): serve another folder, or use the version that wrote it"
                )

    def _connection(self) -> sqlite3.Connection:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self.path, isolation_level=None, timeout=30)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            self._local.connection = connection
        return connection

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """One consistent snapshot; nested in a write it sees that write."""
        db = self._connection()
        if db.in_transaction:
            yield db
            return
        db.execute("BEGIN")
        try:
            yield db
        finally:
            db.execute("ROLLBACK")

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing; nested, it joins the transaction already open."""
        with self._writing:
            db = self._connection()
            if db.in_transaction:
                yield db
                return
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def close(self) -> None:
        """Close this thread's connection (others close when their threads end)."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None
