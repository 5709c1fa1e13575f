"""A network in memory with a clock that only moves when it is told to: nodes of the mesh run on it for hours within a second.

Everything that happens follows from the seed.  It drives real :class:`~meshcache.mesh.node.Node` objects as a shell does,
through their five verbs and nothing else.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from math import inf
from random import Random
from typing import Final, NamedTuple, Protocol

from ..mesh.node import MeshEvent, Node
from ..mesh.settings import Address

__all__ = ["Carrier", "Host", "Network", "Packet", "Receiver", "Weather"]

_BUSY: Final = 1000
"""A timer that fires so often at one moment would burn a processor in earnest."""

_SOCKET_BUFFER: Final = 90
"""Datagrams that wait for a paused host; Linux' default buffer holds about so many."""


class Packet(NamedTuple):
    """One datagram on its way."""

    data: bytes
    source: Address
    destination: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How the network treats packets.

    Attributes:
        loss: the share of packets that vanish.
        duplicate: the share that arrive twice.
        delay: the shortest and the longest time on the way, in seconds.  Packets overtake each other within it.
    """

    loss: float = 0.0
    duplicate: float = 0.0
    delay: tuple[float, float] = (0.0002, 0.001)


class Host:
    """The shell around one node: an address, a clock, and what the node has told so far.

    Attributes:
        node: the protocol.
        address: where it is reached.
        events: everything the node told, oldest first.
        clock_ahead: how many seconds its clock is ahead of the network's.
        on_event: told of each event as well.
    """

    def __init__(self, network: Network, node: Node, address: Address, clock_ahead: float) -> None:
        self.node = node
        self.address = address
        self.clock_ahead = clock_ahead
        self.events: list[MeshEvent] = []
        self.on_event: Callable[[MeshEvent], None] = lambda _: None
        self._backlog: list[tuple[bytes, Address]] | None = None
        self._network = network
        self._armed: float | None = None
        self._fired_at = -1.0
        self._fired = 0

    @property
    def now(self) -> float:
        """This host's own clock."""
        return self._network.now + self.clock_ahead

    def receive(self, data: bytes, sender: Address) -> None:
        """A datagram arrives."""
        if self._backlog is not None:
            if len(self._backlog) < _SOCKET_BUFFER:
                self._backlog.append((data, sender))
            return
        self.node.receive_datagram(data, sender, self.now)
        self.pump()

    def wake(self, deadline: float) -> None:
        """A timer that was set for ``deadline`` rings.  One that the node has moved since is stale."""
        if self._backlog is not None or deadline != self._armed or self._network.hosts.get(self.address) is not self:
            return
        self._armed = None
        self._fired = self._fired + 1 if self._fired_at == self._network.now else 0
        self._fired_at = self._network.now
        assert self._fired < _BUSY, f"the node at {self.address} asks to be woken without end at {self._network.now}"
        self.node.handle_timer(max(self.now, deadline))  # the sum of two clocks may fall short by a rounding
        self.pump()

    def pause(self) -> None:
        """Stop the process, as SIGSTOP does: its socket's buffer fills, its timers wait."""
        if self._backlog is None:
            self._backlog = []

    def resume(self) -> None:
        """Let it go on: first what arrived meanwhile, then the timers."""
        backlog, self._backlog = self._backlog or [], None
        for data, sender in backlog:
            self.node.receive_datagram(data, sender, self.now)
        self._armed = None
        self.pump()

    @property
    def is_paused(self) -> bool:
        """Whether it was paused and not resumed."""
        return self._backlog is not None

    def pump(self) -> None:
        """What a shell does after everything: send, take the events, set the timer."""
        for data, destinations in self.node.datagrams_to_send(self.now):
            for destination in destinations:
                self._network.send(Packet(data, self.address, destination))
        while (event := self.node.next_event()) is not None:
            self.events.append(event)
            self.on_event(event)
        deadline = self.node.next_timer()
        if deadline != self._armed:
            self._armed = deadline
            self._arm(deadline)

    def _arm(self, deadline: float | None) -> None:
        if deadline is not None:
            self._network.call_at(deadline - self.clock_ahead, lambda: self.wake(deadline))


class Receiver(Protocol):
    """What a carrier brings packets to."""

    address: Address

    def receive(self, data: bytes, sender: Address) -> None:
        """A datagram arrives."""
        ...


class Carrier(ABC):
    """Carries packets, in its weather.  Has no clock of its own.

    Args:
        seed: everything random follows from it.
        weather: how packets are treated; may be changed at any time.

    Attributes:
        accepts: asked for each packet before the weather is; False drops it.
        packets: every packet that was sent, while ``recording``.
        hosts: who is reached at which address.
    """

    def __init__(self, seed: int = 0, weather: Weather | None = None) -> None:
        self.random = Random(seed)  # noqa: S311 - repeatable on purpose
        self.weather = weather or Weather()
        self.accepts: Callable[[Packet], bool] = lambda _: True
        self.recording = False
        self.packets: list[Packet] = []
        self.hosts: dict[Address, Receiver] = {}
        self._severed: dict[Address, set[Address]] = defaultdict(set)

    def detach(self, host: Receiver) -> None:
        """Take a host off at once, as a crash does: nothing more is sent, nothing arrives."""
        del self.hosts[host.address]

    def sever(self, sources: Iterable[Receiver], destinations: Iterable[Receiver]) -> None:
        """Drop every packet from any of the ones to any of the others: a one-way partition."""
        addresses = {host.address for host in destinations}
        for source in sources:
            self._severed[source.address] |= addresses

    def heal(self) -> None:
        """End all partitions."""
        self._severed.clear()

    def send(self, packet: Packet) -> None:
        """Put a packet on its way, if the weather lets it."""
        if self.recording:
            self.packets.append(packet)
        if packet.destination in self._severed[packet.source] or not self.accepts(packet):
            return
        while self.random.random() >= self.weather.loss:
            self.deliver(packet, self.random.uniform(*self.weather.delay))
            if self.random.random() >= self.weather.duplicate:
                break

    def deliver(self, packet: Packet, delay: float = 0.0) -> None:
        """Let a packet arrive, whatever the weather: also one that a test has forged or kept."""

        def arrive() -> None:
            host = self.hosts.get(packet.destination)
            if host is not None:
                host.receive(packet.data, packet.source)

        self.call_after(delay, arrive)

    @abstractmethod
    def call_after(self, seconds: float, call: Callable[[], None]) -> None:
        """Do something later."""


class Network(Carrier):
    """Carries packets between hosts.

    Args:
        seed: everything random follows from it.
        weather: how packets are treated; may be changed at any time.

    Attributes:
        now: the time, in seconds; moves only in :meth:`run` and :meth:`run_until`.
    """

    def __init__(self, seed: int = 0, weather: Weather | None = None) -> None:
        super().__init__(seed, weather)
        self.now = 1000.0
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def attach(self, node: Node, address: Address, clock_ahead: float = 0.0) -> Host:
        """Run a node at this address."""
        host = self.hosts[address] = Host(self, node, address, clock_ahead)
        host.pump()
        return host

    def call_after(self, seconds: float, call: Callable[[], None]) -> None:
        """Do something later."""
        self.call_at(self.now + seconds, call)

    def call_at(self, moment: float, call: Callable[[], None]) -> None:
        """Do something at a moment of this network's clock."""
        heapq.heappush(self._calls, (moment, next(self._order), call))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._calls and self._calls[0][0] <= end:
            self._step()
        self.now = end

    def run_until(self, condition: Callable[[], object], within: float) -> float:
        """Let time pass until the condition holds; the seconds that took.

        Raises:
            AssertionError: it did not hold in time.
        """
        start = self.now
        while not condition():
            due = self._calls[0][0] if self._calls else inf
            assert due <= start + within, f"did not hold within {within} s"
            self._step()
        return self.now - start

    def _step(self) -> None:
        moment, _, call = heapq.heappop(self._calls)
        self.now = max(self.now, moment)
        call()
