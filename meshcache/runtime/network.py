"""The shell around the mesh protocol: one socket, one timer, and the sources of addresses.

It moves datagrams and events, and decides nothing.  What has to be done after anything happened is in one method, ``_pump``.

The socket calls the node when datagrams come; two tasks do, one when there is something to send, one when its timer rings.
A write goes the short way: it neither waits for a timer nor sets one anew, unless the node wants to be woken sooner than it
will be.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from math import inf

import anyio

from ..discovery.base import Announcement, Discovery
from ..events import Mode
from ..mesh.node import MeshEvent, Node
from ..mesh.settings import Address
from ..stamp import Op
from ..standings import Standing
from .surroundings import DatagramSocket

__all__ = ["Network"]

logger = logging.getLogger("meshcache")

_DISCOVERY_PAUSE = 10.0
_TURN = 0.001
"""In seconds: so long what arrived together may hold the event loop."""
_ALONE = 0.001
"""A write that comes so long after the one before, in seconds, does not wait for others to share a datagram with."""


class Network:
    """Runs a node.

    Args:
        node: the protocol.
        socket: bound already; closed by :meth:`run` when that ends.
        sources: where candidate addresses come from.
        announcement: what the sources may tell others of this instance.
        now: the monotonic clock, in seconds.
        on_event: told of what the node has to say, in the event loop.
    """

    def __init__(
        self,
        node: Node,
        socket: DatagramSocket,
        sources: Sequence[Discovery],
        announcement: Announcement,
        now: Callable[[], float],
        on_event: Callable[[MeshEvent], None],
    ) -> None:
        self.node = node
        self._socket = socket
        self._sources = sources
        self._announcement = announcement
        self._now = now
        self._on_event = on_event
        self._to_send = anyio.Event()
        self._sooner = anyio.Event()
        self._rings_at = inf
        self._alone_from = -inf

    def publish(self, op: Op) -> None:
        """Tell all peers of a write: at once if it comes alone; those of one turn of the event loop share datagrams."""
        now = self._now()
        self.node.publish(op, now)
        if now < self._alone_from:
            self._to_send.set()
        else:
            self._alone_from = now + _ALONE
            self._send()
            self._rearm()

    def announce(self, mode: Mode, standing: Standing) -> None:
        """Tell all peers of a new mode or standing, now."""
        self.node.set_state(mode, standing, self._now())
        self._send()
        self._rearm()

    def ask_clocks(self) -> None:
        """Ask all peers what their clocks say, now; each answer is an event."""
        self.node.ask_clocks(self._now())
        self._send()

    async def run(self) -> None:
        """Until cancelled; says goodbye to the peers then, before the sources do, which may take a moment."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._socket.listen, self._receive)
                tasks.start_soon(self._publish)
                for source in self._sources:
                    tasks.start_soon(self._discover, source)
                try:
                    await self._drive()
                finally:
                    self.node.close(self._now())
                    self._send()
        finally:
            self._socket.close()

    def _receive(self, datagrams: Iterable[tuple[bytes, Address]]) -> None:
        begun = now = self._now()
        for data, sender in datagrams:
            self.node.receive_datagram(data, sender, now)
            self._tell()
            now = self._now()
            if now - begun > _TURN:
                break  # the rest waits in the kernel
        self._pump()

    async def _publish(self) -> None:
        while True:
            await self._to_send.wait()
            self._to_send = anyio.Event()
            self._pump()

    async def _drive(self) -> None:
        while True:
            deadline = self.node.next_timer()
            self._rings_at = inf if deadline is None else deadline
            # Passed on as a distance: the event loop's clock is not ours.
            with anyio.move_on_after(max(0.0, self._rings_at - self._now())):
                await self._sooner.wait()
            self._sooner = anyio.Event()
            self._rings_at = -inf  # it rings now
            self.node.handle_timer(self._now())
            self._pump()

    def _tell(self) -> None:
        while (event := self.node.next_event()) is not None:
            self._on_event(event)

    def _pump(self) -> None:
        self._tell()
        self._send()
        self._rearm()

    def _rearm(self) -> None:
        """Let the timer ring sooner if it has to.  One that rings too soon costs less than setting it again each time."""
        deadline = self.node.next_timer()
        if deadline is not None and deadline < self._rings_at:
            self._sooner.set()

    def _send(self) -> None:
        self._socket.send(self.node.datagrams_to_send(self._now()))

    def _found(self, host: str, port: int) -> None:
        self.node.add_candidate((host, port), self._now())
        self._pump()

    async def _discover(self, source: Discovery) -> None:
        warned = False
        while True:
            try:
                await source.run(self._announcement, self._found)
            except Exception as error:  # noqa: BLE001 - a source may be anybody's code; the others go on
                if not warned:
                    logger.warning("discovery by %s does not work now; it is tried again: %s", source.name, error)
                warned = True
            await anyio.sleep(_DISCOVERY_PAUSE)
