"""Frames and the bytes that carry them.  One datagram carries one frame.

No state, no I/O, no keys: a frame becomes a body to seal, and an opened body becomes a frame or :class:`BadDatagram`.

A body is a msgpack array: the number of the frame's type, its fields, and then perhaps more fields.  What this version
knows must be exactly right.  What it does not know is let be, so that instances can be brought to a newer minor version
one by one: fields behind the known ones are ignored, and a frame of an unknown type is dropped and counted as such.  A
change that an older instance must not ignore takes a new version in the clear header.

Nothing here is decoded before it was opened, and yet nothing is trusted: a peer may be old, broken or taken over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import IntEnum
from math import inf
from typing import Any, Final, NamedTuple

import msgpack

from ..events import Mode
from ..stamp import STAMP_BYTES, Kind, Op, Stamp
from .errors import BadDatagram, Reason
from .seal import MAX_BODY_BYTES

__all__ = [
    "MIN_BODY_BYTES",
    "NONCE_BYTES",
    "Bye",
    "Challenge",
    "Echo",
    "Frame",
    "FrameType",
    "Heartbeat",
    "Hello",
    "Ops",
    "decode",
    "encode",
    "encode_op",
    "encode_ops",
    "fits_with",
]

NONCE_BYTES: Final = 16

MIN_BODY_BYTES: Final = 56
"""A shorter body is padded.  So no frame is shorter than a hello, a challenge or an echo, which all have this size, and
an answer to someone unproved is never larger than the question: nobody can use us to flood a third party."""

_MAX_KEY_BYTES: Final = 1024
_MAX_TTL_MS: Final = 2**42
"""139 years."""
_MAX_NUMBER: Final = 2**63
_MAX_ARRAY: Final = 64

_OPS_HEAD_BYTES: Final = 1 + 1 + 9 + 3
"""Array of three, type, number, array of ops; each at its longest."""
_OPS_ROOM: Final = MAX_BODY_BYTES - _OPS_HEAD_BYTES


class FrameType(IntEnum):
    """The numbers on the wire."""

    HELLO = 0
    CHALLENGE = 1
    ECHO = 2
    OPS = 3
    HEARTBEAT = 4
    BYE = 5


class Hello(NamedTuple):
    """Who is there?  Prove that you are alive: send ``nonce`` back."""

    nonce: bytes


class Challenge(NamedTuple):
    """The answer to a hello: its nonce, and a question in turn.  ``last`` is the number of the sender's newest ops."""

    answer: bytes
    nonce: bytes
    mode: Mode
    last: int


class Echo(NamedTuple):
    """The answer to a challenge."""

    answer: bytes
    mode: Mode
    last: int


class Ops(NamedTuple):
    """A run of writes.  ``number`` counts its sender's datagrams of ops, from 1; a repaired one keeps its number."""

    number: int
    ops: tuple[Op, ...]


class Heartbeat(NamedTuple):
    """The sender is alive, in this mode, and has sent ops up to number ``last``."""

    mode: Mode
    last: int


class Bye(NamedTuple):
    """The sender leaves now."""


Frame = Hello | Challenge | Echo | Ops | Heartbeat | Bye

_MODES: Final = (Mode.REDIS, Mode.MEMORY, Mode.RECOVERING)
"""A mode's number on the wire is its place."""
_MODE_NUMBERS: Final = {mode: number for number, mode in enumerate(_MODES)}
_SHORT_KINDS: Final = {kind.value: kind for kind in (Kind.INVALIDATE, Kind.DELETE, Kind.SWEEP)}

_OPS_START: Final = bytes([0x93, FrameType.OPS])
_PADDING: Final = [bytes([0xC4, n]) + bytes(n) for n in range(MIN_BODY_BYTES)]


# -- encoding


def encode(frame: Frame, now: float) -> bytes:
    """The body of a frame, sent at ``now``."""
    fields: tuple[object, ...]
    match frame:
        case Ops(number, ops):
            return encode_ops(number, [encode_op(op, now) for op in ops])
        case Heartbeat(mode, last):
            fields = (FrameType.HEARTBEAT, _MODE_NUMBERS[mode], last)
        case Hello(nonce):
            fields = (FrameType.HELLO, nonce)
        case Challenge(answer, nonce, mode, last):
            fields = (FrameType.CHALLENGE, answer, nonce, _MODE_NUMBERS[mode], last)
        case Echo(answer, mode, last):
            fields = (FrameType.ECHO, answer, _MODE_NUMBERS[mode], last)
        case Bye():
            fields = (FrameType.BYE,)
    return _padded(_pack(fields))


def encode_op(op: Op, now: float) -> bytes:
    """One write, for :func:`encode_ops`, with the time to live that remains at ``now``.

    A set that cannot be sent as one, because its time ran out or its value does not fit, is sent as an invalidation with
    the same stamp: whoever holds an older value must not keep it.
    """
    kind, key, stamp, value, expires_at = op
    if kind is Kind.SET and len(value) <= _OPS_ROOM:
        ttl_ms = 0 if expires_at == inf else int((expires_at - now) * 1000) or -1
        if ttl_ms >= 0:
            packed = _pack((2, key, stamp, ttl_ms, value))
            if len(packed) <= _OPS_ROOM:
                return packed
    if kind is Kind.SET:
        kind = Kind.INVALIDATE
    return _pack((kind, key, stamp))


def fits_with(op_bytes: int, others: int, others_bytes: int) -> bool:
    """Whether one more write can share a datagram with others, all of them as :func:`encode_op` gives them."""
    return others < _MAX_ARRAY and others_bytes + op_bytes <= _OPS_ROOM


def encode_ops(number: int, packed: Iterable[bytes]) -> bytes:
    """The body of a run of writes that :func:`encode_op` made."""
    ops = list(packed)
    return _padded(b"".join((_OPS_START, _pack(number), b"\xdc", len(ops).to_bytes(2, "big"), *ops)))


def _padded(body: bytes) -> bytes:
    """The body, made long enough by one more field, which every reader ignores."""
    missing = MIN_BODY_BYTES - len(body)
    if missing <= 0:
        return body
    return bytes([body[0] + 1]) + body[1:] + _PADDING[max(0, missing - 2)]


def _pack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


# -- decoding


def decode(body: bytes, now: float) -> Frame:
    """The frame in an opened body, received at ``now``.

    Raises:
        BadDatagram: it breaks a rule, or its type is not known here.
    """
    try:
        # Without these limits a few bytes that promise huge arrays would make msgpack reserve megabytes.
        fields = msgpack.unpackb(
            body,
            use_list=False,
            max_array_len=_MAX_ARRAY,
            max_str_len=_MAX_KEY_BYTES,
            max_bin_len=MAX_BODY_BYTES,
            max_map_len=0,
            max_ext_len=0,
        )
    except Exception:  # noqa: BLE001 - a dozen types, from ValueError to RecursionError
        raise BadDatagram(Reason.MALFORMED) from None
    if type(fields) is not tuple or not fields or type(fields[0]) is not int:
        raise BadDatagram(Reason.MALFORMED)
    read = _READERS.get(fields[0])
    if read is None:
        raise BadDatagram(Reason.UNKNOWN_FRAME)
    try:
        return read(fields, now)
    except IndexError:
        raise BadDatagram(Reason.MALFORMED) from None


def _read_hello(fields: tuple[Any, ...], now: float) -> Hello:
    return Hello(_nonce(fields[1]))


def _read_challenge(fields: tuple[Any, ...], now: float) -> Challenge:
    return Challenge(_nonce(fields[1]), _nonce(fields[2]), _mode(fields[3]), _number(fields[4]))


def _read_echo(fields: tuple[Any, ...], now: float) -> Echo:
    return Echo(_nonce(fields[1]), _mode(fields[2]), _number(fields[3]))


def _read_ops(fields: tuple[Any, ...], now: float) -> Ops:
    number = _number(fields[1])
    packed = fields[2]
    if type(packed) is not tuple or not packed or not number:
        raise BadDatagram(Reason.MALFORMED)
    return Ops(number, tuple([_op(item, now) for item in packed]))


def _read_heartbeat(fields: tuple[Any, ...], now: float) -> Heartbeat:
    return Heartbeat(_mode(fields[1]), _number(fields[2]))


def _read_bye(fields: tuple[Any, ...], now: float) -> Bye:
    return Bye()


_READERS: Final[dict[int, Callable[[tuple[Any, ...], float], Frame]]] = {
    FrameType.HELLO: _read_hello,
    FrameType.CHALLENGE: _read_challenge,
    FrameType.ECHO: _read_echo,
    FrameType.OPS: _read_ops,
    FrameType.HEARTBEAT: _read_heartbeat,
    FrameType.BYE: _read_bye,
}


def _op(item: Any, now: float) -> Op:
    if type(item) is not tuple:
        raise BadDatagram(Reason.MALFORMED)
    if len(item) == 5:
        kind, key, stamp, ttl_ms, value = item
        if (
            type(kind) is int
            and kind == 2
            and type(ttl_ms) is int
            and 0 <= ttl_ms <= _MAX_TTL_MS
            and type(value) is bytes
            and type(stamp) is bytes
            and len(stamp) == STAMP_BYTES
            and type(key) is str
            and key
        ):
            return Op(Kind.SET, key, Stamp(stamp), value, now + ttl_ms / 1000 if ttl_ms else inf)
    elif len(item) == 3:
        number, key, stamp = item
        kind = _SHORT_KINDS.get(number) if type(number) is int else None
        if kind is not None and type(stamp) is bytes and len(stamp) == STAMP_BYTES and type(key) is str and key:
            return Op(kind, key, Stamp(stamp))
    raise BadDatagram(Reason.MALFORMED)


def _nonce(value: Any) -> bytes:
    if type(value) is not bytes or len(value) != NONCE_BYTES:
        raise BadDatagram(Reason.MALFORMED)
    return value


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _MAX_NUMBER:
        raise BadDatagram(Reason.MALFORMED)
    return value


def _mode(value: Any) -> Mode:
    if type(value) is not int or not 0 <= value < len(_MODES):
        raise BadDatagram(Reason.MALFORMED)
    return _MODES[value]
