"""TLS to more than one server: a cluster, and sentinels with the servers that they name; every connection speaks it."""

from __future__ import annotations

import gc
import re
import socket
from collections.abc import Callable, Iterator

import anyio
import anyio.to_thread
import pytest

from meshcache.errors import Unavailable
from meshcache.redis.link import Identity, Link
from meshcache.redis.names import Names, key_slot
from meshcache.redis.probe import probe
from meshcache.redis.tier import RedisTier
from meshcache.redis.tls import Tls
from meshcache.redis.tracking import open_tracked
from meshcache.redis.url import Endpoint, parse_url
from meshcache.testing.deployments import ClusterDeployment, SentinelDeployment
from meshcache.testing.server import Certificates, RedisServer
from tests.io.certificates import client_options
from tests.io.loops import on_one_event_loop
from tests.support import eventually

pytestmark = pytest.mark.anyio

Opened = Callable[..., Link]
Deployment = ClusterDeployment | SentinelDeployment
TIMEOUT = 0.5
KEYS = [f"k{i}" for i in range(200)]
NOT_TRUSTED = r"its TLS certificate is not trusted \(self.signed certificate in certificate chain\)"


@pytest.fixture(params=["cluster", "sentinels"])
def servers(request: pytest.FixtureRequest) -> Deployment:
    """One after the other."""
    fixture = {"cluster": "tls_cluster", "sentinels": "tls_deployment"}[request.param]
    deployment: Deployment = request.getfixturevalue(fixture)
    return deployment


def masters(deployment: Deployment) -> list[RedisServer]:
    return deployment.masters if isinstance(deployment, ClusterDeployment) else [deployment.master]


def everybody(deployment: Deployment) -> list[RedisServer]:
    return [*deployment.servers, *(deployment.sentinels if isinstance(deployment, SentinelDeployment) else ())]


async def test_keys_of_all_servers(servers: Deployment, opened: Opened, names: Names) -> None:
    tier = RedisTier(opened(servers.url), names)
    values = {key: key.encode() for key in KEYS}
    await tier.set_many(values, 60_000)
    assert await tier.get_many(KEYS) == values
    assert sorted([key async for key in tier.scan("*")]) == sorted(KEYS)
    assert sum(master.client().dbsize() for master in masters(servers)) == len(KEYS)


async def test_no_connection_is_plain(servers: Deployment, opened: Opened, names: Names) -> None:
    """But for those by which this test looks."""
    for server in everybody(servers):
        server.client().client_list()  # its own connection is there from now on
    before = {server.port: plain_clients(server) for server in everybody(servers)}
    await probe(opened(servers.url), names)
    assert {server.port: plain_clients(server) for server in everybody(servers)} == before
    for master in masters(servers):
        assert any(client["laddr"].endswith(f":{master.service_port}") for client in master.client().client_list())


def plain_clients(server: RedisServer) -> set[str]:
    return {client["id"] for client in server.client().client_list() if client["laddr"].endswith(f":{server.port}")}


async def test_servers_that_are_not_trusted(servers: Deployment, opened: Opened) -> None:
    url = servers.url.partition("?")[0]
    with pytest.raises(Unavailable, match=NOT_TRUSTED) as caught:
        await opened(url).execute("GET", "k")
    assert not caught.value.timed_out
    assert await opened(f"{url}?ssl_cert_reqs=none").execute("SET", "k", "v") == b"OK"


async def test_without_tls(servers: Deployment, opened: Opened) -> None:
    url = servers.url.partition("?")[0].replace("rediss+", "redis+")
    with pytest.raises(Unavailable):
        await opened(url, timeout=TIMEOUT).execute("GET", "k")


@pytest.fixture
def strict(servers: Deployment) -> Iterator[Deployment]:
    """They all ask for a client's certificate."""
    for server in everybody(servers):
        server.client().config_set("tls-auth-clients", "yes")
    yield servers
    for server in everybody(servers):
        server.client().config_set("tls-auth-clients", "optional")


@pytest.mark.parametrize("servers", ["cluster"], indirect=True)
async def test_a_client_certificate(strict: Deployment, certificates: Certificates, opened: Opened) -> None:
    """Not of sentinels: they are not configured while they run."""
    values = await opened(f"{strict.url}&{client_options(certificates)}").execute_many(
        [("SET", key, 1) for key in KEYS]
    )
    assert values == [b"OK"] * len(KEYS)
    with pytest.raises(Unavailable) as caught:
        await opened(strict.url).execute("GET", "k")
    assert not caught.value.timed_out


async def test_a_slot_that_moves(tls_cluster: ClusterDeployment, opened: Opened) -> None:
    """The addresses in redirections are those of the TLS ports."""
    link, slot = opened(tls_cluster.url), key_slot(b"{tag}")
    target = next(master for master in tls_cluster.masters if master is not tls_cluster.owner_of_slot(slot))
    await link.execute_many([("SET", f"{{tag}}{i}", i) for i in range(10)])
    tls_cluster.begin_move(slot, target)
    tls_cluster.move_keys(slot, target, b"{tag}0")
    assert await link.execute("GET", "{tag}0") == b"0"  # ASK
    tls_cluster.move_keys(slot, target)
    tls_cluster.end_move(slot, target)
    assert await link.execute_many([("GET", f"{{tag}}{i}") for i in range(10)]) == [b"%d" % i for i in range(10)]
    assert target.client().get("{tag}9") == b"9"


@on_one_event_loop
async def test_a_master_dies(servers: Deployment, opened: Opened) -> None:
    """Its replica has learned over TLS what there was."""
    link = opened(servers.url, timeout=TIMEOUT)
    old = servers.owner(b"k") if isinstance(servers, ClusterDeployment) else servers.master
    await link.execute("SET", "k", "v")
    replica = servers.replica(old) if isinstance(servers, ClusterDeployment) else servers.replica
    await eventually(lambda: replica.client().info("replication")["master_link_status"] == "up")
    await eventually(lambda: replica.client().dbsize() == 1)
    old.kill()
    with pytest.raises(Unavailable, match=re.escape("connection ")):
        await link.execute("GET", "k")

    async def follows() -> bool:
        try:
            return bool(await link.execute("SET", "k", "w", "XX") == b"OK")
        except Unavailable:
            return False

    await eventually(follows, 20)
    await anyio.to_thread.run_sync(servers.heal)
    assert replica.client().get("k") == b"w"


async def test_a_handshake_that_nobody_answers_leaves_no_socket_behind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = parse_url(f"rediss://127.0.0.1:{silent.getsockname()[1]}")
        assert isinstance(endpoint, Endpoint)
        with pytest.raises(Unavailable, match=r"did not answer within 0\.2 s"):
            await open_tracked(endpoint, Tls(endpoint.tls), Names("gw"), Nobody(), Identity(endpoint.name), timeout=0.2)
        gc.collect()  # a socket that was forgotten is an error now
        await anyio.sleep(0)
        accepted, _ = silent.accept()
        with accepted:
            accepted.settimeout(5.0)
            while accepted.recv(65_536):
                pass


class Nobody:
    """A listener that is told nothing."""

    def invalidate(self, keys: list[str] | None) -> None:
        raise AssertionError

    def lose_track(self) -> None:
        raise AssertionError
