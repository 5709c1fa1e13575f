from __future__ import annotations

import pytest

from meshcache.doctor import Verdict
from meshcache.doctor.finding import Finding, fail, in_words, ok, skipped, together, warn
from meshcache.doctor.server import _judge_latency, in_seconds


def test_four_verdicts() -> None:
    assert ok("x").verdict is Verdict.OK
    assert warn("x", "do").verdict is Verdict.WARN
    assert fail("x", "do").verdict is Verdict.FAIL
    assert skipped("x").verdict is Verdict.SKIPPED


@pytest.mark.parametrize(
    ("items", "words"),
    [([], ""), (["a"], "a"), (["a", "b", "a"], "a, b"), (list("abcdefghij"), "a, b, c, d, e, f, g, h and 2 more")],
)
def test_some_of_many(items: list[str], words: str) -> None:
    assert in_words(items) == words


@pytest.mark.parametrize(
    ("median_ms", "slowest_ms", "op_timeout", "verdict", "advice"),
    [
        (1, 2, 0.25, Verdict.OK, ""),
        (1, 200, 0.25, Verdict.WARN, "op_timeout=2, "),
        (1, 12, 0.02, Verdict.WARN, "op_timeout=0.12, "),
        (30, 40, 0.02, Verdict.FAIL, "op_timeout=0.4 or more"),
    ],
)
def test_calls_against_the_time_that_they_may_take(
    median_ms: float, slowest_ms: float, op_timeout: float, verdict: Verdict, advice: str
) -> None:
    finding = _judge_latency([median_ms / 1000] * 49 + [slowest_ms / 1000], op_timeout)
    assert finding.verdict is verdict
    assert finding.advice.startswith(advice)


def test_a_difference_of_clocks() -> None:
    assert in_seconds(2.5) == "2.500 s ahead of"
    assert in_seconds(-0.25) == "0.250 s behind"


def test_of_several_servers_the_worst_is_told() -> None:
    full, slow = warn("it is full", "add memory"), warn("it is slow", "add memory")
    assert together([("a:1", ok("well")), ("b:1", full), ("c:1", slow), ("d:1", full)]) == Finding(
        Verdict.WARN, "b:1, d:1: it is full; c:1: it is slow", "add memory"
    )
    assert together([("a:1", ok("well")), ("b:1", ok("well"))]) == ok("a:1, b:1: well")
    assert together([("", full)]) is full
    assert together([("a:1", full), ("b:1", fail("it is gone", "start it"))]).verdict is Verdict.FAIL
