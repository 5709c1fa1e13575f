"""The near cache: which copies of what Redis has may be kept in memory, and until when.

Copies are made of what this instance reads and writes while Redis answers.  Redis tells of every change of a key
(``CLIENT TRACKING … BCAST``) on one connection, the *tracked* one, and the copy goes; of a cluster there is one to each
master, and ``redis.tracked_cluster`` says why they may be taken for one.  Replies to reads come on other
connections, so an invalidation may overtake the reply it concerns: the copy would be made after the invalidation, and
nothing would ever take it out.  Decided here, without I/O; the store of the memory tier holds the copies.

Why no copy stays older than its key:

1. **Reads.**  A counter grows with every invalidation seen, and each invalidated key remembers its number.  A read takes
   note of the counter before it is sent, and makes no copy if its key has a greater number when the reply is there.  Let a
   change C of the key follow the read at the server.  Its invalidation is seen either before the copy would be made, and
   then no copy is made, or after it, and then the copy goes.  A change that was seen before the read was sent is older
   than what the read finds.
2. **Own writes** go over the tracked connection, with ``NOLOOP``: Redis does not send this instance's own changes back,
   so that they do not take out the copy just made of them.  Redis sends one message for all changes of a key in one turn
   of its event loop, and leaves it out only if the *last* of them was ours; then the copy is right.  What somebody else
   changes afterwards is sent.  Since Redis is silent of own writes, they do themselves what an invalidation does: the copy
   goes, or is replaced, before the caller is told that the write is done (of a delete, before the command is sent); while one is under way no read makes a copy of the key; and when none is any more the
   key's number is set anew, so that no read that began before makes one.  The tracked connection answers in order, so of
   several own writes of a key the one sent last is the one that stays, and only that makes a copy, unless an
   invalidation was seen since it was sent.  A write whose caller went away is under way until its reply is there.
3. **Bounded memory.**  Only the last numbers are remembered.  When one is forgotten, whatever began before it makes no
   copy (the *floor*).  A flush of the server, a delete by pattern, a change of the mode and the loss of the tracked
   connection raise the floor to now.
4. **When tracking breaks**, copies are neither made nor read in ``Mode.REDIS`` from that moment.  If Redis then turns out to
   be alive, all of them go; if it is the outage, they are what it begins with.

Not promised where copies are served: that two reads agree while the invalidation of somebody else's write is on its way.
One that asked Redis may see the new value, and one that is answered from a copy after it the old one.

What may not enter: I/O, a clock, tasks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from .glob import MATCH_ALL
from .memory import MemoryTier
from .store import Entry

__all__ = ["MAX_REMEMBERED", "Near"]

MAX_REMEMBERED = 8192
"""Of so many keys the last change is remembered; more than usually change while one read is under way."""

_NEARLY_SAME: Final = 1.0
"""In seconds: a copy is not made anew to live this little longer."""


class Near:
    """The copies of one instance.

    Args:
        memory: holds them, and has the last word: a stamped write of a key is worth more than a copy.
        stale_ttl: how long a copy lives whose time to live in Redis is not known, in seconds.
        serves: whether reads are answered from copies while Redis answers.

    Attributes:
        counter: grows with every change seen; of the moment before a read is sent it is to be handed to :meth:`fill`.
        is_open: whether copies are made now: Redis answers, and tracking is established.
        serving: whether reads may be answered from copies now.
        hits: reads answered from a copy while Redis answered.
        invalidated: copies that Redis' invalidations took out.
        dropped: how often all copies had to go.
        touch_copy: of a key and what a read has found: the copy, if there is one and it has that value; it becomes the most
            recently used entry.
    """

    def __init__(self, memory: MemoryTier, stale_ttl: float, *, serves: bool) -> None:
        self.is_open = self.serving = False
        self.hits = 0
        self.invalidated = 0
        self.dropped = 0
        self._memory = memory
        self._keep, self._now = memory.keep, memory.now
        self._drop_copy = memory.store.drop_copy
        self.touch_copy = memory.store.touch_copy  # by itself: it is called at each read
        self._stale_ttl = stale_ttl
        self._serves = serves
        self._tracked = self._redis_answers = False
        self.counter = 0
        self._floor = 0
        self._tracked_since = 0
        self._changed: dict[str, int] = {}  # the number of a key's last change; the oldest first
        self._writing: dict[str, list[int]] = {}  # own writes under way of a key: how many, the number of the last one

    def is_writing(self, key: str) -> bool:
        """Whether an own write of the key is under way: a copy that there is has the value from before it."""
        return key in self._writing

    # -- reads

    def recall(self, key: str, now: float) -> Entry | None:
        """The copy of a key, if reads may be answered from copies now, at the moment ``now`` of the memory's clock."""
        if not self.serving:
            return None
        entry = self._memory.store.copy(key, now)
        if entry is not None:
            self.hits += 1
        return entry

    def lasting(self) -> float:
        """A copy that expires after this moment, or with the key in Redis, need not be made anew by a read of its value."""
        return self._now() + self._stale_ttl - _NEARLY_SAME

    def fill(self, key: str, value: bytes | None, begun: int) -> None:
        """A read has its reply, and there is no copy of it that will last: make one, if that is safe.

        Args:
            key: the key.
            value: what was read; None for a miss.
            begun: what the counter was before the read was sent.
        """
        if begun < self._floor or self._changed.get(key, 0) > begun or key in self._writing or not self.is_open:
            return
        if value is None:
            self._drop_copy(key)
        elif not self._keep(key, value, self._stale_ttl):
            self._change(key)  # another read found another value

    def fill_all(self, keys: Collection[str], found: Mapping[str, bytes], begun: int) -> None:
        """:meth:`fill` of every key that was read, where that is needed.

        Args:
            keys: those asked.
            found: the values.
            begun: as there.
        """
        if not self.is_open:
            return
        for key in self._memory.store.touch_copies(found, self.lasting()):
            self.fill(key, found[key], begun)
        if len(found) < len(keys):
            for key in keys:
                if key not in found:
                    self.fill(key, None, begun)

    # -- own writes

    def writing(self, keys: Iterable[str], *, drop: bool = True) -> int:
        """A write of these keys is about to be sent; to be followed by :meth:`wrote` or :meth:`failed`.

        Args:
            keys: the keys.
            drop: whether the copies go now; otherwise when it has ended, and another takes their place.
        """
        self.counter = number = self.counter + 1
        for key in keys:
            if drop:
                self._drop_copy(key)
            self._begin(key, number)
        return number

    def writing_one(self, key: str) -> int:
        """:meth:`writing` of one key, whose copy stays until then; to be followed by :meth:`wrote_one`, or :meth:`failed`."""
        self.counter = number = self.counter + 1
        self._begin(key, number)
        return number

    def wrote(self, keys: Iterable[str], number: int, values: Mapping[str, bytes], ttl: float | None) -> None:
        """The write is in Redis.

        Args:
            keys: as at :meth:`writing`.
            number: what :meth:`writing` gave.
            values: what was written, for those keys of which there is a value now.
            ttl: its time to live in seconds; None for ever.
        """
        for key in keys:
            self.wrote_one(key, number, values.get(key), ttl)

    def wrote_one(self, key: str, number: int, value: bytes | None, ttl: float | None) -> None:
        """:meth:`wrote` of one key; ``value`` is None if there is none now, or it is not known."""
        is_newest = number > self._floor and self._writing[key][1] == number and self._changed.get(key, 0) < number
        if value is None or not is_newest or not self.is_open:
            self._drop_copy(key)
        elif ttl is None:
            self._keep(key, value, self._stale_ttl, newest=True)
        else:
            self._keep(key, value, ttl, newest=True, ttl_known=True)
        self._end(key, number)

    def failed(self, keys: Iterable[str], number: int) -> None:
        """The write has ended, and who knows how."""
        for key in keys:
            self._drop_copy(key)
            self._end(key, number)

    def forget(self, pattern: str = MATCH_ALL) -> None:
        """Keys that match are about to be deleted, or were: their copies go, and no read that began before makes one."""
        self._memory.store.drop_copies(pattern)
        self.block()

    def block(self) -> None:
        """No read or write that began before makes a copy."""
        self.counter = self._floor = self.counter + 1
        self._changed.clear()

    # -- what tracking tells

    def invalidate(self, keys: list[str] | None) -> None:
        """Redis told that these keys were changed, by somebody else; None: everything was.

        Of very many at once all copies go, which takes less time than to look for those keys.
        """
        if keys is None or len(keys) > MAX_REMEMBERED:
            self.forget()
            self.dropped += 1
            return
        for key in keys:
            self._change(key)
            self.invalidated += self._drop_copy(key)

    def track(self) -> None:
        """The tracked connection is there: from now on every change is told."""
        self._track(established=True)

    def lose_track(self) -> None:
        """The tracked connection is gone."""
        self._track(established=False)

    def drop(self) -> None:
        """Redis is alive, but tracking is not: any copy may be old by now."""
        if self._memory.store.copies:
            self.forget()
            self.dropped += 1

    def follow(self, *, redis_answers: bool) -> None:
        """The mode changed."""
        self._redis_answers = redis_answers
        self._reopen()

    # -- inside

    def _begin(self, key: str, number: int) -> None:
        """An own write of a key has begun."""
        under_way = self._writing.get(key)
        if under_way is None:
            self._writing[key] = [1, number]
        else:
            under_way[0] += 1
            under_way[1] = number

    def _end(self, key: str, number: int) -> None:
        """An own write of a key has ended."""
        if number > self._tracked_since:  # otherwise it is not among those counted
            under_way = self._writing[key]
            if under_way[0] > 1:
                under_way[0] -= 1
                return
            del self._writing[key]
        self._change(key)

    def _track(self, *, established: bool) -> None:
        self._tracked = established
        self._writing.clear()
        self._reopen()
        self._tracked_since = self.counter

    def _reopen(self) -> None:
        self.is_open = self._tracked and self._redis_answers
        self.serving = self.is_open and self._serves
        self.block()

    def _change(self, key: str) -> None:
        changed = self._changed
        self.counter = number = self.counter + 1
        changed.pop(key, None)
        changed[key] = number
        if len(changed) > MAX_REMEMBERED:
            self._floor = max(self._floor, changed.pop(next(iter(changed))))
