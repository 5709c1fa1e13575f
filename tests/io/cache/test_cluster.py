"""The cache over a cluster of six nodes: nothing that happens to its nodes is an error, or a lie, to whoever uses the cache."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

from meshcache import MeshCache, Mode
from meshcache.redis.names import key_slot
from meshcache.testing.deployments import ClusterDeployment
from tests.io.cache.instances import lone_cache, mesh
from tests.support import eventually

pytestmark = pytest.mark.anyio

SLACK = 0.15  # what a busy machine may add to op_timeout
KEYS = [f"k{i}" for i in range(200)] + [f"{{user:{i % 5}}}:{i}" for i in range(100)]


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[ClusterDeployment]:
    with ClusterDeployment() as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: ClusterDeployment) -> Iterator[ClusterDeployment]:
    """Healthy and empty; may be broken."""
    for master in shared_cluster.masters:
        master.client().flushall()
    yield shared_cluster
    shared_cluster.heal()


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
        assert await cache.clear() == len(KEYS) - 10 - 20 + 1
        assert await cache.keys() == []


async def test_a_node_dies(cluster: ClusterDeployment) -> None:
    async with lone_cache(cluster.url, codec="text") as cache:
        await cache.set("before", "1")
        old = cluster.owner(b"test:k1")
        old.kill()
        modes = set()

        def is_back() -> bool:
            modes.add(cache.mode)
            return len(modes) > 1 and cache.mode is Mode.REDIS

        written = await keep_using(cache, is_back)
        assert Mode.MEMORY in modes
        await eventually(lambda: cache.stats()["dirty"] == 0)
        assert await cache.get_many(KEYS) == written
        await anyio.to_thread.run_sync(cluster.heal)  # the old master is back, as a replica
        await in_mode(Mode.REDIS, cache)
        assert in_redis(cluster, written) == written


async def test_slots_move_while_the_cache_writes(cluster: ClusterDeployment) -> None:
    async with lone_cache(cluster.url, codec="text") as cache:
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


async def test_no_near_cache_and_one_warning(cluster: ClusterDeployment, caplog: pytest.LogCaptureFixture) -> None:
    async with lone_cache(cluster.url, near_cache="serve") as cache:
        await cache.set("k", 1)
        assert await cache.get("k") == 1
        assert not cache.stats()["near_tracking"]
    lines = [record.getMessage() for record in caplog.records if "near cache" in record.getMessage()]
    assert lines == ["the near cache is off: in a Redis Cluster there is none in this version"]
    caplog.clear()
    async with lone_cache(cluster.url, near_cache="off"):
        pass
    assert [record for record in caplog.records if "near cache" in record.getMessage()] == []
