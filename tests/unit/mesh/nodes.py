"""Nodes on a simulated network, and eyes to see what they say to each other."""

from __future__ import annotations

from random import Random
from typing import Any

from meshcache.events import PeerJoined, PeerLeft
from meshcache.mesh.node import Node, OpsReceived
from meshcache.mesh.seal import MeshKey, Openers, read_header
from meshcache.mesh.settings import Address
from meshcache.mesh.wire import Frame, decode
from meshcache.stamp import Kind, Op, make_stamp
from meshcache.testing.network import Host, Network, Packet
from meshcache.testing.replica import MapReplica

KEY = MeshKey.from_bytes(bytes(range(32)), "gateway")
OTHER_KEY = MeshKey.from_bytes(bytes(32), "gateway")


def new_node(node_id: int, now: float, **options: Any) -> Node:
    keys = options.pop("keys", [KEY])
    return Node(node_id=node_id, keys=keys, random=Random(node_id), now=now, **options)


def add_host(network: Network, node_id: int, *, clock_ahead: float = 0.0, port: int = 0, **options: Any) -> Host:
    """A node whose address ends in its number."""
    node = new_node(node_id, network.now + clock_ahead, **options)
    return network.attach(node, (f"10.0.0.{node_id % 250}", port or 7000), clock_ahead)


def introduce(host: Host, *others: Host) -> None:
    for other in others:
        host.node.add_candidate(other.address, host.now)
    host.pump()


def meet(network: Network, *hosts: Host) -> None:
    """Everyone knows everyone."""
    for host in hosts:
        introduce(host, *(other for other in hosts if other is not host))
    network.run_until(lambda: all(knows(host, other) for host in hosts for other in hosts if host is not other), 10)


class Known:
    """A host whose node stands in front of a replica, as the memory tier's does."""

    def __init__(
        self,
        network: Network,
        node_id: int,
        *,
        max_entries: int = 10_000,
        tombstone_ttl: float = 3600.0,
        **options: Any,
    ) -> None:
        self.replica = MapReplica(lambda: 1_700_000_000_000, max_entries=max_entries, tombstone_ttl=tombstone_ttl)
        self.host = add_host(network, node_id, replica=self.replica, **options)
        self.node = self.host.node
        self.host.on_event = self._on_event

    def write(self, *ops: Op) -> None:
        for op in ops:
            self.replica.apply(op, self.host.now)
            self.node.publish(op, self.host.now)
        self.host.pump()

    def _on_event(self, event: Any) -> None:
        for op in event.ops if isinstance(event, OpsReceived) else ():
            self.replica.apply(op, self.host.now)


def agree(*instances: Known) -> bool:
    return len({instance.replica.buckets.root for instance in instances}) == 1


def count_frames(network: Network, frame_type: type) -> int:
    """How many packets with such a frame were sent while the network was recording."""
    return sum(isinstance(frame_in(packet), frame_type) for packet in network.packets)


def knows(host: Host, other: Host) -> bool:
    return f"{other.node.node_id:016x}" in {peer.node_id for peer in host.node.peers}


def publish(host: Host, *ops: Op) -> None:
    for op in ops:
        host.node.publish(op, host.now)
    host.pump()


def ops_of(host: Host) -> list[Op]:
    """Every write that this host's node has told of."""
    return [op for event in host.events if isinstance(event, OpsReceived) for op in event.ops]


def joined(host: Host) -> list[str]:
    return [event.peer.node_id for event in host.events if isinstance(event, PeerJoined)]


def left(host: Host) -> list[tuple[str, str]]:
    return [(event.peer.node_id, event.reason) for event in host.events if isinstance(event, PeerLeft)]


def frame_in(packet: Packet, key: MeshKey = KEY) -> Frame:
    """What a packet says."""
    return decode(Openers([key], 1).open(read_header(packet.data), packet.data), 0.0)


class LoseFirst:
    """Drops the first packets that carry a frame of one type from one address; see ``Network.accepts``."""

    def __init__(self, frame_type: type, source: Address | None = None, times: int = 1) -> None:
        self.frame_type, self.source, self.times = frame_type, source, times

    def __call__(self, packet: Packet) -> bool:
        hit = self.source in (None, packet.source) and isinstance(frame_in(packet), self.frame_type)
        if hit and self.times:
            self.times -= 1
            return False
        return True


def set_op(key: str, number: int = 1, value: bytes = b"value", **more: Any) -> Op:
    return Op(Kind.SET, key, make_stamp(1_700_000_000_000 + number, 0, 99), value, **more)


def delete_op(key: str, number: int = 1, **more: Any) -> Op:
    return Op(Kind.DELETE, key, make_stamp(1_700_000_000_000 + number, 0, 99), **more)


def sweep_op(pattern: str, number: int = 1, **more: Any) -> Op:
    return Op(Kind.SWEEP, pattern, make_stamp(1_700_000_000_000 + number, 0, 99), **more)
