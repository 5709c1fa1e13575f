"""Caches for tests: on loopback only, with a discovery that is quick and sees no one else."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from meshcache import MeshCache
from tests.support import free_port

LOOPBACK = ["127.0.0.1"]
SECRET = "the secret of these tests"


def lone_cache(url: str | None, **options: Any) -> MeshCache:
    """A cache that looks for nobody."""
    return MeshCache(url, **{"namespace": "test", "discovery": [], "interfaces": LOOPBACK, **options})


@asynccontextmanager
async def mesh(*urls: str | None, **options: Any) -> AsyncIterator[list[MeshCache]]:
    """One instance a URL; each knows the addresses of all, and they have met."""
    ports = [free_port(socket.SOCK_DGRAM) for _ in urls]
    options = {"secret": SECRET, "discovery": [f"127.0.0.1:{port}" for port in ports], **options}
    async with AsyncExitStack() as stack:
        caches = [
            await stack.enter_async_context(lone_cache(url, port=port, **options))
            for url, port in zip(urls, ports, strict=True)
        ]
        for cache in caches:
            await cache.wait_for_peers(len(caches) - 1)
        yield caches
