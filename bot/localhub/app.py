"""The web application: every route in one table, around one `Hub`.

Order matters only where a fixed word could be taken for a namespace: the API's own nouns come before
`/api/{types}/…`, and the pages before nothing, since they match last.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from bot.localhub import (
    pages,
    routes_account,
    routes_collections,
    routes_commit,
    routes_discussions,
    routes_files,
    routes_jobs,
    routes_lfs,
    routes_refs,
    routes_repos,
    routes_webhooks,
)
from bot.localhub.http import RawPath
from bot.localhub.hub import Hub
from bot.localhub.uploads import Parts, Signer


def build(hub: Hub) -> ASGIApp:
    """The ASGI application over this Hub."""
    modules = (
        routes_account,
        routes_collections,
        routes_webhooks,
        routes_jobs,
        routes_lfs,
        routes_commit,
        routes_files,
        routes_refs,
        routes_discussions,
        routes_repos,
        pages,
    )
    app = Starlette(
        routes=[route for module in modules for route in module.ROUTES],
        exception_handlers={404: _not_found, 405: _not_found},
    )
    app.router.redirect_slashes = False
    app.state.hub = hub
    app.state.signer = Signer(hub.store)
    app.state.parts = Parts()
    return RawPath(app, any_host=hub.allow_remote)


async def _not_found(request: Request, error: Exception) -> Response:
    """Say that the embedded Hub lacks this address, which the real one may well have."""
    status = getattr(error, "status_code", 404)
    text = f"the embedded Hub does not serve {request.method} {request.scope['path'][:200]}"
    return JSONResponse({"error": text}, status_code=status)
