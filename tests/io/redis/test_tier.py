"""The Redis tier against a real server: what a caller of the cache would see."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meshcache.errors import RedisCommandError, Unavailable
from meshcache.redis.link import Link
from meshcache.redis.names import Names
from meshcache.redis.tier import RedisTier
from meshcache.testing.server import RedisServer
from meshcache.tier import NO_EXPIRY, NO_KEY, Tier
from tests.support import eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
async def tier(link: Link, names: Names) -> RedisTier:
    return RedisTier(link, names)


async def test_it_is_a_tier(tier: RedisTier) -> None:
    as_tier: Tier = tier
    assert await as_tier.get("k") is None


async def test_values_are_plain_keys_that_any_client_reads(tier: RedisTier, server: RedisServer) -> None:
    assert await tier.set("user:1", b"\x00\xff", None)
    assert server.client().get("gw:user:1") == b"\x00\xff"
    assert server.client().pttl("gw:user:1") == -1
    server.client().set("gw:user:2", b"theirs")
    assert await tier.get("user:2") == b"theirs"


async def test_hits_and_misses_are_counted(tier: RedisTier) -> None:
    await tier.set("a", b"1", None)
    await tier.get("a")
    await tier.get("b")
    await tier.get_many(["a", "b", "c"])
    assert (tier.hits, tier.misses) == (2, 3)


async def test_nx_and_xx(tier: RedisTier) -> None:
    assert not await tier.set("k", b"0", None, xx=True)
    assert await tier.set("k", b"1", 60_000, nx=True)
    assert not await tier.set("k", b"2", 60_000, nx=True)
    assert await tier.get("k") == b"1"
    assert await tier.set("k", b"3", 60_000, xx=True)
    assert await tier.get("k") == b"3"
    assert 59_000 < await tier.ttl_ms("k") <= 60_000


async def test_times_to_live(tier: RedisTier) -> None:
    assert await tier.ttl_ms("k") == NO_KEY
    assert not await tier.expire("k", 1000)
    assert not await tier.expire("k", None)
    await tier.set("k", b"v", None)
    assert await tier.ttl_ms("k") == NO_EXPIRY
    assert await tier.expire("k", None)  # there is such a key, whatever PERSIST says
    assert await tier.expire("k", 60_000)
    assert 59_000 < await tier.ttl_ms("k") <= 60_000
    assert await tier.expire("k", None)
    assert await tier.ttl_ms("k") == NO_EXPIRY


async def test_a_key_is_gone_after_its_time(tier: RedisTier, server: RedisServer) -> None:
    await tier.set("k", b"v", 1)
    await tier.set_many({"a": b"v", "b": b"v"}, 1)
    await eventually(lambda: server.client().dbsize() == 0)
    assert await tier.get_many(["k", "a", "b"]) == {}


async def test_delete_and_exists_count(tier: RedisTier) -> None:
    await tier.set_many({"a": b"1", "b": b"2"}, None)
    assert await tier.exists(["a", "a", "none", "b"]) == 3
    assert await tier.delete(["a", "none"]) == 1
    assert await tier.exists(["a", "b"]) == 1
    assert await tier.exists([]) == await tier.delete([]) == 0


async def test_thousands_of_keys_in_one_call(tier: RedisTier, server: RedisServer) -> None:
    values = {f"k{i}": b"%d" % i for i in range(3001)}
    await tier.set_many(values, 60_000)
    assert await tier.get_many([*values, "none"]) == values
    assert (tier.hits, tier.misses) == (3001, 1)
    assert await tier.exists(list(values)) == 3001
    assert await tier.delete(list(values)) == 3001
    assert server.client().dbsize() == 0
    assert await tier.get_many([]) == {}
    await tier.set_many({}, None)


async def test_keys_of_any_text(tier: RedisTier) -> None:
    for key in ("a key", "ключ", "{tag}", "a}b{", "*", "\n", "🐘", "x" * 1024):
        assert await tier.set(key, key.encode(), None)
        assert await tier.get(key) == key.encode()
        assert [found async for found in tier.scan("*") if found == key] == [key]


async def test_scan_finds_the_keys_of_the_namespace_and_no_others(link: Link, server: RedisServer) -> None:
    tier = RedisTier(link, Names("a.b-[x]*?"))
    server.client().mset({"a.b-x:1": "", "a.b-[x]*?1:1": "", "aXb-[x]*?:1": "", "other": ""})
    await tier.set_many({f"user:{i}": b"" for i in range(1500)} | {"group:1": b""}, None)
    found = [key async for key in tier.scan("user:*")]
    assert len(found) == 1500
    assert set(found) == {f"user:{i}" for i in range(1500)}
    assert len([key async for key in tier.scan("*")]) == 1501
    assert [key async for key in tier.scan("gr[a-z]up:?")] == ["group:1"]
    assert [key async for key in tier.scan("none")] == []


async def test_scan_leaves_out_keys_that_are_no_text(tier: RedisTier, server: RedisServer) -> None:
    server.client().set(b"gw:\xff\xfe", b"")
    await tier.set("k", b"v", None)
    assert [key async for key in tier.scan("*")] == ["k"]
    assert await tier.delete_match("*") == 1
    assert server.client().keys() == [b"gw:\xff\xfe"]


async def test_a_scan_may_be_left_early(tier: RedisTier) -> None:
    await tier.set_many({f"k{i}": b"" for i in range(2000)}, None)
    async for key in tier.scan("*"):
        assert key
        break
    assert await tier.get("k1") == b""


async def test_delete_match(tier: RedisTier, server: RedisServer) -> None:
    server.client().set("other:user:1", "")
    await tier.set_many({f"user:{i}": b"" for i in range(1500)} | {"group:1": b""}, None)
    assert await tier.delete_match("user:*") == 1500
    assert await tier.delete_match("user:*") == 0
    assert sorted(server.client().keys()) == [b"gw:group:1", b"other:user:1"]


async def test_what_is_no_string(tier: RedisTier, server: RedisServer) -> None:
    server.client().lpush("gw:list", "x")
    with pytest.raises(RedisCommandError, match=r"^WRONGTYPE"):
        await tier.get("list")
    await tier.set("k", b"v", None)
    assert await tier.get_many(["list", "k"]) == {"k": b"v"}  # Redis' own MGET says so
    assert await tier.set("list", b"v", None)


async def test_a_key_without_permission_in_a_call_over_many(
    own_server: RedisServer, opened: Callable[..., Link], names: Names
) -> None:
    own_server.client().execute_command("ACL", "SETUSER", "ada", "on", ">pw", "~gw:mine*", "+@all")
    tier = RedisTier(opened(f"redis://ada:pw@127.0.0.1:{own_server.port}/0"), names)
    with pytest.raises(RedisCommandError, match=r"^NOPERM"):
        await tier.set_many({"mine:1": b"", "theirs": b"", "mine:2": b""}, None)
    with pytest.raises(RedisCommandError, match=r"^NOPERM"):
        await tier.get("theirs")
    assert await tier.set("mine:3", b"", None)


async def test_an_outage_is_told_as_one(own_server: RedisServer, opened: Callable[..., Link], names: Names) -> None:
    tier = RedisTier(opened(own_server.url), names)
    await tier.set_many({f"k{i}": b"" for i in range(1200)}, None)
    keys = tier.scan("*")
    await anext(keys)
    own_server.kill()
    with pytest.raises(Unavailable):
        async for _ in keys:
            pass
    for call in (
        tier.get("k"),
        tier.get_many(["k"]),
        tier.set("k", b"", None),
        tier.set_many({"k": b""}, 1),
        tier.delete(["k"]),
        tier.exists(["k"]),
        tier.ttl_ms("k"),
        tier.expire("k", None),
        tier.delete_match("*"),
    ):
        with pytest.raises(Unavailable, match="connection refused"):
            await call
    assert tier.misses == 0
