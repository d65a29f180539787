"""Who am I, is this card valid, and is this an embedded Hub at all."""

from __future__ import annotations

from typing import Any

from bot.localhub import cards, oidc
from bot.localhub.errors import HubError
from bot.localhub.http import Call, route


def embedded(call: Call) -> dict[str, Any]:
    """What `bot.localhub.probe` asks: the one address that the real Hub does not have."""
    return {"embedded": True, "version": 1}


def whoami(call: Call) -> dict[str, Any]:
    name = call.require_user()
    user = call.hub.accounts.users.get(name)
    orgs = [
        {
            "type": "org",
            "id": org,
            "name": org,
            "fullname": body.fullname or org,
            "email": None,
            "avatarUrl": "",
            "isEnterprise": False,
            "roleInOrg": body.members[name],
        }
        for org, body in call.hub.accounts.orgs.items()
        if name in body.members
    ]
    scopes = call.caller.scopes
    token = {
        "displayName": call.caller.token_name,
        "role": "write" if scopes == {"write"} and call.caller.repos is None else "fineGrained",
        "scopes": sorted(scopes),
        "repos": list(call.caller.repos) if call.caller.repos is not None else None,
    }
    return {
        "type": "user",
        "id": name,
        "name": name,
        "fullname": (user and user.fullname) or name,
        "email": user.email if user else "",
        "emailVerified": True,
        "isPro": False,
        "avatarUrl": "",
        "orgs": orgs,
        "auth": {"type": "access_token", "accessToken": token},
    }


def exchange_token(call: Call) -> dict[str, Any]:
    """Trusted Publishers: an id token for a token to one repo; OAuth's names for what is wrong."""
    kinds = (call.field("grant_type", default=""), call.field("subject_token_type", default=""))
    if kinds != (oidc.GRANT_TYPE, oidc.SUBJECT_TYPE):
        raise HubError("invalid_request", error_description="only the exchange of an id token is served here")
    subject_token, resource = call.field("subject_token", default=""), call.field("resource", default="")
    token, seconds = call.hub.exchange.mint(subject_token, resource, audience=call.base_url)
    return {
        "access_token": token,
        "token_type": "bearer",
        "expires_in": seconds,
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
    }


def validate_yaml(call: Call) -> Any:
    """Errors as the real Hub reports them: status 400 and a list of messages."""
    wrong = cards.problems(call.field("content"))
    if wrong:
        raise HubError(
            "Invalid metadata in README.md", errors=[{"message": text} for text in wrong], warnings=[]
        )
    block, _ = cards.split(call.field("content"))
    warnings = [] if block and block.strip() else [{"message": "empty or missing yaml metadata in repo card"}]
    return {"errors": [], "warnings": warnings}


def user_overview(call: Call) -> dict[str, Any]:
    name = call.param("user")
    user = call.hub.accounts.users.get(name)
    if user is None:
        raise HubError("User not found", status=404)
    orgs = [
        {"name": o, "fullname": b.fullname or o}
        for o, b in call.hub.accounts.orgs.items()
        if name in b.members
    ]
    return {
        "user": name,
        "fullname": user.fullname or name,
        "avatarUrl": "",
        "type": "user",
        "isPro": False,
        "orgs": orgs,
    }


def _org(call: Call) -> Any:
    found = call.hub.accounts.orgs.get(call.param("org"))
    if found is None:
        raise HubError("Organization not found", status=404)
    return found


def org_overview(call: Call) -> dict[str, Any]:
    org, name = _org(call), call.param("org")
    return {
        "name": name,
        "fullname": org.fullname or name,
        "avatarUrl": "",
        "type": "org",
        "numUsers": len(org.members),
    }


def org_members(call: Call) -> list[dict[str, Any]]:
    users = call.hub.accounts.users
    return [
        {"user": name, "fullname": users[name].fullname or name, "avatarUrl": "", "type": "user"}
        for name in _org(call).members
        if name in users
    ]


ROUTES = [
    route("GET", "/api/embedded-hub", embedded),
    route("GET", "/api/whoami-v2", whoami),
    route("POST", "/oauth/token", exchange_token, "json"),
    route("POST", "/api/validate-yaml", validate_yaml, "json"),
    route("GET", "/api/users/{user}/overview", user_overview),
    route("GET", "/api/organizations/{org}/overview", org_overview),
    route("GET", "/api/organizations/{org}/members", org_members),
]
