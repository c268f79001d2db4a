"""The window's web application (Starlette): a page, its script and style, and the run's data as JSON. It changes nothing.

Trajectories are hostile text. They reach the page as JSON and are put on it as text nodes; the page may load nothing but its own
two files and talk to nobody else (Content-Security-Policy). Requests for any other host than this machine are refused, so that a
web page of somebody else's can't read a run through a name of its own that points here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flywheel.errors import StoreError
from flywheel.monitor.jsonl import strict_json
from flywheel.view.data import FILTERS, Asked, RunData

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
STATIC = {"app.js": "text/javascript", "charts.js": "text/javascript", "style.css": "text/css"}
_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
_REFRESH_S = 2.0


def static(name: str) -> str:
    """Return one of the page's own files."""
    return resources.files("flywheel.view").joinpath("static", name).read_text("utf-8")


def make_app(data: RunData) -> Starlette:
    """Return the application that shows a run; it indexes new attempts for the search while it is up."""

    async def page(request: Request) -> Response:
        return Response(static("index.html"), media_type="text/html", headers=dict(HEADERS))

    async def file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in STATIC:
            return Response("no such file", 404, headers=dict(HEADERS))
        return Response(static(name), media_type=STATIC[name], headers=dict(HEADERS))

    async def no_icon(request: Request) -> Response:
        return Response(status_code=204, headers=dict(HEADERS))

    async def overview(request: Request) -> Response:
        return await _json(data.overview)

    async def curves(request: Request) -> Response:
        return await _json(data.curves)

    async def groups(request: Request) -> Response:
        asked = request.query_params
        page = asked.get("page", "0")
        wanted = Asked(
            filters={name: asked[name] for name in FILTERS if name in asked},
            words=asked.get("words", ""),
            page=int(page) if page.isdecimal() and len(page) < 8 else 0,
        )
        return await _json(lambda: data.groups(wanted))

    async def group(request: Request) -> Response:
        return await _json(lambda: data.group(request.path_params["id"]))

    async def attempt(request: Request) -> Response:
        return await _json(lambda: data.attempt(request.path_params["id"]))

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        indexing = asyncio.create_task(_index(data))
        yield
        indexing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await indexing

    return Starlette(
        routes=[
            Route("/", page),
            Route("/static/{name}", file),
            Route("/favicon.ico", no_icon),
            Route("/api/overview", overview),
            Route("/api/curves", curves),
            Route("/api/groups", groups),
            Route("/api/group/{id}", group),
            Route("/api/attempt/{id}", attempt),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=_HOSTS, www_redirect=False)],
        lifespan=lifespan,
    )


async def _json(make: Any) -> Response:
    try:
        found = await asyncio.to_thread(make)
        status, found = (404, {"error": "there is no such record"}) if found is None else (200, found)
    except StoreError as error:  # a damaged shard, or one that was dropped: the page says so, and the others go on
        status, found = 500, {"error": str(error)}
    return Response(strict_json(found), status, media_type="application/json", headers=dict(HEADERS))


async def _index(data: RunData) -> None:
    while True:
        if not await asyncio.to_thread(data.index.update):
            await asyncio.sleep(_REFRESH_S)
