"""One process of a simulation of outages: a whole cache, its wire to Redis, its socket, and the clients that call it.

What may not enter: when what happens to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import inf
from random import Random
from typing import Any, Final

from ..cache import MeshCache
from ..discovery.roster import Roster
from ..discovery.static import Static
from ..events import Mode, ModeChanged, PeerJoined, PeerLeft
from ..redis.link import Argument, Command, Identity, Shard
from ..redis.names import Names
from ..runtime.surroundings import Surroundings
from .datagrams import SimulatedSocket
from .outages import name_of
from .virtual import Process
from .wire import Wire
from .world import Caller, World

__all__ = ["HALTED_WITHIN", "MESH_KEY", "NAMESPACE", "WALL_MS", "Instance"]

NAMESPACE: Final = "sim"
MESH_KEY: Final = bytes(range(32))
WALL_MS: Final = 1_700_000_000_000
"""What wall clocks show when the loop's clock shows 0."""

_CLIENTS: Final = 8
_BUSY: Final = 8
"""So many more calls there are when all are busy."""
_LONGEST_SLEEP: Final = 10.0
HALTED_WITHIN: Final = 30.0
"""A call that takes longer hangs, in seconds."""


class _Cache(MeshCache):
    """A cache in other surroundings."""

    world: Surroundings

    def _surroundings(self) -> Surroundings:
        return self.world

    async def learn_key(self) -> None:
        """Learn the mesh's key without Redis, as from a secret; to stretch one takes long, and a thread."""
        assert self._runtime is not None
        await self._runtime._mesh.agree(_Secret(), Names(NAMESPACE))

    @property
    def dirty(self) -> int:
        """How many writes Redis lacks."""
        journal = None if self._runtime is None else self._runtime.memory.journal
        return 0 if journal is None else len(journal)


class _Secret:
    """A :class:`~meshcache.redis.link.Link` that has nothing to say but the mesh's key."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.identity = Identity("a secret")

    async def execute(self, *command: Argument) -> Any:
        """See there."""
        return MESH_KEY

    async def execute_many(self, commands: Sequence[Command]) -> list[Any]:
        """See there."""
        return [MESH_KEY for _ in commands]

    async def shards(self) -> Sequence[Shard]:
        """See there."""
        return [Shard(self)]

    async def aclose(self) -> None:
        """See there."""


class Instance:
    """One process.

    Args:
        world: where it lives.
        place: which of the schedule's instances it is.
        life: how often that was started.

    Attributes:
        name: A, or A2 after a restart.
        place: the same after a restart.
        process: can be stopped and continued.
        wire: to Redis.
        wall_ahead: how far its wall clock is ahead, in seconds.
        opened_at: when the cache was open; ``inf`` if it is not yet.
        gone_at: when it was killed, or closed by the schedule.
        is_killed: which of the two.
        went_alone: whether it had no peer then: without a key for the mesh, for example, since it had never reached Redis.
    """

    def __init__(self, world: World, place: int, life: int) -> None:
        schedule = world.schedule
        self.name = name_of(place) + (str(life) if life > 1 else "")
        self.place = place
        self.opened_at = self.gone_at = inf
        self.is_killed = False
        self.went_alone = False
        self.wall_ahead = schedule.skews[place]
        self.process = Process(world.loop, self.name)
        self._seed = f"{schedule.seed} {self.name}"
        random = _random(self._seed)
        self.process.timers_first = random.random() < 0.3
        self.wire = Wire(self.process, world.server, random)
        self._world = world
        self._socket: SimulatedSocket | None = None
        self._cache = _Cache(
            f"redis://{self.name}.redis:6379/0",
            namespace=NAMESPACE,
            codec="json",  # so that what is in Redis can be read without it
            discovery=self._sources(),
            **schedule.options,
        )
        self._cache.world = self._surroundings(ahead=random.uniform(0, 1e6))
        patience = _random(f"{self._seed} patience")
        self._caller = Caller(world, self.name, self._cache, lambda: self._cache.dirty, patience)
        self._clients: list[asyncio.Task[None]] = []
        self._is_halted = False
        self._watcher: asyncio.Task[None] | None = None

    @property
    def lives(self) -> bool:
        """Whether it is open, and was neither killed nor closed."""
        return self.opened_at < inf and self.gone_at == inf

    @property
    def is_healed(self) -> bool:
        """Whether Redis answers it and has all its writes."""
        return self._cache.mode is Mode.REDIS and not self._cache.dirty

    def __str__(self) -> str:
        return f"{self.name}: {self._cache.mode}, {self._cache.dirty} dirty"

    async def open(self) -> None:
        """Enter the cache, and let clients call it."""
        await self.process.start(self._open())

    def kill(self) -> None:
        """As SIGKILL does."""
        self._go()
        self.is_killed = True
        self.process.stop()
        if self._socket is not None:
            self._socket.close()
        self.wire.hang_up()

    async def leave(self) -> None:
        """Close the cache, as a deployment does."""
        await self.halt()
        if not self.is_killed:
            self._go()
            await self.process.start(self._cache.aclose())

    async def halt(self) -> None:
        """No more calls; those under way have ended then."""
        self._is_halted = True
        if self._clients:
            await asyncio.wait(self._clients)

    async def read(self, keys: Sequence[str], *, one_by_one: bool) -> dict[str, Any]:
        """What can be read here."""
        return await self.process.start(self._read(keys, one_by_one=one_by_one))

    async def bury(self) -> None:
        """The simulation is over: let go of everything."""
        self._is_halted = self._caller.is_gone = True
        self.process.go_on()
        await self.process.start(self._cache.aclose())
        if self._clients:
            _, hang = await asyncio.wait(self._clients, timeout=HALTED_WITHIN)
            for client in hang:  # whoever waits for their end has told so
                client.cancel()

    # -- inside the process

    async def _open(self) -> None:
        world = self._world
        await self._cache.__aenter__()
        if world.schedule.knows_key:
            await self._cache.learn_key()
        self.opened_at = world.now
        if world.is_telling:
            self._watcher = asyncio.create_task(self._watch())
        for number in range(_CLIENTS):
            random, loads = _random(f"{self._seed} {number}"), _random(f"{self._seed} {number} loads")
            self._clients.append(asyncio.create_task(self._call_often(random, loads)))

    async def _read(self, keys: Sequence[str], *, one_by_one: bool) -> dict[str, Any]:
        found = await self._cache.get_many(keys)
        return {key: await self._cache.get(key) for key in found} if one_by_one else found

    async def _call_often(self, random: Random, loads: Random) -> None:
        while not self._is_halted:
            await asyncio.sleep(self._pause(random))
            if not self._is_halted and self._world.now >= self._world.start:
                await self._caller.any_call(random, loads)

    def _pause(self, random: Random) -> float:
        """Until the next call of one client, in seconds."""
        schedule, moment = self._world.schedule, self._world.moment
        usual = _CLIENTS * len(schedule.begins) / schedule.rate
        soon = usual / _BUSY
        if any(start <= moment < end for start, end in schedule.busy):
            return random.expovariate(1 / soon)
        pause = min(random.expovariate(1 / usual), _LONGEST_SLEEP)
        for start, _ in schedule.busy:
            if moment < start < moment + pause:
                return start - moment + random.expovariate(1 / soon)
        return pause

    async def _watch(self) -> None:
        world = self._world
        async for event in self._cache.events():
            match event:
                case ModeChanged():
                    world.tell(f"{self.name}: {event.old} -> {event.new}: {event.cause}")
                case PeerJoined():
                    world.tell(f"{self.name} hears {world.names.get(event.peer.node_id)}")
                case PeerLeft():
                    world.tell(f"{self.name} hears no more of {world.names.get(event.peer.node_id)}: {event.reason}")

    # -- what it is made of

    def _sources(self) -> list[Any]:
        kind = self._world.schedule.sources
        sources: list[Any] = []
        if kind != "redis":
            sources.append(Static([f"{host}:{port}" for host, port in self._world.addresses]))
        if kind != "static":
            sources.append(Roster())
        return sources

    def _surroundings(self, ahead: float) -> Surroundings:
        world = self._world
        seed = f"{self._seed} inside"
        world.names[f"{_random(seed).getrandbits(64):016x}"] = self.name  # the first that the runtime draws
        return Surroundings(
            now=lambda: world.loop.time() + ahead,
            wall_ms=lambda: WALL_MS + int((world.loop.time() + self.wall_ahead) * 1000),
            random=_random(seed),
            open_socket=self._open_socket,
        )

    def _open_socket(self, interfaces: Sequence[str] | None, port: int) -> SimulatedSocket:
        self._socket = SimulatedSocket(self._world.ether, self.process, self._world.addresses[self.place])
        return self._socket

    def _go(self) -> None:
        self.gone_at = self._world.now
        self.went_alone = not self._cache.peers
        self._caller.is_gone = True


def _random(seed: str) -> Random:
    return Random(seed)  # noqa: S311 - repeatable on purpose
