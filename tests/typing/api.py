"""A user's program, for the type checker only: whoever calls meshcache like this must get no complaint, and the types said here."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, assert_type

from meshcache import (
    ClosedError,
    CodecError,
    ConfigError,
    MeshCache,
    MeshCacheError,
    Mode,
    ModeChanged,
    Peer,
    PeerJoined,
    PeerLeft,
    PeerModeChanged,
    RedisCommandError,
)
from meshcache.codecs import Codec
from meshcache.discovery import Announcement, Discovery, Mdns, Static


class UpperCase:
    """A codec of one's own needs no base class."""

    name = "upper"

    def encode(self, value: Any) -> bytes:
        return str(value).upper().encode()

    def decode(self, data: bytes) -> Any:
        return data.decode()


class Nobody:
    """So does a source of addresses."""

    name = "nobody"

    async def run(self, announcement: Announcement, found: Any) -> None:
        found("127.0.0.1", 7946)


codec: Codec = UpperCase()
source: Discovery = Nobody()


async def main() -> None:
    async with MeshCache(
        "redis://localhost:6379/0",
        namespace="gateway",
        secret="sixteen letters or more",
        codec=codec,
        default_ttl=timedelta(minutes=5),
        op_timeout=0.25,
        near_cache="serve",
        stale_ttl=30.0,
        discovery=[Mdns(), Static(["10.0.0.1:7946"]), "10.0.0.2:7946", source],
        interfaces=["127.0.0.1"],
        port=7946,
        max_entries=1000,
        on_recovery="replay",
    ) as cache:
        assert_type(cache, MeshCache)
        await calls(cache)
        await questions(cache)


async def calls(cache: MeshCache) -> None:
    assert_type(await cache.set("key", {"any": "value"}), bool)
    assert_type(await cache.set("key", 1, ttl=0.5, nx=True), bool)
    assert_type(await cache.set("key", 1, ttl=timedelta(days=1), xx=True), bool)
    assert_type(await cache.setex("key", 60, None), bool)
    value: dict[str, str] = await cache.get("key")
    await cache.get("key", default=value)
    assert_type(await cache.delete("key", "other"), int)
    assert_type(await cache.exists("key"), int)
    assert_type(await cache.ttl("key"), int)
    assert_type(await cache.expire("key", 60), bool)
    found: Mapping[str, Any] = await cache.get_many(["a", "b"])
    await cache.set_many({"a": 1, "b": found}, ttl=60)
    assert_type(await cache.delete_many(["a", "b"]), int)
    assert_type(await cache.keys("user:*"), list[str])
    names: list[str] = [key async for key in cache.scan("user:*")]
    assert_type(await cache.delete_match("user:*"), int)
    await cache.delete(*names)
    await cache.clear()


async def questions(cache: MeshCache) -> None:
    assert_type(cache.mode, Mode)
    assert_type(cache.is_available, bool)
    assert_type(cache.peers, list[Peer])
    assert_type(cache.node_id, str)
    assert_type(await cache.ping(), bool)
    assert_type(cache.stats()["mode"], Any)
    server: Mapping[str, Any] = await cache.info("server")
    print(server)
    await cache.wait_for_peers(2, timeout=5)
    async for event in cache.events():
        match event:
            case ModeChanged(old=old, new=new, cause=cause, held=held):
                assert_type(old, Mode)
                print(new, cause, held)
            case PeerJoined(peer=peer) | PeerLeft(peer=peer) | PeerModeChanged(peer=peer):
                assert_type(peer, Peer)


async def without_redis() -> None:
    cache = MeshCache(None, namespace="gateway")
    await cache.aclose()
    try:
        MeshCache.from_env(namespace="gateway", default_ttl=60)
    except ConfigError as error:
        assert_type(error.option, str)


ERRORS: tuple[type[MeshCacheError], ...] = (ClosedError, CodecError, ConfigError, RedisCommandError)
