"""What is passed in: addresses, randomness, timing and limits.  Each setting is documented where it is defined, with a rule of thumb."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Address", "Limits", "Random", "Timing"]

Address = tuple[str, int]
"""IP address as text, and UDP port."""


class Random(Protocol):
    """Where randomness comes from.  Nonces are drawn from it: outside of tests it must be ``random.SystemRandom``."""

    def random(self) -> float:
        """Uniform in [0, 1)."""
        ...

    def randbytes(self, n: int, /) -> bytes:
        """``n`` random bytes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """When things happen.  All in seconds."""

    heartbeat_interval: float = 0.5
    """Between two heartbeats.  A tenth of ``gone_after``, so that one peer in a thousand million is thought dead by loss
    alone when one datagram in ten is lost."""

    suspect_after: float = 2.0
    """A peer not heard for so long is not asked for anything.  Four heartbeats."""

    gone_after: float = 5.0
    """A peer not heard for so long has left.  Longer than a garbage collection or a network's hiccup, shorter than an
    operator's patience."""

    hello_pauses: tuple[float, ...] = (0.2, 0.5, 1.0)
    """The pauses between two hellos to a candidate; the last one is repeated.  The last one bounds how long a healed
    partition goes unnoticed; each costs a hundred bytes a candidate."""

    candidate_ttl: float = 60.0
    """A candidate that no source has named for so long is forgotten.  Twice the pause in which sources repeat themselves."""

    lost_peer_ttl: float = 600.0
    """A peer that fell silent is greeted for so long, even if no source names it.  As long as a partition may last."""

    handshake_timeout: float = 3.0
    """A nonce is good for so long.  A few round trips of the worst network."""

    greet_strangers_after: float = 0.2
    """The pause between two hellos to an address whose datagrams open but whose sender is not admitted.  Below
    ``heartbeat_interval``, so that each heartbeat of a peer that we forgot is a chance to meet again."""

    nack_after: tuple[float, float] = (0.010, 0.030)
    """A missing datagram is asked for after a pause drawn from this range.  Longer than datagrams overtake each other, and
    not the same for all receivers."""

    nack_pause: float = 0.1
    """The pause until it is asked for again.  It does not grow: at 30 % loss a growing one triples the 99th percentile."""

    nack_spacing: float = 0.01
    """The shortest pause between two requests to one peer, so that neighbours share one."""

    tail_pauses: tuple[float, ...] = (0.05, 0.1, 0.2)
    """After the last write of a burst, heartbeats follow in these pauses, so that a lost tail is noticed soon."""

    burst_pause: float = 0.001
    """The pause between two bursts of :attr:`Limits.burst` datagrams."""

    assembly_timeout: float = 10.0
    """Pieces of a value that wait so long for another one are given up.  Much longer than a repair takes."""

    request_timeout: float = 0.1
    """The pause until a question of a comparison that was not answered is asked again.  Many round trips."""

    compare_pause: float = 0.5
    """The shortest pause between two comparisons with one peer.  A heartbeat: sooner nothing new is known."""

    longest_compare_pause: float = 8.0
    """Comparisons that find nothing, because writes are on their way all the time, become rarer up to this."""

    compared_ttl: float = 60.0
    """Two that differ in what one of them does not want, for example because it is full, are compared again after this."""

    longest_comparison: float = 60.0
    """A comparison that takes longer begins anew, perhaps with another peer; what it brought stays.  Longer than a store
    of usual size takes."""

    foreign_key_pause: float = 60.0
    """The pause between two reports of one address that seals with another key.  A line in a log, not a flood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is kept for others, so that none of them can fill this instance's memory."""

    max_peers: int = 1024
    """Peers at once.  Each receives every write from every other: direct fan-out is not wise beyond some hundred."""

    max_candidates: int = 256
    """Addresses that may be peers'.  More than peers ever join within a minute."""

    max_handshakes: int = 1024
    """Nonces that wait for their answer, for each side of the handshake.  The newest are kept."""

    max_strangers: int = 1024
    """Senders not admitted whose derived key is kept ready.  Deriving one takes a few µs."""

    max_foreign: int = 64
    """Addresses of which a foreign key is reported in one ``foreign_key_pause``."""

    max_value_bytes: int = 2**20
    """A larger value is not sent: the peers are told to forget the key.  Each peer receives a value in datagrams of a bit
    more than 1 kB: beyond some MiB a cache is the wrong place."""

    max_waiting: int = 100_000
    """Writes that wait to be sent.  More than a program writes before it lets the event loop turn."""

    ring_bytes: int = 8 * 2**20
    """Of what was sent, so much is kept to be sent again.  What this instance writes in some seconds; beyond, peers repair
    by comparing."""

    max_missing: int = 8192
    """Missing datagrams remembered for each peer.  As many as a full ring holds."""

    max_repeats: int = 512
    """Datagrams sent for one request; a large value may exceed it.  What a peer can take in within ``nack_pause``, with ease."""

    assembly_bytes: int = 8 * 2**20
    """Pieces of large values that wait for the others, of all peers together.  Several times ``max_value_bytes``."""

    burst: int = 32
    """Datagrams sent at once.  Well below what a receiver's socket buffer holds: Linux' default holds about 90."""

    max_bulk: int = 4096
    """Datagrams that wait to be sent to single peers that asked for them; beyond, requests are not heard."""

    requests_per_second: int = 1000
    """Requests of one peer that are answered.  A comparison needs some hundred."""

    gossip: int = 4
    """Addresses of peers in each heartbeat."""
