"""The face that both tiers have: what a call needs, in keys without namespace and encoded values.

``RedisTier`` answers from Redis and raises :class:`~meshcache.errors.Unavailable` in an outage; ``MemoryTier`` answers from the
store and never fails.  Time-to-live is in whole ms, None for "never expires".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from .stamp import Stamp

__all__ = ["NO_EXPIRY", "NO_KEY", "Tier", "Writes"]

NO_KEY = -2
"""What ``ttl_ms`` says of a key that is not there; Redis' own number."""

NO_EXPIRY = -1
"""What ``ttl_ms`` says of a key that never expires; Redis' own number."""


class Writes(Protocol):
    """What can take a write of named keys."""

    async def set(self, key: str, value: bytes, ttl_ms: int | None, *, nx: bool = False, xx: bool = False) -> bool:
        """True if written; False if ``nx`` met a key or ``xx`` none."""
        ...

    async def set_many(self, values: Mapping[str, bytes], ttl_ms: int | None) -> None:
        """Write all of them."""
        ...

    async def delete(self, keys: Sequence[str]) -> int:
        """How many existed."""
        ...

    async def expire(self, key: str, ttl_ms: int | None) -> bool:
        """Give a new time to live, None for ever.  False if there is no such key."""
        ...

    async def fill(self, key: str, value: bytes, ttl_ms: int | None, began: Stamp, *, anew: bool = False) -> bool:
        """Write what a load has found that ``began`` then, unless something newer is known of the key.

        ``anew`` replaces a value that is there.  True if it was written without a stamp, so that a delete made since may
        have come first; False if it was not written, or any write or delete made since wins.
        """
        ...


class Tier(Writes, Protocol):
    """One of the two places that can answer a call."""

    async def get(self, key: str) -> bytes | None:
        """The value, or None for a miss."""
        ...

    async def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The keys found, with their values."""
        ...

    async def exists(self, keys: Sequence[str]) -> int:
        """How many of them exist; a key named twice counts twice."""
        ...

    async def ttl_ms(self, key: str) -> int:
        """What remains, or ``NO_EXPIRY``, or ``NO_KEY``."""
        ...

    async def delete_match(self, pattern: str) -> int:
        """Delete the keys that match; how many that were."""
        ...
