"""Writes of one turn share datagrams, and a newer one takes the place of an older one."""

from __future__ import annotations

from random import Random

import pytest

from meshcache.mesh.inbox import Assembly
from meshcache.mesh.outbox import Outbox
from meshcache.mesh.seal import MAX_BODY_BYTES
from meshcache.mesh.settings import Limits
from meshcache.mesh.wire import Fragment, Ops, decode, encode
from meshcache.stamp import Kind, Op
from tests.unit.mesh.nodes import delete_op, set_op


def taken(outbox: Outbox, now: float = 0.0) -> list[Ops]:
    frames = []
    for body in outbox.take(now, 10_000):
        assert len(body) <= MAX_BODY_BYTES
        frame = decode(body, now)
        assert isinstance(frame, Ops)
        frames.append(frame)
    return frames


def test_small_writes_share_a_datagram() -> None:
    outbox = Outbox(Limits())
    ops = tuple(set_op(f"user:{n}") for n in range(15))
    for op in ops:
        outbox.add(op)
    assert taken(outbox) == [Ops(1, ops)]
    assert not outbox
    assert taken(outbox) == []


def test_any_mix_of_sizes_arrives_whole_and_numbered() -> None:
    random = Random(3)
    outbox = Outbox(Limits())
    ops = [
        set_op("k" * random.randint(1, 200) + str(n), n, b"v" * random.choice([1, 30, 500, 900])) for n in range(500)
    ]
    for op in ops:
        outbox.add(op)
    frames = taken(outbox)
    assert [op for frame in frames for op in frame.ops] == ops
    assert [frame.number for frame in frames] == list(range(1, len(frames) + 1))
    assert outbox.last == len(frames)
    outbox.add(ops[0])
    assert taken(outbox)[0].number == len(frames) + 1


def test_a_newer_write_replaces_an_older_one_that_waits() -> None:
    outbox = Outbox(Limits())
    outbox.add(set_op("k", 1))
    outbox.add(set_op("other", 2))
    outbox.add(delete_op("k", 3))
    outbox.add(set_op("k", 2))
    assert taken(outbox) == [Ops(1, (delete_op("k", 3), set_op("other", 2)))]


def test_a_pattern_that_reads_like_a_key_is_not_that_key() -> None:
    outbox = Outbox(Limits())
    sweep = Op(Kind.SWEEP, "user:1", set_op("x", 1).stamp)
    outbox.add(set_op("user:1", 2))
    outbox.add(sweep)
    [frame] = taken(outbox)
    assert set(frame.ops) == {sweep, set_op("user:1", 2)}


def test_what_expired_while_it_waited_is_sent_as_an_invalidation() -> None:
    outbox = Outbox(Limits())
    outbox.add(set_op("k", expires_at=10.0))
    [frame] = taken(outbox, now=10.5)
    assert [(op.kind, op.key) for op in frame.ops] == [(Kind.INVALIDATE, "k")]


# -- large values


def test_a_large_value_is_sent_in_pieces_with_numbers_of_their_own() -> None:
    outbox = Outbox(Limits())
    big = set_op("k", 1, bytes(range(256)) * 40)
    outbox.add(set_op("before", 1))
    outbox.add(big)
    outbox.add(set_op("after", 1))
    frames = [decode(body, 0.0) for body in outbox.take(0.0, 100)]
    assert isinstance(frames[0], Ops)
    assert isinstance(frames[-1], Ops)
    pieces = [frame for frame in frames if isinstance(frame, Fragment)]
    assert b"".join(piece.piece for piece in pieces) == big.value
    assert [frame.number for frame in frames if isinstance(frame, Ops | Fragment)] == list(range(1, len(frames) + 1))
    assert outbox.ops == 3


@pytest.mark.parametrize("key", ["k", "k" * 1024, "é" * 512])
@pytest.mark.parametrize("size", [100, 1000, 1100, 1116, 1117, 1118, 1119, 1120, 1150, 2300, 20_000])
def test_any_size_arrives_whole(key: str, size: int) -> None:
    outbox, assembly = Outbox(Limits()), Assembly(Limits())
    op = set_op(key, 1, b"v" * size, expires_at=1e9)
    outbox.add(op)
    bodies = outbox.take(0.0, 1000)
    assert max(map(len, bodies)) <= MAX_BODY_BYTES
    whole: list[Op] = []
    for frame in (decode(body, 0.0) for body in bodies):
        if isinstance(frame, Ops):
            whole += frame.ops
        elif isinstance(frame, Fragment):
            done, _ = assembly.add(frame, 0.0)
            whole += done.ops if done else ()
    assert whole == [op]


def test_a_value_beyond_the_limit_becomes_an_invalidation() -> None:
    outbox = Outbox(Limits(max_value_bytes=5000))
    op = set_op("k", 1, b"v" * 5001)
    outbox.add(op)
    assert taken(outbox) == [Ops(1, (Op(Kind.INVALIDATE, "k", op.stamp),))]


# -- whether Redis has it


@pytest.mark.parametrize("in_redis", [True, False, None])
@pytest.mark.parametrize("size", [10, 5000])
def test_whether_redis_has_it_is_said_as_it_was_when_it_was_sent(in_redis: bool | None, size: int) -> None:
    outbox, assembly = Outbox(Limits()), Assembly(Limits())
    op = set_op("k", 1, b"v" * size)
    outbox.add(op)
    outbox.take(0.0, 100, in_redis=in_redis)
    outbox.add(set_op("other", 2))
    outbox.take(0.0, 100, in_redis=not in_redis)
    whole = []
    for number in range(1, outbox.last):
        again = outbox.again(number)
        assert again is not None
        frame = decode(encode(again, 0.0), 0.0)
        whole.append(frame if isinstance(frame, Ops) else assembly.add(frame, 0.0)[0])  # type: ignore[arg-type]
    assert [(frame.ops, frame.in_redis) for frame in whole if frame] == [((op,), in_redis)]


# -- repeating


def test_what_was_sent_can_be_sent_again_with_the_time_that_remains() -> None:
    outbox = Outbox(Limits())
    outbox.add(set_op("k", expires_at=10.0))
    outbox.take(0.0, 10)
    again = outbox.again(1)
    assert again is not None
    assert decode(encode(again, 6.0), 100.0) == Ops(1, (set_op("k", expires_at=104.0),))
    assert decode(encode(again, 11.0), 100.0) == Ops(1, (Op(Kind.INVALIDATE, "k", set_op("k").stamp),))


def test_a_piece_whose_time_ran_out_is_repeated_as_an_invalidation() -> None:
    outbox = Outbox(Limits())
    outbox.add(set_op("k", 1, b"v" * 5000, expires_at=10.0))
    outbox.take(0.0, 10)
    again = outbox.again(3)
    assert again is not None
    assert decode(encode(again, 11.0), 0.0) == Ops(3, (Op(Kind.INVALIDATE, "k", set_op("k").stamp),))


def test_the_ring_is_bounded_in_bytes() -> None:
    outbox = Outbox(Limits(ring_bytes=10_000))
    for n in range(1000):
        outbox.add(set_op(f"k{n}", n, b"v" * 500))
        outbox.take(0.0, 10)
        assert outbox.ring_bytes <= 10_000
    assert outbox.last == 1000
    assert 980 < outbox.lowest < 990
    assert outbox.again(outbox.lowest - 1) is None
    assert outbox.again(outbox.last + 1) is None
    assert all(outbox.again(number) for number in range(outbox.lowest, 1001))


def test_what_waits_is_bounded_and_what_is_given_up_is_missed_by_the_peers() -> None:
    outbox = Outbox(Limits(max_waiting=10))
    for n in range(25):
        outbox.add(set_op(f"k{n}", n))
    assert outbox.last == 15
    assert [op.key for frame in taken(outbox) for op in frame.ops] == [f"k{n}" for n in range(15, 25)]
    assert outbox.again(3) is None
    assert outbox.again(16)


def test_no_more_than_asked_for_is_taken() -> None:
    outbox = Outbox(Limits())
    outbox.add(set_op("large", 1, b"v" * 50_000))
    outbox.add(set_op("small", 1))
    sizes = []
    while outbox:
        sizes.append(len(outbox.take(0.0, 7)))
    assert sizes[:-1] == [7] * (len(sizes) - 1)
    assert sum(sizes) == 46
