"""A flood of datagrams from somebody without the key, at a node whose peers go on talking to it.

``MESHCACHE_TEST_FULL=1`` sends a million; by default it is fewer.
"""

from __future__ import annotations

import gc
import os
import tracemalloc
from random import Random

from meshcache.mesh.node import ForeignKey
from meshcache.mesh.settings import Limits
from meshcache.testing.network import Network
from tests.fuzz.flood import datagrams, record
from tests.unit.mesh.nodes import KEY, Known, agree, left, meet, set_op

COUNT = 1_000_000 if os.environ.get("MESHCACHE_TEST_FULL") == "1" else 60_000
WARM = 30_000
"""By then every table that remembers strangers is full."""

MOST_GROWTH = 150_000
"""Bytes, after that; some of it are packets of the simulated network.  A node that kept 5 bytes of each datagram would show."""


def test_nothing_is_accepted_and_nothing_is_kept() -> None:
    random = Random(20_241)
    network = Network(1)
    target, peer = Known(network, 1), Known(network, 2, limits=Limits(ring_bytes=2_000))
    meet(network, target.host, peer.host)
    network.recording = True
    for turn in range(20):
        peer.write(set_op(f"heard:{turn}", turn))
        network.run(0.2)
    network.recording = False
    heard = [packet.data for packet in network.packets if packet.source == peer.host.address]
    recorded = [*record(KEY, random), *heard * 3]
    flood = datagrams(recorded, KEY.key_id, [target.node.node_id, peer.node.node_id], random)
    node = target.node
    sent_bytes = out = foreign = gone = flat = 0
    tracemalloc.start()
    try:
        for turn in range(COUNT):
            datagram = next(flood)
            address = (f"10.{random.randrange(200)}.{random.randrange(200)}.1", random.randrange(1, 65_536))
            before = node.counters.bytes_out
            node.receive_datagram(datagram, address, target.host.now)
            target.host.pump()
            out += node.counters.bytes_out - before
            sent_bytes += len(datagram)
            if turn % 500 == 0:
                network.run(0.025)  # 20 000 a second; the two talk meanwhile
            if turn % 5000 == 0:
                peer.write(set_op(f"heard:{turn // 5000 % 20}", turn + 20))
                foreign += sum(isinstance(event, ForeignKey) for event in target.host.events)
                gone += len(left(target.host))
                target.host.events.clear()  # which this test alone keeps
            if turn == WARM:
                gc.collect()
                flat = tracemalloc.get_traced_memory()[0]
        gc.collect()
        growth = tracemalloc.get_traced_memory()[0] - flat
    finally:
        tracemalloc.stop()
    network.run(1.0)
    counters = node.counters
    print(
        f"{COUNT} datagrams: {counters.dropped.total()} dropped, {out} bytes answered to {sent_bytes}, memory grew by "
        f"{growth} bytes; {counters.as_dict()}"
    )
    assert agree(target, peer)
    assert set(target.replica.records) == {f"heard:{n}" for n in range(20)}, "all that the peer wrote, and nothing else"
    assert not gone
    assert [each.node_id for each in node.peers] == [f"{peer.node.node_id:016x}"]
    assert out <= sent_bytes / 10
    assert foreign <= 64 * (1 + COUNT / 20_000 / 60), "reported, but no flood of reports"
    assert growth < MOST_GROWTH
