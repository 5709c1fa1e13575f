"""The Redis tier with a near cache before it: every copy is made here, around the call that it is a copy of.

What is safe is decided in ``near``; this file says when which call begins and ends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import TypeVar

from ..near import Near
from ..redis.link import Link
from ..redis.tier import RedisTier
from ..redis.tracking import TrackedLink
from ..stamp import Stamp

__all__ = ["NearTier", "settled"]

T = TypeVar("T")


class NearTier:
    """A :class:`~meshcache.tier.Tier`.  What it answers and raises is what Redis does.

    Args:
        near: decides which copies are made.
        reads: asks Redis, over connections of its own.
        writes: the same tier over ``link``.
        link: carries the writes in order.
    """

    def __init__(self, near: Near, reads: RedisTier, writes: RedisTier, link: TrackedLink) -> None:
        self._near = near
        self._reads = reads
        self._writes = writes
        self._link = link

    async def get(self, key: str) -> bytes | None:
        """The value, or None for a miss."""
        near, reads = self._near, self._reads
        begun = near.counter
        # As in RedisTier.get, but written out: a coroutine less for what is called most.
        value: bytes | None = await reads.link.execute("GET", reads.name(key))
        if value is None:
            reads.misses += 1
        else:
            reads.hits += 1
            copy = near.touch_copy(key, value)
            if copy is not None and (copy.ttl_known or copy.expires_at > near.lasting()):
                return value  # the usual case: a key that is read again and again
        near.fill(key, value, begun)
        return value

    async def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The keys found, with their values."""
        begun = self._near.counter
        found = await self._reads.get_many(keys)
        self._near.fill_all(keys, found, begun)
        return found

    async def exists(self, keys: Sequence[str]) -> int:
        """How many of them exist: Redis knows."""
        return await self._reads.exists(keys)

    async def ttl_ms(self, key: str) -> int:
        """What remains: Redis knows."""
        return await self._reads.ttl_ms(key)

    async def set(self, key: str, value: bytes, ttl_ms: int | None, *, nx: bool = False, xx: bool = False) -> bool:
        """True if written.  If not, the copy is gone all the same: it may not be what Redis has."""
        near = self._near
        number = near.writing_one(key)
        try:  # as in settled() and RedisTier.set, two coroutines less
            reply = await self._link.execute(*self._writes.set_command(key, value, ttl_ms, nx=nx, xx=xx))
        except BaseException:
            fail(near, self._link, (key,), number)
            raise
        written = reply is not None
        near.wrote_one(key, number, value if written else None, _seconds(ttl_ms))
        return written

    async def set_many(self, values: Mapping[str, bytes], ttl_ms: int | None) -> None:
        """Write all of them."""
        keys = tuple(values)
        number = self._near.writing(keys, drop=False)
        await settled(self._near, self._link, self._writes.set_many(values, ttl_ms), keys, number)
        self._near.wrote(keys, number, values, _seconds(ttl_ms))

    async def delete(self, keys: Sequence[str]) -> int:
        """How many existed."""
        number = self._near.writing(keys)
        existed = await settled(self._near, self._link, self._writes.delete(keys), keys, number)
        self._near.wrote(keys, number, {}, None)
        return existed

    async def expire(self, key: str, ttl_ms: int | None) -> bool:
        """A new time to live.  The copy goes afterwards: it has another one, but is all there is if Redis is gone."""
        number = self._near.writing((key,), drop=False)
        known = await settled(self._near, self._link, self._writes.expire(key, ttl_ms), (key,), number)
        self._near.wrote((key,), number, {}, None)
        return known

    async def fill(self, key: str, value: bytes, ttl_ms: int | None, began: Stamp, *, anew: bool = False) -> bool:
        """Write what a load has found."""
        return await self.set(key, value, ttl_ms, nx=not anew)

    async def delete_match(self, pattern: str) -> int:
        """Delete the keys that match.  Copies go before, and once more after: reads may have made new ones meanwhile."""
        self._near.forget(pattern)
        try:
            return await self._reads.delete_match(pattern)
        finally:
            self._near.forget(pattern)


async def settled(near: Near, link: Link, write: Awaitable[T], keys: Sequence[str], number: int) -> T:
    """The answer to a write.  Without one (the caller was cancelled, Redis refused) it is under way until all that was
    sent so far is answered."""
    try:
        return await write
    except BaseException:
        fail(near, link, keys, number)
        raise


def fail(near: Near, link: Link, keys: Sequence[str], number: int) -> None:
    """A write has no answer."""
    if isinstance(link, TrackedLink):
        link.when_answered(lambda: near.failed(keys, number))
    else:
        near.failed(keys, number)


def _seconds(ttl_ms: int | None) -> float | None:
    return None if ttl_ms is None else ttl_ms / 1000
