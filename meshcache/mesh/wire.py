"""Frames and the bytes that carry them.  One datagram carries one frame.

No state, no I/O, no keys: a frame becomes a body to seal, and an opened body becomes a frame or :class:`BadDatagram`.

A body is a msgpack array: the number of the frame's type, its fields, and then perhaps more fields.  What this version
knows must be exactly right.  What it does not know is let be, so that instances can be brought to a newer minor version
one by one: fields behind the known ones are ignored, and a frame of an unknown type is dropped and counted as such.  A
change that an older instance must not ignore takes a new version in the clear header.

Nothing here is decoded before it was opened, and yet nothing is trusted: a peer may be old, broken or taken over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from math import inf
from typing import Any, Final, NamedTuple

import msgpack

from ..buckets import BUCKETS, HASH_BYTES, Version
from ..events import Mode
from ..shares import PREFIX_BYTES
from ..stamp import STAMP_BYTES, Kind, Op, Stamp
from ..standings import UNKNOWN, Standing
from .errors import BadDatagram, Reason
from .seal import MAX_BODY_BYTES
from .settings import Address

__all__ = [
    "FRAGMENT_BYTES",
    "MAX_NACK_RANGES",
    "MIN_BODY_BYTES",
    "NONCE_BYTES",
    "AskBucket",
    "AskClock",
    "AskDigest",
    "Bye",
    "Challenge",
    "Echo",
    "Fetch",
    "Fragment",
    "Frame",
    "FrameType",
    "Gap",
    "Heartbeat",
    "Hello",
    "Nack",
    "Ops",
    "TellBucket",
    "TellClock",
    "TellDigest",
    "decode",
    "encode",
    "encode_op",
    "encode_ops",
    "fits_with",
    "fragments",
    "names_that_fit",
    "versions_that_fit",
]

NONCE_BYTES: Final = 16

MIN_BODY_BYTES: Final = 56
"""A shorter body is padded.  So no frame is shorter than a hello, a challenge or an echo, which all have this size, and
an answer to someone unproved is never larger than the question: nobody can use us to flood a third party."""

_MAX_KEY_BYTES: Final = 1024 + PREFIX_BYTES
"""A caller's key, or that of one of its shares."""
_MAX_TTL_MS: Final = 2**42
"""139 years."""
_MAX_NUMBER: Final = 2**63 - 1
_MAX_ARRAY: Final = 128
_MAX_FRAGMENTS: Final = 2**15
_MAX_HOST: Final = 64

MAX_NACK_RANGES: Final = 60

_OPS_HEAD_BYTES: Final = 1 + 1 + 9 + 3 + 1
"""Array of four, type, number, array of ops, whether Redis has them; each at its longest."""
_OPS_ROOM: Final = MAX_BODY_BYTES - _OPS_HEAD_BYTES
_SET_HEAD_BYTES: Final = 1 + 1 + 3 + 18 + 9 + 3
"""What a set costs besides key and value: array, kind, head of the key, stamp, time to live, head of the value."""

FRAGMENT_BYTES: Final = MAX_BODY_BYTES - (1 + 1 + 9 + 18 + 3 + 3 + 3)
"""Less array, type, number, stamp, place, total, head of the piece."""
_FRAGMENT_KEY_BYTES: Final = 3 + 9 + 1
"""What the first piece carries besides the key: its head, the time to live, and whether Redis has it."""


class FrameType(IntEnum):
    """The numbers on the wire."""

    HELLO = 0
    CHALLENGE = 1
    ECHO = 2
    OPS = 3
    HEARTBEAT = 4
    BYE = 5
    NACK = 6
    GAP = 7
    FRAGMENT = 8
    ASK_DIGEST = 9
    TELL_DIGEST = 10
    ASK_BUCKET = 11
    TELL_BUCKET = 12
    FETCH = 13
    ASK_CLOCK = 14
    TELL_CLOCK = 15


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
    """A run of writes.

    ``number`` counts its sender's datagrams of writes, from 1; one that is sent again keeps its number.  0 is for writes
    that one peer asked for with :class:`Fetch`.  ``in_redis`` is whether Redis had them when they were sent; None if the
    sender does not say.
    """

    number: int
    ops: tuple[Op, ...]
    in_redis: bool | None = None


class Fragment(NamedTuple):
    """A piece of a set whose value does not fit into one datagram.  ``number`` as in :class:`Ops`, each piece its own.

    Pieces belong together by their stamp.  ``key``, ``expires_at`` and ``in_redis`` are sent with the first piece only.
    """

    number: int
    stamp: Stamp
    place: int
    total: int
    piece: bytes
    key: str = ""
    expires_at: float = inf
    in_redis: bool | None = None


class Heartbeat(NamedTuple):
    """The sender is alive, in this mode.

    It has sent writes up to number ``last``, and can send again those from ``lowest`` on.  ``root`` is the hash of all it
    knows, None if it is not to be compared with.  ``peers`` are a few of those it knows.  ``standing`` is how it writes to
    Redis.
    """

    mode: Mode
    last: int
    lowest: int = 1
    root: bytes | None = None
    peers: tuple[Address, ...] = ()
    standing: Standing = UNKNOWN


class Bye(NamedTuple):
    """The sender leaves now."""


class Nack(NamedTuple):
    """Send these again: ranges of numbers, the first and the last of each, ascending."""

    ranges: tuple[tuple[int, int], ...]


class Gap(NamedTuple):
    """The numbers from ``first`` to ``last`` will not be sent again: their sender does not have them any more."""

    first: int
    last: int


class AskDigest(NamedTuple):
    """What are the hashes of your buckets?"""


class TellDigest(NamedTuple):
    """They are these, one behind the other."""

    hashes: bytes


class AskBucket(NamedTuple):
    """What do you know in this bucket?

    Keys first, then patterns, both in their order, those behind ``after``, which is a pattern if ``in_sweeps``.
    ``page`` is the asker's name for this part.
    """

    bucket: int
    page: int
    after: str
    in_sweeps: bool


class TellBucket(NamedTuple):
    """This; and there is more behind the last of them or not."""

    bucket: int
    page: int
    more: bool
    versions: tuple[Version, ...]


class Fetch(NamedTuple):
    """Send me the newest writes of these keys and these patterns."""

    keys: tuple[str, ...]
    sweeps: tuple[str, ...]


class AskClock(NamedTuple):
    """What is the time there?  ``asked`` is the asker's own, and comes back with the answer."""

    asked: int


class TellClock(NamedTuple):
    """The wall clock, in ms since 1970."""

    asked: int
    wall_ms: int


Frame = (
    Hello | Challenge | Echo | Ops | Fragment | Heartbeat | Bye | Nack | Gap
    | AskDigest | TellDigest | AskBucket | TellBucket | Fetch | AskClock | TellClock
)  # fmt: skip

_MODES: Final = (Mode.REDIS, Mode.MEMORY, Mode.RECOVERING)
"""A mode's number on the wire is its place."""
_MODE_NUMBERS: Final = {mode: number for number, mode in enumerate(_MODES)}
_SHORT_KINDS: Final = {kind.value: kind for kind in (Kind.INVALIDATE, Kind.DELETE, Kind.SWEEP)}

_OPS_START: Final = bytes([0x94, FrameType.OPS])
_IN_REDIS: Final = {None: b"\xc0", False: b"\xc2", True: b"\xc3"}
_PADDING: Final = [bytes([0xC4, n]) + bytes(n) for n in range(MIN_BODY_BYTES)]


# -- encoding


def encode(frame: Frame, now: float) -> bytes:  # noqa: PLR0911, PLR0912 - one case a frame
    """The body of a frame, sent at ``now``."""
    match frame:
        case Ops(number, ops, in_redis):
            return encode_ops(number, [encode_op(op, now) for op in ops], in_redis)
        case Fragment():
            return _encode_fragment(frame, now)
        case Heartbeat(mode, last, lowest, root, peers, standing):
            flat = [part for address in peers for part in address]
            flags = standing.plain + 2 * standing.clean + 4 * standing.number
            return _body(
                FrameType.HEARTBEAT, _MODE_NUMBERS[mode], last, lowest, root, flat, flags, standing.plain_until
            )
        case Hello(nonce):
            return _body(FrameType.HELLO, nonce)
        case Challenge(answer, nonce, mode, last):
            return _body(FrameType.CHALLENGE, answer, nonce, _MODE_NUMBERS[mode], last)
        case Echo(answer, mode, last):
            return _body(FrameType.ECHO, answer, _MODE_NUMBERS[mode], last)
        case Bye():
            return _body(FrameType.BYE)
        case Nack(ranges):
            return _body(FrameType.NACK, [number for pair in ranges for number in pair])
        case Gap(first, last):
            return _body(FrameType.GAP, first, last)
        case AskDigest():
            return _body(FrameType.ASK_DIGEST)
        case TellDigest(hashes):
            return _body(FrameType.TELL_DIGEST, hashes)
        case AskBucket(bucket, page, after, in_sweeps):
            return _body(FrameType.ASK_BUCKET, bucket, page, after, in_sweeps)
        case TellBucket(bucket, page, more, versions):
            keys = [part for version in versions if not version.is_sweep for part in version[:2]]
            sweeps = [part for version in versions if version.is_sweep for part in version[:2]]
            return _body(FrameType.TELL_BUCKET, bucket, page, more, keys, sweeps)
        case Fetch(keys, sweeps):
            return _body(FrameType.FETCH, keys, sweeps)
        case AskClock(asked):
            return _body(FrameType.ASK_CLOCK, asked)
        case TellClock(asked, wall_ms):
            return _body(FrameType.TELL_CLOCK, asked, wall_ms)


def encode_op(op: Op, now: float) -> bytes:
    """One write, for :func:`encode_ops`, with the time to live that remains at ``now``.

    A set that cannot be sent as one, because its time ran out or its value does not fit, is sent as an invalidation with
    the same stamp: whoever holds an older value must not keep it.
    """
    kind, key, stamp, value, expires_at = op
    if kind is not Kind.SET:
        # How long it is to be remembered; never 0, which would read "for ever".
        return _pack((kind, key, stamp) if expires_at == inf else (kind, key, stamp, _ttl_ms(expires_at, now) or 1))
    if len(value) <= _OPS_ROOM:
        ttl_ms = 0 if expires_at == inf else _ttl_ms(expires_at, now)
        if ttl_ms or expires_at == inf:
            packed = _pack((Kind.SET, key, stamp, ttl_ms, value))
            if len(packed) <= _OPS_ROOM:
                return packed
    return _pack((Kind.INVALIDATE, key, stamp))


def fits_with(op_bytes: int, others: int, others_bytes: int) -> bool:
    """Whether one more write can share a datagram with others, all of them as :func:`encode_op` gives them."""
    return others < _MAX_ARRAY and others_bytes + op_bytes <= _OPS_ROOM


def encode_ops(number: int, packed: Iterable[bytes], in_redis: bool | None = None) -> bytes:
    """The body of a run of writes that :func:`encode_op` made."""
    ops = list(packed)
    head = (_OPS_START, _pack(number), b"\xdc", len(ops).to_bytes(2, "big"))
    return _padded(b"".join((*head, *ops, _IN_REDIS[in_redis])))


def fragments(op: Op) -> list[Fragment]:
    """The pieces of a set, without their numbers; none if it fits into one datagram whole."""
    key, stamp, value = op.key, op.stamp, op.value
    if op.kind is not Kind.SET or len(value) + 4 * len(key) + _SET_HEAD_BYTES <= _OPS_ROOM:
        return []
    key_bytes = len(key.encode())
    if len(value) + key_bytes + _SET_HEAD_BYTES <= _OPS_ROOM:
        return []
    first = FRAGMENT_BYTES - key_bytes - _FRAGMENT_KEY_BYTES
    pieces = [value[:first], *(value[at : at + FRAGMENT_BYTES] for at in range(first, len(value), FRAGMENT_BYTES))]
    return [Fragment(0, stamp, place, len(pieces), piece, key, op.expires_at) for place, piece in enumerate(pieces)]


def names_that_fit(names: Sequence[str]) -> int:
    """How many of these keys fit into one :class:`Fetch`."""
    room = MAX_BODY_BYTES - (1 + 1 + 3 + 3)
    for count, name in enumerate(names):
        room -= len(name.encode()) + 3
        if room < 0 or count == _MAX_ARRAY:
            return count
    return len(names)


def versions_that_fit(versions: Sequence[Version]) -> int:
    """How many of these fit into one :class:`TellBucket`."""
    room = MAX_BODY_BYTES - (1 + 1 + 2 + 9 + 1 + 3 + 3)
    for count, version in enumerate(versions):
        room -= len(version.key.encode()) + 3 + STAMP_BYTES + 2
        if room < 0 or count == _MAX_ARRAY // 2:
            return count
    return len(versions)


def _encode_fragment(fragment: Fragment, now: float) -> bytes:
    number, stamp, place, total, piece, key, expires_at, in_redis = fragment
    ttl_ms = 0 if expires_at == inf else _ttl_ms(expires_at, now)
    if not ttl_ms and expires_at != inf:
        return encode_ops(number, [_pack((Kind.INVALIDATE, key, stamp))], in_redis)
    if place:
        return _body(FrameType.FRAGMENT, number, stamp, place, total, piece)
    return _body(FrameType.FRAGMENT, number, stamp, place, total, piece, key, ttl_ms, in_redis)


def _ttl_ms(expires_at: float, now: float) -> int:
    """What remains, in whole ms rounded down, so that a value never lives longer at a peer than here; 0 if nothing."""
    return max(0, int((expires_at - now) * 1000))


def _body(*fields: object) -> bytes:
    return _padded(_pack(fields))


def _padded(body: bytes) -> bytes:
    """The body, made long enough by one more field, which every reader ignores."""
    missing = MIN_BODY_BYTES - len(body)
    if missing <= 0:
        return body
    return bytes([body[0] + 1]) + body[1:] + _PADDING[max(0, missing - 2)]


def _pack(value: object) -> bytes:
    # Not packb, which reserves 256 KiB each time.
    packed: bytes = msgpack.Packer(buf_size=MAX_BODY_BYTES).pack(value)
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
    except (IndexError, ValueError):  # fields are missing
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
    if type(packed) is not tuple or not packed:
        raise BadDatagram(Reason.MALFORMED)
    return Ops(number, tuple([_op(item, now) for item in packed]), _in_redis(fields[3]))


def _read_fragment(fields: tuple[Any, ...], now: float) -> Fragment:
    number, stamp, total = _number(fields[1]), _stamp(fields[2]), _whole(fields[4], _MAX_FRAGMENTS)
    place, piece = _whole(fields[3], total - 1), fields[5]
    if type(piece) is not bytes or not piece:
        raise BadDatagram(Reason.MALFORMED)
    if place:
        return Fragment(number, stamp, place, total, piece)
    ttl_ms = _whole(fields[7], _MAX_TTL_MS)
    expires_at = now + ttl_ms / 1000 if ttl_ms else inf
    return Fragment(number, stamp, 0, total, piece, _key(fields[6]), expires_at, _in_redis(fields[8]))


def _read_heartbeat(fields: tuple[Any, ...], now: float) -> Heartbeat:
    _, mode, last, lowest, root, flat, flags, plain_until = fields[:8]
    if root is not None and (type(root) is not bytes or len(root) != HASH_BYTES):
        raise BadDatagram(Reason.MALFORMED)
    peers = tuple(map(_address, *_pairs(flat)))
    return Heartbeat(_mode(mode), _number(last), _number(lowest), root, peers, _standing(flags, plain_until))


def _standing(flags: object, plain_until: object) -> Standing:
    if type(plain_until) is not bytes or len(plain_until) != STAMP_BYTES:
        raise BadDatagram(Reason.MALFORMED)
    number, flags = divmod(_number(flags), 4)
    return Standing(bool(flags & 1), bool(flags & 2), Stamp(plain_until), number)


def _read_bye(fields: tuple[Any, ...], now: float) -> Bye:
    return Bye()


def _read_nack(fields: tuple[Any, ...], now: float) -> Nack:
    firsts, lasts = _pairs(fields[1])
    ranges = tuple(zip(map(_number, firsts), map(_number, lasts), strict=True))
    if not ranges or any(first > last for first, last in ranges):
        raise BadDatagram(Reason.MALFORMED)
    return Nack(ranges)


def _read_gap(fields: tuple[Any, ...], now: float) -> Gap:
    return Gap(_number(fields[1]), _number(fields[2]))


def _read_ask_digest(fields: tuple[Any, ...], now: float) -> AskDigest:
    return AskDigest()


def _read_tell_digest(fields: tuple[Any, ...], now: float) -> TellDigest:
    hashes = fields[1]
    if type(hashes) is not bytes or len(hashes) != BUCKETS * HASH_BYTES:
        raise BadDatagram(Reason.MALFORMED)
    return TellDigest(hashes)


def _read_ask_bucket(fields: tuple[Any, ...], now: float) -> AskBucket:
    after, in_sweeps = fields[3], fields[4]
    if type(after) is not str or type(in_sweeps) is not bool:
        raise BadDatagram(Reason.MALFORMED)
    return AskBucket(_whole(fields[1], BUCKETS - 1), _number(fields[2]), after, in_sweeps)


def _read_tell_bucket(fields: tuple[Any, ...], now: float) -> TellBucket:
    more = fields[3]
    if type(more) is not bool:
        raise BadDatagram(Reason.MALFORMED)
    keys = [Version(_key(key), _stamp(stamp)) for key, stamp in zip(*_pairs(fields[4]), strict=True)]
    sweeps = [Version(_key(key), _stamp(stamp), is_sweep=True) for key, stamp in zip(*_pairs(fields[5]), strict=True)]
    return TellBucket(_whole(fields[1], BUCKETS - 1), _number(fields[2]), more, (*keys, *sweeps))


def _read_fetch(fields: tuple[Any, ...], now: float) -> Fetch:
    keys, sweeps = fields[1], fields[2]
    if type(keys) is not tuple or type(sweeps) is not tuple:
        raise BadDatagram(Reason.MALFORMED)
    return Fetch(tuple(map(_key, keys)), tuple(map(_key, sweeps)))


def _read_ask_clock(fields: tuple[Any, ...], now: float) -> AskClock:
    return AskClock(_number(fields[1]))


def _read_tell_clock(fields: tuple[Any, ...], now: float) -> TellClock:
    return TellClock(_number(fields[1]), _number(fields[2]))


_READERS: Final[dict[int, Callable[[tuple[Any, ...], float], Frame]]] = {
    FrameType.HELLO: _read_hello,
    FrameType.CHALLENGE: _read_challenge,
    FrameType.ECHO: _read_echo,
    FrameType.OPS: _read_ops,
    FrameType.FRAGMENT: _read_fragment,
    FrameType.HEARTBEAT: _read_heartbeat,
    FrameType.BYE: _read_bye,
    FrameType.NACK: _read_nack,
    FrameType.GAP: _read_gap,
    FrameType.ASK_DIGEST: _read_ask_digest,
    FrameType.TELL_DIGEST: _read_tell_digest,
    FrameType.ASK_BUCKET: _read_ask_bucket,
    FrameType.TELL_BUCKET: _read_tell_bucket,
    FrameType.FETCH: _read_fetch,
    FrameType.ASK_CLOCK: _read_ask_clock,
    FrameType.TELL_CLOCK: _read_tell_clock,
}


def _op(item: Any, now: float) -> Op:
    # The hot path of a receiver: written out rather than built from the small readers below.
    if type(item) is not tuple or len(item) < 3:
        raise BadDatagram(Reason.MALFORMED)
    number, key, stamp = item[:3]
    if type(number) is int and type(key) is str and key and type(stamp) is bytes and len(stamp) == STAMP_BYTES:
        expires_at = inf
        if len(item) > 3:
            ttl_ms = item[3]
            if type(ttl_ms) is not int or not 0 <= ttl_ms <= _MAX_TTL_MS:
                raise BadDatagram(Reason.MALFORMED)
            if ttl_ms:
                expires_at = now + ttl_ms / 1000
        if len(item) == 5:
            value = item[4]
            if number == Kind.SET and type(value) is bytes:
                return Op(Kind.SET, key, Stamp(stamp), value, expires_at)
        elif len(item) < 5:
            kind = _SHORT_KINDS.get(number)
            if kind is not None:
                return Op(kind, key, Stamp(stamp), b"", expires_at)
    raise BadDatagram(Reason.MALFORMED)


def _pairs(flat: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The first and the second halves of what was sent two by two."""
    if type(flat) is not tuple or len(flat) % 2:
        raise BadDatagram(Reason.MALFORMED)
    return flat[::2], flat[1::2]


def _address(host: Any, port: Any) -> Address:
    if type(host) is not str or not 0 < len(host) <= _MAX_HOST:
        raise BadDatagram(Reason.MALFORMED)
    if not _whole(port, 65_535):
        raise BadDatagram(Reason.MALFORMED)
    return host, port


def _key(value: Any) -> str:
    if type(value) is not str or not value:
        raise BadDatagram(Reason.MALFORMED)
    return value


def _in_redis(field: Any) -> bool | None:
    if field is not None and type(field) is not bool:
        raise BadDatagram(Reason.MALFORMED)
    return field


def _stamp(value: Any) -> Stamp:
    if type(value) is not bytes or len(value) != STAMP_BYTES:
        raise BadDatagram(Reason.MALFORMED)
    return Stamp(value)


def _whole(value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise BadDatagram(Reason.MALFORMED)
    return value


def _nonce(value: Any) -> bytes:
    if type(value) is not bytes or len(value) != NONCE_BYTES:
        raise BadDatagram(Reason.MALFORMED)
    return value


def _number(value: Any) -> int:
    return _whole(value, _MAX_NUMBER)


def _mode(value: Any) -> Mode:
    if type(value) is not int or not 0 <= value < len(_MODES):
        raise BadDatagram(Reason.MALFORMED)
    return _MODES[value]
