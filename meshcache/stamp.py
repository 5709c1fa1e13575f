"""The version of a write, and the write itself as stores, journal, mesh and Redis pass it on.

No I/O and no clock: the wall clock is handed to :class:`HybridClock` from outside.

A stamp is 16 bytes, big-endian: 48 bit wall clock in ms, 16 bit counter, 64 bit node id.  So the order of stamps is the
order of bytes, everywhere: in Python (``a < b``), in a datagram, and in Redis' Lua.  No two writes share a stamp.

Source of the algorithm: Kulkarni, Demirbas, Madappa, Avva, Leone, "Logical Physical Clocks and Consistent Snapshots in
Globally Distributed Databases" (2014), the hybrid logical clock.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from math import inf
from typing import Final, NamedTuple, NewType

__all__ = [
    "NOBODY",
    "STAMP_BYTES",
    "HybridClock",
    "Kind",
    "Op",
    "Stamp",
    "make_stamp",
    "of_nobody",
    "stamp_ms",
    "stamp_node",
    "successor",
]

Stamp = NewType("Stamp", bytes)
"""16 bytes whose order is the order of writes."""

STAMP_BYTES: Final = 16

NOBODY: Final = 0
"""Stands in a stamp for an instance that is not known: somebody changed a key, and who knows how."""

_MAX_MS: Final = 2**48 - 1
_MAX_COUNTER: Final = 2**16 - 1


def make_stamp(ms: int, counter: int, node_id: int) -> Stamp:
    """Build a stamp from its three parts.

    Raises:
        OverflowError: a part is negative or too large for its field.
    """
    return Stamp(ms.to_bytes(6, "big") + counter.to_bytes(2, "big") + node_id.to_bytes(8, "big"))


def stamp_ms(stamp: Stamp) -> int:
    """The wall clock part, in ms since 1970."""
    return int.from_bytes(stamp[:6], "big")


def stamp_node(stamp: Stamp) -> int:
    """The node id of the writer."""
    return int.from_bytes(stamp[8:], "big")


def of_nobody(stamp: Stamp) -> Stamp:
    """The same moment, of an instance that is not known."""
    return Stamp(stamp[:8] + NOBODY.to_bytes(8, "big"))


def successor(stamp: Stamp, node_id: int) -> Stamp:
    """A stamp just after another one, for what changes a write without being a newer one.

    It is older than any write that was made a millisecond later, so that a new time to live, given to a value that is not
    the newest, does not make it so.
    """
    counter = int.from_bytes(stamp[6:8], "big") + 1
    return (
        stamp if counter > _MAX_COUNTER else Stamp(stamp[:6] + counter.to_bytes(2, "big") + node_id.to_bytes(8, "big"))
    )


class Kind(IntEnum):
    """What a write does.  The numbers are those on the wire and behind the stamp in a fence: of two with one stamp the greater wins."""

    INVALIDATE = 0
    """Forget the key: its new value is not known here (too large to send, evicted, in doubt)."""
    DELETE = 1
    SET = 2
    SWEEP = 3
    """Delete every key that matches a pattern and is older than the stamp."""


class Op(NamedTuple):
    """One stamped write.

    ``key`` is the key without namespace, or the pattern of a sweep.  ``value`` is the encoded value of a set, empty
    otherwise.  ``expires_at`` is a moment of *this* instance's monotonic clock in seconds: until then the value may be
    read, or what was deleted is to be remembered if the store's own ``tombstone_ttl`` does not end sooner; ``inf`` for
    ever.  What travels is the time that remains.
    """

    kind: Kind
    key: str
    stamp: Stamp
    value: bytes = b""
    expires_at: float = inf


class HybridClock:
    """Makes stamps that grow, whatever the wall clock does, and that stay close to it.

    Args:
        node_id: 64 bit, unique to this instance.
        wall_ms: the wall clock, in ms since 1970.
        max_skew_ms: how far ahead of the wall clock a foreign stamp may be before it is refused.
    """

    __slots__ = ("_counter", "_max_skew_ms", "_ms", "_node", "_wall_ms", "node_id")

    def __init__(self, node_id: int, wall_ms: Callable[[], int], max_skew_ms: int = 60_000) -> None:
        self.node_id = node_id
        self._node = node_id.to_bytes(8, "big")
        self._wall_ms = wall_ms
        self._max_skew_ms = max_skew_ms
        self._ms = 0
        self._counter = 0

    def tick(self) -> Stamp:
        """A new stamp, greater than every stamp made or observed so far."""
        wall = self._wall_ms()
        if wall > self._ms:
            self._ms = wall
            self._counter = 0
        elif self._counter < _MAX_COUNTER:
            self._counter += 1
        else:
            self._ms += 1
            self._counter = 0
        return Stamp(self._ms.to_bytes(6, "big") + self._counter.to_bytes(2, "big") + self._node)

    def observe(self, stamp: Stamp) -> bool:
        """Move past a foreign stamp.

        Returns:
            False if the stamp is further ahead of the wall clock than ``max_skew_ms``: it must be refused, and this
            clock has not moved.
        """
        if not self.accepts(stamp):
            return False
        self._ms, self._counter = max(
            (self._ms, self._counter), (int.from_bytes(stamp[:6], "big"), int.from_bytes(stamp[6:8], "big"))
        )
        return True

    def accepts(self, stamp: Stamp) -> bool:
        """What :meth:`observe` would say; the clock does not move."""
        ms = int.from_bytes(stamp[:6], "big")
        return ms <= self._ms or (ms - self._wall_ms() <= self._max_skew_ms and ms < _MAX_MS)
