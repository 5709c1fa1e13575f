"""The smallest store that can be reconciled: what the simulator and the tests of the mesh put behind a node.

It keeps to the same rules as the real store (newest stamp wins, what is deleted leaves a tombstone, a sweep is one record)
in the plainest way, so that it can also serve as the model that the real one is compared with.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from ..buckets import Buckets, Version
from ..glob import MATCH_ALL, matcher
from ..stamp import Kind, Op, Stamp, stamp_ms

__all__ = ["MapReplica", "Record"]


@dataclass(slots=True)
class Record:
    """What is known of one key.

    Attributes:
        kind: what the newest write did.
        stamp: its version.
        value: None in a tombstone.
        expires_at: until when the value may be read, in seconds.
        forget_at: until when the key is remembered at all, in seconds.
    """

    kind: Kind
    stamp: Stamp
    value: bytes | None
    expires_at: float
    forget_at: float


class MapReplica:
    """A :class:`~meshcache.mesh.reconcile.Replica` in a dictionary.

    Args:
        wall_ms: the wall clock, in ms: a stamp more than ``max_skew_ms`` ahead of it is not wanted.
        max_entries: beyond, the oldest entry goes.
        tombstone_ttl: how long a tombstone or a sweep is remembered, in seconds.
    """

    def __init__(
        self,
        wall_ms: Callable[[], int],
        *,
        max_entries: int = 10_000,
        tombstone_ttl: float = 3600.0,
        max_skew_ms: int = 60_000,
    ) -> None:
        self.records: OrderedDict[str, Record] = OrderedDict()
        self.sweeps: dict[str, tuple[Stamp, float]] = {}
        self._wall_ms = wall_ms
        self._max_entries = max_entries
        self._tombstone_ttl = tombstone_ttl
        self._max_skew_ms = max_skew_ms
        self._buckets = Buckets()

    @property
    def buckets(self) -> Buckets:
        """The versions of all that is known."""
        return self._buckets

    def get(self, key: str, now: float) -> bytes | None:
        """The value, or None for a miss."""
        record = self.records.get(key)
        return record.value if record is not None and now < record.expires_at else None

    def apply(self, op: Op, now: float) -> bool:
        """Take in a write; False if something newer is known."""
        if not self.wants(Version(op.key, op.stamp, op.kind is Kind.SWEEP), now, has_room=True):
            return False
        remembered_until = min(now + self._tombstone_ttl, op.expires_at)
        if op.kind is Kind.SWEEP:
            self._sweep(op, remembered_until)
            return True
        if op.kind is Kind.SET and op.expires_at > now:
            record = Record(op.kind, op.stamp, op.value, op.expires_at, op.expires_at + self._tombstone_ttl)
        else:
            record = Record(op.kind, op.stamp, None, -inf, max(now, remembered_until))
        self.records[op.key] = record
        self.records.move_to_end(op.key)
        self._buckets.put(op.key, op.stamp)
        while len(self.records) > self._max_entries:
            key, _ = self.records.popitem(last=False)
            self._buckets.remove(key)
        return True

    def wants(self, version: Version, now: float, *, has_room: bool = False) -> bool:
        """Whether a write of this version would be taken in and kept."""
        key, stamp, is_sweep = version
        if stamp_ms(stamp) - self._wall_ms() > self._max_skew_ms:
            return False
        swept, _ = self.sweeps.get(MATCH_ALL, (b"", 0.0))
        if is_sweep:
            older, _ = self.sweeps.get(key, (b"", 0.0))
            return stamp > older and stamp > swept
        record = self.records.get(key)
        if record is not None and record.stamp >= stamp:
            return False
        if record is None and not has_room and len(self.records) >= self._max_entries:
            return False
        return not any(stamp < swept and matcher(pattern)(key) for pattern, (swept, _) in self.sweeps.items())

    def op(self, key: str, is_sweep: bool, now: float) -> Op | None:
        """The newest write of a key or pattern."""
        if is_sweep:
            found = self.sweeps.get(key)
            return None if found is None else Op(Kind.SWEEP, key, found[0], b"", found[1])
        record = self.records.get(key)
        if record is None:
            return None
        if record.value is not None and now < record.expires_at:
            return Op(Kind.SET, key, record.stamp, record.value, record.expires_at)
        kind = Kind.INVALIDATE if record.kind is Kind.SET else record.kind
        return Op(kind, key, record.stamp, b"", record.forget_at)

    def forget_old(self, now: float) -> None:
        """Drop what need not be remembered any more."""
        for key in [key for key, record in self.records.items() if record.forget_at <= now]:
            del self.records[key]
            self._buckets.remove(key)
        for pattern in [pattern for pattern, (_, until) in self.sweeps.items() if until <= now]:
            del self.sweeps[pattern]
            self._buckets.remove(pattern, is_sweep=True)

    def _sweep(self, op: Op, remembered_until: float) -> None:
        for key in [key for key, it in self.records.items() if it.stamp < op.stamp and matcher(op.key)(key)]:
            del self.records[key]
            self._buckets.remove(key)
        if op.key == MATCH_ALL:  # says all that an older sweep said
            for pattern in [pattern for pattern, (stamp, _) in self.sweeps.items() if stamp < op.stamp]:
                del self.sweeps[pattern]
                self._buckets.remove(pattern, is_sweep=True)
        self.sweeps[op.key] = (op.stamp, remembered_until)
        self._buckets.put(op.key, op.stamp, is_sweep=True)
