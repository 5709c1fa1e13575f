"""The tier that answers from Redis.  It turns calls into commands and replies into answers; what goes wrong passes through as it is.

A call over many keys is several round trips, each with the link's time limit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final

from redis._parsers.helpers import parse_info  # what redis-py's own client uses; it has no public name

from ..errors import RedisCommandError
from ..stamp import Stamp
from .link import Command, Link, Shard, pipelines
from .names import Names

__all__ = ["RedisTier", "scan_pages"]

_KEYS_AT_ONCE: Final = 500
"""Keys in one MGET, UNLINK or EXISTS, and looked at by one SCAN: well below a millisecond of Redis' time."""


class RedisTier:
    """A :class:`~meshcache.tier.Tier`; see there.  Each call may raise ``Unavailable`` or ``RedisCommandError``.

    Attributes:
        link: the way to Redis.
        name: gives the Redis key of a key.
        hits: reads that found a value.
        misses: reads that found none.
    """

    def __init__(self, link: Link, names: Names) -> None:
        self.hits = 0
        self.misses = 0
        self.link = link
        self._names = names
        self.name = names.key

    async def get(self, key: str) -> bytes | None:
        """The value, or None for a miss."""
        value: bytes | None = await self.link.execute("GET", self.name(key))
        if value is None:
            self.misses += 1
        else:
            self.hits += 1
        return value

    async def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The keys found, with their values.  What is not a string in Redis counts as not found, as MGET has it."""
        found: dict[str, bytes] = {}
        for some in _portions(keys):
            values = await self.link.execute("MGET", *self._names.keys(some))
            found |= {key: value for key, value in zip(some, values, strict=True) if value is not None}
            hits = len(values) - values.count(None)
            self.hits += hits
            self.misses += len(values) - hits
        return found

    async def set(self, key: str, value: bytes, ttl_ms: int | None, *, nx: bool = False, xx: bool = False) -> bool:
        """True if written; False if ``nx`` met a key or ``xx`` none.

        If the connection breaks and only the reply is lost, the second try answers: with ``nx`` False, then, although
        this call wrote the key.  It is never True without that.
        """
        return await self.link.execute(*self.set_command(key, value, ttl_ms, nx=nx, xx=xx)) is not None

    async def set_many(self, values: Mapping[str, bytes], ttl_ms: int | None) -> None:
        """Write all of them, in pipelines of bounded size."""
        for commands in pipelines(self.set_command(key, value, ttl_ms) for key, value in values.items()):
            _raise_refused(await self.link.execute_many(commands))

    async def delete(self, keys: Sequence[str]) -> int:
        """How many existed.  May tell of fewer if the connection broke and the second try answered."""
        return await self._sum("UNLINK", keys)

    async def exists(self, keys: Sequence[str]) -> int:
        """How many of them exist; a key named twice counts twice."""
        return await self._sum("EXISTS", keys)

    async def ttl_ms(self, key: str) -> int:
        """What remains, or ``NO_EXPIRY``, or ``NO_KEY``."""
        return int(await self.link.execute("PTTL", self.name(key)))

    async def expire(self, key: str, ttl_ms: int | None) -> bool:
        """Give a new time to live, None for ever.  False if there is no such key."""
        name = self.name(key)
        if ttl_ms is not None:
            return bool(await self.link.execute("PEXPIRE", name, ttl_ms))
        # PERSIST says 0 of a key without a time to live, too.
        replies = await self.link.execute_many([("PERSIST", name), ("EXISTS", name)])
        _raise_refused(replies)
        return any(replies)

    async def fill(self, key: str, value: bytes, ttl_ms: int | None, began: Stamp, *, anew: bool = False) -> bool:
        """Write what a load has found; without ``anew`` only if the key does not exist.  Redis asks for no stamp here."""
        return await self.set(key, value, ttl_ms, nx=not anew)

    def scan(self, pattern: str) -> AsyncIterator[str]:
        """The keys that match; one may come twice, when Redis resizes its table or slots move meanwhile (see SCAN).

        Keys that are not valid UTF-8 are not ours, and are left out.
        """
        return _Keys(scan_pages(self.link, self._names, pattern), self._names)

    async def delete_match(self, pattern: str) -> int:
        """Delete the keys that match, page by page; how many that were."""
        deleted = 0
        async for page in scan_pages(self.link, self._names, pattern):
            ours = [redis_key for redis_key in page if self._names.strip(redis_key) is not None]
            if ours:
                deleted += await self.link.execute("UNLINK", *ours)
        return deleted

    # -- beside the face of a tier

    async def ping(self) -> None:
        """Returns if Redis answers."""
        await self.link.execute("PING")

    async def info(self, section: str | None = None) -> dict[str, Any]:
        """What INFO says of one section or of all, as redis-py's ``info()`` gives it."""
        text = await self.link.execute("INFO", *([] if section is None else [section]))
        info: dict[str, Any] = parse_info(text)  # type: ignore[no-untyped-call]
        return info

    # -- inside

    async def _sum(self, command: str, keys: Sequence[str]) -> int:
        return sum([int(await self.link.execute(command, *map(self.name, some))) for some in _portions(keys)])

    def set_command(self, key: str, value: bytes, ttl_ms: int | None, *, nx: bool = False, xx: bool = False) -> Command:
        """The command of a :meth:`set`; its reply is nil if ``nx`` or ``xx`` forbade it."""
        name = self.name(key)
        command: Command = ("SET", name, value) if ttl_ms is None else ("SET", name, value, "PX", ttl_ms)
        if nx:
            command = (*command, "NX")
        if xx:
            command = (*command, "XX")
        return command


def scan_pages(link: Link, names: Names, pattern: str) -> AsyncIterator[list[bytes]]:
    """The Redis keys that match, some hundred at a time; never blocks Redis for long.

    Of a cluster, server by server.  A key that moves from one that was not scanned yet to one that was would be missed: so
    those that take slots are scanned after those that have them, and those whose slots have changed meanwhile once more, until
    none has.  No key is missed that was there all the while; where slots move on and on, the scan goes on as long.
    """
    return _Pages(link, names.pattern(pattern))


# Not generators: one that is left early makes trio warn.


class _Pages(AsyncIterator[list[bytes]]):
    def __init__(self, link: Link, pattern: bytes) -> None:
        self._link = link
        self._pattern = pattern
        self._scanning: Link | None = None
        self._cursor = b"0"
        self._known: Sequence[Shard] = ()
        self._to_scan: deque[Shard] = deque()

    async def __anext__(self) -> list[bytes]:
        while (server := self._scanning or await self._next_server()) is not None:
            self._cursor, page = await server.execute(
                "SCAN", self._cursor, "MATCH", self._pattern, "COUNT", _KEYS_AT_ONCE
            )
            self._scanning = None if self._cursor == b"0" else server
            if page:
                return list(page)
        raise StopAsyncIteration

    async def _next_server(self) -> Link | None:
        if not self._to_scan:
            before, self._known = self._known, await self._link.shards()
            self._to_scan.extend(_yet_to_scan(self._known, before))
        return self._to_scan.popleft().link if self._to_scan else None


def _yet_to_scan(shards: Sequence[Shard], scanned: Sequence[Shard]) -> list[Shard]:
    """Those that have changed since they were scanned, and after each those that take slots from it.

    Twice who comes before one that it takes from: two servers may take slots from each other.
    """
    changed = [shard for shard in shards if shard not in scanned]
    for shard in changed:  # it grows meanwhile
        changed += [taker for taker in shards if taker not in changed and taker.takes_from(shard)]
    ordered = [shard for shard in shards if shard in changed]
    again = [taker for at, taker in enumerate(ordered) if any(map(taker.takes_from, ordered[at + 1 :]))]
    return [*ordered, *again]


class _Keys(AsyncIterator[str]):
    def __init__(self, pages: AsyncIterator[list[bytes]], names: Names) -> None:
        self._pages = pages
        self._names = names
        self._page: list[bytes] = []

    async def __anext__(self) -> str:
        while True:
            while self._page:
                key = self._names.strip(self._page.pop())
                if key is not None:
                    return key
            self._page = await anext(self._pages)


def _portions(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        yield keys[start : start + _KEYS_AT_ONCE]


def _raise_refused(replies: Sequence[object]) -> None:
    for reply in replies:
        if isinstance(reply, RedisCommandError):
            raise reply
