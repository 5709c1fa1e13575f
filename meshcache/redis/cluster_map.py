"""Who has which slots, as a node of a cluster tells it.  Pure: replies in, addresses out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import Unavailable
from .names import SLOTS
from .url import Address

__all__ = ["ClusterMap", "Member", "OwnSlots", "read_address"]


@dataclass(frozen=True, slots=True)
class ClusterMap:
    """Who has which slots.

    Attributes:
        owners: for each slot the address of its master, or None.  May be corrected.
        masters: the masters that have slots, each with an id.
        nodes: the addresses of masters and replicas.
    """

    owners: list[Address | None] = field(default_factory=lambda: [None] * SLOTS)
    masters: Mapping[str, Address] = field(default_factory=dict)
    nodes: Sequence[Address] = ()

    @classmethod
    def read(cls, reply: Sequence[Any], asked: Address, remap: Callable[[Address], Address]) -> ClusterMap:
        """By the reply to ``CLUSTER SLOTS``.

        Args:
            reply: of entries ``[first, last, [host, port, id, …], …]``, the master before its replicas.
            asked: the address of the node that said so.
            remap: from the address that the cluster gives to the one where it is reached from here.

        Raises:
            Unavailable: the node knows of no slot.
        """
        owners: list[Address | None] = [None] * SLOTS
        masters: dict[str, Address] = {}
        nodes: dict[Address, None] = {}
        for first, last, *members in reply:
            addresses = [address for node in members if (address := _endpoint(node, asked, remap)) is not None]
            nodes |= dict.fromkeys(addresses)
            master = _endpoint(members[0], asked, remap) if members else None
            if master is not None:
                owners[first : last + 1] = [master] * (last + 1 - first)
                masters[members[0][2].decode()] = master
        if not masters:
            raise Unavailable(f"{asked[0]}:{asked[1]} knows of no cluster")
        return cls(owners, masters, tuple(nodes))

    @property
    def unserved(self) -> int:
        """How many slots nobody has."""
        return self.owners.count(None)

    def slots_of(self, address: Address) -> frozenset[int]:
        """The slots that this master has."""
        return frozenset(slot for slot, owner in enumerate(self.owners) if owner == address)


@dataclass(frozen=True, slots=True)
class OwnSlots:
    """The slots of one node as it tells itself: nobody knows sooner.

    Attributes:
        slots: those that it has.
        giving: for each of these that it gives away now, the id and the address of the node that gets it.
        taking: the slots that it gets.
        epoch: grows with each slot that came to it from a node that had taken one later.
    """

    slots: frozenset[int] = frozenset()
    giving: Mapping[int, tuple[str, Address | None]] = field(default_factory=dict)
    taking: frozenset[int] = frozenset()
    epoch: int = 0

    @classmethod
    def read(cls, text: str, asked: Address, remap: Callable[[Address], Address]) -> OwnSlots:
        """By the reply to ``CLUSTER NODES``: a line a node; its own tells what is asked for, the others who is where."""
        lines = [words for line in text.splitlines() if len(words := line.split()) > 7]
        addresses = {words[0]: read_address(words[1].partition("@")[0], asked, remap) for words in lines}
        slots: set[int] = set()
        giving: dict[int, tuple[str, Address | None]] = {}
        taking: set[int] = set()
        epoch = 0
        for words in lines:
            if "myself" not in words[2].split(","):
                continue
            epoch = int(words[6])
            for word in words[8:]:
                slot, gives, target = word.strip("[]").partition("->-")
                if gives:
                    giving[int(slot)] = (target, addresses.get(target))
                    continue
                slot, takes, _ = word.strip("[]").partition("-<-")
                if takes:
                    taking.add(int(slot))
                    continue
                first, _, last = word.partition("-")
                slots.update(range(int(first), int(last or first) + 1))
        return cls(frozenset(slots), giving, frozenset(taking), epoch)


@dataclass(frozen=True, slots=True)
class Member:
    """One node of a cluster, as another knows it.

    Attributes:
        address: where it is.
        replica_of: the address of its master; None of a master.
    """

    address: Address
    replica_of: Address | None

    @staticmethod
    def read(text: str, asked: Address, remap: Callable[[Address], Address]) -> list[Member]:
        """All of them, by the reply to ``CLUSTER NODES``; those without an address are left out."""
        lines = [words for line in text.splitlines() if len(words := line.split()) > 7]
        lines = [words for words in lines if not {"noaddr", "handshake"} & set(words[2].split(","))]
        addresses = {words[0]: read_address(words[1].partition("@")[0], asked, remap) for words in lines}
        return [Member(addresses[words[0]], addresses.get(words[3])) for words in lines]


def read_address(place: str, asked: Address, remap: Callable[[Address], Address]) -> Address:
    """Of ``host:port``, where a missing host means the one that was asked; an IPv6 address has no brackets."""
    host, _, port = place.rpartition(":")
    return remap((host or asked[0], int(port)))


def _endpoint(node: Sequence[Any], asked: Address, remap: Callable[[Address], Address]) -> Address | None:
    host, port = node[0], node[1]
    if host == b"?":  # it has no name yet
        return None
    return remap((host.decode() if host else asked[0], int(port)))
