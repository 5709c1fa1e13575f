"""Calls that share round trips: each caller still has what it would have alone.  Real servers, on every event loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from meshcache.errors import RedisCommandError, Unavailable
from meshcache.redis import batch
from meshcache.redis.batch import BatchLink
from meshcache.redis.link import Argument, Command, Link, no_answer
from meshcache.testing.server import RedisServer
from tests.io.gate import Gate, Hold
from tests.support import eventually

pytestmark = pytest.mark.anyio

TIMEOUT = 0.25
SCHEDULING = 0.15  # what a busy machine may add to the promise; far below a second TIMEOUT


class Callers:
    """Tasks that make one call each; what came of them, by name."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self.outcomes: dict[Any, Any] = {}
        self.times: dict[Any, float] = {}
        self.scopes: dict[Any, anyio.CancelScope] = {}
        self.tasks = tasks

    def start(self, link: Link, name: Any, *command: Argument) -> None:
        self.tasks.start_soon(self._call, link, name, command)

    async def _call(self, link: Link, name: Any, command: Command) -> None:
        start = anyio.current_time()
        with anyio.CancelScope() as self.scopes[name]:
            try:
                self.outcomes[name] = await link.execute(*command)
            except (RedisCommandError, Unavailable) as error:
                self.outcomes[name] = error
        self.times[name] = anyio.current_time() - start


@asynccontextmanager
async def running(link: Link, timeout: float = 5.0) -> AsyncIterator[BatchLink]:
    batching = BatchLink(link, "the server", timeout)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batching.run)
        await anyio.wait_all_tasks_blocked()
        try:
            yield batching
        finally:
            tasks.cancel_scope.cancel()
            if isinstance(link, Gate):
                link.let_all_go()  # a test that fails must not hang


@pytest.fixture
def gate(link: Link) -> Gate:
    return Gate(link)


@pytest.fixture
async def callers(anyio_backend: Any) -> AsyncIterator[Callers]:
    async with anyio.create_task_group() as tasks:
        yield Callers(tasks)
        tasks.cancel_scope.cancel()


async def hold_lanes(link: BatchLink, gate: Gate, callers: Callers) -> Hold:
    """Every lane has one call under way that does not end until it is let go."""
    hold = gate.close()
    for i in range(2):
        callers.start(link, f"alone {i}", "ECHO", str(i))
    await eventually(lambda: gate.held == 2)
    for i in range(4):
        callers.start(link, f"lane {i}", "ECHO", str(i))
        await eventually(lambda i=i: gate.held == 3 + i)
    return hold


# -- what goes together


async def test_calls_made_at_once_share_few_round_trips(server: RedisServer, gate: Gate, callers: Callers) -> None:
    server.client().mset({f"k{i}": f"v{i}" for i in range(200)})
    async with running(gate) as link:
        for i in range(200):
            callers.start(link, i, "GET", f"k{i}")
        await eventually(lambda: len(callers.outcomes) == 200)
    assert callers.outcomes == {i: b"v%d" % i for i in range(200)}
    assert len(gate.alone) + len(gate.batches) < 20


async def test_a_lone_call_goes_as_it_is(gate: Gate) -> None:
    async with running(gate) as link:
        for i in range(20):
            assert await link.execute("ECHO", str(i)) == b"%d" % i
    assert len(gate.alone) == 20
    assert not gate.batches


async def test_a_batch_is_bounded_in_commands(gate: Gate, callers: Callers) -> None:
    async with running(gate) as link:
        for i in range(1000):
            callers.start(link, i, "ECHO", str(i))
        await eventually(lambda: len(callers.outcomes) == 1000)
    assert callers.outcomes == {i: b"%d" % i for i in range(1000)}
    assert max(map(len, gate.batches)) <= 256


async def test_a_batch_is_bounded_in_bytes(gate: Gate, callers: Callers) -> None:
    value = b"x" * 20_000
    async with running(gate) as link:
        for i in range(50):
            callers.start(link, i, "SET", f"k{i}", value)
        await eventually(lambda: len(callers.outcomes) == 50)
    assert set(callers.outcomes.values()) == {b"OK"}
    assert 1 < max(map(len, gate.batches)) <= 5


async def test_without_its_task_it_hands_on(gate: Gate, callers: Callers) -> None:
    link = BatchLink(gate, "the server", 5.0)
    for i in range(50):
        callers.start(link, i, "ECHO", str(i))
    await eventually(lambda: len(callers.outcomes) == 50)
    assert len(gate.alone) == 50


# -- what each caller has


async def test_a_refused_call_fails_alone(server: RedisServer, gate: Gate, callers: Callers) -> None:
    """MGET would have said that there is nothing."""
    server.client().lpush("list", "x")
    server.client().set("k", "v")
    async with running(gate) as link:
        for i in range(30):
            callers.start(link, i, "GET", "list" if i % 10 == 5 else "k")
        await eventually(lambda: len(callers.outcomes) == 30)
    assert [str(error).partition(" ")[0] for error in map(callers.outcomes.get, (5, 15, 25))] == ["WRONGTYPE"] * 3
    errors = [callers.outcomes[i] for i in (5, 15, 25)]
    assert all(isinstance(error, RedisCommandError) for error in errors)
    assert len(set(map(id, errors))) == 3  # an exception collects a traceback: never one for two callers
    assert Counter(map(str, callers.outcomes.values()))["b'v'"] == 27


async def test_a_forbidden_key_is_refused_to_its_caller_only(
    own_server: RedisServer, opened: Callable[..., Link], callers: Callers
) -> None:
    own_server.client().execute_command("ACL", "SETUSER", "gw", "on", ">pw", "+@all", "~open*")
    own_server.client().set("open", "v")
    gate = Gate(opened(own_server.url.replace("//", "//gw:pw@")))
    async with running(gate) as link:
        for i in range(30):
            callers.start(link, i, "GET", "secret" if i == 17 else "open")
        await eventually(lambda: len(callers.outcomes) == 30)
    assert isinstance(callers.outcomes.pop(17), RedisCommandError)
    assert set(callers.outcomes.values()) == {b"v"}


async def test_an_outage_goes_to_all_of_the_batch_each_its_own(gate: Gate, callers: Callers) -> None:
    async with running(gate) as link:
        hold = gate.close()
        for i in range(40):
            callers.start(link, i, "ECHO", str(i))
        await eventually(lambda: len(gate.alone) == 2 and len(gate.batches) >= 1)
        hold.let_go(Unavailable("connection reset"))
        await eventually(lambda: len(callers.outcomes) == 40)
        assert link.in_flight == 0
    outages = list(callers.outcomes.values())
    assert {outage.cause for outage in outages} == {"connection reset"}
    assert not any(outage.timed_out for outage in outages)
    assert len(set(map(id, outages[2:]))) == 38


# -- who goes away


async def test_a_cancelled_caller_costs_its_neighbours_nothing(
    own_server: RedisServer, opened: Callable[..., Link], callers: Callers
) -> None:
    inner = opened(own_server.url)
    gate = Gate(inner)
    async with running(gate) as link:
        await link.execute("PING")
        own_server.pause()
        for i in range(50):
            callers.start(link, i, "ECHO", str(i))
        await eventually(lambda: sum(map(len, gate.batches)) == 48)
        shared = [int(command[1]) for commands in gate.batches for command in commands]
        for i in shared[::2]:
            callers.scopes[i].cancel()
        await eventually(lambda: len(callers.times) == len(shared[::2]))
        assert link.in_flight == 50 - len(shared[::2])
        own_server.resume()
        await eventually(lambda: len(callers.times) == 50)
        assert link.in_flight == 0
    assert all(callers.outcomes[i] == b"%d" % i for i in shared[1::2])
    assert not set(shared[::2]) & set(callers.outcomes)
    assert not inner.identity.abandoned  # no connection was given up for it


async def test_what_is_given_up_before_it_was_sent_is_not_sent(
    server: RedisServer, gate: Gate, callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "_MORE_LANES", 0)
    async with running(gate) as link:
        hold = await hold_lanes(link, gate, callers)
        for name in ("given up", "kept"):
            callers.start(link, name, "INCR", name)
        await eventually(lambda: link.in_flight == 8)
        callers.scopes["given up"].cancel()
        await eventually(lambda: "given up" in callers.times)
        hold.let_go()
        await eventually(lambda: len(callers.times) == 8)
    assert callers.outcomes["kept"] == 1
    assert server.client().mget("given up", "kept") == [None, b"1"]


async def test_whoever_waits_when_it_ends_has_a_reply(gate: Gate, callers: Callers) -> None:
    link = BatchLink(gate, "the server", 5.0)

    async def let_go_once(ending: anyio.CancelScope, hold: Hold) -> None:
        await eventually(lambda: ending.cancel_called)
        hold.let_go()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.run)
        await anyio.wait_all_tasks_blocked()
        hold = await hold_lanes(link, gate, callers)
        for i in range(20):
            callers.start(link, i, "INCR", "n")
        await eventually(lambda: link.in_flight == 26)
        callers.tasks.start_soon(let_go_once, tasks.cancel_scope, hold)
        tasks.cancel_scope.cancel()
    await eventually(lambda: len(callers.times) == 26)
    assert sorted(callers.outcomes[i] for i in range(20)) == list(range(1, 21))
    callers.start(link, "afterwards", "GET", "n")
    await eventually(lambda: callers.outcomes.get("afterwards") == b"20")


# -- how long it waits


async def test_a_silent_server_costs_each_caller_the_timeout_and_no_more(
    own_server: RedisServer, opened: Callable[..., Link], callers: Callers
) -> None:
    async with running(opened(own_server.url, timeout=TIMEOUT), TIMEOUT) as link:
        await link.execute("PING")
        own_server.pause()
        for i in range(100):
            callers.start(link, i, "ECHO", str(i))
            if i % 10 == 9:
                await anyio.sleep(0.01)
        await eventually(lambda: len(callers.times) == 100)
        assert all(outage.timed_out for outage in callers.outcomes.values())
        assert min(callers.times.values()) >= TIMEOUT * 0.9
        assert max(callers.times.values()) < TIMEOUT + SCHEDULING
        own_server.resume()
        for i in range(100):
            callers.start(link, f"again {i}", "ECHO", str(i))
        await eventually(lambda: len(callers.times) == 200)
    assert all(callers.outcomes[f"again {i}"] == b"%d" % i for i in range(100))


async def test_waiting_for_a_lane_counts(gate: Gate, callers: Callers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_MORE_LANES", 0)
    async with running(gate, TIMEOUT) as link:
        hold = await hold_lanes(link, gate, callers)
        sent = len(gate.batches)
        for i in range(10):
            callers.start(link, i, "INCR", "n")
        await eventually(lambda: all(i in callers.times for i in range(10)))
        assert all(callers.outcomes[i].timed_out for i in range(10))
        assert all(TIMEOUT * 0.9 <= callers.times[i] < TIMEOUT + SCHEDULING for i in range(10))
        assert len(gate.batches) == sent  # not under way: what takes its place cannot be overtaken by it
        hold.let_go()


async def test_what_waited_for_a_lane_has_the_less_time_left(
    gate: Gate, callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate has no time limit of its own."""
    monkeypatch.setattr(batch, "_MORE_LANES", 0)
    async with running(gate, 1.0) as link:
        hold = await hold_lanes(link, gate, callers)
        callers.start(link, "late", "INCR", "n")
        await anyio.sleep(0.5)
        gate.close()  # what the lanes take up next is kept back once more
        hold.let_go()
        await eventually(lambda: "late" in callers.times)
    assert callers.outcomes["late"].timed_out
    assert 0.9 <= callers.times["late"] < 1.0 + SCHEDULING


async def test_only_calls_of_about_the_same_age_share_a_batch(
    gate: Gate, callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch ends as a whole: the old ones would wait too long, or the young ones not long enough."""
    monkeypatch.setattr(batch, "_MORE_LANES", 0)
    async with running(gate, 1.0) as link:
        hold = await hold_lanes(link, gate, callers)
        for age in ("old", "young"):
            for i in range(5):
                callers.start(link, f"{age} {i}", "ECHO", f"{age} {i}")
            await anyio.sleep(0.15)
        hold.let_go()
        await eventually(lambda: len(callers.times) == 16)
    ages = [{str(command[1]).split()[0] for command in commands} for commands in gate.batches]
    assert not any({"old", "young"} <= together for together in ages)
    assert max(map(len, gate.batches)) == 5


# -- what stands in the way


async def test_others_step_in_while_all_lanes_are_held_up(gate: Gate, callers: Callers) -> None:
    async with running(gate) as link:
        hold = await hold_lanes(link, gate, callers)
        gate.open()
        for i in range(30):
            callers.start(link, i, "ECHO", str(i))
        await eventually(lambda: all(i in callers.times for i in range(30)))
        assert callers.outcomes == {i: b"%d" % i for i in range(30)}
        assert max(callers.times.values()) < 1.0
        hold.let_go()


@pytest.mark.parametrize("command", [("SET", "k", b"x" * 100_000), ("MGET", *map(str, range(100)))])
async def test_a_large_command_goes_alone(gate: Gate, callers: Callers, command: Command) -> None:
    async with running(gate) as link:
        hold = gate.close()
        for i in range(20):
            callers.start(link, i, "ECHO", str(i))
        await eventually(lambda: link.in_flight == 20)
        callers.start(link, "large", *command)
        await eventually(lambda: command in gate.alone)
        hold.let_go()
        await eventually(lambda: len(callers.times) == 21)
    assert not any(command in commands for commands in gate.batches)


async def test_a_key_with_a_large_value_goes_alone_once_that_is_known(
    server: RedisServer, gate: Gate, callers: Callers
) -> None:
    server.client().set("large", b"x" * 100_000)

    async def read_all(link: BatchLink) -> None:
        callers.times.clear()
        gate.alone.clear()
        gate.batches.clear()
        hold = gate.close()
        for i in range(20):
            callers.start(link, i, "ECHO", str(i))
        await eventually(lambda: link.in_flight == 20)
        callers.start(link, "large", "GET", "large")
        await eventually(lambda: link.in_flight == 21)
        gate.open()
        hold.let_go()
        await eventually(lambda: len(callers.times) == 21)

    async with running(gate) as link:
        await read_all(link)
        assert ("GET", "large") not in gate.alone
        await read_all(link)
        assert ("GET", "large") in gate.alone
        assert len(callers.outcomes["large"]) == 100_000
        server.client().set("large", b"small now")
        await read_all(link)  # learns it
        await read_all(link)
        assert ("GET", "large") not in gate.alone
        assert callers.outcomes["large"] == b"small now"


# -- what a silence proves


async def timed_out_batch(link: BatchLink, gate: Gate, callers: Callers, *, others_answered: bool) -> list[Unavailable]:
    hold = gate.close()
    for i in range(12):
        callers.start(link, i, "ECHO", str(i))
    await eventually(lambda: sum(map(len, gate.batches)) == 10)
    if others_answered:
        gate.open()
        assert await link.execute_many([("PING",)]) == [b"PONG"]
    hold.let_go(no_answer(TIMEOUT, "the server"))
    await eventually(lambda: len(callers.times) == 12)
    return [callers.outcomes[int(command[1])] for command in gate.batches[0]]


async def test_a_silent_batch_counts_once_if_others_were_answered_meanwhile(gate: Gate, callers: Callers) -> None:
    """One connection has died unheard."""
    async with running(gate) as link:
        outages = await timed_out_batch(link, gate, callers, others_answered=True)
    assert len(outages) == 10
    assert [outage.repeated for outage in outages] == [False] + [True] * 9


async def test_every_call_of_a_silent_batch_counts_if_nobody_was_answered(gate: Gate, callers: Callers) -> None:
    async with running(gate) as link:
        outages = await timed_out_batch(link, gate, callers, others_answered=False)
    assert len(outages) == 10
    assert not any(outage.repeated for outage in outages)


async def test_an_answer_to_what_was_sent_before_does_not_say_that_redis_answers(gate: Gate, callers: Callers) -> None:
    """Redis falls silent just when it has answered another connection."""
    async with running(gate) as link:
        before = gate.close()
        callers.start(link, "before", "ECHO", "answered")
        await eventually(lambda: gate.held == 1)
        silence = gate.close()
        for i in range(12):
            callers.start(link, i, "ECHO", str(i))
        await eventually(lambda: len(gate.batches) == 1)
        before.let_go()
        await eventually(lambda: callers.outcomes.get("before") == b"answered")
        silence.let_go(no_answer(TIMEOUT, "the server"))
        await eventually(lambda: len(callers.times) == 13)
        outages = [callers.outcomes[int(command[1])] for command in gate.batches[0]]
    assert len(outages) > 8
    assert not any(outage.repeated for outage in outages)
