"""What became of the requests: counts and latencies by second and by phase, and their tables.  No I/O, no clock.

A *phase* is a time in which Redis was there for all gateways, or in which it was not there for some.  An outage begins
with the first answer from memory, and ends with the first whole second without one: answers can overtake one another.
"""

from __future__ import annotations

from collections import Counter
from math import ceil, exp, floor, log
from statistics import median
from typing import Any

__all__ = ["SECOND_HEAD", "Figures", "Latencies", "Second", "phase_table", "second_line"]

STEP = log(1.01)
"""Latencies are kept to one percent, so that days of them take no room."""

SECOND_HEAD = (
    f"{'second':>6}  {'phase':<9} {'mode':<17} {'requests':>8} {'failed':>7} {'hits':>8} {'p50 ms':>8} {'p99 ms':>8}"
)
PHASE_HEAD = (
    f"{'phase':<9} {'seconds':>8} {'requests':>9} {'failed':>7} {'hit ratio':>10} "
    f"{'p50 ms':>8} {'p99 ms':>8} {'its median':>11} {'longest':>8}"
)
NOTE = "p50, p99: of the requests that the cache answered; its median: the p99 of each second, and the median of those"


class Latencies:
    """How long requests took, in seconds."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self._count = 0
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self._buckets[floor(log(max(seconds, 1e-9)) / STEP)] += 1
        self._count += 1
        self.longest = max(self.longest, seconds)

    def quantile(self, share: float) -> float | None:
        """The time within which this share of the requests was answered; None if there were none."""
        left = max(1, ceil(self._count * share))
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return exp((bucket + 0.5) * STEP)
        return None


class Count:
    """Requests of a span of time."""

    def __init__(self) -> None:
        self.requests = self.failed = self.hits = 0
        self.cached = Latencies()

    def add(self, hit: bool | None, seconds: float) -> None:
        """Count a request: answered from the cache, not from the cache, or (None) failed."""
        self.requests += 1
        if hit is None:
            self.failed += 1
        elif hit:
            self.hits += 1
            self.cached.add(seconds)

    def as_json(self) -> dict[str, Any]:
        """The figures."""
        answered = self.requests - self.failed
        return {
            "requests": self.requests,
            "failed": self.failed,
            "hits": self.hits,
            "hit_ratio": self.hits / answered if answered else None,
            "p50_ms": _ms(self.cached.quantile(0.5)),
            "p99_ms": _ms(self.cached.quantile(0.99)),
            "longest_ms": _ms(self.cached.longest),
        }


class Phase(Count):
    """A time with Redis, or without."""

    def __init__(self, name: str, *, outage: bool = False) -> None:
        super().__init__()
        self.name = name
        self.outage = outage
        self.seconds = 0
        self.p99s: list[float] = []

    def as_json(self) -> dict[str, Any]:
        """The figures."""
        p99s = median(self.p99s) if self.p99s else None
        return {"phase": self.name, "seconds": self.seconds, **super().as_json(), "p99_ms_median": p99s}


Second = dict[str, Any]


class Figures:
    """Counts everything."""

    def __init__(self) -> None:
        self._second = Count()
        self._seconds = 0
        self._modes: set[str] = set()
        self._whole = True
        self.phases = [Phase("before")]

    def answered(self, mode: str, *, hit: bool, seconds: float) -> None:
        """A request that was answered by a gateway in this mode."""
        self._modes.add(mode)
        if mode != "redis" and not self.phases[-1].outage:
            self._begin("outage", len(self.phases) // 2 + 1)
            self._whole = False
        self._count(hit, seconds)

    def failed(self) -> None:
        """A request without an answer, or with a wrong one."""
        self._count(None, 0.0)

    def end_second(self) -> Second:
        """A second is over: its figures."""
        self._seconds += 1
        phase = self.phases[-1]
        phase.seconds += 1
        figures = self._second.as_json()
        if self._whole and figures["p99_ms"] is not None:
            phase.p99s.append(figures["p99_ms"])
        if phase.outage and self._modes == {"redis"}:
            self._begin("after", len(self.phases) // 2)
        second = {"second": self._seconds, "phase": phase.name, "mode": "+".join(sorted(self._modes)), **figures}
        self._second, self._modes, self._whole = Count(), set(), True
        return second

    def _begin(self, name: str, number: int) -> None:
        self.phases.append(Phase(name if number == 1 else f"{name} {number}", outage=name == "outage"))

    def _count(self, hit: bool | None, seconds: float) -> None:
        self._second.add(hit, seconds)
        self.phases[-1].add(hit, seconds)


def second_line(second: Second) -> str:
    """A line under ``SECOND_HEAD``."""
    return (
        f"{second['second']:>6}  {second['phase']:<9} {second['mode']:<17} {second['requests']:>8} {second['failed']:>7} "
        f"{_percent(second['hit_ratio']):>8} {_number(second['p50_ms']):>8} {_number(second['p99_ms']):>8}"
    )


def phase_table(phases: list[Phase]) -> str:
    """A line for each phase, with head and note."""
    lines = [PHASE_HEAD]
    for phase in (phase.as_json() for phase in phases):
        lines.append(
            f"{phase['phase']:<9} {phase['seconds']:>8} {phase['requests']:>9} {phase['failed']:>7} "
            f"{_percent(phase['hit_ratio']):>10} {_number(phase['p50_ms']):>8} {_number(phase['p99_ms']):>8} "
            f"{_number(phase['p99_ms_median']):>11} {_number(phase['longest_ms']):>8}"
        )
    return "\n".join([*lines, NOTE])


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
