"""A user's program, for the type checker only: whoever calls meshcache like this must get no complaint, and the types said here."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, assert_type

from meshcache import (
    ClosedError,
    CodecError,
    ConfigError,
    Event,
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
from meshcache.blocking import BlockingMeshCache
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
        await loads(cache)


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
    assert_type(await cache.incr("hits"), int)
    assert_type(await cache.incr("hits", 5, ttl=timedelta(minutes=1)), int)
    assert_type(await cache.decr("hits", ttl=60), int)
    found: Mapping[str, Any] = await cache.get_many(["a", "b"])
    await cache.set_many({"a": 1, "b": found}, ttl=60)
    assert_type(await cache.delete_many(["a", "b"]), int)
    assert_type(await cache.keys("user:*"), list[str])
    names: list[str] = [key async for key in cache.scan("user:*")]
    assert_type(await cache.delete_match("user:*"), int)
    await cache.delete(*names)
    await cache.clear()


cache_of_module = MeshCache(None)


@cache_of_module.cached(ttl=60, key="user:{id}")
async def load_user(id: int, *, full: bool = False) -> dict[str, str]:
    return {"id": str(id), "full": str(full)}


@cache_of_module.cached(key=lambda number: f"square:{number}")
def square(number: int) -> int:
    return number * number


class Users:
    @cache_of_module.cached(ttl=timedelta(minutes=1), key="user:{id}")
    async def load(self, id: int) -> str:
        return str(id)


async def loads(cache: MeshCache) -> None:
    assert_type(await cache.get_or_set("key", some_bytes), bytes)
    assert_type(await cache.get_or_set("key", lambda: 7, ttl=60), int)
    assert_type(await load_user(1, full=True), dict[str, str])
    assert_type(await load_user.refresh(1), dict[str, str])
    assert_type(await load_user.invalidate(id=1), bool)
    assert_type(load_user.key(1), str)
    await load_user("1")  # type: ignore[arg-type]
    await load_user.refresh(1, half=True)  # type: ignore[call-arg]
    await load_user.invalidate()  # type: ignore[call-arg]
    assert_type(await square(7), int)
    users = Users()
    assert_type(await users.load(1), str)
    assert_type(await users.load.refresh(id=1), str)
    await users.load("1")  # type: ignore[arg-type]


async def some_bytes() -> bytes:
    return b""


def in_threads() -> None:
    with BlockingMeshCache("redis://localhost:6379/0", namespace="gateway", default_ttl=300) as cache:
        assert_type(cache, BlockingMeshCache)
        assert_type(cache.set("key", 1, ttl=0.5, nx=True), bool)
        value: dict[str, str] = cache.get("key")
        assert_type(cache.get_many(["key"]), dict[str, Any])
        assert_type(cache.delete("key"), int)
        assert_type(cache.keys(), list[str])
        assert_type(list(cache.scan()), list[str])
        assert_type(cache.get_or_set("key", lambda: 7, ttl=60), int)
        assert_type(cache.mode, Mode)
        assert_type(cache.peers, list[Peer])

        @cache.cached(ttl=60, key="user:{id}")
        def load(id: int) -> dict[str, str]:
            return value

        assert_type(load(1), dict[str, str])
        assert_type(load.refresh(id=1), dict[str, str])
        assert_type(load.invalidate(1), bool)
        load("1")  # type: ignore[arg-type]
        for event in cache.events():
            assert_type(event, Event)


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
