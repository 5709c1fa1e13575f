"""The schedules: made again from their seed, full of trouble, and never of a kind that nobody could stand."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.history.keys import all_keys, some_key
from tests.history.schedule import CUTS, FAULTS, REDIS_FAULTS, Fault, Schedule, make_schedule

SCHEDULES = [make_schedule(seed, seconds) for seed in range(200) for seconds in (0.6, 10.0, 60.0)]


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert make_schedule(7, 10.0) == make_schedule(7, 10.0)
    assert make_schedule(7, 10.0) != make_schedule(8, 10.0)


def test_there_is_everything() -> None:
    kinds = Counter(fault.kind for schedule in SCHEDULES for fault in schedule.faults)
    assert set(kinds) == set(FAULTS)
    assert {schedule.instances for schedule in SCHEDULES} == {3, 4, 5}
    assert {schedule.backend for schedule in SCHEDULES} == {"asyncio", "trio"}
    assert {schedule.near_cache for schedule in SCHEDULES} == {"off", "standby", "serve"}
    assert {schedule.amnesia_window for schedule in SCHEDULES} == {60.0, 4.0}


@pytest.mark.parametrize("kinds", [set(), {"kill"}, {"crash", "drop"}, set(CUTS)])
def test_only_what_was_asked_for(kinds: set[str]) -> None:
    schedules = [make_schedule(seed, 10.0, kinds, instances=4) for seed in range(50)]
    assert {fault.kind for schedule in schedules for fault in schedule.faults} == kinds
    assert {schedule.instances for schedule in schedules} == {4}


def test_all_ends_in_time() -> None:
    for schedule in SCHEDULES:
        for fault in schedule.faults:
            assert 0 <= fault.at < schedule.seconds
            assert fault.until is None or fault.at < fault.until <= schedule.seconds


def test_faults_of_one_thing_do_not_overlap() -> None:
    for schedule in SCHEDULES:
        last: dict[object, float | None] = {}
        for fault in schedule.faults:
            group = _group(fault)
            before = last.get(group, 0.0)
            assert before is not None, schedule
            assert before < fault.at, schedule
            last[group] = fault.until


def _group(fault: Fault) -> object:
    kind = "redis" if fault.kind in REDIS_FAULTS else "cut" if fault.kind in CUTS else fault.kind
    return kind, fault.target


def test_only_one_instance_is_ever_killed() -> None:
    victims = [{fault.target for fault in schedule.faults if fault.kind == "crash"} for schedule in SCHEDULES]
    assert max(map(len, victims)) == 1


def test_no_snapshot_is_older_than_what_instances_remember() -> None:
    for schedule in SCHEDULES:
        for fault in schedule.faults:
            if fault.kind == "snapshot":
                assert 0 <= fault.at - fault.saved_at <= 0.75 * schedule.amnesia_window


def test_datagrams_are_lost_between_others() -> None:
    for fault in (fault for schedule in SCHEDULES for fault in schedule.faults if fault.kind == "drop"):
        assert 0 < fault.loss <= 1
        assert fault.peers
        assert fault.target not in fault.peers


def test_can_be_read() -> None:
    schedule = Schedule(
        1,
        10.0,
        3,
        "off",
        60.0,
        "trio",
        0.5,
        (
            Fault("snapshot", 1.0, 2.0, saved_at=0.5),
            Fault("crash", 3.0, None, 1),
            Fault("drop", 4.0, 5.0, 0, loss=0.3, peers=(1, 2)),
            Fault("slow", 6.0, 7.0, 2, delay=0.1),
        ),
    )
    assert str(schedule).splitlines() == [
        "seed 1: 10 s, 3 instances on trio, near_cache='off', amnesia_window=60, calls go on for 0.500 s after healing",
        "  1.000 to 2.000: snapshot Redis (back as it was at 0.500)",
        "  3.000 for good: crash B",
        "  4.000 to 5.000: drop A (loses 30% of the datagrams to and from B, C)",
        "  6.000 to 7.000: slow C (by 0.100 s)",
    ]


def test_every_key_in_use_is_read_at_the_end() -> None:
    from random import Random

    random = Random(1)
    known = set(all_keys(10.0))
    used = {some_key(random, random.uniform(0, 10.0)) for _ in range(20_000)} | {
        some_key(random, 10.0) for _ in range(500)
    }
    assert used <= known
    assert len(used) > 0.9 * len(known)
