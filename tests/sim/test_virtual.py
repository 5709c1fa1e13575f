"""The loop whose clock moves only when nobody has anything to do, and processes that are stopped on it."""

from __future__ import annotations

import asyncio

import pytest

from meshcache.testing.virtual import Process, VirtualLoop


@pytest.fixture
def loop():
    loop = VirtualLoop()
    yield loop
    loop.close()


async def ticks(loop: VirtualLoop, seen: list[float], pause: float = 1.0) -> None:
    while True:
        await asyncio.sleep(pause)
        seen.append(loop.time())


def test_hours_pass_at_once_and_in_order(loop: VirtualLoop) -> None:
    seen = []

    async def sleep(hours: float) -> None:
        await asyncio.sleep(hours * 3600)
        seen.append((hours, loop.time() - start))

    async def main() -> None:
        await asyncio.gather(*map(sleep, (3, 1, 2)))

    start = loop.time()
    loop.run_until_complete(main())
    assert [hours for hours, _ in seen] == [1, 2, 3]
    assert all(abs(after - hours * 3600) < 1e-3 for hours, after in seen)


def test_a_stopped_process_takes_no_step_and_its_timers_ring_late(loop: VirtualLoop) -> None:
    process, seen, others = Process(loop, "A"), [], []
    start = loop.time()

    async def main() -> None:
        tasks = [process.start(ticks(loop, seen)), asyncio.create_task(ticks(loop, others))]
        await asyncio.sleep(2.5)
        process.stop()
        await asyncio.sleep(5)
        process.go_on()
        await asyncio.sleep(2)
        for task in tasks:
            task.cancel()

    loop.run_until_complete(main())
    assert [round(moment - start, 6) for moment in seen] == [1, 2, 7.5, 8.5]
    assert len(others) == 9


@pytest.mark.parametrize("timers_first", [False, True])
def test_what_arrives_meanwhile_is_heard_when_it_goes_on(loop: VirtualLoop, timers_first: bool) -> None:
    process, seen = Process(loop, "A"), []
    process.timers_first = timers_first

    async def inside() -> None:
        asyncio.get_running_loop().call_later(1, seen.append, "timer")
        cancelled = asyncio.get_running_loop().call_later(1, seen.append, "never")
        asyncio.get_running_loop().call_later(2, cancelled.cancel)
        await asyncio.sleep(0)

    async def main() -> None:
        await process.start(inside())
        process.hear(seen.append, "at once")
        process.stop()
        await asyncio.sleep(0.5)
        process.hear(seen.append, "news")
        await asyncio.sleep(3)
        assert seen == ["at once"]
        process.go_on()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    # A timer that is due is not cancelled by one that is due after it.
    assert seen == ["at once", *(["timer", "never", "news"] if timers_first else ["news", "timer", "never"])]


def test_a_timer_that_was_cancelled_while_the_process_stood_still_does_not_ring(loop: VirtualLoop) -> None:
    process, seen = Process(loop, "A"), []
    handles: list[asyncio.TimerHandle] = []

    async def inside() -> None:
        handles.append(asyncio.get_running_loop().call_later(1, seen.append, "never"))

    async def main() -> None:
        await process.start(inside())
        process.stop()
        await asyncio.sleep(2)
        process.hear(handles[0].cancel)
        process.go_on()
        await asyncio.sleep(0.1)

    loop.run_until_complete(main())
    assert seen == []


def test_a_wait_for_nothing_is_an_error(loop: VirtualLoop) -> None:
    with pytest.raises(RuntimeError, match="nothing will ever happen"):
        loop.run_until_complete(loop.create_future())


def test_a_loop_without_end_is_an_error(loop: VirtualLoop) -> None:
    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    task = loop.create_task(spin())
    with pytest.raises(RuntimeError, match="busy without end"):
        loop.run_forever()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
