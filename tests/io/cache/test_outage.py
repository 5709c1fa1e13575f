"""Redis goes away in every way there is: no caller sees an exception, and none waits longer than promised."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio
import pytest

from meshcache import MeshCache, Mode, ModeChanged
from meshcache.testing.proxy import OutageProxy
from meshcache.testing.server import RedisServer
from tests.io.cache.instances import lone_cache
from tests.support import eventually, free_port

pytestmark = pytest.mark.anyio

OP_TIMEOUT = 0.25


@dataclass
class Load:
    """Gets and sets every 2 ms; what the slowest call took, in seconds.  An exception of a call fails the test."""

    calls: int = 0
    worst: float = 0.0
    lost: int = 0

    async def run(self, cache: MeshCache) -> None:
        while True:
            key = f"key:{self.calls % 50}"
            await self.timed(lambda k=key: cache.set(k, self.calls))
            if await self.timed(lambda k=key: cache.get(k)) is None:
                self.lost += 1
            await anyio.sleep(0.002)

    async def timed(self, call: Callable[[], object]) -> object:
        start = anyio.current_time()
        result = await call()  # type: ignore[misc]
        self.worst = max(self.worst, anyio.current_time() - start)
        self.calls += 1
        return result

    async def of(self, calls: int) -> None:
        """Wait for so many more calls."""
        target = self.calls + calls
        await eventually(lambda: self.calls >= target, 30, message=f"{calls} calls")


async def test_refused_under_load(redis_server: RedisServer, proxy: OutageProxy) -> None:
    async with lone_cache(proxy.url, op_timeout=OP_TIMEOUT) as cache, anyio.create_task_group() as tasks:
        load = Load()
        tasks.start_soon(load.run, cache)
        await load.of(100)
        proxy.refuse()
        await eventually(lambda: cache.mode is Mode.MEMORY)
        load.lost = 0  # a value that was set a moment before is in Redis only
        await load.of(200)
        assert load.lost == 0
        assert load.worst < OP_TIMEOUT + 0.05
        proxy.forward()
        await eventually(lambda: cache.mode is Mode.REDIS, 10)
        await load.of(100)
        assert load.lost == 0
        tasks.cancel_scope.cancel()


async def test_silent_under_load(redis_server: RedisServer, proxy: OutageProxy) -> None:
    async with lone_cache(proxy.url, op_timeout=OP_TIMEOUT) as cache, anyio.create_task_group() as tasks:
        load = Load()
        for _ in range(5):
            tasks.start_soon(load.run, cache)
        await load.of(100)
        proxy.silence()
        await load.of(1000)
        assert cache.mode is Mode.MEMORY
        assert load.worst < OP_TIMEOUT + 0.25  # what a busy machine may add
        proxy.forward()
        await eventually(lambda: cache.mode is Mode.REDIS, 10)
        await load.of(100)
        tasks.cancel_scope.cancel()


async def test_stopped_and_continued(redis_server: RedisServer) -> None:
    async with lone_cache(redis_server.url) as cache:
        await cache.set("changed", "old")
        await cache.set("deleted", "old")
        redis_server.pause()
        assert await cache.set("changed", "new")
        await cache.delete("deleted")
        assert await cache.get("changed") == "new"
        assert await cache.get("deleted") is None
        await eventually(lambda: cache.mode is Mode.MEMORY)
        redis_server.resume()
        await eventually(lambda: cache.mode is Mode.REDIS, 10)
        assert await cache.get("changed") == "new"
        assert await cache.get("deleted") is None


async def test_killed_with_calls_under_way(redis_server: RedisServer) -> None:
    async with lone_cache(redis_server.url) as cache:
        await cache.set("warm", 1)
        redis_server.pause()  # so that the calls are under way when it dies
        async with anyio.create_task_group() as tasks:
            for i in range(20):
                tasks.start_soon(cache.set, f"key:{i}", i)
            await anyio.wait_all_tasks_blocked()
            redis_server.kill()
        assert cache.mode is Mode.MEMORY
        assert await cache.get_many([f"key:{i}" for i in range(20)]) == {f"key:{i}": i for i in range(20)}


async def test_absent_at_start(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "meshcache")
    port = free_port()
    async with lone_cache(f"redis://:password@127.0.0.1:{port}/0") as cache:
        assert cache.mode is Mode.MEMORY
        assert await cache.set("first", 1)
        assert await cache.get("first") == 1
        await eventually(lambda: "starts in memory" in caplog.text)
        with RedisServer(port=port, arguments=["--requirepass", "password"]):
            await eventually(lambda: cache.mode is Mode.REDIS, 10)
            assert await cache.get("first") == 1
    assert caplog.text.count("starts in memory") == 1
    assert "password" not in caplog.text


async def test_silent_at_start(redis_server: RedisServer, proxy: OutageProxy) -> None:
    proxy.silence()
    start = anyio.current_time()
    async with lone_cache(proxy.url, op_timeout=OP_TIMEOUT) as cache:
        assert anyio.current_time() - start < OP_TIMEOUT + 1
        assert cache.mode is Mode.MEMORY
        await cache.set("first", 1)
        proxy.forward()
        await eventually(lambda: cache.mode is Mode.REDIS, 10)
        assert await cache.get("first") == 1


async def test_every_call_answers_in_an_outage(redis_server: RedisServer) -> None:
    async with lone_cache(redis_server.url) as cache:
        redis_server.kill()
        assert await cache.exists("a") == 0
        await cache.set_many({"a": 1, "b": 2}, ttl=60)
        assert await cache.get_many(["a", "b", "c"]) == {"a": 1, "b": 2}
        assert sorted(await cache.keys()) == ["a", "b"]
        assert sorted([key async for key in cache.scan("*")]) == ["a", "b"]
        assert await cache.expire("a", 10)
        assert await cache.ttl("a") == 10
        assert await cache.delete("a", "x") == 1
        assert await cache.delete_match("*") == 1
        assert await cache.clear() == 0
        assert not await cache.ping()
        assert await cache.info() == {}
        assert not cache.is_available


@pytest.mark.parametrize("call", ["scan", "keys", "delete_match", "ping", "info", "get_many", "set_many", "ttl"])
async def test_a_call_that_finds_redis_gone(redis_server: RedisServer, call: str) -> None:
    """Each call alone notices the outage and is answered all the same."""
    async with lone_cache(redis_server.url) as cache:
        redis_server.kill()
        calls = {
            "scan": lambda: first(cache),
            "keys": cache.keys,
            "delete_match": lambda: cache.delete_match("*"),
            "ping": cache.ping,
            "info": cache.info,
            "get_many": lambda: cache.get_many(["a"]),
            "set_many": lambda: cache.set_many({"a": 1}),
            "ttl": lambda: cache.ttl("a"),
        }
        await calls[call]()
        assert cache.mode is Mode.MEMORY


async def test_a_replica_is_not_redis(redis_server: RedisServer) -> None:
    """A server that refuses writes is an outage, and is not taken for recovered while it can only be read."""
    redis = redis_server.client()
    async with lone_cache(redis_server.url) as cache:
        redis.replicaof("127.0.0.1", free_port())
        assert await cache.set("key", 1)
        assert cache.mode is Mode.MEMORY
        events = cache.events()
        redis.execute_command("REPLICAOF", "NO", "ONE")
        with anyio.fail_after(10):
            assert [(await anext(events)).new for _ in range(2)] == [Mode.RECOVERING, Mode.REDIS]
        assert redis.exists("test:key")


async def test_a_timeout_alone_is_no_outage_but_puts_the_write_in_doubt(
    redis_server: RedisServer, proxy: OutageProxy
) -> None:
    """One slow answer among quick ones: the mode stays, the write is told to Redis again, and nothing older is read."""
    redis = redis_server.client()
    async with lone_cache(proxy.url, op_timeout=0.1, failure_threshold=1000) as cache:
        await cache.set("key", "old")
        redis.client_pause(150, all=False)  # writes wait, reads are served
        async with anyio.create_task_group() as tasks:

            async def keep_reading() -> None:
                while True:
                    await cache.get("other")

            tasks.start_soon(keep_reading)
            await anyio.sleep(0)
            assert await cache.set("key", "new")
            assert await cache.get("key") == "new"
            await eventually(lambda: redis.get("test:key") == cache._codec.encode("new"))
            await eventually(lambda: cache.stats()["dirty"] == 0)
            assert await cache.get("key") == "new"
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    "read", [lambda cache: cache.get("key"), lambda cache: cache.get_many(["key"])], ids=["get", "get_many"]
)
async def test_a_loop_of_reads_of_what_is_in_doubt_lets_others_have_their_turn(
    redis_server: RedisServer, read: Callable[[MeshCache], Awaitable[object]]
) -> None:
    async with lone_cache(redis_server.url, op_timeout=0.5, failure_threshold=1000) as cache:
        redis_server.client().client_pause(600, all=False)  # writes wait, reads are served
        async with anyio.create_task_group() as tasks:

            async def keep_reading() -> None:
                while True:
                    await cache.get("other")

            tasks.start_soon(keep_reading)
            await anyio.sleep(0)
            await cache.set("key", "new")
            assert cache.stats()["dirty"] == 1
            deadline = time.monotonic() + 5
            while cache.stats()["dirty"]:
                await read(cache)
                assert time.monotonic() < deadline, "nobody else has had a turn"
            tasks.cancel_scope.cancel()


async def test_one_line_a_change(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "meshcache")
    async with lone_cache(redis_server.url, warn_outage_after=0.2) as cache:
        caplog.clear()
        redis_server.kill()
        for i in range(100):
            await cache.set(f"key:{i}", i)
        await eventually(lambda: "has been away" in caplog.text, 5)
        await eventually(lambda: cache.stats()["mode_seconds"] > 1.5, 5)
        records = [(record.levelname, record.getMessage()) for record in caplog.records]
        assert [level for level, _ in records] == ["WARNING", "WARNING"]
        assert "redis -> memory" in records[0][1]
        assert "has been away" in records[1][1]
        caplog.clear()
        redis_server.start()
        await eventually(lambda: cache.mode is Mode.REDIS, 10)
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
    assert "recovering -> redis" in caplog.text


async def test_events_tell_the_modes(redis_server: RedisServer) -> None:
    async with lone_cache(redis_server.url) as cache:
        events = cache.events()
        changes: list[ModeChanged] = []

        async def listen() -> None:
            async for event in events:
                assert isinstance(event, ModeChanged)
                changes.append(event)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await anyio.wait_all_tasks_blocked()
            redis_server.kill()
            await cache.get("key")
            redis_server.start()
            await eventually(lambda: len(changes) == 3, 10)
            tasks.cancel_scope.cancel()
        assert [(change.old, change.new) for change in changes] == [
            ("redis", "memory"),
            ("memory", "recovering"),
            ("recovering", "redis"),
        ]
        assert all(change.cause and change.held >= 0 for change in changes)


async def test_cancelling_a_call_harms_no_other(redis_server: RedisServer, proxy: OutageProxy) -> None:
    async with lone_cache(proxy.url) as cache:
        await cache.set("key", "value")
        for _ in range(20):
            with anyio.move_on_after(0.0005):
                await cache.get("key")
        proxy.silence()
        with anyio.move_on_after(0.02) as scope:
            await cache.get("key")
        assert scope.cancelled_caught
        proxy.forward()
        assert cache.mode is Mode.REDIS
        for i in range(50):
            assert await cache.set(f"key:{i}", i)
            assert await cache.get(f"key:{i}") == i


async def first(cache: MeshCache) -> str | None:
    async for key in cache.scan():
        return key
    return None
