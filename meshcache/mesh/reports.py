"""What a node tells its owner: events, and counters of what it has done.  Records only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Final

from ..events import PeerJoined, PeerLeft, PeerModeChanged
from ..stamp import Op
from ..standings import Standing
from .errors import Reason
from .settings import Address

__all__ = ["ClockTold", "Counters", "ForeignKey", "MeshEvent", "OpsLost", "OpsReceived", "StandingChanged"]


@dataclass(frozen=True, slots=True)
class OpsReceived:
    """A peer's writes.  Each write of a peer is told once, in any order; the stamps decide what is newer.

    Attributes:
        ops: one or more.
        node_id: the peer that sent them.
        in_redis: whether Redis had them when they were sent; None if the peer does not say.
    """

    ops: tuple[Op, ...]
    node_id: int
    in_redis: bool | None = None


@dataclass(frozen=True, slots=True)
class StandingChanged:
    """A peer says something new of how it writes to Redis."""

    node_id: int
    standing: Standing


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """Someone at this address speaks this protocol with a key that this instance does not hold: another secret, most often.

    Told once an address in ``Timing.foreign_key_pause``.  Anyone can forge it: good for a line in a log, not for a decision.
    """

    address: Address


@dataclass(frozen=True, slots=True)
class OpsLost:
    """Some writes of this peer, which is there, will never come, and comparing with it is not possible.

    Which keys they were of nobody knows any more: values in memory must be forgotten, so that a read is a miss and not a
    lie.  Not told of a peer that has left: if it is cut off, comparing follows when it is back; if it is dead, what only it
    knew went with it, as if it had died before it was written, and everything else is kept.

    Attributes:
        node_id: the peer that sent them.
    """

    node_id: int


@dataclass(frozen=True, slots=True)
class ClockTold:
    """A peer has answered what its clock says.

    Attributes:
        node_id: the peer.
        wall_ms: its wall clock when it answered, in ms since 1970.
        round_trip: how long ago it was asked, in seconds; it answered somewhen in between.
    """

    node_id: int
    wall_ms: int
    round_trip: float


MeshEvent = PeerJoined | PeerLeft | PeerModeChanged | StandingChanged | OpsReceived | OpsLost | ForeignKey | ClockTold


@dataclass(slots=True)
class Counters:
    """What a node has done since it was made.

    Attributes:
        datagrams_in: received, good or bad.
        datagrams_out: sent, each destination counted.
        bytes_in: received.
        bytes_out: sent, each destination counted.
        ops_in: writes received from peers.
        ops_out: writes sent, each once however many peers there are.
        repeats_in: datagrams of writes that had come already.
        repeats_out: datagrams sent again, because a peer missed them.
        nacks_out: requests for datagrams that were missing.
        numbers_lost: missing datagrams that no peer can send again.
        requests_refused: requests of peers that were not answered, because there were too many.
        comparisons: how often this instance compared what it knows with a peer.
        fetched: writes that came because of that.
        candidates_refused: addresses that were not taken in, because there were too many already.
        dropped: datagrams that were dropped, by :class:`~meshcache.mesh.errors.Reason`.
    """

    datagrams_in: int = 0
    datagrams_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    ops_in: int = 0
    ops_out: int = 0
    repeats_in: int = 0
    repeats_out: int = 0
    nacks_out: int = 0
    numbers_lost: int = 0
    requests_refused: int = 0
    comparisons: int = 0
    fetched: int = 0
    candidates_refused: int = 0
    dropped: Counter[Reason] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, int]:
        """All of it, flat: ``dropped`` becomes ``dropped_forged`` and so on, one for every reason."""
        flat = {name: getattr(self, name) for name in _PLAIN_COUNTERS}
        return flat | {f"dropped_{reason}": self.dropped[reason] for reason in Reason}


_PLAIN_COUNTERS: Final = tuple(field.name for field in fields(Counters) if field.name != "dropped")
