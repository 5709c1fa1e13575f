"""The memory tier: what answers in an outage.  It is the store, the journal of what Redis does not know yet, and a way to tell the mesh.

No I/O and no clock: ``now`` and the hybrid clock are handed in, and so is the function that publishes a write.  No call
here waits for anything, so each is atomic for the other tasks of the event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from math import ceil, inf
from typing import Final

from .buckets import Buckets, Version
from .counters import Counters, Way
from .glob import matcher
from .journal import Journal
from .shares import counter_of, is_share
from .stamp import NOBODY, HybridClock, Kind, Op, Stamp, stamp_node, successor
from .store import Store
from .tier import NO_EXPIRY, NO_KEY

__all__ = ["MemoryTier"]

_SLICE: Final = 256
"""So many entries are looked at in one turn."""


class MemoryTier:
    """A :class:`~meshcache.tier.Tier` that never fails.  Every write is stamped, journalled and published.

    Args:
        store: the entries.
        journal: the dirty keys, or None when there is no Redis that could ever learn of them.
        clock: makes the stamps, and refuses those of clocks too far ahead.
        now: this instance's monotonic clock, in seconds.
        publish: told of each own write.
        count_life: how long what was counted may be brought to Redis, in seconds.
        stale_ttl: how long a number that Redis gave for a counter is gone on from, if that does not expire, in seconds.
        give_turn: lets others have their turn, in what takes long.

    Attributes:
        store: the entries.
        now: the clock.
        counters: what counters read as, and where increments go.
        node_id: this instance, 64 bit.
        refused_stamps: how many foreign writes were refused because their clock is too far ahead.
    """

    def __init__(
        self,
        store: Store,
        journal: Journal | None,
        clock: HybridClock,
        now: Callable[[], float],
        publish: Callable[[Op], None],
        count_life: float = 3600.0,
        stale_ttl: float = 60.0,
        give_turn: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.store = store
        self._give_turn = give_turn
        self.counters = Counters(store, clock, count_life, stale_ttl)
        self.journal = journal
        if journal is not None:
            store.share_lost = journal.dismiss
        self.refused_stamps = 0
        self.node_id = clock.node_id
        self._clock = clock
        self.now = self._now = now
        self._publish = publish

    # -- the face of a tier

    @property
    def hits(self) -> int:
        """Reads that found a value."""
        return self.store.hits

    @property
    def misses(self) -> int:
        """Reads that found none."""
        return self.store.misses

    async def get(self, key: str) -> bytes | None:
        """The value, or None for a miss."""
        now, store = self._now(), self.store
        return self._count_read(key, now) if key in store.shares else store.get(key, now)

    async def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The keys found, with their values."""
        now, get = self._now(), self.store.get
        if self.store.shares:
            return {key: value for key in keys if (value := await self.get(key)) is not None}
        return {key: value for key in keys if (value := get(key, now)) is not None}

    async def set(self, key: str, value: bytes, ttl_ms: int | None, *, nx: bool = False, xx: bool = False) -> bool:
        """True if written.  ``nx`` and ``xx`` are decided by what this instance holds."""
        now = self._now()
        if (nx or xx) and (self._value(key, now) is not None) == nx:
            return False
        self._write(Op(Kind.SET, key, self._clock.tick(), value, _deadline(ttl_ms, now)), now)
        return True

    async def set_many(self, values: Mapping[str, bytes], ttl_ms: int | None) -> None:
        """Write all of them."""
        for key, value in values.items():
            await self.set(key, value, ttl_ms)

    async def delete(self, keys: Sequence[str]) -> int:
        """How many this instance held.  Those it does not hold are deleted as well: Redis or a peer may have them."""
        now = self._now()
        existed = 0
        for key in keys:
            existed += self._value(key, now) is not None
            self._write(Op(Kind.DELETE, key, self._clock.tick()), now)
        return existed

    async def exists(self, keys: Sequence[str]) -> int:
        """How many of them this instance holds."""
        now = self._now()
        return sum(self._value(key, now) is not None for key in keys)

    async def ttl_ms(self, key: str) -> int:
        """What remains, or ``NO_EXPIRY``, or ``NO_KEY``."""
        now = self._now()
        entry = self.store.peek(key, now)
        if entry is not None and entry.value is not None:
            expires_at = entry.expires_at
        elif self._value(key, now) is not None and (deadline := self.counters.deadline(key, now)) is not None:
            expires_at = deadline
        else:
            return NO_KEY
        if expires_at == inf:
            return NO_EXPIRY
        # Floats: (now + 60) - now may be a little more than 60, and must not be told as 61 seconds.
        return max(1, ceil(round((expires_at - now) * 1000, 3)))

    async def expire(self, key: str, ttl_ms: int | None) -> bool:
        """A new time to live.  False if this instance does not hold the key.

        It makes the value no newer than it is: somebody may have written the key whom this instance has not heard yet.  Of
        a copy of what Redis has it is not even known how old it is; that it is to expire is then kept to this instance,
        and Redis is told to forget the key.
        """
        now = self._now()
        value = self._value(key, now)
        if value is None:
            return False
        deadline = _deadline(ttl_ms, now)
        shares = [entry.stamp for _, entry in self.store.shares_of(key, now)]
        entry = self.store.peek(key, now)
        if (entry is None or entry.stamp) and (not shares or self.counters.is_certain(key, now)):
            # A counter is one value from now on: its shares are older.
            newest = max([*shares, *([entry.stamp] if entry is not None else [])])
            stamp = successor(Stamp(newest), self.node_id)
            self._clock.observe(stamp)  # what this instance writes next is newer
            self._write(Op(Kind.SET, key, stamp, value, deadline), now)
        else:
            op = Op(Kind.INVALIDATE, key, self._clock.tick())
            self._counters_follow(op)
            self.store.end_series(key, op.stamp)
            self.store.drop_stamped(key)
            self.store.put_copy(key, value, deadline, now=now, newest=True, ttl_known=True)
            self._mark(op, foreign=False)
            self._publish(op)
        return True

    async def fill(self, key: str, value: bytes, ttl_ms: int | None, began: Stamp, *, anew: bool = False) -> bool:
        """Write with the stamp of a moment that is over: what was written or deleted since then wins, here and everywhere.

        Always False.
        """
        op = self.draft(Kind.SET, key, value, ttl_ms, began)
        if not self.is_outdated(key, began) and self.store.apply(op, self._now()):
            self._counters_follow(op)
            self._mark(op, foreign=False)
            self._publish(op)
        return False

    async def incr(self, key: str, amount: int, ttl_ms: int | None) -> int:
        """The counter after the increment: what this instance holds and what it has heard of.

        Raises:
            RedisCommandError: it is no integer, or would not fit into 64 bit.
        """
        now = self._now()
        total = self.counters.total(key, amount, now)
        deadline = self.counters.deadline(key, now)
        if deadline is None:
            deadline = _deadline(ttl_ms, now)
        self._write(self.counters.draft(key, amount, now, deadline=deadline, way=Way.MEMORY), now)
        return total

    def keys(self, pattern: str, *, copies: bool = True) -> list[str]:
        """The keys that this instance holds and that match, with or without those that are copies of what Redis has."""
        now = self._now()
        keys = list(self.store.keys(pattern, now, copies=copies))
        return keys + self._counted(pattern, set(keys), now) if self.store.shares else keys

    def _counted(self, pattern: str, known: Collection[str], now: float) -> list[str]:
        """The counters that match, and of which nothing is known here but what was counted."""
        matches = matcher(pattern)
        shares = self.store.shares
        return [key for key in shares if matches(key) and key not in known and self._value(key, now) is not None]

    async def delete_match(self, pattern: str) -> int:
        """Delete what matches, here, at the peers, and in Redis at recovery; how many this instance held."""
        now = self._now()
        counted = len(self._counted(pattern, set(self.store.keys(pattern, now)), now)) if self.store.shares else 0
        self._write(Op(Kind.SWEEP, pattern, self._clock.tick()), now)
        sweep = self.store.newest_sweep
        while sweep is not None and sweep.left:
            self.store.sweep_on(self._now(), _SLICE)
            if self._give_turn is not None:
                await self._give_turn()
        return counted + (0 if sweep is None else sweep.count)

    # -- writes that go to Redis with a stamp

    def draft(
        self, kind: Kind, key: str, value: bytes = b"", ttl_ms: int | None = None, stamp: Stamp | None = None
    ) -> Op:
        """A stamped write, not made yet; of this moment if no stamp is given."""
        return Op(kind, key, stamp or self._clock.tick(), value, _deadline(ttl_ms, self._now()))

    def tick(self) -> Stamp:
        """A stamp for a write of this moment."""
        return self._clock.tick()

    def observe(self, stamp: Stamp) -> bool:
        """Move the clock past a stamp met in Redis; False if that is too far ahead to be believed."""
        return self._clock.observe(stamp)

    def tell(self, kind: Kind, key: str, stamp: Stamp, value: bytes, ttl_ms: int | None) -> None:
        """Tell the peers of what Redis has."""
        self._clock.observe(stamp)
        self._publish(Op(kind, key, stamp, value, _deadline(ttl_ms, self._now())))

    def settled(self, op: Op) -> None:
        """Redis has this write of this instance: the peers are told, and what was known of the key before is forgotten."""
        if op.kind is Kind.SWEEP:
            self.counters.swept()
            if self.journal:
                self.store.apply(op, self._now())
        else:
            self.counters.written(op.key)
            self.store.end_series(op.key, op.stamp)
            self._settled(op)
        self._publish(op)

    def doubt(self, ops: Iterable[Op]) -> None:
        """Nobody knows whether Redis has these writes of this instance: they are replayed."""
        now = self._now()
        for op in ops:
            self._write(op, now)

    def forget_in_redis(self, ops: Iterable[Op]) -> None:
        """Redis may have lost these changes, and shows what was before: to be deleted there.  Nobody needs to be told.

        Of a counter that somebody else has changed, somehow, it may show less than was counted; but it is not deleted.
        """
        now = self._now()
        for op in ops:
            if self._is_counted(op.key, op.stamp, is_sweep=op.kind is Kind.SWEEP):
                continue
            if self._clock.accepts(op.stamp) and not (op.kind is not Kind.SWEEP and self.is_outdated(op.key, op.stamp)):
                self._counters_follow(op)
                self.store.apply(op, now)
                self._mark(op, foreign=False)

    def remember(self, ops: Iterable[Op], expires_at: Callable[[str], float]) -> None:
        """Redis is gone, and had these writes of this instance: older ones of peers must not be taken for the newest.

        Args:
            ops: what was written, as invalidations; see :meth:`with_copy`.
            expires_at: when the value of a key expires, if that is known.
        """
        now = self._now()
        for op in ops:
            self.store.apply(self.with_copy(op, expires_at(op.key)), now)

    def with_copy(self, op: Op, expires_at: float) -> Op:
        """An invalidation of what Redis has, as the write of the value if there is a copy of it.

        Args:
            op: the invalidation.
            expires_at: when the value expires, if that is known; the copy may be one that was read, and does not know.
        """
        entry = self.store.peek(op.key, self._now())
        if entry is None or entry.stamp or entry.value is None:
            return op
        return Op(Kind.SET, op.key, op.stamp, entry.value, min(entry.expires_at, expires_at))

    # -- increments that go to Redis

    def count(self, key: str, amount: int, ttl_ms: int | None, way: Way) -> Op:
        """The share that an increment is about to be sent with; to be followed by one of the next three."""
        now = self._now()
        op = self.counters.draft(key, amount, now, deadline=_deadline(ttl_ms, now), way=way)
        self.counters.begin(op)
        return op

    def counted(self, op: Op, value: int, left_ms: int | None, way: Way, *, is_outdated: bool) -> None:
        """Redis has it.

        Args:
            op: what :meth:`count` gave.
            value: the counter now.
            left_ms: the counter's time to live; None for ever.
            way: as there.
            is_outdated: whether the counter was written under a fence after the series began.
        """
        now = self._now()
        deadline = _deadline(left_ms, now)
        self.counters.end(op)
        self._settled(op)
        told = self.counters.sent(op, value, deadline, now, way=way)
        if is_outdated:
            self.counters.restart(counter_of(op.key))
        if way is Way.TOLD:
            self._publish(told)

    def count_refused(self, op: Op) -> None:
        """Redis has not counted it, for good."""
        self.counters.end(op)

    def count_doubted(self, op: Op, amount: int | None) -> int:
        """Nobody knows whether Redis has it: it is replayed, which adds it once.

        Args:
            op: what :meth:`count` gave.
            amount: the increment; None if nobody waits for an answer.

        Returns:
            The counter, as far as this instance knows.

        Raises:
            RedisCommandError: it is no integer, or would not fit into 64 bit.
        """
        now = self._now()
        self.counters.end(op)
        total = 0 if amount is None else self.counters.total(counter_of(op.key), amount, now)
        self._write(op, now)
        return total

    def haunted(self, keys: Iterable[str]) -> None:
        """Plain writes of these keys were given up and may still arrive."""
        if self.journal is not None:
            self.journal.ghosts.update(keys)

    # -- what the mesh brings

    def apply(self, ops: Iterable[Op], *, in_redis: bool = False) -> None:
        """Take in the writes of peers: of two writes of one key the newer stamp wins, whichever came first.

        Args:
            ops: the writes.
            in_redis: whether Redis has them already: then nobody needs to bring them there.
        """
        now = self._now()
        for op in ops:
            if not self._clock.observe(op.stamp):
                self.refused_stamps += 1
            elif op.kind is not Kind.SWEEP and self.is_outdated(op.key, op.stamp):
                continue
            elif self.counters.is_own(op.key):
                continue  # its owner knows better
            elif self._is_counted(op.key, op.stamp, is_sweep=op.kind is Kind.SWEEP):
                continue  # its sender did not know that
            elif self.store.apply(op, now):
                self._counters_follow(op)
                if not in_redis or self._may_be_overtaken(op):
                    self._mark(op, foreign=True)

    def _is_counted(self, key: str, stamp: Stamp, *, is_sweep: bool) -> bool:
        """Whether that is a change of which nobody knows what it was, of a key that is known as a counter: it was counted."""
        return stamp_node(stamp) == NOBODY and not is_sweep and self.counters.is_known(key)

    def _may_be_overtaken(self, op: Op) -> bool:
        """Whether this instance may be bringing something older to Redis just now.  A sweep leaves no fences that would refuse it."""
        return bool(self.journal) if op.kind is Kind.SWEEP else self.is_dirty(op.key)

    def counted_in_redis(self, ops: Iterable[Op]) -> None:
        """Redis has those of these writes that are shares."""
        now = self._now()
        for op in ops:
            if op.kind is Kind.SET and is_share(op.key):
                self.counters.in_redis(op, now)

    def forget_values(self) -> None:
        """A peer wrote what can never be learned: any key may be older than that.  What others still know is fetched again."""
        self.store.forget_values()

    # -- what is compared with peers: the Replica of the mesh

    @property
    def buckets(self) -> Buckets:
        """The versions of all that this instance knows."""
        return self.store.buckets

    def wants(self, version: Version, now: float) -> bool:
        """Whether the write of this version, if it came, would be taken in and kept."""
        if not self._clock.accepts(version.stamp) or not self.store.wants(version) or self.counters.is_own(version.key):
            return False
        if self._is_counted(version.key, version.stamp, is_sweep=version.is_sweep):
            return False
        return version.is_sweep or not self.is_outdated(version.key, version.stamp)

    def op(self, key: str, is_sweep: bool, now: float) -> Op | None:
        """The newest write of a key or pattern, as a peer is told of it."""
        return self.store.op(key, now, is_sweep=is_sweep)

    # -- what recovery asks

    def is_dirty(self, key: str) -> bool:
        """Whether Redis may hold something older for this key than this instance knows: a write must not overtake it."""
        return self.journal is not None and (
            self.journal.is_dirty(key) or any(map(self.journal.is_dirty, self.store.shares.get(key, ())))
        )

    def is_in_doubt(self, key: str) -> bool:
        """Whether that is a write of this instance itself: then Redis must not be read.

        A counter of which nothing is known here but what this instance counts is read from Redis all the same.
        """
        if self.journal is None or not self.journal:
            return False
        if self.journal.is_in_doubt(key):
            return True
        shares = self.store.shares.get(key)
        return (
            shares is not None
            and any(map(self.journal.is_in_doubt, shares))
            and self.counters.has_base(key, self._now())
        )

    def is_outdated(self, key: str, stamp: Stamp) -> bool:
        """Whether the journal knows a newer write, whose value the store may have given up."""
        known = None if self.journal is None else self.journal.stamp(key)
        return known is not None and known > stamp

    def learn_sweeps(self, sweeps: Mapping[str, Stamp]) -> None:
        """Patterns that other instances deleted in Redis: what is older here is not to be brought back."""
        now = self._now()
        for pattern, stamp in sweeps.items():
            if self._clock.observe(stamp):
                self.counters.swept()
                self.store.apply(Op(Kind.SWEEP, pattern, stamp), now)
            else:
                self.refused_stamps += 1

    def dirty(self, limit: int) -> list[Op]:
        """What the oldest ``limit`` dirty keys are now, without those of which a plain write may still arrive.  A value that memory
        no longer has becomes an invalidation."""
        if self.journal is None:
            return []
        now, ghosts = self._now(), self.journal.ghosts
        return [self._newest(key, stamp, now) for key, stamp in self.journal.oldest(limit) if key not in ghosts]

    def newest(self, keys: Iterable[str]) -> list[Op]:
        """What these keys are now, those of them that are dirty one by one."""
        if self.journal is None:
            return []
        now = self._now()
        stamps = ((key, self.journal.key_stamp(key)) for key in keys)
        return [self._newest(key, stamp, now) for key, stamp in stamps if stamp is not None]

    def cleaned(self, ops: Iterable[Op]) -> None:
        """Redis has these; a key written again meanwhile stays dirty."""
        if self.journal is not None:
            for op in ops:
                self.journal.done(op.key, op.stamp)
                if op.kind is not Kind.SET and not is_share(op.key):
                    self.store.drop_copy(op.key)  # one that was to expire, see :meth:`expire`

    def forget(self, *, copies: bool = True) -> None:
        """Redis answers again: what memory holds would grow old unnoticed.  Only what is dirty stays.

        Args:
            copies: whether the copies of what Redis has go too: those that were carried through an outage missed the
                changes that others made meanwhile.
        """
        kept = [] if self.journal is None else [key for key, _ in self.journal.oldest(len(self.journal))]
        if copies:
            self.store.keep_only(kept)
            self.counters.redis_found()
        else:
            self.store.forget_clean(kept)

    # -- copies of what Redis has, kept while it answers; ``near`` says when

    def keep(self, key: str, value: bytes, ttl: float, *, newest: bool = False, ttl_known: bool = False) -> bool:
        """Redis has this value.  Not kept where a stamped write is known of the key, or one that Redis does not have yet.

        Args:
            key: the key.
            value: the encoded value.
            ttl: how long it may be read, in seconds.
            newest: whether this value is newer than that of any copy there is.
            ttl_known: whether ``ttl`` is the key's time to live in Redis.

        Returns:
            False if there was a copy with another value, and it is not known which is newer: there is none now.
        """
        now = self._now()
        expires_at = now + ttl
        if self.journal and self.is_dirty(key):
            return True
        return self.store.put_copy(key, value, expires_at, now=now, newest=newest, ttl_known=ttl_known)

    # -- inside

    def _value(self, key: str, now: float) -> bytes | None:
        if key in self.store.shares:
            return self.counters.value(key, now)
        entry = self.store.peek(key, now)
        return None if entry is None else entry.value

    def _count_read(self, key: str, now: float) -> bytes | None:
        value = self.counters.value(key, now)
        self.store.hits += value is not None
        self.store.misses += value is None
        return value

    def _settled(self, op: Op) -> None:
        """Redis has this write of this instance."""
        self.store.drop_stamped(op.key)
        if self.journal is not None:
            self.journal.superseded(op.key, op.stamp)

    def _newest(self, key: str, stamp: Stamp, now: float) -> Op:
        entry = self.store.peek(key, now)
        if entry is None or entry.stamp != stamp:
            return Op(Kind.INVALIDATE, key, stamp)
        if entry.value is None:
            return Op(Kind.DELETE if entry.kind is Kind.DELETE else Kind.INVALIDATE, key, stamp)
        return Op(Kind.SET, key, stamp, entry.value, entry.expires_at)

    def _write(self, op: Op, now: float) -> None:
        # The peers are told first: the write is on its way to them while this instance takes it in.
        self._mark(op, foreign=False)
        self._publish(op)
        self._counters_follow(op)
        self.store.apply(op, now)

    def _counters_follow(self, op: Op) -> None:
        if op.kind is Kind.SWEEP:
            self.counters.swept()
        elif not is_share(op.key):
            self.counters.written(op.key)

    def _mark(self, op: Op, *, foreign: bool) -> None:
        if self.journal is None:
            return
        if op.kind is Kind.SWEEP:
            self.journal.mark_sweep(op.key, op.stamp, foreign=foreign)
        else:
            self.journal.mark(op.key, op.stamp, foreign=foreign)


def _deadline(ttl_ms: int | None, now: float) -> float:
    return inf if ttl_ms is None else now + ttl_ms / 1000
