"""Simulated TCP to a simulated Redis, under the real link: what a cut does, and what arrives after it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from meshcache.errors import Unavailable
from meshcache.redis.connect import open_link
from meshcache.redis.link import Link
from meshcache.testing.virtual import Process, VirtualLoop
from meshcache.testing.wire import ServerProcess, Wire

TIMEOUT = 0.25
SEEDS = range(20)


class World:
    """A server, and a process with a wire to it."""

    def __init__(self, seed: int) -> None:
        self.loop = VirtualLoop()
        self.server = ServerProcess(self.loop, Random(seed))
        self.server.start()
        self.process = Process(self.loop, "A")
        self.wire = Wire(self.process, self.server, Random(seed))
        self.loop.dial = lambda factory, _: self.wire.dial(factory)
        self.ran: list[list[bytes]] = []
        self.server.ran = lambda who, command, reply: self.ran.append(command)

    def run(self, main: Callable[[Link], Awaitable[None]]) -> None:
        async def inside() -> None:
            link = open_link("redis://a:6379", timeout=TIMEOUT)
            await main(link)
            await link.aclose()

        async def outside() -> None:
            await self.process.start(inside())

        self.loop.run_until_complete(outside())
        self.loop.close()

    async def fails(self, link: Link, *command: str) -> Unavailable:
        with pytest.raises(Unavailable) as caught:
            await link.execute(*command)
        return caught.value

    @property
    def value(self) -> object:
        assert self.server.model is not None
        return self.server.model.read(b"key")


def test_commands_are_answered() -> None:
    world = World(1)

    async def main(link: Link) -> None:
        assert await link.execute("SET", "key", "value") == b"OK"
        assert await link.execute_many([("GET", "key"), ("GET", "none"), ("EXISTS", "key")]) == [b"value", None, 1]
        assert await link.execute("HGETALL", "none") == []
        began = world.loop.time()
        assert await asyncio.gather(*(link.execute("GET", "key") for _ in range(10))) == [b"value"] * 10
        assert 0 < world.loop.time() - began < 0.01

    world.run(main)


@pytest.mark.parametrize(("state", "timed_out"), [("refuse", False), ("silent", True), ("half-open", True)])
def test_a_cut_is_an_outage_until_it_ends(state: str, timed_out: bool) -> None:
    world = World(2)

    async def main(link: Link) -> None:
        await link.execute("SET", "key", "old")
        world.wire.become(state)
        began = world.loop.time()
        outage = await world.fails(link, "SET", "key", "new")
        assert outage.timed_out == timed_out
        assert world.loop.time() - began == (pytest.approx(TIMEOUT) if timed_out else pytest.approx(0, abs=0.01))
        world.wire.become("ok")
        assert await link.execute("GET", "key") == b"new" if state == "half-open" else b"old"

    world.run(main)


def test_what_was_sent_into_silence_may_arrive_long_after_it_was_given_up() -> None:
    ends = set()
    for seed in SEEDS:
        world = World(seed)

        async def main(link: Link, world: World = world) -> None:
            await link.execute("SET", "key", "old")
            world.wire.become("silent")
            await world.fails(link, "SET", "key", "ghost")
            world.wire.become("ok")
            await link.execute("SET", "key", "new")
            await asyncio.sleep(10)
            ends.add(world.value)

        world.run(main)
    assert ends == {b"new", b"ghost"}


def test_a_connection_that_was_killed_brings_nothing_any_more() -> None:
    for seed in SEEDS:
        world = World(seed)

        async def main(link: Link, world: World = world) -> None:
            await link.execute("SET", "key", "old")
            world.wire.become("silent")
            await world.fails(link, "SET", "key", "ghost")
            world.wire.become("ok")
            (abandoned,) = link.identity.abandoned
            await link.execute_many([("CLIENT", "KILL", "ID", abandoned.number), ("SET", "key", "new")])
            await asyncio.sleep(10)
            assert world.value == b"new"

        world.run(main)


def test_a_stopped_server_does_later_what_nobody_waits_for_any_more() -> None:
    world = World(3)

    async def main(link: Link) -> None:
        await link.execute("SET", "key", "old")
        world.server.stop()
        assert (await world.fails(link, "SET", "key", "late")).timed_out
        assert world.value == b"old"
        world.server.go_on()
        assert world.value == b"late"

    world.run(main)


def test_a_killed_server_refuses_and_is_another_one_when_it_is_back() -> None:
    world = World(4)

    async def main(link: Link) -> None:
        await link.execute("SET", "key", "old")
        assert world.server.model is not None
        data, run_id = world.server.model.snapshot(), world.server.model.run_id
        link.identity.expected = run_id
        world.server.kill()
        assert not (await world.fails(link, "GET", "key")).timed_out
        world.server.start(data)
        assert "started anew" in (await world.fails(link, "GET", "key")).cause
        link.identity.expected = None
        assert await link.execute("GET", "key") == b"old"
        world.server.kill()
        world.server.start()
        assert await link.execute("GET", "key") is None

    world.run(main)


def test_a_stopped_process_learns_of_everything_when_it_goes_on() -> None:
    world = World(5)

    async def main(link: Link) -> None:
        await link.execute("SET", "key", "old")
        world.loop.at(world.loop.time() + 0.00001, world.process.stop)
        world.loop.at(world.loop.time() + 5, world.process.go_on)
        began = world.loop.time()
        with contextlib.suppress(Unavailable):  # the reply came in time, but so late was it looked at
            await link.execute("SET", "key", "new")
        assert world.loop.time() - began == pytest.approx(5, abs=0.01)
        assert world.value == b"new"

    world.run(main)


def test_a_pipeline_may_be_run_in_parts() -> None:
    interleaved = 0
    for seed in SEEDS:
        world = World(seed)

        async def main(link: Link) -> None:
            pipeline = [("SET", f"a{number}", "1") for number in range(5)]
            await asyncio.gather(link.execute_many(pipeline), *(link.execute("GET", "b") for _ in range(5)))

        world.run(main)
        places = [place for place, command in enumerate(world.ran) if command[0] == b"SET"]
        interleaved += places != list(range(places[0], places[0] + 5))
    assert 0 < interleaved < len(SEEDS)


def test_what_a_killed_process_had_sent_may_still_arrive() -> None:
    ends = set()
    for seed in SEEDS:
        world = World(seed)

        async def main(link: Link, world: World = world) -> None:
            await link.execute("SET", "key", "old")
            world.wire.become("silent")
            await world.fails(link, "SET", "key", "ghost")
            world.wire.hang_up()
            world.wire.become("ok")
            await asyncio.sleep(10)
            ends.add(world.value)

        world.run(main)
    assert ends == {b"old", b"ghost"}
