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
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import inf
from random import Random
from typing import Any, Final

import anyio

from ..cache import MeshCache
from ..discovery.roster import Roster
from ..discovery.static import Static
from ..events import Mode, ModeChanged, PeerJoined, PeerLeft
from ..mesh.settings import Address
from ..runtime.surroundings import Surroundings
from .history import REDIS, Call, History, Incident, Interval, Read, Violation, heard_until, judge
from .network import Carrier, Packet, Weather
from .outages import Fault, Schedule, make_schedule, name_of
from .redis_model import Snapshot
from .virtual import Process, VirtualLoop
from .wire import ServerProcess, Wire

__all__ = ["Outcome", "OutageSimulation", "run_schedule"]

_NAMESPACE: Final = "sim"
_PORT: Final = 7946
_WALL_MS: Final = 1_700_000_000_000
_CLIENTS: Final = 3
_HALTED_WITHIN: Final = 30.0
_HEALED_WITHIN: Final = 60.0
_LINGER: Final = 3.5
"""Everything is read once more after so long, in seconds: longer than TCP keeps anything that was sent."""
_SOCKET_DATAGRAMS: Final = 2000
_DATAGRAMS_AT_ONCE: Final = 64
_LONGEST_LINE: Final = 200
_FORGET_WITHIN: Final = 12.0
"""In seconds: so long after a restart of Redis an instance has looked at it, if it lives."""


class _Ether(Carrier):
    """The network, in the loop's time."""

    def __init__(self, loop: VirtualLoop, seed: int, weather: Weather) -> None:
        super().__init__(seed, weather)
        self._loop = loop

    def call_after(self, seconds: float, call: Callable[[], None]) -> None:
        self._loop.at(self._loop.time() + seconds, call)


class _Mailbox:
    """Where the network brings datagrams for one process: the kernel's buffer of its socket."""

    def __init__(self, process: Process, address: Address) -> None:
        self.address = address
        self.unread: list[tuple[bytes, Address]] = []
        self.waiter: asyncio.Future[None] | None = None
        self._process = process

    def receive(self, data: bytes, sender: Address) -> None:
        """A datagram arrives."""
        if len(self.unread) < _SOCKET_DATAGRAMS:
            self.unread.append((data, sender))
            if len(self.unread) == 1:
                self._process.hear(self.wake)

    def wake(self) -> None:
        """Let whoever waits look."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class _Socket:
    """A :class:`~meshcache.runtime.surroundings.DatagramSocket` of one process."""

    def __init__(self, ether: _Ether, process: Process, address: Address) -> None:
        self.addresses = (address[0],)
        self.port = address[1]
        self.everywhere = False
        self.send_errors = 0
        self._ether = ether
        self._mailbox = ether.hosts[address] = _Mailbox(process, address)
        self._is_closed = False

    async def receive(self) -> list[tuple[bytes, Address]]:
        """See there."""
        mailbox = self._mailbox
        while not mailbox.unread:
            if self._is_closed:
                raise anyio.ClosedResourceError
            mailbox.waiter = asyncio.get_running_loop().create_future()
            await mailbox.waiter
        datagrams, mailbox.unread = mailbox.unread[:_DATAGRAMS_AT_ONCE], mailbox.unread[_DATAGRAMS_AT_ONCE:]
        return datagrams

    def send(self, datagrams: Iterable[tuple[bytes, Iterable[Address]]]) -> None:
        """See there."""
        for data, destinations in datagrams:
            for destination in destinations:
                if not self._is_closed:
                    self._ether.send(Packet(data, self._mailbox.address, destination))

    def close(self) -> None:
        """See there."""
        if not self._is_closed:
            self._is_closed = True
            if self._ether.hosts.get(self._mailbox.address) is self._mailbox:
                self._ether.detach(self._mailbox)
            self._mailbox.wake()

    def abandon(self) -> None:
        """See there."""
        self.close()


class _Cache(MeshCache):
    """A cache in other surroundings."""

    world: Surroundings

    def _surroundings(self) -> Surroundings:
        return self.world

    @property
    def dirty(self) -> int:
        """How many writes Redis lacks."""
        journal = None if self._runtime is None else self._runtime.memory.journal
        return 0 if journal is None else len(journal)


class _Instance:
    """One process with one cache, and the clients that call it.

    Attributes:
        name: A, or A2 after a restart.
        place: the same after a restart.
        opened_at: when it could begin to speak; ``inf`` if not yet.
        gone_at: when it was killed, or closed by the schedule.
        is_killed: which of the two.
    """

    def __init__(self, simulation: OutageSimulation, place: int, life: int) -> None:
        schedule = simulation.schedule
        self.name = name_of(place) + (str(life) if life > 1 else "")
        self.place = place
        self.opened_at = self.gone_at = inf
        self.is_killed = False
        self.process = Process(simulation.loop, self.name)
        self.socket: _Socket | None = None
        self._simulation = simulation
        random = Random(f"{schedule.seed} {self.name}")  # noqa: S311 - repeatable on purpose
        self.process.timers_first = random.random() < 0.3
        self.wire = Wire(self.process, simulation.server, random)
        loop, ahead_ms, ahead = simulation.loop, int(schedule.skews[place] * 1000), random.uniform(0, 1e6)
        self.cache = _Cache(
            f"redis://{self.name}.redis:6379/0",
            namespace=_NAMESPACE,
            codec="json",  # so that what is in Redis can be read without it
            discovery=simulation.sources(),
            **schedule.options,
        )
        inside = f"{schedule.seed} {self.name} inside"
        simulation.nodes[f"{Random(inside).getrandbits(64):016x}"] = self.name  # noqa: S311 - as the runtime will draw it
        self.cache.world = Surroundings(
            now=lambda: loop.time() + ahead,
            wall_ms=lambda: _WALL_MS + ahead_ms + int(loop.time() * 1000),
            random=Random(inside),  # noqa: S311 - repeatable on purpose
            open_socket=self._open_socket,
        )
        self._is_halted = False
        self._clients: list[asyncio.Task[None]] = []
        self._caller = _Caller(simulation, self)

    @property
    def lives(self) -> bool:
        """Whether it was opened, and neither killed nor closed."""
        return self.opened_at < inf and self.gone_at == inf

    async def open(self) -> None:
        """Enter the cache, and let clients call it."""
        await self.process.start(self._open())

    def kill(self) -> None:
        """As SIGKILL does."""
        self.gone_at, self.is_killed = self._simulation.loop.time(), True
        self.process.stop()
        if self.socket is not None:
            self.socket.close()
        self.wire.hang_up()

    async def leave(self) -> None:
        """Close the cache, as a deployment does."""
        await self.halt()
        self.gone_at = self._simulation.loop.time()
        await self.process.start(self.cache.aclose())

    async def halt(self) -> None:
        """No more calls; those under way have ended then."""
        self._is_halted = True
        if self._clients:
            await asyncio.wait(self._clients)

    async def bury(self) -> None:
        """The simulation is over: let go of everything."""
        self._is_halted = True
        self.gone_at = min(self.gone_at, self._simulation.loop.time())
        self.process.go_on()
        await self.process.start(self.cache.aclose())
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _open(self) -> None:
        await self.cache.__aenter__()
        self.opened_at = self._simulation.loop.time()
        if self._simulation.is_telling:
            self._watcher = asyncio.create_task(self._watch())
        pause = _CLIENTS * len(self._simulation.schedule.begins) / self._simulation.schedule.rate
        for number in range(_CLIENTS):
            random = Random(f"{self._simulation.schedule.seed} {self.name} {number}")  # noqa: S311 - repeatable on purpose
            self._clients.append(asyncio.create_task(self._call_often(random, pause)))

    def _open_socket(self, interfaces: Sequence[str] | None, port: int) -> _Socket:
        self.socket = _Socket(self._simulation.ether, self.process, self._simulation.addresses[self.place])
        return self.socket

    async def _call_often(self, random: Random, pause: float) -> None:
        while not self._is_halted:
            await asyncio.sleep(random.expovariate(1 / pause))
            if not self._is_halted and self._simulation.has_begun:
                await self._caller.any_call(random)

    async def _watch(self) -> None:
        async for event in self.cache.events():
            match event:
                case ModeChanged():
                    self._simulation.tell(f"{self.name}: {event.old} -> {event.new}: {event.cause}")
                case PeerJoined():
                    self._simulation.tell(f"{self.name} hears {self._simulation.nodes.get(event.peer.node_id)}")
                case PeerLeft():
                    self._simulation.tell(f"{self.name} hears no more of {self._simulation.nodes.get(event.peer.node_id)}")


class _Caller:
    """Makes calls of one instance, and records them."""

    def __init__(self, simulation: OutageSimulation, instance: _Instance) -> None:
        self._simulation = simulation
        self._instance = instance
        self._loop = simulation.loop

    async def any_call(self, random: Random) -> None:
        """One call, whichever."""
        cache, key = self._instance.cache, some_key(random, self._simulation.moment)
        roll = random.random()
        if roll < 0.25:
            await self._record("get", [(key, None)], "", lambda: cache.get(key))
        elif roll < 0.60:
            value, options = self._new_value(), _set_options(random)
            note = "".join(f" {name}={option:.3g}" if name == "ttl" else f" {name}" for name, option in options.items())
            await self._record("set", [(key, value)], note, lambda: cache.set(key, value, **options))
        elif roll < 0.80:
            await self._record("delete", [(key, None)], "", lambda: cache.delete(key))
        elif roll < 0.83:
            pattern = some_pattern(random, key)
            await self._record("delete_match", [(pattern, None)], "", lambda: cache.delete_match(pattern))
        elif roll < 0.87 and self._simulation.schedule.with_expire:
            ttl = random.choice([0.3, 100.0])
            await self._record("expire", [(key, None)], f" ttl={ttl:g}", lambda: cache.expire(key, ttl))
        else:
            keys = sorted({key, *(some_key(random, self._simulation.moment) for _ in range(random.randint(1, 5)))})
            await self._many(keys, roll)

    async def _many(self, keys: list[str], roll: float) -> None:
        cache = self._instance.cache
        if roll < 0.90:
            await self._record("get", [(key, None) for key in keys], " in get_many", lambda: cache.get_many(keys))
        elif roll < 0.96:
            values = {key: self._new_value() for key in keys}
            await self._record("set", list(values.items()), " in set_many", lambda: cache.set_many(values))
        else:
            await self._record("delete", [(key, None) for key in keys], " in delete_many", lambda: cache.delete_many(keys))

    def _new_value(self) -> str:
        return f"{self._instance.name}:{next(self._simulation.numbers)}"

    async def _record(
        self, what: str, pairs: list[tuple[str, Any]], note: str, make: Callable[[], Awaitable[Any]]
    ) -> None:
        simulation, instance = self._simulation, self._instance
        began, mode, number = self._loop.time(), instance.cache.mode, next(simulation.numbers)
        simulation.open_calls[number] = [Call(instance.name, what, key, value, began, note=note) for key, value in pairs]
        answer, error = None, ""
        try:
            answer = await make()
        except Exception as raised:  # noqa: BLE001 - whatever it is, it must not be
            error = f"{type(raised).__name__}: {raised}"
        if instance.gone_at < inf:
            return  # nobody was there any more to hear of it
        del simulation.open_calls[number]
        then, dirty, ended = instance.cache.mode, instance.cache.dirty, self._loop.time()
        note += f" [{mode}{'' if then is mode else f'->{then}'}{f', {dirty} dirty' if dirty else ''}]"
        in_memory = mode is not Mode.REDIS or then is not Mode.REDIS or dirty > 0
        for key, value in pairs:
            one = answer.get(key) if isinstance(answer, dict) else True if "_many" in note else answer
            simulation.calls.append(
                Call(instance.name, what, key, value, began, ended, one, error, in_memory=in_memory, note=note)
            )


def _set_options(random: Random) -> dict[str, Any]:
    roll = random.random()
    if roll < 0.55:
        return {}
    if roll < 0.75:
        return {"ttl": random.uniform(100, 200)}
    if roll < 0.85:
        return {"ttl": random.uniform(0.05, 2)}
    return {"nx": True} if roll < 0.93 else {"xx": True}


_HOT: Final = 3
_PASSING: Final = {"brief": (10, 0.5), "long": (2, 3.0)}
"""How many keys a second come into use, and for how long each is."""


def some_key(random: Random, moment: float) -> str:
    """A key that is in use now.  Most are for a while only: what an outage did to one is not covered up by later writes."""
    if random.random() < 0.15:
        return f"hot:{random.randrange(_HOT)}"
    kind = random.choice(["brief", "long"])
    rate, lasts = _PASSING[kind]
    return f"{kind}:{int(rate * random.uniform(moment, moment + lasts))}"


def some_pattern(random: Random, key: str) -> str:
    """A pattern that matches the key and a few others."""
    if random.random() < 0.05:
        return "*"
    if key.startswith("hot"):
        return "hot:*"
    return f"{key[:-1]}?" if random.random() < 0.7 else f"{key}*"


@dataclass(slots=True)
class Outcome:
    """What came of a run.

    Attributes:
        schedule: what was done.
        violations: what must not be; empty if all is well.
        calls: how many of each kind.
        history: all that is known of it.
        healed_after: how long it took until all was well again, in seconds.
        slowest: the longest call on an instance that was not stopped meanwhile, in seconds.
    """

    schedule: Schedule
    history: History
    violations: list[Violation] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    hits: int = 0
    reads: int = 0
    healed_after: float = 0.0
    slowest: float = 0.0


class OutageSimulation:
    """One run.

    Args:
        schedule: what is to happen.
        is_telling: record for a story also what the instances and Redis did; changes nothing else.
    """

    def __init__(self, schedule: Schedule, *, is_telling: bool = False) -> None:
        self.schedule = schedule
        self.is_telling = is_telling
        self.loop = VirtualLoop()
        self.loop.dial = self._dial
        self.loop.set_exception_handler(self._failed)
        random = Random(f"{schedule.seed} surroundings")  # noqa: S311 - repeatable on purpose
        self.server = ServerProcess(self.loop, random, page=schedule.page)
        if is_telling:
            self.server.ran = self._tell_command
        self.ether = _Ether(self.loop, random.getrandbits(32), schedule.weather)
        self.ether.accepts = self._accepts
        self.addresses: list[Address] = [(f"10.0.0.{place + 1}", _PORT) for place in range(len(schedule.begins))]
        self.calls: list[Call] = []
        self.open_calls: dict[int, list[Call]] = {}
        self.incidents: list[Incident] = []
        self.nodes: dict[str, str] = {}
        self.numbers = count(1)
        self._random = random
        self._instances: list[_Instance] = []
        self._at: dict[int, _Instance] = {}
        self._dropping: list[Fault] = []
        self._muted: list[tuple[int, float, float]] = []  # place, from, to
        self._forgotten: list[Interval] = []  # what Redis forgot, until when somebody must have looked
        self._saved: dict[Fault, Snapshot] = {}
        self._killed_data: Snapshot = {}
        self._tasks: list[tuple[_Instance, asyncio.Task[None]]] = []
        self._reads: list[Read] = []
        self._failures: list[Violation] = []
        self._start = self.loop.time() + 2.0
        self._is_over = False

    def run(self) -> Outcome:
        """Do it, and judge it."""
        outcome = Outcome(self.schedule, History((), ()))
        try:
            self.loop.run_until_complete(self._run(outcome))
        finally:
            self.loop.close()
        return outcome

    # -- what instances ask

    @property
    def moment(self) -> float:
        """Seconds since the start, as long as the trouble lasts."""
        return min(self.loop.time() - self._start, self.schedule.seconds)

    @property
    def has_begun(self) -> bool:
        """Whether calls are made."""
        return self.loop.time() >= self._start

    def sources(self) -> list[Any]:
        """Where a new instance learns of addresses."""
        every = [Static([f"{host}:{port}" for host, port in self.addresses]), Roster()]
        return {"static": every[:1], "redis": every[1:], "both": every}[self.schedule.sources]

    def tell(self, text: str, key: str = "") -> None:
        """For the story."""
        self.incidents.append(Incident(self.loop.time(), text, key))

    # -- the run

    async def _run(self, outcome: Outcome) -> None:
        try:
            self.server.start()
            for at, do in sorted(self._steps(), key=lambda step: step[0]):
                await asyncio.sleep(max(0.0, self._start + at - self.loop.time()))
                do()
            await asyncio.sleep(max(0.0, self._start + self.schedule.seconds - self.loop.time()))
            await self._heal()
            outcome.healed_after = await self._settle()
            await self._read_all()
            await asyncio.sleep(_LINGER)
            await self._read_all()
        except _NotHealed as failure:
            self._failures.append(Violation("not healed", "the instances", str(failure)))
        self._judge(outcome)
        await self._bury()

    def _steps(self) -> Iterator[tuple[float, Callable[[], None]]]:
        for place, begin in enumerate(self.schedule.begins):
            yield begin, lambda place=place: self._open(place)  # type: ignore[misc]
        for fault in self.schedule.faults:
            if fault.kind == "snapshot":
                yield fault.saved_at, lambda fault=fault: self._save(fault)  # type: ignore[misc]
            yield fault.at, lambda fault=fault: self._begin(fault)  # type: ignore[misc]
            if fault.until < self.schedule.seconds:
                yield fault.until, lambda fault=fault: self._end(fault)  # type: ignore[misc]

    def _open(self, place: int) -> None:
        life = 1 + sum(instance.place == place for instance in self._instances)
        instance = self._at[place] = _Instance(self, place, life)
        self._instances.append(instance)
        self.tell(f"{instance.name} is opened")
        self._tasks.append((instance, self.loop.create_task(instance.open())))

    def _save(self, fault: Fault) -> None:
        self._saved[fault] = self.server.model.snapshot() if self.server.model is not None else self._killed_data

    def _begin(self, fault: Fault) -> None:
        instance = None if fault.place is None else self._at.get(fault.place)
        if fault.place is not None and (instance is None or not instance.lives):
            return
        self.tell(f"begins: {fault}")
        match fault.kind, instance:
            case ("kill" | "empty" | "snapshot"), None:
                assert self.server.model is not None
                self._killed_data = self.server.model.snapshot()
                self.server.kill()
            case "stop", None:
                self.server.stop()
            case ("drop" | "partition"), _:
                self._dropping.append(fault)
                self._mute(fault)
            case "pause", _Instance():
                instance.process.stop()
                self._mute(fault)
            case "crash", _Instance():
                instance.kill()
                self._mute(fault)
            case "leave", _Instance() if instance.process.is_running:
                self._tasks.append((instance, self.loop.create_task(instance.leave())))
                self._mute(fault)
            case _, _Instance():
                instance.wire.become(fault.kind)

    def _end(self, fault: Fault) -> None:
        instance = None if fault.place is None else self._at.get(fault.place)
        if fault.place is not None and instance is None:
            return
        self.tell(f"ends: {fault}")
        match fault.kind, instance:
            case "kill", None:
                self.server.start(self._killed_data, loads_for=fault.loads_for)
            case "empty", None:
                self.server.start()
            case "snapshot", None:
                self._forgotten.append((self._start + fault.saved_at, self.loop.time() + _FORGET_WITHIN))
                self.server.start(self._saved[fault], loads_for=fault.loads_for)
            case "stop", None:
                self.server.go_on()
            case ("drop" | "partition"), _ if fault in self._dropping:
                self._dropping.remove(fault)
            case "pause", _Instance() if not instance.is_killed:
                instance.process.go_on()
            case ("crash" | "leave"), _Instance() if instance.gone_at < inf:
                assert fault.place is not None
                self._open(fault.place)
            case _, _Instance() if fault.kind == instance.wire.state:
                instance.wire.become("ok")

    async def _heal(self) -> None:
        self.tell("healing begins")
        for fault in self.schedule.faults:
            if fault.until >= self.schedule.seconds and fault.kind not in ("crash", "leave"):
                self._end(fault)
        self.ether.weather = Weather()
        await asyncio.sleep(self.schedule.tail)
        await self._wait([task for instance, task in self._tasks if not instance.is_killed], "opening or closing a cache")
        await self._wait([self.loop.create_task(one.halt()) for one in self._instances if one.lives], "a call")
        self.tell("no more calls")

    async def _wait(self, tasks: list[asyncio.Task[None]], what: str) -> None:
        _, hang = await asyncio.wait(tasks, timeout=_HALTED_WITHIN)
        if hang:
            raise _NotHealed(f"{what} hangs for more than {_HALTED_WITHIN:g} s")

    async def _settle(self) -> float:
        began = self.loop.time()
        while not all(one.cache.mode is Mode.REDIS and not one.cache.dirty for one in self._instances if one.lives):
            if self.loop.time() > began + _HEALED_WITHIN:
                raise _NotHealed(
                    f"not within {_HEALED_WITHIN:g} s: "
                    + ", ".join(
                        f"{one.name} is in {one.cache.mode} with {one.cache.dirty} dirty"
                        for one in self._instances
                        if one.lives
                    )
                )
            await asyncio.sleep(0.02)
        return self.loop.time() - began

    async def _read_all(self) -> None:
        keys = sorted({call.key for call in self.calls if call.what != "delete_match"})
        for instance in self._instances:
            if instance.lives:
                found = await instance.process.start(instance.cache.get_many(keys))
                now = self.loop.time()
                self._reads += [Read(instance.name, key, value, now) for key, value in found.items()]
        assert self.server.model is not None
        now = self.loop.time()
        for key in keys:
            data = self.server.model.read(f"{_NAMESPACE}:{key}".encode())
            if isinstance(data, bytes):
                self._reads.append(Read(REDIS, key, json.loads(data), now))

    async def _bury(self) -> None:
        self._is_over = True
        if self.server.model is not None:
            self.server.kill()
        for _, task in self._tasks:
            task.cancel()
        await asyncio.gather(*(instance.bury() for instance in self._instances))

    # -- the judgement

    def _judge(self, outcome: Outcome) -> None:
        calls = [*self.calls, *(call for some in self.open_calls.values() for call in some)]
        outcome.history = history = History(
            calls=calls,
            reads=self._reads,
            incidents=self.incidents,
            heard_until={one.name: self._heard_until(one) for one in self._instances if one.is_killed},
            forgotten={one.name: self._forgotten_of(one) for one in self._instances if one.gone_at < inf},
            slack=self.schedule.slack,
            is_exact=False,
            began=self._start,
        )
        outcome.violations = [*self._failures, *judge(history)]
        outcome.calls = Counter(call.what for call in calls)
        outcome.reads = len(self._reads)

    def _heard_until(self, instance: _Instance) -> float:
        """See :func:`~meshcache.testing.history.heard_until`."""
        grace = 1.0 + 5 * self.schedule.weather.loss
        silent: dict[int, list[Interval]] = {place: [] for place in range(len(self.addresses))}
        for place, start, end in self._muted:
            silent[place].append((start, end))
        for other in self._instances:
            silent[other.place].append((-inf if other.name == name_of(other.place) else other.opened_at, other.opened_at + 1.0))
        own = silent.pop(instance.place)
        return heard_until(instance.opened_at, instance.gone_at, own, silent.values(), grace)

    def _forgotten_of(self, instance: _Instance) -> list[Interval]:
        return [(start, end) for start, end in self._forgotten if instance.gone_at <= end]

    def _mute(self, fault: Fault) -> None:
        places = range(len(self.addresses)) if fault.kind == "partition" else [fault.place]
        for place in places:
            assert place is not None
            self._muted.append((place, self.loop.time(), self._start + fault.until))

    # -- the surroundings

    async def _dial(self, factory: Callable[[], asyncio.BaseProtocol], host: str) -> asyncio.Transport:
        name = host.partition(".")[0]
        return await next(one for one in self._instances if one.name.lower() == name.lower()).wire.dial(factory)

    def _accepts(self, packet: Packet) -> bool:
        if not self._dropping:
            return True
        source, destination = (int(address[0].rpartition(".")[2]) - 1 for address in (packet.source, packet.destination))
        for fault in self._dropping:
            some = {fault.place} if fault.place is not None else set(fault.places)
            others = set(fault.places) if fault.place is not None else set(range(len(self.addresses))) - some
            concerned = (source in some and destination in others) or (
                not fault.one_way and source in others and destination in some
            )
            if concerned and self.ether.random.random() < fault.loss:
                return False
        return True

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not self._is_over:
            error = context.get("exception")
            self._failures.append(Violation("failed", "the event loop", f"{context.get('message')}: {error!r}"))

    def _tell_command(self, client: Any, command: list[bytes], reply: Any) -> None:
        for word in command[1:]:
            if word.startswith(b"sim:"):
                text = " ".join(_readable(part) for part in command if len(part) < 60)
                self.tell(f"Redis runs for {client.who}: {text} -> {reply!r}"[:_LONGEST_LINE], word[4:].decode())


class _NotHealed(Exception):
    """It takes too long."""


def _readable(word: bytes) -> str:
    if len(word) >= 16 and not word.isascii():
        return f"stamp:{int.from_bytes(word[:6], 'big') / 1000 - _WALL_MS / 1000:.3f}"
    return word.decode("ascii", "replace")


def run_schedule(seed: int) -> Outcome:
    """Run one schedule.

    Raises:
        AssertionError: something was wrong; the message has the seed, the schedule and the story.
    """
    outcome = OutageSimulation(make_schedule(seed)).run()
    if outcome.violations:
        told = OutageSimulation(make_schedule(seed), is_telling=True).run()
        raise AssertionError("\n\n".join([str(told.schedule), *map(str, told.violations[:3])]))
    return outcome


def main() -> int:
    """See the head of this file."""
    logging.getLogger("meshcache").setLevel(logging.CRITICAL)
    start, many = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    failures = []
    for seed in range(start, start + many):
        try:
            outcome = run_schedule(seed)
            if many == 1:
                print(outcome.schedule, dict(outcome.calls), outcome.reads, outcome.healed_after)  # noqa: T201
        except AssertionError as failure:
            failures.append(seed)
            print(failure)  # noqa: T201
    print(f"{many} schedules, {len(failures)} failed: {failures[:50]}")  # noqa: T201
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
