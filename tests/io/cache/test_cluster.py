"""The cache over a cluster of six nodes: nothing that happens to its nodes is an error, or a lie, to whoever uses the cache."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from meshcache import MeshCache, Mode
from meshcache.redis.names import key_slot
from meshcache.testing.deployments import ClusterDeployment
from tests.io.cache.instances import lone_cache, mesh
from tests.io.loops import on_asyncio_and_trio, on_one_event_loop
from tests.support import eventually

pytestmark = pytest.mark.anyio

PATIENCE = 5.0  # where a busy machine must cause no outage
SLACK = 0.15  # what a busy machine may add to op_timeout
KEYS = [f"k{i}" for i in range(200)] + [f"{{user:{i % 5}}}:{i}" for i in range(100)]


async def in_time(call: Awaitable[Any]) -> Any:
    start = anyio.current_time()
    answer = await call
    assert anyio.current_time() - start < 0.25 + SLACK
    return answer


async def in_mode(mode: Mode, *caches: MeshCache) -> None:
    for cache in caches:
        await eventually(lambda c=cache: c.mode is mode, 20, message=f"mode {mode}")


async def keep_using(cache: MeshCache, until: Callable[[], bool]) -> dict[str, str]:
    """Write and read keys of all slots, and look that every write is read; what was written last."""
    deadline = anyio.current_time() + 30
    written: dict[str, str] = {}
    turn = 0
    while not until():
        assert anyio.current_time() < deadline
        turn += 1
        key = KEYS[turn % len(KEYS)]
        await in_time(cache.set(key, f"{turn}"))
        assert await in_time(cache.get(key)) == f"{turn}"
        written[key] = f"{turn}"
        await anyio.sleep(0.002)
    return written


def in_redis(cluster: ClusterDeployment, keys: Any) -> dict[str, str | None]:
    found = {key: cluster.owner(f"test:{key}".encode()).client().get(f"test:{key}") for key in keys}
    return {key: value and value.decode() for key, value in found.items()}


async def test_every_call_works(cluster: ClusterDeployment) -> None:
    async with lone_cache(cluster.url, codec="text") as cache:
        assert cache.mode is Mode.REDIS
        values = {key: f"value of {key}" for key in KEYS}
        await cache.set_many(values, ttl=60)
        assert await cache.get_many(KEYS) == values
        assert in_redis(cluster, KEYS) == values
        assert await cache.exists(*KEYS) == len(KEYS)
        assert await cache.delete(*KEYS[:10]) == 10
        assert sorted(await cache.keys()) == sorted(KEYS[10:])
        assert await cache.delete_match("{user:1}:*") == 20
        assert await cache.set("k1", "x", nx=True)
        assert await cache.ttl("k20") == 60
        assert await cache.ping()
        assert (await cache.info("server"))["redis_mode"] == "cluster"
        for key in ("hits", "{user:1}:hits", "a{b}c:hits"):
            assert await cache.incr(key, 5) == 5
            assert await cache.incr(key) == 6
        assert await cache.clear() == len(KEYS) - 10 - 20 + 1 + 3
        assert await cache.keys() == []


@on_asyncio_and_trio
async def test_a_node_dies(cluster: ClusterDeployment) -> None:
    async with lone_cache(cluster.url, codec="text") as cache:
        await tracking(cache)
        warm = dict.fromkeys(KEYS, "warm")
        await cache.set_many(warm)
        old = cluster.owner(b"test:k1")
        old.kill()
        modes = {cache.mode}
        await cache.get("k1")
        await in_mode(Mode.MEMORY, cache)
        assert await cache.get_many(KEYS) == warm  # copies of the keys of all nodes

        def is_back() -> bool:
            modes.add(cache.mode)
            return len(modes) > 1 and cache.mode is Mode.REDIS

        written = await keep_using(cache, is_back)
        await eventually(lambda: cache.stats()["dirty"] == 0)
        found = await cache.get_many(KEYS)
        assert found == {key: value for key, value in {**warm, **written}.items() if key in found}
        assert written.items() <= found.items()
        await anyio.to_thread.run_sync(cluster.heal)  # the old master is back, as a replica
        await in_mode(Mode.REDIS, cache)
        assert in_redis(cluster, written) == written


async def test_slots_move_while_the_cache_writes(cluster: ClusterDeployment) -> None:
    async with lone_cache(cluster.url, codec="text", op_timeout=PATIENCE) as cache:
        source, target = cluster.masters[0], cluster.masters[1]
        slots = {key_slot(f"test:{key}".encode()) for key in KEYS}
        slots = {slot for slot in slots if cluster.owner_of_slot(slot) is source}
        moved = anyio.Event()

        def move() -> None:
            for slot in sorted(slots)[:20]:
                cluster.begin_move(slot, target)
                cluster.move_keys(slot, target)
                cluster.end_move(slot, target)

        async def move_in_thread() -> None:
            await anyio.to_thread.run_sync(move)
            moved.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(move_in_thread)
            written = await keep_using(cache, moved.is_set)
        assert cache.stats()["outages"] == 0
        await anyio.to_thread.run_sync(cluster.heal)  # until all nodes have heard of it
        assert in_redis(cluster, written) == written


@on_asyncio_and_trio
async def test_the_whole_cluster_goes_and_comes_back(cluster: ClusterDeployment) -> None:
    """It has forgotten everything; what the outage wrote and deleted is replayed, each key to its node."""
    async with mesh(cluster.url, cluster.url, codec="text") as (one, two):
        await one.set_many(dict.fromkeys(KEYS, "old"))
        for server in cluster.servers:
            server.kill()
        for cache in (one, two):
            await in_time(cache.get("whatever"))
            await in_mode(Mode.MEMORY, cache)
        values = {key: f"new {key}" for key in KEYS}
        for number, (key, value) in enumerate(values.items()):
            await in_time((one, two)[number % 2].set(key, value))
        await two.delete_match("{user:1}:*")
        await one.delete("k1", "k2")
        expected = {key: value for key, value in values.items() if key not in ("k1", "k2") and "user:1" not in key}
        await anyio.to_thread.run_sync(cluster.heal)
        await in_mode(Mode.REDIS, one, two)
        await eventually(lambda: one.stats()["dirty"] == two.stats()["dirty"] == 0)
        for cache in (one, two):
            assert await cache.get_many(KEYS) == expected
        assert {key: value for key, value in in_redis(cluster, KEYS).items() if value is not None} == expected


async def test_a_cluster_that_kept_its_data(cluster: ClusterDeployment) -> None:
    """All nodes fall silent and answer again: nobody reads what the outage replaced."""
    async with lone_cache(cluster.url, codec="text") as cache:
        await cache.set_many(dict.fromkeys(KEYS, "old"))
        for server in cluster.servers:
            server.pause()
        try:
            for _ in range(3):
                await in_time(cache.get("k1"))
            assert cache.mode is Mode.MEMORY
            await cache.set("k1", "new")
            await cache.delete("k2")
            await cache.delete_match("{user:2}:*")
        finally:
            for server in cluster.servers:
                server.resume()
        await in_mode(Mode.REDIS, cache)
        await eventually(lambda: cache.stats()["dirty"] == 0)
        found = await cache.get_many(KEYS)
        assert found.pop("k1") == "new"
        assert set(found.values()) <= {"old"}
        assert {"k2", *(key for key in KEYS if "user:2" in key)} & set(found) == set()


# -- the near cache


async def tracking(*caches: MeshCache) -> None:
    for cache in caches:
        await eventually(lambda c=cache: c.mode is Mode.REDIS and c.stats()["near_tracking"], 20)


async def reads(cache: MeshCache, expected: dict[str, str | None]) -> None:
    """Soon the cache reads what is expected."""

    async def read() -> bool:
        return {key: await cache.get(key) for key in expected} == expected

    await eventually(read)


async def test_copies_of_keys_of_every_node(cluster: ClusterDeployment) -> None:
    options = {"codec": "text", "near_cache": "serve", "op_timeout": PATIENCE}
    async with mesh(cluster.url, cluster.url, **options) as (one, two):
        await tracking(one, two)
        await one.set_many(dict.fromkeys(KEYS, "first"))

        async def is_warm() -> bool:
            for key in KEYS:
                assert await two.get(key) == "first"
            return two.stats()["near_entries"] == len(KEYS)

        await eventually(is_warm)  # what Redis tells of the writes may come after the first reply
        hits = two.stats()["near_hits"]
        await two.get_many(KEYS)
        assert two.stats()["near_hits"] == hits + len(KEYS)
        await one.set_many(dict.fromkeys(KEYS[:150], "second"))
        await one.delete(*KEYS[150:200])
        await one.delete_match("{user:1}:*")
        expected = dict.fromkeys(KEYS[:150], "second") | dict.fromkeys(KEYS[150:200], None)
        expected |= {key: None if "user:1" in key else "first" for key in KEYS[200:]}
        await reads(two, expected)
        await reads(one, expected)
        assert two.stats()["near_invalidated"] >= 220
        assert two.stats()["near_dropped"] == 0


async def test_copies_of_a_slot_that_moves(cluster: ClusterDeployment) -> None:
    """The old owner tells that the key has gone, and the new one what happens to it there."""
    async with lone_cache(cluster.url, codec="text", near_cache="serve", op_timeout=PATIENCE) as cache:
        await tracking(cache)
        await cache.set("{tag}k", "old")
        assert await cache.get("{tag}k") == "old"
        slot = key_slot(b"{tag}")
        target = next(master for master in cluster.masters if master is not cluster.owner_of_slot(slot))
        cluster.begin_move(slot, target)
        cluster.move_keys(slot, target)
        assert await cache.get("{tag}k") == "old"  # at the new node
        assert await cache.get("{tag}k") == "old"
        cluster.end_move(slot, target)
        target.client().set("test:{tag}k", "new")
        await reads(cache, {"{tag}k": "new"})
        assert cache.stats()["near_entries"] == 1
        await cache.set("{tag}k", "mine")
        assert await cache.get("{tag}k") == "mine"
        target.client().set("test:{tag}k", "newer")
        await reads(cache, {"{tag}k": "newer"})
        assert cache.stats()["outages"] == cache.stats()["near_dropped"] == 0


@on_one_event_loop
async def test_copies_follow_a_promoted_replica(cluster: ClusterDeployment) -> None:
    async with lone_cache(cluster.url, codec="text", near_cache="serve") as cache:
        await tracking(cache)
        await cache.set("k", "old")
        await anyio.to_thread.run_sync(cluster.fail_over, cluster.owner(b"test:k"))

        async def notices() -> bool:
            await cache.set("k", "old")
            return cache.stats()["outages"] == 1

        await eventually(notices, 10)
        await tracking(cache)
        assert await cache.get("k") == "old"
        assert await cache.get("k") == "old"
        cluster.owner(b"test:k").client().set("test:k", "new")
        await reads(cache, {"k": "new"})


@on_asyncio_and_trio
async def test_no_copy_is_left_behind_by_slots_that_move(cluster: ClusterDeployment) -> None:
    """Two instances and a plain client write all the while; afterwards every copy is what Redis has."""
    options = {"codec": "text", "near_cache": "serve", "op_timeout": PATIENCE}
    async with mesh(cluster.url, cluster.url, **options) as (one, two):
        await tracking(one, two)
        source, target = cluster.masters[1], cluster.masters[2]
        slots = sorted({key_slot(f"test:{key}".encode()) for key in KEYS})
        slots = [slot for slot in slots if cluster.owner_of_slot(slot) is source][:25]
        keys = [key for key in KEYS if key_slot(f"test:{key}".encode()) in slots]
        moved = anyio.Event()

        async def move() -> None:
            for slot in slots:
                for step in (cluster.begin_move, cluster.move_keys, cluster.end_move):
                    await anyio.to_thread.run_sync(step, slot, target)
                    await anyio.sleep(0.002)
            moved.set()

        async def use(cache: MeshCache, name: str) -> None:
            turn = 0
            while not moved.is_set():
                turn += 1
                await cache.set(keys[turn % len(keys)], f"{name}{turn}")
                await cache.get_many(keys[:: turn % 3 + 1])
                if not turn % 7:
                    await cache.delete(keys[turn % len(keys)], keys[0])
                await anyio.sleep(0)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(use, one, "one")
            tasks.start_soon(use, two, "two")
            tasks.start_soon(move)
        await anyio.to_thread.run_sync(cluster.heal)  # until all nodes have heard of it
        await eventually(lambda: one.stats()["dirty"] == two.stats()["dirty"] == 0)
        for cache in (one, two):
            await reads(cache, in_redis(cluster, keys))
            assert cache.stats()["outages"] == 0


async def test_tracking_is_not_permitted_at_one_node(
    cluster: ClusterDeployment, caplog: pytest.LogCaptureFixture
) -> None:
    for number, server in enumerate(cluster.servers):
        server.client().execute_command("ACL", "SETUSER", "ada", "reset", "on", ">pw", "~*", "&*", "+@all")
        if number % 3 == 1:
            server.client().execute_command("ACL", "SETUSER", "ada", "-client|tracking")
    async with lone_cache(cluster.url.replace("://", "://ada:pw@"), near_cache="serve") as cache:
        await cache.set("k", 1)
        assert await cache.get("k") == 1
        await eventually(lambda: "the near cache is off" in caplog.text)
        assert not cache.stats()["near_tracking"]
        assert cache.mode is Mode.REDIS
    lines = [record.getMessage() for record in caplog.records if "near cache" in record.getMessage()]
    assert len(lines) == 1
    assert "the near cache is off: Redis does not let this instance track changes: NOPERM" in lines[0]
