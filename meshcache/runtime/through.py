"""Writes of keys that memory and Redis must learn of together: into memory with a stamp, and at once to Redis under the fence.

In ``Mode.REDIS`` a key may be dirty: a write is in doubt, or a peer's is still to be brought to Redis.  A plain write would
race with that replay.  A stamped one cannot lose: whichever comes last, the newer stamp stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..errors import Unavailable
from ..memory import MemoryTier
from ..redis.fence import apply
from ..redis.link import Link
from ..redis.names import Names

__all__ = ["WriteThrough"]


class WriteThrough:
    """The writes of a :class:`~meshcache.tier.Tier`.  They never fail: what Redis does not take now stays dirty.

    Args:
        memory: gets every write first, and decides by what it holds.
        link: the way to Redis.
        names: the Redis keys.
        now: the monotonic clock, in seconds.
        fence_ttl: how long a fence is kept, in seconds.
        lost: told that Redis did not answer.
        settled: told that no key is dirty any more.
    """

    def __init__(
        self,
        memory: MemoryTier,
        link: Link,
        names: Names,
        now: Callable[[], float],
        *,
        fence_ttl: float,
        lost: Callable[[Unavailable], None],
        settled: Callable[[], None],
    ) -> None:
        self._memory = memory
        self._link = link
        self._names = names
        self._now = now
        self._fence_ttl_ms = int(fence_ttl * 1000)
        self._lost = lost
        self._settled = settled

    async def set(self, key: str, value: bytes, ttl_ms: int | None, *, nx: bool = False, xx: bool = False) -> bool:
        """True if written; ``nx`` and ``xx`` are decided by what this instance holds."""
        written = await self._memory.set(key, value, ttl_ms, nx=nx, xx=xx)
        if written:
            await self._settle([key])
        return written

    async def set_many(self, values: Mapping[str, bytes], ttl_ms: int | None) -> None:
        """Write all of them."""
        await self._memory.set_many(values, ttl_ms)
        await self._settle(values)

    async def delete(self, keys: Sequence[str]) -> int:
        """How many this instance held."""
        existed = await self._memory.delete(keys)
        await self._settle(keys)
        return existed

    async def expire(self, key: str, ttl_ms: int | None) -> bool:
        """A new time to live.  False if this instance does not hold the key."""
        known = await self._memory.expire(key, ttl_ms)
        if known:
            await self._settle([key])
        return known

    async def _settle(self, keys: Sequence[str] | Mapping[str, bytes]) -> None:
        ops = self._memory.newest(keys)
        try:
            await apply(self._link, self._names, ops, self._now(), self._fence_ttl_ms)
        except Unavailable as outage:
            self._lost(outage)
            return
        self._memory.cleaned(ops)
        if not self._memory.journal:
            self._settled()
