"""Asking several at once, on every event loop; whoever is asked is a function."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from meshcache.errors import RedisCommandError, Unavailable
from meshcache.redis.together import all_of, first_of

pytestmark = pytest.mark.anyio

Ask = Callable[[], Awaitable[str]]
NEVER = 60.0


def answers(name: str, after: float = 0.0) -> Ask:
    async def ask() -> str:
        await anyio.sleep(after)
        return name

    return ask


def fails(error: Exception, after: float = 0.0) -> Ask:
    async def ask() -> str:
        await anyio.sleep(after)
        raise error

    return ask


async def test_the_first_answer_counts_and_nobody_else_is_waited_for() -> None:
    start = anyio.current_time()
    assert await first_of([answers("slow", NEVER), answers("quick"), answers("late", NEVER)], 0.01) == "quick"
    assert anyio.current_time() - start < 1


async def test_one_that_fails_gives_way_at_once() -> None:
    start = anyio.current_time()
    assert await first_of([fails(Unavailable("down")), answers("next")], NEVER) == "next"
    assert anyio.current_time() - start < 1


async def test_one_that_answers_in_time_is_asked_alone() -> None:
    asked: list[str] = []

    def noting(name: str) -> Ask:
        async def ask() -> str:
            asked.append(name)
            return name

        return ask

    assert await first_of([noting("a"), noting("b")], NEVER) == "a"
    assert asked == ["a"]


async def test_if_all_fail_the_first_says_why() -> None:
    with pytest.raises(Unavailable, match="one"):
        await first_of([fails(Unavailable("one"), 0.05), fails(Unavailable("two"))], 0.01)


async def test_all_answer_in_order() -> None:
    assert await all_of([answers("a", 0.02), answers("b")]) == ["a", "b"]
    assert await all_of([answers("a")]) == ["a"]
    assert await all_of([]) == []


async def test_an_outage_is_told_rather_than_a_refusal() -> None:
    with pytest.raises(Unavailable, match="down"):
        await all_of([fails(RedisCommandError("no")), fails(Unavailable("down"), 0.01), answers("a")])
    with pytest.raises(RedisCommandError, match="no"):
        await all_of([fails(RedisCommandError("no")), answers("a")])
    with pytest.raises(RedisCommandError, match="no"):
        await all_of([fails(RedisCommandError("no"))])


async def test_whoever_goes_away_stops_asking() -> None:
    with anyio.move_on_after(0.02) as scope:
        await first_of([answers("slow", NEVER), answers("slow", NEVER)], 0.001)
    assert scope.cancelled_caught
