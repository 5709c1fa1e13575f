"""What a cache can tell about itself: its mode, its peers, and the events by which both change.

Only frozen records live here, so that every layer may name them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Event", "Mode", "ModeChanged", "Peer", "PeerJoined", "PeerLeft", "PeerModeChanged"]


class Mode(StrEnum):
    """Which tier answers.  A string enum: ``str(Mode.REDIS) == "redis"``."""

    REDIS = "redis"
    MEMORY = "memory"
    RECOVERING = "recovering"


@dataclass(frozen=True, slots=True)
class Peer:
    """Another instance of the mesh, as this instance knows it.

    Attributes:
        node_id: 16 hexadecimal digits, new at every start of that instance.
        host: the IP address its sealed datagrams come from.
        port: the UDP port they come from.
        mode: which tier answered there, by its last heartbeat.
    """

    node_id: str
    host: str
    port: int
    mode: Mode


@dataclass(frozen=True, slots=True)
class ModeChanged:
    """The instance changed its mode.

    Attributes:
        old: the mode until now.
        new: the mode from now on.
        cause: why, in one line without secrets.
        held: how long the old mode held, in seconds.
    """

    old: Mode
    new: Mode
    cause: str
    held: float


@dataclass(frozen=True, slots=True)
class PeerJoined:
    """A peer proved that it holds the mesh's key and was taken in."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """A peer said goodbye or was not heard for too long.

    Attributes:
        peer: the peer as it was last known.
        reason: ``"bye"`` or ``"silent"``.
    """

    peer: Peer
    reason: str


@dataclass(frozen=True, slots=True)
class PeerModeChanged:
    """Another tier answers at a peer than before.

    Attributes:
        peer: the peer as it is known now.
        old: the mode it had before.
    """

    peer: Peer
    old: Mode


Event = ModeChanged | PeerJoined | PeerLeft | PeerModeChanged
