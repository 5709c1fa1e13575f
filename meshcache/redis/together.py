"""Asking several servers at once: the first answer, or all answers.  Knows no command and no server.

What goes wrong comes back as it is, never wrapped in an exception group.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

from ..errors import RedisCommandError, Unavailable

__all__ = ["all_of", "first_of"]

T = TypeVar("T")


async def first_of(asks: Sequence[Callable[[], Awaitable[T]]], stagger: float) -> T:
    """The first answer; whoever has not answered by then is left alone.

    One is asked after the other: the next when the one before failed, or has said nothing for ``stagger`` seconds (as
    RFC 8305 tries addresses).

    Args:
        asks: at least one; each may raise ``Unavailable``.
        stagger: in seconds.

    Raises:
        Unavailable: that of the first, if all failed.
    """
    answers: list[T] = []
    failures: dict[int, Unavailable] = {}

    async def one(number: int, failed: anyio.Event) -> None:
        try:
            answers.append(await asks[number]())
        except Unavailable as outage:
            failures[number] = outage
            failed.set()
        else:
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for number in range(len(asks)):
            failed = anyio.Event()
            tasks.start_soon(one, number, failed)
            with anyio.move_on_after(stagger):
                await failed.wait()
    if answers:
        return answers[0]
    raise failures[min(failures)]


async def all_of(asks: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """What each answered, in order; all are asked at once.

    Raises:
        Unavailable, RedisCommandError: one of those that were met, once all have ended; an outage rather than a refusal.
    """
    if len(asks) == 1:
        return [await asks[0]()]
    answers: dict[int, T] = {}
    failures: list[Unavailable | RedisCommandError] = []

    async def one(number: int) -> None:
        try:
            answers[number] = await asks[number]()
        except (Unavailable, RedisCommandError) as error:
            failures.append(error)

    async with anyio.create_task_group() as tasks:
        for number in range(len(asks)):
            tasks.start_soon(one, number)
    if failures:
        raise min(failures, key=lambda error: isinstance(error, RedisCommandError))
    return [answers[number] for number in range(len(asks))]
