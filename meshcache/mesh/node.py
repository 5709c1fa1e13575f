"""The node: one instance's side of the mesh, as a state machine without I/O.

Five verbs drive it, as they do aioquic's connections: give it each datagram that arrives (``receive_datagram``), send what
it has to say (``datagrams_to_send``), wake it when it asks to be (``next_timer``, ``handle_timer``), and take what it has
to tell (``next_event``).  Time and randomness are passed in.  This file routes frames and keeps time; what a frame
looks like is in ``wire``, who may speak in ``seal``, who is there in ``peers``, what is sent to all in ``outbox``, what is
missing in ``inbox``, and how two instances find out what one of them lacks in ``reconcile``.

The handshake::

    A                                    B
    | -- hello(nonce a) ---------------> |   A knows an address, or heard a stranger
    | <------ challenge(a, nonce b) ---- |   to A this proves: B holds the key and is alive.  B is A's peer
    | -- echo(b) ----------------------> |   to B likewise.  A is B's peer

Each step may be lost, doubled or overtaken.  What a hello does not achieve, the next one does.  If the echo was lost, or
one side forgot the other, then its datagrams open but are a stranger's: the one who does not know says hello.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Final

from ..events import Mode, Peer, PeerJoined, PeerLeft, PeerModeChanged
from ..stamp import Op
from ..standings import UNKNOWN, Standing
from .errors import BadDatagram, Reason
from .inbox import Assembly, Inbox
from .outbox import Outbox
from .pacer import Pacer, Pulse
from .peers import Candidates, Nonces, Session, Sessions, Throttle
from .reconcile import Reconciler, Replica
from .reports import ClockTold, Counters, ForeignKey, MeshEvent, OpsLost, OpsReceived, StandingChanged
from .seal import OVERHEAD_BYTES, Header, MeshKey, Openers, Sealer, read_header
from .settings import Address, Limits, Random, Timing
from .wire import (
    MIN_BODY_BYTES,
    AskBucket,
    AskClock,
    AskDigest,
    Bye,
    Challenge,
    Echo,
    Fetch,
    Fragment,
    Frame,
    Gap,
    Heartbeat,
    Hello,
    Nack,
    Ops,
    TellBucket,
    TellClock,
    TellDigest,
    decode,
    encode,
)

__all__ = ["ClockTold", "Counters", "ForeignKey", "MeshEvent", "Node", "OpsLost", "OpsReceived", "StandingChanged"]

_HANDSHAKE: Final = (Hello, Challenge, Echo)
_CLOCK_TICKS: Final = 1_000_000
"""In a second."""
_SILENT_AFTER: Final = 3
"""Hellos without an answer."""


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
        replica: what this instance knows, to be compared with what its peers know; None: late joiners learn nothing old.
        wall_ms: the wall clock, in ms since 1970, for peers that ask; None: they get no answer.
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
        replica: Replica | None = None,
        wall_ms: Callable[[], int] | None = None,
    ) -> None:
        timing, limits = timing or Timing(), limits or Limits()
        self.node_id = node_id
        self.counters = Counters()
        self._mode = mode
        self._standing = UNKNOWN
        self._random = random
        self._wall_ms = wall_ms
        self._timing = timing
        self._limits = limits
        self._sealer = Sealer(node_id, keys)
        self._openers = Openers(keys, limits.max_strangers)
        self._sessions = Sessions(limits, timing)
        self._candidates = Candidates(limits.max_candidates, timing, random)
        self._hellos: Nonces[Address] = Nonces(limits.max_candidates, timing.handshake_timeout, random)
        self._stranger_hellos: Nonces[Address] = Nonces(limits.max_handshakes, timing.handshake_timeout, random)
        self._challenges: Nonces[int] = Nonces(limits.max_handshakes, timing.handshake_timeout, random)
        self._greeted: Throttle[Address] = Throttle(limits.max_handshakes, timing.greet_strangers_after)
        self._foreign: Throttle[Address] = Throttle(limits.max_foreign, timing.foreign_key_pause)
        self._outbox = Outbox(limits)
        self._assembly = Assembly(limits)
        self._reconciler = Reconciler(replica, timing, limits)
        self._pacer = Pacer(limits.burst, timing.burst_pause)
        self._urgent: deque[tuple[bytes, tuple[Address, ...]]] = deque()
        self._bulk: deque[tuple[Frame, Session]] = deque()
        self._repeating: set[tuple[int, int]] = set()  # who waits for which number in the bulk
        self._nacks: dict[int, float] = {}
        self._to_compare: dict[int, Session] = {}
        self._compare_at = inf
        self._successes = 0
        self._gossip_at = 0
        self._events: deque[MeshEvent] = deque()
        self._pulse = Pulse(timing, now)
        self._closed = False

    # -- the five verbs

    def receive_datagram(self, data: bytes, sender: Address, now: float) -> None:
        """Take in what arrived.  Never raises: what is not a fresh, genuine datagram of a peer is counted and dropped."""
        self.counters.datagrams_in += 1
        self.counters.bytes_in += len(data)
        if self._closed:
            return
        # Also before the timer has rung: after a long sleep of this process, what waited in the socket is too old to
        # believe, above all its times to live.
        self._lose_silent(now)
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
        if self._outbox or self._bulk:
            self._send_paced(now)
        if not self._sealer.ready:
            self._urgent.clear()
        datagrams = []
        while self._urgent:
            body, addresses = self._urgent.popleft()
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
            due = min(due, self._pulse.next_at, self._sessions.next_silence)
            due = min(due, self._reconciler.retry_at, self._compare_at)
            if self._nacks:
                due = min(due, *self._nacks.values())
            if self._outbox or self._bulk:
                due = min(due, self._pacer.opens_at)
        return None if due == inf else due

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        if self._closed or not self._sealer.ready:
            return
        self._lose_silent(now)
        self._greet_candidates(now)
        self._send_nacks(now)
        self._compare(now)
        if self._sessions and now >= self._pulse.next_at:
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
        self.set_state(mode, self._standing, now)

    def standing_of(self, node_id: int) -> Standing:
        """What a peer says of how it writes to Redis."""
        session = self._sessions.get(node_id)
        return UNKNOWN if session is None or session.standing is None else session.standing

    def set_state(self, mode: Mode, standing: Standing, now: float) -> None:
        """Tell every peer which tier answers here and how this instance writes to Redis, at once."""
        if (mode, standing) != (self._mode, self._standing):
            self._mode, self._standing = mode, standing
            if mode is Mode.REDIS:
                self._reconciler.stop()
            if self._sessions and not self._closed:
                self._send_heartbeat(now)

    def add_candidate(self, address: Address, now: float) -> None:
        """Somebody may be at this address.  It is greeted until it answers, or until no source has named it for a minute."""
        if self._closed:
            return
        if not self._candidates.add(address, now, self._timing.candidate_ttl):
            self.counters.candidates_refused += 1
        node_id = self._sessions.at(address)
        if node_id is not None:
            self._candidates.leads_to(address, node_id)
        self._greet_candidates(now)

    def ask_clocks(self, now: float) -> None:
        """Ask every peer what its clock says; each answer is an event, :class:`ClockTold`.  Older peers do not answer."""
        for session in self._sessions:
            self._send(AskClock(int(now * _CLOCK_TICKS)), session.address, now)

    def set_keys(self, keys: Sequence[MeshKey]) -> None:
        """Seal with the first of these from now on; open with all of them and with no other."""
        self._sealer.set_keys(keys)
        self._openers.set_keys(keys)

    def close(self, now: float) -> None:
        """Say goodbye: what :meth:`datagrams_to_send` gives now is the last.  The node does nothing after that."""
        if self._closed:
            return
        addresses = self._sessions.addresses
        if addresses:
            self._urgent.extend((body, addresses) for body in self._outbox.take(now, self._limits.burst))
            self._urgent.append((encode(Bye(), now), addresses))
        self._outbox.clear()
        self._bulk.clear()
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

    @property
    def silent(self) -> list[Address]:
        """Addresses that somebody named, that were greeted again and again, and that nobody answers from."""
        return self._candidates.silent(_SILENT_AFTER)

    @property
    def memory_bytes(self) -> int:
        """What is kept to be sent again, and of values that are not whole yet; bounded by :class:`Limits`."""
        return self._outbox.ring_bytes + self._assembly.bytes

    # -- what arrives

    def _receive_from_peer(self, session: Session, header: Header, data: bytes, sender: Address, now: float) -> None:
        if not session.window.is_fresh(header.counter):
            raise BadDatagram(Reason.REPLAYED)
        body = self._openers.open(header, data)
        newest = session.window.mark(header.counter)
        self._sessions.heard(session, now)
        frame = decode(body, now)
        if isinstance(frame, _HANDSHAKE):
            # A peer that forgot us.  Its address is not taken from these: an instance with several addresses is greeted
            # at each of them, and its path must not change with every hello.
            self._shake_hands(frame, header, sender, now)
            return
        if newest and session.address != sender:
            self._sessions.move(session, sender)
            self._candidates.leads_to(sender, session.node_id)
        match frame:
            case Ops() | Fragment():
                self._receive_writes(session, frame, now)
            case Heartbeat():
                if header.counter > session.heartbeat:
                    session.heartbeat = header.counter
                    self._receive_heartbeat(session, frame, now)
            case Gap(first, last):
                session.inbox.unrepeatable(first, last)
                self._note_losses(session)
            case TellDigest() | TellBucket():
                self._ask(self._reconciler.take(session, frame, now), now)
            case Nack() | AskDigest() | AskBucket() | Fetch():
                self._answer(session, frame, now)
            case AskClock(asked):
                self._tell_clock(session, asked, now)
            case TellClock(asked, wall_ms):
                round_trip = max(0.0, now - asked / _CLOCK_TICKS)
                self._events.append(ClockTold(session.node_id, wall_ms, round_trip))
            case Bye():
                self._lose(session, "bye", now)

    def _receive_from_stranger(self, header: Header, data: bytes, sender: Address, now: float) -> None:
        if len(data) < OVERHEAD_BYTES + MIN_BODY_BYTES:
            raise BadDatagram(Reason.SIZE)  # what answers it would be larger
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
            case Challenge(answer, nonce, mode, last):
                address = self._hellos.redeem(answer, now) or self._stranger_hellos.redeem(answer, now)
                if address is None:
                    raise BadDatagram(Reason.STALE_NONCE)
                self._admit(header, sender, mode, last, now)
                self._candidates.leads_to(address, header.node_id)
                self._send(Echo(nonce, self._mode, self._outbox.last), sender, now)
                self._send(self._heartbeat(), sender, now)
            case Echo(answer, mode, last):
                if self._challenges.redeem(answer, now) != header.node_id:
                    raise BadDatagram(Reason.STALE_NONCE)
                self._admit(header, sender, mode, last, now)
                # Each knows the other now; what changed since the challenge must not wait for the next heartbeat.
                self._send(self._heartbeat(), sender, now)

    def _admit(self, header: Header, sender: Address, mode: Mode, last: int, now: float) -> None:
        """The sender has sent our nonce back, from this address."""
        session = self._sessions.get(header.node_id)
        if session is not None:
            if self._sessions.is_suspect(session, now):
                self._sessions.move(session, sender)
            return
        if len(self._sessions) >= self._sessions.limit:
            raise BadDatagram(Reason.CROWDED)
        if not self._sessions:
            # Not all instances at the same moment.
            self._pulse = Pulse(self._timing, now - self._timing.heartbeat_interval * self._random.random())
        self._pulse.wrote(now)  # if our echo is lost, the next heartbeats make the other side ask again
        session = Session(header.node_id, sender, mode, header.counter, Inbox(last, self._limits), now)
        self._sessions.add(session)
        self._openers.admit(header.node_id)
        self._candidates.leads_to(sender, header.node_id)
        self._events.append(PeerJoined(session.peer))

    def _lose_silent(self, now: float) -> None:
        if now >= self._sessions.next_silence:
            for session in self._sessions.silent(now):
                self._lose(session, "silent", now)

    def _lose(self, session: Session, reason: str, now: float) -> None:
        self._sessions.remove(session)
        self._openers.dismiss(session.node_id)
        self._reconciler.forget(session)
        self._nacks.pop(session.node_id, None)
        self._to_compare.pop(session.node_id, None)
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

    # -- writes

    def _receive_writes(self, session: Session, frame: Ops | Fragment, now: float) -> None:
        if frame.number:
            self._reconciler.wrote_at = now
            # Randomness may be a system call: not for every datagram.
            ask_at = self._first_ask_at(now) if session.inbox.leaves_gap(frame.number) else inf
            if not session.inbox.arrived(frame.number, ask_at):
                self.counters.repeats_in += 1
                return
            self._note_losses(session, ask_at)
        if isinstance(frame, Ops):
            self._tell(session, frame, now)
            return
        self._reconciler.touch(now)
        whole, given_up = self._assembly.add(frame, now)
        if given_up:
            session.inbox.lost += 1
            self._note_losses(session)
            self._reconciler.narrow()
        if whole is not None:
            self._tell(session, whole, now)

    def _tell(self, session: Session, frame: Ops, now: float) -> None:
        ops = frame.ops
        self.counters.ops_in += len(ops)
        self._events.append(OpsReceived(ops, session.node_id, frame.in_redis))
        if self._assembly.bytes:
            for op in ops:
                self._assembly.drop(op.stamp)
        if self._reconciler.partner is not None:
            self._ask(self._reconciler.arrived(ops, now), now)

    def _receive_heartbeat(self, session: Session, frame: Heartbeat, now: float) -> None:
        self._take_mode(session, frame.mode)
        if frame.standing != session.standing:
            session.standing = frame.standing
            self._events.append(StandingChanged(session.node_id, frame.standing))
        session.root = frame.root
        ask_at = self._first_ask_at(now)
        session.inbox.announced(frame.last, ask_at)
        session.inbox.unrepeatable(0, frame.lowest - 1)
        self._note_losses(session, ask_at)
        if frame.root is not None or session.inbox.lost > session.lost:
            self._to_compare[session.node_id] = session
            self._compare_at = now
        for address in frame.peers[: self._limits.gossip]:
            if self._sessions.at(address) is None:
                self._candidates.add(address, now, self._timing.candidate_ttl)
        self._greet_candidates(now)

    def _first_ask_at(self, now: float) -> float:
        soonest, latest = self._timing.nack_after
        return now + soonest + (latest - soonest) * self._random.random()

    def _note_losses(self, session: Session, ask_at: float = inf) -> None:
        """Count what is lost for good; have a timer if something is missing, and none if nothing is.

        Args:
            session: something came from it.
            ask_at: when to ask for what was found missing now.
        """
        self.counters.numbers_lost += session.inbox.lost - session.counted
        session.counted = session.inbox.lost
        if not session.inbox:
            self._nacks.pop(session.node_id, None)
        else:
            self._nacks[session.node_id] = min(ask_at, self._nacks.get(session.node_id, inf))

    def _send_nacks(self, now: float) -> None:
        for node_id, due in list(self._nacks.items()):
            session = self._sessions.get(node_id)
            if session is None or now < due:
                continue
            nack = session.inbox.nack(now, now + self._timing.nack_pause)
            if nack is not None:
                self.counters.nacks_out += 1
                self._send(nack, session.address, now)
            self._nacks[node_id] = max(session.inbox.ask_at, now + self._timing.nack_spacing)

    # -- comparing

    def _compare(self, now: float) -> None:
        """Only now, not when the heartbeat came: what came together with it is known to the replica by now."""
        if now >= self._compare_at:
            for session in self._to_compare.values():
                if Mode.REDIS in (self._mode, session.mode) or self._reconciler.root is None:
                    self._give_up_losses(session)
                elif session.root is not None:  # None: no heartbeat came yet since we met
                    self._ask(self._reconciler.consider(session, now), now)
            self._to_compare.clear()
            self._compare_at = inf
        self._ask(self._reconciler.retry(now), now)

    def _give_up_losses(self, session: Session) -> None:
        if session.inbox.lost > session.lost:
            session.lost = session.inbox.lost
            self._events.append(OpsLost(session.node_id))

    def _ask(self, requests: Iterable[Frame], now: float) -> None:
        partner = self._reconciler.partner
        self.counters.comparisons, self.counters.fetched = self._reconciler.comparisons, self._reconciler.fetched
        if self._reconciler.successes > self._successes:
            # Tell the others soon what this instance knows now, and look at once who knows still more.
            self._successes = self._reconciler.successes
            self._pulse.wrote(now)
            self._to_compare = {session.node_id: session for session in self._sessions}
            self._compare_at = now
        if partner is not None:
            for request in requests:
                self._send(request, partner.address, now)

    def _answer(self, session: Session, frame: Nack | AskDigest | AskBucket | Fetch, now: float) -> None:
        too_busy = len(self._bulk) >= self._limits.max_bulk
        if too_busy or not session.may_request(now, self._limits.requests_per_second):
            self.counters.requests_refused += 1
        elif isinstance(frame, Nack):
            self._repeat(session, frame, now)
        else:
            for answer in self._reconciler.answer(frame, now):
                self._bulk.append((answer, session))

    def _tell_clock(self, session: Session, asked: int, now: float) -> None:
        if self._wall_ms is None or not session.may_request(now, self._limits.requests_per_second):
            self.counters.requests_refused += 1
        else:
            self._send(TellClock(asked, self._wall_ms()), session.address, now)

    def _repeat(self, session: Session, nack: Nack, now: float) -> None:
        outbox, left = self._outbox, self._limits.max_repeats
        lowest = outbox.lowest
        if nack.ranges[0][0] < lowest:
            self._send(Gap(0, lowest - 1), session.address, now)
        for first, last in nack.ranges:
            for number in range(max(first, lowest), min(last, outbox.last) + 1):
                if not left:
                    return
                left -= 1
                if (session.node_id, number) not in self._repeating:
                    self._repeating.add((session.node_id, number))
                    self._bulk.append((outbox.again(number) or Gap(number, number), session))
                    self.counters.repeats_out += 1

    # -- what is sent

    def _send(self, frame: Frame, address: Address, now: float) -> None:
        self._urgent.append((encode(frame, now), (address,)))

    def _send_paced(self, now: float) -> None:
        """Writes for everybody, and what single peers asked for, no more at once than a receiver's buffer can take."""
        addresses = self._sessions.addresses
        if not addresses:
            self._outbox.clear()
            self._bulk.clear()
            self._repeating.clear()
            return
        room = self._pacer.room(now)
        room_for_writes = room - min(len(self._bulk), room // 2)
        bodies = self._outbox.take(now, room_for_writes, in_redis=self._standing.clean)
        self._urgent.extend((body, addresses) for body in bodies)
        if bodies:
            self.counters.ops_out = self._outbox.ops
            self._pulse.wrote(now)
            self._reconciler.wrote_at = now
        bulk = min(room - len(bodies), len(self._bulk))
        for _ in range(bulk):
            frame, session = self._bulk.popleft()
            if isinstance(frame, Ops | Fragment | Gap):
                self._repeating.discard((session.node_id, frame[0]))
            if self._sessions.get(session.node_id) is session:
                self._send(frame, session.address, now)
        self._pacer.sent(len(bodies) + bulk)

    def _send_heartbeat(self, now: float) -> None:
        self._pulse.beat(now)
        self._assembly.drop_older(now - self._timing.assembly_timeout)
        self._urgent.append((encode(self._heartbeat(), now), self._sessions.addresses))

    def _heartbeat(self) -> Heartbeat:
        root = None if self._mode is Mode.REDIS else self._reconciler.root
        return Heartbeat(self._mode, self._outbox.last, self._outbox.lowest, root, self._gossip(), self._standing)

    def _gossip(self) -> tuple[Address, ...]:
        """A few peers, others each time."""
        addresses, count = self._sessions.addresses, self._limits.gossip
        if len(addresses) <= count:
            return addresses
        self._gossip_at = (self._gossip_at + count) % len(addresses)
        return (addresses + addresses)[self._gossip_at : self._gossip_at + count]

    # -- what is told

    def _take_mode(self, session: Session, mode: Mode) -> None:
        if mode is not session.mode:
            old, session.mode = session.mode, mode
            self._events.append(PeerModeChanged(session.peer, old))

    def _report_foreign_key(self, address: Address, now: float) -> None:
        if self._foreign.passes(address, now):
            self._events.append(ForeignKey(address))
