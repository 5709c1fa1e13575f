"""The same cache for threads: a :class:`~meshcache.MeshCache` on an event loop of its own, in a thread of its own.

Every call is one errand to that loop: the calling thread waits for the answer, or, while a value is to be loaded, calls the
loader itself.  So a loader may block, has its thread's connections and locals, and never stands in the way of the mesh.

What may not enter: any rule about keys, values, tiers or loads; those are the async cache's.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from datetime import timedelta
from functools import partial
from inspect import isawaitable, iscoroutinefunction
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack, cast, overload

import anyio

from .cache import MeshCache
from .cached import KeyedFunction, check_unambiguous
from .errors import ClosedError
from .events import Event, Mode, Peer
from .glob import MATCH_ALL
from .loading import inside, loading_inside
from .options import DEFAULT_URL, OptionArguments, Options

__all__ = ["BlockingCachedFunction", "BlockingMeshCache"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")

_KEYS_AT_ONCE = 500
_CLOSED = "the cache is closed: make a new BlockingMeshCache"


class BlockingMeshCache:
    """A :class:`~meshcache.MeshCache` for threads, with the same methods, arguments, results and errors.

    Use it as ``with BlockingMeshCache(...) as cache``; any number of threads may call it at the same time.  One for each
    process: after a fork the child's calls raise ``ClosedError``, and it makes one of its own.  Not for async code, which it
    would hold up.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``; None for no Redis at all, only memory and mesh.
        options: see :class:`~meshcache.options.Options`.

    Raises:
        ConfigError: the URL or an option is wrong; nothing was started.
    """

    def __init__(self, url: str | None = DEFAULT_URL, **options: Unpack[OptionArguments]) -> None:
        self._cache = MeshCache(url, **options)
        self._loop: _Loop | None = None
        self._decorated: set[object] = set()

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """A cache by the environment; see :meth:`MeshCache.from_env`."""
        return cls(**{**Options.environment(), **overrides})

    def __repr__(self) -> str:
        return repr(self._cache).replace("MeshCache", "BlockingMeshCache", 1)

    # -- opening and closing

    def __enter__(self) -> Self:
        """Start.  Returns within ``op_timeout`` and a little, whether Redis is there or not.

        Raises:
            ClosedError: it was open before; make a new one.
            ConfigError: an interface or the port cannot be used.
        """
        loop = _Loop()
        try:
            loop.run(self._cache.__aenter__)
        except BaseException:
            loop.stop(None)
            raise
        self._loop = loop
        atexit.register(self.close)  # a program that forgets it says goodbye all the same
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Say goodbye to the peers and let go of every connection and of the thread; closing twice is fine.

        Calls under way are answered, but who waits for peers or loads a value gets ``ClosedError``; iterators of events end.
        """
        if self._loop is not None and not self._loop.is_inherited:
            self._loop.stop(self._cache.aclose)
            atexit.unregister(self.close)

    # -- one key

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or ``default`` for a miss.  As :meth:`MeshCache.get`."""
        return self._run(self._cache.get, key, default)

    def set(
        self, key: str, value: Any, *, ttl: float | timedelta | None = None, nx: bool = False, xx: bool = False
    ) -> bool:
        """Write a value.  As :meth:`MeshCache.set`."""
        written: bool = self._run(partial(self._cache.set, key, value, ttl=ttl, nx=nx, xx=xx))
        return written

    def setex(self, key: str, ttl: float | timedelta, value: Any) -> bool:
        """Write a value with a time to live, in the order of arguments that Redis has.  As :meth:`MeshCache.setex`."""
        return self._run(partial(self._cache.setex, key, ttl, value))

    def delete(self, *keys: str) -> int:
        """Delete keys; how many existed.  As :meth:`MeshCache.delete`."""
        return self._run(self._cache.delete, *keys)

    def exists(self, *keys: str) -> int:
        """How many of the keys exist.  As :meth:`MeshCache.exists`."""
        return self._run(self._cache.exists, *keys)

    def ttl(self, key: str) -> int:
        """What remains of a key's time to live, in whole seconds.  As :meth:`MeshCache.ttl`."""
        return self._run(self._cache.ttl, key)

    def expire(self, key: str, ttl: float | timedelta) -> bool:
        """Give a key a new time to live, in seconds.  As :meth:`MeshCache.expire`."""
        return self._run(self._cache.expire, key, ttl)

    def incr(self, key: str, amount: int = 1, *, ttl: float | timedelta | None = None) -> int:
        """Add to a counter; what it is then.  As :meth:`MeshCache.incr`."""
        return self._run(partial(self._cache.incr, key, amount, ttl=ttl))

    def decr(self, key: str, amount: int = 1, *, ttl: float | timedelta | None = None) -> int:
        """Subtract from a counter; what it is then.  As :meth:`MeshCache.decr`."""
        return self._run(partial(self._cache.decr, key, amount, ttl=ttl))

    # -- many keys

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The keys found, with their values.  As :meth:`MeshCache.get_many`."""
        return self._run(self._cache.get_many, keys)

    def set_many(self, values: Mapping[str, Any], ttl: float | timedelta | None = None) -> None:
        """Write many values with one time to live.  As :meth:`MeshCache.set_many`."""
        self._run(self._cache.set_many, values, ttl)

    def delete_many(self, keys: Iterable[str]) -> int:
        """Delete keys; how many existed.  As :meth:`MeshCache.delete_many`."""
        return self._run(self._cache.delete_many, keys)

    # -- what is loaded

    def get_or_set(self, key: str, loader: Callable[[], T], ttl: float | timedelta | None = None) -> T:
        """The value of a key; if there is none, what ``loader()`` gives, which is written.

        As :meth:`MeshCache.get_or_set`, but that the loader is a plain function, called in the thread that asks for the
        value.  Other threads that ask meanwhile wait for it.
        """
        value: T = self._load(partial(self._cache.get_or_set, key), loader, ttl)
        return value

    def cached(
        self, *, ttl: float | timedelta | None = None, key: str | Callable[..., str] | None = None
    ) -> Callable[[Callable[P, R]], BlockingCachedFunction[P, R]]:
        """Keep the results of a plain function.  As :meth:`MeshCache.cached`; the function stays a plain one.

        Raises:
            TypeError: also for an async function.
        """
        self._cache._ttl_ms(ttl)

        def decorate(function: Callable[P, R]) -> BlockingCachedFunction[P, R]:
            if key is None:
                check_unambiguous(function, self._decorated)
            return BlockingCachedFunction(function, key, self, ttl)

        return decorate

    def _refresh(self, key: str, loader: Callable[[], T], ttl: float | timedelta | None) -> T:
        value: T = self._load(partial(self._cache._refresh, key), loader, ttl)
        return value

    # -- patterns

    def scan(self, pattern: str = MATCH_ALL) -> Iterator[str]:
        """Iterate over the keys that match Redis' glob pattern, each once.  As :meth:`MeshCache.scan`."""
        return _Keys(self._opened(), self._run(self._cache.scan, pattern))

    def keys(self, pattern: str = MATCH_ALL) -> list[str]:
        """The keys that match, as :meth:`scan` gives them."""
        return self._run(self._cache.keys, pattern)

    def delete_match(self, pattern: str) -> int:
        """Delete every key that matches Redis' glob pattern; how many existed.  As :meth:`MeshCache.delete_match`."""
        return self._run(self._cache.delete_match, pattern)

    def clear(self) -> int:
        """Delete every key of the namespace, and no other; how many existed.  As :meth:`MeshCache.clear`."""
        return self._run(self._cache.clear)

    # -- what it tells about itself

    @property
    def mode(self) -> Mode:
        """Which tier answers now.  ``Mode.MEMORY`` for a cache that is not open."""
        return self._cache.mode

    @property
    def is_available(self) -> bool:
        """Whether Redis answers.  The cache itself answers either way."""
        return self._cache.is_available

    @property
    def node_id(self) -> str:
        """This instance in the mesh: 16 hexadecimal digits, new at every start.  Raises ``ClosedError``."""
        return self._run(lambda: self._cache.node_id)

    @property
    def peers(self) -> list[Peer]:
        """The other instances of the namespace that this one hears."""
        try:
            return self._run(lambda: self._cache.peers)
        except ClosedError:
            return []

    def wait_for_peers(self, count: int, timeout: float = 5.0) -> list[Peer]:
        """Wait until there are ``count`` peers.  As :meth:`MeshCache.wait_for_peers`."""
        return self._run(self._cache.wait_for_peers, count, timeout)

    def events(self) -> Iterator[Event]:
        """Iterate over what happens from now on; each step waits.  As :meth:`MeshCache.events`."""
        return _Events(self._opened(), self._run(self._cache.events))

    def stats(self) -> dict[str, Any]:
        """Counters and state.  As :meth:`MeshCache.stats`."""
        return self._run(self._cache.stats)

    def ping(self) -> bool:
        """Whether Redis answers, asked now.  As :meth:`MeshCache.ping`."""
        return self._run(self._cache.ping)

    def info(self, section: str | None = None) -> dict[str, Any]:
        """What Redis' ``INFO`` says.  As :meth:`MeshCache.info`."""
        return self._run(self._cache.info, section)

    # -- the way of a call

    @overload
    def _run(self, function: Callable[..., Awaitable[T]], *args: Any) -> T: ...
    @overload
    def _run(self, function: Callable[..., T], *args: Any) -> T: ...
    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        return self._opened().run(function, *args)

    def _load(self, call: Callable[..., Awaitable[T]], loader: Callable[[], T], ttl: float | timedelta | None) -> T:
        """A call that may need what ``loader`` gives."""
        if not callable(loader):
            raise TypeError(f"a loader must be a function without arguments, not {type(loader).__name__}")
        return self._opened().load(call, loader, ttl)

    def _opened(self) -> _Loop:
        if self._loop is None:
            raise ClosedError("open the cache first: with BlockingMeshCache(...)")
        return self._loop


class BlockingCachedFunction(KeyedFunction[P, R]):
    """A function whose results a :class:`BlockingMeshCache` keeps; made by its ``cached``.

    The call, :meth:`invalidate` and :meth:`refresh` take the arguments of the function.
    """

    def __init__(
        self,
        function: Callable[P, R],
        key: str | Callable[..., str] | None,
        cache: BlockingMeshCache,
        ttl: float | timedelta | None,
    ) -> None:
        if iscoroutinefunction(function):
            raise TypeError(f"{function.__qualname__} is async: only a MeshCache can call it, no BlockingMeshCache")
        super().__init__(function, key)
        self._cache = cache
        self._ttl = ttl

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The result that is kept, or what the function says now.  Raises as ``get_or_set``, and as :meth:`key`."""
        value: R = self._cache.get_or_set(self.key(*args, **kwargs), self._loader(*args, **kwargs), self._ttl)
        return value

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Delete the result that is kept for these arguments; whether there was one.  Raises as ``delete``."""
        return bool(self._cache.delete(self.key(*args, **kwargs)))

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function now, and keep its result in place of what is there.  See ``CachedFunction.refresh``."""
        value: R = self._cache._refresh(self.key(*args, **kwargs), self._loader(*args, **kwargs), self._ttl)
        return value

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(
        self: BlockingCachedFunction[Concatenate[S, Q], R], instance: S, owner: type
    ) -> BlockingCachedFunction[Q, R]: ...
    def __get__(self, instance: object, owner: type) -> Any:
        return self if instance is None else self._bind(instance)


class _Loop:
    """The event loop and its thread.

    Not anyio's ``start_blocking_portal``: that waits for its thread when it is garbage-collected, also in a forked child,
    which has no such thread; and a caller that is interrupted while a call starts cannot cancel it.

    Attributes:
        is_inherited: this is a forked child, which has the object but not the thread: nothing may be asked of it.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()  # what is handed over to a loop that has just ended would never run
        self._is_closed = False
        self._stopping = threading.Lock()
        self._loads: set[Future[Any]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=self._serve, args=(started,), name="meshcache", daemon=True)
        self._thread.start()
        self._loop, self._end = started.result()

    @property
    def is_inherited(self) -> bool:
        return self._process != os.getpid()

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """The result of a function, async or not, called in the event loop."""
        return _result(self._start(function, args))

    def load(self, call: Callable[..., Awaitable[T]], loader: Callable[[], T], ttl: float | timedelta | None) -> T:
        """The result of ``call(loader, ttl)``, whose loader is called in this thread, if at all."""
        requests: SimpleQueue[_Request | None] = SimpleQueue()

        async def ask_the_thread() -> Any:
            request = _Request()
            requests.put(request)
            await request.served.wait()
            return request.answer()

        future = self._start(call, (ask_the_thread, ttl), is_load=True)
        try:
            future.add_done_callback(lambda _: requests.put(None))
            while (request := requests.get()) is not None:
                request.serve(loader)
                with self._lock:
                    if not self._is_closed:  # otherwise the call is cancelled as well
                        self._loop.call_soon_threadsafe(request.served.set)
        except BaseException:
            future.cancel()  # another caller takes over
            raise
        finally:
            self._loads.discard(future)
        return cast("T", _result(future))

    def stop(self, last: Callable[[], Awaitable[None]] | None) -> None:
        """End the thread, after ``last``.  Calls under way come to their end, but those that load are cancelled."""
        with self._stopping:
            with self._lock:
                if self._is_closed:
                    return
                self._is_closed = True
            try:
                if last is not None:
                    asyncio.run_coroutine_threadsafe(self._call(last, ()), self._loop).result()
            finally:
                for future in tuple(self._loads):
                    future.cancel()
                self._loop.call_soon_threadsafe(self._end.set)
                self._thread.join()

    def _start(self, function: Callable[..., Any], args: tuple[Any, ...], *, is_load: bool = False) -> Future[Any]:
        if self.is_inherited:
            raise ClosedError("the cache was opened before a fork: make a new BlockingMeshCache")
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "a BlockingMeshCache must not be called by its own event loop, which would wait for itself"
            )
        with self._lock:
            if self._is_closed:
                raise ClosedError(_CLOSED)
            future: Future[Any] = asyncio.run_coroutine_threadsafe(self._call(function, args), self._loop)
            if is_load:
                self._loads.add(future)
        return future

    # -- in the thread

    def _serve(self, started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
        async def main() -> None:
            end = asyncio.Event()
            started.set_result((asyncio.get_running_loop(), end))
            await end.wait()
            while self._tasks:
                await asyncio.wait(tuple(self._tasks))

        try:
            asyncio.run(main())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    async def _call(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            result = function(*args)
            return await result if isawaitable(result) else result
        finally:
            self._tasks.discard(task)


def _result(future: Future[Any]) -> Any:
    try:
        return future.result()
    except BaseException:
        if future.cancelled():
            raise ClosedError(_CLOSED) from None
        future.cancel()  # this thread was interrupted: nobody waits for the answer any more
        raise


class _Request:
    """The event loop asks a thread to call its loader."""

    def __init__(self) -> None:
        self.served = anyio.Event()
        self._inside = inside()
        self._value: Any = None
        self._error: Exception | None = None

    def serve(self, loader: Callable[[], Any]) -> None:
        """In the thread.  What is no ``Exception`` interrupts it, and passes."""
        try:
            with loading_inside(self._inside):
                self._value = _not_awaitable(loader())
        except Exception as error:  # noqa: BLE001 - all who wait for the load get it, this thread too
            self._error = error

    def answer(self) -> Any:
        """In the event loop."""
        if self._error is not None:
            raise self._error
        return self._value


def _not_awaitable(value: T) -> T:
    if isawaitable(value):
        if isinstance(value, Coroutine):
            value.close()  # or Python warns that nobody awaited it
        raise TypeError("a loader of a BlockingMeshCache must be a plain function, not an async one")
    return value


class _Keys(Iterator[str]):
    """An async iterator of keys, read some at a time: each errand to the loop costs more than a key."""

    def __init__(self, loop: _Loop, source: AsyncIterator[str]) -> None:
        self._loop = loop
        self._source = source
        self._page: deque[str] = deque()

    def __next__(self) -> str:
        if not self._page:
            self._page.extend(self._loop.run(_take, self._source, _KEYS_AT_ONCE))
        if not self._page:
            raise StopIteration
        return self._page.popleft()


class _Events(Iterator[Event]):
    def __init__(self, loop: _Loop, source: AsyncIterator[Event]) -> None:
        self._loop = loop
        self._source = source

    def __next__(self) -> Event:
        try:
            events: list[Event] = self._loop.run(_take, self._source, 1)
        except ClosedError:
            events = []
        if not events:
            raise StopIteration
        return events[0]


async def _take(source: AsyncIterator[T], count: int) -> list[T]:
    taken: list[T] = []
    with suppress(StopAsyncIteration):
        while len(taken) < count:
            taken.append(await anext(source))
    return taken
