"""Instances that share one cache without Redis: real sockets on loopback, real keys."""

from __future__ import annotations

import logging
import secrets
import socket
import time
from collections.abc import Sequence

import anyio
import pytest

from meshcache import MeshCache, Mode, PeerJoined, PeerLeft, PeerModeChanged
from meshcache.runtime.surroundings import Surroundings
from meshcache.testing.proxy import OutageProxy
from meshcache.testing.server import RedisServer
from tests.io.cache.instances import LOOPBACK, SECRET, lone_cache, mesh
from tests.support import eventually, free_port

pytestmark = pytest.mark.anyio


async def seen(caches: Sequence[MeshCache], key: str, value: object) -> None:
    """Wait until every one of them reads this value."""
    for cache in caches:

        async def reads(cache: MeshCache = cache) -> bool:
            return bool(await cache.get(key) == value)

        await eventually(reads, message=f"{key} is {value!r}")


async def test_what_one_sets_the_others_read() -> None:
    async with mesh(None, None, None) as (one, two, three):
        await one.set("user:1", {"name": "Ada"}, ttl=60)
        await seen([two, three], "user:1", {"name": "Ada"})
        assert 59 <= await two.ttl("user:1") <= 60
        await two.set("user:1", {"name": "Grace"})
        await seen([one, three], "user:1", {"name": "Grace"})
        assert await three.ttl("user:1") == -1


async def test_what_one_deletes_none_serves() -> None:
    async with mesh(None, None, None) as caches:
        one, two, three = caches
        await one.set_many({"user:1": 1, "user:2": 2, "group:1": 3})
        await seen(caches, "group:1", 3)
        await three.delete("user:1")
        await seen(caches, "user:1", None)
        await two.delete_match("user:*")
        await seen(caches, "user:2", None)
        assert await one.get("group:1") == 3
        await one.clear()
        await seen(caches, "group:1", None)
        await one.set("user:1", "again")
        await seen(caches, "user:1", "again")


async def test_many_small_writes_reach_all() -> None:
    async with mesh(None, None) as (one, two):
        values = {f"key:{i}": i for i in range(500)}
        for key, value in values.items():
            await one.set(key, value)

        async def all_there() -> bool:
            return await two.get_many(values) == values

        await eventually(all_there)


async def test_an_expired_key_is_a_miss_everywhere() -> None:
    async with mesh(None, None) as caches:
        await caches[0].set("short", 1, ttl=0.3)
        await seen(caches, "short", 1)
        await seen(caches, "short", None)
        assert await caches[1].keys() == []


async def test_the_newest_write_wins_everywhere() -> None:
    """All write the same key at once, again and again; afterwards all agree."""
    async with mesh(None, None, None) as caches:

        async def write(cache: MeshCache, name: int) -> None:
            for i in range(50):
                await cache.set("hot", [name, i])
                await anyio.sleep(0)

        async with anyio.create_task_group() as tasks:
            for name, cache in enumerate(caches):
                tasks.start_soon(write, cache, name)

        async def agree() -> bool:
            values = [await cache.get("hot") for cache in caches]
            return values[0][1] == 49 and values.count(values[0]) == len(values)

        await eventually(agree)


async def test_peers_come_and_go() -> None:
    async with mesh(None, None) as (one, two):
        events = one.events()
        assert [peer.node_id for peer in one.peers] == [two.node_id]
        assert one.peers[0].host == "127.0.0.1"
        await two.aclose()
        with anyio.fail_after(2):
            event = await anext(events)
        assert isinstance(event, PeerLeft)
        assert event.reason == "bye"
        assert one.peers == []


async def test_the_mode_of_a_peer_is_known_at_once(redis_server: RedisServer, proxy: OutageProxy) -> None:
    async with mesh(redis_server.url, proxy.url) as (one, two):
        events = one.events()
        assert one.peers[0].mode is Mode.REDIS
        proxy.refuse()
        await two.set("key", 1)
        with anyio.fail_after(0.4):  # sooner than the next heartbeat would tell it
            event = await anext(events)
        assert isinstance(event, PeerModeChanged)
        assert event.peer.mode is Mode.MEMORY
        assert one.mode is Mode.REDIS


async def test_mdns_on_loopback() -> None:
    namespace = f"mdns-{secrets.token_hex(4)}"
    options = {"namespace": namespace, "secret": SECRET, "discovery": None}
    async with lone_cache(None, **options) as one, lone_cache(None, **options) as two:
        await one.wait_for_peers(1, timeout=10)
        await two.wait_for_peers(1, timeout=10)
        await one.set("key", 1)
        await seen([two], "key", 1)


async def test_another_namespace_is_another_mesh() -> None:
    ports = [free_port(socket.SOCK_DGRAM) for _ in range(3)]
    options = {"secret": SECRET, "discovery": [f"127.0.0.1:{port}" for port in ports]}
    async with (
        lone_cache(None, port=ports[0], **options) as one,
        lone_cache(None, port=ports[1], **options) as two,
        lone_cache(None, port=ports[2], **{**options, "namespace": "other"}) as other,
    ):
        await one.wait_for_peers(1)
        await other.set("key", "theirs")
        await one.set("key", "ours")
        await seen([two], "key", "ours")
        assert await other.get("key") == "theirs"
        assert other.peers == []
        assert len(one.peers) == 1


async def test_a_wrong_secret_stays_out_and_one_warning_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "meshcache")
    ports = [free_port(socket.SOCK_DGRAM) for _ in range(2)]
    discovery = [f"127.0.0.1:{port}" for port in ports]
    async with (
        lone_cache(None, port=ports[0], secret="the right secret", discovery=discovery) as one,
        lone_cache(None, port=ports[1], secret="the wrong secret", discovery=discovery) as two,
    ):
        await eventually(lambda: caplog.text.count("another key") == 2, message="both warn")
        await one.set("key", 1)
        await eventually(lambda: two.stats()["mesh"]["dropped_unknown_key"] > 2)
        assert await two.get("key") is None
        assert one.peers == two.peers == []
    assert caplog.text.count("another key") == 2
    assert "MESHCACHE_SECRET" in caplog.text
    assert "right secret" not in caplog.text
    assert "wrong secret" not in caplog.text


async def test_a_clock_far_ahead_is_not_believed_and_one_warning_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "meshcache")
    ports = [free_port(socket.SOCK_DGRAM) for _ in range(2)]
    options = {"secret": SECRET, "discovery": [f"127.0.0.1:{port}" for port in ports]}
    async with lone_cache(None, port=ports[0], **options) as right:
        with monkeypatch.context() as patch:
            world = Surroundings(wall_ms=lambda: time.time_ns() // 1_000_000 + 3_600_000)
            patch.setattr(MeshCache, "_surroundings", lambda _: world)
            wrong = lone_cache(None, port=ports[1], **options)
            await wrong.__aenter__()
        try:
            await wrong.wait_for_peers(1)
            await right.wait_for_peers(1)
            for i in range(10):
                await wrong.set("key", i)
            await eventually(lambda: right.stats()["stamps_refused"] >= 1)
            assert await right.get("key") is None
            await right.set("key", "right")
            assert await right.get("key") == "right"
        finally:
            await wrong.aclose()
    assert caplog.text.count("ahead of this host") == 1


async def test_without_a_secret_the_key_is_kept_in_redis(redis_server: RedisServer) -> None:
    async with mesh(redis_server.url, redis_server.url, secret=None) as (one, two):
        assert await one.keys() == []
        redis_server.kill()
        await one.set("key", 1)
        await eventually(lambda: one.mode is Mode.MEMORY)
        await seen([two], "key", 1)


async def test_a_redis_that_came_back_empty_does_not_split_the_mesh(redis_server: RedisServer) -> None:
    """All agree on a key again, and a newcomer who only knows the new one is let in."""
    async with mesh(redis_server.url, redis_server.url, secret=None) as (one, two):
        redis_server.restart()
        await one.set("key", 1)
        await two.get("key")
        for cache in (one, two):
            await eventually(lambda c=cache: c.mode is Mode.REDIS, 10)
        addresses = [f"127.0.0.1:{one.peers[0].port}", f"127.0.0.1:{two.peers[0].port}"]
        async with lone_cache(redis_server.url, discovery=addresses) as three:
            for cache in (one, two, three):
                await cache.wait_for_peers(2)
            redis_server.kill()
            for cache in (one, two, three):
                await cache.get("key")
            await three.set("key", 2)
            await seen([one, two], "key", 2)


async def test_without_secret_and_redis_it_stays_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "meshcache")
    async with lone_cache(None) as cache:
        await cache.set("key", 1)
        assert await cache.get("key") == 1
        assert cache.peers == []
    assert caplog.text.count("MESHCACHE_SECRET") == 1


async def test_datagrams_that_do_not_open_are_counted_and_dropped() -> None:
    async with mesh(None, None) as (one, two):
        port = two.peers[0].port
        garbage = [b"", b"x", secrets.token_bytes(23), secrets.token_bytes(1200), bytes(9000), b"MC" + bytes(100)]

        def dropped() -> int:
            return sum(count for name, count in one.stats()["mesh"].items() if name.startswith("dropped_"))

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind((LOOPBACK[0], 0))
            for data in garbage * 20:
                stranger.sendto(data, ("127.0.0.1", port))
            await eventually(lambda: dropped() >= len(garbage) * 20)
            stranger.setblocking(False)
            with pytest.raises(BlockingIOError):  # nothing was answered
                stranger.recv(2000)
        await two.set("key", 1)
        await seen([one], "key", 1)


async def test_an_instance_that_starts_in_the_outage_takes_part(redis_server: RedisServer) -> None:
    ports = [free_port(socket.SOCK_DGRAM) for _ in range(2)]
    options = {"secret": SECRET, "discovery": [f"127.0.0.1:{port}" for port in ports]}
    async with lone_cache(redis_server.url, port=ports[0], **options) as one:
        redis_server.kill()
        await one.get("key")
        async with lone_cache(redis_server.url, port=ports[1], **options) as late:
            events = one.events()
            await late.wait_for_peers(1)
            if not one.peers:
                assert isinstance(await anext(events), PeerJoined)
            await late.set("key", 1)
            await seen([one], "key", 1)


async def test_a_late_joiner_learns_what_was_written_before(redis_server: RedisServer) -> None:
    """Values, what was deleted, and what was swept; with what remains of their time to live."""
    ports = [free_port(socket.SOCK_DGRAM) for _ in range(2)]
    options = {"secret": SECRET, "discovery": [f"127.0.0.1:{port}" for port in ports]}
    redis_server.client().mset({"test:deleted": "old", "test:swept:1": "old"})
    async with lone_cache(redis_server.url, port=ports[0], **options) as one:
        redis_server.kill()
        await one.set_many({f"key:{i}": i for i in range(300)}, ttl=60)
        await one.delete("deleted")
        await one.delete_match("swept:*")
        async with lone_cache(redis_server.url, port=ports[1], **options) as late:
            await seen([late], "key:299", 299)

            async def complete() -> bool:
                return len(await late.keys("key:*")) == 300

            await eventually(complete)
            assert 1 <= await late.ttl("key:0") <= 60
            assert late.stats()["dirty"] == one.stats()["dirty"]
            await late.set("key:0", "newer")
            await seen([one], "key:0", "newer")


async def test_large_values_travel_in_pieces() -> None:
    async with mesh(None, None) as (one, two):
        await one.set("large", secrets.token_bytes(300_000))
        await seen([two], "large", await one.get("large"))
        await one.set("large", "small again")
        await seen([two], "large", "small again")


async def test_a_value_too_large_to_send_is_a_miss_at_the_peers() -> None:
    async with mesh(None, None) as (one, two):
        await one.set("key", "small")
        await seen([two], "key", "small")
        await one.set("key", bytes(2**21))
        await seen([two], "key", None)
        assert await one.get("key") == bytes(2**21)


async def test_a_port_in_use_is_named() -> None:
    from meshcache import ConfigError

    port = free_port(socket.SOCK_DGRAM)
    async with lone_cache(None, port=port):
        with pytest.raises(ConfigError, match="port"):
            async with lone_cache(None, port=port):
                pass
