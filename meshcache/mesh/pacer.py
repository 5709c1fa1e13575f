"""When to send: bursts that no receiver's socket buffer overflows from, and heartbeats.  No I/O, no clock."""

from __future__ import annotations

from math import inf

from .settings import Timing

__all__ = ["Pacer", "Pulse"]


class Pacer:
    """Lets ``burst`` datagrams go in each span of ``pause`` seconds.

    Attributes:
        opens_at: when the next burst may go, in seconds.
    """

    __slots__ = ("_burst", "_left", "_pause", "opens_at")

    def __init__(self, burst: int, pause: float) -> None:
        self.opens_at = -inf
        self._burst = burst
        self._pause = pause
        self._left = 0

    def room(self, now: float) -> int:
        """How many may be sent at ``now``."""
        if now >= self.opens_at:
            self.opens_at = now + self._pause
            self._left = self._burst
        return self._left

    def sent(self, count: int) -> None:
        """So many were sent."""
        self._left -= count


class Pulse:
    """When the next heartbeat is due: regularly, and soon after the last write of a burst, to tell how far that went.

    Also soon after a peer was met, as if something had been written.
    """

    __slots__ = ("_regular_at", "_step", "_tail_at", "_timing")

    def __init__(self, timing: Timing, now: float) -> None:
        self._timing = timing
        self._regular_at = now + timing.heartbeat_interval
        self._tail_at = inf
        self._step = len(timing.tail_pauses)

    @property
    def next_at(self) -> float:
        """When, in seconds."""
        return min(self._regular_at, self._tail_at)

    def wrote(self, now: float) -> None:
        """Writes were sent: more may follow, so the tail begins anew."""
        self._step = 0
        self._tail_at = now + self._timing.tail_pauses[0]

    def beat(self, now: float) -> None:
        """A heartbeat was sent."""
        self._step += 1
        pauses = self._timing.tail_pauses
        self._tail_at = now + pauses[self._step] if self._step < len(pauses) else inf
        self._regular_at = now + self._timing.heartbeat_interval
