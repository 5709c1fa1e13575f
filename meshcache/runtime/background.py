"""One task in the background that outlives the call which started it, on asyncio and on trio.

A cache is entered and left by whoever embeds it, often in two different tasks (fixtures, start-up and shutdown hooks).
A task group bound to the entering task would forbid that, and would cancel the host's code if a loop of ours failed.
So the tree of our tasks hangs on one task of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import anyio

from ..loops import on_trio

__all__ = ["Background"]

logger = logging.getLogger("meshcache")


class Background:
    """Runs one async function until it ends or is stopped.  If it fails, that is logged: a defect of ours, not an outage."""

    def __init__(self, main: Callable[[], Awaitable[None]]) -> None:
        self._main = main
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self._task: object = None

    def start(self) -> None:
        """Start it; it runs from the next turn of the event loop on."""
        if on_trio():
            import trio

            trio.lowlevel.spawn_system_task(self._run)
        else:
            # Held here: the event loop itself keeps only a weak reference to a task.
            self._task = asyncio.get_running_loop().create_task(self._run(), name="meshcache")

    async def stop(self) -> None:
        """Cancel it and wait until it has ended."""
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._ended.wait()

    async def _run(self) -> None:
        try:
            with self._scope:
                await self._main()
        except Exception:
            logger.exception("the background of a cache has failed: it no longer probes Redis nor hears its peers")
        finally:
            self._ended.set()
