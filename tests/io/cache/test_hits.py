"""A read that memory answers, in an outage or from the near cache: what the caller gets, and whether others get a turn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from meshcache import CodecError, MeshCache
from meshcache.testing.server import RedisServer
from tests.io.cache.instances import lone_cache
from tests.support import eventually

pytestmark = pytest.mark.anyio

PLACES = ["memory", "near"]


@asynccontextmanager
async def hits(request: pytest.FixtureRequest, where: str, **options: Any) -> AsyncIterator[MeshCache]:
    """A cache that answers from memory what it wrote itself."""
    url = request.getfixturevalue("redis_server").url if where == "near" else None
    async with lone_cache(url, near_cache="serve", op_timeout=5.0, **options) as cache:
        await eventually(lambda: where == "memory" or cache.stats()["near_tracking"])
        yield cache
        stats = cache.stats()
        assert stats["redis_hits"] == 0
        assert stats["near_hits" if where == "near" else "memory_hits"] > 0


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("value", [[1, [2]], {"a": {"b": []}}], ids=["list", "dict"])
async def test_what_one_caller_changes_no_other_sees(request: pytest.FixtureRequest, where: str, value: Any) -> None:
    async with hits(request, where) as cache:
        await cache.set("key", value)
        one, other = await cache.get("key"), await cache.get("key")
        assert one == other == value
        one.clear()
        assert other == value
        assert await cache.get("key") == value
        (await cache.get_many(["key"]))["key"].clear()
        assert await cache.get_many(["key"]) == {"key": value}


IMMUTABLE = [b"x" * 100, "text", "", 7, -(2**63), 2.5, True, None, datetime(2026, 11, 24, tzinfo=UTC)]


@pytest.mark.parametrize("where", PLACES)
async def test_what_cannot_change_is_right_at_every_hit_and_after_every_write(
    request: pytest.FixtureRequest, where: str
) -> None:
    async with hits(request, where) as cache:
        for value in IMMUTABLE:
            await cache.set("key", value)
            for _ in range(3):
                found = await cache.get("key", default="a miss")
                assert (type(found), found) == (type(value), value)
                assert await cache.get_many(["key"]) == {"key": value}
        await cache.delete("key")
        assert await cache.get("key", default="a miss") == "a miss"


class Counting:
    """JSON, in effect, that counts."""

    name = "counting"

    def __init__(self) -> None:
        self.decoded = 0

    def encode(self, value: Any) -> bytes:
        return repr(value).encode()

    def decode(self, data: bytes) -> Any:
        self.decoded += 1
        return eval(data)


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize(
    ("value", "times"),
    [("small", 1), (7, 1), ("large" * 1000, 10), ([1], 10), ((1, [2]), 10)],
    ids=["small text", "number", "large text", "list", "tuple"],
)
async def test_only_what_is_small_and_cannot_change_is_decoded_once(
    request: pytest.FixtureRequest, where: str, value: Any, times: int
) -> None:
    codec = Counting()
    async with hits(request, where, codec=codec) as cache:
        await cache.set("key", value)
        for _ in range(10):
            assert await cache.get("key") == value
    assert codec.decoded == times


@pytest.mark.parametrize("where", PLACES)
async def test_a_value_kept_twice_counts_twice(request: pytest.FixtureRequest, where: str) -> None:
    async with hits(request, where, codec="text") as cache:
        await cache.set("key", "x" * 1000)
        before = cache.stats()["bytes"]
        for _ in range(3):
            await cache.get("key")
        assert 1000 <= cache.stats()["bytes"] - before < 1200


@pytest.mark.parametrize("where", PLACES)
async def test_bytes_are_not_kept_twice(request: pytest.FixtureRequest, where: str) -> None:
    value = b"x" * 1000
    async with hits(request, where, codec="bytes") as cache:
        await cache.set("key", value)
        before = cache.stats()["bytes"]
        assert await cache.get("key") is await cache.get("key")
        assert cache.stats()["bytes"] == before


@pytest.mark.parametrize("where", PLACES)
async def test_what_cannot_be_decoded_is_an_error_at_every_hit(request: pytest.FixtureRequest, where: str) -> None:
    class Broken(Counting):
        def decode(self, data: bytes) -> Any:
            raise ZeroDivisionError

    async with hits(request, where, codec=Broken()) as cache:
        await cache.set("key", 1)
        for _ in range(2):
            with pytest.raises(CodecError):
                await cache.get("key")


@pytest.mark.parametrize("where", PLACES)
async def test_a_loop_of_hits_lets_others_have_their_turn(request: pytest.FixtureRequest, where: str) -> None:
    async with hits(request, where) as cache:
        await cache.set("key", "value")
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                await anyio.sleep(0)
                turns += 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            for _ in range(1000):
                await cache.get("key")
            tasks.cancel_scope.cancel()
        assert turns > 5


@pytest.mark.parametrize("where", PLACES)
async def test_a_wrong_key_is_an_error_and_no_miss(request: pytest.FixtureRequest, where: str) -> None:
    async with hits(request, where) as cache:
        await cache.set("key", "value")
        for wrong in (b"key", 1, None, ["key"]):
            with pytest.raises(TypeError):
                await cache.get(wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="empty"):
            await cache.get("")
        assert await cache.get("key") == "value"


async def test_hits_and_misses_are_counted_once(redis_server: RedisServer) -> None:
    async with lone_cache(None) as cache:
        await cache.set("key", "value")
        await cache.get("key")
        await cache.get("nothing")
        await cache.get_many(["key", "nothing", "nor this"])
        stats = cache.stats()
        assert (stats["memory_hits"], stats["memory_misses"]) == (2, 3)
