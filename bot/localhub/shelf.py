"""Collections: named, ordered lists of repos, addressed by a slug that ends in their id."""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass

from bot.localhub.errors import BadRequest, Conflict, HubError
from bot.localhub.repos import new_id, now
from bot.localhub.store import Store

ITEM_TYPES = ("model", "dataset", "space", "collection")


@dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    id: str
    slug: str
    namespace: str
    title: str
    description: str
    private: bool
    theme: str
    position: int
    updated_at: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    id: str
    type: str
    item_id: str
    note: str
    position: int


class Shelf:
    """All collections of one embedded Hub."""

    def __init__(self, store: Store):
        self.store = store

    def create(self, namespace: str, title: str, description: str, private: bool) -> Collection:
        """A new one; Conflict with the slug of the one that has this title."""
        title = title.strip()
        if not title or len(title) > 60 or len(description) > 150:
            raise BadRequest(
                "a collection has a title of at most 60 and a description of at most 150 characters"
            )
        words = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "collection"
        id_ = new_id()
        slug = f"{namespace}/{words}-{id_}"
        with self.store.write() as db:
            sql = "SELECT slug FROM collections WHERE (namespace, title) = (?, ?)"
            if found := db.execute(sql, (namespace, title)).fetchone():
                raise Conflict(f"{namespace} has a collection with this title already", slug=found["slug"])
            row = (id_, slug, namespace, title, description, private, "orange", 0, now())
            db.execute("INSERT INTO collections VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        return self.get(slug)

    def get(self, slug: str) -> Collection:
        """By slug; only the owner and the id at its end count, so that a new title breaks no link."""
        namespace, _, tail = slug.partition("/")
        with self.store.read() as db:
            sql = "SELECT * FROM collections WHERE id = ? AND namespace = ?"
            row = db.execute(sql, (tail.rpartition("-")[2], namespace)).fetchone()
        if row is None:
            raise HubError("Collection not found", status=404)
        return _collection(row)

    def all(self) -> list[Collection]:
        with self.store.read() as db:
            rows = db.execute("SELECT * FROM collections ORDER BY updated_at DESC").fetchall()
        return [_collection(row) for row in rows]

    def update(self, collection: Collection, **changes: object) -> Collection:
        with self.store.write() as db:
            for column, value in {**changes, "updated_at": now()}.items():
                try:
                    db.execute(f"UPDATE collections SET {column} = ? WHERE id = ?", (value, collection.id))
                except sqlite3.IntegrityError:
                    raise Conflict(
                        f"{collection.namespace} has a collection with this title already"
                    ) from None
        return self.get(collection.slug)

    def delete(self, collection: Collection) -> None:
        with self.store.write() as db:
            db.execute("DELETE FROM collections WHERE id = ?", (collection.id,))

    def items(self, collection: Collection) -> list[Item]:
        with self.store.read() as db:
            sql = (
                "SELECT id, type, item_id, note, position FROM collection_items WHERE collection_id = ? "
                "ORDER BY position, rowid"
            )
            return [Item(**dict(row)) for row in db.execute(sql, (collection.id,))]

    def add(self, collection: Collection, kind: str, item_id: str, note: str) -> None:
        if kind not in ITEM_TYPES:
            raise BadRequest(f"an item is one of {', '.join(ITEM_TYPES)}, not {kind[:40]!r}")
        with self.store.write() as db:
            position = len(self.items(collection))
            row = (new_id(), collection.id, kind, item_id, note[:500], position)
            try:
                db.execute("INSERT INTO collection_items VALUES (?, ?, ?, ?, ?, ?)", row)
            except sqlite3.IntegrityError:
                raise Conflict(f"{item_id} is in this collection already") from None
            self.update(collection)

    def change_item(
        self, collection: Collection, id_: str, *, note: str | None, position: int | None
    ) -> None:
        """Another note, another place; the others move up or down."""
        with self.store.write() as db:
            items = self.items(collection)
            item = next((item for item in items if item.id == id_), None)
            if item is None:
                raise HubError("Collection item not found", status=404)
            if note is not None:
                db.execute("UPDATE collection_items SET note = ? WHERE id = ?", (note[:500], id_))
            if position is not None:
                items.remove(item)
                items.insert(max(0, min(position, len(items))), item)
                self._number(db, items)
            self.update(collection)

    def remove_item(self, collection: Collection, id_: str) -> None:
        with self.store.write() as db:
            if not db.execute(
                "DELETE FROM collection_items WHERE id = ? AND collection_id = ?", (id_, collection.id)
            ).rowcount:
                raise HubError("Collection item not found", status=404)
            self._number(db, self.items(collection))
            self.update(collection)

    def _number(self, db: sqlite3.Connection, items: list[Item]) -> None:
        for place, item in enumerate(items):
            db.execute("UPDATE collection_items SET position = ? WHERE id = ?", (place, item.id))


def _collection(row: sqlite3.Row) -> Collection:
    return Collection(**{**{key: row[key] for key in Collection.__slots__}, "private": bool(row["private"])})
