"""What size costs, and how long the event loop is held, measured: ``python -m tests.benchmarks.growth``.

Pauses are turns of the event loop in processor time of its thread, so that other programs on the machine do not count.
Prints a table (``--json``: one document) and asserts nothing: machines are noisy.  Progress goes to standard error.
"""

from __future__ import annotations

import argparse
import gc
import logging
import statistics
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import anyio
import cachetools
from anyio.lowlevel import checkpoint

from meshcache import MeshCache, Mode
from meshcache.testing.server import RedisServer
from tests.benchmarks.figures import Figure, say, show
from tests.io.cache.instances import lone_cache, mesh
from tests.support import eventually

VALUE = b"x" * 100
CALLS = 20_000


@asynccontextmanager
async def watched() -> AsyncIterator[list[float]]:
    """The longest turn of the event loop, in ms of processor time, while the body runs."""
    longest = [0.0]

    async def watch() -> None:
        last = time.thread_time()
        while True:
            await checkpoint()
            now = time.thread_time()
            longest[0] = max(longest[0], (now - last) * 1000)
            last = now

    gc.collect()
    gc.disable()  # its pauses grow with all that a program holds, and are Python's
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        await anyio.sleep(0.01)
        longest[0] = 0.0
        yield longest
        await checkpoint()
        tasks.cancel_scope.cancel()
    gc.enable()


async def filled(cache: MeshCache, count: int, ttl: float | None = None) -> None:
    for start in range(0, count, 1000):
        await cache.set_many({f"key:{i}": VALUE for i in range(start, min(start + 1000, count))}, ttl)
        await checkpoint()


async def per_call(cache: MeshCache, plain: dict[str, int], keys: list[str]) -> list[float]:
    """Microseconds of processor time of a get, a set, and a look-up in a plain dict, of these keys."""
    times = [time.process_time()]
    for key in keys:
        await cache.get(key)
    times.append(time.process_time())
    for key in keys:
        await cache.set(key, VALUE, ttl=600)
    times.append(time.process_time())
    for key in keys:
        plain[key]
    times.append(time.process_time())
    return [(after - before) / len(keys) * 1e6 for before, after in pairwise(times)]


async def sizes() -> list[Figure]:
    counts = [1_000, 100_000, 1_000_000]
    caches: dict[int, MeshCache] = {}
    dicts: dict[int, dict[str, int]] = {}
    for count in counts:
        say(f"{count} entries …")
        caches[count] = lone_cache(None, codec="bytes", max_entries=2_000_000, max_bytes=2 * 2**30)
        await caches[count].__aenter__()
        await filled(caches[count], count, 600)
        dicts[count] = {f"key:{i}": i for i in range(count)}
    gc.collect()
    gc.freeze()
    costs: dict[tuple[str, int], list[list[float]]] = {}
    for _ in range(7):
        for count in counts:
            # A prime: keys far apart, so that each look-up misses the processor's caches.
            for which, spread in (("the same 1 000 of them", 1_000), ("all of them", count)):
                keys = [f"key:{i * 7919 % spread}" for i in range(CALLS)]
                costs.setdefault((which, count), []).append(await per_call(caches[count], dicts[count], keys))
    figures = []
    for which in ("the same 1 000 of them", "all of them"):
        for n, name in enumerate(("get in memory", "set in memory", "look-up in a plain dict")):
            median = [statistics.median(cost[n] for cost in costs[which, count]) for count in counts]
            goal = which != "all of them" and n < 2
            figures.append(
                Figure(
                    f"µs of a {name}, {which}, at 1 000 / 100 000 / 1 000 000 entries",
                    f"{median[0]:.2f} / {median[1]:.2f} / {median[2]:.2f}: ratio {median[2] / median[0]:.2f}",
                    "≤ 1.3" if goal else "",
                    median[2] <= 1.3 * median[0] if goal else None,
                )
            )
    for pattern, name in (("key:1234*", "deleted by a pattern"), ("*", "cleared")):
        async with watched() as longest:
            await caches[1_000_000].delete_match(pattern)
            await anyio.sleep(1)
        figures.append(
            Figure(f"longest turn: 1 000 000 entries {name}", f"{longest[0]:.1f} ms", "≤ 5 ms", longest[0] <= 5)
        )
    for cache in caches.values():
        await cache.aclose()
    gc.unfreeze()
    return figures


async def sweep() -> Figure:
    say("a million entries expire …")
    async with lone_cache(None, codec="bytes", max_entries=2_000_000, max_bytes=2 * 2**30) as cache:
        await filled(cache, 1_000_000, 20)
        async with watched() as longest:

            async def empty() -> bool:
                return cache.stats()["bytes"] < 1_000_000 * 620

            await eventually(empty, 90)
            await anyio.sleep(3)
    return Figure("longest turn: 1 000 000 entries expire", f"{longest[0]:.1f} ms", "≤ 5 ms", longest[0] <= 5)


async def replay() -> Figure:
    say("a journal of 100 000 is replayed …")
    with RedisServer() as server:
        async with lone_cache(server.url, codec="bytes", max_entries=200_000, max_bytes=2**30) as cache:
            server.kill()
            await cache.get("x")
            await filled(cache, 100_000)
            async with watched() as longest:
                await anyio.to_thread.run_sync(server.start)
                await eventually(lambda: cache.mode is Mode.REDIS, 60)
                await anyio.sleep(1.5)
            stats = cache.stats()
    held = longest[0] <= 5 and stats["replayed"] == 100_000
    return Figure(
        "longest turn: a journal of 100 000 replayed",
        f"{longest[0]:.1f} ms ({stats['replayed']} replayed)",
        "≤ 5 ms",
        held,
    )


async def joiner() -> Figure:
    say("a joiner is served …")
    async with mesh(None, codec="bytes", max_entries=200_000, max_bytes=2**30) as (old,):
        await filled(old, 50_000)
        address = next(iter(old._runtime._socket.addresses)), old._runtime._socket.port  # type: ignore[union-attr]
        options: dict[str, Any] = {"secret": "the secret of these tests", "discovery": [f"{address[0]}:{address[1]}"]}
        new = lone_cache(None, codec="bytes", max_entries=200_000, max_bytes=2**30, **options)
        async with watched() as longest, new:
            await eventually(lambda: new.stats()["entries"] == 50_000, 60)
    return Figure(
        "longest turn: 50 000 entries to a joiner, both ends", f"{longest[0]:.1f} ms", "≤ 5 ms", longest[0] <= 5
    )


async def rest() -> Figure:
    say("three instances at rest …")
    with RedisServer() as server:
        async with mesh(server.url, server.url, server.url):
            await anyio.sleep(2)
            start, wall = time.process_time(), time.monotonic()
            await anyio.sleep(10)
            used = (time.process_time() - start) / (time.monotonic() - wall) / 3 * 100
    return Figure("processor at rest, of three instances, each", f"{used:.2f} % of a core", "≤ 0.5 %", used <= 0.5)


def memory() -> Figure:
    say("memory an entry …")
    count = 50_000
    from meshcache.stamp import Kind, Op, make_stamp
    from meshcache.store import Store

    def size(fill: Any) -> float:
        gc.collect()
        tracemalloc.start()
        kept = fill()
        used = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert len(kept) == count
        return used / count

    def store() -> Store:
        store = Store(count, 2**40, 600.0)
        for i in range(count):
            store.put_copy(f"key:{i}", b"%0100d" % i, 600.0, now=0.0)
        return store

    def stamped() -> Store:
        store = Store(count, 2**40, 600.0)
        for i in range(count):
            store.apply(Op(Kind.SET, f"key:{i}", make_stamp(1, i, 1), b"%0100d" % i, 600.0), 0.0)
        return store

    def ttl_cache() -> Any:
        cache: Any = cachetools.TTLCache(count, 600.0)
        for i in range(count):
            cache[f"key:{i}"] = b"%0100d" % i
        return cache

    copy, written, other = size(store), size(stamped), size(ttl_cache)
    return Figure(
        "bytes an entry of 110: a copy, a write of an outage, cachetools.TTLCache",
        f"{copy:.0f}, {written:.0f}, {other:.0f}: ratio {copy / other:.2f}, {written / other:.2f}",
        "",
        None,
    )


async def everything() -> list[Figure]:
    return [*(await sizes()), await sweep(), await replay(), await joiner(), await rest()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    show([memory(), *anyio.run(everything)], as_json=arguments.json)
