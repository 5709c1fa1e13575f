"""What a benchmark found: lines of a table, or one JSON document.  Nothing is asserted: machines are noisy."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

__all__ = ["Figure", "percentile", "percentiles", "say", "show"]


@dataclass
class Figure:
    """One line of the table.

    Attributes:
        held: whether the goal was; None if there is none.
    """

    what: str
    measured: str
    goal: str
    held: bool | None


def show(figures: Sequence[Figure], *, as_json: bool) -> None:
    """Print them all."""
    if as_json:
        print(json.dumps([asdict(figure) for figure in figures], indent=2, ensure_ascii=False))
        return
    widths = [max(len(getattr(figure, column)) for figure in figures) for column in ("what", "measured", "goal")]
    for figure in figures:
        cells = (figure.what, figure.measured, figure.goal)
        mark = {True: "held", False: "MISSED", None: ""}[figure.held]
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)), mark)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many of 100 do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def percentiles(times: Sequence[float]) -> str:
    """In words."""
    return f"p50 {statistics.median(times):.2f}, p99 {percentile(times, 99):.2f} of {len(times)}"


def say(line: str) -> None:
    """Tell of progress, on standard error."""
    print(line, file=sys.stderr, flush=True)
