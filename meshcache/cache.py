"""The public face: checks what a caller passes, encodes it, and asks the tier that the mode names.

The way of a call is here and short; sockets, tasks and timers are in ``runtime``.  There is one place where a call leaves
Redis for memory: :meth:`MeshCache._answer`; :meth:`MeshCache.get` has it written out.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from inspect import isawaitable
from math import ceil
from sys import getsizeof
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, cast, overload
from weakref import WeakSet

import anyio

from .arguments import check_amount, check_key, check_keys, check_pattern, ttl_to_ms
from .cached import CachedFunction, Decorator, check_unambiguous
from .discovery.sources import make_sources
from .errors import ClosedError, CodecError, Unavailable
from .events import Event, Mode, Peer
from .glob import MATCH_ALL
from .loading import Loading
from .loops import give_turn
from .options import DEFAULT_URL, OptionArguments, Options
from .redis.place import read_place
from .stamp import Stamp
from .store import NOT_DECODED, Entry
from .tier import NO_EXPIRY, NO_KEY, Tier, Writes

if TYPE_CHECKING:
    from .redis.client import RedisClient
    from .redis.tier import RedisTier
    from .runtime.runtime import Runtime
    from .runtime.surroundings import Surroundings
    from .runtime.through import WriteThrough

__all__ = ["MeshCache"]

T = TypeVar("T")

_MEMORY_CALLS_A_TURN = 64
_NOTHING = object()

_IMMUTABLE = frozenset({bytes, str, int, float, bool, type(None), datetime})
"""Of exactly these types; a subclass may have attributes."""

_SHARED_BYTES = 1024
"""The longest encoded value that memory keeps a second time, decoded.  More would cost more memory than it saves time."""

_OPEN: WeakSet[MeshCache] = WeakSet()


def _abandon_all() -> None:
    for cache in list(_OPEN):
        cache._abandon()
    _OPEN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)


class MeshCache:
    """A cache in Redis that outlives its Redis.

    It answers from Redis while Redis answers, and from memory otherwise; the instances of one ``namespace`` tell each
    other what they write in an outage, and Redis gets it afterwards.  A caller never sees an outage: only a value or a
    miss.  Use it as ``async with MeshCache(...) as cache``, on asyncio or trio; one event loop a cache.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://host1,host2/service`` or
            ``redis+cluster://host1,host2``; or a ready client of redis-py, of which the way to Redis is taken and nothing
            else; or None for no Redis at all, only memory and mesh.
        options: see :class:`~meshcache.options.Options`.

    Raises:
        ConfigError: the URL or an option is wrong; nothing was started.
    """

    def __init__(self, url: str | RedisClient | None = DEFAULT_URL, **options: Unpack[OptionArguments]) -> None:
        self._options = Options.of(options)
        self._place, self._shown_as = read_place(url, self._options.credential_provider)
        self._sources = make_sources(self._options.discovery, self._options.interfaces)
        self._codec = self._options.make_codec()
        default_ttl = self._options.default_ttl
        self._default_ttl_ms = None if default_ttl is None else ttl_to_ms(default_ttl)
        self._runtime: Runtime | None = None
        self._closed = False
        self._memory_calls = 0
        self._decorated: set[object] = set()

    def _surroundings(self) -> Surroundings:
        """The world; a simulation has another."""
        from .runtime.surroundings import Surroundings

        return Surroundings()

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """A cache by the environment: ``MESHCACHE_URL``, ``MESHCACHE_NAMESPACE`` and so on, one variable an option.

        Args:
            overrides: arguments of ``MeshCache`` that win over the environment.

        Raises:
            ConfigError: a variable or an argument is wrong.
        """
        return cls(**{**Options.environment(), **overrides})

    def __repr__(self) -> str:
        state = "closed" if self._closed else "not open" if self._runtime is None else str(self._runtime.mode)
        return f"<MeshCache {self._options.namespace!r} at {self._shown_as}: {state}>"

    # -- opening and closing

    async def __aenter__(self) -> Self:
        """Start.  Returns within ``op_timeout`` and a little, whether Redis is there or not.

        Raises:
            ClosedError: it was open before; make a new one.
            ConfigError: an interface or the port cannot be used.
        """
        if self._closed or self._runtime is not None:
            raise ClosedError("this cache has been closed or is open already; make a new MeshCache")
        from .runtime.runtime import Runtime  # imports redis-py: not a cost of `import meshcache`

        self._runtime = Runtime(self._place, self._shown_as, self._options, self._sources, self._surroundings())
        self._loading = Loading(self._runtime.loads, _Shelf(self))
        _OPEN.add(self)
        try:
            await self._runtime.start()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Say goodbye to the peers and let go of every connection.  Calls under way are answered; closing twice is fine."""
        runtime, self._runtime = self._runtime, None
        self._closed = True
        if runtime is not None:
            await runtime.stop()

    def _abandon(self) -> None:
        """This is a forked child: two processes must not speak as one instance, nor read from one connection."""
        runtime, self._runtime = self._runtime, None
        self._closed = True
        if runtime is not None:
            runtime.abandon()

    # -- one key

    async def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or ``default`` for a miss.

        Raises:
            TypeError, ValueError: the key is wrong.
            CodecError: what is stored was not written by this codec.
            RedisCommandError: Redis refuses it for good (``WRONGTYPE``, no permission).
            ClosedError: the cache is not open.
        """
        runtime = self._runtime
        if runtime is not None:
            entry = runtime.recall(key, runtime.now())
            if entry is not None:
                self._memory_calls = calls = self._memory_calls + 1
                if not calls % _MEMORY_CALLS_A_TURN:
                    await give_turn()
                value = entry.decoded
                return self._value_of(entry) if value is NOT_DECODED else value
        key = check_key(key)
        runtime = self._open()
        if runtime.front is not None and runtime.mode is Mode.REDIS and not runtime.memory.is_in_doubt(key):
            # As in _answer, but written out: a coroutine and a function less for what is called most.
            epoch = runtime.epoch
            try:
                data = await runtime.front.get(key)
            except Unavailable as outage:
                runtime.lost(outage, epoch)
            else:
                runtime.answered()
                return default if data is None else self._decode(data)
        await self._take_turns()
        data = await runtime.memory.get(key)
        return default if data is None else self._decode(data)

    async def set(
        self, key: str, value: Any, *, ttl: float | timedelta | None = None, nx: bool = False, xx: bool = False
    ) -> bool:
        """Write a value.

        Args:
            key: 1 to 1 024 bytes as UTF-8.
            value: what the codec takes.
            ttl: time to live in seconds, above 0; None for ``default_ttl``; ``math.inf`` for ever.
            nx: only if the key does not exist.  In an outage this instance decides by what it holds: not a lock.
            xx: only if the key exists; the same holds.

        Returns:
            True if written; False if ``nx`` or ``xx`` forbade it.

        Raises:
            TypeError, ValueError: the key or ttl is wrong, or both ``nx`` and ``xx`` are given.
            CodecError: the codec does not take the value.
            RedisCommandError: Redis refuses it for good.
            ClosedError: the cache is not open.
        """
        key, data, ttl_ms = check_key(key), self._encode(value), self._ttl_ms(ttl)
        if nx and xx:
            raise ValueError("nx and xx exclude each other: give one of them")
        return await self._write(lambda tier: tier.set(key, data, ttl_ms, nx=nx, xx=xx), key)

    async def setex(self, key: str, ttl: float | timedelta, value: Any) -> bool:
        """Write a value with a time to live, in the order of arguments that Redis has.  As :meth:`set`."""
        ttl_to_ms(ttl)
        return await self.set(key, value, ttl=ttl)

    async def delete(self, *keys: str) -> int:
        """Delete keys; how many existed.  Raises as :meth:`get`, but never ``CodecError``."""
        return await self.delete_many(keys)

    async def exists(self, *keys: str) -> int:
        """How many of the keys exist; one named twice counts twice.  Raises as :meth:`delete`."""
        return sum(await self._read_many(lambda tier, some: tier.exists(some), check_keys(keys)))

    async def ttl(self, key: str) -> int:
        """What remains of a key's time to live, in whole seconds, rounded up; -1 for ever, -2 if there is no such key.

        Raises as :meth:`delete`.
        """
        key = check_key(key)
        remaining = await self._read(lambda tier: tier.ttl_ms(key), key)
        return remaining if remaining in (NO_EXPIRY, NO_KEY) else ceil(remaining / 1000)

    async def expire(self, key: str, ttl: float | timedelta) -> bool:
        """Give a key a new time to live, in seconds; ``math.inf`` for ever.  False if there is no such key.

        Raises as :meth:`delete`, and TypeError or ValueError for a wrong ttl.
        """
        key, ttl_ms = check_key(key), ttl_to_ms(ttl)
        return await self._write(lambda tier: tier.expire(key, ttl_ms), key)

    async def incr(self, key: str, amount: int = 1, *, ttl: float | timedelta | None = None) -> int:
        """Add to a counter, which begins at 0.

        Redis counts it once, whatever happens on the way.  In an outage the instances tell each other what they count;
        each sees what it has heard of, and Redis gets the sum.

        Args:
            key: as for :meth:`set`.  What ``set`` wrote can be counted if it is an int (with codec "text" or "bytes", its digits).
            amount: what to add; may be negative.
            ttl: time to live in seconds of a counter that is made by this; as for :meth:`set`.  One that exists keeps its own.

        Returns:
            The counter after that.

        Raises:
            TypeError, ValueError: the key, amount or ttl is wrong.
            RedisCommandError: what is stored is no integer, or the sum does not fit into 64 bit, in an outage too; or Redis
                refuses it for good.  Nothing was changed.
            ClosedError: the cache is not open.
        """
        key, amount, ttl_ms = check_key(key), check_amount(amount), self._ttl_ms(ttl)
        if self._open().loads:
            await self._make_way((key,))
        through = self._write_through()
        if through is not None:
            return await through.incr(key, amount, ttl_ms)
        await self._take_turns()
        return await self._open().memory.incr(key, amount, ttl_ms)

    async def decr(self, key: str, amount: int = 1, *, ttl: float | timedelta | None = None) -> int:
        """Subtract from a counter.  As :meth:`incr`."""
        return await self.incr(key, -check_amount(amount), ttl=ttl)

    # -- many keys

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The keys found, with their values, in the order asked.  Raises as :meth:`get`."""
        asked = check_keys(keys)
        runtime = self._open()
        values: dict[str, Any] = {}
        if runtime.mode is not Mode.REDIS or runtime.near.serving:
            recall, now = runtime.recall, runtime.now()
            values = {key: self._value_of(entry) for key in asked if (entry := recall(key, now)) is not None}
            await self._take_turns()
        rest = [key for key in asked if key not in values] if values else asked
        if not rest:
            return values
        parts = [self._decode_all(part) for part in await self._read_many(lambda tier, some: tier.get_many(some), rest)]
        if len(parts) == 1 and not values:
            return parts[0]
        for part in parts:
            values |= part
        return {key: values[key] for key in asked if key in values}

    async def set_many(self, values: Mapping[str, Any], ttl: float | timedelta | None = None) -> None:
        """Write many values with one time to live.  All are checked and encoded before the first is written.

        Raises as :meth:`set`.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"values must be a mapping of keys to values, not {type(values).__name__}")
        ttl_ms = self._ttl_ms(ttl)
        encoded = {check_key(key): self._encode(value) for key, value in values.items()}
        await self._write_many(
            lambda tier, some: tier.set_many({key: encoded[key] for key in some}, ttl_ms), list(encoded)
        )

    async def delete_many(self, keys: Iterable[str]) -> int:
        """Delete keys; how many existed.  Raises as :meth:`delete`."""
        keys, loads = check_keys(keys), self._open().loads
        try:
            return sum(await self._write_many(lambda tier, some: tier.delete(some), keys))
        finally:
            loads.changed(keys)  # one may have asked for a key before it was gone

    # -- what is loaded

    @overload
    async def get_or_set(
        self, key: str, loader: Callable[[], Awaitable[T]], ttl: float | timedelta | None = None
    ) -> T: ...
    @overload
    async def get_or_set(self, key: str, loader: Callable[[], T], ttl: float | timedelta | None = None) -> T: ...
    async def get_or_set(self, key: str, loader: Callable[[], Any], ttl: float | timedelta | None = None) -> Any:
        """The value of a key; if there is none, what ``loader()`` gives, which is written.

        Many callers at once make one load on this instance: one calls its loader, the others wait for the result.  If the
        one is cancelled, another calls its own; if the loader raises, all of them get that error, and nothing is written.
        What it found is not written over a write or delete of the key made since, if this instance can know of it;
        ``docs/caching.md`` says when it does.

        Args:
            key: 1 to 1 024 bytes as UTF-8.
            loader: takes no arguments.  An async function, or a plain one that does not block: it runs in the event loop.
            ttl: as for :meth:`set`.

        Returns:
            The value as the codec gives it back, for the first caller as for every later one.

        Raises:
            TypeError, ValueError: the key, loader or ttl is wrong.
            RuntimeError: the loader asks for its own key, and would wait for itself.
            CodecError: the codec does not take what was loaded, or what is stored was not written by this codec.
            RedisCommandError, ClosedError: as :meth:`get`.
            Exception: what the loader raises.
        """
        ttl_ms = self._ttl_ms(ttl)
        load = self._encoded(loader)
        value = await self.get(key, _NOTHING)
        return self._decode(await self._loading.get(key, load, ttl_ms)) if value is _NOTHING else value

    def cached(self, *, ttl: float | timedelta | None = None, key: str | Callable[..., str] | None = None) -> Decorator:
        """Keep the results of a function, async or not: ``@cache.cached(ttl=60, key="user:{id}")``.

        The cache need not be open yet; only a call needs it.  The function becomes async; it is called as for
        :meth:`get_or_set`.  It has ``.invalidate(...)``, ``.refresh(...)`` and ``.key(...)``, which take its arguments.

        Args:
            ttl: as for :meth:`set`.
            key: the key of a call, with the names of parameters in braces; what it does not name makes no difference.  Or a
                function of the same arguments.  None: module and name of the function, and all its arguments.

        Raises:
            TypeError, ValueError: ttl or key is wrong, or does not fit the function.
        """
        self._ttl_ms(ttl)

        def decorate(function: Callable[..., Any]) -> CachedFunction[..., Any]:
            if key is None:
                check_unambiguous(function, self._decorated)
            return CachedFunction(
                function,
                key,
                get_or_set=partial(self.get_or_set, ttl=ttl),
                refresh=partial(self._refresh, ttl=ttl),
                delete=self.delete,
            )

        return cast("Decorator", decorate)

    async def _refresh(self, key: str, loader: Callable[[], Any], ttl: float | timedelta | None) -> Any:
        """Load now, and replace what is there."""
        key, ttl_ms = check_key(key), self._ttl_ms(ttl)
        self._open()
        return self._decode(await self._loading.refresh(key, self._encoded(loader), ttl_ms))

    # -- patterns

    def scan(self, pattern: str = MATCH_ALL) -> AsyncIterator[str]:
        """Iterate over the keys that match Redis' glob pattern, each once, without the namespace.

        A key that comes or goes meanwhile may or may not be among them.  In an outage: the keys that this instance holds.
        Raises as :meth:`delete`.
        """
        return _Scan(self._open(), self._redis_now(), check_pattern(pattern))

    async def keys(self, pattern: str = MATCH_ALL) -> list[str]:
        """The keys that match, as :meth:`scan` gives them."""
        return [key async for key in self.scan(pattern)]

    async def delete_match(self, pattern: str) -> int:
        """Delete every key that matches Redis' glob pattern; how many existed.  Raises as :meth:`delete`."""
        pattern = check_pattern(pattern)
        loads = self._open().loads
        if loads:
            await self._make_way(loads.matching(pattern))
        runtime, through = self._open(), self._write_through()
        try:
            if through is not None and (runtime.memory.journal or not runtime.sweeps_plainly(pattern)):
                return await through.delete_match(pattern)
            return await self._answer(lambda tier: tier.delete_match(pattern))
        finally:
            loads.changed(loads.matching(pattern))

    async def clear(self) -> int:
        """Delete every key of the namespace, and no other; how many existed.  Raises as :meth:`delete`."""
        return await self.delete_match(MATCH_ALL)

    # -- what it tells about itself

    @property
    def mode(self) -> Mode:
        """Which tier answers now.  ``Mode.MEMORY`` for a cache that is not open."""
        return Mode.MEMORY if self._runtime is None else self._runtime.mode

    @property
    def is_available(self) -> bool:
        """Whether Redis answers.  The cache itself answers either way."""
        return self.mode is Mode.REDIS

    @property
    def node_id(self) -> str:
        """This instance in the mesh: 16 hexadecimal digits, new at every start.  Raises ``ClosedError``."""
        return f"{self._open().node_id:016x}"

    @property
    def peers(self) -> list[Peer]:
        """The other instances of the namespace that this one hears."""
        return [] if self._runtime is None else self._runtime.peers

    async def wait_for_peers(self, count: int, timeout: float = 5.0) -> list[Peer]:
        """Wait until there are ``count`` peers.

        Returns:
            The peers.

        Raises:
            TimeoutError: there are fewer after ``timeout`` seconds.
            ClosedError: the cache is not open, or was closed meanwhile.
        """
        runtime = self._open()
        try:
            with anyio.fail_after(timeout):
                await runtime.wait_for_peers(count)
        except TimeoutError:
            raise TimeoutError(f"{len(self.peers)} of {count} peers after {timeout:g} s") from None
        except StopAsyncIteration:
            raise ClosedError("the cache was closed while it waited for peers") from None
        return self.peers

    def events(self) -> AsyncIterator[Event]:
        """Iterate over what happens from now on: changes of mode, peers that come and go.  Ends when the cache closes.

        An iterator that is not read for 1 000 events loses the oldest.  Raises ``ClosedError`` if the cache is not open.
        """
        return self._open().events()

    def stats(self) -> dict[str, Any]:
        """Counters and state, as JSON takes them; ``docs/operations.md`` explains each.  Raises ``ClosedError``."""
        return self._open().stats()

    async def ping(self) -> bool:
        """Whether Redis answers, asked now; in an outage False at once, without asking.  Raises ``ClosedError``."""
        runtime, redis = self._open(), self._redis_now()
        if redis is None:
            return False
        try:
            await redis.ping()
        except Unavailable as outage:
            runtime.lost(outage)
            return False
        return True

    async def info(self, section: str | None = None) -> dict[str, Any]:
        """What Redis' ``INFO`` says, of one section or of all; in an outage ``{}`` at once.

        Raises:
            RedisCommandError: it is not permitted.
            ClosedError: the cache is not open.
        """
        runtime, redis = self._open(), self._redis_now()
        if redis is None:
            return {}
        try:
            return await redis.info(section)
        except Unavailable as outage:
            runtime.lost(outage)
            return {}

    # -- the way of a call

    async def _answer(self, ask: Callable[[Tier], Awaitable[T]], writes: Iterable[str] = ()) -> T:
        """Ask Redis if it answers, and memory if not.

        Args:
            ask: the question.
            writes: the keys that it writes, perhaps, without a stamp.
        """
        runtime = self._open()
        if runtime.front is not None and runtime.mode is Mode.REDIS:
            epoch = runtime.epoch
            try:
                answer = await ask(runtime.front)
            except Unavailable as outage:
                runtime.lost(outage, epoch)
                runtime.in_doubt(writes)
            else:
                runtime.answered()
                return answer
        await self._take_turns()
        return await ask(runtime.memory)

    async def _take_turns(self) -> None:
        """Memory never waits: a loop of calls would keep the mesh, and everybody else, from their turn."""
        self._memory_calls += 1
        if not self._memory_calls % _MEMORY_CALLS_A_TURN:
            await give_turn()

    async def _read(self, ask: Callable[[Tier], Awaitable[T]], key: str) -> T:
        """A call that reads one key: from memory if Redis may not have this instance's last write of it."""
        memory = self._open().memory
        if not memory.is_in_doubt(key):
            return await self._answer(ask)
        await self._take_turns()
        return await ask(memory)

    def _write(self, ask: Callable[[Writes], Awaitable[T]], key: str) -> Awaitable[T]:
        """A call that writes one key: with a stamp where a plain write could be overtaken by an older one."""
        return self._write_after_loads(ask, key) if self._open().loads else self._write_loaded(ask, key)

    async def _write_after_loads(self, ask: Callable[[Writes], Awaitable[T]], key: str) -> T:
        await self._make_way((key,))
        return await self._write_loaded(ask, key)

    def _write_loaded(self, ask: Callable[[Writes], Awaitable[T]], key: str) -> Awaitable[T]:
        """:meth:`_write`, of what a load has found."""
        through = self._write_through()
        runtime = self._open()
        if through is not None and (runtime.memory.is_dirty(key) or not runtime.writes_plainly((key,))):
            return ask(through)
        return self._answer(ask, (key,))

    async def _read_many(self, ask: Callable[[Tier, list[str]], Awaitable[T]], keys: list[str]) -> list[T]:
        """:meth:`_read` for many keys; the answers of those who were asked, each for its part."""
        memory = self._open().memory
        apart, rest = _split(keys, memory.is_in_doubt) if memory.journal else ([], keys)
        answers: list[T] = []
        if apart:
            await self._take_turns()
            answers.append(await ask(memory, apart))
        return [*answers, await self._answer(lambda tier: ask(tier, rest))] if rest else answers

    async def _write_many(self, ask: Callable[[Writes, list[str]], Awaitable[T]], keys: list[str]) -> list[T]:
        """:meth:`_write` for many keys."""
        if self._open().loads:
            await self._make_way(keys)
        through = self._write_through()
        runtime = self._open()
        apart, rest = _split(keys, runtime.memory.is_dirty) if through is not None else ([], keys)
        if through is not None and rest and not runtime.writes_plainly(rest):
            apart, rest = keys, []
        answers = [await ask(through, apart)] if through is not None and apart else []
        return [*answers, await self._answer(lambda tier: ask(tier, rest), rest)] if rest else answers

    async def _make_way(self, keys: Sequence[str]) -> None:
        """What is being loaded of these keys is outdated, and a write of them comes after what is on its way to Redis."""
        runtime = self._open()
        runtime.loads.changed(keys)
        if runtime.mode is Mode.REDIS:  # memory has stamps
            await self._loading.stored(keys)

    def _redis_now(self) -> RedisTier | None:
        runtime = self._open()
        return runtime.redis if runtime.mode is Mode.REDIS else None

    def _write_through(self) -> WriteThrough | None:
        runtime = self._open()
        return runtime.through if runtime.mode is Mode.REDIS else None

    def _open(self) -> Runtime:
        if self._runtime is None:
            raise ClosedError(
                "the cache is closed, or was opened before a fork: make a new MeshCache"
                if self._closed
                else "open the cache first: async with MeshCache(...)"
            )
        return self._runtime

    # -- values

    def _value_of(self, entry: Entry) -> Any:
        """What an entry of memory means.  Made once if it cannot change, and is small or nothing but the bytes themselves; each
        time anew otherwise: callers never share what one of them could change."""
        if entry.decoded is not NOT_DECODED:
            return entry.decoded
        data = entry.value
        assert self._runtime is not None
        assert data is not None
        value = self._decode(data)
        if type(value) in _IMMUTABLE:
            if value is data:
                self._runtime.memory.store.share(entry, value, 0)
            elif len(data) <= _SHARED_BYTES:
                self._runtime.memory.store.share(entry, value, getsizeof(value))
        return value

    def _ttl_ms(self, ttl: float | timedelta | None) -> int | None:
        return self._default_ttl_ms if ttl is None else ttl_to_ms(ttl)

    def _encode(self, value: Any) -> bytes:
        try:
            return self._codec.encode(value)
        except CodecError:
            raise
        except Exception as error:  # a codec of the user's own
            raise CodecError(
                f"codec {self._codec.name!r} cannot encode this {type(value).__name__}: {error}"
            ) from error

    def _encoded(self, loader: Callable[[], Any]) -> Callable[[], Awaitable[bytes]]:
        if not callable(loader):
            raise TypeError(f"a loader must be a function without arguments, not {type(loader).__name__}")

        async def load() -> bytes:
            value = loader()
            return self._encode(await value if isawaitable(value) else value)

        return load

    def _decode(self, data: bytes) -> Any:
        try:
            return self._codec.decode(data)
        except CodecError:
            raise
        except Exception as error:
            raise self._cannot_decode(error) from error

    def _decode_all(self, found: Mapping[str, bytes]) -> dict[str, Any]:
        decode = self._codec.decode
        try:
            return {key: decode(data) for key, data in found.items()}
        except CodecError:
            raise
        except Exception as error:
            raise self._cannot_decode(error) from error

    def _cannot_decode(self, error: Exception) -> CodecError:
        return CodecError(f"codec {self._codec.name!r} cannot decode what is stored: {type(error).__name__}")


def _split(keys: list[str], apart: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """Those for which ``apart`` is true, and the others."""
    chosen = [key for key in keys if apart(key)]
    return chosen, [key for key in keys if not apart(key)] if chosen else keys


class _Shelf:
    """A :class:`~meshcache.loading.Shelf`: where the loads of a cache look for values, and store them.

    Of a cache that was closed meanwhile it is empty, and takes nothing: calls under way are answered all the same.
    """

    def __init__(self, cache: MeshCache) -> None:
        self._cache = cache

    async def find(self, key: str) -> bytes | None:
        # Asked of the tier, past the copies.  A caller who asks once shall count once: EXISTS does not count.
        cache = self._cache
        if cache._closed or not await cache._read(lambda tier: tier.exists([key]), key):
            return None
        return None if cache._closed else await cache._read(lambda tier: tier.get(key), key)

    def moment(self) -> Stamp:
        return Stamp(b"") if self._cache._closed else self._cache._open().memory.tick()

    async def fill(self, key: str, value: bytes, ttl_ms: int | None, began: Stamp, *, anew: bool) -> bool:
        if self._cache._closed:
            return False
        return await self._cache._write_loaded(lambda tier: tier.fill(key, value, ttl_ms, began, anew=anew), key)

    async def take_back(self, key: str) -> None:
        if not self._cache._closed:
            await self._cache._write_loaded(lambda tier: tier.delete([key]), key)


class _Scan(AsyncIterator[str]):
    """Keys of Redis, then those of memory: all that it holds after an outage, what is dirty otherwise.

    Not a generator: one that is left early makes trio warn.
    """

    def __init__(self, runtime: Runtime, redis: RedisTier | None, pattern: str) -> None:
        self._runtime = runtime
        self._pattern = pattern
        self._in_redis = None if redis is None else redis.scan(pattern)
        self._in_memory: Iterator[str] | None = None
        self._seen: set[str] = set()  # Redis may name a key twice, and memory once more

    async def __anext__(self) -> str:
        while (key := await self._next()) in self._seen:
            pass
        self._seen.add(key)
        return key

    async def _next(self) -> str:
        memory = self._runtime.memory
        while self._in_redis is not None:
            try:
                key = await anext(self._in_redis)
            except StopAsyncIteration:
                self._in_redis = None
            except Unavailable as outage:
                self._runtime.lost(outage)
                self._in_redis = None
            else:
                if not memory.is_in_doubt(key):
                    return key
        if self._in_memory is None:
            self._in_memory = iter(memory.keys(self._pattern, copies=self._runtime.mode is not Mode.REDIS))
        try:
            return next(self._in_memory)
        except StopIteration:
            raise StopAsyncIteration from None
