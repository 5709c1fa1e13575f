"""Schedules of outages in simulated time.  ``python -m meshcache.testing.outage_simulator SEED`` runs one again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from meshcache.testing.outage_simulator import OutageSimulation, Outcome, run_schedule
from meshcache.testing.outages import make_schedule

FULL = os.environ.get("MESHCACHE_TEST_FULL") == "1"
SCHEDULES = 500 if FULL else 40


@pytest.mark.parametrize("seed", range(SCHEDULES))
def test_schedule(seed: int) -> None:
    run_schedule(seed)


@pytest.mark.parametrize(
    "seed",
    [],  # those that failed once
)
def test_a_schedule_that_failed_once(seed: int) -> None:
    run_schedule(seed)


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
