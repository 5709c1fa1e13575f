"""Which tier answers, and what makes that change.  The one table of transitions is here; the picture in the docs is made from it.

Decisions only: no I/O, no clock, no randomness, no logging.  ``now`` is seconds of a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from .events import Mode, ModeChanged

__all__ = ["TRANSITIONS", "ModeMachine", "Pace", "Signal", "diagram"]


class Signal(Enum):
    """What can make the mode change."""

    OUTAGE = "Redis refuses, breaks off, cannot serve, or is silent too often"
    PROBED = "a probe wrote to Redis"
    DRAINED = "no dirty key is left"


TRANSITIONS: Final[Mapping[tuple[Mode, Signal], Mode]] = {
    (Mode.REDIS, Signal.OUTAGE): Mode.MEMORY,
    (Mode.MEMORY, Signal.PROBED): Mode.RECOVERING,
    (Mode.RECOVERING, Signal.OUTAGE): Mode.MEMORY,
    (Mode.RECOVERING, Signal.DRAINED): Mode.REDIS,
}
"""A pair that is not here changes nothing."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How soon Redis is asked again, and how long it is distrusted; all in seconds.

    Attributes:
        first: the pause before the first probe of an outage; as every pause, shortened by up to half at random.
        longest: the longest pause between two probes.
        growth: each pause is this much longer than the one before.  1.25 keeps the pause near a quarter of the
            outage so far, so that an outage is never made longer by half.
        flap_window: Redis that stays shorter than this has flapped.
        hold_first: how long a server that flapped once is held down; doubled at each further flap.
        hold_longest: the longest that a server is held down.
    """

    first: float = 0.1
    longest: float = 5.0
    growth: float = 1.25
    flap_window: float = 5.0
    hold_first: float = 0.25
    hold_longest: float = 5.0


class ModeMachine:
    """The mode of one instance.  It starts in ``MEMORY`` and moves only by :data:`TRANSITIONS`.

    Args:
        now: the moment of the start.
        failure_threshold: how many calls in a row must time out before that is an outage.
        pace: the timing of probes.

    Attributes:
        mode: which tier answers.
        since: the moment of the last change.
        outages: how often Redis was lost.
        last_cause: why a call or probe failed last, in one line.
    """

    def __init__(self, now: float, *, failure_threshold: int = 3, pace: Pace | None = None) -> None:
        self.mode = Mode.MEMORY
        self.since = now
        self.outages = 0
        self.last_cause = ""
        self._pace = pace or Pace()
        self._failure_threshold = failure_threshold
        self._timeouts = 0
        self._pause = self._pace.first
        self._flaps = 0
        self._held_until = now

    def answered(self) -> None:
        """Redis answered a call in time."""
        self._timeouts = 0

    def failed(self, cause: str, now: float) -> ModeChanged | None:
        """Redis refused, broke off, or said that it cannot serve."""
        self.last_cause = cause
        return self._take(Signal.OUTAGE, cause, now)

    def timed_out(self, cause: str, now: float, *, others_in_flight: int, repeated: bool = False) -> ModeChanged | None:
        """One call waited too long.  It is an outage if that happens in a row, or if nothing younger is under way that
        could still prove the contrary.

        Args:
            cause: in one line.
            now: this moment.
            others_in_flight: how many calls are under way whose time is not over.
            repeated: the call shared a connection with one that was counted already, while others were answered.
        """
        self.last_cause = cause
        self._timeouts += not repeated
        if self._timeouts >= self._failure_threshold or not others_in_flight:
            return self._take(Signal.OUTAGE, cause, now)
        return None

    def probed(self, cause: str, now: float) -> ModeChanged | None:
        """A probe wrote to Redis."""
        return self._take(Signal.PROBED, cause, now)

    def drained(self, cause: str, now: float) -> ModeChanged | None:
        """The journal is empty."""
        return self._take(Signal.DRAINED, cause, now)

    def probe_pause(self, now: float, random: float) -> float:
        """How long to wait before the next probe, in seconds: exponential backoff with jitter, never before a flapping
        server's hold-down is over.

        Args:
            now: this moment.
            random: uniform in [0, 1): the pause is between half and the whole of its step.
        """
        pause = self._pause * (0.5 + random / 2)
        self._pause = min(self._pause * self._pace.growth, self._pace.longest)
        return max(pause, self._held_until - now)

    def held_down(self, now: float) -> bool:
        """Whether the server flapped and must not be trusted yet."""
        return now < self._held_until

    def _take(self, signal: Signal, cause: str, now: float) -> ModeChanged | None:
        new = TRANSITIONS.get((self.mode, signal))
        if new is None:
            return None
        change = ModeChanged(self.mode, new, cause, now - self.since)
        if signal is Signal.OUTAGE:
            self._start_outage(change, now)
        self.mode, self.since, self._timeouts = new, now, 0
        return change

    def _start_outage(self, change: ModeChanged, now: float) -> None:
        pace = self._pace
        self.outages += change.old is Mode.REDIS
        if change.held >= pace.flap_window:
            self._flaps = 0
        elif self.outages > 1 or change.old is Mode.RECOVERING:
            self._flaps += 1
            self._held_until = now + min(pace.hold_first * 2 ** min(self._flaps - 1, 16), pace.hold_longest)
        self._pause = pace.first


def diagram() -> str:
    """The table as a Mermaid state diagram, for the docs."""
    lines = ["stateDiagram-v2", f"    [*] --> {Mode.MEMORY}"]
    lines += [f"    {old} --> {new}: {signal.value}" for (old, signal), new in TRANSITIONS.items()]
    return "\n".join(lines)
