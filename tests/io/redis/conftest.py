"""A real server for the whole session, emptied before each test; tests that break a server start their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from meshcache.redis.connect import open_link
from meshcache.redis.link import Link
from meshcache.redis.names import Names
from meshcache.testing.server import RedisServer

TIMEOUT = 0.25


@pytest.fixture(scope="session")
def shared_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    """Healthy, empty, and to be left so."""
    shared_server.client().flushall()
    shared_server.client().script_flush()
    return shared_server


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """To be broken by the test."""
    with RedisServer() as server:
        yield server


@pytest.fixture
async def opened(anyio_backend: Any) -> AsyncIterator[Callable[..., Link]]:
    """Opens links in the event loop of the test, and closes them after it."""
    async with AsyncExitStack() as stack:

        def open_here(url: str, **options: Any) -> Link:
            link = open_link(url, **{"timeout": 5.0, **options})
            stack.push_async_callback(link.aclose)
            return link

        yield open_here


@pytest.fixture
async def link(server: RedisServer, opened: Callable[..., Link]) -> Link:
    """A patient link to the healthy server."""
    return opened(server.url)


@pytest.fixture
def names() -> Names:
    return Names("gw")
