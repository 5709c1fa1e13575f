"""An outage begins warm, and no copy of what Redis has outlives the value in Redis."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest
import redis as redis_py

from meshcache import MeshCache, Mode
from meshcache.testing.proxy import OutageProxy
from meshcache.testing.server import RedisServer
from tests.io.cache.instances import lone_cache, mesh
from tests.io.cache.wires import Wires
from tests.support import eventually

pytestmark = pytest.mark.anyio

SOON = {"op_timeout": 0.25}  # where silence is to be noticed


@pytest.fixture
def wires(redis_server: RedisServer) -> Iterator[Wires]:
    with Wires(redis_server.host, redis_server.port) as wires:
        yield wires


@pytest.fixture
def raw(redis_server: RedisServer) -> redis_py.Redis:
    return redis_server.client()


def near(url: str, **options: Any) -> MeshCache:
    """One for which a busy machine is no outage."""
    return lone_cache(url, **{"codec": "text", "op_timeout": 5.0, **options})


def tracking(cache: MeshCache) -> bool:
    return bool(cache.stats()["near_tracking"])


async def told(cache: MeshCache, raw: redis_py.Redis) -> None:
    """Wait until the cache has heard of every change made so far: Redis tells in order."""
    await cache.set("told", "no")  # a copy that is sure to be there, then a change of it
    before = cache.stats()["near_invalidated"]
    raw.set("test:told", "yes")
    await eventually(lambda: cache.stats()["near_invalidated"] > before, message="invalidation")


async def back(cache: MeshCache) -> None:
    await eventually(lambda: cache.mode is Mode.REDIS and tracking(cache), 15, message="tracking again")


# -- an outage begins warm


WRITES: list[Callable[[MeshCache], Any]] = [
    lambda cache: cache.set("key", "mine"),
    lambda cache: cache.set("key", "mine", ttl=30),
    lambda cache: cache.set("key", "mine", nx=True),
    lambda cache: cache.set_many({"key": "mine", "other": "mine"}),
]


@pytest.mark.parametrize("write", WRITES)
async def test_a_write_right_before_the_outage_is_there(
    redis_server: RedisServer, write: Callable[[MeshCache], Any]
) -> None:
    async with near(redis_server.url) as cache:
        await write(cache)
        redis_server.kill()
        assert await cache.get("key") == "mine"
        assert cache.mode is Mode.MEMORY


async def test_own_writes_stay_also_when_redis_has_had_time_to_tell(
    redis_server: RedisServer, raw: redis_py.Redis
) -> None:
    async with near(redis_server.url) as cache:
        for i in range(3):
            await cache.set("key", f"mine {i}")
        await cache.set("key", "mine", xx=True)
        await told(cache, raw)
        redis_server.kill()
        assert await cache.get("key") == "mine"


async def test_a_foreign_write_takes_the_copy_out(redis_server: RedisServer, raw: redis_py.Redis) -> None:
    async with near(redis_server.url) as cache, near(redis_server.url) as other:
        await cache.set_many({"by another": "mine", "by another instance": "mine", "deleted": "mine", "mine": "mine"})
        await cache.set("expired", "mine", ttl=60)
        raw.set("test:by another", "theirs")
        await other.set("by another instance", "theirs")
        raw.delete("test:deleted")
        raw.pexpire("test:expired", 1)
        await eventually(lambda: not raw.exists("test:expired"))
        await told(cache, raw)
        redis_server.kill()
        asked = ["by another", "by another instance", "deleted", "expired", "mine"]
        assert await cache.get_many(asked) == {"mine": "mine"}


async def test_a_foreign_write_and_then_an_own_one(redis_server: RedisServer, raw: redis_py.Redis) -> None:
    async with near(redis_server.url) as cache:
        for i in range(20):
            raw.set("test:key", "theirs")
            await told(cache, raw)
            await cache.set("key", f"mine {i}")
        await told(cache, raw)
        redis_server.kill()
        assert await cache.get("key") == "mine 19"


def refuse(server: RedisServer, proxy: OutageProxy) -> None:
    proxy.refuse()


def silence(server: RedisServer, proxy: OutageProxy) -> None:
    proxy.silence()


def kill(server: RedisServer, proxy: OutageProxy) -> None:
    server.kill()


@pytest.mark.parametrize("fault", [refuse, silence, kill])
@pytest.mark.parametrize("how", ["standby", "serve"])
async def test_failover_with_a_thousand_keys(
    redis_server: RedisServer,
    proxy: OutageProxy,
    raw: redis_py.Redis,
    fault: Callable[[RedisServer, OutageProxy], None],
    how: str,
) -> None:
    raw.mset({f"test:read:{i}": f"value {i}" for i in range(500)})
    async with near(proxy.url, near_cache=how, **SOON) as cache:
        await cache.get_many([f"read:{i}" for i in range(250)])
        for i in range(250, 500):
            await cache.get(f"read:{i}")
        for i in range(250):
            await cache.set(f"written:{i}", f"value {i}", ttl=600)
        await cache.set_many({f"written:{i}": f"value {i}" for i in range(250, 500)})
        fault(redis_server, proxy)
        keys = [f"{kind}:{i}" for kind in ("read", "written") for i in range(500)]
        found = {key: await cache.get(key) for key in keys}
        assert all(value in (None, f"value {key.partition(':')[2]}") for key, value in found.items())
        assert sum(value is not None for value in found.values()) >= 990


async def test_a_copy_is_served_for_its_ttl_or_stale_ttl(redis_server: RedisServer, raw: redis_py.Redis) -> None:
    raw.set("test:read", "value")
    async with near(redis_server.url, stale_ttl=1.0) as cache:
        await cache.get("read")
        await cache.set_many({"short": "value"}, ttl=0.5)
        await cache.set_many({"long": "value"}, ttl=60)
        await cache.set("for ever", "value")
        redis_server.kill()
        asked = ["read", "short", "long", "for ever"]
        assert list(await cache.get_many(asked)) == asked
        assert 58 <= await cache.ttl("long") <= 60

        async def found() -> list[str]:
            return list(await cache.get_many(asked))

        async def gone(left: list[str]) -> bool:
            return await found() == left

        await eventually(lambda: gone(["read", "long", "for ever"]), 1)
        await eventually(lambda: gone(["long"]), 2)


async def test_copies_are_nobody_elses_business(redis_server: RedisServer) -> None:
    """They are not replayed to a Redis that came back empty, not told to peers, and gone after the outage."""
    async with mesh(redis_server.url, redis_server.url, codec="text") as (one, two):
        await one.set_many({f"key:{i}": "value" for i in range(50)})
        assert await two.get("key:0") == "value"
        redis_server.kill()
        assert await one.get("key:1") == await two.get("key:0") == "value"
        await two.set("new", "value")

        async def heard() -> bool:
            return await one.get("new") == "value"

        await eventually(heard)
        assert await two.get("key:1") is None
        assert sorted(await two.keys()) == ["key:0", "new"]
        redis_server.start()
        for cache in (one, two):
            await back(cache)
            assert await cache.keys() == ["new"]
            assert cache.stats()["near_entries"] == cache.stats()["dirty"] == 0
        assert redis_server.client().keys("test:*") == [b"test:new"]


async def test_a_write_in_the_outage_replaces_the_copy(redis_server: RedisServer, proxy: OutageProxy) -> None:
    async with near(proxy.url, **SOON) as cache:
        await cache.set_many({"changed": "old", "deleted": "old", "swept:1": "old", "extended": "old"}, ttl=60)
        proxy.silence()  # so that the first write is in doubt
        await cache.set("changed", "new")
        assert await cache.delete("deleted") == 1
        assert await cache.delete_match("swept:*") == 1
        assert await cache.expire("extended", 600)
        assert await cache.ttl("extended") > 500
        assert not await cache.set("extended", "other", nx=True)
        assert await cache.get_many(["changed", "deleted", "swept:1", "extended"]) == {
            "changed": "new",
            "extended": "old",
        }
        proxy.forward()
        await back(cache)
        # Of a copy nobody knows how old it is: what was to live longer is gone, for somebody may have changed it.
        assert await cache.get_many(["changed", "deleted", "swept:1", "extended"]) == {"changed": "new"}


DELETES: list[Callable[[MeshCache], Any]] = [
    lambda cache: cache.delete("key"),
    lambda cache: cache.delete_many(["key", "key"]),
    lambda cache: cache.delete_match("k*"),
    lambda cache: cache.clear(),
    lambda cache: cache.expire("key", 0.001),
    lambda cache: cache.set("key", "short", ttl=0.001),
]


@pytest.mark.parametrize("delete", DELETES)
@pytest.mark.parametrize("how", ["standby", "serve"])
async def test_what_was_deleted_before_the_outage(
    redis_server: RedisServer, delete: Callable[[MeshCache], Any], how: str
) -> None:
    async with near(redis_server.url, near_cache=how) as cache:
        await cache.set("key", "value")
        assert await cache.get("key") == "value"
        await delete(cache)

        async def gone() -> bool:
            return await cache.get("key") is None

        await eventually(gone, 1)
        redis_server.kill()
        assert await cache.get("key") is None


# -- reads answered from copies


async def test_serve(redis_server: RedisServer, raw: redis_py.Redis) -> None:
    raw.set("test:read", "theirs")
    async with near(redis_server.url, near_cache="serve") as cache:
        await cache.set("key", "mine", ttl=60)
        for _ in range(10):
            assert await cache.get("key") == "mine"
            assert await cache.get_many(["read", "key", "nothing"]) == {"read": "theirs", "key": "mine"}
        stats = cache.stats()
        assert (stats["near_hits"], stats["redis_hits"], stats["memory_hits"]) == (29, 1, 0)
        assert await cache.exists("key", "read") == 2
        assert 58 <= await cache.ttl("key") <= 60
        assert sorted(await cache.keys()) == ["key", "read"]

        raw.set("test:key", "theirs")
        raw.delete("test:read")

        async def seen() -> bool:
            return await cache.get_many(["key", "read"]) == {"key": "theirs"}

        await eventually(seen, 1)
        await cache.set("key", "mine again")
        assert await cache.get("key") == "mine again"
        assert not await cache.set("key", "not written", nx=True)
        assert not await cache.set("read", "not written", xx=True)
        assert await cache.get_many(["key", "read"]) == {"key": "mine again"}


async def test_standby_asks_redis(redis_server: RedisServer, raw: redis_py.Redis) -> None:
    async with near(redis_server.url, near_cache="standby") as cache:
        await cache.set("key", "mine")
        raw.set("test:key", "theirs")
        assert await cache.get("key") == "theirs"
        assert cache.stats()["near_hits"] == 0


async def test_keys_that_are_only_copies_are_not_listed(redis_server: RedisServer, raw: redis_py.Redis) -> None:
    async with near(redis_server.url) as cache:
        await cache.set_many({"kept": "1", "deleted": "1"})
        raw.delete("test:deleted")
        assert await cache.keys() == ["kept"]


async def test_a_flush(redis_server: RedisServer, raw: redis_py.Redis) -> None:
    async with near(redis_server.url, near_cache="serve") as cache:
        await cache.set("key", "value")
        raw.flushall()
        await eventually(lambda: cache.stats()["near_entries"] == 0)
        assert await cache.get("key") is None


async def test_off(redis_server: RedisServer) -> None:
    async with near(redis_server.url, near_cache="off") as cache:
        await cache.set("key", "value")
        assert await cache.get("key") == "value"
        assert not tracking(cache)
        redis_server.kill()
        assert await cache.get("key") is None


# -- tracking breaks


async def test_the_tracked_connection_is_cut_while_redis_lives(wires: Wires, raw: redis_py.Redis) -> None:
    async with near(wires.url, near_cache="serve") as cache:
        await cache.set("key", "mine")
        wires.cut_tracked()
        raw.set("test:key", "theirs")
        await eventually(lambda: not tracking(cache))
        assert await cache.get("key") == "theirs"
        await back(cache)
        assert cache.stats()["near_dropped"] == 1
        assert cache.stats()["outages"] == 0
        await cache.set("key", "mine")
        assert cache.stats()["near_entries"] == 1


async def test_the_tracked_connection_falls_silent_while_redis_lives(wires: Wires, raw: redis_py.Redis) -> None:
    async with near(wires.url, near_cache="serve", **SOON) as cache:
        await cache.set("key", "mine")
        wires.mute_tracked = True
        raw.set("test:key", "theirs")
        await eventually(lambda: not tracking(cache), 5)
        assert await cache.get("key") == "theirs"
        await eventually(lambda: cache.stats()["near_entries"] == 0, 1)
        wires.mute_tracked = False
        await back(cache)
        assert cache.stats()["outages"] == 0


async def test_a_write_on_a_tracked_connection_that_is_cut(wires: Wires, raw: redis_py.Redis) -> None:
    """It gets its second try on another one: no outage, and nothing lost."""
    async with near(wires.url, near_cache="serve") as cache:
        for i in range(4):
            await back(cache)
            async with anyio.create_task_group() as tasks:
                for j in range(10):
                    tasks.start_soon(cache.set, f"key:{j}", f"{i}")
                wires.cut_tracked()
            assert await cache.get_many([f"key:{j}" for j in range(10)]) == {f"key:{j}": f"{i}" for j in range(10)}
            assert raw.mget([f"test:key:{j}" for j in range(10)]) == [f"{i}".encode()] * 10
        assert cache.stats()["outages"] == 0


async def test_tracking_is_not_permitted(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    redis_server.client().execute_command(
        "ACL", "SETUSER", "gw", "on", ">pw", "~test:*", "~{test*", "+@all", "-client|tracking"
    )
    await no_near_cache(f"redis://gw:pw@127.0.0.1:{redis_server.port}/0", caplog)


async def test_tracking_is_not_understood(wires: Wires, caplog: pytest.LogCaptureFixture) -> None:
    wires.refuse_tracked = True
    await no_near_cache(wires.url, caplog)


async def no_near_cache(url: str, caplog: pytest.LogCaptureFixture) -> None:
    def warnings() -> list[str]:
        return [record.message for record in caplog.records if record.levelno >= logging.WARNING]

    async with near(url, near_cache="serve") as cache:
        await eventually(warnings)
        for _ in range(3):
            await cache.set("key", "value")
            assert await cache.get("key") == "value"
        assert not tracking(cache)
        assert cache.mode is Mode.REDIS
        assert cache.stats()["near_entries"] == cache.stats()["outages"] == 0
        (warning,) = warnings()
        assert warning.startswith("the near cache is off")


async def test_with_a_password_and_a_database(redis_server: RedisServer, raw: redis_py.Redis) -> None:
    raw.execute_command("ACL", "SETUSER", "gw", "on", ">p w", "~test:*", "~{test*", "+@all")
    async with near(f"redis://gw:p%20w@127.0.0.1:{redis_server.port}/3", near_cache="serve") as cache:
        assert tracking(cache)
        await cache.set("key", "mine")
        raw.select(3)
        assert raw.get("test:key") == b"mine"
        raw.set("test:key", "theirs")
        await eventually(lambda: cache.stats()["near_invalidated"] == 1)
        assert await cache.get("key") == "theirs"


async def test_the_user_that_the_docs_recommend(redis_server: RedisServer, raw: redis_py.Redis) -> None:
    docs = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    (line,) = [line for line in docs.splitlines() if line.startswith("ACL SETUSER gateway")]
    raw.execute_command(*line.split())
    url = f"redis://gateway:password@127.0.0.1:{redis_server.port}/0"
    async with near(url, namespace="gateway", near_cache="serve") as cache:
        assert tracking(cache)
        await cache.set("key", "mine", ttl=60)
        raw.set("gateway:key", "theirs")
        await eventually(lambda: cache.stats()["near_invalidated"] == 1)
        assert await cache.get("key") == "theirs"


# -- everything overtakes everything


class Storm:
    """Readers and writers of a few keys, by this cache and by another one.

    The writes of a key are made one after the other, so that its values, whole numbers, only grow.  Then no reader may
    see a number smaller than one that this cache has written.
    """

    KEYS = tuple(f"key:{i}" for i in range(6))

    def __init__(self, cache: MeshCache, other: MeshCache, seed: int) -> None:
        self.cache = cache
        self.other = other
        self.random = Random(seed)
        self.locks = {key: anyio.Lock() for key in self.KEYS}
        self.number = 0
        self.written = dict.fromkeys(self.KEYS, 0)
        self.reads = self.writes = 0

    async def run(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as tasks:
                for _ in range(12):
                    tasks.start_soon(self.read)
                for _ in range(4):
                    tasks.start_soon(self.write)

    async def read(self) -> None:
        while True:
            keys = self.random.sample(self.KEYS, self.random.choice((1, 1, 3)))
            least = {key: self.written[key] for key in keys}
            if len(keys) == 1:
                found = {keys[0]: await self.cache.get(keys[0])}
            else:
                found = await self.cache.get_many(keys)
            for key, text in found.items():
                if text is not None:
                    assert int(text) >= least[key], f"{key}: {text} after {least[key]}"
            self.reads += 1
            await anyio.sleep(0.001 * self.random.random())

    async def write(self) -> None:
        while True:
            key = self.random.choice(self.KEYS)
            async with self.locks[key]:
                with anyio.CancelScope(shield=True):  # the end of the storm is no cancelled write
                    await self.write_one(key)
            await anyio.sleep(0.003 * self.random.random())

    async def write_one(self, key: str) -> None:
        self.number += 1
        number = self.number
        what = self.random.random()
        if what < 0.5:
            await self.other.set(key, f"{number}")
        elif what < 0.55:
            await self.other.delete(key)
        elif what < 0.6:
            await self.cache.delete(key)
        elif what < 0.65:
            await self.cache.expire(key, 60)
        elif what < 0.7:
            await self.cache.set_many({key: f"{number}"}, ttl=60)
            self.written[key] = number
        else:
            await self.cache.set(key, f"{number}", ttl=self.random.choice((None, 60)))
            self.written[key] = number
        self.writes += 1


DELAYS: dict[str, Callable[[Wires, Random], None]] = {
    "none": lambda wires, random: None,
    "replies are late": lambda wires, random: setattr(wires, "reply_delay", lambda: 0.004 * random.random()),
    "invalidations are late": lambda wires, random: setattr(wires, "tracked_delay", lambda: 0.004 * random.random()),
}


@pytest.fixture
async def other(redis_server: RedisServer, anyio_backend: Any) -> AsyncIterator[MeshCache]:
    async with near(redis_server.url, near_cache="off", op_timeout=5.0) as other:
        yield other


@pytest.mark.parametrize("delay", list(DELAYS))
@pytest.mark.parametrize("how", ["standby", "serve"])
async def test_readers_and_writers(
    redis_server: RedisServer, wires: Wires, raw: redis_py.Redis, other: MeshCache, how: str, delay: str
) -> None:
    DELAYS[delay](wires, Random(1))
    async with near(wires.url, near_cache=how, op_timeout=5.0) as cache:
        storm = Storm(cache, other, seed=1)
        await storm.run(2.0)
        assert storm.reads > 500
        assert storm.writes > 200
        await told(cache, raw)
        in_redis = {key: (raw.get(f"test:{key}") or b"").decode() for key in storm.KEYS}
        if how == "serve":
            assert cache.stats()["near_hits"] > 50
            assert {key: await cache.get(key, "") for key in storm.KEYS} == in_redis
        redis_server.kill()
        for key in storm.KEYS:
            assert await cache.get(key) in (None, in_redis[key])


async def test_writers_that_are_cancelled(
    redis_server: RedisServer, wires: Wires, raw: redis_py.Redis, other: MeshCache
) -> None:
    random = Random(2)
    wires.tracked_delay = lambda: 0.004 * random.random()
    async with near(wires.url, near_cache="serve", op_timeout=5.0) as cache:

        async def write(by: MeshCache) -> None:
            for i in range(200):
                with anyio.move_on_after(0.005 * random.random()):
                    await by.set(f"key:{i % 3}", f"{random.random()}")
                await cache.get(f"key:{i % 3}")

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(write, cache)
            tasks.start_soon(write, other)
        await back(cache)
        await told(cache, raw)
        assert await cache.get_many([f"key:{i}" for i in range(3)]) == {
            f"key:{i}": raw.get(f"test:key:{i}").decode() for i in range(3)
        }
        assert cache.stats()["outages"] == cache.stats()["near_dropped"] == 0
