"""Everything that gives the addresses of possible peers.

A source only *suggests* addresses; whether a peer is there, the mesh finds out.  A source is an object with ``name`` and
``run``; see :class:`Discovery` to write your own.  Loaded when first asked for, since zeroconf is heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Announcement, Discovery
    from .dns import Dns, DnsSrv
    from .mdns import Mdns
    from .static import Static

__all__ = ["Announcement", "Discovery", "Dns", "DnsSrv", "Mdns", "Static"]

_ROOMS = {
    "Announcement": "base",
    "Discovery": "base",
    "Dns": "dns",
    "DnsSrv": "dns",
    "Mdns": "mdns",
    "Static": "static",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_ROOMS[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
