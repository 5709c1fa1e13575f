"""An event loop whose clock moves only when nobody has anything to do, and processes on it that can be stopped and continued.

Hours pass within a second, and the same calls happen in the same order every time.  Whatever runs on asyncio runs on it
as it is, as long as it asks the loop for the time, and for its connections.

A *process* is all that runs in one context (``contextvars``).  While it is stopped, as SIGSTOP does, none of its tasks takes a
step and none of its timers rings; what the kernel would keep for it is kept.

What may not enter: Redis, the mesh, faults.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final, TypeVar, TypeVarTuple

__all__ = ["Process", "VirtualLoop"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_BUSY: Final = 200_000
"""Turns of the loop at one moment.  More would burn a processor in earnest."""

_process: ContextVar[Process | None] = ContextVar("process", default=None)


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop.

    Attributes:
        dial: makes the connections that ``create_connection`` is asked for.
    """

    def __init__(self, start: float = 1000.0) -> None:
        self._moment = start
        self._idle_turns = 0
        self._outside = Context()
        self.dial: Callable[[Callable[[], asyncio.BaseProtocol], str], Coroutine[Any, Any, asyncio.Transport]] | None
        self.dial = None
        super().__init__(_Selector(self._pass_time))

    def time(self) -> float:
        """Now, in seconds."""
        return self._moment

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """As every loop; nothing is called in a process that stands still."""
        process = _process.get() if context is None else context.get(_process)
        if process is None:
            return super().call_soon(callback, *args, context=context)
        call = _Call(process, callback, args, context or copy_context())
        call.handle = super().call_soon(call, context=call.context)
        return call.handle

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Likewise."""
        process = _process.get() if context is None else context.get(_process)
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        call = _Call(process, callback, args, context or copy_context(), is_timer=True)
        call.handle = handle = super().call_at(when, call, context=call.context)
        return handle

    def at(self, when: float, callback: Callable[[*Ts], object], *args: *Ts) -> asyncio.TimerHandle:
        """Call this outside of all processes."""
        return super().call_at(when, callback, *args, context=self._outside)

    def soon(self, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """Likewise, in the next turn."""
        super().call_soon(callback, *args, context=self._outside)

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: str, port: int, **_: Any
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """A connection of this simulation."""
        assert self.dial is not None, "there is nothing to connect to"
        transport = await self.dial(protocol_factory, host)
        return transport, transport.get_protocol()

    def _pass_time(self, seconds: float | None) -> None:
        if seconds is None:
            raise RuntimeError("everybody waits, and nothing will ever happen")
        if seconds > 0:
            self._moment += seconds
            self._idle_turns = 0
        else:
            self._idle_turns += 1
            if self._idle_turns > _BUSY:
                self._idle_turns = 0
                raise RuntimeError(f"something is busy without end at {self._moment}")


class Process:
    """What runs in one context: it can be stopped and continued.

    Args:
        loop: where it runs.
        name: for messages.

    Attributes:
        is_running: whether it is not stopped.
        timers_first: whether a process that goes on rings its timers before it looks at what has arrived.  asyncio does not,
            libuv does.
    """

    def __init__(self, loop: VirtualLoop, name: str) -> None:
        self.name = name
        self.is_running = True
        self.timers_first = False
        self._loop = loop
        self._held: list[_Call] = []
        self._context = Context()
        self._context.run(_process.set, self)

    def start(self, main: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine in it."""
        return self._loop.create_task(main, context=self._context.copy())

    def hear(self, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call this in the process: something has arrived for it.  To be called from outside; at once, if it is not stopped."""
        if self.is_running:
            self._context.run(callback, *args)
        else:
            call = _Call(self, callback, args, self._context)
            call.is_news = True
            self._held.append(call)

    def stop(self) -> None:
        """No step is taken any more."""
        self.is_running = False

    def go_on(self) -> None:
        """First what was ready, then what has arrived and the timers that should have rung."""
        if self.is_running:
            return
        self.is_running = True
        held, self._held = self._held, []
        ready = [call for call in held if not call.is_timer and not call.is_news]
        news = [call for call in held if call.is_news]
        timers = [call for call in held if call.is_timer]
        for call in [*ready, *(timers + news if self.timers_first else news + timers)]:
            self._loop.soon(call.again)

    def hold(self, call: _Call) -> None:
        """It is stopped: keep this for later."""
        self._held.append(call)


class _Call:
    """A callback of a process."""

    __slots__ = ("args", "callback", "context", "handle", "is_news", "is_timer", "process")

    def __init__(
        self,
        process: Process,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context,
        is_timer: bool = False,
    ) -> None:
        self.process = process
        self.callback = callback
        self.args = args
        self.context = context
        self.is_timer = is_timer
        self.is_news = False
        self.handle: asyncio.Handle | None = None

    def __call__(self) -> None:
        if self.process.is_running:
            self.callback(*self.args)
        else:
            self.process.hold(self)

    def again(self) -> None:
        if self.handle is None or not self.handle.cancelled():
            self.context.run(self)


class _Selector(selectors.SelectSelector):
    """Waits for nothing: time passes instead."""

    def __init__(self, pass_time: Callable[[float | None], None]) -> None:
        super().__init__()
        self._pass_time = pass_time

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._pass_time(timeout)
        return []
