"""The trouble of one run, made from a seed: what goes wrong when, and for how long.

What may not enter: I/O, a clock.  Randomness comes from the seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from math import exp, log
from random import Random

__all__ = ["CUTS", "FAULTS", "REDIS_FAULTS", "Fault", "Schedule", "make_schedule", "names"]

REDIS_FAULTS = ("kill", "empty", "snapshot", "stop")
CUTS = ("refuse", "silent", "half-open", "slow")
FAULTS = (*REDIS_FAULTS, *CUTS, "crash", "pause", "drop")
"""``kill``
    Redis is killed and comes back with all that it had acknowledged.
``empty``
    It is killed and comes back empty.
``snapshot``
    It is killed and comes back as it was some seconds before.
``stop``
    It is stopped (SIGSTOP) and continued.
``refuse``, ``silent``, ``half-open``, ``slow``
    One instance is cut off from Redis, each in its way.
``crash``
    One instance is killed; it may be started anew.  In one run it is always the same one: what an instance wrote in an
    outage must outlive it, not all who heard of it.
``pause``
    One instance is stopped and continued.
``drop``
    One instance's datagrams are dropped: some by chance, or all from and to some peers, or all.
"""

_SHORTEST = 0.02
_LONGEST = 8.0
_AMNESIA_WINDOWS = (60.0, 4.0)
"""With the long one every restart of Redis empties all that a run has written; with the short one older keys live on."""
_YOUNGER = 0.75
"""A snapshot is younger than this part of what instances remember: they notice later that Redis died."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        kind: one of :data:`FAULTS`.
        at: when, in seconds from the start.
        until: when it is made good; at the end of the run at the latest.  Of a ``crash`` None: nobody starts it anew.
        target: the place of the instance; of Redis None.
        saved_at: of a ``snapshot``: what Redis comes back with.
        loss: of a ``drop``: the part of datagrams that is lost.
        peers: of a ``drop``: the places of those whose datagrams are concerned.
        delay: of ``slow``: how late each byte is, in seconds, in each direction.
    """

    kind: str
    at: float
    until: float | None
    target: int | None = None
    saved_at: float = 0.0
    loss: float = 0.0
    peers: tuple[int, ...] = ()
    delay: float = 0.0

    def __str__(self) -> str:
        who = "Redis" if self.target is None else names(self.target)
        until = "for good" if self.until is None else f"to {self.until:.3f}"
        extra = ""
        match self.kind:
            case "snapshot":
                extra = f" (back as it was at {self.saved_at:.3f})"
            case "drop":
                extra = f" (loses {self.loss:.0%} of the datagrams to and from {', '.join(map(names, self.peers))})"
            case "slow":
                extra = f" (by {self.delay:.3f} s)"
        return f"{self.at:.3f} {until}: {self.kind} {who}{extra}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """One run.

    Attributes:
        seed: all of it can be made again.
        seconds: how long the instances are in trouble.
        instances: how many.
        near_cache: the option of all of them.
        amnesia_window: likewise.
        backend: their event loop.
        tail: how long they go on with their calls after everything is healed, in seconds.
        faults: in the order of time.
    """

    seed: int
    seconds: float
    instances: int
    near_cache: str
    amnesia_window: float
    backend: str
    tail: float
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        head = (
            f"seed {self.seed}: {self.seconds:g} s, {self.instances} instances on {self.backend}, "
            f"near_cache={self.near_cache!r}, amnesia_window={self.amnesia_window:g}, calls go on for {self.tail:.3f} s after healing"
        )
        return "\n  ".join([head, *map(str, self.faults)])


def names(place: int) -> str:
    """What an instance is called: A, B, C."""
    return "ABCDEFGH"[place]


def make_schedule(seed: int, seconds: float, kinds: Collection[str] = FAULTS, instances: int | None = None) -> Schedule:
    """The schedule of a seed.

    Args:
        seed: any number.
        seconds: how long.
        kinds: which faults there may be.
        instances: how many; None for 3 to 5, by the seed.
    """
    random = Random(f"{seed}/{seconds}/{sorted(kinds)}")
    count = instances or random.randint(3, 5)
    near_cache = random.choice(["standby", "standby", "serve", "off"])
    backend = random.choice(["asyncio", "asyncio", "asyncio", "trio"])
    tail = random.choice([0.0, _between(random, 0.02, 1.0)])
    window = random.choice(_AMNESIA_WINDOWS)
    faults = list(_redis_faults(random, seconds, kinds, _YOUNGER * window))
    for place in range(count):
        faults += _instance_faults(random, seconds, kinds, place, count)
    if "crash" in kinds and random.random() < 0.6:
        faults += _crashes(random, seconds, random.randrange(count))
    faults.sort(key=lambda fault: fault.at)
    return Schedule(seed, seconds, count, near_cache, window, backend, tail, tuple(faults))


def _redis_faults(random: Random, seconds: float, kinds: Collection[str], oldest: float) -> Iterator[Fault]:
    def make(at: float, until: float) -> Fault:
        kind = random.choice(allowed)
        saved_at = random.uniform(max(0.0, at - oldest), at) if kind == "snapshot" else 0.0
        return Fault(kind, at, until, saved_at=saved_at)

    allowed = [kind for kind in REDIS_FAULTS if kind in kinds]
    if allowed and random.random() < 0.85:
        yield from _one_after_another(random, seconds, make)


def _instance_faults(random: Random, seconds: float, kinds: Collection[str], place: int, count: int) -> Iterator[Fault]:
    """A cut, a pause and lost datagrams may come together; two of a kind do not."""

    def cut(at: float, until: float) -> Fault:
        kind = random.choice(cuts)
        return Fault(kind, at, until, place, delay=_between(random, 0.01, 0.4) if kind == "slow" else 0.0)

    def drop(at: float, until: float) -> Fault:
        others = [other for other in range(count) if other != place]
        if random.random() < 0.5:
            return Fault("drop", at, until, place, loss=random.choice([0.1, 0.3, 0.6]), peers=tuple(others))
        some = random.sample(others, random.randint(1, len(others)))
        return Fault("drop", at, until, place, loss=1.0, peers=tuple(sorted(some)))

    cuts = [kind for kind in CUTS if kind in kinds]
    if cuts and random.random() < 0.5:
        yield from _one_after_another(random, seconds, cut)
    if "pause" in kinds and random.random() < 0.3:
        yield from _one_after_another(random, seconds, lambda at, until: Fault("pause", at, until, place))
    if "drop" in kinds and random.random() < 0.35:
        yield from _one_after_another(random, seconds, drop)


def _crashes(random: Random, seconds: float, victim: int) -> Iterator[Fault]:
    for fault in _one_after_another(random, seconds, lambda at, until: Fault("crash", at, until, victim)):
        if random.random() < 0.25:
            yield Fault("crash", fault.at, None, victim)
            return
        yield fault


def _one_after_another(random: Random, seconds: float, make: Callable[[float, float], Fault]) -> Iterator[Fault]:
    """Faults with pauses between, short ones and long ones alike; the last may last until the end."""
    at = _between(random, _SHORTEST, 0.7 * seconds)
    while at < seconds:
        until = min(at + _between(random, _SHORTEST, min(_LONGEST, 0.7 * seconds)), seconds)
        yield make(at, until)
        at = until + _between(random, _SHORTEST, min(_LONGEST, 0.7 * seconds))


def _between(random: Random, low: float, high: float) -> float:
    """By chance, as often between 0.1 and 1 as between 1 and 10."""
    return exp(random.uniform(log(low), log(max(low, high))))
