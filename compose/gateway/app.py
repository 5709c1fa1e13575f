"""The gateway's face to the world: an ASGI application, for any ASGI server.

    POST   /translate           {"text": "good morning", "source": "en", "target": "de"} -> {"translation": "guten morgen"}
    GET    /mentions?q=@ad      -> {"members": ["ada", "adam", "adele"]}
    POST   /members             {"name": "adalbert"} -> 201, or 200 if there is one
    DELETE /members/{name}      204, or 404 if there is none
    GET    /healthz             -> {"status": "ok", "mode": "redis", "mode_seconds": 12.3, "peers": 2, "near_tracking": true}

``x-cache: HIT`` or ``MISS`` says whether the cache had the answer, ``x-cache-mode`` which tier answers now.  What the caller
did wrong is 400 and ``{"error": ...}``.  ``/healthz`` is 200 as long as the gateway answers: in an outage of Redis it
does, so nobody may restart it or take it out of service for that.

The cache takes its options from the environment (``MESHCACHE_URL`` and so on), and so does the rest: ``GATEWAY_DATABASE`` is
the file of the database, ``GATEWAY_DATABASE_DELAY`` the seconds that each of its queries takes longer.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from meshcache import MeshCache

from .database import Database
from .services import Members, RefusedError, Translations

__all__ = ["create_app"]


def create_app() -> Starlette:
    """The application, with options from the environment; it opens the cache when it starts and closes it when it ends."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    routes = [
        Route("/translate", translate, methods=["POST"]),
        Route("/mentions", mentions, methods=["GET"]),
        Route("/members", add_member, methods=["POST"]),
        Route("/members/{name}", remove_member, methods=["DELETE"]),
        Route("/healthz", health, methods=["GET"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={RefusedError: refused})


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """One cache for the whole process."""
    path, delay = os.environ.get("GATEWAY_DATABASE", "gateway.db"), os.environ.get("GATEWAY_DATABASE_DELAY", "0.04")
    async with Database(path, float(delay)) as database, MeshCache.from_env() as cache:
        app.state.cache = cache
        app.state.translations = Translations(cache, database)
        app.state.members = Members(cache, database)
        yield


async def translate(request: Request) -> Response:
    """Translate a text."""
    text, source, target = await fields_of(request, "text", "source", "target")
    translation, hit = await request.app.state.translations.translate(text, source, target)
    return cached(request, {"translation": translation}, hit=hit)


async def mentions(request: Request) -> Response:
    """Who may be meant by what was typed."""
    members, hit = await request.app.state.members.mentions(request.query_params.get("q", ""))
    return cached(request, {"members": members}, hit=hit)


async def add_member(request: Request) -> Response:
    """Add a member."""
    (name,) = await fields_of(request, "name")
    added = await request.app.state.members.add(name)
    return JSONResponse({"name": name}, 201 if added else 200)


async def remove_member(request: Request) -> Response:
    """Remove a member."""
    removed = await request.app.state.members.remove(request.path_params["name"])
    return Response(status_code=204) if removed else JSONResponse({"error": "there is no such member"}, 404)


async def health(request: Request) -> Response:
    """That the gateway answers; which tier of its cache does, and whether it is ready for an outage."""
    stats = request.app.state.cache.stats()
    told = {name: stats[name] for name in ("mode", "mode_seconds", "peers", "near_tracking")}
    return JSONResponse({"status": "ok", **told})


async def fields_of(request: Request, *names: str) -> list[str]:
    """The fields of a JSON body, in the order asked.  Raises ``RefusedError`` if one is missing or is no text."""
    try:
        body = await request.json()
    except ValueError:
        body = None
    if not isinstance(body, dict) or not all(isinstance(body.get(name), str) for name in names):
        raise RefusedError(f"the body must be a JSON object with texts for {', '.join(names)}")
    return [body[name] for name in names]


def cached(request: Request, body: object, *, hit: bool) -> Response:
    """An answer that says where it came from."""
    mode = str(request.app.state.cache.mode)
    return JSONResponse(body, headers={"x-cache": "HIT" if hit else "MISS", "x-cache-mode": mode})


async def refused(request: Request, error: Exception) -> Response:
    """What the caller did wrong."""
    return JSONResponse({"error": str(error)}, 400)
