"""Writes of one turn share datagrams, and a newer one takes the place of an older one."""

from __future__ import annotations

from random import Random

from meshcache.mesh.outbox import Outbox
from meshcache.mesh.seal import MAX_BODY_BYTES
from meshcache.mesh.settings import Limits
from meshcache.mesh.wire import Ops, decode
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
