"""Schedules of trouble, each made from a seed: instances write while datagrams are lost, doubled and delayed, while the
network parts and heals, while instances crash, sleep, leave and join, and while their clocks disagree.

After quiet every live instance must know the same, no newer write may be missing, no deleted key may live, and nothing
but heartbeats may still be sent.  A schedule that fails says its seed; ``python -m meshcache.testing.simulator SEED`` runs
it again, and ``... SEED COUNT`` that one and those after it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from math import ceil, inf
from random import Random
from typing import Any, Final

from ..events import Mode
from ..glob import MATCH_ALL, matcher
from ..memory import MemoryTier
from ..mesh.node import MeshEvent, Node, OpsLost, OpsReceived
from ..mesh.seal import MeshKey
from ..mesh.settings import Limits
from ..stamp import HybridClock, Kind, Op, Stamp, make_stamp
from ..store import Entry, Store
from .network import Host, Network, Weather
from .seeds import run_seeds

__all__ = ["Instance", "Report", "Simulation", "run_schedule"]

_KEY: Final = MeshKey.from_bytes(b"s" * 32, "simulation")
_WALL_MS: Final = 1_700_000_000_000
_NOTHING: Final = make_stamp(0, 0, 0)
_STORE_BYTES: Final = 10**9
_LONGEST_TTL: Final = 5.0
_PAUSE: Final = 10.0
"""What waited in the socket of a paused process is believed if that was for less than 5 s; a value then lives longer, also
where it is fetched from there."""
_HOT: Final = [f"hot:{n}" for n in range(5)]
_COLD: Final = [f"cold:{n}" for n in range(200)]
_PATTERNS: Final = [MATCH_ALL, "hot:*", "cold:1*", "cold:?", "*:3"]


class Instance:
    """One instance: a node, what it knows, and its clocks."""

    def __init__(self, network: Network, node_id: int, *, wall_ahead: float, max_entries: int, limits: Limits) -> None:
        self.wall_ahead = wall_ahead
        self.written: list[Op] = []
        self._network = network
        self.clock = HybridClock(node_id, self._wall_ms)
        self.store = Store(max_entries, _STORE_BYTES, tombstone_ttl=600.0)
        self.memory = MemoryTier(self.store, None, self.clock, lambda: self.host.now, self._publish)
        clock_ahead = float(node_id * 1000)
        node = Node(
            node_id=node_id,
            keys=[_KEY],
            random=network.random,
            now=network.now + clock_ahead,
            mode=Mode.MEMORY,
            limits=limits,
            replica=self.memory,
        )
        self.node = node
        self.host: Host = network.attach(node, (f"10.0.{node_id // 250}.{node_id % 250}", 7000), clock_ahead)
        self.host.on_event = self._on_event

    def write(self, kind: Kind, key: str, value: bytes = b"", ttl: float = inf) -> None:
        """What a caller of the cache does."""
        match kind:
            case Kind.SET:
                _run(self.memory.set(key, value, None if ttl == inf else ceil(ttl * 1000)))
            case Kind.SWEEP:
                _run(self.memory.delete_match(key))
            case _:
                _run(self.memory.delete([key]))
        self.store.expire(self.host.now, 100)
        self.host.pump()

    def live(self) -> dict[str, bytes]:
        """What can be read here."""
        return {
            key: entry.value
            for key in self.memory.keys(MATCH_ALL)
            if (entry := self.entry(key)) and entry.value is not None
        }

    def entry(self, key: str) -> Entry | None:
        """What is known of a key."""
        return self.store.peek(key, self.host.now)

    def stamp_of(self, key: str) -> Stamp:
        """The version of the newest write that this instance knows to concern the key."""
        entry = self.entry(key)
        swept = [stamp for pattern, stamp in self.store.sweeps.items() if matcher(pattern)(key)]
        return max([entry.stamp if entry is not None else _NOTHING, *swept])

    def _publish(self, op: Op) -> None:
        self.written.append(op)
        self.node.publish(op, self.host.now)

    def _on_event(self, event: MeshEvent) -> None:
        match event:
            case OpsReceived():
                self.memory.apply(event.ops)
            case OpsLost():
                self.memory.forget_values()

    def _wall_ms(self) -> int:
        return _WALL_MS + int((self._network.now + self.wall_ahead) * 1000)


@dataclass(slots=True)
class Report:
    """How a schedule went.

    Attributes:
        seed: it can be run again.
        writes: how many there were.
        agreed_after: how long it took after the last write and the end of all trouble, in seconds.
        counters: the sums over all instances.
    """

    seed: int
    writes: int = 0
    agreed_after: float = 0.0
    counters: dict[str, int] = field(default_factory=dict)


class Simulation:
    """One schedule.

    Args:
        seed: everything follows from it.
        seconds: how long writes and trouble go on.
        loss: the share of datagrams lost; None: drawn from 0 to 0.5.
        small_store: the stores hold fewer entries than there are keys.
    """

    def __init__(
        self, seed: int, *, seconds: float = 20.0, loss: float | None = None, small_store: bool | None = None
    ) -> None:
        self.random = random = Random(seed)  # noqa: S311 - repeatable on purpose
        self.report = Report(seed)
        self._seconds = seconds
        loss = random.choice([0.0, 0.05, 0.3, 0.5, random.uniform(0, 0.5)]) if loss is None else loss
        weather = Weather(
            loss=loss, duplicate=random.uniform(0, 0.3), delay=(0.0001, random.choice([0.001, 0.02, 0.1]))
        )
        self.network = Network(random.getrandbits(32), weather)
        self.small_store = random.random() < 0.1 if small_store is None else small_store
        ring_bytes = random.choice([2_000, 50_000, 8 * 2**20])
        if self.small_store:
            ring_bytes = 8 * 2**20  # an instance that forgot a delete cannot tell of it: only repetition can
        self._limits = Limits(ring_bytes=ring_bytes, assembly_bytes=random.choice([200_000, 8 * 2**20]))
        self.instances: list[Instance] = []
        self._next_id = 1
        for _ in range(random.randint(2, 5)):
            self.join()

    # -- what can happen

    def join(self) -> None:
        """A new instance, told the address of one or of all others."""
        skew = self.random.choice([0.0, 0.0, self.random.uniform(-25, 25)])
        max_entries = 50 if self.small_store else 10_000
        instance = Instance(self.network, self._next_id, wall_ahead=skew, max_entries=max_entries, limits=self._limits)
        self._next_id += 1
        others = list(self.instances)
        for other in others if self.random.random() < 0.5 else others[:1]:
            instance.node.add_candidate(other.host.address, instance.host.now)
        instance.host.pump()
        self.instances.append(instance)

    def write(self) -> None:
        """Someone writes something."""
        awake = [instance for instance in self.instances if not instance.host.is_paused]
        if not awake:
            return
        random, instance = self.random, self.random.choice(awake)
        key = random.choice(_HOT if random.random() < 0.5 else _COLD)
        self.report.writes += 1
        match random.choices(["set", "ttl", "large", "delete", "sweep"], [60, 10, 1, 25, 1])[0]:
            case "set":
                instance.write(Kind.SET, key, random.randbytes(random.randint(0, 300)))
            case "ttl":
                instance.write(Kind.SET, key, b"for a while", random.uniform(0.001, _LONGEST_TTL))
            case "large":
                instance.write(Kind.SET, key, random.randbytes(random.choice([2_000, 20_000, 100_000])))
            case "delete":
                instance.write(Kind.DELETE, key)
            case "sweep":
                instance.write(Kind.SWEEP, random.choice(_PATTERNS))

    def trouble(self) -> None:
        """Something goes wrong, or is mended."""
        random, network = self.random, self.network
        instance = random.choice(self.instances)
        match random.choice(["part", "cut one way", "heal", "crash", "leave", "join", "pause", "resume", "clock"]):
            case "part":
                some = random.sample(self.instances, random.randint(1, len(self.instances)))
                others = [other for other in self.instances if other not in some]
                network.sever([it.host for it in some], [it.host for it in others])
                network.sever([it.host for it in others], [it.host for it in some])
            case "cut one way":
                network.sever([instance.host], [other.host for other in self.instances if other is not instance])
            case "heal":
                network.heal()
            case "crash" if len(self.instances) > 2:
                network.detach(instance.host)
                self.instances.remove(instance)
            case "leave" if len(self.instances) > 2 and not instance.host.is_paused:
                instance.node.close(instance.host.now)
                instance.host.pump()
                network.detach(instance.host)
                self.instances.remove(instance)
            case "join" if len(self.instances) < 7:
                self.join()
            case "pause":
                instance.host.pause()
            case "resume":
                instance.host.resume()
            case "clock":
                instance.wall_ahead = random.uniform(-25, 25)  # further apart, stamps would rightly be refused

    # -- the whole of it

    def run(self) -> Report:
        """Run the schedule and check what must hold.

        Raises:
            AssertionError: it does not; the message has the seed.
        """
        try:
            self._make_trouble()
            self._end_trouble()
            self.report.agreed_after = self.network.run_until(self._sampled(self._agree), 120.0)
            self.network.run(_LONGEST_TTL + _PAUSE)
            self.network.run_until(self._sampled(self._agree), 30.0)
            self._check()
            self._check_quiet()
        except AssertionError as error:
            raise AssertionError(f"seed {self.report.seed}: {error}") from error
        for instance in self.instances:
            for name, value in instance.node.counters.as_dict().items():
                self.report.counters[name] = self.report.counters.get(name, 0) + value
        return self.report

    def _make_trouble(self) -> None:
        random, end = self.random, self.network.now + self._seconds
        rate = random.choice([2, 20, 100])
        while self.network.now < end:
            self.network.run(random.expovariate(rate))
            self.write()
            if random.random() < 0.7 / rate:
                self.trouble()

    def _end_trouble(self) -> None:
        self.network.heal()
        for instance in self.instances:
            instance.host.resume()
            # Sources go on naming everyone; without that, two that never met could stay apart.
            for other in self.instances:
                if other is not instance:
                    instance.node.add_candidate(other.host.address, instance.host.now)
            instance.host.pump()

    def _sampled(self, condition: Callable[[], bool]) -> Callable[[], bool]:
        """Ask only every 50 ms: asking is what costs."""
        next_at = 0.0

        def sampled() -> bool:
            nonlocal next_at
            if self.network.now < next_at:
                return False
            next_at = self.network.now + 0.05
            return condition()

        return sampled

    def _agree(self) -> bool:
        if self.small_store:
            return self._none_contradict()
        first, *rest = self.instances
        return all(it.store.buckets.root == first.store.buckets.root for it in rest)

    def _none_contradict(self) -> bool:
        """Each may have forgotten, but whoever knows something knows the newest."""
        for key in (*_HOT, *_COLD):
            newest = max(it.stamp_of(key) for it in self.instances)
            for instance in self.instances:
                entry = instance.entry(key)
                if entry is not None and entry.value is not None and instance.stamp_of(key) != newest:
                    return False
        return True

    def _check(self) -> None:
        """Nobody alive has lost a write of anybody alive, and all read the same."""
        for key in (*_HOT, *_COLD):
            written = [op for it in self.instances for op in it.written if matcher(op.key)(key) or op.key == key]
            newest = max(written, key=lambda op: op.stamp, default=None)
            if newest is None:
                continue
            for instance in self.instances:
                value = instance.live().get(key)
                if self.small_store:
                    continue  # everyone who knew of the newest write may have had to forget it
                assert instance.stamp_of(key) >= newest.stamp, f"{key}: a write is missing at {instance.node.node_id}"
                if instance.stamp_of(key) == newest.stamp:
                    expected = newest.value if newest.kind is Kind.SET and newest.expires_at == inf else None
                    assert value == expected, f"{key}: {value!r} is read and not {expected!r}"
        first, *rest = self.instances
        if not self.small_store:
            assert all(it.live() == first.live() for it in rest), "they agree on versions but not on values"

    def _check_quiet(self) -> None:
        """When all is said, heartbeats are all that is sent."""
        self.network.weather = Weather()
        self.network.run(20.0)
        before = [self._talk(instance) for instance in self.instances]
        self.network.run(10.0)
        assert before == [self._talk(instance) for instance in self.instances], "something is sent for ever"
        for instance in self.instances:
            assert instance.node.memory_bytes <= self._limits.ring_bytes + self._limits.assembly_bytes + 2**20

    def _talk(self, instance: Instance) -> tuple[int, ...]:
        counters = instance.node.counters
        # Full stores differ for good; that they are compared once a minute is all right.
        comparisons = 0 if self.small_store else counters.comparisons
        return comparisons, counters.fetched, counters.nacks_out, counters.repeats_out, counters.ops_in


def _run(call: Coroutine[Any, Any, object]) -> None:
    """A call of the memory tier; it waits for nothing."""
    try:
        call.send(None)
    except StopIteration:
        return
    raise RuntimeError("a call of the memory tier waited")


def run_schedule(seed: int, **options: float) -> Report:
    """Run one schedule; raises AssertionError with the seed if it fails."""
    return Simulation(seed, **options).run()  # type: ignore[arg-type]


class _Tally:
    """The slowest of many runs."""

    def __init__(self) -> None:
        self._slowest = 0.0

    def add(self, report: Report) -> None:
        """One more went well."""
        self._slowest = max(self._slowest, report.agreed_after)

    def as_dict(self) -> dict[str, Any]:
        """For scripts."""
        return {"slowest_agreed_after": round(self._slowest, 3)}

    def __str__(self) -> str:
        return f"the slowest agreed after {self._slowest:.2f} s"


if __name__ == "__main__":
    sys.exit(run_seeds("python -m meshcache.testing.simulator", run_schedule, str, _Tally()))
