"""What a ready redis-py client knows of the way to Redis, taken out of its connection pool.

The client itself is neither used nor closed: its time limits, retries and pool are not those that the cache promises.
What may not enter: connections, and guesses; what cannot be taken is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import redis
import redis.asyncio
from redis import connection as blocking_connection
from redis import sentinel as blocking_sentinel
from redis.asyncio import connection as asyncio_connection
from redis.asyncio import sentinel as asyncio_sentinel

from ..errors import ConfigError
from .credentials import Credentials
from .url import ClusterEndpoint, Endpoint, Place, SentinelEndpoint

__all__ = ["RedisClient", "place_of"]

RedisClient = redis.Redis | redis.asyncio.Redis | redis.RedisCluster | redis.asyncio.RedisCluster
"""The clients that can be handed in; of a Sentinel, what ``master_for`` gives."""

_SCHEMES: Final[Mapping[type, str]] = {
    blocking_connection.Connection: "redis",
    asyncio_connection.Connection: "redis",
    blocking_sentinel.SentinelManagedConnection: "redis",
    asyncio_sentinel.SentinelManagedConnection: "redis",
    blocking_connection.SSLConnection: "rediss",
    asyncio_connection.SSLConnection: "rediss",
    blocking_sentinel.SentinelManagedSSLConnection: "rediss",
    asyncio_sentinel.SentinelManagedSSLConnection: "rediss",
    blocking_connection.UnixDomainSocketConnection: "unix",
    asyncio_connection.UnixDomainSocketConnection: "unix",
}

_TLS: Final = frozenset(
    {
        *("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile", "ssl_keyfile", "ssl_password"),
        *("ssl_cert_reqs", "ssl_check_hostname", "ssl_min_version", "ssl_ciphers"),
        *("ssl_include_verify_flags", "ssl_exclude_verify_flags"),
    }
)

_REFUSED: Final = ("redis_connect_func", "ssl_validate_ocsp", "ssl_validate_ocsp_stapled")
"""Settings that would have to hold and cannot be taken over."""


def place_of(client: Any) -> tuple[Place, str]:
    """Where the client's Redis is, and how log lines show it.

    Taken: host, port, socket path, database; user, password, credential provider; TLS; the sentinels and the service; the nodes
    of a cluster that it was given, and ``address_remap``.  Not taken: time limits, retries, pool sizes, the protocol,
    decoding, client names.

    Raises:
        ConfigError: it is no client of redis-py, or has settings that cannot be taken over.
    """
    if isinstance(client, redis.RedisCluster | redis.asyncio.RedisCluster):
        return _cluster(client)
    pool = getattr(client, "connection_pool", None)
    if not isinstance(client, redis.Redis | redis.asyncio.Redis) or pool is None:
        hint = ", but what its master_for(service) gives" if hasattr(client, "master_for") else ""
        raise ConfigError("url", f"a {type(client).__name__} of redis-py cannot be handed in{hint}")
    if isinstance(pool, blocking_sentinel.SentinelConnectionPool | asyncio_sentinel.SentinelConnectionPool):
        return _sentinels(pool)
    endpoint = _endpoint(pool.connection_class, pool.connection_kwargs)
    if endpoint.scheme == "unix":
        return endpoint, f"unix://{endpoint.path}?db={endpoint.db}"
    return endpoint, f"{endpoint.scheme}://{endpoint.name}/{endpoint.db}"


def _sentinels(pool: Any) -> tuple[Place, str]:
    manager = pool.sentinel_manager
    if not pool.is_master:
        raise ConfigError("url", "a client of replicas takes no writes: hand in what master_for(service) gives")
    if manager.min_other_sentinels or getattr(manager, "_force_master_ip", None) is not None:
        raise ConfigError("url", "min_other_sentinels and force_master_ip of a Sentinel cannot be taken over")
    pools = [sentinel.connection_pool for sentinel in manager.sentinels]
    sentinels = tuple(_endpoint(one.connection_class, one.connection_kwargs) for one in pools)
    master = _endpoint(pool.connection_class, pool.connection_kwargs)
    places = ",".join(sentinel.name for sentinel in sentinels)
    place = SentinelEndpoint(sentinels=sentinels, service=pool.service_name, master=master)
    return place, f"{master.scheme}+sentinel://{places}/{place.service}/{master.db}"


def _cluster(client: Any) -> tuple[Place, str]:
    settings = client.get_connection_kwargs()
    if isinstance(client, redis.RedisCluster):
        node: Any = client.get_default_node()  # type: ignore[no-untyped-call]
        pool = node.redis_connection.connection_pool  # it has connected already
        kind, settings = pool.connection_class, {**settings, "redis_connect_func": client.user_on_connect_func}
    else:
        kind = settings["connection_class"]
    way = _endpoint(kind, settings, in_cluster=True)
    nodes = client.nodes_manager.startup_nodes.values()
    seeds = tuple(way.at((node.host, int(node.port))) for node in nodes)
    place = ClusterEndpoint(seeds=seeds, remap=client.nodes_manager.address_remap)
    return place, f"{way.scheme}+cluster://{','.join(seed.name for seed in seeds)}"


def _endpoint(kind: type, settings: Mapping[str, Any], *, in_cluster: bool = False) -> Endpoint:
    scheme = _SCHEMES.get(kind)
    if scheme is None:
        raise ConfigError("url", f"the client has connections of a kind of its own ({kind.__name__}); hand in a URL")
    for name in _REFUSED:
        if settings.get(name):
            raise ConfigError("url", f"{name} of the client cannot be taken over; hand in a URL")
    provider = settings.get("credential_provider")
    return Endpoint(
        scheme=scheme,
        host=settings.get("host") or "localhost",
        port=int(settings.get("port") or 6379),
        path=settings.get("path") or "" if scheme == "unix" else "",
        db=int(settings.get("db") or 0),
        username=settings.get("username") or None,
        password=settings.get("password") or None,
        credentials=None if provider is None else Credentials(provider),
        tls={name: settings[name] for name in _TLS if name in settings} if scheme == "rediss" else {},
        in_cluster=in_cluster,
    )
