"""What is sent to every peer: the writes that wait, and those that were sent and may have to be sent again.

No I/O and no clock.  Writes become numbered datagrams.  A write that replaces an older one of the same key before that was
sent takes its place.  What was sent is kept in a ring bounded in bytes, so that it can be repeated under its number.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from ..stamp import Kind, Op
from .settings import Limits
from .wire import Fragment, Ops, encode, encode_op, encode_ops, fits_with, fragments

__all__ = ["Outbox", "Waiting", "next_run"]

_EMPTY_BYTES: Final = 64
"""What a number without a datagram counts for in the ring."""

Waiting = OrderedDict[tuple[str, bool], Op]
"""Writes to be sent, by key or pattern and whether it is a pattern, since a pattern may read like a key."""


class Outbox:
    """The numbered stream of one sender.

    Attributes:
        last: the number of the newest datagram made; 0 before the first.
        ops: how many writes were sent.
        ring_bytes: what is kept to be sent again counts for.
    """

    __slots__ = ("_fragments", "_limits", "_ring", "_sizes", "_waiting", "last", "ops", "ring_bytes")

    def __init__(self, limits: Limits) -> None:
        self.last = 0
        self.ops = 0
        self._limits = limits
        self._waiting: Waiting = OrderedDict()
        self._fragments: deque[Fragment] = deque()
        self._ring: deque[Ops | Fragment | None] = deque()
        self._sizes: deque[int] = deque()
        self.ring_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._waiting or self._fragments)

    @property
    def lowest(self) -> int:
        """The lowest number that can be sent again; ``last + 1`` if there is none."""
        return self.last + 1 - len(self._ring)

    def add(self, op: Op) -> None:
        """Send this write, unless a newer one of its key waits already."""
        name = (op.key, op.kind is Kind.SWEEP)
        older = self._waiting.get(name)
        if older is None:
            self._waiting[name] = op
            if len(self._waiting) > self._limits.max_waiting:
                self._give_up_oldest()
        elif older.stamp <= op.stamp:
            self._waiting[name] = op

    def take(self, now: float, most: int, *, in_redis: bool | None = None) -> list[bytes]:
        """The next bodies to send at ``now``, ``most`` of them at most; ``in_redis`` as in :class:`~meshcache.mesh.wire.Ops`."""
        bodies: list[bytes] = []
        while len(bodies) < most and self:
            bodies.append(self._next_fragment(now) if self._fragments else self._next_run(now, in_redis))
        return bodies

    def again(self, number: int) -> Ops | Fragment | None:
        """What was sent under this number; None if the ring does not hold it."""
        place = number - self.lowest
        return self._ring[place] if 0 <= place < len(self._ring) else None

    def clear(self) -> None:
        """Nobody is there to be told."""
        self._waiting.clear()
        self._fragments.clear()

    def _next_fragment(self, now: float) -> bytes:
        fragment = self._fragments.popleft()._replace(number=self.last + 1)
        body = encode(fragment, now)
        self._keep(fragment, len(body))
        return body

    def _next_run(self, now: float, in_redis: bool | None) -> bytes:
        run, packed, pieces = next_run(self._waiting, now, self._limits.max_value_bytes)
        if pieces:
            self.ops += 1
            self._fragments.extend(piece._replace(in_redis=in_redis) for piece in pieces)
            return self._next_fragment(now)
        self.ops += len(run)
        body = encode_ops(self.last + 1, packed, in_redis)
        self._keep(Ops(self.last + 1, tuple(run), in_redis), len(body))
        return body

    def _keep(self, frame: Ops | Fragment | None, size: int) -> None:
        self.last += 1
        self._ring.append(frame)
        self._sizes.append(size)
        self.ring_bytes += size
        while self.ring_bytes > self._limits.ring_bytes:
            self._ring.popleft()
            self.ring_bytes -= self._sizes.popleft()

    def _give_up_oldest(self) -> None:
        """Too much waits.  The number of what is given up is used nonetheless, so that every peer learns that it misses something."""
        self._waiting.popitem(last=False)
        self._keep(None, _EMPTY_BYTES)


def next_run(waiting: Waiting, now: float, max_value_bytes: int) -> tuple[list[Op], list[bytes], list[Fragment]]:
    """Take from ``waiting``, which is not empty, what the next datagram can hold, oldest first.

    Returns:
        The writes, and each of them encoded; or else the pieces of one write that needs several datagrams.
    """
    run: list[Op] = []
    packed: list[bytes] = []
    size = 0
    while waiting:
        name, op = waiting.popitem(last=False)
        op = _within_size(op, max_value_bytes)
        pieces = fragments(op)
        if pieces and not run:
            return [], [], pieces
        encoded = b"" if pieces else encode_op(op, now)
        if pieces or not fits_with(len(encoded), len(run), size):
            waiting[name] = op
            waiting.move_to_end(name, last=False)
            break
        run.append(op)
        packed.append(encoded)
        size += len(encoded)
    return run, packed, []


def _within_size(op: Op, max_value_bytes: int) -> Op:
    """The write itself; or an invalidation in its place, if its value is too large to be sent."""
    if len(op.value) <= max_value_bytes:
        return op
    return Op(Kind.INVALIDATE, op.key, op.stamp)
