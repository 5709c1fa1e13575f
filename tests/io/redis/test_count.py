"""Shares against real servers: what was counted is added once, in whichever order and however often it is brought."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable

import pytest

from meshcache.errors import RedisCommandError
from meshcache.redis.count import Counted, bring_shares, count
from meshcache.redis.fence import apply, expire
from meshcache.redis.link import Link
from meshcache.redis.names import Names
from meshcache.shares import MAX_VALUE, MIN_VALUE, Share, pack_share, share_key
from meshcache.stamp import NOBODY, Kind, Op, Stamp, make_stamp
from meshcache.testing.server import RedisServer

pytestmark = pytest.mark.anyio

HOUR_MS = 3_600_000
NOW = 1000.0
KEY = "gw:hits"
BESIDE = "{gw:hits}:meshcache:shares"


def stamp(ms: int, node: int = 1) -> Stamp:
    return make_stamp(ms, 0, node)


def share(
    series: int, newest: int, total: int, *, node: int = 1, slot: int = 0, expires_at: float = NOW + 60, beyond: int | None = None
) -> Op:  # fmt: skip
    packed = pack_share(Share(stamp(series, node), total, beyond))
    return Op(Kind.SET, share_key(node, slot, "hits"), stamp(newest, node), packed, expires_at)


Bring = Callable[..., Awaitable[list[bool]]]


@pytest.fixture
def server(each_server: RedisServer) -> RedisServer:
    return each_server


@pytest.fixture
def bring(link: Link, names: Names) -> Bring:
    async def bring_here(*ops: Op) -> list[bool]:
        return await bring_shares(link, names, ops, NOW, HOUR_MS)

    return bring_here


def value(server: RedisServer) -> int | None:
    found = server.client().get(KEY)
    return None if found is None else int(found)


async def test_a_share_is_added_once_however_often_it_is_brought(bring: Bring, server: RedisServer) -> None:
    server.client().set(KEY, 100)
    assert await bring(share(5, 5, 3), share(5, 5, 3)) == [True, True]
    assert await bring(share(5, 5, 3)) == [True]
    assert value(server) == 103
    assert await bring(share(5, 9, 10), share(5, 5, 3)) == [True, True]
    assert value(server) == 110
    assert await bring(share(5, 10, -4)) == [True]
    assert value(server) == 96


async def test_a_new_series_is_added_whole_and_the_old_one_never_again(bring: Bring, server: RedisServer) -> None:
    await bring(share(5, 7, 3))
    await bring(share(8, 8, 2))
    await bring(share(5, 7, 3))
    assert value(server) == 5


async def test_whoever_brings_it_and_in_any_order(bring: Bring, server: RedisServer) -> None:
    """Random schedules of many instances' shares, each step of each brought several times by anybody."""
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    for _ in range(20):
        server.client().flushall()
        ops, expected = [], 0
        for node in range(1, 5):
            total = 0
            for step in range(5):
                total += rng.randint(-9, 9)
                ops.append(share(10, 10 + step, total, node=node))
            expected += total
        ops += rng.choices(ops, k=20)
        rng.shuffle(ops)
        ops += [op for op in ops if op.stamp[:6] == stamp(14)[:6]]
        await bring(*ops)
        assert value(server) == expected, f"seed {seed}"


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
async def test_writes_and_shares_in_any_order(
    link: Link, names: Names, bring: Bring, server: RedisServer, order: tuple[int, ...]
) -> None:
    """A set ends what was counted before it and nothing that was counted after it."""
    steps = [
        share(5, 9, 50, node=2),
        Op(Kind.SET, "hits", stamp(6), b"100"),
        share(7, 7, 3),
        share(8, 8, 4, node=3),
    ]
    for place in order:
        op = steps[place]
        await (apply(link, names, [op], NOW, HOUR_MS) if op.key == "hits" else bring(op))
    assert value(server) == 107


@pytest.mark.parametrize("kind", [Kind.DELETE, Kind.INVALIDATE, Kind.SWEEP])
async def test_a_delete_ends_what_was_counted_before_it(
    link: Link, names: Names, bring: Bring, server: RedisServer, kind: Kind
) -> None:
    await bring(share(5, 5, 50), share(8, 8, 4, node=2, beyond=0))
    server.client().pexpire(KEY, 60_000)
    assert await apply(link, names, [Op(kind, "hits", stamp(6))], NOW, HOUR_MS) == [True]
    assert value(server) == 4
    assert 0 < server.client().pttl(KEY) <= 60_000
    if kind is not Kind.SWEEP:  # a sweep sets no fence where there was none
        assert await bring(share(5, 9, 60)) == [False]
        assert value(server) == 4


async def test_there_is_never_more_after_an_old_delete_than_before_it(
    link: Link, names: Names, bring: Bring, server: RedisServer
) -> None:
    """A plain delete leaves no trace among what was counted."""
    redis = server.client()
    for series, left in ((8, 1), (8, -1)):
        redis.flushall()
        await bring(share(series, series, 50), share(9, 9, 3, node=2))
        redis.delete(KEY)
        redis.incrby(KEY, left)
        await apply(link, names, [Op(Kind.DELETE, "hits", stamp(6))], NOW, HOUR_MS)
        assert value(server) == (1 if left == 1 else None)


async def test_what_somebody_changed_somehow_is_not_deleted_if_it_is_a_counter(
    link: Link, names: Names, bring: Bring, server: RedisServer
) -> None:
    """A server that was started anew may show too little of it; but that is better than nothing."""
    await bring(share(8, 8, 4))
    server.client().set("gw:other", "x")
    nobody = [Op(Kind.INVALIDATE, key, make_stamp(20, 0, NOBODY)) for key in ("hits", "other")]
    assert await apply(link, names, nobody, NOW, HOUR_MS) == [False, True]
    assert value(server) == 4
    assert server.client().get("gw:other") is None
    assert await bring(share(8, 9, 5)) == [True]
    assert value(server) == 5


async def test_a_new_time_to_live_of_a_counter_is_nothing_to_tell(
    link: Link, names: Names, bring: Bring, server: RedisServer
) -> None:
    """Who is told of shares would count them twice, if it were told of their sum too."""
    await apply(link, names, [Op(Kind.SET, "hits", stamp(6), b"100")], NOW, HOUR_MS)
    await bring(share(8, 8, 4))
    assert await expire(link, names, "hits", 5_000, 1, HOUR_MS) is True
    assert 4_000 < server.client().pttl(KEY) <= 5_000
    assert await bring(share(8, 9, 5)) == [True]
    assert value(server) == 105


async def test_a_counter_that_is_gone_does_not_come_back_with_a_delete(
    link: Link, names: Names, bring: Bring, server: RedisServer
) -> None:
    await bring(share(8, 8, 4))
    server.client().delete(KEY)
    await apply(link, names, [Op(Kind.DELETE, "hits", stamp(6))], NOW, HOUR_MS)
    assert value(server) is None


async def test_a_set_that_is_no_number_is_let_be(link: Link, names: Names, bring: Bring, server: RedisServer) -> None:
    await bring(share(8, 8, 4))
    await apply(link, names, [Op(Kind.SET, "hits", stamp(6), b"text")], NOW, HOUR_MS)
    assert server.client().get(KEY) == b"text"
    assert await bring(share(9, 9, 4)) == [False]
    server.client().delete(KEY)
    server.client().rpush(KEY, 1)
    assert await bring(share(9, 10, 4), share(9, 9, 1, node=2)) == [False, False]
    assert server.client().type(KEY) == b"list"


async def test_a_series_that_is_over_is_left_out(bring: Bring, server: RedisServer) -> None:
    ended = share(5, 5, 3, expires_at=NOW)
    forgotten = Op(Kind.INVALIDATE, share_key(3, 0, "hits"), stamp(5))
    assert await bring(ended, share(6, 6, 4, node=2), forgotten) == [False, True, False]
    assert value(server) == 4


@pytest.mark.parametrize(("beyond", "left"), [(None, -1), (0, 60_000), (5_000, 65_000)])
async def test_time_to_live(bring: Bring, server: RedisServer, beyond: int | None, left: int) -> None:
    """Of a counter that is made so: what remains.  One that exists keeps its own."""
    redis = server.client()
    await bring(share(5, 5, 3, beyond=beyond))
    assert redis.pttl(KEY) == pytest.approx(left, abs=1_000)
    redis.set(KEY, 1, px=7_000)
    await bring(share(5, 6, 4, beyond=beyond))
    assert 6_000 < redis.pttl(KEY) <= 7_000
    redis.persist(KEY)
    await bring(share(5, 7, 5, beyond=beyond))
    assert redis.pttl(KEY) == -1


async def test_what_was_added_is_remembered_longer_than_it_can_be_brought(bring: Bring, server: RedisServer) -> None:
    redis = server.client()
    await bring(share(5, 5, 3))
    assert 60_000 < redis.pttl(BESIDE) <= 90_000
    await bring(share(5, 5, 3, node=2, expires_at=NOW + 3600))
    assert redis.pttl(BESIDE) > HOUR_MS
    await bring(share(5, 5, 3, node=3))
    assert redis.pttl(BESIDE) > HOUR_MS
    assert redis.ttl("{gw:hits}:meshcache:fence") == -2  # increments set no fence


async def test_what_nobody_can_bring_any_more_is_forgotten(bring: Bring, server: RedisServer) -> None:
    """A counter that lives for ever, and instances that come and go."""
    for generation in range(1, 9):
        day = generation * 24 * HOUR_MS
        await bring(*(share(day, day, 1, node=generation * 100 + n) for n in range(32)))
    assert server.client().hlen(BESIDE) < 100
    assert value(server) == 8 * 32


# -- increments of this moment


async def test_each_has_its_number(link: Link, names: Names, server: RedisServer) -> None:
    results = [
        await count(
            link, names, share(series, series, by), by, now=NOW, life_ms=HOUR_MS, ttl_ms=5_000
        )
        for series, by in ((5, 3), (6, 4), (7, -1))
    ]  # fmt: skip
    assert [counted.value for counted in results] == [3, 7, 6]
    assert all(4_000 < (counted.left_ms or 0) <= 5_000 for counted in results)
    again = await count(link, names, share(7, 7, -1), -1, now=NOW, life_ms=HOUR_MS, ttl_ms=None)
    assert (again.value, value(server)) == (6, 6)


async def test_it_follows_a_fence_that_is_newer_and_tells_of_it(link: Link, names: Names, server: RedisServer) -> None:
    """A clock that is behind must not make an increment of this moment disappear."""
    await apply(link, names, [Op(Kind.SET, "hits", stamp(900, node=9), b"100")], NOW, HOUR_MS)
    counted = await count(link, names, share(5, 5, 3), 3, now=NOW, life_ms=HOUR_MS, ttl_ms=None)
    assert counted == Counted(103, None, stamp(900, node=9))


async def test_64_bit(link: Link, names: Names, server: RedisServer) -> None:
    redis = server.client()
    for start, by in (
        (MAX_VALUE - 5, 4),
        (MIN_VALUE + 5, -4),
        (0, MAX_VALUE),
        (0, MIN_VALUE),
        (2**53, 1),
        (-(2**53), -1),
    ):
        redis.flushall()
        redis.set(KEY, start)
        for _ in range(2):  # the second time it is there already
            counted = await count(link, names, share(5, 5, by), by, now=NOW, life_ms=HOUR_MS, ttl_ms=None)
            assert counted.value == start + by
        assert value(server) == start + by
    redis.set(KEY, MAX_VALUE)
    with pytest.raises(RedisCommandError, match=r"^ERR increment or decrement would overflow$"):
        await count(link, names, share(6, 6, 1), 1, now=NOW, life_ms=HOUR_MS, ttl_ms=None)
    for stored in ("text", "1.5", " 1"):
        redis.set(KEY, stored)
        with pytest.raises(RedisCommandError, match=r"^ERR value is not an integer or out of range$"):
            await count(link, names, share(7, 7, 1), 1, now=NOW, life_ms=HOUR_MS, ttl_ms=None)
        assert redis.get(KEY) == stored.encode()
    redis.delete(KEY)
    redis.rpush(KEY, 1)
    with pytest.raises(RedisCommandError, match=r"^WRONGTYPE"):
        await count(link, names, share(8, 8, 1), 1, now=NOW, life_ms=HOUR_MS, ttl_ms=None)


async def test_without_scripts_it_is_what_redis_has(
    opened: Callable[..., Link], names: Names, server: RedisServer
) -> None:
    redis = server.client()
    redis.acl_setuser("plain", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-@scripting"])
    try:
        link = opened(server.url.replace("redis://", "redis://plain:x@"))
        for number in (1, 2):
            counted = await count(link, names, share(5, 5, 1), 1, now=NOW, life_ms=HOUR_MS, ttl_ms=5_000)
            assert counted.value == number
            assert 4_000 < (counted.left_ms or 0) <= 5_000
        assert await bring_shares(link, names, [share(5, 5, 1)], NOW, HOUR_MS) == [False]
        redis.set(KEY, "text")
        with pytest.raises(RedisCommandError, match="not an integer"):
            await count(link, names, share(5, 5, 1), 1, now=NOW, life_ms=HOUR_MS, ttl_ms=None)
    finally:
        redis.acl_deluser("plain")
    assert redis.exists(BESIDE) == 0
