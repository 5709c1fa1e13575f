"""The clients and caches that meshcache is measured against, each behind the same few calls.

Set up as their own first page of documentation has it, and where there is a choice, the quicker way: no decoding of replies,
no pickle where it can be left out.  One that is not installed is left out; ``pip install --group bench`` installs them all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from meshcache import MeshCache
from tests.io.cache.instances import lone_cache
from tests.support import eventually

__all__ = ["MEMORY", "REDIS", "TTL", "Contender", "entered"]

TTL = 600


@dataclass
class Contender:
    """One of those who are measured.

    Attributes:
        package: what it comes in.
        get: reads one key.
        set: writes one key with a time to live.
        get_many: reads many keys; None if it cannot.
        is_async: whether the calls are awaited.
    """

    package: str
    get: Callable[[str], Any]
    set: Callable[[str, Any], Any]
    get_many: Callable[[list[str]], Any] | None = None
    is_async: bool = True


Maker = Callable[[AsyncExitStack, str], Awaitable[Contender]]


async def entered(stack: AsyncExitStack, makers: dict[str, Maker], url: str) -> tuple[dict[str, Contender], list[str]]:
    """Those that are installed, open until the stack is left; and the names of the others."""
    found: dict[str, Contender] = {}
    missing: list[str] = []
    for name, make in makers.items():
        try:
            found[name] = await make(stack, url)
        except ImportError:
            missing.append(name)
    return found, missing


def versions(contenders: Iterable[Contender]) -> str:
    """In one line."""
    return ", ".join(sorted({f"{contender.package} {_version(contender.package)}" for contender in contenders}))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout
        return "of this checkout"


# -- with a Redis


def _meshcache(near_cache: str) -> Maker:
    async def make(stack: AsyncExitStack, url: str) -> Contender:
        cache = lone_cache(url, namespace=f"mesh-{near_cache}", codec="bytes", near_cache=near_cache, op_timeout=5.0)
        await stack.enter_async_context(cache)
        await eventually(lambda: near_cache == "off" or cache.stats()["near_tracking"])
        return _of(cache)

    return make


def _of(cache: MeshCache) -> Contender:
    return Contender("meshcache", cache.get, lambda key, value: cache.set(key, value, ttl=TTL), cache.get_many)


async def _redis_py(stack: AsyncExitStack, url: str) -> Contender:
    from redis.asyncio import Redis

    client = Redis.from_url(url)
    stack.push_async_callback(client.aclose)
    return Contender("redis", client.get, lambda key, value: client.set(key, value, ex=TTL), client.mget)


async def _coredis(stack: AsyncExitStack, url: str) -> Contender:
    from coredis import Redis

    client = await stack.enter_async_context(Redis.from_url(url))

    async def get(key: str) -> object:
        return await client.get(key)

    async def set_(key: str, value: bytes) -> object:
        return await client.set(key, value, ex=TTL)

    async def get_many(keys: list[str]) -> object:
        return await client.mget(keys)

    return Contender("coredis", get, set_, get_many)


async def _glide(stack: AsyncExitStack, url: str) -> Contender:
    from glide import (
        ExpirySet,
        ExpiryType,
        GlideClient,
        GlideClientConfiguration,
        Logger,
        LogLevel,
        NodeAddress,
    )

    Logger.set_logger_config(LogLevel.OFF)
    host, port = url.removeprefix("redis://").partition("/")[0].split(":")
    configuration = GlideClientConfiguration([NodeAddress(host, int(port))], request_timeout=5000)
    client = await GlideClient.create(configuration)
    stack.push_async_callback(client.close)
    expiry = ExpirySet(ExpiryType.SEC, TTL)
    return Contender(
        "valkey-glide",
        client.get,
        lambda key, value: client.set(key, value, expiry=expiry),
        client.mget,
    )


async def _cashews(stack: AsyncExitStack, url: str) -> Contender:
    from cashews import Cache

    cache = Cache()
    cache.setup(url)
    stack.push_async_callback(cache.close)
    return Contender(
        "cashews", cache.get, lambda key, value: cache.set(key, value, expire=TTL), lambda keys: cache.get_many(*keys)
    )


async def _aiocache(stack: AsyncExitStack, url: str) -> Contender:
    from aiocache import RedisCache
    from aiocache.serializers import NullSerializer

    host, port = url.removeprefix("redis://").partition("/")[0].split(":")
    cache = RedisCache(endpoint=host, port=int(port), namespace="aio", serializer=NullSerializer(encoding=None))
    stack.push_async_callback(cache.close)
    return Contender("aiocache", cache.get, lambda key, value: cache.set(key, value, ttl=TTL), cache.multi_get)


REDIS: dict[str, Maker] = {
    "meshcache": _meshcache("standby"),
    "meshcache, near cache off": _meshcache("off"),
    "meshcache, near cache hit": _meshcache("serve"),
    "redis-py": _redis_py,
    "coredis": _coredis,
    "GLIDE": _glide,
    "cashews": _cashews,
    "aiocache": _aiocache,
}


# -- in memory


async def _meshcache_memory(stack: AsyncExitStack, url: str) -> Contender:
    return _of(await stack.enter_async_context(lone_cache(None, codec="bytes")))


async def _meshcache_msgpack(stack: AsyncExitStack, url: str) -> Contender:
    return _of(await stack.enter_async_context(lone_cache(None)))


async def _cashews_memory(stack: AsyncExitStack, url: str) -> Contender:
    return await _cashews(stack, "mem://")


async def _aiocache_memory(stack: AsyncExitStack, url: str) -> Contender:
    from aiocache import SimpleMemoryCache

    cache = SimpleMemoryCache()
    stack.push_async_callback(cache.close)
    return Contender("aiocache", cache.get, lambda key, value: cache.set(key, value, ttl=TTL), cache.multi_get)


async def _cachetools(stack: AsyncExitStack, url: str) -> Contender:
    from cachetools import TTLCache

    cache: Any = TTLCache(10_000, TTL)
    return Contender("cachetools", cache.get, cache.__setitem__, is_async=False)


MEMORY: dict[str, Maker] = {
    "meshcache": _meshcache_memory,
    "meshcache, msgpack": _meshcache_msgpack,
    "cashews": _cashews_memory,
    "aiocache": _aiocache_memory,
    "cachetools.TTLCache": _cachetools,
}
