"""The cache over sentinels: a master dies or is replaced, and nobody who uses the cache sees more than a slower call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from meshcache import MeshCache, Mode
from meshcache.testing.deployments import SentinelDeployment
from tests.io.cache.instances import lone_cache
from tests.io.loops import on_asyncio_and_trio
from tests.support import eventually

pytestmark = pytest.mark.anyio

SLACK = 0.15  # what a busy machine may add to op_timeout


async def in_time(call: Awaitable[Any]) -> Any:
    start = anyio.current_time()
    answer = await call
    assert anyio.current_time() - start < 0.25 + SLACK
    return answer


async def keep_using(cache: MeshCache, until: Callable[[], bool]) -> int:
    """Write and read on, and look that every write is read; how many writes."""
    deadline = anyio.current_time() + 20
    count = 0
    while not until():
        assert anyio.current_time() < deadline
        await in_time(cache.set("count", str(count)))
        assert await in_time(cache.get("count")) == str(count)
        count += 1
        await anyio.sleep(0.005)
    return count


@on_asyncio_and_trio
async def test_the_master_dies(deployment: SentinelDeployment) -> None:
    async with lone_cache(deployment.url, codec="text") as cache:
        await cache.set("before", "1")
        assert cache.mode is Mode.REDIS
        old = deployment.master
        old.kill()
        modes = set()

        def is_back() -> bool:
            modes.add(cache.mode)
            return len(modes) > 1 and cache.mode is Mode.REDIS

        count = await keep_using(cache, is_back)
        assert Mode.MEMORY in modes
        await anyio.to_thread.run_sync(deployment.wait_for_new_master, old)
        assert await cache.get("count") == str(count - 1)
        await eventually(lambda: deployment.master.client().get("test:count") == b"%d" % (count - 1))
        await eventually(lambda: cache.stats()["near_tracking"], 5)

        outages = cache.stats()["outages"]
        await anyio.to_thread.run_sync(deployment.heal)  # the old master is back, as a replica
        assert deployment.replica is old
        await cache.set("after", "2")
        assert deployment.master.client().exists("test:after")
        assert cache.mode is Mode.REDIS
        assert cache.stats()["outages"] == outages


@on_asyncio_and_trio
async def test_copies_follow_the_new_master(deployment: SentinelDeployment) -> None:
    """A planned failover: what somebody else writes at the new master is told from there."""
    async with lone_cache(deployment.url, near_cache="serve", codec="text") as cache:
        await cache.set("k", "mine")
        await eventually(lambda: cache.stats()["near_tracking"])
        await anyio.to_thread.run_sync(deployment.fail_over)
        await eventually(lambda: cache.mode is Mode.REDIS and cache.stats()["near_tracking"], 10)
        assert await cache.get("k") == "mine"
        assert await cache.get("k") == "mine"
        assert cache.stats()["near_hits"] > 0
        deployment.master.client().set("test:k", "theirs")

        async def read() -> bool:
            return await cache.get("k") == "theirs"

        await eventually(read)


async def test_no_sentinel_and_no_master_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    async with lone_cache("redis+sentinel://127.0.0.1:1,127.0.0.1:2/mymaster/0") as cache:
        assert cache.mode is Mode.MEMORY
        await in_time(cache.set("k", "v"))
        assert await in_time(cache.get("k")) == "v"
    (line,) = [record.getMessage() for record in caplog.records if "starts in memory" in record.getMessage()]
    assert "127.0.0.1:1: connection refused (redis+sentinel://127.0.0.1:1,127.0.0.1:2/mymaster/0)" in line
