"""The journal: what Redis does not know yet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.journal import Journal
from meshcache.stamp import Stamp, make_stamp
from meshcache.store import MAX_SWEEPS


def stamp(number: int) -> Stamp:
    return make_stamp(number, 0, 1)


@pytest.fixture
def journal() -> Journal:
    return Journal(max_dirty=3)


def test_a_new_journal_knows_of_nothing(journal: Journal) -> None:
    assert not journal
    assert not journal.is_dirty("a")
    assert journal.stamp("a") is None
    assert journal.oldest(10) == []


def test_a_key_is_dirty_until_redis_knows_its_newest_write(journal: Journal) -> None:
    journal.mark("a", stamp(1))
    journal.mark("a", stamp(2))
    journal.done("a", stamp(1))  # written again while the first was on its way
    assert journal.is_dirty("a")
    assert journal.stamp("a") == stamp(2)
    journal.done("a", stamp(2))
    assert not journal.is_dirty("a")
    assert not journal


def test_an_older_write_changes_nothing(journal: Journal) -> None:
    journal.mark("a", stamp(2))
    journal.mark("a", stamp(1))
    assert journal.oldest(10) == [("a", stamp(2))]


def test_done_for_what_is_not_dirty_or_known_only_older_changes_nothing(journal: Journal) -> None:
    journal.mark("a", stamp(1))
    journal.done("b", stamp(1))
    journal.done("a", stamp(2))
    assert journal.oldest(10) == [("a", stamp(1))]


def test_a_key_that_is_written_all_the_time_lets_the_others_go_first(journal: Journal) -> None:
    for number, key in enumerate("cab"):
        journal.mark(key, stamp(number))
    journal.mark("c", stamp(9))
    assert [key for key, _ in journal.oldest(2)] == ["a", "b"]
    journal.mark("a", stamp(0))  # older than what is known: nothing changes
    assert [key for key, _ in journal.oldest(3)] == ["a", "b", "c"]


def test_only_a_peers_write_alone_is_not_in_doubt(journal: Journal) -> None:
    journal.mark("theirs", stamp(1), foreign=True)
    journal.mark("both", stamp(1))
    journal.mark("both", stamp(2), foreign=True)
    assert [journal.is_in_doubt(key) for key in ("theirs", "both", "none")] == [False, True, False]
    assert [journal.is_dirty(key) for key in ("theirs", "both", "none")] == [True, True, False]
    journal.done("theirs", stamp(1))
    journal.mark("theirs", stamp(3))
    assert journal.is_in_doubt("theirs")
    journal.mark_sweep("n*", stamp(1))
    assert journal.is_in_doubt("none")


def test_a_peers_sweep_is_its_own_until_this_instance_makes_it_too(journal: Journal) -> None:
    """Or each would say that Redis lacks something of its own, and all others would tell it everything again, for ever."""
    journal.mark_sweep("a*", stamp(1), foreign=True)
    journal.mark_sweep("a*", stamp(2), foreign=True)
    assert journal.is_dirty("abc")
    assert not journal.has_own
    journal.mark_sweep("a*", stamp(3))
    assert journal.has_own
    journal.mark_sweep("a*", stamp(4), foreign=True)
    assert journal.has_own
    journal.sweep_done("a*", stamp(4))
    journal.mark_sweep("a*", stamp(5), foreign=True)
    assert not journal.has_own
    journal.clear()
    assert not journal.has_own


def test_of_sweeps_that_became_one_some_may_be_own(journal: Journal) -> None:
    for number in range(MAX_SWEEPS):
        journal.mark_sweep(f"{number}*", stamp(number), foreign=number > 0)
    assert journal.has_own
    journal.mark_sweep("one more*", stamp(MAX_SWEEPS), foreign=True)
    assert list(journal.sweeps) == ["*"]
    assert journal.has_own
    journal.sweep_done("*", stamp(MAX_SWEEPS))
    assert not journal.has_own
    assert not journal


def test_too_many_keys_become_one_sweep_of_everything_as_new_as_the_newest(journal: Journal) -> None:
    for key, number in (("a", 1), ("b", 9), ("c", 2)):
        journal.mark(key, stamp(number))
    assert journal.overflows == 0
    journal.mark("d", stamp(3))
    assert journal.overflows == 1
    assert journal.sweeps == {"*": stamp(9)}
    assert journal.oldest(10) == []
    assert len(journal) == 1
    assert journal.is_dirty("a")
    assert journal.is_dirty("never heard of")


def test_the_write_that_overflows_may_be_the_newest(journal: Journal) -> None:
    for number, key in enumerate("abcd"):
        journal.mark(key, stamp(number))
    assert journal.sweeps == {"*": stamp(3)}


def test_a_full_journal_still_takes_newer_writes_of_the_keys_it_has(journal: Journal) -> None:
    for number, key in enumerate("abc"):
        journal.mark(key, stamp(number))
    journal.mark("a", stamp(9))
    assert journal.overflows == 0
    assert journal.stamp("a") == stamp(9)


def test_keys_are_counted_again_after_an_overflow(journal: Journal) -> None:
    for number in range(8):
        journal.mark(f"key{number}", stamp(number))
    assert journal.overflows == 2
    assert journal.sweeps == {"*": stamp(7)}


def test_the_stamp_of_a_key_covers_sweeps_so_that_an_overflow_forgets_no_write(journal: Journal) -> None:
    for number, key in enumerate("abcd"):
        journal.mark(key, stamp(10 + number))
    journal.mark("a", stamp(20))
    assert journal.stamp("a") == stamp(20)
    assert journal.stamp("b") == stamp(13)
    journal.mark_sweep("a*", stamp(30))
    assert journal.stamp("a") == stamp(30)
    assert journal.stamp("b") == stamp(13)


def test_a_sweep_makes_dirty_what_matches_until_redis_knows_it(journal: Journal) -> None:
    journal.mark_sweep("a:*", stamp(5))
    journal.mark_sweep("a:*", stamp(4))
    assert journal.is_dirty("a:1")
    assert not journal.is_dirty("b:1")
    journal.sweep_done("a:*", stamp(4))
    journal.sweep_done("b:*", stamp(5))
    assert journal.sweeps == {"a:*": stamp(5)}
    journal.sweep_done("a:*", stamp(5))
    assert not journal


def test_too_many_sweeps_become_one_of_everything(journal: Journal) -> None:
    for number in range(MAX_SWEEPS + 1):
        journal.mark_sweep(f"{number}:*", stamp(number))
    assert journal.sweeps == {"*": stamp(MAX_SWEEPS)}


def test_clear_forgets_keys_and_sweeps(journal: Journal) -> None:
    journal.mark("a", stamp(1))
    journal.mark_sweep("b*", stamp(2))
    journal.clear()
    assert not journal
    assert not journal.is_dirty("a")


@given(
    st.lists(st.tuples(st.sampled_from(["mark", "done"]), st.sampled_from("abcdefg"), st.integers(0, 30)), max_size=60),
    st.integers(1, 4),
)
def test_no_write_that_redis_does_not_know_is_ever_lost(steps: list[tuple[str, str, int]], max_dirty: int) -> None:
    journal, unknown = Journal(max_dirty), dict[str, Stamp]()
    for what, key, number in steps:
        if what == "mark":
            journal.mark(key, stamp(number))
            unknown[key] = max(unknown.get(key, b""), stamp(number), key=bytes)  # type: ignore[arg-type]
        else:
            journal.done(key, stamp(number))
            if unknown.get(key) == stamp(number):
                del unknown[key]
        assert len(journal) <= max_dirty + 1
    for key, newest in unknown.items():
        assert journal.is_dirty(key)
        told = journal.stamp(key)
        assert told is not None
        assert told >= newest
