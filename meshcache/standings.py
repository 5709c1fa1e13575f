"""Who else may write to Redis without a stamp, and until when: what decides whether this instance must stamp its writes, and
whether an old write may still be brought to Redis as it was.

Decisions only: no I/O, no clock, no randomness, no logging.  ``now`` is seconds of a monotonic clock; ``wall_ms`` is the clock
that stamps are made by.

A *plain* write carries no stamp: Redis does as it is told, and asks no fence.  So a stamped write that comes to Redis late, from an
instance that was cut off, is safe in two cases only: if it is a delete, or if nobody wrote that key plainly after it.

What each instance says of itself is its *standing*.  Peers hear it in heartbeats.  Redis keeps it too, in the *registry*, for those
who do not hear each other; there it is a lease.  The rules, which together make the second case decidable:

1. An instance writes plainly only while it holds a lease on that, and while it knows of nobody who may have writes that
   Redis lacks: no peer that is not *clean*, none that fell silent within ``forget_after``, and nobody in the registry of
   whom that must be assumed.
2. Whoever has writes that Redis lacks, its own (it is not clean) or a peer's, says so before it brings them there, and then
   looks who may write plainly.  Of two that do this at the same moment one sees the other.
3. A set is brought to Redis only if it is newer than the last plain write of everybody else; otherwise as a delete.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Final, NamedTuple

from .stamp import Stamp, make_stamp

__all__ = ["AT_FIRST", "NEVER", "UNKNOWN", "Gone", "Record", "Standing", "Standings"]

NEVER: Final = make_stamp(0, 0, 0)
"""Older than every stamp: of an instance that has written nothing plainly."""

_MARGIN: Final = 2.0
"""In seconds: how long a heartbeat and a change of standing may be under way."""


class Standing(NamedTuple):
    """What an instance says of itself.

    Attributes:
        plain: whether it may write plainly now.
        clean: whether Redis answers it and has every write of its own.
        plain_until: the stamp of its last plain write; says nothing while ``plain``.
        number: how often it has changed before: of what peers hear and what Redis keeps, either may be the newer.
    """

    plain: bool
    clean: bool
    plain_until: Stamp = NEVER
    number: int = 0


UNKNOWN: Final = Standing(plain=True, clean=False)
"""Of an instance that does not say: the worst."""
AT_FIRST: Final = Standing(plain=False, clean=False)
"""Of an instance that has not reached Redis yet."""


class Record(NamedTuple):
    """What the registry in Redis says of an instance.

    Attributes:
        node_id: the instance.
        standing: as it was registered.
        registered_ms: when that was, by that instance's clock of stamps.
        lease: seconds until it ends; negative if it has ended.
        left: whether the instance said goodbye.
        addresses: where its datagrams may be sent.
        replays: whether it is bringing writes to Redis, its own or a peer's, going by what it read of the others then.
    """

    node_id: int
    standing: Standing
    registered_ms: int
    lease: float
    left: bool = False
    addresses: tuple[tuple[str, int], ...] = ()
    replays: bool = False


class Gone(NamedTuple):
    """An instance that is gone, and may have handed plain writes to its system of which nobody knows.

    Attributes:
        node_id: the instance.
        since: from when on it may have given up writes, by the clock of ``now``.
        until: connections that it opened later carried none.
    """

    node_id: int
    since: float
    until: float


class _Known:
    __slots__ = ("gone_ms", "heard_at", "lease_until", "present", "record", "silent_since", "standing")

    def __init__(self, standing: Standing) -> None:
        self.standing = standing
        self.heard_at = -inf
        self.present = False  # a peer: its standing is as new as its last heartbeat
        self.silent_since: float | None = None  # a peer that was lost without a goodbye
        self.record: Record | None = None
        self.lease_until = -inf
        self.gone_ms: int | None = None  # the registration that was told to be its last


class Standings:
    """What is known of the others.

    Args:
        gone_after: a peer that is not heard for so long is lost, in seconds.
        forget_after: how long one that was lost is reckoned with, in seconds.
        lease: how long a registration is good, in seconds.
    """

    def __init__(self, *, gone_after: float, forget_after: float, lease: float) -> None:
        self._gone_after = gone_after
        self._forget_after = forget_after
        self._lease_ms = int(lease * 1000)
        self._known: dict[int, _Known] = {}
        self._stamp_until = -inf
        self._unclean_since = -inf

    # -- what is heard

    def joined(self, node_id: int, *, clean: bool) -> None:
        """A peer was taken in; its standing comes with its first heartbeat."""
        known = self._know(node_id, UNKNOWN)
        known.present = True
        known.silent_since = None
        known.standing = Standing(plain=True, clean=clean)
        self._reckon()

    def heard(self, node_id: int, standing: Standing) -> bool:
        """A peer's heartbeat has another standing than the one before; whether it was clean and is not any more."""
        known = self._know(node_id, standing)
        known.present = True
        was_clean, known.standing = known.standing.clean, standing
        self._reckon()
        return was_clean and not standing.clean

    def lost(self, node_id: int, now: float, *, silent: bool, heard_at: float, wall_ms: int) -> None:
        """A peer is none any more.

        Args:
            node_id: the peer.
            now: this moment.
            silent: whether it was lost without a goodbye.
            heard_at: when it was heard last.
            wall_ms: this moment on the clock of stamps.
        """
        known = self._know(node_id, UNKNOWN)
        known.present = False
        known.heard_at = heard_at
        # Whoever says goodbye with writes that Redis lacks may have told them to others: as if it had fallen silent.
        known.silent_since = heard_at if silent or not known.standing.clean else None
        if not silent and known.standing.plain:
            known.standing = known.standing._replace(plain=False, plain_until=make_stamp(wall_ms, 0, 0))
        self._reckon()

    def registered(self, records: Iterable[Record], now: float) -> None:
        """What the registry says of everybody else now."""
        by_id = {record.node_id: record for record in records}
        for node_id in [*self._known]:
            known = self._known[node_id]
            known.record = by_id.get(node_id)
            is_old = now - known.heard_at >= self._forget_after
            if known.record is None and not known.present and is_old:
                # Not registered, so it writes nothing plainly; and what it wrote before was told by its lease.
                del self._known[node_id]
        for record in by_id.values():
            known = self._know(record.node_id, record.standing)
            known.record = record
            known.lease_until = now + record.lease
        self._reckon()

    def unclean(self, now: float) -> None:
        """This instance begins to have writes that Redis lacks."""
        self._unclean_since = now

    def heard_at(self, node_id: int) -> float:
        """When this instance was heard last as a peer; ``-inf`` if never."""
        known = self._known.get(node_id)
        return -inf if known is None else known.heard_at

    def newly_gone(self, now: float, *, recovering: bool) -> list[Gone]:
        """Those that are gone, and may have given up plain writes that nobody of them undoes.  Each is told once.

        That is who registered no more until its lease ended, and is not heard either; who said goodbye in the registry while it
        was not clean; and, for an instance that is about to bring writes to Redis, who fell silent and has not registered
        since.

        Args:
            now: this moment.
            recovering: whether this instance is about to bring writes to Redis.
        """
        found = []
        for node_id, known in self._known.items():
            record = known.record
            if record is None or known.present or known.gone_ms == record.registered_ms:
                continue
            registered = known.lease_until - self._lease_ms / 1000
            if record.left:
                is_gone = not record.standing.clean
            else:
                fell_silent = known.silent_since is not None and registered <= known.silent_since + _MARGIN
                is_gone = known.lease_until <= now or (recovering and fell_silent)
            if is_gone:
                known.gone_ms = record.registered_ms
                since = registered - (0.0 if record.standing.clean else self._gone_after)
                found.append(Gone(node_id, since, min(known.lease_until, now)))
        return found

    # -- what follows

    def must_stamp(self, now: float) -> bool:
        """Whether somebody may have writes that Redis lacks: then no write may be plain."""
        return now < self._stamp_until

    def last_plain(self, now: float, wall_ms: int) -> Stamp | None:
        """The stamp of the last plain write that anybody else may have made; None if somebody may be making one now.

        Args:
            now: this moment.
            wall_ms: the same on the clock of stamps.
        """
        newest = NEVER
        for known in self._known.values():
            until = self._plain_until(known, now, wall_ms)
            if until is None:
                return None
            newest = max(newest, until)
        return newest

    # -- inside

    def _know(self, node_id: int, standing: Standing) -> _Known:
        known = self._known.get(node_id)
        if known is None:
            known = self._known[node_id] = _Known(standing)
        return known

    def _reckon(self) -> None:
        self._stamp_until = max(map(self._reckon_until, self._known.values()), default=-inf)

    def _reckon_until(self, known: _Known) -> float:
        """Until when it must be assumed that this instance has writes that Redis lacks."""
        record = known.record
        if known.present:
            return -inf if known.standing.clean and not (record is not None and record.replays) else inf
        until = -inf
        if known.silent_since is not None:
            until = known.silent_since + self._forget_after
        if record is not None and not record.left:
            # One whose lease ends without a goodbye has lost Redis, or is dead; so has one that says so.
            has_writes = record.replays or not record.standing.clean or record.lease < 0
            until = max(until, known.lease_until + self._forget_after if has_writes else -inf)
        return until

    def _plain_until(self, known: _Known, now: float, wall_ms: int) -> Stamp | None:
        if known.present:
            standing = self._newest(known)
            return None if standing.plain else standing.plain_until
        bounds = [
            bound for bound in (self._by_mesh(known, now, wall_ms), self._by_registry(known)) if bound is not None
        ]
        return min(bounds, default=None)

    def _newest(self, known: _Known) -> Standing:
        """What a peer says of itself.  It may have registered something newer of which no heartbeat has come yet."""
        record = known.record
        if record is None or record.left or record.lease < 0 or record.standing.number <= known.standing.number:
            return known.standing
        return record.standing

    def _by_mesh(self, known: _Known, now: float, wall_ms: int) -> Stamp | None:
        """It was a peer.  It still hears this instance, which says that it is not clean, or must have missed it by now."""
        if self._newest(known) is not known.standing:
            return None
        if now >= known.heard_at + self._forget_after - _MARGIN:
            return None
        if not known.standing.plain:
            return known.standing.plain_until
        stops_at = max(known.heard_at, self._unclean_since) + self._gone_after + _MARGIN
        return None if now < stops_at else make_stamp(wall_ms - int((now - stops_at) * 1000), 0, 0)

    def _by_registry(self, known: _Known) -> Stamp | None:
        record = known.record
        if record is None:
            return None
        if record.left or not record.standing.plain:
            return record.standing.plain_until
        return None if record.lease >= 0 else make_stamp(record.registered_ms + self._lease_ms, 0, 0)
