"""The probe and the mesh's key against real servers."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from meshcache.errors import RedisCommandError, Unavailable
from meshcache.redis.link import Link, Server
from meshcache.redis.names import Names
from meshcache.redis.probe import agree_on_mesh_key, probe
from meshcache.testing.server import RedisServer

pytestmark = pytest.mark.anyio


async def test_a_probe_writes_and_says_who_answered(link: Link, names: Names, server: RedisServer) -> None:
    found = await probe(link, names)
    info = server.client().info("server")
    assert found.run_id == info["run_id"]
    assert found.version == info.get("valkey_version", info["redis_version"])
    assert found.software == ("valkey" if "valkey_version" in info else "redis")
    assert 0 < server.client().pttl(names.probe) <= 60_000


async def test_another_run_has_another_id(own_server: RedisServer, opened: Callable[..., Link], names: Names) -> None:
    link = opened(own_server.url)
    first = await probe(link, names)
    assert await probe(link, names) == first
    own_server.restart()
    assert (await probe(link, names)).run_id not in {first.run_id, ""}


async def test_info_may_be_forbidden(server: RedisServer, opened: Callable[..., Link], names: Names) -> None:
    server.client().execute_command("ACL", "SETUSER", "ada", "reset", "on", ">pw", "~*", "+@all", "-info")
    assert await probe(opened(f"redis://ada:pw@127.0.0.1:{server.port}/0"), names) == Server("", "", "redis")


async def test_writing_may_not(server: RedisServer, opened: Callable[..., Link], names: Names) -> None:
    server.client().execute_command("ACL", "SETUSER", "ada", "reset", "on", ">pw", "~gw:*", "+@all")
    link = opened(f"redis://ada:pw@127.0.0.1:{server.port}/0")
    with pytest.raises(RedisCommandError, match=r"^NOPERM"):
        await probe(link, names)
    with pytest.raises(RedisCommandError, match=r"^NOPERM"):
        await agree_on_mesh_key(link, names, bytes(32))


async def test_the_documented_acl_is_enough(server: RedisServer, opened: Callable[..., Link], names: Names) -> None:
    server.client().execute_command("ACL", "SETUSER", "ada", "reset", "on", ">pw", "~gw:*", "~{gw*", "+@all")
    link = opened(f"redis://ada:pw@127.0.0.1:{server.port}/0")
    assert (await probe(link, names)).run_id
    assert await agree_on_mesh_key(link, names, bytes(32)) == bytes(32)


async def test_a_server_that_is_down(own_server: RedisServer, opened: Callable[..., Link], names: Names) -> None:
    link = opened(own_server.url)
    own_server.kill()
    with pytest.raises(Unavailable, match="connection refused"):
        await probe(link, names)


async def test_all_instances_agree_on_one_key(server: RedisServer, opened: Callable[..., Link], names: Names) -> None:
    agreed: list[bytes] = []

    async def one(i: int) -> None:
        agreed.append(await agree_on_mesh_key(opened(server.url), names, bytes([i]) * 32))

    async with anyio.create_task_group() as tasks:
        for i in range(10):
            tasks.start_soon(one, i)
    assert len(agreed) == 10
    assert set(agreed) == {server.client().get(names.mesh_key)}
    assert server.client().pttl(names.mesh_key) == -1
    assert await agree_on_mesh_key(opened(server.url), Names("other"), b"o" * 32) == b"o" * 32


async def test_something_else_in_the_place_of_the_key(link: Link, names: Names, server: RedisServer) -> None:
    server.client().set(names.mesh_key, b"short")
    with pytest.raises(RedisCommandError, match="does not hold the 32 bytes") as caught:
        await agree_on_mesh_key(link, names, bytes(32))
    assert "short" not in str(caught.value)
    server.client().delete(names.mesh_key)
    server.client().rpush(names.mesh_key, b"x")
    with pytest.raises(RedisCommandError, match=r"^WRONGTYPE"):
        await agree_on_mesh_key(link, names, bytes(32))
