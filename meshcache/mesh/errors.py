"""What can be wrong with a datagram.  The other side erred, so nobody here is told: it is dropped, counted and never answered.

Exception
└── BadDatagram    what arrived is not for us, not genuine, not fresh, or not of this protocol     nothing was changed
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["BadDatagram", "Reason"]


class Reason(StrEnum):
    """Why a datagram was dropped; the names under which it is counted."""

    SIZE = "size"
    """Too short for a sealed datagram, or longer than one may be."""
    FOREIGN = "foreign"
    """Not of this protocol: another magic number."""
    VERSION = "version"
    """Another major version of this protocol."""
    UNKNOWN_KEY = "unknown_key"
    """Sealed with a key that this instance does not hold."""
    FORGED = "forged"
    """It does not open: damaged, or sealed by somebody who does not hold the key."""
    REPLAYED = "replayed"
    """A datagram seen before, or too old to tell."""
    OWN = "own"
    """Sent by this instance itself."""
    STRANGER = "stranger"
    """Genuine, but its sender has not proved yet that it is alive."""
    MALFORMED = "malformed"
    """It opens, but breaks the rules of its frame."""
    UNKNOWN_FRAME = "unknown_frame"
    """A type of frame that a newer minor version may have added."""
    STALE_NONCE = "stale_nonce"
    """A handshake that answers no question of ours, or one that is too old."""
    CROWDED = "crowded"
    """There are as many peers as there may be."""


class BadDatagram(Exception):  # noqa: N818 - the other side's fault, handled where it is raised
    """A datagram that is dropped.

    Attributes:
        reason: under which it is counted.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason
