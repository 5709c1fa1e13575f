"""A few schedules of trouble for real.  ``python -m tests.history SEED`` runs one again.

``MESHCACHE_TEST_FULL=1``
    More of them, and longer ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from meshcache.testing.history.records import Call, History
from meshcache.testing.server import RedisServer
from tests.history.nursery import Nursery
from tests.history.run import run_schedule
from tests.history.schedule import REDIS_FAULTS, Fault, Schedule, make_schedule

FULL = os.environ.get("MESHCACHE_TEST_FULL") == "1"


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


@pytest.mark.parametrize("seed", range(40 if FULL else 4))
def test_schedule(seed: int, nursery: Nursery, tmp_path: Path) -> None:
    outcome = run_schedule(make_schedule(seed, 10.0 if FULL else 1.0), nursery, tmp_path)
    assert outcome.acknowledged > 0
    assert outcome.reads > 0
    assert outcome.violations == [], "\n\n".join(map(str, [outcome.schedule, *outcome.violations]))


def test_a_lie_is_found(nursery: Nursery, tmp_path: Path) -> None:
    """A value that was deleted is in Redis again."""
    told: list[Call] = []

    def meddle(server: RedisServer, calls: Sequence[Call]) -> None:
        extended = {call.key for call in calls if call.what == "expire"}
        deleted = {call.key: call.began for call in calls if call.what == "delete"}
        told.append(
            next(
                call
                for call in calls
                if call.what == "set" and call.is_certain_write and call.key not in extended
                if deleted.get(call.key, 0.0) > call.ended + 0.1
            )
        )
        server.client().set(f"history:{told[0].key}", json.dumps(told[0].value))

    outcome = run_schedule(schedule(1.5), nursery, tmp_path, meddle)
    (lie,) = outcome.violations
    write = told[0]
    assert (lie.kind, lie.key) == ("lie", write.key)
    assert f"after healing A and B and C and Redis read {write.value!r}" in lie.why
    assert f"set {write.key} = {write.value!r}" in lie.story
    assert "* Redis was told by" in lie.story


@pytest.mark.parametrize("kinds", [("silent", "half-open", "slow"), ("kill",), ("stop",)])
def test_redis_is_lost(kinds: Sequence[str], nursery: Nursery, tmp_path: Path) -> None:
    faults = [
        Fault(kind, 0.2, 1.4, None if kind in REDIS_FAULTS else place, delay=0.5) for place, kind in enumerate(kinds)
    ]
    history = run_schedule(schedule(1.5, *faults), nursery, tmp_path).history
    for place, name in enumerate("ABC"):
        kind, target = (kinds[place], name) if len(kinds) > 1 else (kinds[0], "Redis")
        _, end = moments(history, kind, target)
        # "begins" is noted when the fault is there; an instance may have noticed a killed Redis before
        assert any(history.began + 0.2 < at < end + 0.5 for at in told(history, f"{name}: redis -> memory")), name


def test_instances_are_stopped_and_killed(nursery: Nursery, tmp_path: Path) -> None:
    faults = [Fault("crash", 0.3, 0.5, 0), Fault("pause", 0.3, 0.9, 1)]
    history = run_schedule(schedule(1.5, *faults), nursery, tmp_path).history
    calls = {name: [call for call in history.calls if call.instance == name] for name in ("A", "A2", "B", "C")}
    assert all(calls.values())
    (killed,) = told(history, "crash A begins")
    assert max(call.began for call in calls["A"]) < killed < min(call.began for call in calls["A2"])
    begin, end = moments(history, "pause", "B")
    assert not [call for call in calls["B"] if begin < call.began < end]
    assert [call for call in calls["C"] if begin < call.began < end]
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
    return Schedule(0, seconds, 3, "off", 60.0, "asyncio", 0.0, ordered)


def told(history: History, text: str) -> list[float]:
    """When something happened."""
    return [incident.at for incident in history.incidents if incident.text.startswith(text)]


def moments(history: History, kind: str, target: str) -> tuple[float, float]:
    """When the fault had begun, and when it was about to end."""
    (begin,), (end,) = told(history, f"{kind} {target} begins"), told(history, f"{kind} {target} ends")
    return begin, end


def heard(history: History, start: float, end: float) -> list[tuple[Call, Call]]:
    """Reads between these seconds that gave what was written between them, and that write."""
    writes = {call.value: call for call in history.calls if call.what == "set" and call.began - history.began > start}
    return [
        (call, writes[call.answer])
        for call in history.calls
        if call.what == "get" and call.answer in writes and call.ended - history.began < end
    ]
