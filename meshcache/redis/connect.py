"""Which link is used: redis-py's asyncio connections where asyncio runs, its blocking ones in threads elsewhere; and over
these one that follows the sentinels, or one for a cluster.

The implementations, and with them redis-py, are imported only when one is needed.
"""

from __future__ import annotations

from functools import partial

from ..loops import on_trio
from .cluster_link import ClusterLink
from .link import CONNECTIONS, Identity, Link
from .sentinel_link import SentinelLink
from .url import ClusterEndpoint, Endpoint, Place, SentinelEndpoint, parse_url

__all__ = ["open_link"]


def open_link(place: str | Place, *, timeout: float, connections: int = CONNECTIONS) -> Link:
    """A link for the event loop that runs now; nothing is sent yet.

    Args:
        place: a URL as :func:`~meshcache.redis.url.check_url` takes it, or what it says.
        timeout: the longest that a call waits, in seconds.
        connections: how many connections it opens to one server at most; further calls wait for a free one.

    Raises:
        ConfigError: the URL is wrong.
    """
    match parse_url(place) if isinstance(place, str) else place:
        case SentinelEndpoint() as sentinels:
            return SentinelLink(
                sentinels,
                timeout=timeout,
                open_link=partial(_open_one, timeout=timeout, connections=connections),
            )
        case ClusterEndpoint() as cluster:
            return ClusterLink(
                cluster,
                timeout=timeout,
                open_link=lambda server, identity, limit: _open_one(
                    server, identity, timeout=limit, connections=connections
                ),
            )
        case Endpoint() as server:
            return _open_one(server, None, timeout=timeout, connections=connections)


def _open_one(server: Endpoint, identity: Identity | None, *, timeout: float, connections: int) -> Link:
    if on_trio():
        from .thread_link import ThreadLink

        return ThreadLink(server, timeout=timeout, connections=connections, identity=identity)
    from .asyncio_link import AsyncioLink

    return AsyncioLink(server, timeout=timeout, connections=connections, identity=identity)
