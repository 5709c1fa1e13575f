"""Who is registered in Redis, against real servers: what the others read is what an instance said last."""

from __future__ import annotations

import pytest

from meshcache.redis.link import Link
from meshcache.redis.names import Names
from meshcache.redis.registry import register
from meshcache.stamp import make_stamp
from meshcache.standings import Record, Standing
from meshcache.testing.server import RedisServer

pytestmark = pytest.mark.anyio

PLAIN = Standing(plain=True, clean=True, number=3)
KEEP = 600.0


@pytest.fixture
def server(each_server: RedisServer) -> RedisServer:
    return each_server


def record(node_id: int, standing: Standing = PLAIN, **rest: bool) -> Record:
    return Record(node_id, standing, 1_700_000_000_000, 15.0, **rest)


async def test_what_is_registered_is_what_the_others_read(link: Link, names: Names) -> None:
    stamped = Standing(plain=False, clean=False, plain_until=make_stamp(5, 0, 1), number=7)
    one = record(1, stamped, replays=True)._replace(addresses=(("127.0.0.1", 7001), ("::1", 7002)))
    assert await register(link, names, one, 1, KEEP) == []
    (read,) = await register(link, names, record(2, left=True), 1, KEEP)
    assert 10.0 < read.lease <= 15.0
    assert read._replace(lease=15.0) == one
    (read,) = await register(link, names, record(1), 2, KEEP)
    assert (read.node_id, read.standing, read.left, read.replays) == (2, PLAIN, True, False)


async def test_one_that_was_given_up_and_comes_late_changes_nothing(link: Link, names: Names) -> None:
    await register(link, names, record(1, replays=True), 9, KEEP)
    await register(link, names, record(1), 8, KEEP)
    (read,) = await register(link, names, record(2), 1, KEEP)
    assert read.replays
    await register(link, names, record(1), 10, KEEP)
    (read,) = await register(link, names, record(2), 2, KEEP)
    assert not read.replays


async def test_what_is_not_of_this_kind_is_passed_over(link: Link, names: Names, server: RedisServer) -> None:
    registry = names.registry
    server.client().hset(registry, mapping={"short": "1 1 x", "12345678": "99999999999999 1 x", "other": "no number"})
    assert await register(link, names, record(1), 1, KEEP) == []
    assert server.client().hkeys(registry) == [b"12345678", (1).to_bytes(8, "big")]
