"""Collections over HTTP."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from bot.localhub.accounts import Action
from bot.localhub.errors import HubError
from bot.localhub.http import Call, route
from bot.localhub.shelf import Collection, Item, Shelf

PAGE = 100
SHOWN_IN_LIST = 4


def _shelf(call: Call) -> Shelf:
    return Shelf(call.hub.store)


def _readable(call: Call, collection: Collection) -> bool:
    return not collection.private or call.caller.may_in(Action.READ, collection.namespace)


def _found(call: Call, *, change: bool = False) -> Collection:
    collection = _shelf(call).get(f"{call.param('namespace')}/{call.param('slug')}")
    if not _readable(call, collection):
        raise HubError("Collection not found", status=404)
    if change:
        call.allow_in(Action.COLLECTIONS, collection.namespace)
    return collection


def _json(call: Call, collection: Collection, *, listed: bool = False) -> dict[str, Any]:
    items = [found for item in _shelf(call).items(collection) if (found := _item(call, item))]
    out: dict[str, Any] = {
        "slug": collection.slug,
        "title": collection.title,
        "description": collection.description,
        "owner": {
            "name": collection.namespace,
            "fullname": collection.namespace,
            "type": "org",
            "avatarUrl": "",
        },
        "items": items[:SHOWN_IN_LIST] if listed else items,
        "lastUpdated": collection.updated_at,
        "private": collection.private,
        "theme": collection.theme,
        "upvotes": 0,
        "isUpvotedByUser": False,
        "gating": False,
        "shareUrl": f"{call.base_url}/collections/{collection.slug}",
    }
    return out if listed else {**out, "position": collection.position}


def _item(call: Call, item: Item) -> dict[str, Any] | None:
    """An item as the client reads it; None for a repo this caller may not know of, or that is gone."""
    out: dict[str, Any] = {"_id": item.id, "id": item.item_id, "type": item.type, "position": item.position}
    if item.note:
        out["note"] = {"text": item.note, "html": ""}
    if item.type == "collection":
        return {**out, "slug": item.item_id}
    namespace, _, name = item.item_id.partition("/")
    try:
        repo = call.hub.store.repos.find(item.type, namespace, name)
    except HubError:
        return None
    if not call.may(Action.READ, repo):
        return None
    more = {
        "author": repo.namespace,
        "private": repo.private,
        "gated": repo.gated or False,
        "repoType": repo.type,
    }
    return {**out, **more, "id": repo.full_name, "lastModified": repo.modified_at, "likes": 0, "downloads": 0}


def index(call: Call) -> Response:
    owner, item = set(call.many("owner")), call.query("item")
    shelf = _shelf(call)
    found = []
    for collection in shelf.all():
        if (owner and collection.namespace not in owner) or not _readable(call, collection):
            continue
        if item and item not in {f"{i.type}s/{i.item_id}" for i in shelf.items(collection)}:
            continue
        found.append(collection)
    part, headers = call.page(found, call.number("limit", PAGE, most=PAGE) or PAGE)
    return JSONResponse([_json(call, collection, listed=True) for collection in part], headers=headers)


def create(call: Call) -> dict[str, Any]:
    namespace = call.field("namespace")
    call.allow_in(Action.COLLECTIONS, namespace)
    collection = _shelf(call).create(
        namespace,
        call.field("title"),
        call.field("description", default=""),
        call.field("private", bool, default=False),
    )
    if item := call.field("item", dict, default=None):
        _add(call, collection, item, "")
    return _json(call, collection)


def show(call: Call) -> dict[str, Any]:
    return _json(call, _found(call))


def update(call: Call) -> dict[str, Any]:
    collection = _found(call, change=True)
    kinds = {"title": str, "description": str, "theme": str, "private": bool, "position": int}
    changes = {n: v for n, kind in kinds.items() if (v := call.field(n, kind, default=None)) is not None}
    return {"success": True, "data": _json(call, _shelf(call).update(collection, **changes))}


def delete(call: Call) -> dict[str, Any]:
    _shelf(call).delete(_found(call, change=True))
    return {"success": True}


def add_item(call: Call) -> dict[str, Any]:
    collection = _found(call, change=True)
    _add(call, collection, call.field("item", dict), call.field("note", default=""))
    return _json(call, _shelf(call).get(collection.slug))


def _add(call: Call, collection: Collection, item: dict[str, Any], note: str) -> None:
    kind, name = str(item.get("type")), str(item.get("id"))
    if kind != "collection":
        namespace, _, tail = name.partition("/")
        repo = call.allow(Action.READ, call.hub.store.repos.find(kind, namespace, tail))
        name = repo.full_name
    else:
        name = _shelf(call).get(name).slug
    _shelf(call).add(collection, kind, name, note)


def change_item(call: Call) -> dict[str, Any]:
    collection = _found(call, change=True)
    note, position = call.field("note", default=None), call.field("position", int, default=None)
    _shelf(call).change_item(collection, call.param("item"), note=note, position=position)
    return {"success": True}


def remove_item(call: Call) -> dict[str, Any]:
    _shelf(call).remove_item(_found(call, change=True), call.param("item"))
    return {"success": True}


_ONE = "/api/collections/{namespace}/{slug}"
ROUTES = [
    route("GET", "/api/collections", index),
    route("POST", "/api/collections", create, "json"),
    route("GET", _ONE, show),
    route("PATCH", _ONE, update, "json"),
    route("DELETE", _ONE, delete),
    route("POST", _ONE + "/items", add_item, "json"),
    route("PATCH", _ONE + "/items/{item}", change_item, "json"),
    route("DELETE", _ONE + "/items/{item}", remove_item),
]
