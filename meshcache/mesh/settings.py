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

    hello_pauses: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0)
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
