"""One cache in this process, one real Redis in a container that is killed, frozen and started again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import to_thread

from meshcache import MeshCache, Mode
from tests.support import eventually

if TYPE_CHECKING:
    from testcontainers.community.redis import RedisContainer

pytestmark = [pytest.mark.anyio, pytest.mark.containers]


def cache_on(container: RedisContainer) -> MeshCache:
    host, port = container.get_container_host_ip(), container.get_exposed_port(6379)
    return MeshCache(f"redis://{host}:{port}/0", namespace="containers", discovery=[], interfaces=["127.0.0.1"])


async def test_killed_and_started_again(redis_container: RedisContainer) -> None:
    docker = redis_container.get_wrapped_container()
    async with cache_on(redis_container) as cache:
        assert cache.mode is Mode.REDIS
        await cache.set("before", 1)
        assert await cache.get("before") == 1

        await to_thread.run_sync(docker.kill)
        assert await cache.set("during", {"name": "Ada"}, ttl=60)
        assert await cache.get("during") == {"name": "Ada"}
        assert cache.mode is Mode.MEMORY

        await to_thread.run_sync(docker.start)
        await eventually(lambda: cache.mode is Mode.REDIS, 15, message="back on Redis")
        assert await cache.get("during") == {"name": "Ada"}
        await cache.set("after", 2)

    with redis_container.get_client() as client:
        assert sorted(client.keys("containers:*")) == [b"containers:after", b"containers:during"]
        assert 0 < client.ttl("containers:during") <= 60


async def test_frozen(redis_container: RedisContainer) -> None:
    docker = redis_container.get_wrapped_container()
    async with cache_on(redis_container) as cache:
        await cache.set("kept", "old")
        await cache.set("gone", "old")
        await to_thread.run_sync(docker.pause)
        try:
            start = anyio.current_time()
            await cache.set("kept", "new")
            first = anyio.current_time() - start
            assert first < 0.6  # op_timeout is 0.25 s; the rest is what a busy machine may add
            await cache.delete("gone")
            assert await cache.get("kept") == "new"
            assert await cache.get("gone") is None
            await eventually(lambda: cache.mode is Mode.MEMORY, 2, message="Redis given up")
        finally:
            await to_thread.run_sync(docker.unpause)
        await eventually(lambda: cache.mode is Mode.REDIS, 15, message="back on Redis")
        assert await cache.get("kept") == "new"
        assert await cache.get("gone") is None
