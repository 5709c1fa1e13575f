"""What many concurrent callers of one cache have in common while Redis answers, and what they have not when it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from meshcache import MeshCache, Mode, RedisCommandError
from meshcache.redis.batch import BatchLink
from meshcache.redis.link import no_answer
from meshcache.testing.proxy import OutageProxy
from meshcache.testing.server import RedisServer
from tests.io.cache.instances import lone_cache
from tests.io.cache.wires import Wires
from tests.io.gate import Gate
from tests.support import eventually

pytestmark = pytest.mark.anyio

OP_TIMEOUT = 1.0
SCHEDULING = 0.8  # what a busy machine may add; below a second OP_TIMEOUT


async def at_once(*calls: Any) -> list[Any]:
    """The answers, in order."""
    answers: list[Any] = [None] * len(calls)

    async def one(i: int, call: Any) -> None:
        answers[i] = await call

    async with anyio.create_task_group() as tasks:
        for i, call in enumerate(calls):
            tasks.start_soon(one, i, call)
    return answers


def reads(server: RedisServer) -> int:
    """How often the server has read from a connection."""
    return int(server.client().info("stats")["total_reads_processed"])


@pytest.mark.parametrize("near_cache", ["off", "standby", "not permitted"])
async def test_a_hundred_callers_cost_redis_a_few_reads(redis_server: RedisServer, near_cache: str) -> None:
    url = redis_server.url
    if near_cache == "not permitted":
        redis_server.client().acl_setuser(
            "app", True, passwords=["+pw"], keys=["*"], commands=["+@all", "-client|tracking"]
        )
        url, near_cache = url.replace("//", "//app:pw@"), "standby"
    async with lone_cache(url, near_cache=near_cache, op_timeout=5.0) as cache:
        for _ in range(3):  # connections are open then
            before = reads(redis_server)
            assert await at_once(*(cache.set(f"k{i}", i, ttl=60) for i in range(100))) == [True] * 100
            between = reads(redis_server)
            assert await at_once(*(cache.get(f"k{i}") for i in range(100))) == list(range(100))
            after = reads(redis_server)
        assert between - before < 30
        assert after - between < 30


async def test_a_wrong_type_is_told_to_its_caller_only(redis_server: RedisServer) -> None:
    redis_server.client().lpush("test:list", "x")
    async with lone_cache(redis_server.url, op_timeout=5.0) as cache:
        await cache.set("k", "v")

        async def wrong() -> str:
            with pytest.raises(RedisCommandError, match="WRONGTYPE"):
                await cache.get("list")
            return "refused"

        calls = [wrong() if i % 10 == 7 else cache.get("k") for i in range(40)]
        assert await at_once(*calls) == ["refused" if i % 10 == 7 else "v" for i in range(40)]
        assert cache.mode is Mode.REDIS


@pytest.mark.parametrize("writes", [False, True], ids=["reads", "writes"])
async def test_a_silence_under_many_callers_is_an_outage_after_one_timeout(
    redis_server: RedisServer, proxy: OutageProxy, writes: bool
) -> None:
    async with lone_cache(proxy.url, op_timeout=OP_TIMEOUT, codec="text") as cache:
        await at_once(*(cache.set(f"k{i}", "v") for i in range(50)))
        slowest: list[float] = []

        async def call_on_and_on(i: int) -> None:
            while cache.mode is Mode.REDIS:
                start = anyio.current_time()
                assert await (cache.set(f"k{i}", "v", ttl=60) if writes else cache.get(f"k{i}")) in {True, "v"}
                slowest.append(anyio.current_time() - start)

        async with anyio.create_task_group() as tasks:
            for i in range(50):
                tasks.start_soon(call_on_and_on, i)
            await eventually(lambda: len(slowest) > 200)
            proxy.silence()
            silent = anyio.current_time()
            slowest.clear()
            await eventually(lambda: cache.mode is Mode.MEMORY)
            assert anyio.current_time() - silent < OP_TIMEOUT + SCHEDULING
        assert max(slowest) < OP_TIMEOUT + SCHEDULING


@pytest.mark.parametrize("others", [True, False], ids=["others are answered", "nobody is answered"])
async def test_a_connection_that_died_with_many_calls_is_an_outage_only_if_nobody_is_answered(
    redis_server: RedisServer, others: bool
) -> None:
    async with lone_cache(redis_server.url, op_timeout=OP_TIMEOUT) as cache:
        await cache.set("k", "v")
        gate = gate_of(cache)
        answered: list[Any] = []

        async def get() -> None:
            answered.append(await cache.get("k"))

        async with anyio.create_task_group() as tasks:
            alone = gate.close()
            for _ in range(2):
                tasks.start_soon(get)
            await eventually(lambda: gate.held == 2)
            dead = gate.close()
            for _ in range(20):
                tasks.start_soon(get)
            await eventually(lambda: sum(map(len, gate.batches)) == 20)
            gate.open()
            if others:
                assert await cache.get("k") == "v"
            young = gate.close()
            tasks.start_soon(get)  # is under way, and might be answered
            dead.let_go(no_answer(OP_TIMEOUT, "the server"))
            await eventually(lambda: len(answered) == 20)
            assert cache.mode is (Mode.REDIS if others else Mode.MEMORY)
            for hold in (alone, young):
                hold.let_go()


def gate_of(cache: MeshCache) -> Gate:
    """Put a gate behind the link that coalesces."""
    assert cache._runtime is not None
    link = cache._runtime._link
    assert isinstance(link, BatchLink)
    link._link = gate = Gate(link._link)
    return gate


@pytest.fixture
def wires(redis_server: RedisServer) -> Iterator[Wires]:
    with Wires(redis_server.host, redis_server.port) as wires:
        yield wires


def tracking(cache: MeshCache) -> bool:
    return bool(cache.stats()["near_tracking"])


async def test_writes_that_wait_for_the_round_trips_before_them_go_out_then(wires: Wires) -> None:
    async with lone_cache(wires.url, op_timeout=5.0) as cache:
        await eventually(lambda: tracking(cache))
        wires.tracked_delay = lambda: 0.2
        took: list[float] = []

        async def set_(i: int) -> None:
            start = anyio.current_time()
            assert await cache.set(f"k{i}", i)
            took.append(anyio.current_time() - start)

        async with anyio.create_task_group() as tasks:
            for i in range(8):
                tasks.start_soon(set_, i)
                await anyio.sleep(0.01)
        assert max(took) < 3.0
        assert cache.stats()["outages"] == 0


async def test_a_tracked_connection_that_writes_wait_for_in_vain_is_given_up(wires: Wires) -> None:
    async with lone_cache(wires.url, op_timeout=OP_TIMEOUT) as cache:
        await eventually(lambda: tracking(cache))
        wires.mute_tracked = True
        start = anyio.current_time()
        assert await at_once(*(cache.set(f"k{i}", i) for i in range(20))) == [True] * 20
        assert anyio.current_time() - start < OP_TIMEOUT + SCHEDULING
        wires.mute_tracked = False
        await eventually(lambda: tracking(cache) and not cache.stats()["dirty"])
        assert wires.tracked == 2  # what was sent on the first one, and not answered, must not arrive later
        assert await cache.get_many([f"k{i}" for i in range(20)]) == {f"k{i}": i for i in range(20)}


async def test_calls_under_way_are_answered_when_the_cache_is_closed(redis_server: RedisServer) -> None:
    cache = lone_cache(redis_server.url, near_cache="off", op_timeout=5.0)
    await cache.__aenter__()
    await cache.set("k", "v")
    answers: list[bool] = []

    async def set_(i: int) -> None:
        answers.append(await cache.set(f"k{i}", "v"))

    gate = gate_of(cache)
    hold = gate.close()
    async with anyio.create_task_group() as tasks:
        for i in range(100):
            tasks.start_soon(set_, i)
        await eventually(lambda: len(gate.alone) + sum(map(len, gate.batches)) == 100)
        tasks.start_soon(cache.aclose)
        await eventually(lambda: "closed" in repr(cache))
        hold.let_go()
    assert answers == [True] * 100
    assert redis_server.client().exists(*(f"test:k{i}" for i in range(100))) == 100
