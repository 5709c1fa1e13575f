"""Helpers that any test may use.  No fixtures, and nothing that starts a process or opens a socket for longer than a line."""

from __future__ import annotations

import inspect
import socket
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

__all__ = ["eventually", "eventually_sync", "free_port"]

T = TypeVar("T")


async def eventually(
    condition: Callable[[], T | Awaitable[T]], timeout: float = 5.0, *, message: str = "", every: float = 0.005
) -> T:
    """Wait until the condition holds; the truthy value that it gave.

    Args:
        condition: a function, plain or async, asked again and again.
        timeout: seconds until this raises.
        message: what was waited for; if empty, the condition's own name.
        every: seconds between two questions.

    Raises:
        AssertionError: it did not hold in time; says what it gave last.
    """
    deadline = anyio.current_time() + timeout
    while True:
        answer = condition()
        value = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value
        if anyio.current_time() >= deadline:
            raise AssertionError(_complaint(condition, timeout, message, value))
        await anyio.sleep(every)


def eventually_sync(condition: Callable[[], T], timeout: float = 5.0, *, message: str = "", every: float = 0.01) -> T:
    """:func:`eventually` for tests without an event loop."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(_complaint(condition, timeout, message, value))
        time.sleep(every)


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port of the loopback interface that was free a moment ago."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _complaint(condition: Callable[[], object], timeout: float, message: str, value: object) -> str:
    what = message or getattr(condition, "__qualname__", repr(condition))
    return f"not within {timeout:g} s: {what} (the last answer was {value!r})"
