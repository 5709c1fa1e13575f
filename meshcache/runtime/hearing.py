"""What an instance does with what the mesh brings: writes of peers, their standings, and that they come and go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from ..events import Event, Mode, PeerJoined, PeerLeft, PeerModeChanged
from ..journal import Journal
from ..loads import Loads
from ..memory import MemoryTier
from ..mesh.node import MeshEvent, Node, OpsLost, OpsReceived, StandingChanged
from ..mesh.settings import Timing
from ..options import Options
from ..stamp import Stamp, stamp_node
from ..standings import UNKNOWN, Standing, Standings
from .briefing import Briefing
from .membership import Membership

__all__ = ["GONE_AFTER", "Hearing", "Surface"]

GONE_AFTER: Final = Timing().gone_after
"""In seconds."""

_TOLD_TOO_LATE: Final = GONE_AFTER + 2.0
"""In seconds: what was changed in Redis so shortly before a peer was known to have lost it, that peer may not have heard of."""

_SOON_BACK: Final = 1.0
"""In seconds: when a peer finds Redis, most others find it within this time."""


class Surface(Protocol):
    """What hearing needs of the runtime."""

    mode: Mode

    def became_dirty(self) -> None:
        """There may be something now that Redis lacks."""
        ...

    def look_for_redis(self) -> None:
        """A peer has found it."""
        ...

    def tell(self, event: Event) -> None:
        """Whoever iterates over the events."""
        ...

    def warn_once(self, about: str, message: str) -> None:
        """One line in the log."""
        ...


class Hearing:
    """The ear of one instance.

    Args:
        memory: takes in what peers wrote.
        loads: told of every change that is heard of.
        journal: what Redis lacks; None if there is no Redis.
        standings: what is known of the others.
        membership: how this instance stands; None if there is no Redis.
        briefing: tells peers what they may have missed.
        node: the protocol, once there is one.
        options: checked already.
        now: the monotonic clock, in seconds.
        wall_ms: the clock that stamps are made by.
        surface: the runtime.
    """

    def __init__(
        self,
        *,
        memory: MemoryTier,
        loads: Loads,
        journal: Journal | None,
        standings: Standings,
        membership: Membership | None,
        briefing: Briefing,
        node: Callable[[], Node | None],
        options: Options,
        now: Callable[[], float],
        wall_ms: Callable[[], int],
        surface: Surface,
    ) -> None:
        self._memory = memory
        self._loads = loads
        self._journal = journal
        self._standings = standings
        self._membership = membership
        self._briefing = briefing
        self._node = node
        self._options = options
        self._now = now
        self._wall_ms = wall_ms
        self._surface = surface

    def heard(self, event: MeshEvent) -> None:
        """The mesh brings this."""
        match event:
            case OpsReceived():
                self._take_ops(event)
            case OpsLost() if self._surface.mode is not Mode.REDIS:
                self._memory.forget_values()
                self._loads.changed(None, elsewhere=True)
            case StandingChanged(node_id, standing):
                self._take_standing(node_id, standing)
            case PeerJoined() | PeerLeft() | PeerModeChanged():
                if isinstance(event, PeerModeChanged) and event.peer.mode is not Mode.MEMORY:
                    self._surface.look_for_redis()  # a peer found it: so may we
                self._count_in_or_out(event)
                self._surface.tell(event)

    # -- writes

    def _take_ops(self, event: OpsReceived) -> None:
        memory = self._memory
        self._loads.heard(event.ops)
        if self._has_told_redis(event):
            if self._surface.mode is not Mode.REDIS or self._journal:
                memory.apply(event.ops, in_redis=True)
                self._surface.became_dirty()
            elif event.ops:
                memory.observe(max(op.stamp for op in event.ops))
                memory.counted_in_redis(event.ops)
        else:
            told = [op for op in event.ops if self._was_told(op.stamp)]
            if told:
                memory.apply(told, in_redis=True)
            memory.apply([op for op in event.ops if op not in told] if told else event.ops)
            self._surface.became_dirty()
        if memory.refused_stamps:
            self._surface.warn_once(
                "skew",
                f"writes of peer {event.node_id:016x} are refused: its clock is more than "
                f"{self._options.max_skew:g} s ahead of this host's; set both by NTP",
            )

    def _has_told_redis(self, event: OpsReceived) -> bool:
        """Whether a peer has brought its writes to Redis before it told them.  That it has lost Redis may not have been heard yet."""
        if event.in_redis is not None:
            return event.in_redis
        node = self._node()
        return node is not None and node.standing_of(event.node_id).clean

    def _was_told(self, stamp: Stamp) -> bool:
        """Whether whoever made this write has brought it to Redis before it lost it, or brings it there by itself: so it is up to
        its last plain write.  It was told of late, or comes from somebody who was told."""
        writer, node = stamp_node(stamp), self._node()
        if writer == self._memory.node_id:
            standing = UNKNOWN if self._membership is None else self._membership.standing
        else:
            standing = UNKNOWN if node is None else node.standing_of(writer)
        return not standing.plain and stamp <= standing.plain_until

    # -- peers

    def _take_standing(self, node_id: int, standing: Standing) -> None:
        now = self._now()
        lost_redis = self._standings.heard(node_id, standing)
        if self._membership is not None:
            self._membership.update()
        if lost_redis:
            self._brief(now - _TOLD_TOO_LATE)
            if self._membership is not None:
                self._membership.look()  # so may this one have, without knowing

    def _count_in_or_out(self, event: PeerJoined | PeerLeft | PeerModeChanged) -> None:
        now, peer, mode = self._now(), event.peer, self._surface.mode
        node_id = int(peer.node_id, 16)
        if isinstance(event, PeerJoined):
            since = self._standings.heard_at(node_id)
            self._standings.joined(node_id, clean=peer.mode is Mode.REDIS)
            if peer.mode is not Mode.REDIS:
                self._brief(max(since, now - self._options.forget_after) - _TOLD_TOO_LATE)
            elif mode is not Mode.REDIS:
                self._briefing.tell_dirty()  # it can bring that to Redis; two that cannot compare all they know
        elif isinstance(event, PeerModeChanged):
            if peer.mode is Mode.REDIS and mode is not Mode.REDIS:
                self._briefing.tell_dirty(after=_SOON_BACK)
        elif isinstance(event, PeerLeft):
            silent = event.reason == "silent"
            heard_at = now - GONE_AFTER if silent else now
            self._standings.lost(node_id, now, silent=silent, heard_at=heard_at, wall_ms=self._wall_ms())
        if self._membership is not None:
            self._membership.update()

    def _brief(self, since: float) -> None:
        """Somebody cannot hear from Redis what this instance has changed there since that moment."""
        if self._surface.mode is Mode.REDIS:
            self._briefing.tell_changes(since)
