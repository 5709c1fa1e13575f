"""A cache behind HTTP, key by key: what the containers of the tests run.  The gateway for readers is in ``compose/``.

Only meshcache and the standard library; one request a connection.

    GET    /cache/KEY           200 {"value": ...}, or 404 for a miss
    PUT    /cache/KEY?ttl=60    204; the body is the value as JSON
    DELETE /cache/KEY           200 {"deleted": 0 or 1}
    GET    /status              200 {"mode": ..., "peers": [...], "stats": {...}}

The cache takes its options from the environment: ``MESHCACHE_URL``, ``MESHCACHE_NAMESPACE``, ``MESHCACHE_SECRET`` and so on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from meshcache import MeshCache

PORT = 8000
MAX_BODY_BYTES = 2**20

Reply = tuple[HTTPStatus, Any]


async def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    done = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, done.set)
    async with MeshCache.from_env() as cache:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                status, body = await answer(cache, reader)
                await write(writer, status, body)
            writer.close()

        async with await asyncio.start_server(serve, "0.0.0.0", PORT):
            await done.wait()


async def answer(cache: MeshCache, reader: asyncio.StreamReader) -> Reply:
    """Read one request and do what it asks."""
    try:
        method, target, headers = await read_head(reader)
        length = int(headers.get("content-length", 0))
        if length > MAX_BODY_BYTES:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, None
        return await route(cache, method, target, await reader.readexactly(length))
    except (ValueError, TypeError) as error:
        return HTTPStatus.BAD_REQUEST, {"error": str(error)}


async def route(cache: MeshCache, method: str, target: str, body: bytes) -> Reply:
    """The four things that one can ask for."""
    url = urlsplit(target)
    if (method, url.path) == ("GET", "/status"):
        return HTTPStatus.OK, status_of(cache)
    prefix, _, key = url.path.partition("/cache/")
    if prefix or not key:
        return HTTPStatus.NOT_FOUND, {"error": "there is only /cache/KEY and /status"}
    key = unquote(key)
    match method:
        case "GET":
            missing = object()
            value = await cache.get(key, default=missing)
            return (HTTPStatus.NOT_FOUND, None) if value is missing else (HTTPStatus.OK, {"value": value})
        case "PUT":
            ttl = parse_qs(url.query).get("ttl")
            await cache.set(key, json.loads(body), ttl=float(ttl[0]) if ttl else None)
            return HTTPStatus.NO_CONTENT, None
        case "DELETE":
            return HTTPStatus.OK, {"deleted": await cache.delete(key)}
    return HTTPStatus.METHOD_NOT_ALLOWED, None


def status_of(cache: MeshCache) -> dict[str, Any]:
    """What this instance knows about itself and its peers."""
    peers = [{"node_id": peer.node_id, "host": peer.host, "mode": str(peer.mode)} for peer in cache.peers]
    return {"mode": str(cache.mode), "peers": peers, "stats": cache.stats()}


async def read_head(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str]]:
    """Method, target and headers (names in lower case) of a request."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request, *lines = head.splitlines()
    method, target, _ = request.split(" ", 2)
    pairs = (line.partition(":") for line in lines if line)
    return method, target, {name.strip().lower(): value.strip() for name, _, value in pairs}


async def write(writer: asyncio.StreamWriter, status: HTTPStatus, body: Any) -> None:
    """Send a reply with a JSON body, or with none."""
    data = b"" if body is None else json.dumps(body, default=str).encode()
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
    await writer.drain()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
