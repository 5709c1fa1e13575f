"""Stamps: the order of bytes is the order of writes, whatever the clocks do."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.stamp import STAMP_BYTES, HybridClock, Kind, Op, Stamp, make_stamp, stamp_ms, stamp_node

NOW_MS = 1_700_000_000_000
NODE = 0x0123_4567_89AB_CDEF

milliseconds = st.integers(0, 2**48 - 1)
counters = st.integers(0, 2**16 - 1)
nodes = st.integers(0, 2**64 - 1)
parts = st.tuples(milliseconds, counters, nodes)


class Wall:
    """A wall clock that a test sets."""

    def __init__(self, ms: int = NOW_MS) -> None:
        self.ms = ms

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def clock(wall: Wall) -> HybridClock:
    return HybridClock(NODE, wall, max_skew_ms=60_000)


@given(parts, parts)
def test_the_order_of_bytes_is_the_order_of_time_counter_and_node(
    a: tuple[int, int, int], b: tuple[int, int, int]
) -> None:
    assert (make_stamp(*a) < make_stamp(*b)) == (a < b)
    assert (make_stamp(*a) == make_stamp(*b)) == (a == b)


@given(parts)
def test_a_stamp_tells_its_parts(made_of: tuple[int, int, int]) -> None:
    stamp = make_stamp(*made_of)
    assert len(stamp) == STAMP_BYTES == 16
    assert (stamp_ms(stamp), stamp_node(stamp)) == (made_of[0], made_of[2])


@pytest.mark.parametrize("wrong", [(-1, 0, 0), (2**48, 0, 0), (0, 2**16, 0), (0, -1, 0), (0, 0, 2**64), (0, 0, -1)])
def test_a_part_that_does_not_fit_is_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(OverflowError):
        make_stamp(*wrong)


def test_a_stamp_carries_the_wall_clock_and_the_node(clock: HybridClock) -> None:
    stamp = clock.tick()
    assert stamp_ms(stamp) == NOW_MS
    assert stamp_node(stamp) == NODE


@pytest.mark.parametrize("jump_ms", [0, -1, -3_600_000, -NOW_MS - 5, 1, 3_600_000])
def test_stamps_grow_whatever_the_wall_clock_does(clock: HybridClock, wall: Wall, jump_ms: int) -> None:
    before = [clock.tick() for _ in range(3)]
    wall.ms += jump_ms
    stamps = before + [clock.tick() for _ in range(3)]
    assert all(a < b for a, b in pairwise(stamps))
    assert stamp_ms(stamps[-1]) == NOW_MS + max(jump_ms, 0)


def test_a_clock_that_stands_still_makes_more_stamps_than_the_counter_holds(clock: HybridClock) -> None:
    stamps = [clock.tick() for _ in range(2**16 + 2)]
    assert all(a < b for a, b in pairwise(stamps))
    assert stamp_ms(stamps[-1]) == NOW_MS + 1


def test_what_is_written_after_a_foreign_write_is_newer(clock: HybridClock) -> None:
    foreign = make_stamp(NOW_MS + 500, 7, 2**64 - 1)
    assert clock.observe(foreign)
    assert clock.tick() > foreign


@pytest.mark.parametrize("counter", [0, 9, 2**16 - 1])
def test_a_foreign_write_of_the_same_moment_is_passed(clock: HybridClock, counter: int) -> None:
    first = clock.tick()
    foreign = make_stamp(stamp_ms(first), counter, 2**64 - 1)
    assert clock.observe(foreign)
    assert clock.tick() > max(first, foreign)


def test_an_older_foreign_write_does_not_move_the_clock(clock: HybridClock) -> None:
    first = clock.tick()
    assert clock.observe(make_stamp(NOW_MS - 1, 2**16 - 1, 2**64 - 1))
    assert clock.observe(make_stamp(0, 0, 0))
    assert clock.tick() == make_stamp(stamp_ms(first), 1, NODE)


def test_a_stamp_at_the_edge_of_the_allowed_skew_is_taken(clock: HybridClock) -> None:
    assert clock.observe(make_stamp(NOW_MS + 60_000, 0, 1))


@pytest.mark.parametrize("ahead_ms", [60_001, 3_600_000, 2**48 - 1 - NOW_MS])
def test_a_stamp_too_far_ahead_is_refused_and_moves_nothing(clock: HybridClock, ahead_ms: int) -> None:
    assert not clock.observe(make_stamp(NOW_MS + ahead_ms, 0, 1))
    assert clock.tick() == make_stamp(NOW_MS, 0, NODE)


def test_the_last_moment_there_is_cannot_be_observed_so_that_a_clock_never_runs_out() -> None:
    clock = HybridClock(NODE, Wall(2**48 - 2), max_skew_ms=60_000)
    assert not clock.observe(make_stamp(2**48 - 1, 2**16 - 1, 1))
    assert clock.observe(make_stamp(2**48 - 2, 2**16 - 1, 1))
    assert clock.tick() > make_stamp(2**48 - 2, 2**16 - 1, 1)


def test_a_clock_set_back_still_takes_what_belongs_to_the_past_it_has_seen(clock: HybridClock, wall: Wall) -> None:
    mine = clock.tick()
    wall.ms -= 3_600_000
    # This instance's own writes say the same moment: refusing a peer's would part the two.
    assert clock.observe(make_stamp(NOW_MS, 5, 1))
    assert clock.tick() > max(mine, make_stamp(NOW_MS, 5, 1))
    assert not clock.observe(make_stamp(NOW_MS + 1, 0, 1))


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("wall"), st.integers(-100_000, 100_000)),
            st.tuples(st.just("tick"), st.sampled_from([0, 1])),
            st.tuples(st.just("tell"), st.sampled_from([0, 1])),
        ),
        max_size=60,
    )
)
def test_two_nodes_never_share_a_stamp_and_each_grows(steps: list[tuple[str, int]]) -> None:
    walls = (Wall(), Wall())
    clocks = (HybridClock(1, walls[0]), HybridClock(2, walls[1]))
    made: tuple[list[Stamp], list[Stamp]] = ([], [])
    for what, value in steps:
        if what == "wall":
            walls[value % 2].ms += value
        elif what == "tick":
            made[value].append(clocks[value].tick())
        elif made[value] and clocks[1 - value].observe(made[value][-1]):
            made[1 - value].append(clocks[1 - value].tick())
            assert made[1 - value][-1] > made[value][-1]
    assert all(a < b for stamps in made for a, b in pairwise(stamps))
    assert not set(made[0]) & set(made[1])


def test_kinds_keep_their_numbers_which_peers_and_redis_know() -> None:
    assert [(kind.name, kind.value) for kind in Kind] == [("INVALIDATE", 0), ("DELETE", 1), ("SET", 2), ("SWEEP", 3)]


def test_an_op_without_a_value_never_expires() -> None:
    op = Op(Kind.DELETE, "key", make_stamp(1, 2, 3))
    assert op.value == b""
    assert op.expires_at == float("inf")
