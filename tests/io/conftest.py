"""A real server and a wire to it that can be cut, one pair a test; and larger deployments, one of each for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshcache.testing.deployments import ClusterDeployment, SentinelDeployment
from meshcache.testing.proxy import OutageProxy
from meshcache.testing.server import RedisServer


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[OutageProxy]:
    with OutageProxy(redis_server.host, redis_server.port) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def shared_sentinels() -> Iterator[SentinelDeployment]:
    with SentinelDeployment() as deployment:
        yield deployment


@pytest.fixture
def deployment(shared_sentinels: SentinelDeployment) -> SentinelDeployment:
    """A master, a replica and sentinels; healthy and empty; may be broken."""
    shared_sentinels.heal()
    client = shared_sentinels.master.client()
    client.flushall()
    assert client.wait(1, 10_000) == 1, "the replica still has what an earlier test wrote"
    return shared_sentinels


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[ClusterDeployment]:
    with ClusterDeployment() as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: ClusterDeployment) -> ClusterDeployment:
    """Six nodes; healthy and empty; may be broken."""
    shared_cluster.heal()
    for master in shared_cluster.masters:
        master.client().flushall()
        master.client().script_flush()
    return shared_cluster
