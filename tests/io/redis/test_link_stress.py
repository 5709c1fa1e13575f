"""Calls that are cancelled, timed out and cut off at random moments: no caller ever reads another's reply, and nothing is left over."""

from __future__ import annotations

import gc
import itertools
import random
from collections.abc import Callable

import anyio
import pytest

from meshcache.errors import Unavailable
from meshcache.redis.link import Link
from meshcache.testing.proxy import OutageProxy
from meshcache.testing.server import RedisServer
from tests.support import eventually

pytestmark = pytest.mark.anyio


async def test_replies_belong_to_their_commands_whatever_happens(
    server: RedisServer, opened: Callable[..., Link]
) -> None:
    chance = random.Random(20)
    outcomes: dict[str, int] = dict.fromkeys(("right", "cancelled", "unavailable"), 0)
    running = True

    async def caller(number: int, link: Link) -> None:
        for i in itertools.count():
            if i >= 60 and all(outcomes.values()):  # the dice may fall so that 60 calls meet one and the same trouble
                return
            word = f"{number}-{i}"
            with anyio.move_on_after(chance.choice((0.0005, 0.002, 5))) as scope:
                try:
                    if i % 3:
                        assert await link.execute("ECHO", word) == word.encode()
                    else:
                        words = [f"{word}-{j}" for j in range(5)]
                        replies = await link.execute_many([("ECHO", word) for word in words])
                        assert replies == [word.encode() for word in words]
                except Unavailable:
                    outcomes["unavailable"] += 1
                else:
                    outcomes["right"] += 1
            outcomes["cancelled"] += scope.cancelled_caught
            await anyio.sleep(chance.random() * 0.004)

    async def saboteur(proxy: OutageProxy) -> None:
        while running:
            chance.choice((proxy.reset, proxy.silence, proxy.refuse))()
            await anyio.sleep(chance.choice((0.001, 0.005, 0.1)))
            proxy.forward()
            await anyio.sleep(chance.random() * 0.01)

    with OutageProxy(server.host, server.port) as proxy:
        link = opened(proxy.url, timeout=0.05, connections=5)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(saboteur, proxy)
            with anyio.fail_after(30):
                async with anyio.create_task_group() as callers:
                    for number in range(20):
                        callers.start_soon(caller, number, link)
            running = False
        proxy.forward()
        assert link.in_flight == 0
        assert all(outcomes.values()), outcomes
        assert await link.execute("ECHO", "after") == b"after"
        await eventually(lambda: proxy.connections <= 5)
        await link.aclose()
        await eventually(lambda: proxy.connections == 0, message="no connection is left open")
    gc.collect()
