"""The trouble of one simulated run, made from a seed: who takes part, what goes wrong when, and for how long.

What may not enter: I/O, a clock.  Randomness comes from the seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import exp, log
from random import Random
from typing import Any, Final

from .network import Weather
from .wire import CUTS

__all__ = ["Fault", "Schedule", "make_schedule", "name_of"]

_SHORTEST: Final = 0.002
_LONGEST_PAUSE: Final = 30.0
_MOST_INSTANCES: Final = 5


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, or somebody who comes or goes.

    Attributes:
        kind: of Redis ``kill``, ``empty``, ``snapshot`` (killed, and started with all its data, none, or older data) and
            ``stop``; of a wire one of :data:`~meshcache.testing.wire.CUTS`; of a process ``pause``, ``crash``, ``leave`` and ``clock``;
            of the network ``drop`` and ``partition``.
        at: when, in seconds from the start.
        until: when it is made good; at the end of the run at the latest.
        place: of the instance that it concerns; None: Redis or the network.
        saved_at: of a ``snapshot``: what Redis comes back with.
        loads_for: how long Redis says that it loads, in seconds.
        loss: of a ``drop``: the part of datagrams that is lost.
        places: of a ``drop`` those at the other side; of a ``partition`` those at one side.
        one_way: whether only what the one side sends is dropped.
        ahead: of a ``clock``: how far the wall clock is ahead meanwhile, in seconds.
    """

    kind: str
    at: float
    until: float
    place: int | None = None
    saved_at: float = 0.0
    loads_for: float = 0.0
    loss: float = 1.0
    places: tuple[int, ...] = ()
    one_way: bool = False
    ahead: float = 0.0

    def concerns(self, source: int, destination: int) -> bool:
        """Whether datagrams on this way may be dropped by it."""
        if self.place is None:
            there, back = source in self.places, destination in self.places
            return there != back and (there or not self.one_way)
        if source == self.place:
            return destination in self.places
        return destination == self.place and source in self.places and not self.one_way

    def __str__(self) -> str:
        who = "" if self.place is None else f" {name_of(self.place)}"
        told = f"{self.at:.3f} to {self.until:.3f}: {self.kind}{who}"
        if self.kind == "snapshot":
            told += f" (back as it was at {self.saved_at:.3f})"
        if self.kind == "clock":
            told += f" ({self.ahead:+.3f})"
        if self.kind == "partition":
            told += (
                f" (between {', '.join(map(name_of, self.places))} and the others{', one way' if self.one_way else ''})"
            )
        elif self.places:
            way = "to" if self.one_way else "to and from"
            told += f" (loses {self.loss:.0%} of the datagrams {way} {', '.join(map(name_of, self.places))})"
        return told


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """One run.

    Attributes:
        seed: all of it can be made again.
        seconds: how long the instances are in trouble.
        begins: when each instance is opened, in seconds from the start; negative: long before.
        skews: how far each instance's wall clock is ahead, in seconds.
        weather: of the network.
        rate: calls a second, all instances together.
        busy: when there are many more, in seconds from the start: mistakes are made where faults begin and end.
        tail: how long calls go on after all is healed, in seconds.
        page: how many keys Redis looks at in one SCAN.
        knows_key: whether instances know the mesh's key from the start, as with a secret; otherwise Redis has it.
        with_expire: whether there are calls of ``expire``.
        loads: the part of calls that load what is missing.
        impatience: the part of calls that are given up if they take long, but for those that count.
        options: of all caches.
        sources: where addresses come from: ``"static"``, ``"redis"`` or ``"both"``.
        faults: in the order of time.
    """

    seed: int
    seconds: float
    begins: tuple[float, ...]
    skews: tuple[float, ...]
    weather: Weather
    rate: float
    busy: tuple[tuple[float, float], ...]
    tail: float
    page: int
    knows_key: bool = False
    with_expire: bool = False
    loads: float = 0.0
    impatience: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    sources: str = "both"
    faults: tuple[Fault, ...] = ()

    @property
    def slack(self) -> float:
        """How far apart two writes must be until their stamps tell which is newer, in seconds."""
        aheads = [*self.skews, *(fault.ahead for fault in self.faults if fault.kind == "clock")]
        return max(aheads) - min(aheads) + 0.003

    def __str__(self) -> str:
        begins = ", ".join(
            f"{name_of(place)} at {begin:.3f} (clock {skew:+.3f})"
            for place, (begin, skew) in enumerate(zip(self.begins, self.skews, strict=True))
        )
        busy = ", ".join(f"{start:.2f}-{end:.2f}" for start, end in self.busy)
        head = (
            f"seed {self.seed}: {self.seconds:.2f} s, {begins}; {self.rate:g} calls/s, more in {busy}, "
            f"{self.loads:.0%} of them loads, {self.impatience:.0%} impatient{', with expire' if self.with_expire else ''}, {self.options}, "
            f"found by {self.sources}{', know the key' if self.knows_key else ''}, {self.weather}, calls go on for {self.tail:.3f} s after healing"
        )
        return "\n  ".join([head, *map(str, self.faults)])


def name_of(place: int) -> str:
    """What an instance is called: A, B, C."""
    return "ABCDEFGHIJ"[place]


def make_schedule(seed: int) -> Schedule:
    """The schedule of a seed."""
    random = Random(f"outage {seed}")  # noqa: S311 - repeatable on purpose
    is_long = random.random() < 0.12
    seconds = random.uniform(15, 40) if is_long else random.uniform(2.5, 7)
    begins = _begins(random, seconds)
    faults = random.choice([_few_faults, _few_faults, _many_faults])
    struck = sorted(faults(random, seconds, len(begins)), key=lambda fault: fault.at)
    return Schedule(
        seed=seed,
        seconds=seconds,
        begins=begins,
        skews=_skews(random, len(begins)),
        weather=Weather(
            loss=random.choice([0.0, 0.0, 0.05, 0.3]),
            duplicate=random.choice([0.0, 0.1]),
            delay=(0.0001, random.choice([0.001, 0.001, 0.02, 0.1])),
        ),
        rate=random.choice([4.0, 10.0] if is_long else [10.0, 25.0, 50.0]),
        tail=random.choice([0.0, 0.0, _between(random, 0.02, 2.0)]),
        page=random.choice([1_000_000, 1_000_000, 3, 10]),
        knows_key=random.random() < 0.5,
        with_expire=random.random() < 0.3,
        # Of their own: older than they are many seeds that tests know.
        loads=Random(f"loads {seed}").choice([0.0, 0.1, 0.3]),  # noqa: S311
        impatience=Random(f"impatience {seed}").choice([0.0, 0.0, 0.1, 0.3]),  # noqa: S311
        options=_options(random),
        sources=random.choice(["both", "static", "redis"]),
        busy=_busy(random, struck),
        faults=tuple(struck),
    )


def _begins(random: Random, seconds: float) -> tuple[float, ...]:
    begins = [-1.0 - random.random() for _ in range(random.randint(2, 4))]
    if random.random() < 0.2:  # nobody was there before the trouble
        begins = [random.uniform(0, 0.3 * seconds) for _ in begins]
    if len(begins) < _MOST_INSTANCES and random.random() < 0.25:
        begins.append(random.uniform(0, seconds))
    return tuple(begins)


def _skews(random: Random, count: int) -> tuple[float, ...]:
    most = random.choice([0.0, 0.0, 0.0, 0.02, _between(random, 0.1, 5.0)])
    return tuple(random.uniform(-most, most) for _ in range(count))


def _busy(random: Random, faults: list[Fault]) -> tuple[tuple[float, float], ...]:
    """Three times at most, about the beginning or the end of a fault."""
    edges = [edge for fault in faults for edge in (fault.at, fault.until)]
    busy = []
    for edge in random.sample(edges, min(len(edges), 3)):
        start = edge - _between(random, 0.005, 0.3)
        busy.append((start, start + random.uniform(0.2, 0.8)))
    return tuple(sorted(busy))


def _options(random: Random) -> dict[str, Any]:
    options: dict[str, Any] = {
        "near_cache": random.choice(["off", "off", "standby", "serve"]),
        "on_recovery": random.choice(["replay"] * 7 + ["invalidate"]),
        "op_timeout": random.choice([0.25, 0.25, 0.1]),
    }
    if random.random() < 0.1:
        options["max_dirty"] = random.randint(1, 20)
    if random.random() < 0.1:
        options["max_entries"] = random.randint(5, 50)
    return options


# -- what goes wrong


def _few_faults(random: Random, seconds: float, count: int) -> Iterator[Fault]:
    """Some faults whose edges are near each other: what one thing does while another begins or ends is where mistakes are."""
    anchors = [random.uniform(0.05, 0.95) * seconds for _ in range(random.randint(1, 3))]
    victim = random.randrange(count)
    busy: dict[str, list[Fault]] = {}
    for _ in range(random.randint(1, 5)):
        at, until = sorted(_edge(random, anchors, seconds) for _ in range(2))
        until = seconds if random.random() < 0.15 else max(until, at + _SHORTEST)
        place = random.randrange(count)
        target, make = random.choice(_KINDS)
        target += f" {place}" if target in ("wire", "process", "socket") else ""
        if all(other.until < at or until < other.at for other in busy.setdefault(target, [])):
            fault = make(random, at, until, victim if target == "victim" else place, count)
            busy[target].append(fault)
            yield fault
            if target.startswith("wire") and random.random() < 0.4:  # all that one host has is cut off
                others = tuple(other for other in range(count) if other != place)
                at, until = sorted((max(0.0, at + _offset(random)), until + _offset(random)))
                yield Fault("drop", at, min(until, seconds), place, places=others)


def _edge(random: Random, anchors: list[float], seconds: float) -> float:
    if random.random() < 0.3:
        return random.uniform(0, seconds)
    moment = random.choice(anchors) + _offset(random)
    return min(max(moment, 0.0), seconds - 2 * _SHORTEST)


def _offset(random: Random) -> float:
    return random.choice([-1, 1]) * _between(random, 0.0005, 0.5)


def _many_faults(random: Random, seconds: float, count: int) -> Iterator[Fault]:
    """Of Redis, of each wire, each process and the network: faults of one of them follow each other, those of two may meet."""

    def some(make: _Make, chance: float, place: int = 0) -> Iterator[Fault]:
        if random.random() < chance:
            yield from _one_after_another(random, seconds, lambda at, until: make(random, at, until, place, count))

    yield from some(_of_redis, 0.75)
    for place in range(count):
        yield from some(_of_wire, 0.4, place)
        yield from some(_of_process, 0.2, place)
        yield from some(_of_socket, 0.25, place)
    yield from some(_of_network, 0.2)
    yield from some(_of_victim, 0.3, random.randrange(count))


_Make = Callable[[Random, float, float, int, int], Fault]
"""Makes a fault from its beginning and end, the place of an instance, and how many there are."""


def _of_redis(random: Random, at: float, until: float, place: int, count: int) -> Fault:
    kind = random.choice(["kill", "empty", "snapshot", "snapshot", "stop"])
    saved_at = random.uniform(0.0, at) if random.random() < 0.5 else max(0.0, at - _between(random, 0.01, at + 0.01))
    return Fault(kind, at, until, saved_at=saved_at, loads_for=random.choice([0.0, 0.0, _between(random, 0.001, 0.5)]))


def _of_wire(random: Random, at: float, until: float, place: int, count: int) -> Fault:
    return Fault(random.choice(CUTS), at, until, place)


def _of_process(random: Random, at: float, until: float, place: int, count: int) -> Fault:
    return Fault("pause", at, until, place)


def _of_socket(random: Random, at: float, until: float, place: int, count: int) -> Fault:
    others = [other for other in range(count) if other != place]
    some = random.sample(others, random.randint(1, len(others)))
    loss = random.choice([0.2, 0.6, 1.0, 1.0])
    return Fault("drop", at, until, place, loss=loss, places=tuple(sorted(some)), one_way=random.random() < 0.3)


def _of_network(random: Random, at: float, until: float, place: int, count: int) -> Fault:
    some = random.sample(range(count), random.randint(1, count - 1))
    return Fault("partition", at, until, places=tuple(sorted(some)), one_way=random.random() < 0.2)


def _of_victim(random: Random, at: float, until: float, place: int, count: int) -> Fault:
    return Fault(random.choice(["crash", "crash", "leave"]), at, until, place)


def _of_clock(random: Random, at: float, until: float, place: int, count: int) -> Fault:
    return Fault("clock", at, until, place, ahead=random.choice([-1, 1]) * _between(random, 0.01, 5.0))


_KINDS: Final[list[tuple[str, _Make]]] = [
    ("redis", _of_redis),
    ("redis", _of_redis),
    ("wire", _of_wire),
    ("wire", _of_wire),
    ("process", _of_process),
    ("socket", _of_socket),
    ("network", _of_network),
    ("victim", _of_victim),
    ("victim's clock", _of_clock),
]
"""What is struck, and how."""


def _one_after_another(random: Random, seconds: float, make: Callable[[float, float], Fault]) -> Iterator[Fault]:
    """Faults with pauses between, short ones and long ones alike; the last may last until the end."""
    longest = min(_LONGEST_PAUSE, 0.8 * seconds)
    at = _between(random, _SHORTEST, 0.7 * seconds)
    while at < seconds:
        until = min(at + _between(random, _SHORTEST, longest), seconds)
        yield make(at, until)
        at = until + _between(random, _SHORTEST, longest)


def _between(random: Random, low: float, high: float) -> float:
    """By chance, as often between 0.1 and 1 as between 1 and 10."""
    return exp(random.uniform(log(low), log(max(low, high))))
