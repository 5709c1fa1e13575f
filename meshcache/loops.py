"""Which event loop runs the caller, and how a call that never waits gives up its turn there."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Final

import anyio.lowlevel

__all__ = ["asyncio_loop", "give_turn", "on_trio"]

_FOR_THREADS: Final = 1e-6
"""In seconds: as short as a sleep can be; the system makes it about 50 µs."""


def on_trio() -> bool:
    """Whether the calling task runs on trio; otherwise it runs on asyncio."""
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_task())


def asyncio_loop() -> asyncio.AbstractEventLoop | None:
    """The running event loop, if it is asyncio's, and not the host of trio as a guest."""
    if on_trio():
        return None
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def give_turn() -> None:
    """Let the other tasks have their turn; on trio, where Redis is asked in threads, also those.

    A thread that waits for the interpreter's lock asks for it after 5 ms without it.  An event loop that lets go of the lock more
    often, and takes it back before the thread is awake, begins these 5 ms anew each time; so it lets go for long enough.
    """
    if on_trio():
        time.sleep(_FOR_THREADS)  # noqa: ASYNC251 - to hold the event loop for that moment is the point
    await anyio.lowlevel.checkpoint()
