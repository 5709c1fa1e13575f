"""Schedules of trouble, after which everyone must agree.  ``python -m meshcache.testing.simulator SEED`` runs one again."""

from __future__ import annotations

import os

import pytest

from meshcache.testing.simulator import run_schedule

SCHEDULES = int(os.environ.get("MESHCACHE_SCHEDULES", "40"))
"""How many are run; CI runs 500."""


@pytest.mark.parametrize("seed", range(SCHEDULES))
def test_schedule(seed: int) -> None:
    run_schedule(seed)


@pytest.mark.parametrize("seed", range(10))
def test_at_30_percent_loss_everyone_agrees_within_seconds(seed: int) -> None:
    report = run_schedule(seed, loss=0.3, seconds=10.0, small_store=False)
    assert report.agreed_after < 5.0, f"seed {seed}"


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert run_schedule(5) == run_schedule(5)


def test_a_failure_says_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    from meshcache.memory import MemoryTier

    monkeypatch.setattr(MemoryTier, "wants", lambda *_, **__: False)  # nobody takes anything in
    with pytest.raises(AssertionError, match="seed 1: "):
        run_schedule(1, small_store=False)
