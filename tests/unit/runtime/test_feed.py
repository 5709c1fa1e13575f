"""The feed: each listener gets every event from when it began to listen, in order; a slow one loses the oldest."""

from __future__ import annotations

import gc

import anyio
import pytest
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from meshcache.events import Event, Mode, ModeChanged
from meshcache.runtime.feed import Feed, Subscription

pytestmark = pytest.mark.anyio


def event(number: int) -> Event:
    return ModeChanged(Mode.REDIS, Mode.MEMORY, str(number), 0.0)


def number(event: Event) -> int:
    assert isinstance(event, ModeChanged)
    return int(event.cause)


async def read(events: Subscription, count: int) -> list[int]:
    with anyio.fail_after(5):
        return [number(await anext(events)) for _ in range(count)]


async def rest(events: Subscription) -> list[int]:
    with anyio.fail_after(5):
        return [number(item) async for item in events]


async def test_every_listener_gets_every_event_from_when_it_began() -> None:
    feed = Feed()
    feed.put(event(0))  # nobody listens
    first = feed.subscribe()
    feed.put(event(1))
    second = feed.subscribe()
    feed.put(event(2))
    assert await read(first, 2) == [1, 2]
    assert await read(second, 1) == [2]
    del second
    feed.put(event(3))
    assert await read(first, 1) == [3]


@pytest.mark.parametrize("listeners", [1, 2])
async def test_a_listener_that_waits_is_woken_by_each_event(listeners: int) -> None:
    """Two tasks that share one subscription share its events."""
    feed, heard = Feed(), list[int]()
    events = feed.subscribe()

    async def listen(*, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        async for item in events:
            heard.append(number(item))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(listeners):
                await tasks.start(listen)
            for count in range(5):
                feed.put(event(count))
                while len(heard) <= count:
                    await checkpoint()
                await checkpoint()
            feed.close()
    assert heard == [0, 1, 2, 3, 4]


async def test_a_slow_listener_loses_the_oldest_and_holds_nobody_up() -> None:
    feed = Feed()
    slow, quick = feed.subscribe(), feed.subscribe()
    for count in range(1_500):
        feed.put(event(count))
        assert await read(quick, 1) == [count]
    assert await read(slow, 1_000) == list(range(500, 1_500))


async def test_after_close_the_backlog_is_read_and_then_iteration_ends() -> None:
    feed = Feed()
    events = feed.subscribe()
    feed.put(event(1))
    feed.close()
    assert await rest(events) == [1]
    assert await rest(events) == []


async def test_listening_to_a_closed_feed_ends_at_once() -> None:
    feed = Feed()
    feed.close()
    assert await rest(feed.subscribe()) == []


async def test_a_listener_that_was_dropped_costs_nothing() -> None:
    feed = Feed()
    events = feed.subscribe()
    del events
    gc.collect()
    feed.put(event(1))
    assert len(feed._subscriptions) == 0


async def test_a_listener_that_was_cancelled_while_it_waited_goes_on_afterwards() -> None:
    feed = Feed()
    events = feed.subscribe()
    with anyio.move_on_after(0.001):
        await anext(events)
    feed.put(event(1))
    assert await read(events, 1) == [1]
