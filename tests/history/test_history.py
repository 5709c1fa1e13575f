"""A few schedules of trouble for real.  ``python -m tests.history SEED`` runs one again.

``MESHCACHE_TEST_FULL=1``
    More of them, and longer ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.history.checker import Call, History
from tests.history.nursery import Nursery
from tests.history.run import run_schedule
from tests.history.schedule import Fault, Schedule, make_schedule

FULL = os.environ.get("MESHCACHE_TEST_FULL") == "1"


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


@pytest.mark.parametrize("seed", range(40 if FULL else 4))
def test_schedule(seed: int, nursery: Nursery, tmp_path: Path) -> None:
    outcome = run_schedule(make_schedule(seed, 10.0 if FULL else 1.0), nursery, tmp_path)
    assert outcome.acknowledged > 0
    assert outcome.hits > 0
    assert outcome.violations == [], "\n\n".join(map(str, [outcome.schedule, *outcome.violations]))


def test_lies_are_found(nursery: Nursery, tmp_path: Path) -> None:
    """With a cache that leaves in Redis what an outage changed."""
    outage = [Fault("refuse", 0.5, 1.4, place) for place in range(3)]
    outcome = run_schedule(schedule(1.5, *outage), nursery, tmp_path, on_recovery="discard")
    lies = [violation for violation in outcome.violations if violation.kind == "lie"]
    assert lies
    assert all("refuse A begins" in lie.story for lie in lies)


def test_faults_do_what_they_say(nursery: Nursery, tmp_path: Path) -> None:
    cuts = [Fault(kind, 0.2, 1.0, place, delay=0.5) for place, kind in enumerate(["silent", "half-open", "slow"])]
    others = [
        Fault("kill", 1.6, 1.7),
        Fault("stop", 2.3, 3.0),
        Fault("crash", 2.0, 2.1, 0),
        Fault("pause", 0.9, 1.5, 1),
    ]
    history = run_schedule(schedule(3.1, *cuts, *others), nursery, tmp_path).history
    for name in "ABC":
        assert left_redis(history, name, 0.2, 1.2), name
        assert left_redis(history, name, 1.6, 1.8), name
        assert left_redis(history, name + "2" * (name == "A"), 2.3, 3.2), name
    paused = [call for call in history.calls if call.instance == "B" and 0.91 < call.began - history.began < 1.49]
    assert paused == []
    assert {call.instance for call in history.calls} == {"A", "A2", "B", "C"}
    killed_at = history.began + 2.0
    assert max(call.began for call in history.calls if call.instance == "A") < killed_at + 0.1
    assert not history.is_exact


def test_datagrams_are_dropped(nursery: Nursery, tmp_path: Path) -> None:
    """In an outage of all, nobody hears of one whose datagrams are dropped, and the others hear of each other."""
    outage = [Fault("refuse", 0.3, 1.5, place) for place in range(3)]
    deaf = Fault("drop", 0.2, 1.5, 0, loss=1.0, peers=(1, 2))
    history = run_schedule(schedule(1.5, *outage, deaf), nursery, tmp_path).history
    pairs = {(call.instance, write.instance) for call, write in heard(history, 0.4, 1.45)}
    assert {("B", "C"), ("C", "B")} <= pairs
    assert not {("A", "B"), ("A", "C"), ("B", "A"), ("C", "A")} & pairs


def schedule(seconds: float, *faults: Fault) -> Schedule:
    ordered = tuple(sorted(faults, key=lambda fault: fault.at))
    return Schedule(0, seconds, 3, "off", "asyncio", 0.0, ordered)


def left_redis(history: History, name: str, start: float, end: float) -> bool:
    """Whether an instance said so between these seconds."""
    return any(
        incident.text.startswith(f"{name}: redis -> memory") and start < incident.at - history.began < end
        for incident in history.incidents
    )


def heard(history: History, start: float, end: float) -> list[tuple[Call, Call]]:
    """Reads between these seconds that gave what was written between them, and that write."""
    writes = {call.value: call for call in history.calls if call.what == "set" and call.began - history.began > start}
    return [
        (call, writes[call.answer])
        for call in history.calls
        if call.what == "get" and call.answer in writes and call.ended - history.began < end
    ]
