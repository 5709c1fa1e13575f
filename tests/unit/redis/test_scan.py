"""What a scan of a cluster finds while slots move: nodes that live in memory, and whose slots move between any two answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from random import Random
from typing import Any

import anyio
from hypothesis import given, settings
from hypothesis import strategies as st

from meshcache.redis.cluster_link import ClusterLink
from meshcache.redis.link import Command, Identity, Shard
from meshcache.redis.names import SLOTS, Names, key_slot
from meshcache.redis.tier import RedisTier
from meshcache.redis.url import ClusterEndpoint, parse_url

NODES = 4
KEYS = [f"{{{tag}}}{i}" for tag in "abcdef" for i in range(20)]
NAMES = Names("gw")
MOVING = sorted({key_slot(NAMES.key(key)) for key in KEYS})


class Node:
    """One node: what it has, what it gives and takes, and whom it believes to have each slot."""

    def __init__(self, number: int, owners: list[int]) -> None:
        self.number = number
        self.keys: set[bytes] = set()
        self.giving: dict[int, int] = {}
        self.taking: dict[int, int] = {}
        self.epoch = number
        self.believes = list(owners)


class Cluster:
    """Nodes of which the last has nothing at first.  Every question to a node lets some slots move before it is answered.

    Args:
        random: what happens.
        moves: how many steps of moves there are in all.

    Attributes:
        when_scanned: called when a scan of a node has come to its end.
        news: how likely it is that a node hears who has which slots, at each question.
    """

    def __init__(self, random: Random, moves: int = 0) -> None:
        self._random = random
        self._moves = moves
        self.owners = [slot * (NODES - 1) // SLOTS for slot in range(SLOTS)]
        for slot in MOVING:
            self.owners[slot] = random.randrange(NODES - 1)
        self.nodes = [Node(number, self.owners) for number in range(NODES)]
        for key in map(NAMES.key, KEYS):
            self.nodes[self.owners[key_slot(key)]].keys.add(key)
        self.when_scanned: Callable[[int], None] = lambda _: None
        self.news = 0.3

    def link(self) -> ClusterLink:
        place = parse_url("redis+cluster://0:1")
        assert isinstance(place, ClusterEndpoint)
        return ClusterLink(place, timeout=5.0, open_link=lambda endpoint, *_: FakeLink(self, int(endpoint.host)))

    def ask(self, number: int, command: Command) -> Any:
        self._go_on()
        node = self.nodes[number]
        match command:
            case "CLUSTER", "SLOTS":
                return [[*run, [b"%d" % owner, 1, b"%d" % owner]] for owner, *run in ranges(node.believes)]
            case "CLUSTER", "NODES":
                return self._nodes_reply(node)
            case "SCAN", bytes(cursor), "MATCH", _, "COUNT", _:
                next_cursor, page = self._scan(node, int(cursor))
                if next_cursor == b"0":
                    self.when_scanned(number)
                return [next_cursor, page]
        raise AssertionError(command)

    # -- moves, as redis-cli makes them

    def begin(self, slot: int, target: int) -> None:
        source = self.nodes[self.owners[slot]]
        if source.number != target and slot not in source.giving:
            self.nodes[target].taking[slot] = source.number
            source.giving[slot] = target

    def carry(self, slot: int, share: float = 1.0) -> None:
        source = self.nodes[self.owners[slot]]
        if slot in source.giving:
            some = {key for key in source.keys if key_slot(key) == slot and self._random.random() <= share}
            source.keys -= some
            self.nodes[source.giving[slot]].keys |= some

    def end(self, slot: int) -> None:
        source = self.nodes[self.owners[slot]]
        if slot not in source.giving:
            return
        self.carry(slot)
        target = self.nodes[source.giving.pop(slot)]
        del target.taking[slot]
        self.owners[slot] = source.believes[slot] = target.believes[slot] = target.number
        newest = max(node.epoch for node in self.nodes)
        if target.epoch != newest:
            target.epoch = newest + 1

    def _go_on(self) -> None:
        while self._moves and self._random.random() < 0.6:
            self._moves -= 1
            slot = self._random.choice(MOVING)
            match self._random.randrange(3):
                case 0:
                    self.begin(slot, self._random.randrange(NODES))
                case 1:
                    self.carry(slot, 0.5)
                case _:
                    self.end(slot)
        for node in self.nodes:
            if self._random.random() < self.news:
                node.believes = list(self.owners)

    # -- replies

    def _nodes_reply(self, asked: Node) -> bytes:
        lines = []
        for node in self.nodes:
            words = [str(node.number), f"{node.number}:1@2", "master", "-", "0", "0", str(node.epoch), "connected"]
            if node is asked:
                words[2] = "myself,master"
                words += [f"{first}-{last}" for owner, first, last in ranges(self.owners) if owner == node.number]
                words += [f"[{slot}->-{target}]" for slot, target in node.giving.items()]
                words += [f"[{slot}-<-{source}]" for slot, source in node.taking.items()]
            lines.append(" ".join(words))
        return "\n".join(lines).encode()

    @staticmethod
    def _scan(node: Node, cursor: int) -> list[Any]:
        """As Redis promises it: what was there all the while is among the replies; a key's place does not change."""
        left = sorted((place, key) for key in node.keys if (place := PLACES[key]) >= cursor)
        page = left[:7]
        return [b"%d" % (page[-1][0] + 1 if left[7:] else 0), [key for _, key in page]]


PLACES = {NAMES.key(key): place for place, key in enumerate(sorted(KEYS, key=lambda key: key[::-1]), start=1)}


class FakeLink:
    """A link to one of the nodes."""

    in_flight = 0

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.identity = Identity("fake")
        self._cluster = cluster
        self._number = number

    async def execute(self, *command: Any) -> Any:
        return self._cluster.ask(self._number, command)

    async def execute_many(self, commands: Sequence[Command]) -> list[Any]:
        return [self._cluster.ask(self._number, command) for command in commands]

    async def shards(self) -> Sequence[Shard]:
        return [Shard(self)]

    async def aclose(self) -> None:
        pass


def ranges(owners: list[int]) -> list[tuple[int, int, int]]:
    """Each run of slots with one owner: that, the first, the last."""
    runs = [(owner, [slot for slot, _ in run]) for owner, run in groupby(enumerate(owners), key=lambda item: item[1])]
    return [(owner, slots[0], slots[-1]) for owner, slots in runs]


async def scan(cluster: Cluster) -> list[str]:
    return [key async for key in RedisTier(cluster.link(), NAMES).scan("*")]


@settings(max_examples=60, deadline=None)
@given(random=st.randoms(use_true_random=False), moves=st.integers(0, 120))
def test_no_key_is_missed_however_slots_move(random: Random, moves: int) -> None:
    assert set(anyio.run(scan, Cluster(random, moves))) == set(KEYS)


def test_a_cluster_whose_slots_stand_still_is_scanned_once() -> None:
    assert sorted(anyio.run(scan, Cluster(Random(1)))) == sorted(KEYS)


def test_two_nodes_that_take_slots_from_each_other() -> None:
    """Whichever is scanned first: a key may come to it from the other afterwards."""
    cluster = Cluster(Random(1))
    moving = {owner: next(slot for slot in MOVING if cluster.owners[slot] == owner) for owner in (0, 1)}
    for owner, slot in moving.items():
        cluster.begin(slot, 1 - owner)
    cluster.when_scanned = lambda number: cluster.carry(moving[1 - number]) if number < 2 else None
    assert set(anyio.run(scan, cluster)) == set(KEYS)


def test_a_slot_that_goes_and_comes_back() -> None:
    """Nothing but their epochs tells later that the nodes had something to do with each other."""
    cluster = Cluster(Random(1))
    slot = next(slot for slot in MOVING if cluster.owners[slot] == 1)
    steps = {0: 0, 1: 1}  # it is at the node that was scanned already, and then at its own again

    def when_scanned(number: int) -> None:
        if (target := steps.pop(number, None)) is not None:
            cluster.begin(slot, target)
            cluster.end(slot)

    cluster.when_scanned = when_scanned
    assert set(anyio.run(scan, cluster)) == set(KEYS)


def test_who_has_which_slots_is_asked_of_those_who_have_them() -> None:
    """The others may not have heard yet that one has moved."""
    cluster = Cluster(Random(1))
    cluster.nodes[0].epoch = NODES  # the newest, which stays as it is
    cluster.news = 0
    slot = next(slot for slot in MOVING if cluster.owners[slot] == 2)

    def when_scanned(number: int) -> None:
        if number == 0:
            cluster.begin(slot, 0)
            cluster.end(slot)
            for node in cluster.nodes:
                node.believes[slot] = 2

    cluster.when_scanned = when_scanned
    assert set(anyio.run(scan, cluster)) == set(KEYS)


def test_a_node_that_gets_its_first_slot_is_scanned_once() -> None:
    """Before it has one, those who are asked for the slots do not name it."""
    cluster = Cluster(Random(1))
    slot = MOVING[0]
    cluster.begin(slot, NODES - 1)
    cluster.carry(slot)
    assert sorted(anyio.run(scan, cluster)) == sorted(KEYS)
