"""Datagrams of somebody who has no key: forged, replayed, cut short and with bits flipped.

``python -m tests.fuzz.flood PORT COUNT SEED SECRET NODE…`` sends them to a port of loopback as fast as it can;
the secret serves to make what was recorded.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from random import Random

from meshcache.mesh.seal import MAX_DATAGRAM_BYTES, OVERHEAD_BYTES, MeshKey
from meshcache.stamp import Kind, Op, make_stamp
from meshcache.testing.network import Network
from tests.unit.mesh import nodes

__all__ = ["datagrams", "record"]

_HEADER_BYTES = OVERHEAD_BYTES - 16
_VARIANTS = 4096


def record(key: MeshKey, random: Random) -> list[bytes]:
    """All that two instances with this key said to each other once: handshakes, writes, heartbeats, goodbye.  Both are gone."""
    network = Network(random.getrandbits(32))
    one, two = (nodes.add_host(network, random.getrandbits(63), keys=[key], port=7000 + n) for n in range(2))
    network.recording = True
    nodes.meet(network, one, two)
    for number in range(100):
        op = Op(Kind.SET, f"key:{number}", make_stamp(1_700_000_000_000 + number, 0, 1), random.randbytes(30))
        nodes.publish(random.choice([one, two]), op)
        network.run(0.05)
    one.node.close(network.now)
    one.pump()
    return [packet.data for packet in network.packets]


def datagrams(recorded: Sequence[bytes], key_id: bytes, node_ids: Sequence[int], random: Random) -> Iterator[bytes]:
    """Without end.

    Args:
        recorded: genuine datagrams that were heard on the network once.
        key_id: of the mesh's key, which anybody can read in its datagrams.
        node_ids: of instances that live, which anybody can read too.
        random: where chance comes from.
    """
    while True:
        genuine = random.choice(recorded)
        match random.randrange(6):
            case 0:
                yield genuine
            case 1:
                yield genuine[: random.randrange(len(genuine))]
            case 2:
                flipped = bytearray(genuine)
                flipped[random.randrange(len(flipped))] ^= 1 << random.randrange(8)
                yield bytes(flipped)
            case 3:  # as if a peer said it, and far ahead
                yield _header(key_id, random.choice(node_ids), random.getrandbits(random.choice([8, 64]))) + _body(
                    random
                )
            case 4:  # as if somebody new said it
                yield _header(key_id, random.getrandbits(64), 1) + genuine[_HEADER_BYTES:]
            case _:
                yield random.randbytes(random.randrange(MAX_DATAGRAM_BYTES + 300))


def _header(key_id: bytes, node_id: int, counter: int) -> bytes:
    return b"mc\x01" + key_id + struct.pack(">QQ", node_id, counter)


def _body(random: Random) -> bytes:
    return random.randbytes(random.randrange(16, MAX_DATAGRAM_BYTES - _HEADER_BYTES))


def send(port: int, count: int, seed: int, key: MeshKey, node_ids: Sequence[int]) -> None:
    """Made beforehand, so that sending is all that takes time; a repetition is a replay."""
    random = Random(seed)
    flood = datagrams(record(key, random), key.key_id, node_ids, random)
    ready = [next(flood) for _ in range(min(count, _VARIANTS))]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for turn in range(count):
            sender.sendto(ready[turn % len(ready)], ("127.0.0.1", port))


if __name__ == "__main__":
    to, how_many, chance, password, *those = sys.argv[1:]
    mesh_key = MeshKey.from_secret(password, "test")
    send(int(to), int(how_many), int(chance), mesh_key, [int(node_id, 16) for node_id in those])
