"""Schedules of outages in simulated time.  ``python -m meshcache.testing.outage_simulator SEED`` runs one again."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import anyio
import pytest

from meshcache.loading import Loading
from meshcache.loads import Loads
from meshcache.memory import MemoryTier
from meshcache.near import Near
from meshcache.redis.link import Identity
from meshcache.runtime import recovery
from meshcache.runtime.membership import Membership
from meshcache.runtime.recovery import Recovery
from meshcache.runtime.runtime import Runtime
from meshcache.stamp import Stamp
from meshcache.testing.outage_simulator import OutageSimulation, Outcome, check_schedule, run_schedule
from meshcache.testing.outages import Schedule, make_schedule

FULL = os.environ.get("MESHCACHE_TEST_FULL") == "1"
SCHEDULES = 1000 if FULL else 40


def of_old(*seeds: int) -> list[Schedule]:
    """The schedules of these seeds as they were before calls could load, and callers give up."""
    return [replace(make_schedule(seed), loads=0.0, impatience=0.0) for seed in seeds]


@pytest.mark.parametrize("seed", range(SCHEDULES))
def test_schedule(seed: int) -> None:
    run_schedule(seed)


@pytest.mark.parametrize(
    "seed",
    [
        1179,  # what may be a ghost was written again before the patterns were known that others had deleted meanwhile
        3349,  # of a key that Redis forgot, an older stamp was remembered, of a peer's write that Redis had refused
        10250,  # connections that were given up were no longer known once ending them had failed the first time
        10523,  # copies were kept although nobody had listened to what Redis changed for a while
        2_000_970,  # a write was taken for one that Redis has: that its writer had lost Redis was not heard yet, and never
        2_001_142,  # what was written while nobody could hear it was not told to peers that were met afterwards
        2_002_941,  # a peer was held to write nothing plainly any more, by an older heartbeat than what it had registered since
        2_009_794,  # what Redis had forgotten was read there before those who were idle had seen that it was started anew
        2_011_041,  # as 2_002_941
        4_010_862,  # a copy was told with the stamp of a write that was under way, so that an old value was the newest
        4_000_191,  # a timer that fired at the very moment of its deadline found that it was early, and set itself again
        3_001_436,  # Redis forgot that the trace of a write that was given up had been undone
        4_010_928,  # of a journal that had overflowed nothing was known any more once Redis had deleted all before
        5_000_076,  # who brought writes to Redis had not said so there, and somebody wrote plainly in the meantime
        5_001_606,  # as 5_000_076
        6_007_656,  # a value of which a copy was read again lived on for as long as copies do, in the next outage
        3_011_255,  # what a process had sent arrived after its end, and after a newer delete of the others
        3_012_280,  # as 3_011_255
        6_019_504,  # as 3_011_255, and the newer delete was of an instance that was opened afterwards
        7_017_754,  # as 3_011_255, a moment after its end
        8_009_065,  # as 3_011_255
        8_010_201,  # as 3_011_255, of one that was closed
        10_016_349,  # of a value that was brought once more, as a delete, it was forgotten when it expires
        10_014_228,  # a counter was taken for what a plain write of one that is gone had replaced
        2_014_228,  # a write that was given up during a replay was made good before its connection was ended
    ],
)
def test_a_schedule_that_failed_once(seed: int) -> None:
    (schedule,) = of_old(seed)
    check_schedule(schedule)


@pytest.mark.parametrize(
    "seed",
    [
        13_102_729,  # a write of many keys waited for ever for loads of which two had stored their values at the same time
        13_103_475,  # as 13_102_729
    ],
)
def test_a_schedule_with_loads_that_failed_once(seed: int) -> None:
    check_schedule(replace(make_schedule(seed), impatience=0.0))  # nobody gave up then


def test_a_call_that_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forever(*_: object) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(Loading, "stored", forever)
    with pytest.raises(AssertionError, match="a call hangs for more than 30 s"):
        run_schedule(3)


async def nothing(*_: object) -> dict[str, Stamp]:
    return {}


def of_any_server(self: Identity, *replies: Any, check: Any = Identity.check) -> object:
    self.expected = None
    return check(self, *replies)


BROKEN = [
    pytest.param(
        Membership, "may_set", lambda _, ops: ops, of_old(53, 146, 165, 240), id="brings any old value to Redis"
    ),
    pytest.param(Runtime, "in_doubt", lambda *_: None, of_old(337, 383), id="forgets what may still arrive"),
    pytest.param(Identity, "check", of_any_server, of_old(354, 1168), id="does not see that Redis was started anew"),
    pytest.param(recovery, "read_sweeps", nothing, of_old(53, 72), id="does not ask what others deleted by pattern"),
    pytest.param(
        MemoryTier, "forget_in_redis", lambda *_: None, of_old(1, 10, 48), id="does not know what Redis forgot"
    ),
    pytest.param(
        Recovery, "missed", lambda *_: None, of_old(3_011_255, 7_017_754), id="does not miss those who are gone"
    ),
    pytest.param(Near, "invalidate", lambda *_: None, of_old(6, 7, 11, 18), id="does not hear what others change"),
    pytest.param(Loads, "store", lambda *_: True, [make_schedule(3)], id="stores what it loaded before its own delete"),
]
"""What a cache may do wrong, and schedules some of which show it.  If none does after a change, look for others."""


@pytest.mark.parametrize(("where", "name", "broken", "schedules"), BROKEN)
def test_a_cache_that_is_broken_is_found_out(
    monkeypatch: pytest.MonkeyPatch, where: object, name: str, broken: object, schedules: list[Schedule]
) -> None:
    monkeypatch.setattr(where, name, broken)
    kinds = [{one.kind for one in OutageSimulation(schedule).run().violations} for schedule in schedules]
    assert any("lie" in some for some in kinds), kinds


def test_a_failure_tells_its_seed_the_faults_and_the_story(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryTier, "forget_in_redis", lambda *_: None)
    with pytest.raises(AssertionError, match="seed 1: ") as caught:
        run_schedule(1)
    told = str(caught.value)
    assert all(str(fault) in told for fault in make_schedule(1).faults)
    assert "lie: " in told
    assert "Redis runs for" in told


def facts(outcome: Outcome) -> object:
    return outcome.history.calls, outcome.history.reads


def test_the_same_seed_gives_the_same_run_whatever_is_recorded() -> None:
    first, second = (OutageSimulation(make_schedule(5), is_telling=telling).run() for telling in (False, True))
    assert facts(first) == facts(second)
    assert len(first.history.calls) > 50
    assert len(second.history.incidents) > len(first.history.incidents)


def test_the_same_seed_gives_the_same_run_in_every_interpreter() -> None:
    """Sets of texts have another order in each."""
    code = (
        "from meshcache.testing.outage_simulator import *; from meshcache.testing.outages import make_schedule\n"
        "h = OutageSimulation(make_schedule(14)).run().history; print(h.calls, h.reads)"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(told) == 1


def test_there_is_trouble_and_yet_something_is_read() -> None:
    outcomes = [OutageSimulation(make_schedule(seed)).run() for seed in range(20)]
    assert sum(outcome.hits for outcome in outcomes) > 500
    in_memory = sum(call.in_memory for outcome in outcomes for call in outcome.history.calls)
    assert 0.1 < in_memory / sum(len(outcome.history.calls) for outcome in outcomes) < 0.9
