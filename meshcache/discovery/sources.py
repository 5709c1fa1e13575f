"""Turns the option ``discovery`` into sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError
from .base import Discovery
from .dns import dns_source
from .mdns import Mdns
from .roster import Roster
from .static import Static

__all__ = ["make_sources"]


def make_sources(discovery: Sequence[Any] | None, interfaces: Sequence[str] | None) -> list[Discovery]:
    """The sources that the option names.

    Args:
        discovery: sources, and texts: ``"mdns"``, ``"redis"``, ``"host:port"``, ``"dns://name:port"``,
            ``"dns+srv://name"``; None means mDNS and Redis.
        interfaces: where mDNS speaks; None means every usable one.

    Raises:
        ConfigError: an item is none of these.
    """
    sources: list[Discovery] = []
    addresses: list[str] = []
    for item in ["mdns", "redis"] if discovery is None else discovery:
        if item == "mdns":
            sources.append(Mdns(interfaces))
        elif item == "redis":
            sources.append(Roster())
        elif isinstance(item, str) and "://" in item:
            sources.append(dns_source(item))
        elif isinstance(item, str):
            addresses.append(item)
        elif isinstance(getattr(item, "name", None), str) and callable(getattr(item, "run", None)):
            sources.append(item)
        else:
            raise ConfigError(
                "discovery",
                f"{item!r} is no source: use 'mdns', 'redis', 'host:port', 'dns://name:port', or an object with "
                "a name and run()",
            )
    if addresses:
        sources.append(Static(addresses))
    return sources
