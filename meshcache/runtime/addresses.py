"""Where this instance can be reached, as the host's network is now: for the registry in Redis, which tells those who are elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import anyio
from anyio import to_thread

from ..interfaces import usable_addresses
from ..udp import Address
from .surroundings import DatagramSocket

__all__ = ["OwnAddresses"]

_LOOK_SECONDS: Final = 3.0


class OwnAddresses:
    """IP addresses with the UDP port; looked at anew every 3 s, if they may change.

    Args:
        socket: the mesh's.
        interfaces: what the option names.
    """

    def __init__(self, socket: DatagramSocket, interfaces: Sequence[str] | None) -> None:
        self._socket = socket
        self._interfaces = interfaces
        self._ips = socket.addresses

    def __call__(self) -> tuple[Address, ...]:
        """As they were when they were last looked at."""
        return tuple((ip, self._socket.port) for ip in self._ips)

    async def run(self) -> None:
        """Until cancelled; at once if the socket is bound to what it has."""
        threads = anyio.CapacityLimiter(1)  # to ask the system takes some ms
        while self._socket.everywhere:
            await anyio.sleep(_LOOK_SECONDS)
            here = await to_thread.run_sync(usable_addresses, self._interfaces, limiter=threads)
            self._ips = tuple(item.ip for item in here)
