"""Fenced writes and sweeps against real servers: no older write may overwrite what is newer, in whichever order they come."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import anyio
import pytest

from meshcache.errors import RedisCommandError, Unavailable
from meshcache.redis.fence import apply, publish_sweeps, read_sweeps, sweep
from meshcache.redis.link import Link
from meshcache.redis.names import Names
from meshcache.redis.tier import RedisTier
from meshcache.stamp import Kind, Op, Stamp, make_stamp
from meshcache.store import MAX_SWEEPS
from meshcache.testing.server import RedisServer
from tests.support import eventually

pytestmark = pytest.mark.anyio

HOUR_MS = 3_600_000
NOW = 1000.0


@pytest.fixture
def server(each_server: RedisServer) -> RedisServer:
    return each_server


def stamp(ms: int, node: int = 1) -> Stamp:
    return make_stamp(ms, 0, node)


def put(key: str, ms: int, value: bytes = b"v", expires_at: float = float("inf")) -> Op:
    return Op(Kind.SET, key, stamp(ms), value, expires_at)


async def applied(link: Link, names: Names, *ops: Op, fence_ttl_ms: int = HOUR_MS) -> list[bool]:
    return await apply(link, names, ops, NOW, fence_ttl_ms)


async def test_the_newer_wins_in_either_order(link: Link, names: Names, server: RedisServer) -> None:
    assert await applied(link, names, put("k", 5, b"five"), put("k", 7, b"seven")) == [True, True]
    assert await applied(link, names, put("k", 6, b"six")) == [False]
    assert server.client().get("gw:k") == b"seven"
    assert await applied(link, names, Op(Kind.DELETE, "k", stamp(8))) == [True]
    assert await applied(link, names, put("k", 7, b"again")) == [False]
    assert server.client().get("gw:k") is None
    assert await applied(link, names, put("k", 9, b"nine")) == [True]
    assert server.client().get("gw:k") == b"nine"


async def test_every_order_ends_the_same(link: Link, names: Names, server: RedisServer) -> None:
    ops = [
        put("k", 5, b"five"),
        Op(Kind.DELETE, "k", stamp(6)),
        put("k", 7, b"seven"),
        Op(Kind.INVALIDATE, "k", stamp(4)),
    ]
    for order in itertools.permutations(ops):
        server.client().flushall()
        await applied(link, names, *order)
        assert server.client().get("gw:k") == b"seven"


async def test_the_same_write_twice_is_applied_once(link: Link, names: Names) -> None:
    assert await applied(link, names, put("k", 5), put("k", 5)) == [True, False]


async def test_of_one_stamp_a_set_beats_an_invalidation(link: Link, names: Names, server: RedisServer) -> None:
    invalidation = Op(Kind.INVALIDATE, "k", stamp(5))
    assert await applied(link, names, invalidation, put("k", 5, b"v"), invalidation) == [True, True, False]
    assert server.client().get("gw:k") == b"v"


async def test_stamps_are_compared_byte_by_byte(link: Link, names: Names, server: RedisServer) -> None:
    """Whatever the bytes are: above 127, zero, or letters that a locale would sort otherwise."""
    chance = random.Random(1)
    alphabet = b"\x00\x01\nAaBbZz_~\x7f\x80\xc3\xe9\xff"
    for i in range(300):
        first, second = (Stamp(bytes(chance.choice(alphabet) for _ in range(16))) for _ in range(2))
        if i % 2:  # differ late
            second = Stamp(first[:15] + second[15:])
        ops = [Op(Kind.SET, f"k{i}", first, b"first"), Op(Kind.SET, f"k{i}", second, b"second")]
        assert await applied(link, names, *ops) == [True, second > first]


async def test_the_time_that_remains_goes_along(link: Link, names: Names, server: RedisServer) -> None:
    await applied(link, names, put("a", 5, expires_at=NOW + 60), put("b", 5), put("c", 5, expires_at=NOW + 0.0001))
    assert 59_000 < server.client().pttl("gw:a") <= 60_000
    assert server.client().pttl("gw:b") == -1
    server.client().set("gw:d", "old")
    assert await applied(link, names, put("d", 5, expires_at=NOW - 1), put("c", 6, expires_at=NOW)) == [True, True]
    assert server.client().exists("gw:d", "gw:c") == 0


async def test_a_fence_is_kept_for_its_time(link: Link, names: Names, server: RedisServer) -> None:
    await applied(link, names, put("k", 5), fence_ttl_ms=60_000)
    assert server.client().get(names.fence("k")) == stamp(5) + b"\x02"
    assert 59_000 < server.client().pttl(names.fence("k")) <= 60_000
    await applied(link, names, put("short", 5), fence_ttl_ms=1)
    await eventually(lambda: not server.client().exists(names.fence("short")))
    assert await applied(link, names, put("short", 4)) == [True]


async def test_fences_are_outside_every_pattern(link: Link, names: Names) -> None:
    for key in ("k", "{tag}k", "a}b"):
        await applied(link, names, put(key, 5))
    for namespace in ("gw", "g", "gw:x"):
        tier = RedisTier(link, Names(namespace))
        assert {key async for key in tier.scan("*")} <= {"k", "{tag}k", "a}b"}
    assert await RedisTier(link, names).delete_match("*") == 3
    assert await applied(link, names, put("k", 4)) == [False]  # the fence outlived that


async def test_a_plain_value_is_overwritten_whatever_it_is(link: Link, names: Names, server: RedisServer) -> None:
    server.client().rpush("gw:list", "x")
    server.client().rpush("gw:other", "x")
    assert await applied(link, names, put("list", 5), Op(Kind.DELETE, "other", stamp(5))) == [True, True]
    assert server.client().get("gw:list") == b"v"


async def test_thousands_in_one_call(link: Link, names: Names, server: RedisServer) -> None:
    ops = [put(f"k{i}", 5, b"x" * 600, NOW + 60) for i in range(3000)]
    assert await applied(link, names, *ops) == [True] * 3000
    assert await applied(link, names, *ops) == [False] * 3000
    assert await applied(link, names) == []
    assert server.client().dbsize() == 6000


async def test_a_server_that_forgets_its_scripts(link: Link, names: Names, server: RedisServer) -> None:
    assert await applied(link, names, put("k", 5)) == [True]
    server.client().script_flush()
    assert await applied(link, names, *(put(f"k{i}", 5) for i in range(700))) == [True] * 700


async def test_without_permission_for_scripts_writes_become_deletes(
    server: RedisServer, opened: Callable[..., Link], names: Names
) -> None:
    server.client().execute_command("ACL", "SETUSER", "ada", "reset", "on", ">pw", "~*", "+@all", "-@scripting")
    link = opened(f"redis://ada:pw@127.0.0.1:{server.port}/0")
    server.client().mset({"gw:a": "old", "gw:b": "old", "gw:c": "old"})
    assert await applied(link, names, put("a", 5), Op(Kind.DELETE, "b", stamp(5))) == [False, True]
    assert server.client().keys() == [b"gw:c"]
    await sweep(link, names, "*", stamp(9), HOUR_MS)
    assert server.client().keys() == []
    await publish_sweeps(link, names, {"*": stamp(9)}, HOUR_MS)
    assert await read_sweeps(link, names) == {}


async def test_an_outage_is_told_as_one(own_server: RedisServer, opened: Callable[..., Link], names: Names) -> None:
    link = opened(own_server.url)
    own_server.kill()
    for call in (
        apply(link, names, [put("k", 5)], NOW, HOUR_MS),
        sweep(link, names, "*", stamp(1), HOUR_MS),
        publish_sweeps(link, names, {"*": stamp(1)}, HOUR_MS),
        read_sweeps(link, names),
    ):
        with pytest.raises(Unavailable):
            await call


# -- sweeps


async def test_a_sweep_deletes_what_is_older_and_spares_what_is_newer(
    link: Link, names: Names, server: RedisServer
) -> None:
    server.client().mset({"gw:user:plain": "", "gw:group:plain": "", "other:user:1": ""})
    await applied(link, names, put("user:old", 5), put("user:new", 9), put("user:same", 7))
    await sweep(link, names, "user:*", stamp(7), HOUR_MS)
    left = {key for key in server.client().keys("*") if not key.startswith(b"{")}
    assert left == {b"gw:group:plain", b"other:user:1", b"gw:user:new"}
    # What it deleted does not come back by an older replay; what it never saw has no fence.
    assert await applied(link, names, put("user:old", 6), put("user:new", 8)) == [False, False]
    assert not server.client().exists(names.fence("user:plain"), names.fence("group:plain"))


async def test_a_sweep_of_thousands(link: Link, names: Names, server: RedisServer) -> None:
    server.client().mset({f"gw:k{i}": "" for i in range(5000)})
    await applied(link, names, put("k7", 9))
    await sweep(link, names, "*", stamp(7), HOUR_MS)
    assert sorted(server.client().keys()) == sorted([b"gw:k7", names.fence("k7")])
    await sweep(link, names, "*", stamp(7), HOUR_MS)  # nothing to do
    slowest = max((entry["duration"] for entry in server.client().slowlog_get(128)), default=0)
    assert slowest < 100_000  # us


async def test_a_sweep_takes_its_pattern_within_the_namespace_only(link: Link, server: RedisServer) -> None:
    server.client().mset({"a.b:1": "", "aXb:1": "", "a.b:2": ""})
    await sweep(link, Names("a.b"), "[12]", stamp(7), HOUR_MS)
    assert server.client().keys() == [b"aXb:1"]


async def test_published_sweeps_are_read_and_the_newest_stamp_wins(
    link: Link, names: Names, server: RedisServer
) -> None:
    assert await read_sweeps(link, names) == {}
    await publish_sweeps(link, names, {"user:*": stamp(5), "ключ:*": stamp(6)}, 60_000)
    await publish_sweeps(link, names, {"user:*": stamp(4), "ключ:*": stamp(9)}, 60_000)
    assert await read_sweeps(link, names) == {"user:*": stamp(5), "ключ:*": stamp(9)}
    assert await read_sweeps(link, Names("other")) == {}
    assert 59_000 < server.client().pttl(names.sweeps) <= 60_000
    await publish_sweeps(link, names, {}, 60_000)


async def test_too_many_sweeps_become_one_of_everything(link: Link, names: Names) -> None:
    first = {f"p{i}:*": stamp(100 + i, node=255) for i in range(MAX_SWEEPS)}
    await publish_sweeps(link, names, first, HOUR_MS)
    assert await read_sweeps(link, names) == first
    await publish_sweeps(link, names, {"one more": stamp(50)}, HOUR_MS)
    assert await read_sweeps(link, names) == {"*": stamp(100 + MAX_SWEEPS - 1, node=255)}


async def test_what_others_wrote_in_the_place_of_the_sweeps(link: Link, names: Names, server: RedisServer) -> None:
    server.client().hset(names.sweeps, mapping={b"\xff": stamp(5), b"short": b"x", b"good": stamp(6)})
    assert await read_sweeps(link, names) == {"good": stamp(6)}
    server.client().set(names.sweeps, "x")
    with pytest.raises(RedisCommandError, match="WRONGTYPE"):
        await publish_sweeps(link, names, {"*": stamp(7)}, HOUR_MS)
    with pytest.raises(RedisCommandError, match="WRONGTYPE"):
        await read_sweeps(link, names)


async def test_instances_that_publish_at_once_lose_none(
    server: RedisServer, opened: Callable[..., Link], names: Names
) -> None:
    async def one(i: int) -> None:
        await publish_sweeps(opened(server.url), names, {"all": stamp(i), f"p{i}": stamp(i)}, HOUR_MS)

    async with anyio.create_task_group() as tasks:
        for i in range(1, 21):
            tasks.start_soon(one, i)
    assert await read_sweeps(opened(server.url), names) == {"all": stamp(20)} | {
        f"p{i}": stamp(i) for i in range(1, 21)
    }
