"""Counters with a real Redis: what was counted is there once, whatever happened on the way."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from meshcache import MeshCache, Mode, RedisCommandError
from meshcache.testing.proxy import OutageProxy
from meshcache.testing.server import RedisServer
from tests.io.cache.instances import SECRET, lone_cache, mesh
from tests.io.cache.wires import Wires
from tests.support import eventually, free_port

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]
LONGEST = 2**63 - 1


async def in_mode(mode: Mode, *caches: MeshCache) -> None:
    for cache in caches:
        await eventually(lambda c=cache: c.mode is mode, 15, message=f"mode {mode}")


async def lose_redis(*caches: MeshCache) -> None:
    """Let each of them notice."""
    for cache in caches:
        await cache.get("whatever")
    await in_mode(Mode.MEMORY, *caches)


async def clean(*caches: MeshCache) -> None:
    """Wait until Redis has all that they know."""
    await in_mode(Mode.REDIS, *caches)
    for cache in caches:
        await eventually(lambda c=cache: c.stats()["dirty"] == 0, 15, message="nothing is dirty")


async def reads(cache: MeshCache, key: str, value: Any) -> None:
    found: Any = None

    async def there() -> bool:
        nonlocal found
        found = await cache.get(key)
        return bool(found == value)

    try:
        await eventually(there)
    except AssertionError:
        raise AssertionError(f"{key} is {found!r} and not {value!r} on {cache}") from None


async def at_once(calls: Sequence[Callable[[], Awaitable[Any]]]) -> list[Any]:
    answers: list[Any] = [None] * len(calls)

    async def one(place: int) -> None:
        answers[place] = await calls[place]()

    async with anyio.create_task_group() as tasks:
        for place in range(len(calls)):
            tasks.start_soon(one, place)
    return answers


# -- while Redis answers


@pytest.mark.parametrize("near_cache", ["off", "standby", "serve"])
async def test_as_redis_counts(redis_server: RedisServer, near_cache: str) -> None:
    redis = redis_server.client()
    async with lone_cache(redis_server.url, near_cache=near_cache) as cache:
        assert await cache.incr("hits") == 1
        assert await cache.incr("hits", 10) == 11
        assert await cache.decr("hits", 3) == 8
        assert await cache.get("hits") == 8
        assert redis.get("test:hits") == b"8"
        assert await cache.ttl("hits") == -1
        redis.incrby("test:hits", 2)
        assert await cache.incr("hits", 0) == 10
        await cache.set("hits", 100)
        assert await cache.incr("hits") == 101
        assert await cache.get_many(["hits", "none"]) == {"hits": 101}
        assert await cache.keys() == ["hits"]
        assert await cache.delete("hits") == 1
        assert await cache.decr("hits") == -1
        assert cache.stats()["dirty"] == 0


async def test_the_time_to_live_is_that_of_the_first(redis_server: RedisServer) -> None:
    redis = redis_server.client()
    async with lone_cache(redis_server.url, default_ttl=100) as cache:
        await cache.incr("hits", ttl=5)
        await cache.incr("hits", ttl=60)
        assert 4_000 < redis.pttl("test:hits") <= 5_000
        assert await cache.ttl("hits") == 5
        await cache.incr("default")
        assert await cache.ttl("default") == 100
        await cache.incr("for ever", ttl=float("inf"))
        assert await cache.ttl("for ever") == -1


@pytest.mark.parametrize("codec", ["text", "bytes", "json", "msgpack"])
async def test_every_codec(redis_server: RedisServer, codec: str) -> None:
    async with lone_cache(redis_server.url, codec=codec) as cache:
        await cache.incr("hits", 5)
        assert await cache.get("hits") == {"text": "5", "bytes": b"5"}.get(codec, 5)


async def test_what_is_no_number(redis_server: RedisServer, proxy: OutageProxy) -> None:
    """The same error from memory as from Redis, and nothing is changed."""
    async with lone_cache(proxy.url) as cache:
        await cache.set("text", "text")
        await cache.set("full", LONGEST)
        for mode in (Mode.REDIS, Mode.MEMORY):
            if mode is Mode.MEMORY:
                proxy.refuse()
                await lose_redis(cache)
            with pytest.raises(RedisCommandError, match=r"^ERR value is not an integer or out of range$"):
                await cache.incr("text")
            with pytest.raises(RedisCommandError, match=r"^ERR increment or decrement would overflow$"):
                await cache.incr("full")
            assert await cache.get("text") == "text"
            assert await cache.get("full") == LONGEST
            for wrong in (1.5, "1", True):
                with pytest.raises(TypeError):
                    await cache.incr("hits", wrong)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="64 bit"):
                await cache.decr("hits", -(2**63))
            with pytest.raises(ValueError, match="ttl"):
                await cache.incr("hits", ttl=0)


@pytest.mark.parametrize("near_cache", ["off", "standby"])
async def test_each_of_many_at_once_has_its_number(redis_server: RedisServer, near_cache: str) -> None:
    async with mesh(redis_server.url, redis_server.url, near_cache=near_cache, op_timeout=10) as (one, two):
        answers = await at_once([lambda c=cache: c.incr("hits") for cache in (one, two) for _ in range(100)])
        assert sorted(answers) == list(range(1, 201))
        assert await one.get("hits") == 200


async def test_a_copy_is_never_older_than_the_counter(redis_server: RedisServer) -> None:
    async with mesh(redis_server.url, redis_server.url, near_cache="serve") as (one, two):
        for number in range(1, 20):
            assert await one.incr("hits") == 2 * number - 1
            assert await one.get("hits") == 2 * number - 1
            assert await two.incr("hits") == 2 * number
            await reads(one, "hits", 2 * number)


async def test_it_is_counted_after_what_is_being_loaded(redis_server: RedisServer) -> None:
    async with lone_cache(redis_server.url, near_cache="off") as cache:  # otherwise Redis tells of the change
        begun, go = anyio.Event(), anyio.Event()

        @cache.cached(ttl=60, key="hits")
        async def load() -> int:
            begun.set()
            await go.wait()
            return 1000

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load.refresh)
            await begun.wait()
            assert await cache.incr("hits") == 1
            go.set()
        assert await cache.get("hits") == 1


# -- replies that do not come


@pytest.mark.parametrize("near_cache", ["off", "standby"])
async def test_a_reply_that_is_lost_does_not_count_twice(redis_server: RedisServer, near_cache: str) -> None:
    """The connection breaks after Redis has counted: it is sent again."""
    with Wires(redis_server.host, redis_server.port) as wires:
        async with lone_cache(wires.url, near_cache=near_cache) as cache:
            for number in range(1, 6):
                wires.lose_replies = 1
                assert await cache.incr("hits") == number
                await clean(cache)
        assert redis_server.client().get("test:hits") == b"5"


@pytest.mark.parametrize("arrives", [True, False])
async def test_an_increment_that_timed_out(redis_server: RedisServer, proxy: OutageProxy, arrives: bool) -> None:
    """Memory answers.  Redis has it once, whether the first one arrives after all, late, or never."""
    redis = redis_server.client()
    async with lone_cache(proxy.url, op_timeout=0.1) as cache:
        assert await cache.incr("hits", 10) == 10
        proxy.silence()
        assert await cache.incr("hits", 5) == 15
        assert await cache.incr("hits") == 16
        if not arrives:
            proxy.refuse()
        proxy.forward()
        await clean(cache)
        await reads(cache, "hits", 16)
        assert redis.get("test:hits") == b"16"
        assert await cache.incr("hits") == 17


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_caller_that_goes_away(redis_server: RedisServer, proxy: OutageProxy, arrives: bool) -> None:
    async with lone_cache(proxy.url) as cache:
        await cache.incr("hits")
        for _ in range(5):
            proxy.silence()
            with anyio.move_on_after(0.02):
                await cache.incr("hits")
            if not arrives:
                proxy.reset()
            proxy.forward()
        await clean(cache)
        assert await cache.get("hits") == 6
        assert redis_server.client().get("test:hits") == b"6"


async def test_a_frozen_redis_counts_once(redis_server: RedisServer) -> None:
    """What it had been sent it runs when it wakes: that is too late, or it is the first to come."""
    async with mesh(redis_server.url, redis_server.url, op_timeout=0.1) as (one, two):
        await one.incr("hits", 100)
        redis_server.pause()
        counted = 100
        for _ in range(10):
            await one.incr("hits")
            await two.incr("hits")
            counted += 2
        redis_server.resume()
        await clean(one, two)
        for cache in (one, two):
            await reads(cache, "hits", counted)
        assert redis_server.client().get("test:hits") == b"%d" % counted


# -- in an outage


async def test_two_count_and_both_recover_at_once(redis_server: RedisServer, proxy: OutageProxy) -> None:
    redis = redis_server.client()
    async with mesh(proxy.url, proxy.url) as (one, two):
        await one.set("hits", 1000)
        await two.delete("nothing")  # on the connection that tells of changes: it has told of this one then
        assert await two.get("hits") == 1000
        proxy.refuse()
        await lose_redis(one, two)
        for _ in range(25):
            await one.incr("hits")
            await two.incr("hits", 3)
        await one.incr("new", ttl=60)
        await two.decr("new", 5, ttl=60)
        for cache in (one, two):
            await reads(cache, "hits", 1100)
            await reads(cache, "new", -4)
            assert sorted(await cache.keys()) == ["hits", "new"]
            assert 59 <= await cache.ttl("new") <= 60
        proxy.forward()
        await clean(one, two)
        assert redis.get("test:hits") == b"1100"
        assert redis.get("test:new") == b"-4"
        assert redis.pttl("test:hits") == -1
        assert 50_000 < redis.pttl("test:new") <= 60_000
        for cache in (one, two):
            assert await cache.get_many(["hits", "new"]) == {"hits": 1100, "new": -4}
        assert await one.incr("hits") == 1101


async def test_redis_counts_on_while_one_is_cut_off(redis_server: RedisServer, proxy: OutageProxy) -> None:
    """Each sees what the other counts, and Redis has all of it while one is still cut off."""
    redis = redis_server.client()
    async with mesh(redis_server.url, proxy.url) as (one, two):
        await one.incr("hits", 995)
        assert await two.incr("hits", 5) == 1000
        proxy.refuse()
        await lose_redis(two)
        await eventually(lambda: [peer.mode for peer in one.peers] == [Mode.MEMORY])
        for number in range(1, 6):
            await one.incr("hits")
            await two.incr("hits", 10)
            await reads(two, "hits", 1000 + 11 * number)
            await eventually(lambda n=number: redis.get("test:hits") == b"%d" % (1000 + 11 * n))
            await reads(one, "hits", 1000 + 11 * number)
        assert (one.mode, two.mode) == (Mode.REDIS, Mode.MEMORY)
        redis.incrby("test:hits", 5)  # whoever else
        proxy.forward()
        await clean(one, two)
        for cache in (one, two):
            await reads(cache, "hits", 1060)


async def test_instances_that_do_not_hear_each_other(redis_server: RedisServer) -> None:
    with (
        OutageProxy(redis_server.host, redis_server.port) as first,
        OutageProxy(redis_server.host, redis_server.port) as last,
    ):
        async with lone_cache(first.url) as one, lone_cache(last.url) as two:
            await one.incr("hits", 7)
            first.refuse()
            last.refuse()
            await lose_redis(one, two)
            for _ in range(10):
                await one.incr("hits")
                await two.incr("hits")
            first.forward()
            await clean(one)
            assert await one.incr("hits") == 18
            last.forward()
            await clean(two)
            assert await two.get("hits") == await one.get("hits") == 28


async def test_redis_comes_and_goes(redis_server: RedisServer, proxy: OutageProxy) -> None:
    """Nothing is lost or counted twice over many short outages, with increments going on all the time."""
    async with mesh(proxy.url, proxy.url) as (one, two):
        counted = 0

        async def go_on(cache: MeshCache, stop: anyio.Event) -> None:
            nonlocal counted
            while not stop.is_set():
                await cache.incr("hits")
                counted += 1
                await anyio.sleep(0.002)

        stop = anyio.Event()
        async with anyio.create_task_group() as tasks:
            for cache in (one, one, two, two):
                tasks.start_soon(go_on, cache, stop)
            for trouble in (proxy.reset, proxy.refuse, proxy.silence, proxy.reset, proxy.silence, proxy.refuse):
                trouble()
                if trouble != proxy.reset:
                    await in_mode(Mode.MEMORY, one, two)
                proxy.forward()
                await in_mode(Mode.REDIS, one, two)
            stop.set()
        await clean(one, two)
        assert redis_server.client().get("test:hits") == b"%d" % counted


async def test_a_counter_expires_in_the_outage(redis_server: RedisServer, proxy: OutageProxy) -> None:
    redis = redis_server.client()
    async with mesh(proxy.url, proxy.url) as (one, two):
        await one.incr("window", 10, ttl=1)
        proxy.refuse()
        await lose_redis(one, two)
        assert await one.incr("window", ttl=60) == 11
        assert await one.ttl("window") == 1
        await reads(two, "window", 1)
        assert await two.incr("window", ttl=60) == 2
        assert await two.ttl("window") == 1
        await reads(one, "window", 12)
        for cache in (one, two):
            await reads(cache, "window", None)
        assert await one.incr("window", ttl=60) == 1
        await reads(two, "window", 1)
        proxy.forward()
        await clean(one, two)
        assert redis.get("test:window") == b"1"
        assert 50_000 < redis.pttl("test:window") <= 60_000


async def test_the_one_that_recovers_is_killed_half_way(redis_server: RedisServer) -> None:
    """The other brings to Redis what is missing, and nothing twice."""
    counters = 1200
    ports = [free_port(socket.SOCK_DGRAM) for _ in range(2)]
    redis_server.kill()
    with (
        Wires(redis_server.host, redis_server.port) as slow,
        OutageProxy(redis_server.host, redis_server.port) as proxy,
    ):
        options = {"port": ports[0], "discovery": [f"127.0.0.1:{ports[1]}"], "secret": SECRET}
        command = ["tests.io.cache.counting", slow.url, str(ports[1]), str(ports[0]), str(counters)]
        async with lone_cache(proxy.url, **options) as survivor:
            with subprocess.Popen(
                [sys.executable, "-m", *command], cwd=ROOT, stdout=subprocess.PIPE, text=True
            ) as process:
                try:
                    await survivor.wait_for_peers(1, timeout=30)
                    for number in range(counters):
                        await survivor.incr(f"counter:{number}", 2)
                    assert process.stdout is not None
                    assert await anyio.to_thread.run_sync(process.stdout.readline) == "counted\n"
                    await reads(survivor, f"counter:{counters - 1}", 3)
                    proxy.refuse()
                    slow.reply_delay = lambda: 0.3
                    redis_server.start()
                    redis = redis_server.client()
                    await eventually(lambda: len(redis.keys("test:counter:*")) > 0, 30)
                finally:
                    process.send_signal(signal.SIGKILL)
            assert 0 < len(redis.keys("test:counter:*")) < counters
            proxy.forward()
            await clean(survivor)
            assert redis.mget([f"test:counter:{number}" for number in range(counters)]) == [b"3"] * counters


async def test_a_server_that_was_started_anew_with_all_its_data(anyio_backend: Any) -> None:
    """Others were told of the changes, and do not know by whom or how: they must not delete a counter for that."""
    with RedisServer(persistent=True) as server:
        async with mesh(server.url, server.url, server.url) as (one, two, three):
            for number in range(1, 11):
                assert await one.incr("hits") == 2 * number - 1
                assert await two.incr("hits") == 2 * number
            await three.get("hits")
            server.client().save()
            server.restart()
            await lose_redis(*[cache for cache in (one, two, three) if cache.mode is Mode.REDIS])
            await one.incr("hits")
            await clean(one, two, three)
            for cache in (one, two, three):
                await reads(cache, "hits", 21)


@pytest.mark.parametrize(("on_recovery", "after"), [("replay", 12), ("invalidate", 2), ("discard", 10)])
async def test_on_recovery(redis_server: RedisServer, proxy: OutageProxy, on_recovery: str, after: int) -> None:
    """Increments are added with "invalidate" too: nobody could load them again."""
    async with lone_cache(proxy.url, on_recovery=on_recovery) as cache:
        await cache.incr("hits", 10)
        proxy.refuse()
        await lose_redis(cache)
        if on_recovery == "invalidate":
            await cache.set("hits", 500)
        await cache.incr("hits", 2)
        proxy.forward()
        await clean(cache)
        assert await cache.get("hits") == after


async def test_a_set_in_the_outage_and_what_was_counted_after_it(redis_server: RedisServer, proxy: OutageProxy) -> None:
    redis = redis_server.client()
    async with mesh(proxy.url, proxy.url) as (one, two):
        await one.incr("hits", 1000)
        await one.incr("gone", 1000)
        proxy.refuse()
        await lose_redis(one, two)
        await one.incr("hits", 50)
        await two.incr("hits", 50)
        await one.incr("gone")
        await reads(one, "hits", 1100)
        await one.set("hits", 5)
        await one.delete("gone")
        await reads(two, "hits", 5)
        await two.incr("hits")
        await one.incr("hits", 10)
        await two.incr("gone")
        await reads(one, "hits", 16)
        await reads(one, "gone", 1)
        proxy.forward()
        await clean(one, two)
        for cache in (one, two):
            assert await cache.get_many(["hits", "gone"]) == {"hits": 16, "gone": 1}
        assert redis.mget("test:hits", "test:gone") == [b"16", b"1"]


async def test_without_redis_at_all() -> None:
    async with mesh(None, None) as (one, two):
        await one.incr("hits")
        await two.incr("hits", 2)
        for cache in (one, two):
            await reads(cache, "hits", 3)
        await one.delete("hits")
        await reads(two, "hits", None)


async def test_a_redis_without_scripts(redis_server: RedisServer, proxy: OutageProxy) -> None:
    """It counts as Redis does; what an outage counted is not added, since nobody could say that it was only added once."""
    redis = redis_server.client()
    redis.acl_setuser("plain", enabled=True, passwords=["+x"], keys=["*"], commands=["+@all", "-@scripting"])
    async with lone_cache(proxy.url.replace("redis://", "redis://plain:x@")) as cache:
        assert await cache.incr("hits", ttl=60) == 1
        assert await cache.incr("hits") == 2
        assert 50 < await cache.ttl("hits") <= 60
        proxy.refuse()
        await lose_redis(cache)
        assert await cache.incr("hits") == 3
        proxy.forward()
        await clean(cache)
        assert await cache.get("hits") == 2
