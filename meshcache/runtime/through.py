"""Writes with a stamp while Redis answers: under the fence to Redis, and then to the peers.

A write goes this way where a plain one would be wrong: somebody may have writes that Redis lacks and bring them there
later, or this instance itself still has to bring an older write of the key there.  Whichever comes last, the newer stamp stays.
Redis decides, ``nx`` and ``xx`` too; only of a key whose last write by this instance is in doubt, memory knows better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from ..counters import Way
from ..errors import RedisCommandError, Unavailable
from ..memory import MemoryTier
from ..near import Near
from ..redis.count import Counted, count
from ..redis.fence import Applied, Condition, Expires, Outcome, expire, publish_sweeps, sweep, write
from ..redis.link import Link
from ..redis.names import Names
from ..stamp import Kind, Op, Stamp
from .near_tier import settled

__all__ = ["WriteThrough"]

T = TypeVar("T")

_TRIES: Final = 3
"""So often is a write stamped anew that a fence refused: this clock was behind that of somebody it does not hear."""


class WriteThrough:
    """The writes of a :class:`~meshcache.tier.Tier`.  They raise no ``Unavailable``: what Redis does not answer is in memory.

    Args:
        memory: makes the stamps, tells the peers, and takes what is in doubt.
        near: the copies.
        link: the way to Redis; that of the tracked connection where there is one.
        names: the Redis keys.
        now: the monotonic clock, in seconds.
        fence_ttl: how long a fence is kept, in seconds.
        epoch: grows with every change of the mode.
        lost: told that Redis did not answer a call that began in this epoch.
        answered: told that Redis answered.
        wrote: told of each write that is in Redis.
        counts_plainly: told of each increment that is about to be sent; whether the peers need not know.
    """

    def __init__(
        self,
        *,
        memory: MemoryTier,
        near: Near,
        link: Link,
        names: Names,
        now: Callable[[], float],
        fence_ttl: float,
        epoch: Callable[[], int],
        lost: Callable[[Unavailable, int], None],
        answered: Callable[[], None],
        wrote: Callable[[Op], None],
        counts_plainly: Callable[[], bool],
    ) -> None:
        self._memory = memory
        self._near = near
        self._link = link
        self._names = names
        self._now = now
        self._fence_ttl_ms = int(fence_ttl * 1000)
        self._epoch = epoch
        self._lost = lost
        self._answered = answered
        self._wrote = wrote
        self._counts_plainly = counts_plainly

    async def set(self, key: str, value: bytes, ttl_ms: int | None, *, nx: bool = False, xx: bool = False) -> bool:
        """True if written."""
        condition: Condition = "NX" if nx else "XX" if xx else ""
        if condition and self._memory.is_in_doubt(key):
            if (await self._memory.exists([key]) > 0) == nx:
                return False
            condition = ""
        op = self._memory.draft(Kind.SET, key, value, ttl_ms)
        outcomes = await self._send([op], condition)
        if outcomes is None:
            return await self._memory.set(key, value, ttl_ms, nx=nx, xx=xx)
        return outcomes[0] is not None

    async def set_many(self, values: Mapping[str, bytes], ttl_ms: int | None) -> None:
        """Write all of them."""
        ops = [self._memory.draft(Kind.SET, key, value, ttl_ms) for key, value in values.items()]
        if await self._send(ops) is None:
            await self._memory.set_many(values, ttl_ms)

    async def delete(self, keys: Sequence[str]) -> int:
        """How many existed."""
        known = {key: await self._memory.exists([key]) > 0 for key in keys if self._memory.is_in_doubt(key)}
        outcomes = await self._send([self._memory.draft(Kind.DELETE, key) for key in keys])
        if outcomes is None:
            return await self._memory.delete(keys)
        return sum(
            known.get(key, isinstance(outcome, Applied) and outcome.existed)
            for key, outcome in zip(keys, outcomes, strict=True)
        )

    async def expire(self, key: str, ttl_ms: int | None) -> bool:
        """A new time to live.  False if there is no such key."""
        if self._memory.is_in_doubt(key):
            return await self._memory.expire(key, ttl_ms)
        number = self._near.writing((key,), drop=False)
        epoch = self._epoch()
        give = expire(self._link, self._names, key, ttl_ms, self._memory.node_id, self._fence_ttl_ms)
        try:
            found = await settled(self._near, self._link, give, (key,), number)
        except Unavailable as outage:
            self._lost(outage, epoch)
            return await self._memory.expire(key, ttl_ms)
        self._near.wrote((key,), number, {}, None)
        if isinstance(found, Expires):
            # No newer write, so nothing that Redis might forget: the peers are told, and that is all.
            self._memory.tell(Kind.SET, key, found.stamp, found.value, ttl_ms)
        return bool(found)

    async def fill(self, key: str, value: bytes, ttl_ms: int | None, began: Stamp, *, anew: bool = False) -> bool:
        """What a load has found, with the stamp of the moment when it began: what is newer stays, in memory and in Redis.

        Always False.
        """
        if not self._memory.is_outdated(key, began):
            op = self._memory.draft(Kind.SET, key, value, ttl_ms, began)
            condition: Condition = "" if anew or self._memory.is_in_doubt(key) else "NX"
            if await self._send([op], condition, tries=0) is None:
                await self._memory.fill(key, value, ttl_ms, began, anew=anew)
        return False

    async def incr(self, key: str, amount: int, ttl_ms: int | None) -> int:
        """The counter after the increment, which Redis adds once, however often it must be sent.

        Raises:
            RedisCommandError: it is no integer, or would not fit into 64 bit; or the user may not.
        """
        way, epoch = Way.PLAIN if self._counts_plainly() else Way.TOLD, self._epoch()
        op = self._memory.count(key, amount, ttl_ms, way)
        number = self._near.writing((key,), drop=False)
        try:
            counted = await settled(self._near, self._link, self._count(op, amount, ttl_ms), (key,), number)
        except Unavailable as outage:
            self._lost(outage, epoch)
            return self._memory.count_doubted(op, amount)
        except RedisCommandError:
            self._memory.count_refused(op)
            raise
        except BaseException:  # the caller is gone; it may have been counted
            self._memory.count_doubted(op, None)
            raise
        self._answered()
        if counted.fence is not None:
            self._memory.observe(counted.fence)
        self._memory.counted(op, counted.value, counted.left_ms, way, is_outdated=counted.fence is not None)
        left = None if counted.left_ms is None else counted.left_ms / 1000
        self._near.wrote((key,), number, {key: b"%d" % counted.value}, left)
        return counted.value

    async def delete_match(self, pattern: str) -> int:
        """Delete the keys that match; how many that were.  The others are told first: a key of theirs may be older."""
        op = self._memory.draft(Kind.SWEEP, pattern)
        self._near.forget(pattern)
        epoch = self._epoch()
        try:
            await publish_sweeps(self._link, self._names, {pattern: op.stamp}, self._fence_ttl_ms)
            deleted = await sweep(self._link, self._names, pattern, op.stamp, self._fence_ttl_ms)
        except Unavailable as outage:
            self._lost(outage, epoch)
            return await self._memory.delete_match(pattern)
        except BaseException:
            self._memory.doubt([op])
            raise
        finally:
            self._near.forget(pattern)
        self._settle(op)
        return deleted

    # -- inside

    async def _send(self, ops: list[Op], condition: Condition = "", tries: int = _TRIES) -> list[Outcome] | None:
        """The outcomes; None if Redis did not answer."""
        keys, epoch = tuple(op.key for op in ops), self._epoch()
        number = self._near.writing(keys, drop=any(op.kind is Kind.DELETE for op in ops))
        try:
            sent = await settled(self._near, self._link, self._write(ops, condition, tries), keys, number)
        except Unavailable as outage:
            self._lost(outage, epoch)
            return None
        except RedisCommandError:
            raise  # nothing has changed
        except BaseException:  # the caller is gone; the write may have been made
            self._memory.doubt(ops)
            raise
        copies: dict[str, bytes] = {}
        for op, outcome in sent:
            if isinstance(outcome, Applied):
                self._settle(op)
                if op.kind is Kind.SET:
                    copies[op.key] = op.value
        remaining = min((op.expires_at for op, _ in sent), default=0.0) - self._now()
        self._near.wrote(keys, number, copies, None if remaining == float("inf") else remaining)
        return [outcome for _, outcome in sent]

    async def _count(self, op: Op, amount: int, ttl_ms: int | None) -> Counted:
        return await count(
            self._link, self._names, op, amount, now=self._now(), life_ms=self._fence_ttl_ms, ttl_ms=ttl_ms
        )

    async def _write(self, ops: list[Op], condition: Condition, tries: int) -> list[tuple[Op, Outcome]]:
        outcomes = await write(self._link, self._names, ops, self._now(), self._fence_ttl_ms, condition)
        for _ in range(tries):
            behind = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, bytes)]
            if not behind:
                break
            for i in behind:
                self._memory.observe(Stamp(outcomes[i]))  # type: ignore[arg-type]
                ops[i] = ops[i]._replace(stamp=self._memory.tick())
            again = [ops[i] for i in behind]
            repeated = await write(self._link, self._names, again, self._now(), self._fence_ttl_ms, condition)
            for i, outcome in zip(behind, repeated, strict=True):
                outcomes[i] = outcome
        self._answered()
        for outcome in outcomes:
            if isinstance(outcome, RedisCommandError):
                raise outcome
        return list(zip(ops, outcomes, strict=True))

    def _settle(self, op: Op) -> None:
        self._memory.settled(op)
        self._wrote(op)
