"""How fast a call is, beside the clients and caches that its users would pick instead: ``python -m tests.benchmarks.speed``.

Everybody asks the same real server, or their own memory, in one process and one run; the rounds of all alternate, and each
ratio is the median of those within one round.  So the ratios hold where the numbers do not: on a busy machine, on another one.
Prints a table (``--json``: one document) and asserts nothing.  Progress goes to standard error.

``--quick`` takes some seconds: it shows that the program works, and its figures are worth nothing.
"""

from __future__ import annotations

import argparse
import gc
import logging
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import anyio

from meshcache.testing.server import RedisServer
from tests.benchmarks.figures import Figure, percentile, say, show
from tests.benchmarks.peers import MEMORY, REDIS, Contender, entered, versions

KEYS = [f"key:{i}" for i in range(1000)]
VALUE = b"x" * 100
MANY = 100

CHUNK = 100
"""Calls to memory between two looks at the clock, which would take as long as a fifth of one.  Their times are means of so
many, then."""

VALUES: dict[str, Any] = {
    "bytes, 100": VALUE,
    "str, 100": "x" * 100,
    "int": 4711,
    "dict of four": {"name": "Ada Lovelace", "roles": ["admin", "author"], "id": 4711, "note": "x" * 100},
}

GOALS: Mapping[str, Mapping[str, float]] = {
    "get, concurrency 1": {"redis-py": 0.95},
    "get, concurrency 100": {"redis-py": 8, "GLIDE": 4, "cashews": 12},
    "set with ttl, concurrency 100": {"redis-py": 4},
    "get_many of 100": {"redis-py": 1},
    "get, near cache hit": {"redis-py": 80},
    "get, memory": {"cashews": 10, "cachetools.TTLCache": 2.5},
}
"""How many times as fast as whom meshcache is to be."""


@dataclass
class Work:
    """What is done again and again.

    Attributes:
        call: awaited with one of ``arguments`` after the other.
        calls: how many calls of the contender that is.
    """

    call: Callable[..., Awaitable[Any]]
    arguments: Sequence[tuple[Any, ...]]
    calls: int = 1


@dataclass
class Line(Figure):
    """A line of the table, with its numbers.

    Attributes:
        per_second: calls a second; the median of the rounds.
        p50_us: how long a call takes, in µs: half take less.
        p99_us: one of a hundred takes longer.
        times_as_fast: the same divided by what the contender of this name has, where there is a goal or a peer.
    """

    per_second: float = 0.0
    p50_us: float = 0.0
    p99_us: float = 0.0
    times_as_fast: dict[str, float] = field(default_factory=dict)


@dataclass
class Plan:
    """How long to measure.

    Attributes:
        rounds: of each contender in each row; the first is not counted.
        seconds: length of a round.
    """

    rounds: int
    seconds: float


class Times:
    """What the rounds of one contender in one row gave."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.calls: list[float] = []  # in seconds


async def main(plan: Plan) -> tuple[list[Line], str]:
    """All lines, and what they were measured with."""
    lines: list[Line] = []
    with RedisServer() as server:
        async with AsyncExitStack() as stack:
            redis, missing = await entered(stack, REDIS, server.url)
            memory, more_missing = await entered(stack, MEMORY, server.url)
            for name in dict.fromkeys([*missing, *more_missing]):
                say(f"not installed, left out: {name}")
            await fill([*redis.values(), *memory.values()])
            lines += await with_redis(redis, plan)
            lines += await in_memory(memory, plan)
            software = server.client().info("server")["redis_version"]
            used = f"Redis {software}, {versions([*redis.values(), *memory.values()])}"
    return lines, used


async def fill(contenders: Sequence[Contender]) -> None:
    async def fill_one(contender: Contender) -> None:
        for key in KEYS:
            done = contender.set(key, VALUE)
            if contender.is_async:
                await done

    async with anyio.create_task_group() as tasks:
        for contender in contenders:
            tasks.start_soon(fill_one, contender)


async def with_redis(all_of_them: Mapping[str, Contender], plan: Plan) -> list[Line]:
    own, near = "meshcache", "meshcache, near cache hit"
    asking = {name: contender for name, contender in all_of_them.items() if name != near}
    lines: list[Line] = []
    for concurrency in (1, 4, 100):
        lines += await row(f"get, concurrency {concurrency}", own, asking, get, concurrency, plan)
    for concurrency in (1, 100):
        lines += await row(f"set with ttl, concurrency {concurrency}", own, asking, set_, concurrency, plan)
    lines += await row("get_many of 100", own, asking, get_many, 1, plan)
    hits = {near: all_of_them[near], **{name: all_of_them[name] for name in ("redis-py",) if name in all_of_them}}
    return lines + await row("get, near cache hit", near, hits, chunk_of_gets, 1, plan)


async def in_memory(all_of_them: Mapping[str, Contender], plan: Plan) -> list[Line]:
    own, with_codec = "meshcache", "meshcache, msgpack"
    plain = {name: contender for name, contender in all_of_them.items() if name != with_codec}
    lines = [
        *await row("get, memory", own, plain, chunk_of_gets, 1, plan),
        *await row("set with ttl, memory", own, plain, chunk_of_sets, 1, plan),
    ]
    many = {name: contender for name, contender in plain.items() if contender.get_many is not None}
    lines += await row("get_many of 100, memory", own, many, get_many, 1, plan)
    contender = all_of_them[with_codec]
    for name, value in VALUES.items():
        for key in KEYS:
            await contender.set(key, value)
        lines += await row(f"get, memory, msgpack: {name}", own, {own: contender}, chunk_of_gets, 1, plan)
    return lines


# -- what is done again and again


def get(contender: Contender) -> Work:
    return Work(contender.get, [(key,) for key in KEYS])


def set_(contender: Contender) -> Work:
    return Work(contender.set, [(key, VALUE) for key in KEYS])


def get_many(contender: Contender) -> Work:
    assert contender.get_many is not None
    return Work(contender.get_many, parts(MANY))


def chunk_of_gets(contender: Contender) -> Work:
    get = contender.get

    async def awaited(keys: list[str]) -> None:
        for key in keys:
            await get(key)

    async def called(keys: list[str]) -> None:
        for key in keys:
            get(key)

    return Work(awaited if contender.is_async else called, parts(CHUNK), CHUNK)


def chunk_of_sets(contender: Contender) -> Work:
    set_ = contender.set

    async def awaited(keys: list[str]) -> None:
        for key in keys:
            await set_(key, VALUE)

    async def called(keys: list[str]) -> None:
        for key in keys:
            set_(key, VALUE)

    return Work(awaited if contender.is_async else called, parts(CHUNK), CHUNK)


def parts(size: int) -> list[tuple[list[str]]]:
    return [(KEYS[start : start + size],) for start in range(0, len(KEYS), size)]


# -- measuring


async def row(
    what: str,
    own: str,
    contenders: Mapping[str, Contender],
    work_of: Callable[[Contender], Work],
    concurrency: int,
    plan: Plan,
) -> list[Line]:
    """Rounds of all contenders that alternate; who goes first does, too."""
    say(f"{what} …")
    gc.collect()
    times = {name: Times() for name in contenders}
    works = {name: work_of(contender) for name, contender in contenders.items()}
    names = list(contenders)
    for number in range(plan.rounds + 1):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            measured = times[name] if number else Times()  # the first round opens connections
            await one_round(works[name], concurrency, plan.seconds, measured)
    return [line(what, name, own, times) for name in names]


async def one_round(work: Work, concurrency: int, seconds: float, times: Times) -> None:
    call, arguments, calls = work.call, work.arguments, work.calls
    took: list[float] = []
    start = perf_counter()
    end = start + seconds

    async def worker(number: int) -> None:
        i = number * 37
        before = perf_counter()
        while before < end:
            await call(*arguments[i % len(arguments)])
            after = perf_counter()
            took.append(after - before)
            before = after
            i += 1

    async with anyio.create_task_group() as tasks:
        for number in range(concurrency):
            tasks.start_soon(worker, number)
    times.rates.append(len(took) * calls / (perf_counter() - start))
    times.calls += [seconds / calls for seconds in took]


def line(what: str, name: str, own: str, times: Mapping[str, Times]) -> Line:
    mine = times[name]
    goals = GOALS.get(what, {}) if name == own else {}
    ratios = {
        peer: round(statistics.median(a / b for a, b in zip(mine.rates, theirs.rates, strict=True)), 2)
        for peer, theirs in times.items()
        if (peer in goals if name == own else peer == own) and peer != name
    }
    rate = statistics.median(mine.rates)
    p50, p99 = (percentile(mine.calls, percent) * 1e6 for percent in (50, 99))
    measured = f"{rate:>9,.0f}/s  p50 {p50:,.2f} µs, p99 {p99:,.2f} µs"
    if ratios:
        measured += "  " + ", ".join(f"{ratio:g} × {peer}" for peer, ratio in ratios.items())
    return Line(
        what=f"{what}: {name}",
        measured=measured,
        goal=", ".join(f"≥ {goal:g} × {peer}" for peer, goal in goals.items()),
        held=all(ratios[peer] >= goal for peer, goal in goals.items() if peer in ratios) if ratios and goals else None,
        per_second=round(rate),
        p50_us=round(p50, 3),
        p99_us=round(p99, 3),
        times_as_fast=ratios,
    )


def markdown(lines: Sequence[Line]) -> str:
    """Two tables for the docs: the goals, and the calls a second of everybody."""
    goals = ["| what | calls a second | p50, p99 in µs | as fast as | goal | |", "|---|---|---|---|---|---|"]
    for line in lines:
        if line.goal:
            ratios = ", ".join(f"{ratio:.3g} × {peer}" for peer, ratio in line.times_as_fast.items())
            goals.append(
                f"| {line.what.partition(':')[0]} | {line.per_second:,} | {line.p50_us:,.2f}, {line.p99_us:,.2f} "
                f"| {ratios} | {line.goal} | {'held' if line.held else 'missed'} |"
            )
    rates: dict[str, dict[str, str]] = {}
    for line in lines:
        what, _, who = line.what.rpartition(": ")
        who = who.removesuffix(", near cache hit")
        rates.setdefault(what, {})[who] = f"{line.per_second:,}"
    tables = ["\n".join(goals)]
    for in_memory in (False, True):
        rows = {what: row for what, row in rates.items() if ("memory" in what) is in_memory}
        everybody = list(dict.fromkeys(who for row in rows.values() for who in row))
        table = [f"| calls a second | {' | '.join(everybody)} |", "|---" * (len(everybody) + 1) + "|"]
        table += [f"| {what} | {' | '.join(row.get(who, '') for who in everybody)} |" for what, row in rows.items()]
        tables.append("\n".join(table))
    return "\n\n".join(tables)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a round")
    parser.add_argument("--quick", action="store_true", help="one short round of each: does it run at all?")
    parser.add_argument("--markdown", action="store_true", help="the tables of docs/performance.md")
    parser.add_argument("--uvloop", action="store_true")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    result, used = anyio.run(
        main,
        Plan(1, 0.02) if arguments.quick else Plan(arguments.rounds, arguments.seconds),
        backend_options={"use_uvloop": True} if arguments.uvloop else {},
    )
    if arguments.markdown:
        print(markdown(result))
    else:
        show(result, as_json=arguments.json)
    missed = [line.what for line in result if line.held is False]
    say(f"{used}{', uvloop' if arguments.uvloop else ''}")
    say(f"misses its goal: {', '.join(missed)}" if missed else "every goal that was measured is held")
