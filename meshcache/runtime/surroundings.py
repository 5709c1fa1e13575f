"""What an instance gets from outside: the clocks, randomness, the ways to Redis, and the mesh's socket.

Here are the real ones.  A simulation hands in others, and runs everything else as it is.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..redis.connect import open_link
from ..redis.link import Link
from ..redis.url import Place
from ..udp import Address, UdpSocket

__all__ = ["DatagramSocket", "OpenLink", "Surroundings"]


class DatagramSocket(Protocol):
    """What is used of a :class:`~meshcache.udp.UdpSocket`; see there."""

    port: int
    addresses: tuple[str, ...]
    everywhere: bool
    send_errors: int

    async def listen(self, take: Callable[[Iterable[tuple[bytes, Address]]], None]) -> None:
        """Hand over what arrives, each datagram with its sender, until cancelled or closed."""
        ...

    def send(self, datagrams: Iterable[tuple[bytes, Iterable[Address]]]) -> None:
        """Send each datagram to all its destinations, without waiting."""
        ...

    def close(self) -> None:
        """Nothing more is sent or received."""
        ...

    def abandon(self) -> None:
        """This is a forked child."""
        ...


class OpenLink(Protocol):
    """Opens a way to Redis; see :func:`~meshcache.redis.connect.open_link`."""

    def __call__(self, place: Place, *, timeout: float, connections: int = ...) -> Link:
        """A link for the event loop that runs now."""
        ...


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The world of one instance.

    Attributes:
        now: the monotonic clock, in seconds.
        wall_ms: the wall clock, in ms since 1970.
        random: must be unpredictable outside of simulations.
        open_link: opens a way to Redis.
        open_socket: binds the mesh's socket to some interfaces and a port.
    """

    now: Callable[[], float] = time.monotonic
    wall_ms: Callable[[], int] = _wall_ms
    random: random.Random = field(default_factory=random.SystemRandom)
    open_link: OpenLink = open_link
    open_socket: Callable[[Sequence[str] | None, int], DatagramSocket] = UdpSocket.open
