"""The memory tier's entries: bounded by count and by bytes, least recently used out first, newest stamp wins.

Decisions only: no I/O, no clock, no randomness, no logging.  ``now`` is seconds of a monotonic clock and is passed in.

An entry whose value is gone (deleted, invalidated, expired) stays for ``tombstone_ttl`` as a *tombstone*: its stamp
refuses older writes that are still on their way.  A sweep (delete by pattern) is one record that does so for every key.

While Redis answers, the store may also *keep* copies of what Redis has, for an outage to come (see ``near``).  They have no
stamp: any stamped write replaces them, they leave no tombstone, and peers are told nothing of them.

Shares of counters (see ``shares``) are entries like others, under hidden keys.  What is special about them: a write of the
counter itself that is newer than the beginning of their series ends them.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from itertools import islice
from math import inf
from typing import Any, Final

from .buckets import BUCKETS, Buckets, Version
from .glob import MATCH_ALL, matcher
from .shares import counter_of, is_share, share_id, unpack_share, visible
from .stamp import Kind, Op, Stamp

__all__ = ["ENTRY_OVERHEAD_BYTES", "MAX_SWEEPS", "NOT_DECODED", "UNSTAMPED", "Entry", "Store", "Sweep", "add_sweep"]

ENTRY_OVERHEAD_BYTES = 550
"""What an entry costs besides its key and value: the objects, the dictionary, the list of what expires, the summary for
peers.  Measured."""

MAX_SWEEPS = 64
"""So many patterns are remembered one by one; the next makes all of them one sweep of everything."""

UNSTAMPED = Stamp(b"")
"""What stands in place of a stamp in a copy of what Redis has; older than every stamp."""

NOT_DECODED: Final = object()
"""What stands in place of a value that nobody has decoded, or that may not be shared."""

_SPARE_SECONDS = 64
_FOR_ROOM = 16
"""So many entries are looked at for what goes anyway before one is given up that stays."""


class Sweep:
    """A delete by pattern under way.  What it matches cannot be read from its first moment on, and goes bit by bit.

    Attributes:
        matches: whether a visible key is meant.
        stamp: what is older goes.
        left: how many entries are still to be looked at; 0 if it is done.
        count: how many values went.
    """

    __slots__ = ("count", "left", "matches", "stamp")

    def __init__(self, matches: Callable[[str], bool], stamp: Stamp, left: int = 0) -> None:
        self.matches = matches
        self.stamp = stamp
        self.left = left
        self.count = 0


class Entry:
    """What the store knows of one key.

    Attributes:
        kind: what the newest write did.
        stamp: the version of that write; ``UNSTAMPED`` in a copy of what Redis has.
        value: None in a tombstone.
        expires_at: readable before this moment; ``-inf`` in a tombstone, ``inf`` for ever.
        size: bytes that this entry counts for.
        ttl_known: of a copy, whether ``expires_at`` is that of the key in Redis.
        decoded: what ``value`` means, if whoever reads it knows that and may share it; see :meth:`Store.share`.
    """

    __slots__ = ("_due", "decoded", "expires_at", "kind", "size", "stamp", "ttl_known", "value")

    def __init__(self, kind: Kind, stamp: Stamp, value: bytes | None, expires_at: float, size: int) -> None:
        self.kind = kind
        self.stamp = stamp
        self.value = value
        self.expires_at = expires_at
        self.size = size
        self.ttl_known = False
        self.decoded: Any = NOT_DECODED
        self._due: int | None = None


class Store:
    """A bounded map from keys to the newest write of each.

    Args:
        max_entries: how many entries, tombstones included.
        max_bytes: how many bytes, by the sizes of :class:`Entry`.
        tombstone_ttl: how long a tombstone or a sweep is kept, in seconds.

    Attributes:
        bytes: what the entries count for now.
        hits: reads that found a value.
        misses: reads that found none.
        evictions: entries given up because the store was full.
        buckets: the versions of all entries, tombstones and sweeps, summed up; without the copies.
        copies: how many of the entries are copies of what Redis has.
        shares: the hidden keys of each counter's shares, tombstones too.
        share_lost: told of each share whose value went.
        newest_sweep: the last one that was taken in; None if it was known.
    """

    def __init__(self, max_entries: int, max_bytes: int, tombstone_ttl: float, *, at_once: int = 1024) -> None:
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._tombstone_ttl = tombstone_ttl
        self._entries: OrderedDict[str, Entry] = OrderedDict()  # the least recently used first
        self.buckets = Buckets()
        self.copies = 0
        self.shares: dict[str, set[str]] = {}
        self.share_lost: Callable[[str], None] = lambda name: None
        self._sweeps: dict[str, Stamp] = {}
        self._newest_sweep = b""  # a newer write, so nearly every one, need not look at the patterns
        self._newest_evicted = b""
        self._newest = b""
        self._sweeps_end = -inf
        self._calendar = _Calendar()
        self._discarded: list[MutableMapping[Any, Any]] = []
        self._at_once = at_once
        self.newest_sweep: Sweep | None = None
        self._sweeping: list[Sweep] = []
        self._cleared: deque[tuple[Sweep, Iterator[tuple[str, Entry]]]] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def sweeps(self) -> Mapping[str, Stamp]:
        """The patterns deleted, each with the stamp of its newest sweep."""
        return self._sweeps

    def get(self, key: str, now: float) -> bytes | None:
        """The value, or None for a miss.  Counts, and makes the entry the most recently used one."""
        entry = self.recall(key, now)
        if entry is None:
            self.misses += 1
            return None
        return entry.value

    def recall(self, key: str, now: float) -> Entry | None:
        """The entry, if it has a value now that can be read by itself.  As :meth:`get`, but a miss is not counted."""
        entries = self._entries
        entry = entries.get(key)
        if entry is None or entry.expires_at <= now or (self.shares and self._is_counted(key)):
            return None
        if self._sweeping and self._goes(key, entry):
            return None
        entries.move_to_end(key)
        self.hits += 1
        return entry

    def share(self, entry: Entry, decoded: Any, size: int) -> None:
        """Keep what the value of an entry means, for as long as the entry has that value.

        Args:
            entry: as it was given out just now.
            decoded: immutable: everybody who reads the key gets this very object.
            size: what it takes, in bytes.
        """
        entry.decoded = decoded
        entry.size += size
        self.bytes += size

    def peek(self, key: str, now: float) -> Entry | None:
        """The entry, a tombstone too, without a trace: nothing is counted or moved.  ``value`` is None once it expired."""
        entry = self._find(key)
        if entry is not None and entry.expires_at <= now and entry.value is not None:
            self._bury(key, entry, entry.expires_at)
            return entry if entry.stamp else None
        return entry

    def keys(self, pattern: str, now: float, *, copies: bool = True) -> Iterator[str]:
        """The keys that have a value and match, with or without the copies; no hidden ones.  The store must not change
        meanwhile."""
        matches = matcher(pattern)
        for key, entry in self._entries.items():
            if entry.expires_at > now and (copies or entry.stamp) and matches(key) and not is_share(key):
                if self._sweeping and self._sweep_of(key, entry) is not None:
                    continue
                yield key

    def apply(self, op: Op, now: float) -> bool:
        """Take in a write.

        Returns:
            False if the store knows a newer write of the key, or this very one, or may have known one, or if it is a share
            of a counter that was written since: nothing has changed.
        """
        if op.kind is Kind.SWEEP:
            return self._sweep(op, now)
        if is_share(op.key) and not self._may_take_share(op):
            return False
        entry = self._find(op.key)
        if entry is not None and entry.stamp:
            if (entry.stamp, entry.kind) >= (op.stamp, op.kind):
                return False
        elif op.stamp < self._newest_evicted:
            return False  # a newer one of this key may have been given up: a miss is better than a lie
        if op.stamp < self._newest_sweep and self._is_swept(op.key, op.stamp):
            return False
        self._put(op, now)
        return True

    def wants(self, version: Version) -> bool:
        """Whether the write of this version, if it came, would be taken in and kept."""
        key, stamp, is_sweep = version
        if is_sweep:
            return not self._knows_sweep(key, stamp)
        entry = self._find(key)
        if entry is None or not entry.stamp:
            # A store that had to give something up must not fetch what it does not hold: it would do so for ever.
            return not self._newest_evicted and not self._is_swept(key, stamp)
        return entry.stamp < stamp and not self._is_swept(key, stamp)

    def op(self, key: str, now: float, *, is_sweep: bool = False) -> Op | None:
        """The newest write of a key or pattern, as a peer is told of it; None if nothing is known, or not any more."""
        if is_sweep:
            stamp = self._sweeps.get(key)
            is_over = stamp is None or self._sweeps_end <= now
            return None if is_over else Op(Kind.SWEEP, key, self._sweeps[key], b"", self._sweeps_end)
        entry = self.peek(key, now)
        if entry is None or not entry.stamp:
            return None
        if entry.value is not None:
            return Op(Kind.SET, key, entry.stamp, entry.value, entry.expires_at)
        forgotten_at = inf if entry._due is None else float(entry._due)
        if forgotten_at <= now:
            return None  # told now, it would begin a new life there
        kind = Kind.DELETE if entry.kind is Kind.DELETE else Kind.INVALIDATE
        return Op(kind, key, entry.stamp, b"", forgotten_at)

    def expire(self, now: float, limit: int) -> bool:
        """Turn what expired into tombstones and forget old tombstones, ``limit`` keys (1 or more) at most; and let go of as much
        of what was forgotten all at once, or swept.

        Returns:
            Whether there is more to do now.
        """
        self.sweep_on(now, limit)
        left = 0 if self._cleared else limit
        while self._discarded and left:
            some = self._discarded[-1]
            for _ in range(min(left, len(some))):
                some.popitem()
                left -= 1
            if not some:
                self._discarded.pop()
        if self._sweeps and self._sweeps_end <= now:
            self._forget_sweeps()
        for key in self._calendar.take(now, limit):
            entry = self._entries[key]
            entry._due = None
            if entry.value is None:
                self._drop(key, entry)
            else:
                self._bury(key, entry, entry.expires_at)
        return bool(self._discarded or self._sweeping or self._cleared) or self._calendar.is_due(now)

    def sweep_on(self, now: float, limit: int) -> None:
        """Go on with the sweeps under way: look at ``limit`` entries at most.

        Those looked at become the most recently used ones, in the order that they had.
        """
        left = limit
        while self._cleared and left:
            sweep, entries = self._cleared[0]
            for key, entry in islice(entries, left):
                sweep.count += entry.expires_at > now and not is_share(key)
                sweep.left -= 1
                left -= 1
            if sweep.left == 0:
                self._cleared.popleft()
        while self._sweeping and left:
            some = min(left, len(self._entries), *(sweep.left for sweep in self._sweeping))
            for _ in range(some):
                key = next(iter(self._entries))
                if not self._goes(key, self._entries[key], now):
                    self._entries.move_to_end(key)
            left -= some
            for sweep in self._sweeping:
                sweep.left = sweep.left - some if self._entries else 0
            self._sweeping = [sweep for sweep in self._sweeping if sweep.left > 0]

    def clear(self) -> None:
        """Forget everything, stamps and sweeps too."""
        self._end_sweeps()
        self._discard()
        self._sweeps.clear()
        self._newest_sweep = self._newest_evicted = b""
        self._discarded += self.buckets.clear()

    def _discard(self) -> None:
        """Have no entries any more.  To let go of a million of them takes long: that is done bit by bit."""
        self._discarded += [self._entries, *self._calendar.days()]
        if self.shares:
            self._discarded.append(self.shares)
            self.shares = {}
        self._entries = OrderedDict()
        self._calendar = _Calendar()
        self.bytes = self.copies = 0

    # -- copies of what Redis has

    def copy(self, key: str, now: float) -> Entry | None:
        """The copy of what Redis has; None if there is none that can be read by itself.  Makes it the most recently used entry."""
        entries = self._entries
        entry = entries.get(key)
        if entry is None or entry.stamp or entry.expires_at <= now or (self.shares and self._is_counted(key)):
            return None
        if self._sweeping and self._goes(key, entry):
            return None
        entries.move_to_end(key)
        return entry

    def touch_copy(self, key: str, value: bytes) -> Entry | None:
        """The copy, if there is one and it has this value, which Redis has; makes it the most recently used entry."""
        entry = self._find(key) if self._sweeping else self._entries.get(key)
        if entry is None or entry.stamp or entry.value != value:
            return None
        self._entries.move_to_end(key)
        return entry

    def touch_copies(self, found: Mapping[str, bytes], lasting: float) -> list[str]:
        """:meth:`touch_copy` of many keys; those without such a copy, or with one that neither expires with the key in Redis nor
        after the moment ``lasting``."""
        if self._sweeping:
            return list(found)
        entries = self._entries
        get, move_to_end = entries.get, entries.move_to_end
        without = []
        for key, value in found.items():
            entry = get(key)
            if (
                entry is None
                or entry.stamp
                or entry.value != value
                or not (entry.ttl_known or entry.expires_at > lasting)
            ):
                without.append(key)
            else:
                move_to_end(key)
        return without

    def put_copy(
        self, key: str, value: bytes, expires_at: float, *, now: float, newest: bool = False, ttl_known: bool = False
    ) -> bool:
        """Redis has this value.  Changes nothing if something stamped is known of the key: that is newer, or in doubt.

        Args:
            key: the key.
            value: the encoded value.
            expires_at: the copy must not be read from then on.
            now: this moment.
            newest: whether this value is newer than that of any copy there is.
            ttl_known: whether ``expires_at`` is when the key expires in Redis.

        Returns:
            False if there was a copy with another value, and it is not known which is newer: both go.
        """
        old = self._find(key) if self._sweeping else self._entries.get(key)
        if old is None:
            self._add_copy(key, value, expires_at, ttl_known=ttl_known, now=now)
        elif old.stamp:
            pass
        elif newest or old.value == value:
            self._entries.move_to_end(key)
            if newest or not old.ttl_known:
                growth = ENTRY_OVERHEAD_BYTES + len(key) + len(value) - old.size
                old.value, old.expires_at, old.ttl_known, old.decoded = value, expires_at, ttl_known, NOT_DECODED
                if expires_at == inf or int(expires_at) + 1 != old._due:
                    self._calendar.remove(key, old._due)
                    old._due = self._calendar.add(key, expires_at)
                if growth:
                    old.size += growth
                    self.bytes += growth
                    self._make_room_for_copy(key, old)
        else:
            self._drop(key, old)
            return False
        return True

    def drop_copy(self, key: str) -> bool:
        """Forget the copy of a key; whether there was one."""
        entry = self._find(key)
        if entry is None or entry.stamp:
            return False
        self._drop(key, entry)
        return True

    def drop_stamped(self, key: str) -> None:
        """Forget what was written with a stamp: Redis knows better now."""
        entry = self._entries.get(key)
        if entry is not None and entry.stamp:
            self._drop(key, entry)

    def drop_copies(self, pattern: str = MATCH_ALL) -> int:
        """Forget every copy whose key matches; how many that were."""
        if pattern == MATCH_ALL and self.copies == len(self._entries):
            # The usual case, and one that must be quick: no outage, and a store full of copies.
            dropped = self.copies
            self._discard()
            return dropped
        matches = matcher(pattern)
        keys = [key for key, entry in self._entries.items() if not entry.stamp and matches(key)] if self.copies else []
        for key in keys:
            self._drop(key, self._entries[key])
        return len(keys)

    # -- after an outage

    def forget_clean(self, dirty: Iterable[str]) -> None:
        """Forget everything stamped but what is known of these keys; the copies stay."""
        kept = set(dirty)
        stamped = [version.key for i in range(BUCKETS) for version in self.buckets.versions(i) if not version.is_sweep]
        for key in stamped:  # there are few, of many copies
            if key not in kept:
                self._drop(key, self._entries[key])
        self._forget_sweeps()
        self._newest_evicted = b""

    def keep_only(self, keys: Iterable[str]) -> None:
        """Forget everything but what is known of these keys; a copy is no knowledge."""
        kept = [(key, entry) for key in keys if (entry := self._find(key)) is not None and entry.stamp]
        self.clear()
        for key, entry in kept:
            self._entries[key] = entry
            self._index(key)
            self.bytes += entry.size
            self.buckets.put(key, entry.stamp)
            if entry._due is not None:
                self._calendar.add(key, entry._due - 1)

    def forget_values(self) -> None:
        """Forget every key that has a value; what was deleted stays deleted.  Shares stay: what was counted was counted."""
        for key in [key for key, entry in self._entries.items() if entry.value is not None and not is_share(key)]:
            self._drop(key, self._entries[key])

    # -- shares

    def shares_of(self, key: str, now: float) -> list[tuple[str, Entry]]:
        """The shares of a counter that have a value, under their hidden keys; makes them the most recently used entries."""
        found = []
        for name in self.shares.get(key, ()):
            entry = self._entries[name]
            if entry.expires_at > now:
                self._entries.move_to_end(name)
                found.append((name, entry))
        return found

    def end_series(self, key: str, stamp: Stamp) -> list[str]:
        """The counter was written: shares whose series began before go.  Their hidden keys."""
        old = [name for name in self.shares.get(key, ()) if self._series(self._entries[name]) < stamp]
        for name in old:
            self._drop(name, self._entries[name])
        return old

    # -- inside

    def _add_copy(self, key: str, value: bytes, expires_at: float, *, ttl_known: bool, now: float) -> None:
        size = ENTRY_OVERHEAD_BYTES + len(key) + len(value)
        if size > self._max_bytes or expires_at <= now:
            return
        entry = self._entries[key] = Entry(Kind.SET, UNSTAMPED, value, expires_at, size)
        entry.ttl_known = ttl_known
        entry._due = self._calendar.add(key, expires_at)
        self.copies += 1
        self.bytes += size
        self._make_room_for_copy(key, entry)

    def _make_room_for_copy(self, key: str, entry: Entry) -> None:
        while self._is_full():
            oldest = next(iter(self._entries))
            if self._entries[oldest].stamp:  # what an outage wrote is worth more than a copy
                self._drop(key, entry)
                return
            self._evict()

    def _put(self, op: Op, now: float) -> None:
        size = ENTRY_OVERHEAD_BYTES + len(op.key) + len(op.value)
        if op.kind is Kind.SET and op.expires_at > now and size <= self._max_bytes:
            entry = Entry(op.kind, op.stamp, op.value, op.expires_at, size)
            leaves_at = op.expires_at
        else:
            entry = Entry(op.kind, op.stamp, None, -inf, ENTRY_OVERHEAD_BYTES + len(op.key))
            leaves_at = now + self._tombstone_ttl
            if op.kind is not Kind.SET:
                leaves_at = max(now, min(leaves_at, op.expires_at))
        old = self._entries.pop(op.key, None)
        if old is not None:
            self.bytes -= old.size
            self.copies -= not old.stamp
            self._calendar.remove(op.key, old._due)
        self._entries[op.key] = entry
        self.bytes += entry.size
        self._newest = max(self._newest, op.stamp)
        self.buckets.put(op.key, op.stamp)
        entry._due = self._calendar.add(op.key, leaves_at)
        if is_share(op.key):
            self._index(op.key)
        elif op.key in self.shares:
            self.end_series(op.key, op.stamp)
        if self._sweeping and self._is_full():
            self.sweep_on(now, _FOR_ROOM)
        while self._is_full():
            self._evict()

    def _is_full(self) -> bool:
        return len(self._entries) > self._max_entries or self.bytes > self._max_bytes

    def _evict(self) -> None:
        key, entry = self._entries.popitem(last=False)
        self._forget(key, entry)
        self._newest_evicted = max(self._newest_evicted, entry.stamp)
        self.evictions += 1

    def _bury(self, key: str, entry: Entry, died_at: float) -> None:
        """Make an entry its own tombstone; a copy just goes."""
        if not entry.stamp:
            self._drop(key, entry)
            return
        freed = entry.size - ENTRY_OVERHEAD_BYTES - len(key)
        self.bytes -= freed
        entry.size -= freed
        entry.value = None
        entry.decoded = NOT_DECODED
        entry.expires_at = -inf
        self._calendar.remove(key, entry._due)
        entry._due = self._calendar.add(key, died_at + self._tombstone_ttl)
        if is_share(key):
            self.share_lost(key)

    def _find(self, key: str) -> Entry | None:
        """What is known of a key."""
        entry = self._entries.get(key)
        return None if entry is not None and self._sweeping and self._goes(key, entry) else entry

    def _sweep_of(self, key: str, entry: Entry) -> Sweep | None:
        """The sweep under way that deletes this."""
        name = visible(key)
        return next((sweep for sweep in self._sweeping if entry.stamp < sweep.stamp and sweep.matches(name)), None)

    def _goes(self, key: str, entry: Entry, now: float = -inf) -> bool:
        """Whether a sweep under way deletes this; if so, it goes."""
        sweep = self._sweep_of(key, entry)
        if sweep is None:
            return False
        self._drop(key, entry)
        sweep.count += entry.expires_at > now and not is_share(key)
        return True

    def _end_sweeps(self) -> None:
        for sweep in self._sweeping:
            sweep.left = 0
        self._sweeping = []

    def _drop(self, key: str, entry: Entry) -> None:
        del self._entries[key]
        self._forget(key, entry)

    def _forget(self, key: str, entry: Entry) -> None:
        """Settle the accounts of an entry that has left the map."""
        self.bytes -= entry.size
        self._calendar.remove(key, entry._due)
        if not entry.stamp:
            self.copies -= 1
            return
        self.buckets.remove(key)
        if is_share(key):
            shares = self.shares[counter_of(key)]
            shares.discard(key)
            if not shares:
                del self.shares[counter_of(key)]
            self.share_lost(key)

    def _is_counted(self, key: str) -> bool:
        """Whether the key is that of a counter with shares, or hidden."""
        return key in self.shares or is_share(key)

    def _index(self, key: str) -> None:
        if is_share(key):
            self.shares.setdefault(counter_of(key), set()).add(key)

    def _may_take_share(self, op: Op) -> bool:
        """Whether it is one, and the counter was not written after its series began."""
        try:
            share_id(op.key)
            if op.kind is not Kind.SET:
                return True
            series = unpack_share(op.value).series
        except ValueError:
            return False
        key = counter_of(op.key)
        counter = self._entries.get(key)
        return (counter is None or counter.stamp <= series) and not self._is_swept(key, series)

    def _series(self, share: Entry) -> bytes:
        return b"" if share.value is None else unpack_share(share.value).series

    def _forget_sweeps(self) -> None:
        for pattern in self._sweeps:
            self.buckets.remove(pattern, is_sweep=True)
        self._sweeps.clear()
        self._newest_sweep = b""

    def _sweep(self, op: Op, now: float) -> bool:
        self.newest_sweep = None
        if self._knows_sweep(op.key, op.stamp):
            return False
        self.newest_sweep = under_way = Sweep(matcher(op.key), op.stamp)
        if op.key == MATCH_ALL and op.stamp > max(self._newest, self._newest_sweep):
            if self._entries:
                under_way.left = len(self._entries)
                self._cleared.append((under_way, iter(self._entries.items())))
            self.clear()  # everything is older: no need to look at each, but to count
            if under_way.left <= self._at_once:
                self.sweep_on(now, under_way.left)
        before = list(self._sweeps)
        pattern = add_sweep(self._sweeps, op.key, op.stamp)
        for gone in before:
            if gone not in self._sweeps:
                self.buckets.remove(gone, is_sweep=True)
        self.buckets.put(pattern, self._sweeps[pattern], is_sweep=True)
        self._newest_sweep = max(self._newest_sweep, op.stamp)
        self._sweeps_end = max(self._sweeps_end, min(now + self._tombstone_ttl, op.expires_at))
        if pattern != op.key:  # several became one
            under_way.matches, under_way.stamp = matcher(pattern), self._sweeps[pattern]
        for key in [key for key in self.shares if under_way.matches(key)]:
            self.end_series(key, under_way.stamp)
        if self._entries:
            under_way.left = len(self._entries)
            self._sweeping.append(under_way)
            if under_way.left <= self._at_once:
                self.sweep_on(now, under_way.left)
        return True

    def _knows_sweep(self, pattern: str, stamp: Stamp) -> bool:
        return stamp <= max(self._sweeps.get(pattern, b""), self._sweeps.get(MATCH_ALL, b""))

    def _is_swept(self, key: str, stamp: Stamp) -> bool:
        return any(stamp < swept and matcher(pattern)(visible(key)) for pattern, swept in self._sweeps.items())


def add_sweep(sweeps: dict[str, Stamp], pattern: str, stamp: Stamp) -> str:
    """Remember a sweep; more than :data:`MAX_SWEEPS` become one of everything, which is safe: it costs misses.

    Returns:
        The pattern under which it is remembered.
    """
    stamp = sweeps[pattern] = max(stamp, sweeps.get(pattern, stamp))
    if len(sweeps) > MAX_SWEEPS:
        pattern, stamp = MATCH_ALL, max(sweeps.values())
        sweeps[MATCH_ALL] = stamp
    if pattern == MATCH_ALL:  # it says all that an older one said
        for older in [older for older, swept in sweeps.items() if swept <= stamp and older != MATCH_ALL]:
            del sweeps[older]
    return pattern


class _Calendar:
    """Which keys have something due, by the second.

    A key overwritten a million times stands in it once, where a heap of moments would keep them all.  Seconds that nobody
    waits for any more leave the heap when they are half of it.
    """

    __slots__ = ("_days", "_order")

    def __init__(self) -> None:
        self._days: dict[int, dict[str, None]] = {}
        self._order: list[int] = []

    def days(self) -> Iterable[dict[str, None]]:
        """All that is filed, in its parts."""
        return self._days.values()

    def add(self, key: str, moment: float) -> int | None:
        """File a key; the second it was filed under, None for never."""
        if moment == inf:
            return None
        second = int(moment) + 1
        day = self._days.get(second)
        if day is None:
            day = self._days[second] = {}
            heapq.heappush(self._order, second)
        day[key] = None
        return second

    def remove(self, key: str, second: int | None) -> None:
        """Take a key out again."""
        if second is None:
            return
        day = self._days[second]
        del day[key]
        if not day:
            del self._days[second]
            if len(self._order) > 2 * len(self._days) + _SPARE_SECONDS:
                self._order = sorted(self._days)  # which is a heap

    def is_due(self, now: float) -> bool:
        """Whether a second is over."""
        return bool(self._order) and self._order[0] <= now

    def take(self, now: float, limit: int) -> list[str]:
        """Take out keys whose second is over."""
        keys: list[str] = []
        while self.is_due(now) and len(keys) < limit:
            day = self._days.get(self._order[0])
            while day and len(keys) < limit:
                keys.append(day.popitem()[0])
            if not day:
                self._days.pop(heapq.heappop(self._order), None)
        return keys
