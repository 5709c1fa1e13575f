"""One load of a key at a time: leads it, waits for it, takes over from a leader that went away.

The loader runs in the task of the caller that leads: under its timeouts, with its context variables, and in no task of
ours.  So if that caller is cancelled, the loader is, and the first of those who wait begins anew, with the loader that it
brought itself.  A caller that only waits may go away unnoticed.

What is decided is in ``loads``; here is the waiting.  What may not enter: tiers, codecs, sockets.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Final, Protocol

import anyio

from .loads import Load, Loads
from .stamp import Stamp

__all__ = ["Loading", "Shelf", "inside", "loading_inside"]

_ASK_AT_MOST: Final = 3
"""So often the leader asks for a key that others keep changing; then it loads."""

_inside: ContextVar[tuple[Load, ...]] = ContextVar("meshcache_inside", default=())


def inside() -> tuple[Load, ...]:
    """The loads by whose loaders this code was called, the outermost first."""
    return _inside.get()


@contextmanager
def loading_inside(loads: tuple[Load, ...]) -> Iterator[None]:
    """Code that runs for these loaders, though in another thread."""
    token = _inside.set(loads)
    try:
        yield
    finally:
        _inside.reset(token)


class Shelf(Protocol):
    """Where encoded values are looked for and stored."""

    async def find(self, key: str) -> bytes | None:
        """What is there now; None if nothing is."""
        ...

    def moment(self) -> Stamp:
        """This moment, as the stamps of writes tell it."""
        ...

    async def fill(self, key: str, value: bytes, ttl_ms: int | None, began: Stamp, *, anew: bool) -> bool:
        """Store what a load found that ``began`` then; whether a delete made elsewhere meanwhile may have come first."""
        ...

    async def take_back(self, key: str) -> None:
        """Delete what was stored."""
        ...


class _Waiting:
    """What those who wait for a load have in hand; with neither value nor error, its leader has gone away."""

    __slots__ = ("ended", "error", "traceback", "value")

    def __init__(self) -> None:
        self.ended = anyio.Event()
        self.value: bytes | None = None
        self.error: Exception | None = None
        self.traceback: TracebackType | None = None


class Loading:
    """The loads of one instance.

    Args:
        loads: decides.
        shelf: where the values belong.
    """

    def __init__(self, loads: Loads, shelf: Shelf) -> None:
        self._loads = loads
        self._shelf = shelf
        self._waiting: dict[Load, _Waiting] = {}

    async def get(self, key: str, loader: Callable[[], Awaitable[bytes]], ttl_ms: int | None) -> bytes:
        """The value of a key that was not there a moment ago: found after all, loaded by somebody else, or loaded now.

        Raises:
            RuntimeError: the loader asks for its own key, and would wait for itself.
            Exception: whatever the loader raised, also if somebody else's did.
        """
        while True:
            load, leads = self._loads.join(key, inside())
            if leads:
                return await self._lead(load, loader, ttl_ms)
            value = await self._wait(load)
            if value is not None:
                return value

    async def refresh(self, key: str, loader: Callable[[], Awaitable[bytes]], ttl_ms: int | None) -> bytes:
        """Load now, whatever is there and whoever else loads, and replace it.  Raises as :meth:`get`."""
        return await self._lead(self._loads.lead(key), loader, ttl_ms)

    async def stored(self, keys: Iterable[str]) -> None:
        """Return when what is on its way to these keys now has arrived."""
        # All of them before the first wait: of one that has ended since, nobody would be told any more.
        for waiting in [self._waiting_for(load) for load in self._loads.storing(keys)]:
            await waiting.ended.wait()

    async def _lead(self, load: Load, loader: Callable[[], Awaitable[bytes]], ttl_ms: int | None) -> bytes:
        value: bytes | None = None
        try:
            if not load.anew:
                value = await self._find(load)
            if value is None:
                value = await self._call(load, loader)
                await self._store(load, value, ttl_ms)
        except Exception as error:
            self._end(load, None, error)
            raise
        except BaseException:
            self._end(load, value, None)
            raise
        self._end(load, value, None)
        return value

    async def _find(self, load: Load) -> bytes | None:
        """A load may have stored the value since this caller asked for it.

        This is also the time in which Redis' word arrives that the key has expired, caused by that very question: no
        change that could matter, for the loader has not been called yet.
        """
        for _ in range(_ASK_AT_MOST):
            self._loads.ask(load)
            value = await self._shelf.find(load.key)
            if value is None or not load.doubted:
                return value
        return None

    async def _call(self, load: Load, loader: Callable[[], Awaitable[bytes]]) -> bytes:
        self._loads.call(load, self._shelf.moment())
        with loading_inside((*inside(), load)):
            return await loader()

    async def _store(self, load: Load, value: bytes, ttl_ms: int | None) -> None:
        """Shielded: what was loaded is worth the wait of a cancelled caller, and must be taken back if need be."""
        if not self._loads.store(load):
            return
        overtakes = True
        with anyio.CancelScope(shield=True):
            try:
                overtakes = await self._shelf.fill(load.key, value, ttl_ms, load.began, anew=load.anew)
            finally:
                if overtakes and load.must_be_taken_back:
                    await self._shelf.take_back(load.key)

    def _end(self, load: Load, value: bytes | None, error: Exception | None) -> None:
        self._loads.end(load)
        waiting = self._waiting.pop(load, None)
        if waiting is not None:
            waiting.value, waiting.error = value, error
            waiting.traceback = None if error is None else error.__traceback__
            waiting.ended.set()

    def _waiting_for(self, load: Load) -> _Waiting:
        waiting = self._waiting.get(load)
        if waiting is None:
            waiting = self._waiting[load] = _Waiting()
        return waiting

    async def _wait(self, load: Load) -> bytes | None:
        """The value that another caller loads; None if it went away.  Raises what its loader raised."""
        waiting, outer = self._waiting_for(load), inside()
        self._loads.waits(outer, load)
        try:
            await waiting.ended.wait()
        finally:
            self._loads.waited(outer, load)
        try:
            if waiting.error is not None:
                raise waiting.error.with_traceback(waiting.traceback)  # without what others added when they raised it
            return waiting.value
        finally:
            del waiting  # an error knows this frame, and the frame must not know the error
