"""A ready client of redis-py in the place of a URL: the cache goes where the client would, with connections of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.asyncio.sentinel import Sentinel as AsyncioSentinel
from redis.sentinel import Sentinel

from meshcache import Mode
from meshcache.testing.deployments import ClusterDeployment, SentinelDeployment
from meshcache.testing.server import RedisServer
from tests.io.cache.instances import lone_cache
from tests.io.certificates import Authority
from tests.support import eventually_sync, free_port

pytestmark = pytest.mark.anyio


async def works(client: Any, owner: redis.Redis) -> None:
    """The cache reads and writes in the client's place, closed or not, and leaves the client alone."""
    async with lone_cache(client) as cache:
        assert cache.mode is Mode.REDIS
        assert await cache.set("k", "v")
        assert await cache.get("k") == "v"
        assert "secret" not in repr(cache)
    assert owner.exists("test:k")


@pytest.mark.parametrize("kind", [redis.Redis, redis.asyncio.Redis])
async def test_one_server(redis_server: RedisServer, kind: Any) -> None:
    redis_server.client().execute_command("ACL", "SETUSER", "ada", "reset", "on", ">secret", "~*", "+@all", "&*")
    client = kind(host="127.0.0.1", port=redis_server.port, db=2, username="ada", password="secret")
    await works(client, redis.Redis(port=redis_server.port, db=2))
    assert redis_server.client().dbsize() == 0
    if kind is redis.Redis:
        assert client.ping()  # not closed
        client.close()


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with RedisServer(arguments=("--unixsocket", str(path))) as server:
        eventually_sync(path.exists)
        await works(redis.asyncio.Redis(unix_socket_path=str(path)), server.client())


@pytest.mark.parametrize("kind", [redis.Redis, redis.asyncio.Redis])
async def test_tls(tmp_path: Path, kind: Any) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    own, own_key = authority.issue("client")
    port = free_port()
    options = {
        "--tls-port": str(port),
        "--tls-cert-file": str(certificate),
        "--tls-key-file": str(key),
        "--tls-ca-cert-file": str(authority.certificate),
        "--tls-auth-clients": "yes",
    }
    with RedisServer(arguments=[word for option in options.items() for word in option]) as server:
        way = {"host": "127.0.0.1", "port": port, "ssl": True, "ssl_certfile": str(own), "ssl_keyfile": str(own_key)}
        await works(kind(**way, ssl_ca_certs=str(authority.certificate)), server.client())
        await works(kind(**way, ssl_ca_data=authority.certificate.read_text()), server.client())


@pytest.mark.parametrize("kind", [Sentinel, AsyncioSentinel])
async def test_sentinels(deployment: SentinelDeployment, kind: Any) -> None:
    sentinels = kind([(sentinel.host, sentinel.port) for sentinel in deployment.sentinels])
    await works(sentinels.master_for("mymaster"), deployment.master.client())


async def test_a_cluster(cluster: ClusterDeployment) -> None:
    seed = cluster.servers[4]
    client = redis.RedisCluster(host=seed.host, port=seed.port)
    try:
        await works(client, cluster.owner(b"test:k").client())
    finally:
        client.close()
    await works(redis.asyncio.RedisCluster(host=seed.host, port=seed.port), cluster.owner(b"test:k").client())
