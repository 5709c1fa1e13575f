"""What was changed in Redis of late."""

from __future__ import annotations

from math import inf

from meshcache.recent import Recent
from meshcache.stamp import Kind, Op, Stamp, make_stamp, of_nobody


def stamp(moment: float) -> Stamp:
    return make_stamp(int(moment * 1000), 0, 1)


def keys(ops: list[Op]) -> set[str]:
    return {op.key for op in ops}


def test_own_changes_since_a_moment_newest_stamp_each() -> None:
    recent = Recent(100)
    recent.wrote("a", stamp(1), 1.0)
    recent.wrote("b", stamp(2), 2.0)
    recent.wrote("a", stamp(3), 3.0)
    assert recent.own_since(2.5) == [Op(Kind.INVALIDATE, "a", stamp(3))]
    assert keys(recent.own_since(0.0)) == {"a", "b"}


def test_an_older_write_brought_for_somebody_else_does_not_hide_the_own_newer_one() -> None:
    recent = Recent(100)
    recent.wrote("a", stamp(3), 3.0)
    recent.wrote("a", stamp(1), 4.0, fenced=True)
    assert recent.own_since(3.5) == [Op(Kind.INVALIDATE, "a", stamp(3))]


def test_sweeps_are_changes() -> None:
    recent = Recent(100)
    recent.swept("user:*", stamp(1), 1.0)
    recent.swept("*:x", stamp(5), 5.0)
    assert recent.own_since(2.0) == [Op(Kind.SWEEP, "*:x", stamp(5))]
    recent.swept("user:*", stamp(6), 6.0)
    assert keys(recent.own_since(5.5)) == {"user:*"}


def test_too_many_sweeps_are_one_of_everything() -> None:
    recent = Recent(100)
    for n in range(100):
        recent.swept(f"{n}:*", stamp(n), float(n))
    assert keys(recent.own_since(0.0)) == {"*", *(f"{n}:*" for n in range(65, 100))}
    assert Op(Kind.SWEEP, "*", stamp(64)) in recent.own_since(64.0)


def test_more_keys_than_are_remembered_is_everything() -> None:
    recent = Recent(3)
    for n in range(5):
        recent.wrote(f"key:{n}", stamp(n), float(n))
    assert recent.own_since(0.0) == [Op(Kind.SWEEP, "*", stamp(4))]
    assert keys(recent.own_since(2.0)) == {"key:2", "key:3", "key:4"}


def test_what_others_changed_counts_for_a_server_that_forgot_but_is_not_told_to_peers() -> None:
    recent = Recent(100)
    recent.wrote("own", stamp(1), 1.0)
    recent.changed(["own", "theirs", "old"], 2.0)
    recent.changed(["theirs"], 3.0)
    assert keys(recent.own_since(0.0)) == {"own"}
    assert recent.all_since(2.5, stamp) == [Op(Kind.INVALIDATE, "theirs", stamp(3))]
    assert {op.key: op.stamp for op in recent.all_since(0.0, stamp)} == {
        "own": stamp(2), "theirs": stamp(3), "old": stamp(2)
    }  # fmt: skip


def test_when_what_was_written_last_expires_is_remembered() -> None:
    recent = Recent(100)
    recent.wrote("a", stamp(1), 1.0, fenced=True, expires_at=9.0)
    recent.wrote("a", stamp(0), 2.0, fenced=True, expires_at=5.0)  # something older, for others
    assert recent.expires_at("a") == 9.0
    recent.wrote("a", stamp(3), 3.0)
    assert recent.expires_at("a") == recent.expires_at("b") == inf


def test_more_changes_of_others_than_are_remembered_or_a_flush_are_everything() -> None:
    recent = Recent(3)
    recent.changed([f"key:{n}" for n in range(5)], 1.0)
    assert recent.all_since(0.0, stamp) == [Op(Kind.SWEEP, "*", stamp(1))]
    recent.flushed(7.0)
    assert recent.all_since(6.0, stamp) == [Op(Kind.SWEEP, "*", stamp(7))]
    assert recent.all_since(7.5, stamp) == []


def test_what_is_old_is_forgotten() -> None:
    recent = Recent(100)
    recent.wrote("a", stamp(1), 1.0)
    recent.swept("b*", stamp(1), 1.0)
    recent.changed(["c"], 1.0)
    recent.wrote("d", stamp(9), 9.0)
    recent.forget_before(5.0)
    assert keys(recent.all_since(0.0, stamp)) == {"d"}


def test_what_was_undone_of_late() -> None:
    recent = Recent(2)
    recent.laid(["a", "b"], 1.0)
    recent.laid(["a"], 3.0)
    assert recent.laid_since(2.0) == ["a"]
    recent.laid(["c"], 4.0)
    assert recent.laid_since(0.0) == ["a", "c"]
    recent.forget_before(3.5)
    assert recent.laid_since(0.0) == ["c"]


def test_overtaken_is_what_somebody_else_changed_after_this_instance() -> None:
    recent = Recent(100)
    recent.changed(["before"], 1.0)
    for key in ("before", "after", "never"):
        recent.wrote(key, stamp(5), 5.0)
    recent.changed(["after", "not of this instance"], 6.0)
    assert recent.overtaken_since(0.0, told_since=0.0) == [Op(Kind.INVALIDATE, "after", stamp(5))]
    assert recent.overtaken_since(5.5, told_since=0.0) == []


def test_what_was_changed_while_nobody_told_of_changes_may_be_overtaken() -> None:
    recent = Recent(100)
    recent.wrote("untold", stamp(2), 2.0)
    recent.wrote("told", stamp(5), 5.0)
    recent.swept("a:*", stamp(2), 2.0)
    assert keys(recent.overtaken_since(0.0, told_since=4.0)) == {"untold", "a:*"}
    assert keys(recent.overtaken_since(0.0, told_since=inf)) == {"untold", "told", "a:*"}
    recent.flushed(6.0)
    assert keys(recent.overtaken_since(0.0, told_since=4.0)) == {"untold", "told", "a:*"}


def test_of_a_pattern_that_was_deleted_the_keys_that_came_back_are_overtaken() -> None:
    recent = Recent(100)
    recent.swept("a:*", stamp(5), 5.0)
    recent.changed(["a:1", "b:1"], 6.0)
    assert recent.overtaken_since(0.0, told_since=0.0) == [Op(Kind.INVALIDATE, "a:1", stamp(5))]


def test_of_more_changes_than_are_remembered_whatever_others_changed_is_overtaken() -> None:
    recent = Recent(3)
    for n in range(5):
        recent.wrote(f"key:{n}", stamp(n), float(n))
    recent.changed(["key:0"], 3.0)
    assert keys(recent.overtaken_since(0.0, told_since=0.0)) == {"key:0"}
    assert keys(recent.overtaken_since(0.0, told_since=inf)) == {"*"}


def test_what_was_deleted_since_redis_may_have_forgotten_it_is_not_overtaken() -> None:
    recent = Recent(100)
    recent.wrote("forgotten", of_nobody(stamp(5)), 5.0, fenced=True)
    recent.changed(["forgotten"], 6.0)
    assert recent.overtaken_since(0.0, told_since=inf) == []


def test_what_was_brought_once_more_expires_as_before() -> None:
    recent = Recent(100)
    recent.wrote("a", stamp(1), 1.0, fenced=True, expires_at=9.0)
    recent.wrote("a", stamp(1), 2.0, fenced=True)
    assert recent.expires_at("a") == 9.0
    assert keys(recent.own_since(2.0)) == {"a"}
    recent.wrote("a", stamp(2), 3.0, fenced=True)
    assert recent.expires_at("a") == inf
