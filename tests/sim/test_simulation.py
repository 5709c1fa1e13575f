"""Schedules of trouble, after which everyone must agree.  ``python -m meshcache.testing.simulator SEED`` runs one again."""

from __future__ import annotations

import os

import pytest

from meshcache.testing.simulator import run_schedule

SCHEDULES = int(os.environ.get("MESHCACHE_SCHEDULES", "40"))
"""How many are run; CI runs 500 beside the tests."""


@pytest.mark.parametrize("seed", range(SCHEDULES))
def test_schedule(seed: int) -> None:
    run_schedule(seed)


@pytest.mark.parametrize("seed", range(10))
def test_at_30_percent_loss_everyone_agrees_within_seconds(seed: int) -> None:
    """All trouble ends at one moment: partitions, pauses and restarts are made good for together, with delays of up to 0.1 s."""
    report = run_schedule(seed, loss=0.3, seconds=10.0, small_store=False)
    assert report.agreed_after < 8.0, f"seed {seed}"


@pytest.mark.parametrize(
    ("seed", "seconds"),
    [
        (
            202621,
            10.0,
        ),  # told that writes were lost for good before the first heartbeat of a peer met again could be compared
    ],
)
def test_a_schedule_that_failed_once(seed: int, seconds: float) -> None:
    run_schedule(seed, seconds=seconds)


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert run_schedule(5) == run_schedule(5)


def test_a_failure_says_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    from meshcache.memory import MemoryTier

    monkeypatch.setattr(MemoryTier, "wants", lambda *_, **__: False)  # nobody takes anything in
    with pytest.raises(AssertionError, match="seed 1: "):
        run_schedule(1, small_store=False)
