"""What the near cache costs while Redis answers, and what it gives, measured: ``python -m tests.benchmarks.near_cache``.

A real server on loopback; each figure is a ratio within one run, of rounds that alternate.  Prints a table (``--json``: one
document) and asserts nothing: machines are noisy.  Progress goes to standard error.
"""

from __future__ import annotations

import argparse
import logging
import statistics
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from time import perf_counter

import anyio

from meshcache import MeshCache, Mode
from meshcache.testing.server import RedisServer
from tests.benchmarks.figures import Figure, say, show
from tests.io.cache.instances import lone_cache

KEYS = 1000
VALUE = {"name": "Ada Lovelace", "roles": ["admin", "author"], "id": 4711, "note": "x" * 100}

Call = Callable[[MeshCache, int], Awaitable[object]]


async def get(cache: MeshCache, i: int) -> object:
    return await cache.get(f"key:{i % KEYS}")


async def set_(cache: MeshCache, i: int) -> object:
    return await cache.set(f"key:{i % KEYS}", VALUE, ttl=600)


async def mixed(cache: MeshCache, i: int) -> object:
    return await (set_ if i % 10 == 0 else get)(cache, i)


async def main(rounds: int, seconds: float) -> list[Figure]:
    """All figures."""
    figures: list[Figure] = []
    with RedisServer() as server:
        async with AsyncExitStack() as stack:
            off, standby, serve = [
                await stack.enter_async_context(lone_cache(server.url, namespace=how, near_cache=how))
                for how in ("off", "standby", "serve")
            ]
            for cache in (off, standby, serve):
                await cache.set_many({f"key:{i}": VALUE for i in range(KEYS)}, ttl=600)
            for call in (get, set_, mixed):
                for concurrency in (1, 100):
                    name = f"{call.__name__.strip('_')}, concurrency {concurrency}"
                    say(f"{name} …")
                    plain, warm = await compare(call, concurrency, rounds, seconds, off, standby)
                    ratio = statistics.median(b / a for a, b in zip(plain, warm, strict=True))
                    measured = f"{per_second(plain)} off, {per_second(warm)} standby: {ratio:.2f}"
                    figures.append(Figure(name, measured, "≥ 0.90", ratio >= 0.9))
            say("hits …")
            async with lone_cache(None) as memory:
                await memory.set_many({f"key:{i}": VALUE for i in range(KEYS)})
                held, near = await compare(get, 1, rounds, seconds, memory, serve)
            ratio = statistics.median(b / a for a, b in zip(held, near, strict=True))
            measured = f"{per_second(held)} memory, {per_second(near)} near: {ratio:.2f}"
            figures.append(Figure("get, near cache hit", measured, "≥ 0.90", ratio >= 0.9))
            figures.append(await first_reads(server, standby))
    return figures


async def compare(
    call: Call, concurrency: int, rounds: int, seconds: float, one: MeshCache, other: MeshCache
) -> tuple[list[float], list[float]]:
    """Calls a second of both, round by round; who goes first alternates."""
    rates: dict[MeshCache, list[float]] = {one: [], other: []}
    for i in range(rounds + 1):
        for cache in (one, other) if i % 2 else (other, one):
            rates[cache].append(await rate(call, cache, concurrency, seconds))
    return rates[one][1:], rates[other][1:]


async def rate(call: Call, cache: MeshCache, concurrency: int, seconds: float) -> float:
    calls = 0
    end = perf_counter() + seconds

    async def worker(number: int) -> None:
        nonlocal calls
        i = number * 37
        while perf_counter() < end:
            await call(cache, i)
            i += 1
            calls += 1

    start = perf_counter()
    async with anyio.create_task_group() as tasks:
        for number in range(concurrency):
            tasks.start_soon(worker, number)
    return calls / (perf_counter() - start)


async def first_reads(server: RedisServer, cache: MeshCache) -> Figure:
    await cache.set_many({f"key:{i}": VALUE for i in range(KEYS)}, ttl=600)
    server.kill()
    hits = sum([await cache.get(f"key:{i}") is not None for i in range(KEYS)])
    held = hits >= 0.99 * KEYS and cache.mode is Mode.MEMORY
    return Figure("first reads of an outage that are hits", f"{hits} of {KEYS}", "≥ 99 %", held)


def per_second(rates: list[float]) -> str:
    return f"{statistics.median(rates):,.0f}/s"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a round")
    parser.add_argument("--uvloop", action="store_true")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    result = anyio.run(
        main, arguments.rounds, arguments.seconds, backend_options={"use_uvloop": True} if arguments.uvloop else {}
    )
    show(result, as_json=arguments.json)
