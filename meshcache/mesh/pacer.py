"""How many datagrams may be sent now, so that a burst does not run over a receiver's socket buffer.  No I/O, no clock."""

from __future__ import annotations

from math import inf

__all__ = ["Pacer"]


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
