"""The command line of the simulators."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshcache.testing import seeds
from meshcache.testing.seeds import run_seeds


class Total:
    def __init__(self) -> None:
        self.total = 0

    def add(self, outcome: int) -> None:
        self.total += outcome

    def as_dict(self) -> dict[str, Any]:
        return {"total": self.total}

    def __str__(self) -> str:
        return f"{self.total} in all"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    def odd_ones_fail(seed: int) -> int:
        if seed % 2:
            raise AssertionError(f"seed {seed} is odd")
        return seed

    monkeypatch.setattr("sys.argv", ["program", *arguments])
    return run_seeds("program", odd_ones_fail, lambda outcome: f"outcome {outcome}", Total())


def test_one_that_goes_well_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "4") == 0
    assert capsys.readouterr().out == "outcome 4\n1 schedules, 0 failed; 4 in all\n"


def test_those_that_fail_say_why_and_are_named_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "4", "4") == 1
    told = capsys.readouterr()
    assert told.out == "seed 5 is odd\n\nseed 7 is odd\n\n4 schedules, 2 failed; 10 in all\nseeds: 5 7\n"
    assert told.err == ""


def test_for_scripts_standard_output_is_one_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "4", "4", "--json") == 1
    told = capsys.readouterr()
    assert json.loads(told.out) == {"schedules": 4, "failed": [5, 7], "total": 10}
    assert "seed 5 is odd" in told.err


def test_a_long_run_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(seeds, "_PROGRESS_PAUSE", 0.0)
    run(monkeypatch, "4", "4")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(", about ")[0] for line in lines] == [
        "1 of 4 schedules, 0 failed",
        "2 of 4 schedules, 1 failed",
        "3 of 4 schedules, 1 failed",
    ]
