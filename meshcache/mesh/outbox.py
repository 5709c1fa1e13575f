"""What waits to be sent to every peer: the writes of this turn of the event loop.

No I/O and no clock.  A write that replaces an older one of the same key before that was sent takes its place.
"""

from __future__ import annotations

from ..stamp import Kind, Op
from .wire import encode_op, encode_ops, fits_with

__all__ = ["Outbox"]


class Outbox:
    """Writes become numbered bodies, as few as will hold them.

    Attributes:
        last: the number of the newest body made; 0 before the first.
    """

    __slots__ = ("_sweeps", "_writes", "last")

    def __init__(self) -> None:
        self.last = 0
        self._writes: dict[str, Op] = {}
        self._sweeps: dict[str, Op] = {}  # their own, since a pattern may read like a key

    def __len__(self) -> int:
        return len(self._writes) + len(self._sweeps)

    def add(self, op: Op) -> None:
        """Send this write, unless a newer one of its key waits already."""
        waiting = self._sweeps if op.kind is Kind.SWEEP else self._writes
        older = waiting.get(op.key)
        if older is None or older.stamp <= op.stamp:
            waiting[op.key] = op

    def take(self, now: float) -> list[bytes]:
        """Everything that waits, as bodies to send at ``now``."""
        bodies: list[bytes] = []
        run: list[bytes] = []
        run_bytes = 0
        for op in (*self._sweeps.values(), *self._writes.values()):
            packed = encode_op(op, now)
            if not fits_with(len(packed), len(run), run_bytes):
                bodies.append(self._number(run))
                run, run_bytes = [], 0
            run.append(packed)
            run_bytes += len(packed)
        if run:
            bodies.append(self._number(run))
        self.clear()
        return bodies

    def clear(self) -> None:
        """Nobody is there to be told."""
        self._writes.clear()
        self._sweeps.clear()

    def _number(self, run: list[bytes]) -> bytes:
        self.last += 1
        return encode_ops(self.last, run)
