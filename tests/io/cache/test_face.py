"""Every call of the public face gives the same answers from Redis and from memory."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import anyio
import pytest

from meshcache import ClosedError, CodecError, MeshCache, Mode, RedisCommandError
from meshcache.testing.server import RedisServer
from tests.io.cache.instances import lone_cache
from tests.support import eventually

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["redis", "memory"])
async def cache(request: pytest.FixtureRequest, anyio_backend: Any) -> AsyncIterator[MeshCache]:
    url = request.getfixturevalue("redis_server").url if request.param == "redis" else None
    async with lone_cache(url) as cache:
        assert cache.mode == request.param
        assert cache.is_available == (request.param == "redis")
        yield cache


async def test_a_value_is_read_as_it_was_written(cache: MeshCache) -> None:
    value = {"name": "Ada", "tags": ["a", 1, 2.5, None, True], "raw": b"\x00\xff"}
    assert await cache.set("user:1", value)
    assert await cache.get("user:1") == value
    assert await cache.get("user:2") is None
    assert await cache.get("user:2", default=7) == 7
    assert await cache.set("none", None)
    assert await cache.get("none", default=7) is None


async def test_values_are_not_shared(cache: MeshCache) -> None:
    value = [1]
    await cache.set("list", value)
    value.append(2)
    read = await cache.get("list")
    read.append(3)
    assert await cache.get("list") == [1]


async def test_ttl(cache: MeshCache) -> None:
    await cache.set("short", 1, ttl=0.15)
    await cache.setex("minute", 60, 1)
    await cache.set("hour", 1, ttl=timedelta(hours=1))
    await cache.set("ever", 1)
    assert await cache.ttl("short") == 1
    assert await cache.ttl("minute") == 60
    assert await cache.ttl("hour") == 3600
    assert await cache.ttl("ever") == -1
    assert await cache.ttl("nothing") == -2
    await eventually(lambda: gone(cache, "short"), 2)
    assert await cache.exists("short", "minute", "hour", "ever") == 3
    assert await cache.set("minute", 2)
    assert await cache.ttl("minute") == -1  # a write without ttl takes the old one away, as in Redis


async def test_expire(cache: MeshCache) -> None:
    await cache.set("key", "value")
    assert await cache.expire("key", 100)
    assert await cache.ttl("key") == 100
    assert await cache.expire("key", math.inf)
    assert await cache.ttl("key") == -1
    assert await cache.expire("key", 0.05)
    await eventually(lambda: gone(cache, "key"), 2)
    assert not await cache.expire("key", 100)


async def test_nx_and_xx(cache: MeshCache) -> None:
    assert not await cache.set("key", 1, xx=True)
    assert await cache.set("key", 2, nx=True)
    assert not await cache.set("key", 3, nx=True)
    assert await cache.get("key") == 2
    assert await cache.set("key", 4, xx=True)
    assert await cache.get("key") == 4
    with pytest.raises(ValueError, match="nx and xx"):
        await cache.set("key", 5, nx=True, xx=True)


async def test_delete_and_exists(cache: MeshCache) -> None:
    await cache.set_many({"a": 1, "b": 2, "c": 3})
    assert await cache.exists("a", "a", "b", "nothing") == 3
    assert await cache.delete("a", "nothing") == 1
    assert await cache.get("a") is None
    assert await cache.delete_many(["b", "c"]) == 2
    assert await cache.exists("a", "b", "c") == 0
    assert await cache.delete() == 0
    assert await cache.exists() == 0


async def test_many(cache: MeshCache) -> None:
    values = {f"key:{i}": i for i in range(2500)}
    await cache.set_many(values, ttl=60)
    assert await cache.get_many(["key:3", "nothing", "key:1"]) == {"key:3": 3, "key:1": 1}
    assert list(await cache.get_many(["key:3", "key:1"])) == ["key:3", "key:1"]
    assert await cache.get_many(values) == values
    assert await cache.ttl("key:2499") == 60
    assert await cache.get_many([]) == {}
    await cache.set_many({})


async def test_patterns(cache: MeshCache) -> None:
    await cache.set_many({"user:1": 1, "user:2": 2, "user:10": 10, "group:1": 1, "[x]": 0})
    assert sorted(await cache.keys("user:?")) == ["user:1", "user:2"]
    assert sorted([key async for key in cache.scan("*:1*")]) == ["group:1", "user:1", "user:10"]
    assert await cache.keys("[[]x]") == ["[x]"]
    assert len(await cache.keys()) == 5
    assert await cache.delete_match("user:*") == 3
    assert sorted(await cache.keys()) == ["[x]", "group:1"]
    assert await cache.clear() == 2
    assert await cache.keys() == []
    await cache.set("user:1", "after the clear")
    assert await cache.get("user:1") == "after the clear"


async def test_bad_input_raises_and_changes_nothing(cache: MeshCache) -> None:
    await cache.set("key", "kept", ttl=60)
    for key, error in [
        ("", ValueError),
        ("x" * 1025, ValueError),
        ("\ud800", ValueError),
        (1, TypeError),
        (b"k", TypeError),
    ]:
        for call in (cache.get, cache.delete, cache.exists, cache.ttl):
            with pytest.raises(error, match="key"):
                await call(key)  # type: ignore[arg-type]
        with pytest.raises(error, match="key"):
            await cache.set_many({"key": "lost", key: 1})  # type: ignore[dict-item]
    for ttl, error in [(0, ValueError), (-1, ValueError), (math.nan, ValueError), ("60", TypeError), (True, TypeError)]:
        for call in (cache.set("key", "lost", ttl=ttl), cache.expire("key", ttl), cache.setex("key", ttl, "lost")):  # type: ignore[arg-type]
            with pytest.raises(error, match="ttl"):
                await call
    for value in (object(), {1, 2}, 2**64, lambda: 0):
        with pytest.raises(CodecError, match="msgpack"):
            await cache.set("key", value)
        with pytest.raises(CodecError, match="msgpack"):
            await cache.set_many({"key": "lost", "other": value})
    with pytest.raises(TypeError):
        await cache.get_many("key")
    with pytest.raises(TypeError):
        await cache.set_many(["key"])  # type: ignore[arg-type]
    assert await cache.get("key") == "kept"
    assert await cache.ttl("key") == 60
    assert await cache.keys() == ["key"]


@pytest.mark.parametrize(
    ("codec", "value", "refused"),
    [("msgpack", [1], object()), ("json", {"a": "ü"}, b"x"), ("text", "ü", 1), ("bytes", b"\x00", "x")],
)
async def test_codecs(redis_server: RedisServer, codec: str, value: Any, refused: Any) -> None:
    async with lone_cache(redis_server.url, codec=codec) as cache:
        await cache.set("key", value)
        assert await cache.get("key") == value
        with pytest.raises(CodecError, match=codec):
            await cache.set("key", refused)
        assert await cache.get("key") == value


async def test_bytes_of_another_codec(redis_server: RedisServer) -> None:
    redis_server.client().set("test:key", b"\xc1 not msgpack")
    async with lone_cache(redis_server.url) as cache:
        with pytest.raises(CodecError, match="not msgpack"):
            await cache.get("key")
        with pytest.raises(CodecError):
            await cache.get_many(["key"])
        assert cache.mode is Mode.REDIS
        assert await cache.delete("key") == 1
        assert await cache.get("key") is None


async def test_a_codec_of_ones_own_that_fails(redis_server: RedisServer) -> None:
    class Broken:
        name = "broken"

        def encode(self, value: Any) -> bytes:
            return b"written" if value else bytes(1 // 0)

        def decode(self, data: bytes) -> Any:
            raise KeyError(data)

    async with lone_cache(redis_server.url, codec=Broken()) as cache:
        with pytest.raises(CodecError, match="broken"):
            await cache.set("key", 0)
        await cache.set("key", 1)
        with pytest.raises(CodecError, match="broken"):
            await cache.get("key")


async def test_plain_redis_sees_plain_keys(redis_server: RedisServer) -> None:
    redis = redis_server.client()
    async with lone_cache(redis_server.url, namespace="app", codec="text") as cache:
        await cache.set("user:1", "Ada", ttl=60)
        assert redis.get("app:user:1") == b"Ada"
        assert 59_000 < redis.pttl("app:user:1") <= 60_000
        redis.set("app:user:2", "Grace")
        redis.set("other:user:3", "not ours")
        assert await cache.get("user:2") == "Grace"
        assert sorted(await cache.keys()) == ["user:1", "user:2"]
        assert await cache.clear() == 2
    assert redis.get("other:user:3") == b"not ours"


async def test_what_redis_refuses_for_good_reaches_the_caller(redis_server: RedisServer) -> None:
    redis_server.client().rpush("test:list", "x")
    async with lone_cache(redis_server.url) as cache:
        with pytest.raises(RedisCommandError, match="WRONGTYPE"):
            await cache.get("list")
        assert cache.mode is Mode.REDIS
        assert await cache.delete("list") == 1


async def test_what_it_tells_about_itself(cache: MeshCache) -> None:
    in_redis = cache.mode is Mode.REDIS
    await cache.set("key", 1)
    await cache.get("key")
    await cache.get("nothing")
    stats = cache.stats()
    tier = "redis" if in_redis else "memory"
    assert stats["mode"] == tier
    assert stats["redis_available"] is in_redis
    assert (stats[f"{tier}_hits"], stats[f"{tier}_misses"]) == (1, 1)
    assert (stats["entries"], stats["dirty"], stats["peers"]) == (1, 0, 0)
    assert stats["near_entries"] == in_redis  # in mode redis memory holds copies only
    assert stats["near_tracking"] is in_redis
    assert stats["bytes"] > 0
    assert 0 <= stats["mode_seconds"] < 60
    assert await cache.ping() is in_redis
    assert ("redis_version" in await cache.info("server")) is in_redis
    assert cache.peers == []
    assert len(cache.node_id) == 16
    with pytest.raises(TimeoutError, match="0 of 1 peers"):
        await cache.wait_for_peers(1, timeout=0.01)
    assert tier in repr(cache)


async def test_closed(redis_server: RedisServer) -> None:
    cache = lone_cache(redis_server.url)
    with pytest.raises(ClosedError, match="async with"):
        await cache.get("key")
    async with cache:
        with pytest.raises(ClosedError):
            await cache.__aenter__()
        await cache.set("key", 1)
    with pytest.raises(ClosedError, match="closed"):
        await cache.get("key")
    with pytest.raises(ClosedError):
        async with cache:
            pass
    await cache.aclose()


async def test_closing_ends_those_who_wait(redis_server: RedisServer) -> None:
    seen: list[object] = []

    async def listen(cache: MeshCache) -> None:
        async for event in cache.events():
            seen.append(event)
        seen.append("end")

    async def wait(cache: MeshCache) -> None:
        with pytest.raises(ClosedError):
            await cache.wait_for_peers(3)
        seen.append("told")

    async with anyio.create_task_group() as tasks, lone_cache(redis_server.url) as cache:
        tasks.start_soon(listen, cache)
        tasks.start_soon(wait, cache)
        await anyio.wait_all_tasks_blocked()
    assert sorted(map(str, seen)) == ["end", "told"]


async def gone(cache: MeshCache, key: str) -> bool:
    return await cache.get(key, default="gone") == "gone"
