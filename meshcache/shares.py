"""Shares: the addends of a counter, each counted by one instance alone.  Their names and their bytes; no I/O, no clock.

What instances count in an outage is kept apart, and summed up when it is read.  A share is its owner's sum; only the owner
writes it, and each of its writes replaces the one before.  So of the writes of one share the newest says all: losing
one, hearing one twice, or hearing two in the wrong order changes no sum.  (A PN-counter: Shapiro, Preguiça, Baquero, Zawirski,
"A comprehensive study of Convergent and Commutative Replicated Data Types", INRIA 2011, section 3.1.)

A share travels, and is stored, as an ordinary stamped set under a *hidden* key, which no caller can name.  It counts in
*series*: a series begins with the stamp of its first increment, and whoever sets or deletes the counter after that ends it.
Redis remembers of each share what it has added already, for longer than the series can live: the moment at which it ends is
fixed when it begins.
"""

from __future__ import annotations

from functools import lru_cache
from math import inf
from struct import Struct
from typing import Final, NamedTuple

from .stamp import Op, Stamp

__all__ = [
    "HIDDEN",
    "MAX_VALUE",
    "MIN_VALUE",
    "PREFIX_BYTES",
    "SHARE_ID_BYTES",
    "SLOT_DIGITS",
    "Share",
    "as_integer",
    "counter_of",
    "is_share",
    "pack_share",
    "share_id",
    "share_key",
    "share_of",
    "slot_of",
    "unpack_share",
    "visible",
]

HIDDEN: Final = "\0"
"""How the keys begin that no caller can name."""

MIN_VALUE: Final = -(2**63)
MAX_VALUE: Final = 2**63 - 1
"""What a counter can be, in Redis and so here."""

SHARE_ID_BYTES: Final = 10
"""Node id and slot.  One instance counts in several shares where it must: each is on its way to Redis once at a time."""

SLOT_DIGITS: Final = 4

PREFIX_BYTES: Final = len(HIDDEN) + 2 * SHARE_ID_BYTES
"""So much longer than the counter's key is that of a share."""

_EXACT: Final = 2**53
"""Redis' Lua reckons in doubles: below this it is exact."""

_HEAD: Final = Struct(">16sq")
_FOR_EVER: Final = -1
_LONGEST_TEXT: Final = 20


class Share(NamedTuple):
    """What one instance has counted in one series.

    Attributes:
        series: the stamp of its first increment.
        sum: of all its increments.
        beyond_ms: the counter lives so much longer than the series, in ms; None: for ever.
    """

    series: Stamp
    sum: int
    beyond_ms: int | None = None

    def deadline(self, ends_at: float) -> float:
        """When the counter expires, ``inf`` for never, if the series ends at this moment."""
        return inf if self.beyond_ms is None else ends_at + self.beyond_ms / 1000

    def plus(self, amount: int) -> Share | None:
        """With one more increment; None if the sum would be too large for Redis' scripts: then it takes another share."""
        total = self.sum + amount
        return self._replace(sum=total) if -_EXACT < total < _EXACT else None


def share_key(node_id: int, slot: int, key: str) -> str:
    """The hidden key of a share."""
    return f"{HIDDEN}{node_id:016x}{slot:0{SLOT_DIGITS}x}{key}"


def is_share(key: str) -> bool:
    """Whether this key is that of a share."""
    return key[0] == HIDDEN


def counter_of(name: str) -> str:
    """The counter that a share belongs to."""
    return name[PREFIX_BYTES:]


def visible(key: str) -> str:
    """What a pattern is compared with: the key, or the counter that a hidden key belongs to."""
    return counter_of(key) if is_share(key) else key


def share_id(name: str) -> bytes:
    """Which of the counter's shares it is.  Raises ValueError if it is none."""
    identity = bytes.fromhex(name[1:PREFIX_BYTES])
    if len(identity) != SHARE_ID_BYTES or len(name) <= PREFIX_BYTES:
        raise ValueError("not the key of a share")
    return identity


def slot_of(name: str) -> int:
    """The number of the share among those of its owner."""
    return int(name[PREFIX_BYTES - SLOT_DIGITS : PREFIX_BYTES], 16)


def pack_share(share: Share) -> bytes:
    """The bytes that travel."""
    beyond = _FOR_EVER if share.beyond_ms is None else share.beyond_ms
    return _HEAD.pack(share.series, beyond) + b"%d" % share.sum


@lru_cache(maxsize=1024)
def unpack_share(data: bytes) -> Share:
    """A share from its bytes.  Asked for the same ones several times in a row, all of them soon forgotten.

    Raises:
        ValueError: they are not those of a share.
    """
    if len(data) <= _HEAD.size:
        raise ValueError("not a share")
    series, beyond = _HEAD.unpack_from(data)
    total = as_integer(data[_HEAD.size :])
    if total is None or beyond < _FOR_EVER:
        raise ValueError("not a share")
    return Share(Stamp(series), total, None if beyond == _FOR_EVER else beyond)


def share_of(op: Op) -> Share:
    """The share that a set of it carries.  Raises ValueError if it carries none."""
    return unpack_share(op.value)


def as_integer(value: bytes) -> int | None:
    """The number that Redis would see in a value: decimal text of 64 bit, as it would write it itself; else None."""
    if len(value) <= _LONGEST_TEXT and (value.isdigit() or (value[:1] == b"-" and value[1:].isdigit())):
        number = int(value)
        if MIN_VALUE <= number <= MAX_VALUE and b"%d" % number == value:
            return number
    return None
