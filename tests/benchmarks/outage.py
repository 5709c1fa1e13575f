"""What an outage of Redis costs, measured: ``python -m tests.benchmarks.outage``.

Real servers, real sockets, loopback.  Prints a table (``--json``: one document) and asserts nothing: machines are noisy.
Progress goes to standard error.  Times in the table are in ms.
"""

from __future__ import annotations

import argparse
import logging
import statistics
from collections.abc import Awaitable, Callable
from time import perf_counter

import anyio

from meshcache import MeshCache, Mode
from meshcache.testing.proxy import OutageProxy
from meshcache.testing.server import RedisServer
from tests.benchmarks.figures import Figure, percentiles, say, show
from tests.io.cache.instances import lone_cache, mesh
from tests.support import eventually, free_port

OP_TIMEOUT = 0.25


async def main(rounds: int, back_rounds: int) -> list[Figure]:
    """All figures, one scenario after the other."""
    figures: list[Figure] = []
    for scenario in (refused, silent, absent, propagation, apart, recovery):
        say(f"{scenario.__name__} …")
        figures += await scenario(rounds)
    say("the way back …")
    figures += await way_back(back_rounds)
    return figures


async def refused(rounds: int) -> list[Figure]:
    return [await under_load("refused", OutageProxy.refuse, 20, rounds)]


async def silent(rounds: int) -> list[Figure]:
    return [await under_load("silent", OutageProxy.silence, OP_TIMEOUT * 1000 + 50, rounds)]


async def under_load(name: str, fault: Callable[[OutageProxy], None], goal_ms: float, rounds: int) -> Figure:
    """A get and a set every 2 ms, for a second before the fault and two after."""
    worst: list[float] = []
    errors = calls = 0
    for _ in range(rounds):
        with RedisServer() as server, OutageProxy(server.host, server.port) as proxy:
            async with lone_cache(proxy.url, op_timeout=OP_TIMEOUT) as cache:
                slowest = 0.0
                for i in range(1500):
                    if i == 500:
                        fault(proxy)
                    for call in (cache.set(f"key:{i % 50}", i), cache.get(f"key:{i % 50}")):
                        start = perf_counter()
                        try:
                            await call
                        except Exception:
                            errors += 1
                        if i >= 500:
                            slowest = max(slowest, perf_counter() - start)
                        calls += 1
                    await anyio.sleep(0.002)
                worst.append(slowest * 1000)
    measured = f"{errors} errors in {calls} calls; worst {statistics.median(worst):.1f} (max {max(worst):.1f})"
    return Figure(
        f"Redis {name} under load", measured, f"0 errors; worst ≤ {goal_ms:g}", not errors and max(worst) <= goal_ms
    )


async def absent(rounds: int) -> list[Figure]:
    ready: list[float] = []
    kept = 0
    for _ in range(rounds):
        port = free_port()
        start = perf_counter()
        async with lone_cache(f"redis://127.0.0.1:{port}/0", op_timeout=OP_TIMEOUT) as cache:
            ready.append((perf_counter() - start) * 1000)
            await cache.set("first", 1)
            with RedisServer(port=port):
                await eventually(lambda c=cache: c.mode is Mode.REDIS, 10)
                kept += await cache.get("first") == 1
    goal = OP_TIMEOUT * 1000 + 1000
    measured = f"ready after {statistics.median(ready):.0f} (max {max(ready):.0f}); first set kept {kept}/{rounds}"
    return [Figure("Redis absent at start", measured, f"ready ≤ {goal:g}; kept", max(ready) <= goal and kept == rounds)]


async def propagation(rounds: int) -> list[Figure]:
    sets: list[float] = []
    deletes: list[float] = []
    async with mesh(None, None) as (one, two):
        for i in range(100 * rounds):
            sets.append(await visible(one.set("key", i), lambda i=i: reads(two, i)))
            deletes.append(await visible(one.delete("key"), lambda: reads(two, None)))
    return [
        Figure(
            f"in an outage, a {name} on A is seen on B", percentiles(times), "p50 ≤ 10", statistics.median(times) <= 10
        )
        for name, times in (("set", sets), ("delete", deletes))
    ]


async def apart(rounds: int) -> list[Figure]:
    """Only B has lost Redis: what it writes reaches A and Redis by way of A, and what A writes reaches B."""
    there: list[float] = []
    gone: list[float] = []
    back: list[float] = []
    with RedisServer() as server, OutageProxy(server.host, server.port) as proxy:
        redis = server.client()

        async def is_gone() -> bool:
            return await reads(one, None) and not redis.exists("test:key")

        async with mesh(server.url, proxy.url) as (one, two):
            proxy.refuse()
            await eventually(lambda: two.mode is Mode.MEMORY, 10)
            for i in range(100 * rounds):
                there.append(await visible(two.set("key", i), lambda i=i: reads(one, i)))
                back.append(await visible(one.set("key", -i), lambda i=i: reads(two, -i)))
                gone.append(await visible(two.delete("key"), is_gone))
    return [
        Figure(
            f"only B has lost Redis: {name}",
            f"{percentiles(times)}; max {max(times):.1f}",
            "max ≤ 100",
            max(times) <= 100,
        )
        for name, times in (
            ("its set is read on A", there),
            ("its delete is gone from A and Redis", gone),
            ("it reads what A sets", back),
        )
    ]


async def recovery(rounds: int) -> list[Figure]:
    written = back = 0
    for _ in range(rounds):
        with RedisServer(persistent=True) as server, OutageProxy(server.host, server.port) as proxy:
            async with mesh(proxy.url, proxy.url, proxy.url) as caches:
                await caches[0].set("deleted", "old")
                proxy.refuse()
                for cache in caches:
                    await cache.get("deleted")
                await caches[1].delete("deleted")
                for i in range(200):
                    await caches[i % 3].set(f"key:{i}", i, ttl=60)
                proxy.forward()
                for cache in caches:
                    await eventually(lambda c=cache: c.mode is Mode.REDIS, 15)
                    back += await cache.get("deleted") is not None
                redis = server.client()
                back += redis.exists("test:deleted")
                written += sum(0 < redis.pttl(f"test:key:{i}") <= 60_000 for i in range(200))
    total = 200 * rounds
    return [
        Figure("writes of the outage in Redis after it, with TTL", f"{written} of {total}", "all", written == total),
        Figure("a key deleted while Redis kept it, read after", f"{back} times", "never", not back),
    ]


async def way_back(rounds: int) -> list[Figure]:
    times: list[float] = []
    for _ in range(rounds):
        with RedisServer() as server:
            async with lone_cache(server.url) as cache:
                server.kill()
                await cache.set("key", 1)
                await anyio.sleep(5)  # the length of the outage is the subject
                start = perf_counter()
                server.start()
                started = perf_counter()
                await eventually(lambda c=cache: c.mode is Mode.REDIS, 15)
                times.append((perf_counter() - started) * 1000)
                say(f"  back after {times[-1]:.0f} ms (the server took {(started - start) * 1000:.0f} to start)")
    return [
        Figure(
            "mode redis again after an outage of 5 s",
            percentiles(times),
            "p50 ≤ 1000",
            statistics.median(times) <= 1000,
        )
    ]


async def visible(write: Awaitable[object], holds: Callable[[], Awaitable[bool]]) -> float:
    """From the start of the write until the condition holds, in ms."""
    start = perf_counter()
    await write
    while not await holds():
        await anyio.sleep(0)
    return (perf_counter() - start) * 1000


async def reads(cache: MeshCache, value: object) -> bool:
    return bool(await cache.get("key") == value)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--back-rounds", type=int, default=5)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    result = anyio.run(main, arguments.rounds, arguments.back_rounds)
    show(result, as_json=arguments.json)
