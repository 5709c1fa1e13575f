"""The judgement itself: lies made by hand are caught, and what only looks like one is not held against anybody."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

import pytest

from meshcache.testing.history.checker import heard_until, judge, kept, stale_reads
from meshcache.testing.history.records import REDIS, Call, History, Incident, Read


def call(
    instance: str, what: str, began: float, ended: float, value: Any = None, *, key: str = "k", **more: Any
) -> Call:
    """A call that was answered as one expects, if nothing else is said."""
    answer = {"set": True, "delete": 1, "delete_match": 1, "expire": True, "incr": 0, "get": value, "load": None}[what]
    written = None if what == "get" else value
    return Call(instance, what, key, written, began, ended, **{"answer": answer, **more})


def wrong(calls: Sequence[Call], *final: Any, where: str = "B", **more: Any) -> list[str]:
    """The kinds of violations of these calls and these values read after healing."""
    reads = [Read(where, "k", value) for value in final]
    return [violation.kind for violation in judge(History(calls, reads, **more))]


OLD = call("A", "set", 1.0, 1.1, "old")
LOADED = call("A", "load", 1.0, 1.5, "loaded")


class TestLies:
    @pytest.mark.parametrize(
        "newer",
        [
            call("B", "set", 2.0, 2.1, "new"),
            call("B", "delete", 2.0, 2.1),
            call("B", "delete", 2.0, 2.1, answer=0),
            call("B", "delete_match", 2.0, 2.1, key="k*"),
            call("A", "set", 1.2, 1.3, "of the same instance"),
            call("B", "set", 2.0, 2.1, "new", in_memory=True),
        ],
        ids=lambda newer: newer.what,
    )
    @pytest.mark.parametrize("where", ["A", "B", REDIS])
    def test_a_value_from_before_an_acknowledged_write(self, newer: Call, where: str) -> None:
        assert wrong([OLD, newer], "old", where=where) == ["lie"]

    def test_said_once_for_all_who_read_it(self) -> None:
        reads = [Read(where, "k", "old") for where in ("A", "B", REDIS, "A")]
        (violation,) = judge(History([OLD, call("B", "delete", 2.0, 2.1)], reads))
        assert "A and B and Redis read 'old'" in violation.why

    def test_only_one_of_many_reads(self) -> None:
        assert wrong([OLD, call("B", "set", 2.0, 2.1, "new")], "new", None, "old") == ["lie"]

    def test_clocks_that_disagree_leave_open_which_of_two_writes_is_newer(self) -> None:
        newer = call("B", "set", 2.0, 2.1, "new")
        assert wrong([OLD, newer], "old", slack=0.95) == []
        assert wrong([OLD, newer], "old", slack=0.85) == ["lie"]

    def test_what_redis_forgot_of_an_instance_that_is_gone_need_not_be_known(self) -> None:
        newer = call("B", "set", 2.0, 2.1, "new")
        assert wrong([OLD, newer], "old", forgotten={"B": [(1.5, 9.0)]}) == []
        assert wrong([OLD, newer], "old", forgotten={"B": [(2.2, 9.0)]}) == ["lie"]
        assert wrong([OLD, newer], "old", forgotten={"A": [(1.5, 9.0)]}) == ["lie"]

    @pytest.mark.parametrize(
        ("at", "more", "kinds"),
        [
            (30.0, [], ["outlived"]),
            (7.0, [], []),  # perhaps it was on its way to somebody who stood still
            (30.0, [call("B", "expire", 2.0, 2.1)], []),
        ],
    )
    def test_a_value_whose_time_to_live_has_ended(self, at: float, more: list[Call], kinds: list[str]) -> None:
        calls = [call("A", "set", 1.0, 1.1, "brief", ttl=1.0), *more]
        reads = [Read("B", "k", "brief", at), Read("A", "k", None, 40.0)]
        assert [violation.kind for violation in judge(History(calls, reads))] == kinds

    def test_many_writes_between(self) -> None:
        writes = [call("A", "set", n, n + 0.5, f"v{n}") for n in range(10)]
        assert [wrong(writes, f"v{n}") for n in range(10)] == [["lie"]] * 9 + [[]]

    def test_a_write_within_another_that_overlaps(self) -> None:
        around = call("B", "set", 1.05, 9.0, "slow")
        assert wrong([OLD, around, call("C", "delete", 2.0, 2.1)], "old") == ["lie"]

    def test_the_time_to_live_of_the_newer_one_may_be_over(self) -> None:
        assert wrong([OLD, call("B", "set", 2.0, 2.1, "new", note=" ttl=0.1")], "old") == ["lie"]


class TestTruth:
    @pytest.mark.parametrize("final", ["new", None])
    def test_the_newest_value_or_a_miss(self, final: str | None) -> None:
        assert wrong([OLD, call("B", "set", 2.0, 2.1, "new")], final) == []

    def test_a_value_newer_than_a_delete(self) -> None:
        assert wrong([call("B", "delete", 0.5, 0.6), OLD], "old") == []

    @pytest.mark.parametrize("final", ["old", "new"])
    def test_writes_that_overlap_may_be_in_either_order(self, final: str) -> None:
        assert wrong([OLD, call("B", "set", 1.05, 1.2, "new")], final) == []

    def test_a_write_that_lasted_longer_than_another_may_be_the_later_one(self) -> None:
        slow = call("A", "set", 1.0, 9.0, "slow")
        assert wrong([slow, call("B", "set", 2.0, 2.1, "new"), call("B", "delete", 3.0, 3.1)], "slow") == []

    def test_overlapping_writes_before_a_third(self) -> None:
        assert wrong([OLD, call("B", "set", 1.05, 1.2, "b"), call("C", "delete", 1.3, 1.4)], "b") == ["lie"]

    def test_stamps_count_milliseconds(self) -> None:
        assert wrong([OLD, call("B", "set", 1.101, 1.2, "new")], "old") == []
        assert wrong([OLD, call("B", "set", 1.103, 1.2, "new")], "old") == ["lie"]

    def test_other_keys_and_patterns_do_not_matter(self) -> None:
        others = [call("B", "set", 2.0, 2.1, "new", key="other"), call("B", "delete_match", 2.0, 2.1, key="o*")]
        assert wrong([OLD, *others], "old") == []

    def test_reads_and_writes_that_were_refused_do_not_matter(self) -> None:
        assert wrong([OLD, call("B", "get", 2.0, 2.1, None)], "old") == []
        assert wrong([OLD, call("B", "set", 2.0, 2.1, "new", answer=False, note=" nx")], "old") == []


class TestLoads:
    def test_what_was_loaded_may_be_there_or_not(self) -> None:
        assert wrong([OLD, LOADED], "loaded") == []
        assert wrong([call("B", "set", 0.1, 0.2, "before"), LOADED], "before") == []

    def test_a_write_or_delete_after_it_is_newer(self) -> None:
        assert wrong([LOADED, call("B", "set", 2.0, 2.1, "new")], "loaded") == ["lie"]
        assert wrong([LOADED, call("B", "delete", 2.0, 2.1)], "loaded") == ["lie"]

    def test_one_of_another_instance_meanwhile_may_come_before_it(self) -> None:
        assert wrong([LOADED, call("B", "delete", 1.2, 1.3)], "loaded") == []

    def test_one_of_its_own_instance_meanwhile_is_newer(self) -> None:
        assert wrong([LOADED, call("A", "delete", 1.2, 1.3)], "loaded") == ["lie"]
        assert wrong([LOADED, call("A", "delete", 0.9, 1.3)], "loaded") == []

    def test_one_that_has_no_end_may_be_stored_at_any_time(self) -> None:
        assert wrong([call("A", "load", 1.0, inf, "loaded"), call("A", "delete", 2.0, 2.1)], "loaded") == []

    def test_it_does_not_outlive_its_time(self) -> None:
        calls = [call("A", "load", 1.0, 1.1, "brief", ttl=1.0)]
        assert [violation.kind for violation in judge(History(calls, [Read("B", "k", "brief", 30.0)]))] == ["outlived"]


class TestWhatIsNotCertain:
    def test_a_write_without_an_answer_may_not_have_happened(self) -> None:
        unanswered = call("B", "set", 2.0, inf, "new", answer=None)
        assert wrong([OLD, unanswered], "old") == []
        assert wrong([OLD, unanswered], "new") == []
        assert wrong([OLD, call("B", "delete", 2.0, inf, answer=None)], "old") == []

    def test_or_happen_late(self) -> None:
        unanswered = call("B", "set", 0.5, inf, "late", answer=None)
        assert wrong([OLD, unanswered, call("A", "delete", 2.0, 2.1)], "late") == []

    def test_a_refused_nx_may_have_written_all_the_same(self) -> None:
        """The reply was lost, and the second try found what the first had written."""
        refused = call("B", "set", 0.5, 0.6, "mine", answer=False, note=" nx")
        assert wrong([refused, call("A", "delete", 2.0, 2.1)], "mine") == []

    def test_a_new_time_to_live_may_write_the_value_once_more(self) -> None:
        newer = call("B", "delete", 2.0, 2.1)
        assert wrong([OLD, newer, call("C", "expire", 3.0, 3.1, answer=True)], "old") == []
        assert wrong([OLD, newer, call("C", "expire", 3.0, inf, answer=None)], "old") == []
        assert wrong([OLD, newer, call("C", "expire", 3.0, 3.1, answer=False)], "old") == ["lie"]
        assert wrong([OLD, newer, call("C", "expire", 1.5, 1.6, answer=True)], "old") == ["lie"]

    def test_what_memory_acknowledged_may_die_with_it(self) -> None:
        newer = call("B", "delete", 2.0, 2.1, in_memory=True)
        assert wrong([OLD, newer], "old", heard_until={"B": 2.0}) == []
        assert wrong([OLD, newer], "old", heard_until={"B": 2.2}) == ["lie"]
        assert wrong([OLD, newer], "old", heard_until={"A": 2.0}) == ["lie"]

    def test_what_redis_acknowledged_may_not(self) -> None:
        assert wrong([OLD, call("B", "delete", 2.0, 2.1)], "old", heard_until={"B": 2.0}) == ["lie"]

    def test_nor_may_what_an_error_answered_be_relied_on(self) -> None:
        failed = call("B", "delete", 2.0, 2.1, error="RuntimeError: no")
        assert wrong([OLD, failed], "old") == ["raised"]


class TestHeardUntil:
    def test_all_was_well(self) -> None:
        assert heard_until(0.0, 10.0, [], [[]], 1.0) == 9.0

    def test_it_was_paused_at_the_end(self) -> None:
        assert heard_until(0.0, 10.0, [(8.0, inf)], [[]], 1.0) == 7.0

    def test_nobody_could_hear_it(self) -> None:
        assert heard_until(0.0, 10.0, [], [[(0.0, 20.0)], [(0.5, inf)]], 1.0) == -inf

    def test_one_of_two_could(self) -> None:
        assert heard_until(0.0, 10.0, [], [[(5.0, inf)], [(0.0, 4.0), (9.0, inf)]], 1.0) == 8.0

    def test_the_time_that_is_left_must_be_long_enough(self) -> None:
        assert heard_until(0.0, 10.0, [(3.0, 9.5)], [[]], 1.0) == 2.0
        assert heard_until(9.5, 10.0, [], [[]], 1.0) == -inf

    def test_troubles_that_overlap(self) -> None:
        assert heard_until(0.0, 10.0, [(2.0, 9.0)], [[(3.0, 4.0)]], 1.0) == 9.0
        assert heard_until(0.0, 10.0, [(2.0, 9.0), (8.0, 9.9)], [[(3.0, 4.0)]], 1.0) == 1.0


class TestNeverWritten:
    def test_after_healing(self) -> None:
        assert wrong([OLD], "what?") == ["never written"]

    def test_nobody_ever_wrote_at_all(self) -> None:
        assert wrong([], "what?") == ["never written"]

    def test_written_to_another_key(self) -> None:
        assert wrong([call("A", "set", 1.0, 1.1, "v", key="other")], "v") == ["never written"]

    def test_in_the_run(self) -> None:
        assert wrong([OLD, call("B", "get", 2.0, 2.1, "what?")]) == ["never written"]

    def test_read_before_it_was_written(self) -> None:
        assert wrong([OLD, call("B", "get", 0.5, 0.6, "old")]) == ["too early"]
        assert wrong([OLD, call("B", "get", 0.5, 1.05, "old")]) == []


class TestRaised:
    def test_no_call_may_raise(self) -> None:
        (violation,) = judge(History([call("B", "get", 2.0, 2.1, error="Unavailable: no")], []))
        assert violation.kind == "raised"
        assert "get on B raised Unavailable: no" in violation.why


class TestCounters:
    CALLS = (call("A", "incr", 1.0, 1.1, 2), call("B", "incr", 2.0, 2.1, 3), call("B", "incr", 3.0, inf, 1))

    @pytest.mark.parametrize(
        ("final", "exact", "told"), [(5, True, []), (6, True, ["counter"]), (4, True, ["counter"])]
    )
    def test_exact(self, final: int, exact: bool, told: list[str]) -> None:
        assert wrong(self.CALLS, final, is_exact=exact) == told

    @pytest.mark.parametrize(("final", "told"), [(6, []), (2, []), (None, []), (7, ["counter"]), (-1, ["counter"])])
    def test_never_more_than_attempted(self, final: int | None, told: list[str]) -> None:
        assert wrong(self.CALLS, final, is_exact=False) == told

    def test_a_miss_is_not_exact(self) -> None:
        assert wrong(self.CALLS[:2], None, is_exact=True) == ["counter"]

    def test_something_else(self) -> None:
        assert wrong(self.CALLS, "text", is_exact=False) == ["counter"]


class TestStaleReads:
    def test_a_read_overtaken_by_a_write(self) -> None:
        calls = [
            OLD,
            call("B", "delete", 2.0, 2.1),
            call("C", "get", 3.0, 3.1, "old"),
            call("C", "get", 2.05, 3.1, "old"),
        ]
        assert stale_reads(History(calls, [])) == 1

    def test_none(self) -> None:
        calls = [
            OLD,
            call("C", "get", 1.5, 1.6, "old"),
            call("B", "delete", 2.0, 2.1),
            call("C", "get", 3.0, 3.1, None),
        ]
        assert stale_reads(History(calls, [])) == 0


class TestKept:
    @staticmethod
    def of(*calls: Call, value: str | None = "old") -> tuple[int, int]:
        return kept(History(calls, [Read(REDIS, "k", value), Read("A", "k", None)]))

    def test_the_newest_write_is_a_value(self) -> None:
        before = call("B", "delete", 0.5, 0.6)
        assert self.of(before, OLD, call("B", "get", 2.0, 2.1, "old")) == (1, 1)
        assert self.of(before, OLD, value=None) == (1, 0)

    @pytest.mark.parametrize(
        "other",
        [
            call("B", "delete", 1.05, 1.06),
            call("B", "delete", 2.0, 2.1),
            call("B", "set", 2.0, inf, "new", answer=None),
            call("B", "expire", 2.0, 2.1, answer=True),
            call("B", "delete_match", 2.0, 2.1, key="k*"),
        ],
    )
    def test_it_may_be_gone_for_another_reason(self, other: Call) -> None:
        assert self.of(OLD, other) == (0, 0)

    def test_its_time_is_over(self) -> None:
        assert self.of(call("A", "set", 1.0, 1.1, "old", ttl=2.0)) == (0, 0)
        assert self.of(call("A", "set", 1.0, 1.1, "old", ttl=150.0)) == (1, 1)


class TestStory:
    def test_has_the_calls_of_the_key_and_what_happened(self) -> None:
        calls = [OLD, call("B", "delete", 2.0, 2.1), call("C", "set", 1.5, inf, "other", key="other")]
        incidents = [Incident(1.8, "refuse A begins"), Incident(1.9, "of k", "k"), Incident(1.9, "of other", "other")]
        (violation,) = judge(History(calls, [Read(REDIS, "k", "old")], incidents, began=1.0))
        assert [" ".join(line.split()) for line in violation.story.splitlines()] == [
            "0.0000 A set k = 'old' -> True after 100.0 ms",
            "0.8000 * refuse A begins",
            "0.9000 * of k",
            "1.0000 B delete k -> 1 after 100.0 ms",
            "healed Redis read 'old'",
        ]
        assert "A had written by 0.1000, before B began to delete k at 1.0000" in violation.why

    def test_a_long_one_is_cut_to_what_matters(self) -> None:
        writes = [call("A", "set", n, n + 0.5, f"v{n}") for n in range(1000)]
        (violation,) = judge(History(writes, [Read("A", "k", "v997")]))
        assert len(violation.story.splitlines()) < 80
        assert "'v997'" in violation.story
        assert "'v999'" in violation.story
        (violation,) = judge(History(writes, [Read("A", "k", "v1")]))
        assert len(violation.story.splitlines()) < 120
        assert "lines more" in violation.story
