"""A real server and a wire to it that can be cut, one pair a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshcache.testing.proxy import OutageProxy
from meshcache.testing.server import RedisServer


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[OutageProxy]:
    with OutageProxy(redis_server.host, redis_server.port) as proxy:
        yield proxy
