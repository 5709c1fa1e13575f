"""What everybody in one simulation of outages shares, and the calls that clients make in it.

Each call is recorded with its beginning and end, as :mod:`~meshcache.testing.history` judges them.

What may not enter: faults, and what instances are made of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from math import inf
from random import Random
from typing import Any, Final, NamedTuple

import anyio

from ..cache import MeshCache
from ..events import Mode
from ..mesh.settings import Address
from .datagrams import Ether
from .history.records import BY_REFRESH, OR_LOAD, Call, Incident
from .outages import Schedule
from .virtual import VirtualLoop
from .wire import ServerProcess

__all__ = ["CAN_COUNT", "COUNTERS", "Caller", "World"]

CAN_COUNT: Final = hasattr(MeshCache, "incr")
"""Whether there are counters to be judged."""

COUNTERS: Final = [f"count:{number}" for number in range(2)]


@dataclass(slots=True, kw_only=True)
class World:
    """One simulation.

    Attributes:
        schedule: what happens.
        loop: the clock.
        server: Redis.
        ether: the network.
        addresses: of each place.
        start: when the trouble begins.
        is_telling: whether what only a story needs is recorded.
        names: of the instances by node id.
        calls: those that have ended.
        open_calls: those that have not.
        incidents: for the story.
        numbers: make values unique.
    """

    schedule: Schedule
    loop: VirtualLoop
    server: ServerProcess
    ether: Ether
    addresses: list[Address]
    start: float
    is_telling: bool
    names: dict[str, str] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    open_calls: dict[int, list[Call]] = field(default_factory=dict)
    incidents: list[Incident] = field(default_factory=list)
    numbers: count[int] = field(default_factory=lambda: count(1))

    @property
    def now(self) -> float:
        """This moment."""
        return self.loop.time()

    @property
    def moment(self) -> float:
        """Seconds since the start, as long as the trouble lasts."""
        return min(self.loop.time() - self.start, self.schedule.seconds)

    def tell(self, text: str, key: str = "") -> None:
        """For the story."""
        self.incidents.append(Incident(self.loop.time(), text, key))


class _Begun(NamedTuple):
    """A call that has begun."""

    number: int
    what: str
    values: Mapping[str, Any]
    began: float
    mode: Mode


class Caller:
    """Makes calls of one cache, and records them.

    Args:
        world: where.
        name: of the instance.
        cache: open.
        dirty: how many writes Redis lacks now.
        random: for the patience of callers.

    Attributes:
        is_gone: nobody is there any more to hear of an answer.
    """

    def __init__(self, world: World, name: str, cache: MeshCache, dirty: Callable[[], int], random: Random) -> None:
        self.is_gone = False
        self._world = world
        self._name = name
        self._cache = cache
        self._dirty = dirty
        self._patience_random = random

    async def any_call(self, random: Random, loads: Random) -> None:
        """One call, whichever; those that load have dice of their own, and so has patience."""
        cache, schedule = self._cache, self._world.schedule
        if loads.random() < schedule.loads:
            await self._load(loads, self._some_key(loads))
            return
        key = self._some_key(random)
        roll = random.random()
        if roll < 0.25:
            await self._record("get", {key: None}, "", lambda: cache.get(key))
        elif roll < 0.63:
            value, options = self._new_value(), _set_options(random)
            note = "".join(f" {name}={option:.3g}" if name == "ttl" else f" {name}" for name, option in options.items())
            ttl = options.get("ttl", inf)
            await self._record("set", {key: value}, note, lambda: cache.set(key, value, **options), ttl)
        elif roll < 0.80:
            await self._record("delete", {key: None}, "", lambda: cache.delete(key))
        elif roll < 0.83:
            pattern = _some_pattern(random, key)
            await self._record("delete_match", {pattern: None}, "", lambda: cache.delete_match(pattern))
        elif roll < 0.87 and schedule.with_expire:
            ttl = random.choice([0.3, 100.0])
            await self._record("expire", {key: None}, f" ttl={ttl:g}", lambda: cache.expire(key, ttl))
        elif roll < 0.92 and CAN_COUNT:
            counter, amount = random.choice(COUNTERS), random.randint(1, 5)
            await self._record("incr", {counter: amount}, "", lambda: cache.incr(counter, amount))
        else:
            keys = sorted({key, *(self._some_key(random) for _ in range(random.randint(1, 5)))})
            await self._call_of_many(random, keys)

    async def _call_of_many(self, random: Random, keys: list[str]) -> None:
        cache = self._cache
        match random.choice(["get", "set", "set", "delete"]):
            case "get":
                await self._record("get", dict.fromkeys(keys), " in get_many", lambda: cache.get_many(keys))
            case "set":
                values = {key: self._new_value() for key in keys}
                await self._record("set", values, " in set_many", lambda: cache.set_many(values))
            case _:
                await self._record("delete", dict.fromkeys(keys), " in delete_many", lambda: cache.delete_many(keys))

    async def _load(self, random: Random, key: str) -> None:
        """A read that loads what is missing, or a refresh.  What is loaded is a call in itself, which may write."""
        ttl, takes = _ttl(random), random.choice([0.0, random.expovariate(1 / _LOAD), random.expovariate(0.1 / _LOAD)])
        begun: list[_Begun] = []

        async def loader() -> str:
            value = self._new_value()
            begun.append(self._begin("load", {key: value}))
            await asyncio.sleep(takes)
            return value

        function = self._cache.cached(ttl=ttl, key=lambda: key)(loader)
        if random.random() < 0.25:
            await self._record("get", {key: None}, f" {BY_REFRESH}", function.refresh)
        else:
            await self._record("get", {key: None}, f" {OR_LOAD}", function)
        for load in begun:
            self._end(load, f" ttl={ttl:.3g}", ttl=ttl)

    async def _record(
        self, what: str, values: Mapping[str, Any], note: str, make: Callable[[], Awaitable[Any]], ttl: float = inf
    ) -> None:
        begun = self._begin(what, values)
        answer, error = None, ""
        with anyio.move_on_after(inf if what == "incr" else self._patience()) as scope:
            try:
                answer = await make()
            except Exception as raised:  # noqa: BLE001 - whatever it is, it must not be
                error = f"{type(raised).__name__}: {raised}"
        if not scope.cancelled_caught:  # otherwise it stays one without an answer
            self._end(begun, note, answer, error, ttl)

    def _patience(self) -> float:
        """How long a caller waits, in seconds."""
        random = self._patience_random
        if random.random() >= self._world.schedule.impatience:
            return inf
        return random.choice([0.0, random.expovariate(1000), random.expovariate(50), random.expovariate(5)])

    def _begin(self, what: str, values: Mapping[str, Any]) -> _Begun:
        world = self._world
        begun = _Begun(next(world.numbers), what, values, world.now, self._cache.mode)
        world.open_calls[begun.number] = [
            Call(self._name, what, key, value, begun.began) for key, value in values.items()
        ]
        return begun

    def _end(self, begun: _Begun, note: str, answer: Any = None, error: str = "", ttl: float = inf) -> None:
        if self.is_gone:
            return
        world, (number, what, values, began, mode) = self._world, begun
        del world.open_calls[number]
        then, dirty, ended = self._cache.mode, self._dirty(), world.now
        note += f" [{mode}{'' if then is mode else f'->{then}'}{f', {dirty} dirty' if dirty else ''}]"
        for key, value in values.items():
            world.calls.append(
                Call(
                    instance=self._name,
                    what=what,
                    key=key,
                    value=value,
                    began=began,
                    ended=ended,
                    answer=_of_one(answer, key, many="_many" in note),
                    error=error,
                    ttl=ttl,
                    in_memory=mode is not Mode.REDIS or then is not Mode.REDIS or dirty > 0,
                    note=note,
                )
            )

    def _new_value(self) -> str:
        return f"{self._name}:{next(self._world.numbers)}"

    def _some_key(self, random: Random) -> str:
        """A key that is in use now.  Most are for a while only: what an outage did to one is not covered up by later writes."""
        if random.random() < 0.15:
            return f"hot:{random.randrange(_HOT)}"
        kind = random.choice(["brief", "long"])
        rate, lasts = _PASSING[kind]
        moment = self._world.moment
        return f"{kind}:{int(rate * random.uniform(moment, moment + lasts))}"


_LOAD: Final = 0.05
"""A loader takes so long in the middle, in seconds; or no time, or ten times as long."""

_HOT: Final = 3
_PASSING: Final = {"brief": (10, 0.5), "long": (2, 3.0)}
"""How many keys a second come into use, and for how long each is."""


def _of_one(answer: Any, key: str, *, many: bool) -> Any:
    if not many:
        return answer
    return answer.get(key) if isinstance(answer, dict) else True


def _ttl(random: Random) -> float:
    roll = random.random()
    return inf if roll < 0.7 else random.uniform(100, 200) if roll < 0.9 else random.uniform(0.05, 2)


def _set_options(random: Random) -> dict[str, Any]:
    roll = random.random()
    if roll < 0.55:
        return {}
    if roll < 0.75:
        return {"ttl": random.uniform(100, 200)}
    if roll < 0.85:
        return {"ttl": random.uniform(0.05, 2)}
    return {"nx": True} if roll < 0.93 else {"xx": True}


def _some_pattern(random: Random, key: str) -> str:
    """A pattern that matches the key and a few others."""
    if random.random() < 0.01:
        return "*"
    if key.startswith("hot"):
        return "hot:*"
    return f"{key[:-1]}?" if random.random() < 0.7 else f"{key}*"
