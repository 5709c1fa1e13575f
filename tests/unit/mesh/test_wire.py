"""Frames survive the wire, everything else is refused, and nothing is longer than it may be."""

from __future__ import annotations

from math import inf
from typing import Any

import msgpack
import pytest

from meshcache.arguments import MAX_KEY_BYTES
from meshcache.buckets import Version
from meshcache.events import Mode
from meshcache.mesh.errors import BadDatagram, Reason
from meshcache.mesh.seal import MAX_BODY_BYTES
from meshcache.mesh.wire import (
    FRAGMENT_BYTES,
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
    FrameType,
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
    encode_op,
    fits_with,
    fragments,
    names_that_fit,
    versions_that_fit,
)
from meshcache.shares import PREFIX_BYTES
from meshcache.stamp import Kind, Op, make_stamp
from meshcache.standings import NEVER, Standing

STAMP = make_stamp(1_700_000_000_000, 3, 2**64 - 1)
LONGEST = "k" * (MAX_KEY_BYTES + PREFIX_BYTES)
NONCE, OTHER = bytes(range(16)), b"\xff" * 16
BIG = 2**63 - 1

FRAMES: list[Frame] = [
    Hello(NONCE),
    Challenge(NONCE, OTHER, Mode.RECOVERING, 0),
    Challenge(NONCE, OTHER, Mode.MEMORY, BIG),
    Echo(OTHER, Mode.REDIS, BIG),
    Heartbeat(Mode.MEMORY, 7),
    Heartbeat(Mode.REDIS, 7, standing=Standing(plain=False, clean=True, plain_until=make_stamp(1, 2, 3), number=2**40)),
    Heartbeat(Mode.REDIS, BIG, BIG, b"r" * 8, (("10.0.0.1", 1), ("fe80::1%eth0", 65_535))),
    Nack(((1, 1), (5, BIG))),
    Gap(0, BIG),
    AskDigest(),
    TellDigest(bytes(range(256)) * 4),
    AskBucket(127, BIG, LONGEST, True),
    AskBucket(0, 0, "", False),
    TellBucket(127, BIG, True, (Version(LONGEST, STAMP), Version("*", STAMP, True))),
    TellBucket(0, 0, False, ()),
    Fetch((LONGEST, "a"), ("*",)),
    Fragment(BIG, STAMP, 0, 900, b"piece", "key", 160.0),
    Fragment(BIG, STAMP, 0, 900, b"piece", "key", 160.0, in_redis=True),
    Fragment(0, STAMP, 899, 900, b"p" * FRAGMENT_BYTES),
    AskClock(BIG),
    TellClock(0, 1_700_000_000_000),
    Bye(),
    Ops(
        BIG,
        (
            Op(Kind.SET, "user:1", STAMP, b"value", 160.0),
            Op(Kind.SET, "é" * 350, STAMP, b""),
            Op(Kind.DELETE, "\0", STAMP),
            Op(Kind.INVALIDATE, "k", STAMP),
            Op(Kind.SWEEP, "user:*", STAMP),
            Op(Kind.DELETE, "remembered", STAMP, b"", 160.0),
            Op(Kind.SWEEP, "remembered:*", STAMP, b"", 160.0),
        ),
        in_redis=False,
    ),
    Ops(1, (Op(Kind.INVALIDATE, "k", STAMP),), in_redis=True),
]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_frames_survive(frame: Frame) -> None:
    body = encode(frame, 100.0)
    assert decode(body, 100.0) == frame
    assert MIN_BODY_BYTES <= len(body) <= MAX_BODY_BYTES


def test_no_answer_to_a_stranger_is_larger_than_its_question() -> None:
    shortest = min(len(encode(frame, 0.0)) for frame in FRAMES)
    for answer in (Hello(NONCE), Challenge(NONCE, OTHER, Mode.MEMORY, BIG), Echo(NONCE, Mode.MEMORY, BIG)):
        assert len(encode(answer, 0.0)) == shortest


def test_ttl_is_what_remains_when_it_is_sent() -> None:
    op = Op(Kind.SET, "k", STAMP, b"v", 160.0)
    [received] = decode(encode(Ops(1, (op,)), 130.5), 7000.0).ops  # type: ignore[union-attr]
    assert received.expires_at == 7029.5
    [forever] = decode(encode(Ops(1, (op._replace(expires_at=inf),)), 1.0), 9.0).ops  # type: ignore[union-attr]
    assert forever.expires_at == inf


@pytest.mark.parametrize("now", [160.0, 159.9995, 1000.0])
def test_a_value_whose_time_ran_out_becomes_an_invalidation(now: float) -> None:
    op = Op(Kind.SET, "k", STAMP, b"v", 160.0)
    assert decode(encode(Ops(1, (op,)), now), 0.0) == Ops(1, (Op(Kind.INVALIDATE, "k", STAMP),))


def test_a_value_that_does_not_fit_becomes_an_invalidation() -> None:
    for size in range(1050, 1200):
        body = encode(Ops(BIG, (Op(Kind.SET, "key", STAMP, b"v" * size),)), 0.0)
        assert len(body) <= MAX_BODY_BYTES
        [received] = decode(body, 0.0).ops  # type: ignore[union-attr]
        assert received.stamp == STAMP
        assert received.kind is (Kind.SET if size <= 1118 else Kind.INVALIDATE)


def test_the_longest_key_can_always_be_deleted() -> None:
    for kind in (Kind.DELETE, Kind.INVALIDATE, Kind.SWEEP):
        op = Op(kind, LONGEST, STAMP)
        body = encode(Ops(BIG, (op,)), 0.0)
        assert len(body) <= MAX_BODY_BYTES
        assert decode(body, 0.0) == Ops(BIG, (op,))


def test_as_many_of_the_smallest_as_fit_can_be_read() -> None:
    packed = len(encode_op(Op(Kind.DELETE, "k", STAMP), 0.0))
    many = 0
    while fits_with(packed, many, many * packed):
        many += 1
    frame = Ops(BIG, tuple(Op(Kind.DELETE, "k", STAMP) for _ in range(many)))
    body = encode(frame, 0.0)
    assert MAX_BODY_BYTES - packed < len(body) <= MAX_BODY_BYTES
    assert decode(body, 0.0) == frame


def test_what_a_newer_version_adds_is_let_be() -> None:
    assert decode(msgpack.packb([FrameType.HEARTBEAT, 1, 7, 1, None, [], 1, NEVER, "new", [1, 2]]), 0.0) == Heartbeat(
        Mode.MEMORY, 7
    )
    with pytest.raises(BadDatagram) as caught:
        decode(msgpack.packb([99, 1]), 0.0)
    assert caught.value.reason is Reason.UNKNOWN_FRAME


def test_pieces_fill_their_datagrams_and_never_more() -> None:
    for key in ("k", LONGEST):
        pieces = fragments(Op(Kind.SET, key, STAMP, b"v" * 50_000, 160.0))
        bodies = [encode(piece._replace(number=BIG), 0.0) for piece in pieces]
        assert all(len(body) <= MAX_BODY_BYTES for body in bodies)
        assert all(len(body) > MAX_BODY_BYTES - 20 for body in bodies[:-1])


@pytest.mark.parametrize("key", ["k", "k" * 50, "é" * 512, LONGEST])
def test_as_many_names_and_versions_as_are_said_to_fit_do(key: str) -> None:
    names = [f"{key[:-4]}{n:04}"[-len(LONGEST) :] if len(key) > 4 else f"{n}" for n in range(300)]
    fit = names_that_fit(names)
    assert 0 < fit < 300
    assert len(encode(Fetch(tuple(names[:fit]), ()), 0.0)) <= MAX_BODY_BYTES
    assert decode(encode(Fetch((), tuple(names[:fit])), 0.0), 0.0) == Fetch((), tuple(names[:fit]))
    versions = tuple(Version(name, STAMP, number > 3) for number, name in enumerate(names))
    fit = versions_that_fit(versions)
    assert 0 < fit < 300
    frame = TellBucket(127, BIG, True, versions[:fit])
    assert len(encode(frame, 0.0)) <= MAX_BODY_BYTES
    assert decode(encode(frame, 0.0), 0.0) == frame


GOOD_SET = [2, "k", STAMP, 0, b"v"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x90",
        b"\x90trailing",
        msgpack.packb(None),
        msgpack.packb({}),
        msgpack.packb({0: NONCE}),
        msgpack.packb(["0", NONCE]),
        msgpack.packb([True, NONCE]),
        msgpack.packb([0.0, NONCE]),
        msgpack.packb([FrameType.HELLO]),
        msgpack.packb([FrameType.HELLO, NONCE[:15]]),
        msgpack.packb([FrameType.HELLO, "0" * 16]),
        msgpack.packb([FrameType.CHALLENGE, NONCE, OTHER, 3, 0]),
        msgpack.packb([FrameType.CHALLENGE, NONCE, OTHER, True, 0]),
        msgpack.packb([FrameType.CHALLENGE, NONCE, OTHER, 1]),
        msgpack.packb([FrameType.ECHO, NONCE, 1, -1]),
        msgpack.packb([FrameType.ECHO, NONCE, 1, 2**63]),
        msgpack.packb([FrameType.HEARTBEAT, -1, 0]),
        msgpack.packb([FrameType.HEARTBEAT, 1, 0.5]),
        msgpack.packb([FrameType.HEARTBEAT, msgpack.Timestamp(0), 0]),
        msgpack.packb([FrameType.HELLO, msgpack.ExtType(5, b"")]),
        msgpack.packb([FrameType.HEARTBEAT, 1, 0, 0, b"seven..", []]),
        msgpack.packb([FrameType.HEARTBEAT, 1, 0, 0, None, ["10.0.0.1"]]),
        msgpack.packb([FrameType.HEARTBEAT, 1, 0, 0, None, ["10.0.0.1", 0]]),
        msgpack.packb([FrameType.HEARTBEAT, 1, 0, 0, None, ["10.0.0.1", 65_536]]),
        msgpack.packb([FrameType.HEARTBEAT, 1, 0, 0, None, ["", 1]]),
        msgpack.packb([FrameType.HEARTBEAT, 1, 0, 0, None, ["1" * 65, 1]]),
        msgpack.packb([FrameType.HEARTBEAT, 1, 0, 0, None, None]),
        msgpack.packb([FrameType.NACK, []]),
        msgpack.packb([FrameType.NACK, [1]]),
        msgpack.packb([FrameType.NACK, [2, 1]]),
        msgpack.packb([FrameType.NACK, 5]),
        msgpack.packb([FrameType.GAP, 1]),
        msgpack.packb([FrameType.FRAGMENT, 1, STAMP, 2, 2, b"p"]),
        msgpack.packb([FrameType.FRAGMENT, 1, STAMP, 0, 0, b"p", "k", 0, None]),
        msgpack.packb([FrameType.FRAGMENT, 1, STAMP, 1, 2**16, b"p"]),
        msgpack.packb([FrameType.FRAGMENT, 1, STAMP, 1, 2, b""]),
        msgpack.packb([FrameType.FRAGMENT, 1, STAMP, 0, 2, b"p"]),
        msgpack.packb([FrameType.FRAGMENT, 1, STAMP, 0, 2, b"p", "", 0, None]),
        msgpack.packb([FrameType.FRAGMENT, 1, STAMP, 0, 2, b"p", "k", 0]),
        msgpack.packb([FrameType.FRAGMENT, 1, STAMP, 0, 2, b"p", "k", 0, 1]),
        msgpack.packb([FrameType.TELL_DIGEST, b"x" * 1023]),
        msgpack.packb([FrameType.ASK_BUCKET, 128, 0, "", False]),
        msgpack.packb([FrameType.ASK_BUCKET, 1, 0, None, False]),
        msgpack.packb([FrameType.ASK_BUCKET, 1, 0, "", 0]),
        msgpack.packb([FrameType.TELL_BUCKET, 1, 0, 1, [], []]),
        msgpack.packb([FrameType.TELL_BUCKET, 1, 0, True, ["k"], []]),
        msgpack.packb([FrameType.TELL_BUCKET, 1, 0, True, ["k", b"short"], []]),
        msgpack.packb([FrameType.FETCH, ["k", ""], []]),
        msgpack.packb([FrameType.FETCH, ["k"]]),
        msgpack.packb([FrameType.FETCH, "k", []]),
        msgpack.packb([FrameType.OPS, 1, [], None]),
        msgpack.packb([FrameType.OPS, 1, [GOOD_SET]]),
        msgpack.packb([FrameType.OPS, 1, [GOOD_SET], 1]),
        msgpack.packb([FrameType.OPS, 1, GOOD_SET, None]),
        msgpack.packb([FrameType.OPS, 1, [GOOD_SET] * 129, None]),
        msgpack.packb([FrameType.OPS, 1, [[]], None]),
        msgpack.packb([FrameType.OPS, 1, [[[]] * 3], None]),
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 1100,
    ],
)
def test_malformed(body: bytes) -> None:
    with pytest.raises(BadDatagram) as caught:
        decode(body, 0.0)
    assert caught.value.reason is Reason.MALFORMED


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, 0), (0, 4), (0, -1), (0, 2.0), (0, True), (0, None), (0, [2]),
        (1, ""), (1, b"k"), (1, 5), (1, LONGEST + "k"), (1, None),
        (2, b""), (2, STAMP[:15]), (2, STAMP + b"x"), (2, "s" * 16), (2, None),
        (3, -1), (3, 1.5), (3, None), (3, True), (3, 2**60),
        (4, "v"), (4, None), (4, 1), (4, [b"v"]),
    ],
)  # fmt: skip
def test_malformed_op(place: int, value: Any) -> None:
    item = list(GOOD_SET)
    assert decode(msgpack.packb([FrameType.OPS, 1, [item], None]), 0.0)
    item[place] = value
    with pytest.raises(BadDatagram, match="malformed"):
        decode(msgpack.packb([FrameType.OPS, 1, [item], None]), 0.0)


@pytest.mark.parametrize("item", [[2, "k", STAMP], [1, "k", STAMP, 0, b""], [1, "", STAMP], [True, "k", STAMP]])
def test_kind_and_fields_must_agree(item: list[Any]) -> None:
    with pytest.raises(BadDatagram, match="malformed"):
        decode(msgpack.packb([FrameType.OPS, 1, [item], None]), 0.0)


def test_a_key_that_is_not_utf8_is_malformed() -> None:
    body = msgpack.packb([FrameType.OPS, 1, [[1, "kk", STAMP]], None])
    with pytest.raises(BadDatagram, match="malformed"):
        decode(body.replace(b"kk", b"\xff\xfe"), 0.0)
