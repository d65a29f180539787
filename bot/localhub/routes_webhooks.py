"""Webhooks over HTTP: each user keeps their own."""

from __future__ import annotations

from typing import Any

from bot.localhub.accounts import Action
from bot.localhub.http import Call, route


def _owner(call: Call) -> str:
    user = call.require_user()
    call.allow_in(Action.WEBHOOKS, user)
    return user


def index(call: Call) -> list[dict[str, Any]]:
    return call.hub.webhooks.of(_owner(call))


def create(call: Call) -> dict[str, Any]:
    owner = _owner(call)
    webhook = call.hub.webhooks.create(
        owner,
        call.field("url"),
        call.field("secret", default=None),
        call.field("watched", list),
        call.field("domains", list, default=["repo", "discussion"]),
    )
    return {"webhook": call.hub.webhooks.get(webhook, owner)}


def show(call: Call) -> dict[str, Any]:
    return {"webhook": call.hub.webhooks.get(call.param("webhook"), _owner(call))}


def update(call: Call) -> dict[str, Any]:
    owner, webhook = _owner(call), call.param("webhook")
    call.hub.webhooks.update(
        webhook,
        owner,
        url=call.field("url", default=None),
        secret=call.field("secret", default=None),
        watched=call.field("watched", list, default=[]),
        domains=call.field("domains", list, default=None),
    )
    return {"webhook": call.hub.webhooks.get(webhook, owner)}


def switch(call: Call) -> dict[str, Any]:
    owner, webhook = _owner(call), call.param("webhook")
    call.hub.webhooks.set_disabled(webhook, owner, call.request.url.path.endswith("/disable"))
    return {"webhook": call.hub.webhooks.get(webhook, owner)}


def delete(call: Call) -> dict[str, Any]:
    call.hub.webhooks.delete(call.param("webhook"), _owner(call))
    return {}


_BASE = "/api/settings/webhooks"
ROUTES = [
    route("GET", _BASE, index),
    route("POST", _BASE, create, "json"),
    route("GET", _BASE + "/{webhook}", show),
    route("POST PUT", _BASE + "/{webhook}", update, "json"),
    route("DELETE", _BASE + "/{webhook}", delete),
    route("POST", _BASE + "/{webhook}/enable", switch),
    route("POST", _BASE + "/{webhook}/disable", switch),
]
