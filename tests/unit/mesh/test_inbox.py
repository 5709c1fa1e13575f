"""What is missing is known, asked for, and bounded; pieces become values."""

from __future__ import annotations

from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.mesh.inbox import Assembly, Inbox
from meshcache.mesh.settings import Limits
from meshcache.mesh.wire import MAX_NACK_RANGES, Nack, Ops, fragments
from meshcache.stamp import Kind, Op
from tests.unit.mesh.nodes import set_op


def asked(inbox: Inbox) -> Nack:
    nack = inbox.nack(1.0, 1.0)
    assert nack is not None
    return nack


def test_each_number_is_asked_for_at_its_own_time() -> None:
    inbox = Inbox(0, Limits())
    assert inbox.ask_at == inf
    inbox.arrived(3, 1.0)
    inbox.arrived(5, 2.0)
    assert inbox.ask_at == 1.0
    assert inbox.nack(0.9, 3.0) is None
    assert inbox.nack(1.0, 3.0) == Nack(((1, 2),))
    assert inbox.ask_at == 2.0
    assert inbox.nack(2.5, 3.0) == Nack(((4, 4),))
    assert inbox.nack(3.0, 4.0) == Nack(((1, 2), (4, 4)))


def test_gaps_are_missed_and_filled() -> None:
    inbox = Inbox(10, Limits())
    assert inbox.arrived(11, 1.0)
    assert inbox.arrived(14, 1.0)
    assert len(inbox) == 2
    assert asked(inbox) == Nack(((12, 13),))
    assert inbox.arrived(13, 1.0)
    assert not inbox.arrived(13, 1.0), "again"
    assert not inbox.arrived(14, 1.0), "again"
    assert not inbox.arrived(3, 1.0), "from before they met"
    assert inbox.arrived(12, 1.0)
    assert not inbox
    assert inbox.lost == 0


def test_a_lost_tail_is_missed_when_it_is_announced() -> None:
    inbox = Inbox(0, Limits())
    inbox.announced(3, 1.0)
    inbox.announced(2, 1.0)
    assert asked(inbox) == Nack(((1, 3),))
    assert inbox.arrived(4, 1.0)
    assert asked(inbox) == Nack(((1, 3),))


def test_what_cannot_be_repeated_is_lost() -> None:
    inbox = Inbox(0, Limits())
    inbox.announced(10, 1.0)
    inbox.unrepeatable(0, 4)
    inbox.unrepeatable(7, 7)
    assert asked(inbox) == Nack(((5, 6), (8, 10)))
    assert inbox.lost == 5
    assert not inbox.arrived(4, 1.0)


@pytest.mark.parametrize("last", [101, 10**6, 2**62])
def test_missing_numbers_are_bounded(last: int) -> None:
    inbox = Inbox(0, Limits(max_missing=100))
    inbox.announced(last, 1.0)
    assert len(inbox) == 100
    assert inbox.lost == last - 100
    inbox.announced(last + 50, 1.0)
    assert len(inbox) == 100
    assert asked(inbox).ranges[0] == (last - 49, last + 50)


def test_a_request_is_bounded_and_the_oldest_come_first() -> None:
    inbox = Inbox(0, Limits())
    for number in range(2, 1000, 2):
        inbox.arrived(number, 1.0)
    ranges = asked(inbox).ranges
    assert len(ranges) == MAX_NACK_RANGES
    assert ranges[0] == (1, 1)


@given(st.permutations(range(1, 40)), st.sets(st.integers(1, 39)))
def test_each_number_is_new_once_in_any_order(order: list[int], doubled: set[int]) -> None:
    inbox = Inbox(0, Limits())
    for number in order:
        assert inbox.arrived(number, 1.0)
        if number in doubled:
            assert not inbox.arrived(number, 1.0)
    assert not inbox


# -- pieces


def test_pieces_in_any_order_and_doubled() -> None:
    random = Random(2)
    op = set_op("k", 1, random.randbytes(30_000), expires_at=77.0)
    assembly = Assembly(Limits())
    pieces = fragments(op) * 2
    random.shuffle(pieces)
    done = []
    for piece in pieces:
        whole, given_up = assembly.add(piece, 0.0)
        assert not given_up
        if whole is not None:
            done.append(whole)
    assert done[0] == Ops(0, (op,))


def test_pieces_that_wait_in_vain_are_given_up() -> None:
    assembly = Assembly(Limits())
    old, new = fragments(set_op("old", 1, b"v" * 5000)), fragments(set_op("new", 2, b"v" * 5000))
    assembly.add(old[0], 1.0)
    assembly.add(new[0], 2.0)
    assembly.add(old[1], 3.0)
    assembly.drop_older(2.5)
    assert assembly.bytes == sum(len(piece.piece) for piece in old[:2])
    assembly.drop_older(4.0)
    assert assembly.bytes == 0


def test_pieces_of_two_values_do_not_mix() -> None:
    assembly = Assembly(Limits())
    one, two = set_op("k", 1, b"1" * 3000), set_op("k", 2, b"2" * 3000)
    done = [assembly.add(piece, 0.0)[0] for pair in zip(fragments(one), fragments(two), strict=True) for piece in pair]
    assert [whole.ops for whole in done if whole] == [(one,), (two,)]
    assert assembly.bytes == 0


def test_incomplete_values_are_bounded_and_giving_one_up_is_told() -> None:
    assembly = Assembly(Limits(assembly_bytes=10_000))
    given_up = 0
    for n in range(100):
        for piece in fragments(set_op(f"k{n}", n, b"v" * 5000))[1:]:
            given_up += assembly.add(piece, 0.0)[1]
            assert assembly.bytes <= 10_000
    assert given_up == 98


def test_a_value_too_large_for_this_instance_is_invalidated_at_once() -> None:
    assembly = Assembly(Limits(max_value_bytes=5000))
    op = set_op("k", 1, b"v" * 100_000)
    first, *others = fragments(op)
    assert [assembly.add(piece, 0.0) for piece in others] == [(None, False)] * len(others)
    assert assembly.add(first, 0.0) == (Ops(0, (Op(Kind.INVALIDATE, "k", op.stamp),)), False)
    assert assembly.bytes == 0


def test_pieces_that_were_dropped_are_forgotten() -> None:
    assembly = Assembly(Limits())
    op = set_op("k", 1, b"v" * 5000)
    for piece in fragments(op)[1:]:
        assembly.add(piece, 0.0)
    assembly.drop(op.stamp)
    assembly.drop(op.stamp)
    assert assembly.bytes == 0
