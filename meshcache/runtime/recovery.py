"""The way back to Redis: probe, replay what the outage wrote, hand over.  Also the replay of single writes in doubt.

It reads the mode and sends signals to the mode machine; what those change is not decided here.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Protocol

import anyio

from ..errors import RedisCommandError, Unavailable
from ..events import Mode
from ..memory import MemoryTier
from ..modes import ModeMachine
from ..options import OnRecovery
from ..redis import Link, Names, Server, apply, probe, publish_sweeps, read_sweeps, sweep
from ..stamp import Kind, Op

__all__ = ["Recovery", "Signals"]

_BATCH = 500


class Signals(Protocol):
    """What recovery tells the runtime."""

    def failed(self, outage: Unavailable) -> None:
        """Redis cannot serve."""
        ...

    def probed(self, server: Server) -> None:
        """A probe wrote to Redis."""
        ...

    def drained(self) -> None:
        """No dirty key is left."""
        ...


class Recovery:
    """Brings one instance back to Redis.

    Args:
        link: a connection of its own, so that a replay never waits behind callers.
        names: the Redis keys.
        memory: holds the journal.
        modes: is asked, never changed.
        signals: told what happened.
        prepare: awaited after a probe and before the replay; may raise ``Unavailable``.
        on_recovery: what to do with the journal.
        fence_ttl: how long a fence is kept, in seconds.
        now: the monotonic clock, in seconds.
    """

    def __init__(
        self,
        *,
        link: Link,
        names: Names,
        memory: MemoryTier,
        modes: ModeMachine,
        signals: Signals,
        prepare: Callable[[], Awaitable[None]],
        on_recovery: OnRecovery,
        fence_ttl: float,
        now: Callable[[], float],
    ) -> None:
        self._link = link
        self._names = names
        self._memory = memory
        self._modes = modes
        self._signals = signals
        self._prepare = prepare
        self._on_recovery = on_recovery
        self._fence_ttl_ms = int(fence_ttl * 1000)
        self._now = now
        self._changed = anyio.Event()
        self.replayed = 0
        self.refused = 0

    def wake(self) -> None:
        """The mode changed, a key became dirty, or a peer found Redis: look at once."""
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if self._modes.mode is Mode.MEMORY:
                pause = self._modes.probe_pause(self._now(), random.random())  # noqa: S311 - jitter
                if not await self._woken(pause) or not self._modes.held_down(self._now()):
                    await self.try_once()
            elif self._memory.journal:
                await self.try_once()
                await self._woken(0.02)  # after a failure; without one nothing is dirty now
            else:
                await self._woken(None)

    async def try_once(self) -> None:
        """One probe if Redis is away, then the replay.  What fails is reported as a signal, not raised."""
        try:
            if self._modes.mode is Mode.MEMORY:
                self._signals.probed(await probe(self._link, self._names))
                await self._prepare()
            await self._drain()
        except Unavailable as outage:
            self._signals.failed(outage)
        except RedisCommandError as error:
            # Redis answers, but forbids what recovery needs: the outage goes on, with the reason in the log.
            self._signals.failed(Unavailable(f"Redis refuses what recovery needs: {error}"))

    async def _drain(self) -> None:
        journal = self._memory.journal
        assert journal is not None
        if self._on_recovery == "discard":
            journal.clear()
        if journal:
            await self._learn_sweeps()
        while journal:
            for pattern, stamp in dict(journal.sweeps).items():
                await sweep(self._link, self._names, pattern, stamp, self._fence_ttl_ms)
                journal.sweep_done(pattern, stamp)
            ops = self._memory.dirty(_BATCH)
            if self._on_recovery == "invalidate":
                ops = [Op(Kind.INVALIDATE, op.key, op.stamp) for op in ops]
            applied = await apply(self._link, self._names, ops, self._now(), self._fence_ttl_ms)
            self._memory.cleaned(ops)
            self.replayed += sum(applied)
            self.refused += len(applied) - sum(applied)
        self._signals.drained()  # no await since the journal was seen empty

    async def _learn_sweeps(self) -> None:
        """Tell in Redis which patterns this outage deleted, and learn what others deleted that this instance did not hear of."""
        journal = self._memory.journal
        assert journal is not None
        if journal.sweeps:
            await publish_sweeps(self._link, self._names, dict(journal.sweeps), self._fence_ttl_ms)
        foreign = await read_sweeps(self._link, self._names)
        self._memory.apply(Op(Kind.SWEEP, pattern, stamp) for pattern, stamp in foreign.items())

    async def _woken(self, pause: float | None) -> bool:
        """Wait to be woken, ``pause`` seconds at most (None: for ever); whether that happened."""
        with anyio.move_on_after(pause):
            await self._changed.wait()
        woken = self._changed.is_set()
        self._changed = anyio.Event()
        return woken
