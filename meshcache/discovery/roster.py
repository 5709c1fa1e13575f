"""Peers known through Redis: each instance that reaches it registers its addresses there.

While Redis is up everybody learns of everybody, also where multicast does not reach; when it goes, the peers are known.
The registry itself is kept elsewhere, for it says more than addresses; this source is told what is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import anyio

from .base import Announcement

__all__ = ["Roster"]


class Roster:
    """A :class:`~meshcache.discovery.base.Discovery` of the instances that are registered in Redis."""

    name = "Redis"

    def __init__(self) -> None:
        self._found: Callable[[str, int], None] | None = None
        self._known: list[tuple[str, int]] = []

    async def run(self, announcement: Announcement, found: Callable[[str, int], None]) -> None:
        """Hand on what :meth:`tell` brings.  Until cancelled."""
        own = {(host, announcement.port) for host in announcement.addresses}
        self._found = lambda host, port: None if (host, port) in own else found(host, port)
        self.tell(self._known)
        try:
            await anyio.sleep_forever()
        finally:
            self._found = None

    def tell(self, addresses: Iterable[tuple[str, int]]) -> None:
        """These are registered now."""
        self._known = list(addresses)
        if self._found is not None:
            for host, port in self._known:
                self._found(host, port)
