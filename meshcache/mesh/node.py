"""The node: one instance's side of the mesh, as a state machine without I/O.

Five verbs drive it, as they do aioquic's connections: give it each datagram that arrives (``receive_datagram``), send what
it has to say (``datagrams_to_send``), wake it when it asks to be (``next_timer``, ``handle_timer``), and take what it has
to tell (``next_event``).  Time and randomness are passed in.  This file routes frames and keeps time; what a frame
looks like is in ``wire``, who may speak in ``seal``, who is there in ``peers``, what waits to be sent in ``outbox``.

The handshake::

    A                                    B
    | -- hello(nonce a) ---------------> |   A knows an address, or heard a stranger
    | <------ challenge(a, nonce b) ---- |   to A this proves: B holds the key and is alive.  B is A's peer
    | -- echo(b) ----------------------> |   to B likewise.  A is B's peer

Each step may be lost, doubled or overtaken.  What a hello does not achieve, the next one does.  If the echo was lost, or
one side forgot the other, then its datagrams open but are a stranger's: the one who does not know says hello.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final

from ..events import Mode, Peer, PeerJoined, PeerLeft, PeerModeChanged
from ..stamp import Op
from .errors import BadDatagram, Reason
from .outbox import Outbox
from .peers import Candidates, Nonces, Session, Sessions, Throttle
from .seal import Header, MeshKey, Openers, Sealer, read_header
from .settings import Address, Limits, Random, Timing
from .wire import Bye, Challenge, Echo, Frame, Heartbeat, Hello, Ops, decode, encode

__all__ = ["Counters", "ForeignKey", "MeshEvent", "Node", "OpsReceived"]


@dataclass(frozen=True, slots=True)
class OpsReceived:
    """A peer's writes.  Each write of a peer is told once, in any order; the stamps decide what is newer.

    Attributes:
        ops: one or more.
        node_id: the peer that sent them.
    """

    ops: tuple[Op, ...]
    node_id: int


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """Someone at this address speaks this protocol with a key that this instance does not hold: another secret, most often.

    Told once an address in ``Timing.foreign_key_pause``.  Anyone can forge it: good for a line in a log, not for a decision.
    """

    address: Address


MeshEvent = PeerJoined | PeerLeft | PeerModeChanged | OpsReceived | ForeignKey


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
        candidates_refused: addresses that were not taken in, because there were too many already.
        dropped: datagrams that were dropped, by :class:`~meshcache.mesh.errors.Reason`.
    """

    datagrams_in: int = 0
    datagrams_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    ops_in: int = 0
    ops_out: int = 0
    candidates_refused: int = 0
    dropped: Counter[Reason] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, int]:
        """All of it, flat: ``dropped`` becomes ``dropped_forged`` and so on, one for every reason."""
        flat = {name: getattr(self, name) for name in _PLAIN_COUNTERS}
        return flat | {f"dropped_{reason}": self.dropped[reason] for reason in Reason}


_PLAIN_COUNTERS: Final = (
    "datagrams_in",
    "datagrams_out",
    "bytes_in",
    "bytes_out",
    "ops_in",
    "ops_out",
    "candidates_refused",
)


class Node:
    """One instance's side of the mesh.

    Args:
        node_id: 64 bit, random, new at every start and after a fork: it makes this sender's key unique.
        keys: the first seals, all open.  None: the node is deaf and dumb until :meth:`set_keys`.
        random: randomness; must be unpredictable outside of tests.
        now: this moment, in seconds of the clock on which every ``now`` is given.
        mode: which tier answers here.
        timing: when things happen; None for the defaults.
        limits: how much is kept for others; None for the defaults.
    """

    def __init__(
        self,
        *,
        node_id: int,
        keys: Sequence[MeshKey],
        random: Random,
        now: float,
        mode: Mode = Mode.MEMORY,
        timing: Timing | None = None,
        limits: Limits | None = None,
    ) -> None:
        timing, limits = timing or Timing(), limits or Limits()
        self.node_id = node_id
        self.counters = Counters()
        self._mode = mode
        self._random = random
        self._timing = timing
        self._sealer = Sealer(node_id, keys)
        self._openers = Openers(keys, limits.max_strangers)
        self._sessions = Sessions(limits, timing)
        self._candidates = Candidates(limits.max_candidates, timing, random)
        self._hellos: Nonces[Address] = Nonces(limits.max_candidates, timing.handshake_timeout, random)
        self._stranger_hellos: Nonces[Address] = Nonces(limits.max_handshakes, timing.handshake_timeout, random)
        self._challenges: Nonces[int] = Nonces(limits.max_handshakes, timing.handshake_timeout, random)
        self._greeted: Throttle[Address] = Throttle(limits.max_handshakes, timing.greet_strangers_after)
        self._foreign: Throttle[Address] = Throttle(limits.max_foreign, timing.foreign_key_pause)
        self._outbox = Outbox()
        self._bodies: deque[tuple[bytes, tuple[Address, ...]]] = deque()
        self._events: deque[MeshEvent] = deque()
        self._next_heartbeat = now
        self._closed = False

    # -- the five verbs

    def receive_datagram(self, data: bytes, sender: Address, now: float) -> None:
        """Take in what arrived.  Never raises: what is not a fresh, genuine datagram of a peer is counted and dropped."""
        self.counters.datagrams_in += 1
        self.counters.bytes_in += len(data)
        if self._closed:
            return
        try:
            header = read_header(data)
            session = self._sessions.get(header.node_id)
            if session is not None:
                self._receive_from_peer(session, header, data, sender, now)
            elif header.node_id == self.node_id:
                self._receive_from_self(header, data, now)
            else:
                self._receive_from_stranger(header, data, sender, now)
        except BadDatagram as bad:
            self.counters.dropped[bad.reason] += 1
            if bad.reason is Reason.UNKNOWN_KEY:
                self._report_foreign_key(sender, now)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, tuple[Address, ...]]]:
        """What is to be sent now: each datagram with all its destinations.  Ask after every other call."""
        if self._outbox:
            self._send_ops(now)
        if not self._sealer.ready:
            self._bodies.clear()
        datagrams = []
        while self._bodies:
            body, addresses = self._bodies.popleft()
            datagram = self._sealer.seal(body)
            datagrams.append((datagram, addresses))
            self.counters.datagrams_out += len(addresses)
            self.counters.bytes_out += len(datagram) * len(addresses)
        return datagrams

    def next_timer(self) -> float | None:
        """When to call :meth:`handle_timer`; None if there is nothing to wait for.  Changes with every other call."""
        if self._closed or not self._sealer.ready:
            return None
        due = self._candidates.next_hello
        if self._sessions:
            due = min(due, self._next_heartbeat, self._sessions.next_silence)
        return None if due == inf else due

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        if self._closed or not self._sealer.ready:
            return
        for session in self._sessions.silent(now):
            self._lose(session, "silent", now)
        self._greet_candidates(now)
        if self._sessions and now >= self._next_heartbeat:
            self._send_heartbeat(now)

    def next_event(self) -> MeshEvent | None:
        """What happened next, in the order in which it happened; None if nothing more did."""
        return self._events.popleft() if self._events else None

    # -- commands

    def publish(self, op: Op, now: float) -> None:
        """Tell every peer of a write.  Goes out with the next :meth:`datagrams_to_send`, together with its neighbours."""
        if self._sessions and not self._closed:
            self._outbox.add(op)

    def set_mode(self, mode: Mode, now: float) -> None:
        """Tell every peer which tier answers here, at once."""
        if mode is not self._mode:
            self._mode = mode
            if self._sessions and not self._closed:
                self._send_heartbeat(now)

    def add_candidate(self, address: Address, now: float) -> None:
        """Somebody may be at this address.  It is greeted until it answers, or until no source has named it for a minute."""
        if self._closed:
            return
        if not self._candidates.add(address, now, self._timing.candidate_ttl):
            self.counters.candidates_refused += 1
        for session in self._sessions:
            if session.address == address:
                self._candidates.leads_to(address, session.node_id)
        self._greet_candidates(now)

    def set_keys(self, keys: Sequence[MeshKey]) -> None:
        """Seal with the first of these from now on; open with all of them and with no other."""
        self._sealer.set_keys(keys)
        self._openers.set_keys(keys)

    def close(self, now: float) -> None:
        """Say goodbye: what :meth:`datagrams_to_send` gives now is the last.  The node does nothing after that."""
        if self._closed:
            return
        if self._sessions:
            self._send_ops(now)
            self._bodies.append((encode(Bye(), now), self._sessions.addresses))
        self._closed = True

    # -- questions

    @property
    def mode(self) -> Mode:
        """Which tier answers here, as the peers are told."""
        return self._mode

    @property
    def peers(self) -> list[Peer]:
        """The peers as they are known now."""
        return [session.peer for session in self._sessions]

    # -- what arrives

    def _receive_from_peer(self, session: Session, header: Header, data: bytes, sender: Address, now: float) -> None:
        if not session.window.is_fresh(header.counter):
            raise BadDatagram(Reason.REPLAYED)
        body = self._openers.open(header, data)
        newest = session.window.mark(header.counter)
        self._sessions.heard(session, now)
        frame = decode(body, now)
        match frame:
            case Ops():
                self.counters.ops_in += len(frame.ops)
                self._events.append(OpsReceived(frame.ops, session.node_id))
            case Heartbeat():
                if header.counter > session.heartbeat:
                    session.heartbeat = header.counter
                    self._take_mode(session, frame.mode)
            case Bye():
                self._lose(session, "bye", now)
                return
            case Hello() | Challenge() | Echo():
                # A peer that forgot us.  Its address is not taken from these: an instance with several addresses is
                # greeted at each of them, and its path must not change with every hello.
                self._shake_hands(frame, header, sender, now)
                return
        if newest and session.address != sender:
            self._sessions.move(session, sender)
            self._candidates.leads_to(sender, session.node_id)

    def _receive_from_stranger(self, header: Header, data: bytes, sender: Address, now: float) -> None:
        frame = decode(self._openers.open(header, data), now)
        match frame:
            case Hello() | Challenge() | Echo():
                self._shake_hands(frame, header, sender, now)
            case _:
                if not isinstance(frame, Bye):
                    self._greet_stranger(sender, now)
                raise BadDatagram(Reason.STRANGER)

    def _receive_from_self(self, header: Header, data: bytes, now: float) -> None:
        """One of our hellos came back: a source named our own address."""
        frame = decode(self._openers.open(header, data), now)
        if isinstance(frame, Hello):
            address = self._hellos.subject(frame.nonce)
            if address is not None:
                self._candidates.is_own(address, now)
        raise BadDatagram(Reason.OWN)

    # -- the handshake

    def _shake_hands(self, frame: Hello | Challenge | Echo, header: Header, sender: Address, now: float) -> None:
        match frame:
            case Hello(nonce):
                own = self._challenges.issue(header.node_id, now)
                self._send(Challenge(nonce, own, self._mode, self._outbox.last), sender, now)
            case Challenge(answer, nonce, mode, _):
                address = self._hellos.redeem(answer, now) or self._stranger_hellos.redeem(answer, now)
                if address is None:
                    raise BadDatagram(Reason.STALE_NONCE)
                self._admit(header, sender, mode, now)
                self._candidates.leads_to(address, header.node_id)
                self._send(Echo(nonce, self._mode, self._outbox.last), sender, now)
            case Echo(answer, mode, _):
                if self._challenges.redeem(answer, now) != header.node_id:
                    raise BadDatagram(Reason.STALE_NONCE)
                self._admit(header, sender, mode, now)
                # Now each knows the other; what changed since the challenge must not wait for the next heartbeat.
                self._send(self._heartbeat(), sender, now)

    def _admit(self, header: Header, sender: Address, mode: Mode, now: float) -> None:
        """The sender has sent our nonce back, from this address."""
        session = self._sessions.get(header.node_id)
        if session is not None:
            if self._sessions.is_suspect(session, now):
                self._sessions.move(session, sender)
            return
        if len(self._sessions) >= self._sessions.limit:
            raise BadDatagram(Reason.CROWDED)
        if not self._sessions:
            self._next_heartbeat = now + self._timing.heartbeat_interval * self._random.random()
        session = Session(header.node_id, sender, mode, header.counter, now)
        self._sessions.add(session)
        self._openers.admit(header.node_id)
        self._candidates.leads_to(sender, header.node_id)
        self._events.append(PeerJoined(session.peer))

    def _lose(self, session: Session, reason: str, now: float) -> None:
        self._sessions.remove(session)
        self._openers.dismiss(session.node_id)
        if reason == "silent":
            # It may be cut off rather than dead: look for it where it was, even if no source names it.
            self._candidates.add(session.address, now, self._timing.lost_peer_ttl)
        self._candidates.lost(session.node_id, now)
        self._events.append(PeerLeft(session.peer, reason))

    def _greet_candidates(self, now: float) -> None:
        if self._sealer.ready:
            for address in self._candidates.due(now):
                self._send(Hello(self._hellos.issue(address, now)), address, now)

    def _greet_stranger(self, address: Address, now: float) -> None:
        """One hello for one datagram at most, so that replays of a recording are never worth more than they cost."""
        if self._greeted.passes(address, now):
            self._send(Hello(self._stranger_hellos.issue(address, now)), address, now)

    # -- what is sent

    def _send(self, frame: Frame, address: Address, now: float) -> None:
        self._bodies.append((encode(frame, now), (address,)))

    def _send_ops(self, now: float) -> None:
        if not self._sessions:
            self._outbox.clear()
            return
        self.counters.ops_out += len(self._outbox)
        addresses = self._sessions.addresses
        for body in self._outbox.take(now):
            self._bodies.append((body, addresses))

    def _send_heartbeat(self, now: float) -> None:
        self._next_heartbeat = now + self._timing.heartbeat_interval
        self._bodies.append((encode(self._heartbeat(), now), self._sessions.addresses))

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(self._mode, self._outbox.last)

    # -- what is told

    def _take_mode(self, session: Session, mode: Mode) -> None:
        if mode is not session.mode:
            old, session.mode = session.mode, mode
            self._events.append(PeerModeChanged(session.peer, old))

    def _report_foreign_key(self, address: Address, now: float) -> None:
        if self._foreign.passes(address, now):
            self._events.append(ForeignKey(address))
