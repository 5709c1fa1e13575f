"""One load however many callers ask, and no loaded value that outlives a delete: with a real Redis, without, and in an outage."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from random import Random
from typing import Any

import anyio
import pytest
import redis as redis_py

from meshcache import ClosedError, CodecError, MeshCache, Mode, RedisCommandError
from meshcache.testing.proxy import OutageProxy
from meshcache.testing.server import RedisServer
from tests.io.cache.instances import lone_cache, mesh
from tests.io.cache.wires import Wires
from tests.support import eventually

pytestmark = pytest.mark.anyio


PATIENCE = 5.0  # a busy machine must cause no outage


@pytest.fixture(params=["redis", "redis without copies", "redis with stamps", "memory"])
async def cache(request: pytest.FixtureRequest, anyio_backend: Any) -> AsyncIterator[MeshCache]:
    """In each way in which a value can be stored."""
    if request.param == "redis with stamps":
        server, proxy = request.getfixturevalue("redis_server"), request.getfixturevalue("proxy")
        async with mesh(server.url, proxy.url) as (cache, other):
            await cut_off(other, proxy, cache)
            yield cache
        return
    url = None if request.param == "memory" else request.getfixturevalue("redis_server").url
    near_cache = "off" if request.param == "redis without copies" else "standby"
    async with lone_cache(url, near_cache=near_cache, op_timeout=PATIENCE) as cache:
        assert cache.mode == request.param.split()[0]
        yield cache


async def cut_off(other: MeshCache, proxy: OutageProxy, cache: MeshCache) -> None:
    """One instance loses Redis, and from now on the other stamps what it writes there."""
    proxy.refuse()
    await other.get("whatever")
    assert other.mode is Mode.MEMORY
    await eventually(lambda: not cache.stats()["writes_plainly"])
    assert cache.mode is Mode.REDIS


class Source:
    """What is behind the cache: slow, when a test wants it to be."""

    def __init__(self, value: Any = None, *, is_open: bool = True) -> None:
        self.value = value
        self.calls = 0
        self._called = anyio.Event()
        self._open = anyio.Event()
        if is_open:
            self._open.set()

    async def called(self) -> None:
        with anyio.fail_after(5):
            await self._called.wait()

    def open(self) -> None:
        self._open.set()

    async def __call__(self) -> Any:
        self.calls += 1
        value = self.value
        self._called.set()
        await self._open.wait()
        return value


async def while_loading(
    cache: MeshCache, change: Callable[[], Awaitable[object]], load: Callable[[Source], Awaitable[Any]]
) -> Any:
    """What ``load`` gives when the change is made while its loader runs."""
    source = Source("old", is_open=False)
    got: list[Any] = []

    async def call() -> None:
        got.append(await load(source))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await source.called()
            await change()
            source.open()
    assert source.calls == 1
    return got[0]


async def test_many_callers_make_one_load(cache: MeshCache) -> None:
    source = Source({"name": "Ada"}, is_open=False)
    got: list[Any] = []

    async def call() -> None:
        got.append(await cache.get_or_set("user:1", source, ttl=60))

    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(call)
        await source.called()
        source.open()
    assert got == [{"name": "Ada"}] * 100
    assert source.calls == 1
    assert await cache.get("user:1") == {"name": "Ada"}
    assert await cache.ttl("user:1") == 60


async def test_many_callers_of_a_quick_loader_make_one_load(cache: MeshCache) -> None:
    """The load is over before the last of them hears that the key was not there."""
    calls: list[int] = []

    def loader() -> int:
        calls.append(1)
        return 7

    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(cache.get_or_set, "key", loader)
    assert len(calls) == 1
    assert await cache.get("key") == 7


async def test_when_it_expires_one_load_again(cache: MeshCache) -> None:
    """Redis tells of the expiry that the very question causes: that is no change made since."""
    source = Source("value")
    for i in range(10):
        await cache.get_or_set("key", source, ttl=0.02)
        await eventually(lambda: is_gone(cache), every=0.001)
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(cache.get_or_set, "key", source, 60)
        assert source.calls == 2 * (i + 1)
        assert await cache.get("key") == "value"
        await cache.delete("key")


async def is_gone(cache: MeshCache) -> bool:
    return await cache.ttl("key") == -2


async def test_what_it_gives_is_what_the_codec_gives(cache: MeshCache) -> None:
    """Not another value for the first caller, and no value that callers share."""
    loaded = ("a", [1])
    first = await cache.get_or_set("key", lambda: loaded)
    assert first == ["a", [1]]
    first[1].append(2)
    assert loaded == ("a", [1])
    assert await cache.get_or_set("key", lambda: loaded) == ["a", [1]]


async def test_none_is_a_value(cache: MeshCache) -> None:
    source = Source(None)
    assert await cache.get_or_set("key", source) is None
    assert await cache.get_or_set("key", source) is None
    assert source.calls == 1


async def test_loaders_of_every_kind(cache: MeshCache) -> None:
    async def load(id: int) -> int:
        return id

    assert await cache.get_or_set("a", lambda: 1) == 1
    assert await cache.get_or_set("b", lambda: load(2)) == 2
    assert await cache.get_or_set("c", Source(3)) == 3
    assert await cache.get_many(["a", "b", "c"]) == {"a": 1, "b": 2, "c": 3}


async def test_an_error_stores_nothing(cache: MeshCache) -> None:
    def fails() -> None:
        raise LookupError("no such user")

    with pytest.raises(LookupError, match="no such user"):
        await cache.get_or_set("key", fails)
    assert await cache.exists("key") == 0
    assert await cache.get_or_set("key", Source(1)) == 1


async def test_bad_input_calls_no_loader(cache: MeshCache) -> None:
    source = Source(1)
    with pytest.raises(ValueError, match="key"):
        await cache.get_or_set("", source)
    with pytest.raises(ValueError, match="ttl"):
        await cache.get_or_set("key", source, ttl=0)
    with pytest.raises(TypeError, match="loader"):
        await cache.get_or_set("key", 1)  # type: ignore[arg-type]
    assert source.calls == 0
    with pytest.raises(CodecError):
        await cache.get_or_set("key", Source(object()))
    assert await cache.exists("key") == 0


async def test_what_redis_refuses_reaches_all_callers(redis_server: RedisServer) -> None:
    async with lone_cache(redis_server.url) as cache:
        redis_server.client().rpush("test:list", "x")
        with pytest.raises(RedisCommandError, match="WRONGTYPE"):
            await cache.get_or_set("list", Source(1))


@pytest.mark.parametrize(
    "change",
    [
        lambda cache: cache.delete("key"),
        lambda cache: cache.delete_many(["other", "key"]),
        lambda cache: cache.delete_match("k*"),
        lambda cache: cache.clear(),
    ],
    ids=["delete", "delete_many", "delete_match", "clear"],
)
async def test_a_delete_while_it_loads(cache: MeshCache, change: Callable[[MeshCache], Awaitable[object]]) -> None:
    seen: list[Any] = []

    async def change_and_ask() -> None:
        await change(cache)
        seen.append(await cache.get_or_set("key", Source("new")))

    got = await while_loading(cache, change_and_ask, lambda source: cache.get_or_set("key", source))
    assert got == "old"  # asked for before the delete
    assert seen == ["new"]
    assert await cache.get("key") == "new"

    await cache.delete("key")
    await while_loading(cache, lambda: change(cache), lambda source: cache.get_or_set("key", source))
    assert await cache.get("key") is None


@pytest.mark.parametrize(
    "change",
    [
        lambda cache: cache.set("key", "new"),
        lambda cache: cache.setex("key", 60, "new"),
        lambda cache: cache.set_many({"key": "new"}),
    ],
    ids=["set", "setex", "set_many"],
)
async def test_a_write_while_it_loads(cache: MeshCache, change: Callable[[MeshCache], Awaitable[object]]) -> None:
    await while_loading(cache, lambda: change(cache), lambda source: cache.get_or_set("key", source))
    assert await cache.get("key") == "new"


async def test_an_increment_while_it_loads(cache: MeshCache) -> None:
    await while_loading(cache, lambda: cache.incr("key", 5), lambda source: cache.get_or_set("key", source))
    assert await cache.get("key") == 5


@pytest.mark.parametrize("load", ["get_or_set", "refresh"])
@pytest.mark.parametrize("change", ["delete", "delete_many", "delete_match", "clear", "set", "set_many"])
async def test_a_change_while_the_value_is_on_its_way_comes_after_it(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, load: str, change: str
) -> None:
    async with lone_cache(redis_server.url, near_cache="off", op_timeout=5.0) as cache:
        changes = {
            "delete": lambda: cache.delete("key"),
            "delete_many": lambda: cache.delete_many(["other", "key"]),
            "delete_match": lambda: cache.delete_match("k*"),
            "clear": cache.clear,
            "set": lambda: cache.set("key", "new"),
            "set_many": lambda: cache.set_many({"key": "new"}),
        }
        loads = {"get_or_set": cache.get_or_set, "refresh": partial(cache._refresh, ttl=None)}
        fill = cache._loading._shelf.fill
        on_its_way, arrives, done = anyio.Event(), anyio.Event(), anyio.Event()

        async def slow(*args: Any, **kwargs: Any) -> bool:
            on_its_way.set()
            await arrives.wait()
            return await fill(*args, **kwargs)

        async def make_change() -> None:
            await changes[change]()
            done.set()

        monkeypatch.setattr(cache._loading._shelf, "fill", slow)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(loads[load], "key", Source("old"))
                await on_its_way.wait()
                tasks.start_soon(make_change)
                await anyio.wait_all_tasks_blocked()
                await cache.get("key")  # time enough for a change that does not wait
                has_waited = not done.is_set()
                arrives.set()
        assert has_waited
        assert await cache.get("key") == ("new" if change.startswith("set") else None)


async def deletes_all_the_time(cache: MeshCache, versions: int) -> None:
    """Whoever asks after a delete gets what the source said after it, and so does whoever asks next."""
    version = 0

    async def load() -> int:
        loaded = version
        for _ in range(loaded % 4):
            await anyio.lowlevel.checkpoint()
        return loaded

    async def ask() -> None:
        while version < versions:
            asked = version
            assert await cache.get_or_set("key", load) >= asked - 1  # of the newest the delete may be under way

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(ask)
        for version in range(1, versions + 1):
            await cache.delete("key")
            assert await cache.get_or_set("key", load) == version
    assert await cache.get("key") == versions


async def test_deletes_all_the_time(cache: MeshCache) -> None:
    await deletes_all_the_time(cache, 200)


@pytest.mark.parametrize("near_cache", ["off", "standby", "serve"])
async def test_deletes_all_the_time_while_answers_are_late(redis_server: RedisServer, near_cache: Any) -> None:
    random = Random(1)
    with Wires(redis_server.host, redis_server.port) as wires:
        async with lone_cache(wires.url, near_cache=near_cache, op_timeout=5.0) as cache:
            wires.reply_delay = wires.tracked_delay = lambda: random.choice([0, 0, 0.001, 0.003])
            await deletes_all_the_time(cache, 50)


async def test_a_delete_that_takes_its_time_while_a_load_asks(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The load asks after the delete has been called and before Redis has made it, and hears afterwards."""
    raw = redis_server.client()
    async with lone_cache(redis_server.url, near_cache="off", op_timeout=5.0) as cache:
        codec, find = cache._codec, cache._loading._shelf.find
        asked, heard, answers = anyio.Event(), anyio.Event(), []

        async def late(key: str) -> bytes | None:
            if not answers:
                raw.set("test:key", codec.encode("old"))
                raw.client_pause(5_000, all=False)  # writes wait, reads are served
                tasks.start_soon(delete)
                await anyio.wait_all_tasks_blocked()
            answers.append(await find(key))
            if len(answers) == 2:
                asked.set()
                await heard.wait()
            return answers[-1]

        deleted = anyio.Event()

        async def delete() -> None:
            await cache.delete("key")
            deleted.set()

        got: list[Any] = []

        async def ask() -> None:
            got.append(await cache.get_or_set("key", Source("new")))

        monkeypatch.setattr(cache._loading._shelf, "find", late)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await asked.wait()
                raw.client_unpause()
                await deleted.wait()
                tasks.start_soon(ask)
                await anyio.wait_all_tasks_blocked()
                heard.set()
        assert answers[:2] == [codec.encode("old")] * 2
        assert got == ["new", "new"]


async def test_a_write_of_somebody_else_while_it_loads(redis_server: RedisServer) -> None:
    async with lone_cache(redis_server.url, near_cache="off") as cache, lone_cache(redis_server.url) as other:
        await while_loading(cache, lambda: other.set("key", "new"), lambda source: cache.get_or_set("key", source))
        assert await cache.get("key") == "new"


async def test_a_write_and_delete_of_somebody_else_while_it_loads(
    redis_server: RedisServer,
) -> None:
    async with lone_cache(redis_server.url) as cache, lone_cache(redis_server.url) as other:

        async def change() -> None:
            await other.set("key", "new")
            await other.delete("key")
            await told(cache, redis_server.client())

        await while_loading(cache, change, lambda source: cache.get_or_set("key", source))
        assert await cache.exists("key") == 0


async def told(cache: MeshCache, raw: redis_py.Redis) -> None:
    """Wait until the cache has heard of every change made so far: Redis tells in order."""
    await cache.set("told", "no")
    before = cache.stats()["near_invalidated"]
    raw.set("test:told", "yes")
    await eventually(lambda: cache.stats()["near_invalidated"] > before, message="invalidation")


async def test_a_delete_by_a_peer_while_it_loads() -> None:
    """In an outage: heard before the value is stored, or after; the delete wins on both instances."""
    async with mesh(None, None) as (one, two):

        async def delete() -> None:
            await next_millisecond()
            await two.delete("key")

        async def delete_and_ask() -> None:
            await delete()
            await two.set("deleted", 1)
            await eventually(lambda: one.exists("deleted"))
            assert await one.get_or_set("key", Source("new")) == "new"

        assert await while_loading(one, delete_and_ask, lambda source: one.get_or_set("key", source)) == "old"
        assert await one.get("key") == "new"
        await one.delete("key")

        await while_loading(one, delete, lambda source: one.get_or_set("key", source))
        await one.set("from one", 1)
        await two.set("from two", 1)
        await eventually(lambda: one.exists("from two"))
        await eventually(lambda: two.exists("from one"))
        assert await two.get("key") is None
        assert await one.get("key") is None


async def test_a_delete_by_one_that_is_cut_off_while_it_loads(redis_server: RedisServer, proxy: OutageProxy) -> None:
    """Heard of, or not yet: then Redis is told of it later, and the stamps decide."""
    async with mesh(redis_server.url, proxy.url) as (one, two):
        await cut_off(two, proxy, one)

        async def delete() -> None:
            await next_millisecond()
            await two.delete("key")

        async def delete_and_tell() -> None:
            await delete()
            await two.set("deleted", 1)
            await eventually(lambda: one.exists("deleted"))

        for change in (delete_and_tell, delete):
            await while_loading(one, change, lambda source: one.get_or_set("key", source))
            await one.set("told", 1)
            await two.set("told too", 1)
            await eventually(lambda: one.exists("told too"))
            await eventually(lambda: two.exists("told"))
            await eventually(lambda: not one.stats()["dirty"])
            assert await one.get("key") is None
            assert await two.get("key") is None
            assert not redis_server.client().exists("test:key")
            await one.delete("deleted", "told", "told too")


async def test_one_that_is_cut_off_reads_what_another_has_loaded(redis_server: RedisServer, proxy: OutageProxy) -> None:
    async with mesh(redis_server.url, proxy.url) as (one, two):
        await cut_off(two, proxy, one)
        await one.get_or_set("key", Source("value"), ttl=60)
        assert redis_server.client().exists("test:key")
        await eventually(lambda: two.exists("key"))
        assert await two.get_or_set("key", Source("other")) == "value"


async def next_millisecond() -> None:
    """Two instances that have not heard of each other agree on an order by their clocks, which count milliseconds."""
    start = time.time_ns() // 1_000_000
    await eventually(lambda: time.time_ns() // 1_000_000 > start, every=0.001)


async def test_instances_share_what_one_has_loaded_in_an_outage() -> None:
    async with mesh(None, None) as (one, two):
        await one.get_or_set("key", Source("value"), ttl=60)
        await eventually(lambda: two.exists("key"))
        source = Source("other")
        assert await two.get_or_set("key", source) == "value"
        assert source.calls == 0


async def test_redis_goes_away_while_it_loads(redis_server: RedisServer, proxy: OutageProxy) -> None:
    async with lone_cache(proxy.url) as cache:

        async def cut() -> None:
            proxy.refuse()

        got = await while_loading(cache, cut, lambda source: cache.get_or_set("key", source, ttl=60))
        assert got == "old"
        assert cache.mode is Mode.MEMORY
        assert await cache.get("key") == "old"
        proxy.forward()
        await eventually(lambda: cache.mode is Mode.REDIS, 10)
        assert await cache.get("key") == "old"
        assert redis_server.client().exists("test:key")


async def test_loads_through_an_outage_and_back(redis_server: RedisServer, proxy: OutageProxy) -> None:
    source = Source("value")
    async with lone_cache(proxy.url) as cache:
        proxy.refuse()
        assert await cache.get_or_set("key", source, ttl=60) == "value"
        assert cache.mode is Mode.MEMORY
        proxy.forward()
        await eventually(lambda: cache.mode is Mode.REDIS, 10)
        assert await cache.get_or_set("key", source, ttl=60) == "value"
        assert source.calls == 1


async def test_closed_while_it_loads(cache: MeshCache) -> None:
    """Whoever waits gets what is loaded; then there is no cache any more."""
    got: list[Any] = []
    source = Source("value", is_open=False)

    async def call() -> None:
        got.append(await cache.get_or_set("key", source))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await source.called()
        for _ in range(3):
            tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()  # some wait for the load, some may still wait for Redis
        await cache.aclose()
        source.open()
    assert got == ["value"] * 4
    with pytest.raises(ClosedError):
        await cache.get_or_set("key", source)


async def test_counts_as_one_question(cache: MeshCache) -> None:
    tier = str(cache.mode)
    await cache.get_or_set("key", Source(1))
    await cache.get_or_set("key", Source(1))
    stats = cache.stats()
    assert (stats[f"{tier}_hits"], stats[f"{tier}_misses"]) == (1, 1)


# -- cached


async def test_cached(cache: MeshCache) -> None:
    calls: list[int] = []

    @cache.cached(ttl=60, key="user:{id}")
    async def load_user(id: int) -> dict[str, int]:
        calls.append(id)
        return {"id": id, "call": len(calls)}

    assert await load_user(1) == await load_user(id=1) == {"id": 1, "call": 1}
    assert await cache.get("user:1") == {"id": 1, "call": 1}
    assert await cache.ttl("user:1") == 60
    assert await load_user(2) == {"id": 2, "call": 2}
    assert await load_user.invalidate(1)
    assert not await load_user.invalidate(1)
    assert await load_user(1) == {"id": 1, "call": 3}
    assert await load_user.refresh(1) == await load_user(1) == {"id": 1, "call": 4}
    assert await load_user(2) == {"id": 2, "call": 2}


async def test_cached_for_many_callers(cache: MeshCache) -> None:
    calls: list[int] = []

    @cache.cached()
    async def load(id: int) -> int:
        calls.append(id)
        return id

    async with anyio.create_task_group() as tasks:
        for i in range(100):
            tasks.start_soon(load, i % 2)
    assert sorted(calls) == [0, 1]


@pytest.mark.parametrize("change", ["delete", "set", "refresh"])
async def test_a_change_while_it_is_refreshed(cache: MeshCache, change: str) -> None:
    source = Source("new")
    await cache.set("key", "first")

    @cache.cached(key="key")
    async def load(source: Source) -> Any:
        return await source()

    changes = {
        "delete": lambda: cache.delete("key"),
        "set": lambda: cache.set("key", "new"),
        "refresh": lambda: load.refresh(source),
    }
    assert await while_loading(cache, changes[change], load.refresh) == "old"
    assert await cache.get("key") == (None if change == "delete" else "new")


async def test_a_delete_by_somebody_else_while_it_is_refreshed(redis_server: RedisServer) -> None:
    async with lone_cache(redis_server.url) as cache:
        raw = redis_server.client()

        @cache.cached(key="key")
        async def load(source: Source) -> Any:
            return await source()

        async def delete() -> None:
            raw.delete("test:key")
            await told(cache, raw)

        await cache.set("key", "first")
        await while_loading(cache, delete, load.refresh)
        assert not raw.exists("test:key")


async def test_what_is_stored_stays_if_a_refresh_fails(cache: MeshCache) -> None:
    @cache.cached(key="key")
    async def load() -> str:
        raise LookupError("no source")

    await cache.set("key", "old")
    with pytest.raises(LookupError):
        await load.refresh()
    assert await load() == "old"


async def test_cached_before_the_cache_is_open(redis_server: RedisServer) -> None:
    cache = lone_cache(redis_server.url)

    @cache.cached(key="twice:{number}")
    def twice(number: int) -> int:
        return number * 2

    for call in (twice(2), twice.invalidate(2), twice.refresh(2)):
        with pytest.raises(ClosedError, match="async with"):
            await call
    async with cache:
        assert await twice(2) == 4
    with pytest.raises(ClosedError, match="closed"):
        await twice(2)


async def test_wrong_use_of_cached_is_told_at_once() -> None:
    cache = MeshCache(None)
    with pytest.raises(ValueError, match="ttl"):
        cache.cached(ttl=0)
    with pytest.raises(ValueError, match="no parameter of"):

        @cache.cached(key="user:{nmae}")
        async def load(name: str) -> None: ...

    def make(factor: int) -> Any:
        @cache.cached()
        async def times(number: int) -> int:
            return factor * number

        return times

    make(2)
    with pytest.raises(ValueError, match="pass key="):
        make(3)
