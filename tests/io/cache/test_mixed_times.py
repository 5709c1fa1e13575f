"""Some instances reach Redis while others do not; and a Redis that comes back having forgotten."""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import pytest

from meshcache import MeshCache, Mode
from meshcache.redis.connect import open_link
from meshcache.redis.names import Names, client_name
from meshcache.redis.registry import register
from meshcache.standings import Record, Standing
from meshcache.testing.proxy import OutageProxy
from meshcache.testing.server import RedisServer
from tests.io.cache.instances import SECRET, lone_cache, mesh
from tests.support import eventually, free_port

pytestmark = pytest.mark.anyio


async def in_mode(mode: Mode, *caches: MeshCache) -> None:
    for cache in caches:
        await eventually(lambda c=cache: c.mode is mode, 15, message=f"mode {mode}")


async def reads(caches: Sequence[MeshCache], key: str, value: Any) -> None:
    """Each of them reads this value, soon."""
    for cache in caches:

        async def there(cache: MeshCache = cache) -> bool:
            return bool(await cache.get(key) == value)

        await eventually(there, 1, message=f"{key} == {value!r} on {cache}")


async def cut_off(cache: MeshCache, proxy: OutageProxy, others: Sequence[MeshCache]) -> None:
    """One instance loses Redis, and the others know."""
    proxy.refuse()
    await cache.get("whatever")
    assert cache.mode is Mode.MEMORY
    for other in others:
        await eventually(lambda o=other: all(p.mode is Mode.MEMORY for p in o.peers if p.node_id == cache.node_id))


async def test_what_the_others_write_reaches_the_one_that_lost_redis(
    redis_server: RedisServer, proxy: OutageProxy
) -> None:
    redis = redis_server.client()
    async with mesh(redis_server.url, proxy.url, codec="text") as (one, two):
        await cut_off(two, proxy, [one])
        await one.set("set", "new", ttl=60)
        assert redis.get("test:set") == b"new"
        await reads([two], "set", "new")
        assert 50 < await two.ttl("set") <= 60
        await one.delete("set")
        assert redis.get("test:set") is None
        await reads([two], "set", None)
        assert await one.set("once", "first", nx=True)
        assert not await one.set("once", "second", nx=True)
        assert not await one.set("never", "x", xx=True)
        await reads([two], "once", "first")
        assert await one.expire("once", 30)
        assert not await one.expire("never", 30)
        await eventually(lambda: 0 < redis.ttl("test:once") <= 30)

        async def expires() -> bool:
            return 0 < await two.ttl("once") <= 30

        await eventually(expires, 1)
        assert await one.delete("once", "never") == 1
        await one.set_many({"a:1": "1", "a:2": "2", "b": "3"})
        await reads([two], "b", "3")
        assert await one.delete_match("a:*") == 2
        await reads([two], "a:1", None)
        assert redis.keys("test:*") == [b"test:b"]
        assert (one.mode, two.mode) == (Mode.REDIS, Mode.MEMORY)


async def test_what_was_changed_just_before_they_knew(redis_server: RedisServer, proxy: OutageProxy) -> None:
    """The one that lost Redis has copies; what the other changed before it heard of that, it is told afterwards."""
    async with mesh(redis_server.url, proxy.url, codec="text") as (one, two):
        await one.set_many({"changed": "old", "deleted": "old"})
        assert len(await two.get_many(["changed", "deleted"])) == 2
        proxy.silence()  # no change is told to the one any more, and it does not know
        await one.set("changed", "new")
        await one.delete("deleted")
        proxy.refuse()
        await two.get("whatever")
        await in_mode(Mode.MEMORY, two)
        await reads([two], "changed", "new")
        await reads([two], "deleted", None)


async def test_one_that_has_no_redis_at_all_shares_with_those_that_have(redis_server: RedisServer) -> None:
    redis = redis_server.client()
    async with mesh(redis_server.url, None, codec="text") as (one, without):
        await without.set("k", "of the one without")
        await reads([one], "k", "of the one without")
        assert redis.get("test:k") == b"of the one without"
        await one.set("k", "of the other")
        await reads([without], "k", "of the other")
        await without.delete("k")
        await reads([one], "k", None)
        assert not redis.exists("test:k")


async def test_what_was_written_while_nobody_could_hear_it_is_told_when_they_meet(
    redis_server: RedisServer, proxy: OutageProxy
) -> None:
    proxy.refuse()
    redis = redis_server.client()
    redis.set("test:deleted", "old")
    ports = [free_port(socket.SOCK_DGRAM) for _ in range(2)]
    options: dict[str, Any] = {
        "secret": SECRET,
        "discovery": [f"127.0.0.1:{port}" for port in ports],
        "codec": "text",
    }
    async with lone_cache(proxy.url, port=ports[0], **options) as cut_off:
        await cut_off.set_many({f"key:{n}": "new" for n in range(1000)})
        await cut_off.delete("deleted")
        await cut_off.set("large", "v" * 5000)
        async with lone_cache(redis_server.url, port=ports[1], **options) as other:
            await cut_off.wait_for_peers(1)
            await eventually(lambda: len(redis.keys("test:key:*")) == 1000)
            await eventually(lambda: redis.get("test:large") == b"v" * 5000)
            assert redis.exists("test:deleted") == 0
            assert await other.get("key:999") == "new"
            assert cut_off.mode is Mode.MEMORY


async def test_both_ways_while_one_is_cut_off_and_after(redis_server: RedisServer, proxy: OutageProxy) -> None:
    redis = redis_server.client()
    async with mesh(redis_server.url, redis_server.url, proxy.url, codec="text") as (one, other, two):
        await cut_off(two, proxy, [one, other])
        for n in range(50):
            await one.set("key", f"one {n}")
            await reads([other, two], "key", f"one {n}")
            await two.set("key", f"two {n}")
            await reads([one, other], "key", f"two {n}")
            assert redis.get("test:key") == f"two {n}".encode()
        await one.set("last", "of one")
        await reads([two], "last", "of one")  # who has not heard of a write may have a clock that is behind it
        await two.set("last", "of two")
        await two.delete("key")
        proxy.forward()
        await in_mode(Mode.REDIS, two)
        for cache in (one, other, two):
            assert await cache.get("key") is None
            assert await cache.get("last") == "of two"


async def test_one_that_comes_back_late_overwrites_nothing_that_is_newer(
    redis_server: RedisServer, proxy: OutageProxy
) -> None:
    """Its old writes meet what the others wrote plainly: a newer value or a miss, never its own."""
    async with (
        lone_cache(redis_server.url, codec="text") as one,
        lone_cache(proxy.url, codec="text") as two,
    ):
        await in_mode(Mode.REDIS, one, two)  # a slow machine starts them in memory
        proxy.refuse()
        for key in ("plain", "swept", "deleted", "ours"):
            await two.set(key, "old")
        await in_mode(Mode.MEMORY, two)
        await one.set("plain", "new")
        await one.set("swept", "x")
        await one.delete_match("swept")
        await one.delete("deleted")
        assert one.mode is Mode.REDIS
        proxy.forward()
        await in_mode(Mode.REDIS, one, two)
        for cache in (one, two):
            assert await cache.get("plain") in ("new", None)
            assert await cache.get("swept") is None
            assert await cache.get("deleted") is None


async def test_a_new_time_to_live_makes_no_old_value_the_newest(redis_server: RedisServer, proxy: OutageProxy) -> None:
    """It is given in the moment before a write of the one that is cut off arrives."""
    async with mesh(redis_server.url, proxy.url, codec="text") as (one, two):
        await cut_off(two, proxy, [one])
        await one.set("key", "old")
        await reads([two], "key", "old")
        await anyio.sleep(0.002)  # a later millisecond: the next write is newer by its stamp alone
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(two.set, "key", "new")
            tasks.start_soon(one.expire, "key", 100)
        await reads([one, two], "key", "new")
        proxy.forward()
        await in_mode(Mode.REDIS, two)
        assert await one.get("key") == await two.get("key") == "new"


async def test_a_new_time_to_live_in_an_outage(redis_server: RedisServer, proxy: OutageProxy) -> None:
    async with mesh(proxy.url, proxy.url, codec="text") as (one, two):
        await one.set("copied", "by one")
        proxy.refuse()
        await one.get("whatever")
        await two.get("whatever")
        await one.set("written", "here")
        await reads([two], "written", "here")
        assert await two.expire("written", 50)
        assert await one.expire("copied", 50)
        assert 0 < await one.ttl("copied") <= 50

        async def told() -> bool:
            return 0 < await one.ttl("written") <= 50

        await eventually(told)
        proxy.forward()
        await in_mode(Mode.REDIS, one, two)
        assert 0 < await one.ttl("written") <= 50
        assert await one.ttl("copied") == -2  # what it is now nobody can say: it was deleted


async def test_writes_are_plain_again_once_everybody_is_back(redis_server: RedisServer, proxy: OutageProxy) -> None:
    redis = redis_server.client()
    async with mesh(redis_server.url, proxy.url) as (one, two):
        await cut_off(two, proxy, [one])
        proxy.forward()
        await in_mode(Mode.REDIS, two)

        async def leaves_no_fence() -> bool:
            redis.flushall()
            await one.set("key", 1)
            return not [key for key in redis.keys("*") if b"fence" in key]

        await eventually(leaves_no_fence)


Forgets = Callable[[RedisServer], None]


def snapshot(server: RedisServer) -> None:
    server.client().save()


async def test_a_redis_that_comes_back_from_a_snapshot_shows_nothing_that_was_replaced(
    redis_server: RedisServer,
) -> None:
    redis_server.client().set("test:untouched", "kept")
    async with mesh(redis_server.url, redis_server.url, codec="text") as (one, two):
        await one.set_many({"deleted": "old", "changed": "old", "swept:1": "old"})
        snapshot(redis_server)
        await one.delete("deleted")
        await two.set("changed", "new")
        await one.delete_match("swept:*")
        redis_server.kill()
        redis_server.start()
        for cache in (one, two):
            await cache.get("whatever")
        await in_mode(Mode.REDIS, one, two)
        for cache in (one, two):
            assert await cache.get("deleted") is None
            assert await cache.get("changed") in ("new", None)
            assert await cache.keys("swept:*") == []
            assert await cache.get("untouched") == "kept"


async def test_one_that_did_not_notice_the_restart_is_not_fooled(redis_server: RedisServer) -> None:
    """Its connections are broken, and a fresh one works: but it is another Redis than before."""
    async with lone_cache(redis_server.url, codec="text", near_cache="off") as cache:
        await cache.set("deleted", "old")
        snapshot(redis_server)
        await cache.delete("deleted")
        redis_server.kill()
        redis_server.start()
        assert cache.mode is Mode.REDIS
        assert await cache.get("deleted") is None
        await in_mode(Mode.REDIS, cache)
        assert redis_server.client().get("test:deleted") is None
        assert cache.stats()["outages"] == 1


async def test_it_tells_what_others_changed_too(redis_server: RedisServer, anyio_backend: Any) -> None:
    """The writer is gone when the snapshot comes back: whoever heard of the change by tracking covers it."""
    async with lone_cache(redis_server.url, codec="text") as other:
        async with lone_cache(redis_server.url, codec="text") as cache:
            await cache.set("deleted", "old")
            assert await other.get("deleted") == "old"
            snapshot(redis_server)
            await cache.delete("deleted")
        await eventually(lambda: other.stats()["near_invalidated"] >= 1)
        redis_server.kill()
        redis_server.start()
        await other.get("whatever")
        await in_mode(Mode.REDIS, other)
        assert await other.get("deleted") is None


async def test_who_wrote_last_may_be_gone_when_redis_forgets(redis_server: RedisServer) -> None:
    """This instance had written the key before, with a stamp, and the snapshot has that: it must go all the same."""
    async with mesh(redis_server.url, redis_server.url, codec="text") as (one, two):
        await one.set("key", "first")
        snapshot(redis_server)
        await two.set("key", "second")
        await eventually(lambda: one.stats()["near_invalidated"] >= 1)
        redis_server.kill()
        await two.aclose()
        redis_server.start()
        await one.get("whatever")
        await in_mode(Mode.REDIS, one)
        assert await one.get("key") in ("second", None)


async def test_what_timed_out_is_in_redis_afterwards(redis_server: RedisServer, proxy: OutageProxy) -> None:
    """It may arrive late, so its key is written once more, whoever has brought it there already."""
    redis = redis_server.client()
    async with mesh(proxy.url, proxy.url, proxy.url, codec="text") as caches:
        await in_mode(Mode.REDIS, *caches)
        for turn in range(3):
            proxy.silence()
            async with anyio.create_task_group() as tasks:
                for n, cache in enumerate(caches):
                    tasks.start_soon(cache.set, f"key:{n}", f"{turn} of {n}")
            await in_mode(Mode.MEMORY, *caches)
            for n in range(3):
                await reads(caches, f"key:{n}", f"{turn} of {n}")
            proxy.forward()
            await in_mode(Mode.REDIS, *caches)
            await eventually(lambda: not any(cache.stats()["dirty"] for cache in caches))
            assert redis.mget("test:key:0", "test:key:1", "test:key:2") == [f"{turn} of {n}".encode() for n in range(3)]


async def test_a_write_that_was_given_up_does_not_arrive_after_a_newer_one(
    redis_server: RedisServer, proxy: OutageProxy
) -> None:
    """It waits in a slow wire while another instance writes."""
    redis = redis_server.client()
    async with lone_cache(redis_server.url, codec="text") as one, lone_cache(proxy.url, codec="text") as two:
        await two.set("key", "first")
        redis.execute_command("CLIENT", "PAUSE", 600, "WRITE")
        await two.set("key", "given up")
        redis.execute_command("CLIENT", "UNPAUSE")
        await one.set("key", "newer")
        await eventually(lambda: two.stats()["dirty"] == 0 and two.mode is Mode.REDIS)
        assert await one.get("key") in ("newer", None)
        assert await two.get("key") in ("newer", None)


@pytest.mark.parametrize("near_cache", ["standby", "off"])
async def test_a_write_that_arrives_after_the_end_of_its_writer_does_not_stay(
    redis_server: RedisServer, near_cache: str
) -> None:
    """A process hands a write to its system and is killed, the network brings it after a newer one."""
    redis, orphan = redis_server.client(), redis_server.client()
    orphan.client_setname(client_name(DEAD))
    number = orphan.client_id()
    async with lone_cache(redis_server.url, codec="text", near_cache=near_cache) as one:
        await one.set_many({"replaced": "newer", "kept": "newer"})
        orphan.set("test:replaced", "of one that is dead")
        orphan.set("test:foreign", "of one that is dead")
        await one.set("hits", "5")
        async with lone_cache(redis_server.url, codec="text") as other:
            assert await other.incr("hits") == 6
        await miss_the_dead(redis_server)
        await eventually(lambda: redis.get("test:replaced") is None, 10)
        assert await one.get("replaced") is None
        assert await one.get("kept") == ("newer" if near_cache == "standby" else None)
        assert await one.get("hits") == "6"
        assert redis.get("test:foreign") == b"of one that is dead"
        await eventually(lambda: number not in {int(client["id"]) for client in redis.client_list()})
        await one.set("kept", "again")
        assert redis.get("test:kept") == b"again"


async def test_a_counter_that_was_left_alone_then_is_left_alone_if_redis_forgets(redis_server: RedisServer) -> None:
    """What is deleted on behalf of the dead is deleted once more if Redis may have forgotten that; a counter was not."""
    redis, window = redis_server.client(), 1.0
    async with lone_cache(redis_server.url, codec="text", amnesia_window=window) as one:
        await one.set_many({"replaced": "newer", "hits": "5"})
        redis.set("test:replaced", "of one that is dead")
        async with lone_cache(redis_server.url, codec="text") as other:
            assert await other.incr("hits") == 6
        await anyio.sleep(
            window + 0.1
        )  # so that Redis may have forgotten what is done for the dead, and nothing of the above
        await miss_the_dead(redis_server)
        await eventually(lambda: redis.get("test:replaced") is None, 10)
        snapshot(redis_server)
        redis_server.kill()
        redis_server.start()
        await one.get("whatever")
        await in_mode(Mode.REDIS, one)
        assert await one.get("hits") == "6"
        assert await one.get("replaced") is None


DEAD = 0xDEAD


async def miss_the_dead(server: RedisServer) -> None:
    """One that wrote plainly has told Redis of itself for the last time."""
    link = open_link(server.url, timeout=1.0)
    record = Record(DEAD, Standing(plain=True, clean=True), time.time_ns() // 1_000_000, lease=0.1)
    await register(link, Names("test"), record, number=1, keep=600.0)
    await link.aclose()


Writes = Callable[[MeshCache], Awaitable[Any]]


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda cache: cache.set("key", "x"), id="set"),
        pytest.param(lambda cache: cache.set_many({"key": "x"}), id="set_many"),
        pytest.param(lambda cache: cache.delete("key"), id="delete"),
        pytest.param(lambda cache: cache.expire("key", 100), id="expire"),
        pytest.param(lambda cache: cache.delete_match("k*"), id="delete_match"),
        pytest.param(lambda cache: cache.clear(), id="clear"),
    ],
)
async def test_redis_goes_in_the_middle_of_a_stamped_write(redis_server: RedisServer, write: Writes) -> None:
    """The others lost it before: this one notices by its own write, which nobody may lose."""
    with (
        OutageProxy(redis_server.host, redis_server.port) as first,
        OutageProxy(redis_server.host, redis_server.port) as second,
    ):
        async with mesh(first.url, second.url, codec="text") as (one, two):
            await one.set("key", "old")
            await cut_off(two, second, [one])
            first.refuse()
            await write(one)
            expected = await one.get("key")
            assert expected in ("x", None, "old")
            await in_mode(Mode.MEMORY, one)
            await reads([two], "key", expected)
            first.forward()
            second.forward()
            await in_mode(Mode.REDIS, one, two)
            assert await one.get("key") in (expected, None)
            assert await two.get("key") in (expected, None)
