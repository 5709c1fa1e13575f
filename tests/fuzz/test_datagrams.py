"""Any bytes either open and parse or are counted and dropped; nothing else happens.

``python -m tests.fuzz.test_datagrams 1000000`` tries as many datagrams as it is told, and prints the seed.
"""

from __future__ import annotations

import sys
from random import Random, SystemRandom
from time import perf_counter

import msgpack
from hypothesis import example, given
from hypothesis import strategies as st

from meshcache.buckets import Version
from meshcache.events import Mode
from meshcache.mesh.errors import BadDatagram
from meshcache.mesh.node import Node, OpsReceived
from meshcache.mesh.seal import MAX_BODY_BYTES, MeshKey, Openers, Sealer, read_header
from meshcache.mesh.settings import Address
from meshcache.mesh.wire import (
    AskBucket,
    AskClock,
    AskDigest,
    Bye,
    Challenge,
    Echo,
    Fetch,
    Fragment,
    Frame,
    FrameType,
    Gap,
    Heartbeat,
    Hello,
    Nack,
    Ops,
    TellBucket,
    TellClock,
    TellDigest,
    decode,
    encode,
)
from meshcache.stamp import Kind, Op, make_stamp
from meshcache.testing.replica import MapReplica

KEY = MeshKey.from_bytes(b"k" * 32, "fuzz")
US, PEER, STRANGER = 1, 2, 3
PEER_ADDRESS, STRANGER_ADDRESS = ("10.0.0.2", 7000), ("10.0.0.3", 7000)
STAMP = make_stamp(1_700_000_000_000, 1, 9)
NONCE = b"n" * 16

FRAMES: list[Frame] = [
    Hello(NONCE),
    Challenge(NONCE, NONCE, Mode.MEMORY, 3),
    Echo(NONCE, Mode.REDIS, 3),
    Heartbeat(Mode.RECOVERING, 3),
    Bye(),
    Ops(
        4,
        (Op(Kind.SET, "key", STAMP, b"value", 9.0), Op(Kind.DELETE, "other", STAMP), Op(Kind.SWEEP, "*", STAMP)),
        True,
    ),
    Ops(0, (Op(Kind.DELETE, "key", STAMP, b"", 9.0),)),
    Heartbeat(Mode.MEMORY, 9, 2, b"r" * 8, (("10.0.0.9", 7000), ("10.0.0.8", 7000))),
    Fragment(5, STAMP, 0, 3, b"piece", "key", 9.0, False),
    Fragment(6, STAMP, 2, 3, b"piece"),
    Nack(((1, 3), (5, 2**60))),
    Gap(0, 7),
    AskDigest(),
    TellDigest(bytes(range(256)) * 4),
    AskBucket(5, 0, "", False),
    TellBucket(5, 0, True, (Version("key", STAMP), Version("*", STAMP, True))),
    Fetch(("key", "other"), ("*",)),
    AskClock(7),
    TellClock(7, 1_700_000_000_000),
]
HANDSHAKE = 95
"""The size of a hello's, a challenge's or an echo's datagram; none is smaller."""


class Target:
    """A node with one peer, and what that peer and a stranger seal with."""

    def __init__(self) -> None:
        self.replica = MapReplica(lambda: 1_700_000_000_000)
        self.replica.apply(Op(Kind.SET, "known", STAMP, b"value"), 0.0)
        self.node = Node(node_id=US, keys=[KEY], random=Random(1), now=0.0, replica=self.replica, wall_ms=lambda: 7)
        self.peer, self.stranger = Sealer(PEER, [KEY]), Sealer(STRANGER, [KEY])
        self._admit_peer()

    def check(self, datagram: bytes, sender: Address) -> bool:
        """The invariant; whether the datagram was taken."""
        node, counters = self.node, self.node.counters
        dropped, arrived, ops_in = counters.dropped.total(), counters.datagrams_in, counters.ops_in
        node.receive_datagram(datagram, sender, 1.0)
        node.handle_timer(1.0)
        refused = counters.dropped.total() - dropped
        told = 0
        while (event := node.next_event()) is not None:
            told += len(event.ops) if isinstance(event, OpsReceived) else 0
        answers = node.datagrams_to_send(1.0)
        assert counters.datagrams_in == arrived + 1
        assert refused in (0, 1)
        assert told == counters.ops_in - ops_in
        assert not (refused and told)
        strangers = [data for data, addresses in answers if PEER_ADDRESS not in addresses]
        assert len(strangers) <= 4  # gossip: addresses that a peer named
        if sender == STRANGER_ADDRESS:
            assert sum(len(data) for data, addresses in answers if sender in addresses) <= len(datagram)
        assert node.memory_bytes <= 2**24
        if not node.peers:  # a goodbye
            self._admit_peer()
        return not refused

    def _admit_peer(self) -> None:
        self.node.receive_datagram(self.peer.seal(encode(Hello(NONCE), 0.0)), PEER_ADDRESS, 0.0)
        datagram, _ = self.node.datagrams_to_send(0.0)[-1]
        challenge = decode(Openers([KEY], 1).open(read_header(datagram), datagram), 0.0)
        assert isinstance(challenge, Challenge)
        self.node.receive_datagram(
            self.peer.seal(encode(Echo(challenge.nonce, Mode.MEMORY, 0), 0.0)), PEER_ADDRESS, 0.0
        )
        self.node.datagrams_to_send(0.0)
        assert self.node.next_event()
        assert len(self.node.peers) == 1


TARGET = Target()

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=40)
    | st.sampled_from([NONCE, STAMP, "key"])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=6) | st.dictionaries(st.integers(0, 9) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=20,
)
near_frames = st.tuples(st.sampled_from(FrameType) | st.integers(-1, 20), st.lists(values, max_size=6)).map(
    lambda parts: msgpack.packb([int(parts[0]), *parts[1]])
)
bodies = (st.binary(max_size=200) | near_frames).filter(lambda body: len(body) <= MAX_BODY_BYTES)


@given(st.binary(max_size=1300))
@example(b"")
def test_bytes_from_anywhere(datagram: bytes) -> None:
    assert not TARGET.check(datagram, STRANGER_ADDRESS)


@given(bodies, st.booleans())
def test_bodies_sealed_with_the_right_key(body: bytes, from_peer: bool) -> None:
    sealer, address = (TARGET.peer, PEER_ADDRESS) if from_peer else (TARGET.stranger, STRANGER_ADDRESS)
    TARGET.check(sealer.seal(body), address)


@given(bodies)
def test_bodies_parse_or_are_refused(body: bytes) -> None:
    try:
        frame = decode(body, 1.0)
    except BadDatagram:
        return
    assert type(decode(encode(frame, 1.0), 1.0)) is type(frame)


@given(st.sampled_from(FRAMES), st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_is_noticed(frame: Frame, position: int, change: int) -> None:
    datagram = bytearray(TARGET.peer.seal(encode(frame, 1.0)))
    datagram[position % len(datagram)] ^= change
    assert not TARGET.check(bytes(datagram), PEER_ADDRESS)


def mutate(body: bytes, random: Random) -> bytes:
    """A body with a few bytes changed, cut out or put in."""
    changed = bytearray(body)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(changed) + 1)
        match random.randrange(3):
            case 0:
                changed[at : at + 1] = random.randbytes(1)
            case 1:
                del changed[at : at + random.randint(1, 8)]
            case _:
                changed[at:at] = random.choice(
                    [
                        random.randbytes(random.randint(1, 8)),
                        b"\xdd\xff\xff\xff\xff",
                        b"\xdf\x00\xff\xff\xff",
                        b"\x91" * 30,
                    ]
                )
    return bytes(changed[:MAX_BODY_BYTES])


def attack(count: int, seed: int) -> dict[str, int]:
    """Check ``count`` datagrams: noise, mutated frames under the right key, mutated and replayed datagrams."""
    random, target = Random(seed), Target()
    seen: list[bytes] = []
    for _ in range(count):
        sealer, address = random.choice([(target.peer, PEER_ADDRESS), (target.stranger, STRANGER_ADDRESS)])
        body = encode(random.choice(FRAMES), 1.0)
        match random.randrange(5):
            case 0:
                assert not target.check(random.randbytes(random.randrange(1300)), address)
            case 1:
                datagram = sealer.seal(body)
                target.check(datagram, address)
                seen = [*seen[-50:], datagram]
            case 2 if seen:
                datagram = random.choice(seen)
                taken = target.check(datagram, address)
                # A hello is answered whoever sent it again; the challenge that this gives is what a replay cannot meet.
                assert not taken or len(datagram) == HANDSHAKE
            case 3:
                datagram = sealer.seal(body)
                mutated = mutate(datagram, random)
                assert mutated == datagram or not target.check(mutated, address)
            case _:
                target.check(sealer.seal(mutate(body, random)), address)
    return target.node.counters.as_dict()


def test_attack() -> None:
    counters = attack(20_000, seed=7)
    assert counters["dropped_malformed"] > 1000
    assert counters["dropped_forged"] > 1000
    assert counters["dropped_replayed"] > 100
    assert counters["ops_in"] > 100


if __name__ == "__main__":
    fresh, started = SystemRandom().getrandbits(32), perf_counter()
    print(f"seed {fresh}")
    for name, value in attack(int(sys.argv[1]), fresh).items():
        print(f"{name:26} {value}")
    print(f"{perf_counter() - started:.0f} s")
