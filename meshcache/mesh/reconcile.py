"""Finding out what another instance knows and this one does not, and fetching it.

One mechanism serves the late joiner, the healed partition, and whoever missed more than can be sent again.  It is driven
by the one who lacks something, who alone keeps state; who is asked answers each question by itself, so any datagram may be
lost.  Heartbeats carry the root of each instance's :class:`~meshcache.buckets.Buckets`.  Where it differs::

    asks                         is told
    ask_digest                   tell_digest: the hash of each bucket
    ask_bucket, for those that   tell_bucket: keys with their stamps, page by page
    differ, a few at once
    fetch, what it wants         ops and fragments, numbered 0

An instance compares itself with one peer at a time.  No I/O, no clock, no randomness.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from heapq import nsmallest
from math import inf
from typing import Final, Protocol

from ..buckets import BUCKETS, HASH_BYTES, Buckets, Version, root_of
from ..stamp import Kind, Op, Stamp
from .outbox import Waiting, next_run
from .peers import Session
from .settings import Limits, Timing
from .wire import AskBucket, AskDigest, Fetch, Fragment, Ops, TellBucket, TellDigest, names_that_fit, versions_that_fit

__all__ = ["Reconciler", "Replica"]

Request = AskDigest | AskBucket | Fetch

_ASKS: Final = 16
"""Buckets asked for at once: enough that round trips do not count."""

_FETCHED_AT_ONCE: Final = 64
"""Keys fetched at once, if all goes well.  With small values some ten datagrams: less than a burst."""

_MOST_WANTED: Final = 1024
"""Keys to fetch that are remembered while more buckets are asked for."""

_PATIENCE: Final = 20
"""So many times a question is repeated in vain, then the comparison is given up."""

_FETCH_PATIENCE: Final = 10
"""So many times keys are asked for in vain, then the peer does not have them any more."""

_PAGE: Final = 65


class Replica(Protocol):
    """The stamped part of a store, as reconciliation sees it."""

    @property
    def buckets(self) -> Buckets:
        """The versions of all stamped entries, tombstones and sweeps."""
        ...

    def wants(self, version: Version, now: float) -> bool:
        """Whether the write of this version, if it came, would be taken in and kept.

        False if the key's own version is the same or newer, if a sweep covers it, if its clock is too far ahead, or if
        the store is full and does not hold the key.
        """
        ...

    def op(self, key: str, is_sweep: bool, now: float) -> Op | None:
        """The newest write of a key or pattern.  A tombstone says in ``expires_at`` how long it is to be remembered."""
        ...


class Reconciler:
    """Compares this instance with its peers, and answers theirs.

    Attributes:
        comparisons: how many were begun.
        fetched: how many writes were asked for and came.
        successes: how many comparisons ended and had brought something.
    """

    def __init__(self, replica: Replica | None, timing: Timing, limits: Limits) -> None:
        self.comparisons = 0
        self.fetched = 0
        self.successes = 0
        self._replica = replica
        self._timing = timing
        self._limits = limits
        self._comparison: _Comparison | None = None

    @property
    def root(self) -> bytes | None:
        """The hash of all that is known here; None if there is no replica."""
        return None if self._replica is None else self._replica.buckets.root

    @property
    def partner(self) -> Session | None:
        """Whom this instance compares itself with now."""
        return None if self._comparison is None else self._comparison.partner

    @property
    def retry_at(self) -> float:
        """When to call :meth:`retry`, in seconds; ``inf`` if there is no comparison."""
        return inf if self._comparison is None else self._comparison.retry_at

    # -- asking

    def consider(self, session: Session, now: float) -> list[Request]:
        """Compare with this peer, if its root differs from ours and it is time."""
        own, theirs = self.root, session.root
        if self._replica is None or own is None or theirs is None or self._comparison is not None:
            return []
        if own == theirs:
            session.lost = session.inbox.lost
            session.compare_pause, session.compare_at = 0.0, now
            return []
        in_doubt = session.inbox.lost > session.lost
        if not in_doubt and (now < session.compare_at or session.has_compared((own, theirs), now)):
            return []
        self.comparisons += 1
        self._comparison = _Comparison(session, self._replica, now, self._timing)
        return [AskDigest()]

    def take(self, session: Session, frame: TellDigest | TellBucket, now: float) -> list[Request]:
        """An answer came; what to ask next."""
        comparison = self._comparison
        if comparison is None or comparison.partner is not session or not comparison.take(frame, now):
            return []
        return self._go_on(comparison, now)

    def arrived(self, ops: Iterable[Op], now: float) -> list[Request]:
        """Writes came, from whomever; what to ask next."""
        comparison = self._comparison
        came = 0 if comparison is None else comparison.arrived(ops, now)
        self.fetched += came
        return self._go_on(comparison, now) if comparison is not None and came else []

    def touch(self, now: float) -> None:
        """A piece of a large value came: the answer is on its way."""
        if self._comparison is not None:
            self._comparison.touch(now)

    def retry(self, now: float) -> list[Request]:
        """Ask again for what did not come in time."""
        comparison = self._comparison
        if comparison is None or now < comparison.retry_at:
            return []
        requests = comparison.retry(now)
        if comparison.is_hopeless:
            self._end(comparison, now)
        return requests or self._go_on(comparison, now)

    def forget(self, session: Session) -> None:
        """This peer has left."""
        if session is self.partner:
            self._comparison = None

    def stop(self) -> None:
        """There is nothing to compare any more."""
        self._comparison = None

    # -- answering

    def answer(self, request: Request, now: float) -> Sequence[TellDigest | TellBucket | Ops | Fragment]:
        """What this instance knows.  The writes are encoded when they are sent, so that time to live is right then."""
        if self._replica is None:
            return []
        match request:
            case AskDigest():
                return [TellDigest(self._replica.buckets.hashes)]
            case AskBucket(bucket, page, after, in_sweeps):
                behind = [
                    version
                    for version in self._replica.buckets.versions(bucket)
                    if (version.is_sweep, version.key) > (in_sweeps, after)
                ]
                versions = nsmallest(_PAGE, behind, key=lambda version: (version.is_sweep, version.key))
                fit = versions_that_fit(versions)
                return [TellBucket(bucket, page, fit < len(versions), tuple(versions[:fit]))]
            case Fetch(keys, sweeps):
                names = [*((key, False) for key in keys), *((key, True) for key in sweeps)]
                return self._writes(self._replica, names, now)

    def _writes(self, replica: Replica, names: Iterable[tuple[str, bool]], now: float) -> list[Ops | Fragment]:
        waiting: Waiting = OrderedDict()
        for key, is_sweep in names:
            op = replica.op(key, is_sweep, now)
            if op is not None:
                waiting[key, is_sweep] = op
        frames: list[Ops | Fragment] = []
        while waiting and len(frames) < self._limits.max_repeats:  # what is left out is asked for again
            run, _, pieces = next_run(waiting, now, self._limits.max_value_bytes)
            frames.extend(pieces or [Ops(0, tuple(run))])
        return frames

    # -- inside

    def _go_on(self, comparison: _Comparison, now: float) -> list[Request]:
        if comparison is not self._comparison:
            return []
        requests = comparison.next(now)
        if comparison.is_complete:
            self._end(comparison, now)
        return requests

    def _end(self, comparison: _Comparison, now: float) -> None:
        session = comparison.partner
        if comparison.is_complete and not comparison.has_holes:
            session.lost = max(session.lost, comparison.lost)
            if not comparison.found:
                session.compared = comparison.roots
                session.compared_until = now + self._timing.compared_ttl
        self.successes += comparison.found > 0
        longer = 0.0 if comparison.found else session.compare_pause * 2
        session.compare_pause = max(self._timing.compare_pause, min(longer, self._timing.longest_compare_pause))
        session.compare_at = now + session.compare_pause
        self._comparison = None


Name = tuple[str, bool]
"""A key or a pattern, and whether it is a pattern."""


class _Comparison:
    """What this instance has asked one peer, and what it wants to ask yet.

    Attributes:
        partner: the peer.
        lost: how many of its writes had been lost when this began; they are made up for if it completes.
        roots: what was compared, here and there.
        found: how many writes there were that this instance wanted.
        has_holes: some of them did not come.
        is_hopeless: the peer does not answer, or this takes too long.
        retry_at: when to ask again, in seconds.
    """

    def __init__(self, partner: Session, replica: Replica, now: float, timing: Timing) -> None:
        self.partner = partner
        self.lost = partner.inbox.lost
        self.roots = (b"", b"")
        self.found = 0
        self.has_holes = False
        self.retry_at = now + timing.request_timeout
        self.is_hopeless = False
        self._replica = replica
        self._timeout = timing.request_timeout
        self._until = now + timing.longest_comparison
        self._attempts = 0
        self._has_digest = False
        self._todo: deque[AskBucket] = deque()
        self._asks: dict[int, AskBucket] = {}
        self._wanted: OrderedDict[Name, Stamp] = OrderedDict()
        self._fetching: OrderedDict[Name, Stamp] = OrderedDict()
        self._window = _FETCHED_AT_ONCE
        self._touched_at = now

    @property
    def is_complete(self) -> bool:
        """Everything was asked and answered."""
        return self._has_digest and not (self._todo or self._asks or self._wanted or self._fetching)

    def touch(self, now: float) -> None:
        """There is progress."""
        self._attempts = 0
        self._touched_at = now

    def take(self, frame: TellDigest | TellBucket, now: float) -> bool:
        """Take in an answer; False if it answers nothing that was asked."""
        if isinstance(frame, TellDigest):
            if self._has_digest:
                return False
            self._has_digest = True
            own = self._replica.buckets
            self.roots = (own.root, root_of(frame.hashes))
            self._todo.extend(AskBucket(bucket, 0, "", False) for bucket in _differing(own.hashes, frame.hashes))
        else:
            ask = self._asks.get(frame.bucket)
            if ask is None or ask.page != frame.page:
                return False
            del self._asks[frame.bucket]
            for version in frame.versions:
                if self._replica.wants(version, now):
                    self._wanted[version.key, version.is_sweep] = version.stamp
            if frame.more and frame.versions:
                last = frame.versions[-1]
                self._todo.appendleft(AskBucket(frame.bucket, frame.page + 1, last.key, last.is_sweep))
        self.touch(now)
        return True

    def arrived(self, ops: Iterable[Op], now: float) -> int:
        """Writes came; how many of them were asked for."""
        came = 0
        for op in ops:
            name = (op.key, op.kind is Kind.SWEEP)
            stamp = self._fetching.get(name)
            if stamp is not None and op.stamp >= stamp:
                del self._fetching[name]
                came += 1
        if came:
            self._window = min(_FETCHED_AT_ONCE, self._window * 2)
            self.touch(now)
        return came

    def retry(self, now: float) -> list[Request]:
        """Ask again for what did not come.

        Questions are small and asked again at once.  What is fetched may be large: only if nothing comes any more.
        """
        self._attempts += 1
        self.retry_at = now + self._timeout
        self.is_hopeless = self._attempts > _PATIENCE or now > self._until
        if not self._has_digest:
            return [AskDigest()]
        if self._attempts > _FETCH_PATIENCE and not self._asks and self._fetching:
            self._fetching.clear()
            self.has_holes = True
            self.touch(now)
        if now - self._touched_at < self._timeout:
            return list(self._asks.values())
        self._narrow()
        return [*self._asks.values(), *_fetches(self._fetching)]

    def _narrow(self) -> None:
        """Fetch less at once: of many large values at a time each may lose pieces, and there is no room for all of them."""
        self._window = max(1, self._window // 2)
        while len(self._fetching) > self._window:
            name, stamp = self._fetching.popitem()
            self._wanted[name] = stamp
            self._wanted.move_to_end(name, last=False)
            self.found -= 1

    def next(self, now: float) -> list[Request]:
        """What to ask now."""
        requests: list[Request] = []
        while self._todo and len(self._asks) < _ASKS and len(self._wanted) < _MOST_WANTED:
            ask = self._todo.popleft()
            self._asks[ask.bucket] = ask
            requests.append(ask)
        if len(self._fetching) <= self._window // 2:
            batch: dict[Name, Stamp] = {}
            while self._wanted and len(self._fetching) + len(batch) < self._window:
                (key, is_sweep), stamp = self._wanted.popitem(last=False)
                if self._replica.wants(Version(key, stamp, is_sweep), now):  # it may have come from somebody else
                    batch[key, is_sweep] = stamp
            self._fetching.update(batch)
            self.found += len(batch)
            requests.extend(_fetches(batch))
        return requests


def _differing(own: bytes, theirs: bytes) -> list[int]:
    size = HASH_BYTES
    return [n for n in range(BUCKETS) if own[n * size : (n + 1) * size] != theirs[n * size : (n + 1) * size]]


def _fetches(names: Iterable[Name]) -> list[Fetch]:
    """As few requests as hold these names."""
    requests = []
    for wanted in (False, True):
        rest = [key for key, is_sweep in names if is_sweep is wanted]
        while rest:
            fit = names_that_fit(rest)
            requests.append(Fetch((), tuple(rest[:fit])) if wanted else Fetch(tuple(rest[:fit]), ()))
            rest = rest[fit:]
    return requests
