"""The mesh's sockets in simulated time: datagrams go over a :class:`~meshcache.testing.network.Carrier`, and wait in the kernel
for a process that is stopped.

What may not enter: what instances are, faults.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import anyio
import anyio.lowlevel

from ..mesh.settings import Address
from .network import Carrier, Packet, Weather
from .virtual import Process, VirtualLoop

__all__ = ["Ether", "SimulatedSocket"]

_SOCKET_DATAGRAMS: Final = 2000
_DATAGRAMS_AT_ONCE: Final = 64


class Ether(Carrier):
    """The network, in the loop's time."""

    def __init__(self, loop: VirtualLoop, seed: int, weather: Weather) -> None:
        super().__init__(seed, weather)
        self._loop = loop

    def call_after(self, seconds: float, call: Callable[[], None]) -> None:
        """Do something later."""
        self._loop.at(self._loop.time() + seconds, call)


class _Mailbox:
    """Where the network brings datagrams for one process: the kernel's buffer of its socket."""

    def __init__(self, process: Process, address: Address) -> None:
        self.address = address
        self.unread: deque[tuple[bytes, Address]] = deque()
        self.waiter: asyncio.Future[None] | None = None
        self._process = process

    def receive(self, data: bytes, sender: Address) -> None:
        """A datagram arrives."""
        if len(self.unread) < _SOCKET_DATAGRAMS:
            self.unread.append((data, sender))
            if len(self.unread) == 1:
                self._process.hear(self.wake)

    def wake(self) -> None:
        """Let whoever waits look."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class SimulatedSocket:
    """A :class:`~meshcache.runtime.surroundings.DatagramSocket` of one process."""

    def __init__(self, ether: Ether, process: Process, address: Address) -> None:
        self.addresses: tuple[str, ...] = (address[0],)
        self.port = address[1]
        self.everywhere = False
        self.send_errors = 0
        self._ether = ether
        self._mailbox = _Mailbox(process, address)
        ether.hosts[address] = self._mailbox
        self._is_closed = False

    async def listen(self, take: Callable[[Iterable[tuple[bytes, Address]]], None]) -> None:
        """See there."""
        mailbox = self._mailbox
        while True:
            while not mailbox.unread:
                if self._is_closed:
                    raise anyio.ClosedResourceError
                mailbox.waiter = asyncio.get_running_loop().create_future()
                await mailbox.waiter
            take(self._read())
            await anyio.lowlevel.checkpoint()

    def send(self, datagrams: Iterable[tuple[bytes, Iterable[Address]]]) -> None:
        """See there."""
        for data, destinations in datagrams:
            for destination in destinations:
                if not self._is_closed:
                    self._ether.send(Packet(data, self._mailbox.address, destination))

    def close(self) -> None:
        """See there."""
        if not self._is_closed:
            self._is_closed = True
            if self._ether.hosts.get(self._mailbox.address) is self._mailbox:
                self._ether.detach(self._mailbox)
            self._mailbox.wake()

    def abandon(self) -> None:
        """See there."""
        self.close()

    def _read(self) -> Iterator[tuple[bytes, Address]]:
        unread = self._mailbox.unread
        for _ in range(_DATAGRAMS_AT_ONCE):
            if not unread:
                break
            yield unread.popleft()
