"""What the mesh does in a millisecond and in a second: ``python -m tests.benchmarks.mesh``.

Two processes on loopback, beside a Redis pub/sub of redis-py between the same two, by turns, so that what else this machine
does falls on both.  Prints a table (``--json``: one document) and asserts nothing.  Progress goes to
standard error.
"""

from __future__ import annotations

import argparse
import secrets
import socket
import statistics
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import perf_counter

from meshcache.buckets import Buckets
from meshcache.cli.demo.fleet import Instance, worker_command
from meshcache.stamp import HybridClock, Kind, Op
from meshcache.store import Store
from meshcache.testing.server import RedisServer
from tests.benchmarks.figures import Figure, percentile, percentiles, say, show
from tests.support import free_port

PAUSE = 0.003
SETS = 500
OPS = 100_000
WRITES = 50_000


@contextmanager
def two(url: str | None = None) -> Iterator[tuple[Instance, Instance]]:
    """Two processes whose caches have met; with a URL they are connected to Redis too."""
    ports = [free_port(socket.SOCK_DGRAM) for _ in range(2)]
    secret = secrets.token_hex(16)
    with ExitStack() as stack:
        pair = []
        for number, port in enumerate(ports):
            instance = Instance(number + 1, lambda _: None, worker_command("tests.benchmarks.mesh_worker"))
            stack.callback(instance.end)
            options = {
                "secret": secret,
                "namespace": "benchmark",
                "interfaces": ["127.0.0.1"],
                "port": port,
                "discovery": [f"127.0.0.1:{each}" for each in ports],
                "max_entries": 1_000_000,
                "max_bytes": 2**30,
            }
            instance.call("open", url=None, options=options)
            if url is not None:
                instance.call("connect", url=url)
            pair.append(instance)
        for instance in pair:
            instance.call("reach", mode="memory", peers=1, timeout=5)
        one, other = pair
        yield one, other


def propagation(rounds: int) -> list[Figure]:
    """From the call of ``set`` on A to the moment when B would read it."""
    mesh: list[float] = []
    redis: list[float] = []
    with RedisServer() as server:
        for _ in range(rounds):
            with two(server.url) as (one, other):
                other.call("watch_mesh")
                other.call("watch_channel", channel="c")
                called = one.ask("one_by_one", channel="c", count=SETS, pause=PAUSE).result(60)
                seen = other.call("seen", count=2 * SETS, timeout=5)
                took = {key: (seen[key] - at) * 1000 for key, at in called.items()}
                mesh += (now := [took[f"m:{n}"] for n in range(SETS)])
                redis += (beside := [took[f"r:{n}"] for n in range(SETS)])
                say(f"  {statistics.median(now):.3f} ms by the mesh, {statistics.median(beside):.3f} by Redis")
    p50 = statistics.median(mesh), statistics.median(redis)
    p99 = percentile(mesh, 99), percentile(redis, 99)
    return [
        Figure("ms from a set on A until B reads it", percentiles(mesh), "p50 < 1", p50[0] < 1),
        Figure("the same by Redis pub/sub", percentiles(redis), "", None),
        Figure(
            "ratio, mesh to Redis",
            f"p50 {p50[0] / p50[1]:.2f}, p99 {p99[0] / p99[1]:.2f}",
            "p50 ≤ 1",
            p50[0] <= p50[1],
        ),
    ]


def throughput(rounds: int) -> list[Figure]:
    """Small writes a second that one receiver applies, the lost ones repaired.

    Their sender only sends, so that the receiver is what is measured; a whole cache, with a store to write to, is slower than
    one that receives.
    """
    rates: dict[str, list[float]] = defaultdict(list)
    loads: dict[str, list[float]] = defaultdict(list)
    ways = ("mesh", "mesh, 1 % lost", "mesh, from a whole cache", "Redis pub/sub")
    with RedisServer() as server:
        for turn in range(rounds):
            for way in ways:
                with two(server.url) as (one, other):
                    if way == "Redis pub/sub":
                        other.call("watch_channel", channel="c")
                        sent = one.ask("publish_all", channel="c", prefix=f"r{turn}", count=OPS)
                    else:
                        other.call("watch_mesh", loss=0.01 if "lost" in way else 0.0)
                        do = "set_all" if "cache" in way else "tell_all"
                        sent = one.ask(do, prefix=f"m{turn}", count=OPS)
                    told = other.ask("rate", count=OPS, timeout=30).result(60)
                    sent.result(60)
                    assert told["came"] == OPS, f"{way}: {told}, {other.call('stats')}"
                    rates[way].append(OPS / told["seconds"])
                    loads[way].append(OPS / told["cpu"])
                    say(f"  {way}: {rates[way][-1]:.0f} a second, {loads[way][-1]:.0f} a second of its processor")
    goals = {"mesh": 100_000}
    medians = {way: statistics.median(rates[way]) for way in ways}
    return [
        *(
            Figure(
                f"small writes a second at one receiver: {way}",
                f"{medians[way]:,.0f} (best {max(rates[way]):,.0f}); {statistics.median(loads[way]):,.0f} a second of its processor",
                f"≥ {goals[way]:,}" if way in goals else "",
                medians[way] >= goals[way] if way in goals else None,
            )
            for way in ways
        ),
        Figure("ratio, mesh to Redis", f"{medians['mesh'] / medians['Redis pub/sub']:.2f}", "", None),
    ]


class _NoBuckets(Buckets):
    """Sums up nothing."""

    def put(self, key: str, stamp: object, *, is_sweep: bool = False) -> None:
        pass

    def remove(self, key: str, *, is_sweep: bool = False) -> None:
        pass


def digest(rounds: int) -> list[Figure]:
    """A write into the store, with and without the summary that is compared with peers."""
    times: dict[bool, list[float]] = defaultdict(list)
    for turn in range(2 * rounds):
        for summed_up in (True, False) if turn % 2 else (False, True):
            store = Store(WRITES, 2**30, 3600.0)
            if not summed_up:
                store.buckets = _NoBuckets()
            clock = HybridClock(1, lambda: 1_700_000_000_000)
            ops = [Op(Kind.SET, f"user:{n % 20_000}", clock.tick(), VALUE) for n in range(WRITES)]
            began = perf_counter()
            for op in ops:
                store.apply(op, 1.0)
            times[summed_up].append((perf_counter() - began) / WRITES * 1e6)
    with_it, without = (statistics.median(times[summed_up]) for summed_up in (True, False))
    return [
        Figure(
            "µs of a write into the store, with the digest and without",
            f"{with_it:.2f} and {without:.2f}: {with_it - without:.2f} for the digest, ratio {with_it / without:.2f}",
            "",
            None,
        )
    ]


VALUE = b"0123456789abcdef"

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    result: list[Figure] = []
    for scenario in (propagation, throughput, digest):
        say(f"{scenario.__name__} …")
        result += scenario(arguments.rounds)
    show(result, as_json=arguments.json)
