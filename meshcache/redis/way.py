"""How tracking is opened for each kind of place: to one server, to whoever is master, or to all masters of a cluster."""

from __future__ import annotations

from .cluster_link import ClusterLink
from .link import Link
from .names import Names
from .sentinel_link import SentinelLink
from .tls import Tls
from .tracked_cluster import AllMasters
from .tracking import OneServer, Way
from .url import Endpoint, Place, SentinelEndpoint

__all__ = ["way_to_track"]


def way_to_track(link: Link, place: Place, names: Names, *, timeout: float) -> Way:
    """The way to what a link leads to.

    Args:
        link: as :func:`~meshcache.redis.connect.open_link` gave it for this place.
        place: where Redis is.
        names: the keys.
        timeout: the longest wait for one reply, in seconds.
    """
    match place:
        case Endpoint():

            async def find_server() -> Endpoint:
                return place

            return OneServer(find_server, Tls(place.tls), names, link.identity, timeout)
        case SentinelEndpoint():
            assert isinstance(link, SentinelLink)
            return OneServer(link.find_master, Tls(place.master.tls), names, link.identity, timeout)
        case _:
            assert isinstance(link, ClusterLink)
            return AllMasters(link, place.name, Tls(place.seeds[0].tls), names, timeout)
