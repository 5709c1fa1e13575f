"""What one instance sends, receives and computes in a mesh of N: ``python -m tests.benchmarks.scale``.

The instance is a real node in memory mode, and so is each of its N - 1 peers; they are on the simulated network, which costs no
time of its own.  The peers do not talk to each other and share what they know, which the instance cannot tell: they gossip as
if they did.  Prints a table as the docs have it (``--json``: one document).
"""

from __future__ import annotations

import argparse
import gc
import json
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from random import Random
from time import process_time
from typing import Any

from meshcache.mesh.node import MeshEvent, Node, OpsReceived
from meshcache.mesh.seal import MeshKey
from meshcache.mesh.settings import Address, Limits
from meshcache.stamp import HybridClock, Kind, Op
from meshcache.testing.network import Network
from meshcache.testing.replica import MapReplica
from meshcache.udp import UdpSocket

SIZES = (3, 10, 50, 200, 1000)
RATE = 100
VALUE = b"v" * 100
KEY = MeshKey.from_bytes(b"s" * 32, "scale")
KEYS = 1000


@dataclass
class Load:
    """What one node does in a second.  Bytes are those of UDP's payload.

    Attributes:
        processor: the share of one processor, in percent: the node's own work, applying, and what the socket takes.
    """

    size: int
    load: str
    datagrams_out: float
    datagrams_in: float
    bytes_out: float
    bytes_in: float
    processor: float


class Stopwatch:
    """The time that some calls take.

    Attributes:
        seconds: so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def time(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, timed."""

        def timed(*arguments: Any) -> Any:
            began = process_time()
            try:
                return call(*arguments)
            finally:
                self.seconds += process_time() - began

        return timed


class Instance:
    """A node, and what it knows.

    Args:
        replica: what it knows; what the peers know too, of which each write becomes a part at once, is ``shared``.
    """

    def __init__(self, network: Network, number: int, replica: MapReplica, shared: MapReplica) -> None:
        self._network = network
        self._number = number
        self._replicas = {id(replica): replica, id(shared): shared}.values()
        self._own = replica
        self._clock = HybridClock(number + 1, lambda: wall_ms(network))
        node = Node(
            node_id=number + 1,
            keys=[KEY],
            random=Random(number),
            now=network.now,
            replica=replica,
            limits=Limits(max_candidates=1) if number else Limits(),
        )
        if number:
            gossip = tuple(address_of(max(1, number - near)) for near in (1, 2, 3, 4))
            setattr(node, "_gossip", lambda: gossip)  # noqa: B010 - a peer that knew others would name as many
        self.host = network.attach(node, address_of(number))
        self.host.on_event = self.take_in

    def take_in(self, event: MeshEvent) -> None:
        self.host.events.clear()
        for op in event.ops if isinstance(event, OpsReceived) else ():
            self._own.apply(op, self._network.now)

    def write(self, turn: int) -> None:
        now = self._network.now
        op = Op(Kind.SET, f"user:{(self._number * 37 + turn) % KEYS}", self._clock.tick(), VALUE, now + 60)
        for replica in self._replicas:
            replica.apply(op, now)
        self.host.node.publish(op, now)
        self.host.pump()


def address_of(number: int) -> Address:
    return f"10.{number // 200}.{number % 200}.1", 7000


def wall_ms(network: Network) -> int:
    return 1_700_000_000_000 + int(network.now * 1000)


def measure(size: int, seconds: float, costs: tuple[float, float]) -> list[Load]:
    """Idle, then with one node writing, then with all."""
    network, stopwatch = Network(size), Stopwatch()
    own, shared = (MapReplica(lambda: wall_ms(network), max_entries=10 * KEYS) for _ in range(2))
    instances = [Instance(network, number, shared if number else own, shared) for number in range(size)]
    one = instances[0].host
    for host in [instance.host for instance in instances[1:]]:
        host.node.add_candidate(one.address, host.now)
        host.pump()
        network.run(0.001)
    network.run_until(lambda: len(one.node.peers) == size - 1, 30)
    network.run(2.0)
    gc.collect()
    gc.disable()  # of all these nodes only one would have to be looked through
    for name in ("receive_datagram", "datagrams_to_send", "handle_timer", "next_timer", "next_event"):
        setattr(one.node, name, stopwatch.time(getattr(one.node, name)))
    one.on_event = stopwatch.time(one.on_event)
    loads = []
    for load, writers in (("idle", []), (f"one writes {RATE} a second", instances[:1]), ("all do", instances)):
        before, stopwatch.seconds = one.node.counters.as_dict(), 0.0
        write_steadily(network, writers, seconds)
        after = one.node.counters.as_dict()
        did = {name: (after[name] - before[name]) / seconds for name in after}
        send, receive = costs
        socket_seconds = did["datagrams_out"] * send + did["datagrams_in"] * receive
        loads.append(
            Load(
                size,
                load,
                *(did[name] for name in ("datagrams_out", "datagrams_in", "bytes_out", "bytes_in")),
                (stopwatch.seconds / seconds + socket_seconds) * 100,
            )
        )
        network.run(1.0)
    gc.enable()
    return loads


def write_steadily(network: Network, writers: Iterable[Instance], seconds: float) -> None:
    """Each writes at its rate, not all at the same moment."""
    start, random = network.now, Random(1)
    for writer in writers:
        phase = random.random() / RATE
        for turn in range(round(seconds * RATE)):
            network.call_at(start + phase + turn / RATE, lambda writer=writer, turn=turn: writer.write(turn))
    network.run(seconds)


def socket_costs(count: int = 20_000) -> tuple[float, float]:
    """What sending and receiving one datagram takes, in seconds, with the real socket on loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        near = UdpSocket.open(["127.0.0.1"], 0)
        data, to = b"d" * 200, [sink.getsockname()]
        began = process_time()
        for _ in range(count):
            near.send([(data, to)])
        send = (process_time() - began) / count
        receive = 0.0
        for _ in range(count // 64):
            for _ in range(64):
                sink.sendto(data, ("127.0.0.1", near.port))
            began = process_time()
            deque(near._read(), maxlen=0)
            receive += process_time() - began
        near.close()
    return send, receive / (count // 64 * 64)


def table(loads: list[Load]) -> str:
    """In the docs' form."""
    lines = [
        "| instances | load | datagrams out, in | kB out, in | processor |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {load.size:,} | {load.load} | {load.datagrams_out:,.0f}, {load.datagrams_in:,.0f} "
        f"| {load.bytes_out / 1000:,.1f}, {load.bytes_in / 1000:,.1f} | {load.processor:,.1f} % |"
        for load in loads
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    arguments = parser.parse_args()
    costs = socket_costs()
    print(f"socket: {costs[0] * 1e6:.1f} µs to send, {costs[1] * 1e6:.1f} µs to receive", file=sys.stderr)
    result: list[Load] = []
    for size in arguments.sizes:
        result += measure(size, 4.0 if size <= 50 else 1.0, costs)
        print(f"{size} …", file=sys.stderr)
    print(json.dumps([asdict(load) for load in result], indent=2) if arguments.json else table(result))
