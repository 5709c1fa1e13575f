"""The load generator of ``compose/``: it asks what it says, and its figures are right.  What it is for is in ``containers``."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from random import Random

import pytest

from compose.load.figures import Figures, Latencies, phase_table, second_line
from compose.load.plan import HIT_RATIO, Ask, rounds, warm_up

ROUND = 40


class Caches:
    """Gateways that cache what they are asked for; shared, or each for itself."""

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared
        self._known: set[tuple[int, str, bytes]] = set()

    def ask(self, ask: Ask) -> bool:
        key = (0 if self._shared else ask.gateway, ask.path, ask.body)
        hit = key in self._known
        self._known.add(key)
        return hit


def hit_ratios(caches: Caches) -> list[float]:
    for ask in warm_up(3):
        caches.ask(ask)
    requests = rounds(3, Random(1), "run")
    return [sum(map(caches.ask, islice(requests, ROUND))) / ROUND for _ in range(50)]


class TestPlan:
    def test_every_round_can_be_answered_from_caches_to_the_same_share(self) -> None:
        assert HIT_RATIO == 0.9
        assert set(hit_ratios(Caches(shared=True))) == {HIT_RATIO}

    def test_caches_that_are_not_shared_show(self) -> None:
        assert set(hit_ratios(Caches(shared=False))[2:]) == {0.8}

    def test_gateways_get_about_the_same(self) -> None:
        counts = Counter(ask.gateway for ask in islice(rounds(3, Random(1), "run"), 50 * ROUND))
        assert max(counts.values()) - min(counts.values()) < ROUND

    def test_what_is_popular_is_asked_of_every_gateway(self) -> None:
        asked = set(islice(rounds(3, Random(1), "run"), 50 * ROUND))
        assert set(warm_up(3)) <= asked


class TestLatencies:
    def test_quantiles_are_right_to_one_percent(self) -> None:
        latencies = Latencies()
        for number in range(1, 1001):
            latencies.add(number / 1000)
        assert latencies.quantile(0.5) == pytest.approx(0.5, rel=0.01)
        assert latencies.quantile(0.99) == pytest.approx(0.99, rel=0.01)
        assert latencies.longest == 1.0

    def test_nothing_has_no_quantile(self) -> None:
        assert Latencies().quantile(0.5) is None


class TestFigures:
    def test_phases(self) -> None:
        figures = Figures()
        for second in ["redis", "redis memory", "memory", "memory redis", "redis", "redis", "memory", "redis", "redis"]:
            for mode in second.split():
                figures.answered(mode, hit=True, seconds=0.001)
            figures.end_second()
        counts = [(phase.name, phase.seconds, phase.requests) for phase in figures.phases]
        assert counts == [("before", 1, 2), ("outage", 4, 5), ("after", 1, 1), ("outage 2", 2, 2), ("after 2", 1, 1)]

    def test_hits_misses_and_failures(self) -> None:
        figures = Figures()
        for _ in range(9):
            figures.answered("redis", hit=True, seconds=0.002)
        figures.answered("redis", hit=False, seconds=0.5)
        figures.failed()
        second = figures.end_second()
        assert (second["requests"], second["failed"], second["hits"], second["hit_ratio"]) == (11, 1, 9, 0.9)
        assert second["p99_ms"] == pytest.approx(2, rel=0.01)  # of what the cache answered

    def test_a_second_in_which_the_phase_changed_is_not_typical_of_it(self) -> None:
        figures = Figures()
        for mode, seconds in [("redis", 0.001), ("memory", 0.3), ("memory", 0.001), ("memory", 0.001)]:
            figures.answered(mode, hit=True, seconds=seconds)
            figures.end_second()
        outage = figures.phases[1].as_json()
        assert outage["p99_ms"] == pytest.approx(300, rel=0.01)
        assert outage["p99_ms_median"] == pytest.approx(1, rel=0.01)

    def test_tables_are_laid_out(self) -> None:
        figures = Figures()
        figures.answered("redis", hit=True, seconds=0.0015)
        line = second_line(figures.end_second())
        assert line.split() == ["1", "before", "redis", "1", "0", "100.0%", "1.50", "1.50"]
        head, row, _ = phase_table(figures.phases).splitlines()
        assert len(head) == len(row)
        json.dumps([phase.as_json() for phase in figures.phases])
