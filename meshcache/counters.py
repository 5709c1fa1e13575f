"""Counters in memory: what one reads as, and which share an increment goes to.

Decisions only: no I/O, no clock, no logging.  A counter is what the store has under its key and the sum of its shares (see
``shares``).  Where the store has nothing, it goes on from the number that Redis gave for the last increment of this instance, since
copies of counters hardly ever last: Redis tells of every change, also of this instance's own if a script makes it.  Nothing here is needed for the sums to be right in Redis: that is decided there, share by share, by what Redis
itself remembers.  What is kept here about Redis is for reading only: what a copy of Redis' value contains already.

Where an increment of this instance goes:

- *In an outage*: to a share of its own that lives, or a new series.
- *To Redis, plainly*, while nobody needs to be told: a new series of this one increment.  If it ends in doubt, it is a share
  like others, and the next increment carries it along.
- *To Redis, and told*, while somebody is cut off: to the share that was told before, so that the one who is cut off sees all of it.

While an increment is under way to Redis no other one uses its share: so each has the number that Redis gave to it alone.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from itertools import count
from math import ceil, inf
from typing import Final, NamedTuple, TypeVar

from .errors import RedisCommandError
from .shares import (
    MAX_VALUE,
    MIN_VALUE,
    SLOT_DIGITS,
    Share,
    as_integer,
    counter_of,
    pack_share,
    share_key,
    share_of,
    slot_of,
    unpack_share,
)
from .stamp import HybridClock, Kind, Op, Stamp
from .store import UNSTAMPED, Entry, Store

__all__ = ["Counters", "Way"]

T = TypeVar("T")

_REMEMBERED: Final = 10_000
"""Of so many counters it is remembered what Redis has of their shares."""

_DOUBT_LIFE: Final = 600.0
"""In seconds: so long an increment that Redis did not answer may still be brought there.  Short, since Redis remembers every plain
increment for so long."""

_NOT_A_NUMBER: Final = "ERR value is not an integer or out of range"
_OVERFLOW: Final = "ERR increment or decrement would overflow"
"""As Redis says it."""


class Way(Enum):
    """Where an increment goes."""

    MEMORY = "memory"
    PLAIN = "plain"
    TOLD = "told"


class _Base(NamedTuple):
    """What the shares of a counter are added to.

    Attributes:
        value: None if nothing is known.
        as_of: of what Redis had, when that was: it contains what had been brought there of the shares.
        deadline: when it expires, ``inf`` for never; None if that is not known.
    """

    value: bytes | None
    as_of: float
    deadline: float | None


_NOTHING: Final = _Base(None, -inf, None)


class _Seen(NamedTuple):
    """What Redis said of a counter.

    Attributes:
        value: the number.
        stamp: of the increment that it answered.
        at: when that was.
        until: when it is too old to go on from.
        deadline: when the counter expires; ``inf`` for never.
    """

    value: int
    stamp: Stamp
    at: float
    until: float
    deadline: float


class _Known(NamedTuple):
    """A share as Redis has it.

    Attributes:
        stamp: of its newest increment there.
        share: what was added of it.
        at: since when that is known.
        until: when Redis may forget it.
        is_plain: whether it was one increment that nobody was told of.
    """

    stamp: Stamp
    share: Share
    at: float
    until: float
    is_plain: bool


class Counters:
    """The counters of one memory tier.

    Args:
        store: has them.
        clock: makes the stamps.
        life: how long a series may be brought to Redis, in seconds: as long as fences are kept.
        stale_ttl: how long a number of Redis is gone on from, of a counter that does not expire, in seconds.
    """

    def __init__(self, store: Store, clock: HybridClock, life: float, stale_ttl: float) -> None:
        self._store = store
        self._clock = clock
        self._own_prefix = share_key(clock.node_id, 0, "")[:-SLOT_DIGITS]
        self._life = life
        self._stale_ttl = stale_ttl
        self._seen: OrderedDict[str, _Seen] = OrderedDict()
        self._busy: dict[str, set[int]] = {}  # slots of shares that are under way to Redis
        self._told: OrderedDict[str, dict[int, Op]] = OrderedDict()  # own shares that Redis has, and peers were told
        self._in_redis: OrderedDict[str, _Known] = OrderedDict()  # shares, whosever
        self._copies_until = inf

    # -- reading

    def value(self, key: str, now: float) -> bytes | None:
        """What a counter reads as: what is stored, if it has no shares or is no number."""
        shares = self._store.shares_of(key, now)
        if not shares:
            entry = self._store.peek(key, now)
            return None if entry is None else entry.value
        base = self._base(key, now)
        start = 0 if base.value is None else as_integer(base.value)
        if start is None:
            return base.value
        return b"%d" % (start + sum(self._counts(name, share, base.as_of) for name, share in shares))

    def is_known(self, key: str) -> bool:
        """Whether this instance knows that a key is that of a counter."""
        return key in self._seen or key in self._store.shares

    def has_base(self, key: str, now: float) -> bool:
        """Whether anything is known of a counter but its shares."""
        return self._base(key, now).value is not None

    def is_certain(self, key: str, now: float) -> bool:
        """Whether what is known of a counter was all written with stamps."""
        return self._base(key, now).as_of == -inf

    def total(self, key: str, amount: int, now: float) -> int:
        """What a counter would be after an increment.

        Raises:
            RedisCommandError: it is no integer, or would not fit into 64 bit.
        """
        value = self.value(key, now)
        if value is None:
            value = self._base(key, now).value
        number = 0 if value is None else as_integer(value)
        if number is None:
            raise RedisCommandError(_NOT_A_NUMBER)
        if not MIN_VALUE <= number + amount <= MAX_VALUE:
            raise RedisCommandError(_OVERFLOW)
        return number + amount

    def deadline(self, key: str, now: float) -> float | None:
        """When a counter expires, ``inf`` for never; None if it does not exist, or nobody knows."""
        base = self._base(key, now)
        if base.value is not None:
            return base.deadline
        shares = self._store.shares_of(key, now)
        return max((_share(entry).deadline(entry.expires_at) for _, entry in shares), default=None)

    # -- counting

    def draft(self, key: str, amount: int, now: float, *, deadline: float, way: Way) -> Op:
        """The share with one more increment, not made yet.

        Args:
            key: the counter.
            amount: the increment.
            now: this moment.
            deadline: when the counter expires, if it is made by this; ``inf`` for never.
            way: where it goes.
        """
        if way is Way.PLAIN:
            self._told.clear()  # nobody is cut off
        busy = self._busy.get(key, ())
        told = self._told.get(key, {})
        life = _DOUBT_LIFE if way is Way.PLAIN else self._life
        for slot in count():
            if slot in busy:
                continue
            name = f"{self._own_prefix}{slot:0{SLOT_DIGITS}x}{key}"
            known = self._own(name, now) or (told.get(slot) if way is Way.TOLD else None)
            if known is None or known.expires_at <= now:
                if self._is_needed(name, now):
                    continue
                return self._first(name, amount, deadline, now + life)
            share = share_of(known).plus(amount)
            is_young = known.expires_at - now >= life / 2 or share_of(known).beyond_ms == 0
            if share is not None and is_young:
                return known._replace(stamp=self._clock.tick(), value=pack_share(share))
        raise AssertionError("there are always more slots")

    def begin(self, op: Op) -> None:
        """This share is about to be sent to Redis."""
        self._busy.setdefault(counter_of(op.key), set()).add(slot_of(op.key))

    def end(self, op: Op) -> None:
        """It is not under way any more."""
        key = counter_of(op.key)
        busy = self._busy[key]
        busy.discard(slot_of(op.key))
        if not busy:
            del self._busy[key]

    # -- what Redis has

    def sent(self, op: Op, value: int, deadline: float, now: float, *, way: Way) -> Op:
        """Redis has this increment, and gave this number of a counter that expires then: the share as peers are told of it."""
        until = deadline if deadline != inf else now + self._stale_ttl
        _put(self._seen, counter_of(op.key), _Seen(value, op.stamp, now, until, deadline))
        if way is Way.PLAIN:
            self._is_news(op, now, is_plain=True)
            return op
        ends_at = min(op.expires_at, deadline)
        share = share_of(op)._replace(beyond_ms=_ms(deadline - ends_at))
        op = op._replace(expires_at=ends_at, value=pack_share(share))
        if self._is_news(op, now):
            self._tell(op)
        return op

    def in_redis(self, op: Op, now: float) -> None:
        """Redis has this share, which its owner has told to all, whoever brought it there."""
        if self._is_news(op, now) and self.is_own(op.key):
            self._tell(op)

    def redis_lost(self, now: float) -> None:
        """The copies of what Redis has are as of this moment, until they go."""
        self._copies_until = now

    def redis_found(self) -> None:
        """There are no such copies any more; new ones are always as of now."""
        self._copies_until = inf

    def is_own(self, name: str) -> bool:
        """Whether this instance alone writes this share."""
        return name.startswith(self._own_prefix)

    def restart(self, key: str) -> None:
        """What is counted from now on is a new series."""
        self._told.pop(key, None)

    def written(self, key: str) -> None:
        """The counter was set or deleted."""
        self.restart(key)
        self._seen.pop(key, None)

    def swept(self) -> None:
        """Counters were deleted by a pattern."""
        self._told.clear()
        self._seen.clear()

    # -- inside

    def _base(self, key: str, now: float) -> _Base:
        """What the shares of a counter are added to."""
        entry, seen = self._store.peek(key, now), self._seen.get(key)
        if seen is not None and seen.until > now and (entry is None or UNSTAMPED < entry.stamp < seen.stamp):
            return _Base(b"%d" % seen.value, seen.at, seen.deadline)
        if entry is None or entry.value is None:
            return _NOTHING
        if entry.stamp:
            return _Base(entry.value, -inf, entry.expires_at)
        return _Base(entry.value, self._copies_until, entry.expires_at if entry.ttl_known else None)

    def _is_news(self, op: Op, now: float, *, is_plain: bool = False) -> bool:
        """Take note that Redis has this share; False if it is known to have more of it."""
        known = self._in_redis.get(op.key)
        if known is not None and known.stamp > op.stamp:
            return False
        try:
            _put(self._in_redis, op.key, _Known(op.stamp, share_of(op), now, op.expires_at, is_plain))
        except ValueError:
            return False  # a peer may say anything
        return True

    def _tell(self, op: Op) -> None:
        key = counter_of(op.key)
        told = self._told.get(key, {})
        told[slot_of(op.key)] = op
        _put(self._told, key, told)

    def _counts(self, name: str, entry: Entry, as_of: float) -> int:
        share, known = _share(entry), self._in_redis.get(name)
        if known is not None and known.share.series == share.series and known.at <= as_of:
            return share.sum - known.share.sum
        return share.sum

    def _is_needed(self, name: str, now: float) -> bool:
        """Whether Redis should go on knowing what it has of this own share: then a new series does not take its place.

        If somebody brings an older delete there, it is what stays counted.
        """
        known = self._in_redis.get(name)
        return known is not None and not known.is_plain and known.until > now

    def _own(self, name: str, now: float) -> Op | None:
        entry = self._store.peek(name, now)
        if entry is None or entry.value is None:
            return None
        return Op(Kind.SET, name, entry.stamp, entry.value, entry.expires_at)

    def _first(self, name: str, amount: int, deadline: float, latest: float) -> Op:
        stamp = self._clock.tick()
        ends_at = min(deadline, latest)
        share = Share(stamp, amount, _ms(deadline - ends_at))
        return Op(Kind.SET, name, stamp, pack_share(share), ends_at)


def _put(remembered: OrderedDict[str, T], key: str, value: T) -> None:
    remembered[key] = value
    remembered.move_to_end(key)
    if len(remembered) > _REMEMBERED:
        remembered.popitem(last=False)


def _share(entry: Entry) -> Share:
    return unpack_share(entry.value or b"")


def _ms(seconds: float) -> int | None:
    return None if seconds == inf else ceil(seconds * 1000)
