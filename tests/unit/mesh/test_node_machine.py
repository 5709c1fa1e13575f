"""Whatever the network does to datagrams, in whatever order, what nodes tell makes sense, and they agree once it behaves.

Hypothesis plays the network: it holds every datagram and decides which arrives when, how often, or never.
"""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meshcache.events import Mode, PeerJoined, PeerLeft
from meshcache.mesh.node import Node, OpsReceived
from meshcache.mesh.settings import Address, Limits
from meshcache.stamp import Kind, Op, make_stamp
from meshcache.testing.replica import MapReplica
from tests.unit.mesh.nodes import KEY

KEYS = ["a", "b", "c"]
WALL_MS = 1_700_000_000_000


class Player:
    """One instance, and what it has told so far."""

    def __init__(self, node_id: int, now: float, limits: Limits) -> None:
        self.address: Address = ("10.0.0.1", 7000 + node_id)
        self.replica = MapReplica(lambda: WALL_MS, tombstone_ttl=1e6)
        self.node = Node(
            node_id=node_id, keys=[KEY], random=Random(node_id), now=now, limits=limits, replica=self.replica
        )
        self.known: set[str] = set()

    def take_events(self, now: float) -> None:
        while (event := self.node.next_event()) is not None:
            match event:
                case PeerJoined(peer):
                    assert peer.node_id not in self.known, "joined twice"
                    self.known.add(peer.node_id)
                case PeerLeft(peer, reason):
                    assert reason in {"bye", "silent"}
                    self.known.remove(peer.node_id)
                case OpsReceived(ops, node_id):
                    assert f"{node_id:016x}" in self.known, "writes of a stranger"
                    for op in ops:
                        self.replica.apply(op, now)


class Mesh(RuleBasedStateMachine):
    """Three instances and a network that obeys nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.writes = 0
        self.next_id = 1
        # A tiny ring, so that repetition often fails and comparing must help.
        self.limits = Limits(ring_bytes=600, assembly_bytes=4000, max_missing=8)
        self.players = [self.new_player() for _ in range(3)]
        self.air: list[tuple[bytes, Address, Address]] = []
        self.introduce()

    def new_player(self) -> Player:
        player = Player(self.next_id, self.now, self.limits)
        self.next_id += 1
        return player

    def introduce(self) -> None:
        for player in self.players:
            for other in self.players:
                player.node.add_candidate(other.address, self.now)
            self.pump(player)

    def pump(self, player: Player) -> None:
        for data, addresses in player.node.datagrams_to_send(self.now):
            self.air.extend((data, player.address, address) for address in addresses)
        player.take_events(self.now)

    def deliver(self, packet: tuple[bytes, Address, Address]) -> None:
        data, source, destination = packet
        for player in self.players:
            if player.address == destination:
                player.node.receive_datagram(data, source, self.now)
                self.pump(player)

    def turn(self, seconds: float) -> None:
        self.now += seconds
        for player in self.players:
            deadline = player.node.next_timer()
            if deadline is not None and deadline <= self.now:
                player.node.handle_timer(self.now)
            self.pump(player)

    # -- what may happen

    @rule(who=st.integers(0, 2), key=st.sampled_from(KEYS), kind=st.sampled_from(["set", "large", "delete", "sweep"]))
    def write(self, who: int, key: str, kind: str) -> None:
        player = self.players[who % len(self.players)]
        self.writes += 1
        stamp = make_stamp(WALL_MS, self.writes, player.node.node_id)
        op = {
            "set": Op(Kind.SET, key, stamp, b"%d" % self.writes),
            "large": Op(Kind.SET, key, stamp, b"%04d" % self.writes * 700),
            "delete": Op(Kind.DELETE, key, stamp),
            "sweep": Op(Kind.SWEEP, key, stamp),
        }[kind]
        player.replica.apply(op, self.now)
        player.node.publish(op, self.now)
        self.pump(player)

    @precondition(lambda self: self.air)
    @rule(data=st.data(), again=st.booleans())
    def one_arrives(self, data: Any, again: bool) -> None:
        place = data.draw(st.integers(0, len(self.air) - 1))
        self.deliver(self.air[place] if again else self.air.pop(place))

    @precondition(lambda self: self.air)
    @rule(keep=st.sampled_from([0, 1, 3]))
    def most_are_lost(self, keep: int) -> None:
        del self.air[keep:]

    @rule()
    def all_arrive(self) -> None:
        for packet in [self.air.pop(0) for _ in range(len(self.air))]:
            self.deliver(packet)

    @rule(seconds=st.sampled_from([0.001, 0.02, 0.1, 0.5, 2.0, 6.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.turn(seconds)

    @rule(who=st.integers(0, 2), mode=st.sampled_from(Mode))
    def mode_changes(self, who: int, mode: Mode) -> None:
        player = self.players[who % len(self.players)]
        player.node.set_mode(mode, self.now)
        self.pump(player)

    @rule(who=st.integers(0, 2), says_goodbye=st.booleans())
    def one_starts_again(self, who: int, says_goodbye: bool) -> None:
        place = who % len(self.players)
        old = self.players[place]
        if says_goodbye:
            old.node.close(self.now)
            self.pump(old)
        self.players[place] = new = self.new_player()
        new.address = old.address
        self.introduce()

    # -- what must hold

    @invariant()
    def known_and_bounded(self) -> None:
        for player in self.players:
            assert {peer.node_id for peer in player.node.peers} == player.known
            assert player.node.memory_bytes < 10_000

    def teardown(self) -> None:
        for player in self.players:
            player.node.set_mode(Mode.MEMORY, self.now)
        self.introduce()
        for _ in range(3000):
            self.all_arrive()
            self.turn(0.01)
            if len({player.replica.buckets.root for player in self.players}) == 1 and all(
                len(player.node.peers) == 2 for player in self.players
            ):
                break
        else:
            raise AssertionError("they do not agree")
        first, *others = [{key: player.replica.get(key, self.now) for key in KEYS} for player in self.players]
        assert all(other == first for other in others)


Mesh.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMesh = Mesh.TestCase
