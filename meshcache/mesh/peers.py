"""Who is there: addresses that may be peers', handshakes under way, and the peers themselves.

Records and their deadlines.  No datagrams are made or read here (see ``node``), no I/O, no clock; randomness is passed in.

Everything that a stranger can make this instance remember is bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from math import inf
from typing import Generic, TypeVar

from ..events import Mode, Peer
from ..standings import Standing
from .inbox import Inbox
from .seal import ReplayWindow
from .settings import Address, Limits, Random, Timing
from .wire import NONCE_BYTES

__all__ = ["Candidates", "Nonces", "Session", "Sessions", "Throttle"]

Subject = TypeVar("Subject", bound=Hashable)


class Nonces(Generic[Subject]):
    """Questions that wait for their answer.  Each nonce is made for one subject, is good for a few seconds and for one answer.

    Args:
        limit: how many are kept; the oldest goes first.
        timeout: how long one is good, in seconds.
        random: where nonces come from.
    """

    __slots__ = ("_asked", "_limit", "_random", "_subjects", "_timeout")

    def __init__(self, limit: int, timeout: float, random: Random) -> None:
        self._limit = limit
        self._timeout = timeout
        self._random = random
        self._asked: OrderedDict[Subject, tuple[bytes, float]] = OrderedDict()
        self._subjects: dict[bytes, Subject] = {}

    def __len__(self) -> int:
        return len(self._asked)

    def issue(self, subject: Subject, now: float) -> bytes:
        """The nonce for this subject: the one that waits already, so that no replay of its question spoils it, or a new one."""
        nonce, asked_at = self._asked.get(subject, (b"", -inf))
        if now - asked_at < self._timeout:
            return nonce
        self._forget(subject)
        while len(self._asked) >= self._limit:
            self._forget(next(iter(self._asked)))
        nonce = self._random.randbytes(NONCE_BYTES)
        self._asked[subject] = (nonce, now)
        self._subjects[nonce] = subject
        return nonce

    def redeem(self, nonce: bytes, now: float) -> Subject | None:
        """The subject that this nonce was made for; None if there is none, or it came too late or twice."""
        subject = self._subjects.get(nonce)
        if subject is None:
            return None
        _, asked_at = self._asked[subject]
        self._forget(subject)
        return subject if now - asked_at < self._timeout else None

    def subject(self, nonce: bytes) -> Subject | None:
        """Whom a nonce was made for, without using it up."""
        return self._subjects.get(nonce)

    def _forget(self, subject: Subject) -> None:
        nonce, _ = self._asked.pop(subject, (b"", 0.0))
        self._subjects.pop(nonce, None)


class Throttle(Generic[Subject]):
    """Lets one event of each subject pass in ``pause`` seconds, and ``limit`` events of all subjects together."""

    __slots__ = ("_limit", "_passed", "_pause")

    def __init__(self, limit: int, pause: float) -> None:
        self._limit = limit
        self._pause = pause
        self._passed: OrderedDict[Subject, float] = OrderedDict()

    def passes(self, subject: Subject, now: float) -> bool:
        """Whether this event may pass."""
        passed = self._passed
        while passed and now - next(iter(passed.values())) >= self._pause:
            passed.popitem(last=False)
        if subject in passed or len(passed) >= self._limit:
            return False
        passed[subject] = now
        return True


class _Candidate:
    __slots__ = ("attempts", "is_own", "next_hello", "node_id", "until")

    def __init__(self, now: float) -> None:
        self.node_id: int | None = None  # the peer that it led to
        self.is_own = False
        self.until = now
        self.restart(now)

    def restart(self, now: float) -> None:
        self.node_id = None
        self.attempts = 0
        self.next_hello = now


class Candidates:
    """Addresses that may be peers'.  Each is greeted again and again until it leads to a peer or is forgotten."""

    __slots__ = ("_candidates", "_limit", "_random", "_timing", "next_hello")

    def __init__(self, limit: int, timing: Timing, random: Random) -> None:
        self._limit = limit
        self._timing = timing
        self._random = random
        self._candidates: dict[Address, _Candidate] = {}
        self.next_hello = inf
        """When the next hello is due."""

    def __len__(self) -> int:
        return len(self._candidates)

    def add(self, address: Address, now: float, ttl: float) -> bool:
        """Keep the address for ``ttl`` seconds from now, or for longer if it was promised longer.

        Returns:
            False if there are too many already.
        """
        candidate = self._candidates.get(address)
        if candidate is None:
            if len(self._candidates) >= self._limit:
                self._forget_old(now)
            if len(self._candidates) >= self._limit:
                return False
            candidate = self._candidates[address] = _Candidate(now)
        candidate.until = max(candidate.until, now + ttl)
        self._rearm()
        return True

    def due(self, now: float) -> list[Address]:
        """Whom to greet now.  Each is due again after its next pause."""
        if now < self.next_hello:
            return []
        self._forget_old(now)
        greet = [address for address, candidate in self._candidates.items() if candidate.next_hello <= now]
        for address in greet:
            candidate = self._candidates[address]
            pause = self._timing.hello_pauses[min(candidate.attempts, len(self._timing.hello_pauses) - 1)]
            candidate.attempts += 1
            candidate.next_hello = now + pause * (0.8 + 0.4 * self._random.random())
        self._rearm()
        return greet

    def silent(self, attempts: int) -> list[Address]:
        """The addresses that were greeted so often at least, and that nobody answers from."""
        return [
            address
            for address, candidate in self._candidates.items()
            if candidate.attempts >= attempts and candidate.node_id is None and not candidate.is_own
        ]

    def leads_to(self, address: Address, node_id: int) -> None:
        """This address is a peer's: no more hellos."""
        candidate = self._candidates.get(address)
        if candidate is not None:
            candidate.node_id = node_id
            candidate.next_hello = inf
            self._rearm()

    def is_own(self, address: Address, now: float) -> None:
        """This address is this instance's own: leave it alone for as long as an address is kept."""
        candidate = self._candidates.get(address)
        if candidate is not None:
            candidate.is_own = True
            candidate.next_hello = now + self._timing.candidate_ttl
            self._rearm()

    def lost(self, node_id: int, now: float) -> None:
        """That peer is gone: whoever has its addresses now is to be greeted again."""
        for candidate in self._candidates.values():
            if candidate.node_id == node_id:
                candidate.restart(now)
        self._forget_old(now)
        self._rearm()

    def _forget_old(self, now: float) -> None:
        self._candidates = {address: it for address, it in self._candidates.items() if now < it.until}

    def _rearm(self) -> None:
        self.next_hello = min((candidate.next_hello for candidate in self._candidates.values()), default=inf)


class Session:
    """One peer: it has proved that it holds the key and is alive.

    Attributes:
        node_id: its own.
        address: where its newest sealed datagram came from.
        mode: which tier answers there.
        last_heard: when its last fresh datagram came, in seconds.
        window: which of its datagrams were seen.
        inbox: which of its writes came.
        heartbeat: the counter of its newest heartbeat, so that an overtaken one changes nothing.
        root: the hash of all it knows, by that heartbeat; None if it is not to be compared with.
        standing: how it writes to Redis, by that heartbeat; None before the first.
        lost: how many of its writes were lost for good, when this was last made up for.
        counted: how many of them the node has counted.
        compared: the roots here and there of the last comparison that found nothing, good until ``compared_until``.
        compared_at: when all that it knew was last known here too, in seconds.
        compare_at: not to be compared with before, in seconds.
        compare_pause: the pause after the next comparison, in seconds.
        requests: how many of its requests may be answered now, as of ``requests_at``.
    """

    __slots__ = (
        "address", "compare_at", "compare_pause", "compared", "compared_at", "compared_until", "counted", "heartbeat", "inbox",
        "last_heard", "lost", "mode", "node_id", "requests", "requests_at", "root", "standing", "window",
    )  # fmt: skip

    def __init__(self, node_id: int, address: Address, mode: Mode, counter: int, inbox: Inbox, now: float) -> None:
        self.node_id = node_id
        self.address = address
        self.mode = mode
        self.last_heard = now
        self.window = ReplayWindow(counter)
        self.inbox = inbox
        self.heartbeat = counter
        self.root: bytes | None = None
        self.standing: Standing | None = None
        self.lost = 0
        self.counted = 0
        self.compared: tuple[bytes, bytes] | None = None
        self.compared_until = now
        self.compared_at = -inf
        self.compare_at = now
        self.compare_pause = 0.0
        self.requests = 0.0
        self.requests_at = -inf

    @property
    def peer(self) -> Peer:
        """What the public may know of it."""
        return Peer(f"{self.node_id:016x}", self.address[0], self.address[1], self.mode)

    def has_compared(self, roots: tuple[bytes, bytes], now: float) -> bool:
        """Whether these were compared lately, and nothing was found."""
        return self.compared == roots and now < self.compared_until

    def may_request(self, now: float, per_second: int) -> bool:
        """Whether one more request of it is to be answered; takes it into account (a token bucket of one second)."""
        self.requests = min(per_second, self.requests + (now - self.requests_at) * per_second)
        self.requests_at = now
        if self.requests < 1:
            return False
        self.requests -= 1
        return True


class Sessions:
    """The peers, in the order in which they were last heard, so that the one to be missed next is the first."""

    __slots__ = ("_addresses", "_by_address", "_sessions", "_timing", "limit")

    def __init__(self, limits: Limits, timing: Timing) -> None:
        self.limit = limits.max_peers
        self._timing = timing
        self._sessions: OrderedDict[int, Session] = OrderedDict()
        self._addresses: tuple[Address, ...] | None = ()
        self._by_address: dict[Address, int] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    def get(self, node_id: int) -> Session | None:
        """The session of this node, if it is a peer."""
        return self._sessions.get(node_id)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where to send what is for every peer."""
        if self._addresses is None:
            self._by_address = {session.address: session.node_id for session in self}
            self._addresses = tuple(self._by_address)
        return self._addresses

    def at(self, address: Address) -> int | None:
        """The node id of the peer at this address."""
        return self._by_address.get(address) if self.addresses else None

    @property
    def next_silence(self) -> float:
        """When the first peer will have been silent for too long."""
        for session in self._sessions.values():
            return session.last_heard + self._timing.gone_after
        return inf

    def add(self, session: Session) -> None:
        """A new peer."""
        self._sessions[session.node_id] = session
        self._addresses = None

    def remove(self, session: Session) -> None:
        """It is no peer any more."""
        del self._sessions[session.node_id]
        self._addresses = None

    def heard(self, session: Session, now: float) -> None:
        """A fresh datagram of it has opened."""
        session.last_heard = now
        self._sessions.move_to_end(session.node_id)

    def move(self, session: Session, address: Address) -> None:
        """It speaks from another address now."""
        session.address = address
        self._addresses = None

    def silent(self, now: float) -> list[Session]:
        """Those that were silent for too long."""
        gone = []
        for session in self._sessions.values():
            if now < session.last_heard + self._timing.gone_after:
                break
            gone.append(session)
        return gone

    def is_suspect(self, session: Session, now: float) -> bool:
        """Whether it was silent for long enough to doubt it."""
        return now >= session.last_heard + self._timing.suspect_after
