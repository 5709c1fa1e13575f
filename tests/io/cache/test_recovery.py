"""After an outage Redis has what the outage wrote, and nobody reads what it replaced or deleted."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from meshcache import MeshCache, Mode, RedisCommandError
from meshcache.testing.proxy import OutageProxy
from meshcache.testing.server import RedisServer
from tests.io.cache.instances import lone_cache, mesh
from tests.support import eventually

pytestmark = pytest.mark.anyio


async def in_mode(mode: Mode, caches: Sequence[MeshCache]) -> None:
    for cache in caches:
        await eventually(lambda c=cache: c.mode is mode, 15, message=f"mode {mode}")


async def notice(caches: Sequence[MeshCache]) -> None:
    """Make each of them find out that Redis is gone."""
    for cache in caches:
        await cache.get("whatever")
    await in_mode(Mode.MEMORY, caches)


async def test_every_write_of_the_outage_is_in_redis(redis_server: RedisServer) -> None:
    async with mesh(redis_server.url, redis_server.url, codec="text") as caches:
        redis_server.kill()
        await notice(caches)
        for i in range(200):
            await caches[i % 2].set(f"key:{i}", f"value {i}", ttl=60 if i % 4 == 0 else None)
        redis_server.start()
        await in_mode(Mode.REDIS, caches)
        redis = redis_server.client()
        assert redis.mget([f"test:key:{i}" for i in range(200)]) == [f"value {i}".encode() for i in range(200)]
        assert 50_000 < redis.pttl("test:key:0") < 60_000
        assert redis.pttl("test:key:1") == -1
        for cache in caches:
            assert cache.stats()["dirty"] == cache.stats()["entries"] == 0
            assert await cache.get("key:199") == "value 199"


async def test_redis_kept_its_data(redis_server: RedisServer, proxy: OutageProxy) -> None:
    """What was deleted or changed meanwhile stays so, on every instance and in Redis."""
    async with mesh(proxy.url, proxy.url, proxy.url, codec="text") as caches:
        one, two, three = caches
        await one.set_many({"deleted": "old", "changed": "old", "untouched": "old", "a:1": "old", "a:2": "old"})
        proxy.refuse()
        await notice(caches)
        await two.delete("deleted")
        await three.set("changed", "new")
        await one.delete_match("a:*")
        await one.set("a:2", "new")
        proxy.forward()
        await in_mode(Mode.REDIS, caches)
        expected = {"changed": "new", "untouched": "old", "a:2": "new"}
        for cache in caches:
            assert await cache.get_many(["deleted", "changed", "untouched", "a:1", "a:2"]) == expected
        assert sorted(redis_server.client().keys("test:*")) == [b"test:a:2", b"test:changed", b"test:untouched"]


async def test_clear_in_an_outage_clears_what_only_redis_holds(redis_server: RedisServer, proxy: OutageProxy) -> None:
    redis_server.client().mset({f"test:{i}": "x" for i in range(3000)} | {"elsewhere": "kept"})
    async with lone_cache(proxy.url) as cache:
        proxy.refuse()
        await cache.clear()
        await cache.set("after", 1)
        proxy.forward()
        await in_mode(Mode.REDIS, [cache])
        assert await cache.keys() == ["after"]
    assert redis_server.client().get("elsewhere") == b"kept"


async def test_a_key_that_expired_meanwhile_does_not_come_back(redis_server: RedisServer, proxy: OutageProxy) -> None:
    async with lone_cache(proxy.url) as cache:
        await cache.set("key", "old")
        proxy.refuse()
        await cache.set("key", "short", ttl=0.05)

        async def gone() -> bool:
            return await cache.get("key") is None

        await eventually(gone)
        proxy.forward()
        await in_mode(Mode.REDIS, [cache])
        assert await cache.get("key") is None


async def test_what_memory_gave_up_is_a_miss_not_a_lie(redis_server: RedisServer, proxy: OutageProxy) -> None:
    async with lone_cache(proxy.url, max_entries=10) as cache:
        await cache.set_many({f"key:{i}": "old" for i in range(100)})
        proxy.refuse()
        for i in range(100):
            await cache.set(f"key:{i}", "new")
        assert cache.stats()["entries"] == 10
        proxy.forward()
        await in_mode(Mode.REDIS, [cache])
        assert await cache.get_many([f"key:{i}" for i in range(100)]) == {f"key:{i}": "new" for i in range(90, 100)}


async def test_more_dirty_keys_than_the_journal_holds(redis_server: RedisServer, proxy: OutageProxy) -> None:
    async with lone_cache(proxy.url, max_dirty=50) as cache:
        await cache.set_many({"untouched": "old", "key:1": "old"})
        proxy.refuse()
        for i in range(200):
            await cache.set(f"key:{i}", "new")
        proxy.forward()
        await in_mode(Mode.REDIS, [cache])
        assert "old" not in (await cache.get_many(["untouched", *(f"key:{i}" for i in range(200))])).values()


@pytest.mark.parametrize(("on_recovery", "after"), [("replay", "new"), ("invalidate", None), ("discard", "old")])
async def test_on_recovery(redis_server: RedisServer, proxy: OutageProxy, on_recovery: str, after: str | None) -> None:
    async with lone_cache(proxy.url, on_recovery=on_recovery) as cache:
        await cache.set("key", "old")
        proxy.refuse()
        await cache.set("key", "new")
        proxy.forward()
        await in_mode(Mode.REDIS, [cache])
        assert await cache.get("key") == after


async def test_an_older_replay_is_refused(redis_server: RedisServer) -> None:
    """Two instances that did not hear each other: whichever recovers last, the newest write stays."""
    with (
        OutageProxy(redis_server.host, redis_server.port) as first,
        OutageProxy(redis_server.host, redis_server.port) as last,
    ):
        async with lone_cache(first.url) as one, lone_cache(last.url) as two:
            first.refuse()
            last.refuse()
            await two.set("key", "older")
            await two.delete("kept")
            await anyio.sleep(0.002)  # instances that do not hear each other go by the clock, which counts ms
            await one.set("key", "newer")
            await one.set("kept", "newer")
            first.forward()
            await in_mode(Mode.REDIS, [one])
            last.forward()
            await in_mode(Mode.REDIS, [two])
            for cache in (one, two):
                # They do not hear each other, so the other might have written plainly after it: then a miss it is.
                assert await cache.get("key") in ("newer", None)
                assert await cache.get("kept") in ("newer", None)
            assert two.stats()["replay_refused"] == 2


async def test_writes_go_on_while_it_recovers(redis_server: RedisServer) -> None:
    """No write is lost between the last look at the journal and the switch, and a key written all the time delays nothing."""
    async with lone_cache(redis_server.url) as cache:
        for _ in range(2):
            redis_server.kill()
            await notice([cache])
            await cache.set_many({f"key:{i}": 0 for i in range(1000)})
            redis_server.start()
            count = 0
            while cache.mode is not Mode.REDIS:
                count += 1
                await cache.set("counter", count)
                assert await cache.get("counter") == count
                await anyio.sleep(0.0005)  # shorter than any round trip: the key is dirty at every look
            assert await cache.get("counter") == count


async def test_only_one_loses_redis(redis_server: RedisServer, proxy: OutageProxy) -> None:
    """Its writes and deletes reach the others, and Redis through them, while it is still cut off."""
    async with mesh(redis_server.url, proxy.url, codec="text") as (one, two):
        await one.set_many({"deleted": "old", "changed": "old"})
        proxy.refuse()
        await notice([two])
        await two.delete("deleted")
        await two.set("changed", "new")
        redis = redis_server.client()
        await eventually(lambda: redis.get("test:changed") == b"new")
        await eventually(lambda: not redis.exists("test:deleted"))
        assert await one.get("deleted") is None
        assert await one.get("changed") == "new"
        assert one.mode is Mode.REDIS
        assert two.mode is Mode.MEMORY


async def test_a_cache_closed_in_the_outage_leaves_its_writes_to_its_peers(redis_server: RedisServer) -> None:
    async with mesh(redis_server.url, redis_server.url, codec="text") as (one, two):
        redis_server.kill()
        await notice([one, two])
        for i in range(50):
            await one.set(f"key:{i}", "kept")
        await one.aclose()

        async def all_there() -> bool:
            return len(await two.get_many([f"key:{i}" for i in range(50)])) == 50

        await eventually(all_there)
        redis_server.start()
        await in_mode(Mode.REDIS, [two])
        assert len(redis_server.client().keys("test:key:*")) == 50


async def test_a_key_that_may_not_be_touched_does_not_keep_the_others_away(
    redis_server: RedisServer, proxy: OutageProxy
) -> None:
    redis = redis_server.client()
    redis.acl_setuser(
        "gateway", enabled=True, passwords=["+password"], keys=["test:key:*", "{test*"], commands=["+@all"]
    )
    redis.set("test:forbidden", "untouched")
    url = proxy.url.replace("redis://", "redis://gateway:password@")
    async with lone_cache(url, codec="text") as cache:
        with pytest.raises(RedisCommandError, match="NOPERM"):
            await cache.set("forbidden", "mine")
        proxy.refuse()
        for i in range(20):
            await cache.set(f"key:{i}", "new")
        await cache.set("forbidden", "mine")
        proxy.forward()
        await in_mode(Mode.REDIS, [cache])
        assert await cache.get_many([f"key:{i}" for i in range(20)]) == {f"key:{i}": "new" for i in range(20)}
        assert cache.stats()["dirty"] == 0
    assert redis.get("test:forbidden") == b"untouched"
