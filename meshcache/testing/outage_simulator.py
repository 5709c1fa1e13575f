"""Schedules of outages, each made from a seed: whole caches write and read in simulated time, while their Redis dies, forgets,
hangs and comes back, while one of them alone loses it, sleeps, dies or joins, and while datagrams are lost.

What runs is real, from the public face down to redis-py's connections; simulated are the clock, TCP, the network, and Redis.
After healing every key must read, everywhere, as something at least as new as the newest acknowledged write or delete of
it, or as a miss; ``history`` judges that.  A schedule that fails says its seed:
``python -m meshcache.testing.outage_simulator SEED`` runs it again, and ``... SEED COUNT`` that one and those after it.

Clocks that disagree: of two writes on instances that do not hear of each other the promise goes by their stamps.  So two
writes are held to be in order only if they are further apart than the clocks.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import Any, Final

from ..redis.names import Names
from .datagrams import Ether
from .history.checker import MISSED_WITHIN, Interval, Violation, heard_until, judge, kept
from .history.records import REDIS, History, Read
from .network import Packet, Weather
from .outages import Fault, Schedule, make_schedule, name_of
from .redis_model import Snapshot
from .seeds import run_seeds
from .simulated_instance import HALTED_WITHIN, MESH_KEY, NAMESPACE, WALL_MS, Instance
from .virtual import VirtualLoop
from .wire import ServerProcess
from .world import CAN_COUNT, COUNTERS, World

__all__ = ["OutageSimulation", "Outcome", "check_schedule", "run_schedule"]

_PORT: Final = 7946
_BEFORE: Final = 2.0
"""In seconds: so long before the trouble the first instances may be opened."""
_HEALED_WITHIN: Final = 60.0
_LINGER: Final = 3.5
"""Everything is read once more after so long, in seconds: longer than TCP keeps anything that was sent."""
_LOOKED_WITHIN: Final = 12.0
"""So long after a restart of Redis an instance that lives has seen it, in seconds."""
_HEARD_WITHIN: Final = 1.0
"""So long after it was opened an instance hears its peers and is heard, in seconds; likewise a write without losses."""
_MOST_COMMANDS: Final = 30
"""In Redis for each call, and some calls' worth for each fault and each instance; more is a storm that feeds itself."""
_LONGEST_LINE: Final = 200
_TOLD: Final = 3


@dataclass(slots=True)
class Outcome:
    """What came of a run.

    Attributes:
        schedule: what was done.
        history: all that is known of it.
        violations: what must not be; empty if all is well.
        calls: how many of each kind.
        commands: how many commands Redis ran.
        hits: how many reads after healing gave a value.
        newest: of how many keys the newest write was a ``set`` that nothing overlapped.
        kept: how many of those Redis still has.
        healed_after: how long it took until all was well again, in seconds.
    """

    schedule: Schedule
    history: History = field(default_factory=lambda: History((), ()))
    violations: list[Violation] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    commands: int = 0
    hits: int = 0
    newest: int = 0
    kept: int = 0
    healed_after: float = 0.0


class OutageSimulation:
    """One run.

    Args:
        schedule: what is to happen.
        is_telling: record for a story also what the instances and Redis did; changes nothing else.
    """

    def __init__(self, schedule: Schedule, *, is_telling: bool = False) -> None:
        self.schedule = schedule
        random = Random(f"{schedule.seed} surroundings")  # noqa: S311 - repeatable on purpose
        loop = VirtualLoop()
        loop.dial = self._dial
        loop.set_exception_handler(self._failed)
        self._server = ServerProcess(loop, random, page=schedule.page)
        ether = Ether(loop, random.getrandbits(32), schedule.weather)
        ether.accepts = self._accepts
        self._world = World(
            schedule=schedule,
            loop=loop,
            server=self._server,
            ether=ether,
            addresses=[(f"10.0.0.{place + 1}", _PORT) for place in range(len(schedule.begins))],
            start=loop.time() + _BEFORE,
            is_telling=is_telling,
        )
        if is_telling:
            self._server.ran = self._tell_command
        self._instances: list[Instance] = []
        self._at: dict[int, Instance] = {}
        self._tasks: list[tuple[Instance, asyncio.Task[None]]] = []
        self._dropping: list[Fault] = []
        self._muted: list[tuple[int, Interval]] = []  # a place, and when it could not speak freely
        self._forgotten: list[Interval] = []  # what Redis forgot, until when everybody has seen that
        self._snapshots: dict[Fault, Snapshot] = {}
        self._on_disk: Snapshot = {}
        self._reads: list[Read] = []
        self._failures: list[Violation] = []
        self._is_over = False

    def run(self) -> Outcome:
        """Do it, and judge it."""
        outcome = Outcome(self.schedule)
        loop = self._world.loop
        try:
            loop.run_until_complete(self._run(outcome))
        finally:
            loop.close()
        return outcome

    async def _run(self, outcome: Outcome) -> None:
        try:
            await self._make_trouble()
            await self._heal()
            outcome.healed_after = await self._settle()
            await self._read_all(of_the_living=True)
            await asyncio.sleep(MISSED_WITHIN if any(one.gone_at < inf for one in self._instances) else _LINGER)
            outcome.healed_after += await self._settle()
            await self._read_all()
        except TimeoutError as failure:
            self._failures.append(Violation("not healed", "the instances", str(failure)))
        self._judge(outcome)
        await self._bury()

    # -- trouble

    async def _make_trouble(self) -> None:
        self._server.start({Names(NAMESPACE).mesh_key: (MESH_KEY, None)} if self.schedule.knows_key else None)
        for at, do in sorted(self._steps(), key=lambda step: step[0]):
            await self._sleep_until(at)
            do()
        await self._sleep_until(self.schedule.seconds)

    def _steps(self) -> Iterator[tuple[float, Callable[[], None]]]:
        for place, begin in enumerate(self.schedule.begins):
            yield begin, lambda place=place: self._open(place)  # type: ignore[misc]
        for fault in self.schedule.faults:
            if fault.kind == "snapshot":
                yield fault.saved_at, lambda fault=fault: self._save(fault)  # type: ignore[misc]
            yield fault.at, lambda fault=fault: self._begin(fault)  # type: ignore[misc]
            if fault.until < self.schedule.seconds:
                yield fault.until, lambda fault=fault: self._end(fault)  # type: ignore[misc]

    async def _sleep_until(self, second: float) -> None:
        await asyncio.sleep(max(0.0, self._world.start + second - self._world.now))

    def _begin(self, fault: Fault) -> None:
        if fault.place is None:
            self._world.tell(f"begins: {fault}")
            self._strike_all(fault)
        elif (instance := self._at.get(fault.place)) is not None and instance.lives:
            self._world.tell(f"begins: {fault}")
            self._strike(fault, instance)

    def _strike_all(self, fault: Fault) -> None:
        match fault.kind:
            case "stop":
                self._server.stop()
            case "partition":
                self._dropping.append(fault)
                for place in range(len(self._world.addresses)):
                    self._mute(place, fault)
            case _:
                self._on_disk = self._data()
                self._server.kill()

    def _strike(self, fault: Fault, instance: Instance) -> None:
        match fault.kind:
            case "drop":
                self._dropping.append(fault)
                self._mute(instance.place, fault)
            case "pause":
                instance.process.stop()
                self._mute(instance.place, fault)
            case "crash":
                instance.kill()
                self._mute(instance.place, fault)
            case "clock":
                instance.wall_ahead = fault.ahead
            case "leave":
                if instance.process.is_running:
                    self._tasks.append((instance, self._world.loop.create_task(instance.leave())))
                    self._mute(instance.place, fault)
            case _:
                instance.wire.become(fault.kind)

    def _end(self, fault: Fault) -> None:
        if fault.place is None:
            self._world.tell(f"ends: {fault}")
            self._mend_all(fault)
        elif (instance := self._at.get(fault.place)) is not None:
            self._world.tell(f"ends: {fault}")
            self._mend(fault, instance)

    def _mend_all(self, fault: Fault) -> None:
        match fault.kind:
            case "stop":
                self._server.go_on()
            case "partition":
                self._dropping.remove(fault)
            case "kill":
                self._server.start(self._on_disk, loads_for=fault.loads_for)
            case "snapshot":
                self._forgotten.append((self._world.start + fault.saved_at, self._world.now + _LOOKED_WITHIN))
                self._server.start(self._snapshots[fault], loads_for=fault.loads_for)
            case _:
                self._forgotten.append((-inf, self._world.now + _LOOKED_WITHIN))
                self._server.start()

    def _mend(self, fault: Fault, instance: Instance) -> None:
        match fault.kind:
            case "drop":
                if fault in self._dropping:
                    self._dropping.remove(fault)
            case "pause":
                if not instance.is_killed:
                    instance.process.go_on()
            case "clock":
                instance.wall_ahead = self.schedule.skews[instance.place]
            case "crash" | "leave":
                if instance.gone_at < inf:
                    self._open(instance.place)
            case _:
                if instance.wire.state == fault.kind:
                    instance.wire.become("ok")

    def _open(self, place: int) -> None:
        life = 1 + sum(instance.place == place for instance in self._instances)
        instance = self._at[place] = Instance(self._world, place, life)
        self._instances.append(instance)
        self._world.tell(f"{instance.name} is opened")
        self._tasks.append((instance, self._world.loop.create_task(instance.open())))

    def _save(self, fault: Fault) -> None:
        self._snapshots[fault] = self._data()

    def _data(self) -> Snapshot:
        return self._on_disk if self._server.model is None else self._server.model.snapshot()

    def _mute(self, place: int, fault: Fault) -> None:
        self._muted.append((place, (self._world.now, self._world.start + fault.until)))

    # -- healing

    async def _heal(self) -> None:
        """The end of all trouble; calls go on for a while."""
        self._world.tell("healing begins")
        for fault in self.schedule.faults:
            if fault.until >= self.schedule.seconds and fault.kind not in ("crash", "leave"):
                self._end(fault)
        self._world.ether.weather = Weather()
        await asyncio.sleep(self.schedule.tail)
        await self._wait([task for one, task in self._tasks if not one.is_killed], "opening or closing a cache")
        await self._wait([asyncio.create_task(one.halt()) for one in self._instances if one.lives], "a call")
        self._world.tell("no more calls")

    async def _wait(self, tasks: list[asyncio.Task[None]], what: str) -> None:
        hang = (await asyncio.wait(tasks, timeout=HALTED_WITHIN))[1] if tasks else set()
        if hang:
            raise TimeoutError(f"{what} hangs for more than {HALTED_WITHIN:g} s")
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                self._failures.append(Violation("raised", what, repr(error)))

    async def _settle(self) -> float:
        began = self._world.now
        while not all(one.is_healed for one in self._instances if one.lives):
            if self._world.now > began + _HEALED_WITHIN:
                states = "; ".join(str(one) for one in self._instances if one.lives)
                raise TimeoutError(f"not within {_HEALED_WITHIN:g} s: {states}")
            await asyncio.sleep(0.02)
        return self._world.now - began

    async def _read_all(self, *, of_the_living: bool = False) -> None:
        """Read every key everywhere.

        Args:
            of_the_living: leave out what instances wrote that are gone: what they gave up is undone once they are missed.
        """
        gone = {one.name for one in self._instances if one.gone_at < inf and of_the_living}
        keys = sorted({call.key for call in self._world.calls if call.what != "delete_match"})
        keys += [key for key in COUNTERS if CAN_COUNT and key not in keys]
        reads: list[Read] = []
        for instance in self._instances:
            if instance.lives:
                began = self._world.now
                found = await instance.read(keys, one_by_one=bool(self._reads))
                reads += [Read(instance.name, key, found.get(key), began) for key in keys]
        await self._settle()  # an instance that was idle may have seen only now that Redis was started anew
        assert self._server.model is not None
        for key in keys:
            data = self._server.model.read(f"{NAMESPACE}:{key}".encode())
            value = json.loads(data) if isinstance(data, bytes) else None
            reads.append(Read(REDIS, key, value, self._world.now))
        self._reads += [read for read in reads if read.writer not in gone]

    async def _bury(self) -> None:
        self._is_over = True
        if self._server.model is not None:
            self._server.kill()
        await asyncio.gather(*(instance.bury() for instance in self._instances))
        if self._tasks:
            await asyncio.wait([task for _, task in self._tasks])

    # -- the judgement

    def _judge(self, outcome: Outcome) -> None:
        world = self._world
        calls = [*world.calls, *(call for some in world.open_calls.values() for call in some)]
        outcome.history = history = History(
            calls=calls,
            reads=self._reads,
            incidents=world.incidents,
            heard_until={one.name: self._heard_until(one) for one in self._instances if one.gone_at < inf},
            forgotten={one.name: self._forgotten_of(one) for one in self._instances if one.gone_at < inf},
            slack=self.schedule.slack,
            is_exact=not any(one.gone_at < inf for one in self._instances)
            and not any(fault.kind in ("empty", "snapshot") for fault in self.schedule.faults)
            and not {"max_dirty", "max_entries"} & self.schedule.options.keys()
            and self.schedule.options["on_recovery"] == "replay",
            began=world.start,
        )
        commands = self._server.commands
        most = _MOST_COMMANDS * (len(calls) + 4 * len(self.schedule.faults) + 10 * len(self._instances))
        if commands > most:
            self._failures.append(Violation("storm", "Redis", f"it ran {commands} commands for {len(calls)} calls"))
        outcome.violations = [*self._failures, *judge(history)]
        outcome.commands = commands
        outcome.calls = Counter(call.what for call in calls)
        outcome.newest, outcome.kept = kept(history)
        outcome.hits = sum(read.value is not None for read in self._reads)

    def _heard_until(self, instance: Instance) -> float:
        """See :func:`~meshcache.testing.history.heard_until`."""
        if instance.went_alone:
            return instance.opened_at
        loss = self.schedule.weather.loss
        silent: dict[int, list[Interval]] = {place: [] for place in range(len(self._world.addresses))}
        for place, interval in self._muted:
            silent[place].append(interval)
        for other in self._instances:
            is_first = other.name == name_of(other.place)
            silent[other.place].append(
                (-inf if is_first else other.opened_at, other.opened_at + _HEARD_WITHIN * (1 + 5 * loss))
            )
        own = silent.pop(instance.place)
        return heard_until(
            instance.opened_at, instance.gone_at, own, silent.values(), grace=_HEARD_WITHIN * (1 + 5 * loss)
        )

    def _forgotten_of(self, instance: Instance) -> list[Interval]:
        return [(start, seen) for start, seen in self._forgotten if instance.gone_at <= seen]

    # -- the surroundings

    async def _dial(self, factory: Callable[[], asyncio.BaseProtocol], host: str) -> asyncio.Transport:
        name = host.partition(".")[0].upper()
        return await next(one for one in self._instances if one.name == name).wire.dial(factory)

    def _accepts(self, packet: Packet) -> bool:
        if not self._dropping:
            return True
        source, destination = self._place_of(packet.source), self._place_of(packet.destination)
        return not any(
            fault.concerns(source, destination) and self._world.ether.random.random() < fault.loss
            for fault in self._dropping
        )

    def _place_of(self, address: tuple[str, int]) -> int:
        return self._world.addresses.index(address)

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Something raised where nobody waits for it."""
        if not self._is_over:
            told = f"{context.get('message')}: {context.get('exception')!r}"
            self._failures.append(Violation("raised", "in the event loop", told))

    def _tell_command(self, who: str, command: list[bytes], reply: Any) -> None:
        prefix = f"{NAMESPACE}:".encode()
        keys = [word[len(prefix) :].decode() for word in command[1:] if word.startswith(prefix)]
        if keys:
            words = [_readable(word) for word in command if word != command[1] or command[0] != b"EVALSHA"]
            answer = _readable(reply) if isinstance(reply, bytes) else repr(reply)
            text = f"Redis runs for {who}: {' '.join(words)[:_LONGEST_LINE]} -> {answer[:_LONGEST_LINE]}"
            for key in keys:
                self._world.tell(text, key)


def _readable(word: bytes) -> str:
    """As it is; of a stamp, which begins with the milliseconds of a clock in 48 bits, the second it is of."""
    if len(word) >= 16 and not word.isascii():
        second = (int.from_bytes(word[:6], "big") - WALL_MS) / 1000
        return f"stamp:{second:.3f}" if 0 < second < 1e6 else "…"
    return word.decode("ascii", "replace")


def run_schedule(seed: int) -> Outcome:
    """:func:`check_schedule` of the schedule of a seed."""
    return check_schedule(make_schedule(seed))


def check_schedule(schedule: Schedule) -> Outcome:
    """Run a schedule; see :class:`OutageSimulation`.

    Raises:
        AssertionError: something was wrong; the message has the seed, the schedule and the story.
    """
    outcome = OutageSimulation(schedule).run()
    if outcome.violations:
        told = OutageSimulation(schedule, is_telling=True).run()
        raise AssertionError("\n\n".join([str(told.schedule), *map(str, told.violations[:_TOLD])]))
    return outcome


def _told(outcome: Outcome) -> str:
    return f"{outcome.schedule}\n{dict(outcome.calls)}, {outcome.hits} hits after healing"


class _Tally:
    """The slowest of many runs, and what they kept."""

    def __init__(self) -> None:
        self._slowest = 0.0
        self._newest = self._kept = 0

    def add(self, outcome: Outcome) -> None:
        """One more went well."""
        self._slowest = max(self._slowest, outcome.healed_after)
        self._newest += outcome.newest
        self._kept += outcome.kept

    def as_dict(self) -> dict[str, Any]:
        """For scripts."""
        return {"slowest_healed_after": round(self._slowest, 3), "newest": self._newest, "kept": self._kept}

    def __str__(self) -> str:
        return (
            f"the slowest healed after {self._slowest:.2f} s, "
            f"Redis has {self._kept} of the {self._newest} values that were written last"
        )


if __name__ == "__main__":
    logging.getLogger("meshcache").setLevel(logging.CRITICAL)
    sys.exit(run_seeds("python -m meshcache.testing.outage_simulator", run_schedule, _told, _Tally()))
