"""A real server and a wire to it that can be cut, one pair a test; and larger deployments, one of each for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshcache.testing.deployments import ClusterDeployment, SentinelDeployment
from meshcache.testing.proxy import OutageProxy
from meshcache.testing.server import Certificates, RedisServer
from tests.io.certificates import Authority, skipped_without_tls


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[OutageProxy]:
    with OutageProxy(redis_server.host, redis_server.port) as proxy:
        yield proxy


def emptied(sentinels: SentinelDeployment) -> SentinelDeployment:
    sentinels.heal()
    client = sentinels.master.client()
    client.flushall()
    assert client.wait(1, 10_000) == 1, "the replica still has what an earlier test wrote"
    return sentinels


@pytest.fixture(scope="session")
def shared_sentinels() -> Iterator[SentinelDeployment]:
    with SentinelDeployment() as deployment:
        yield deployment


@pytest.fixture
def deployment(shared_sentinels: SentinelDeployment) -> SentinelDeployment:
    """A master, a replica and sentinels; healthy and empty; may be broken."""
    return emptied(shared_sentinels)


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


# -- with TLS


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Those of the servers; beside them ``client.crt`` and ``client.key``, of the same authority."""
    authority = Authority(tmp_path_factory.mktemp("tls"))
    authority.issue("client")
    return Certificates(*authority.issue("server"), authority.certificate)


@pytest.fixture(scope="session")
def shared_tls_sentinels(certificates: Certificates) -> Iterator[SentinelDeployment]:
    deployment = SentinelDeployment(tls=certificates)
    try:
        with skipped_without_tls():
            deployment.start()
        yield deployment
    finally:
        deployment.close()


@pytest.fixture
def tls_deployment(shared_tls_sentinels: SentinelDeployment) -> SentinelDeployment:
    """As ``deployment``, all with TLS."""
    return emptied(shared_tls_sentinels)


@pytest.fixture(scope="session")
def shared_tls_cluster(certificates: Certificates) -> Iterator[ClusterDeployment]:
    cluster = ClusterDeployment(tls=certificates)
    try:
        with skipped_without_tls():
            cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def tls_cluster(shared_tls_cluster: ClusterDeployment) -> ClusterDeployment:
    """As ``cluster``, all with TLS."""
    shared_tls_cluster.heal()
    for master in shared_tls_cluster.masters:
        master.client().flushall()
    return shared_tls_cluster
