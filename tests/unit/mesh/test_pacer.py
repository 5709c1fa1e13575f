"""No more at once than a receiver's buffer takes."""

from __future__ import annotations

import pytest

from meshcache.mesh.pacer import Pacer, Pulse
from meshcache.mesh.settings import Timing


def test_bursts() -> None:
    pacer = Pacer(10, 0.001)
    assert pacer.room(5.0) == 10
    pacer.sent(4)
    assert pacer.room(5.0005) == 6
    pacer.sent(6)
    assert pacer.room(5.0009) == 0
    assert pacer.opens_at == 5.001
    assert pacer.room(5.001) == 10


def test_heartbeats_are_regular_and_follow_the_last_write() -> None:
    pulse = Pulse(Timing(), 10.0)
    assert pulse.next_at == 10.5
    pulse.wrote(10.1)
    pulse.wrote(10.12)
    beats = []
    for _ in range(5):
        beats.append(pulse.next_at)
        pulse.beat(pulse.next_at)
    assert beats == pytest.approx([10.17, 10.27, 10.47, 10.97, 11.47])


def test_writes_without_end_do_not_hold_heartbeats_back() -> None:
    pulse = Pulse(Timing(), 10.0)
    for n in range(100):
        pulse.wrote(10.0 + n / 100)
    assert pulse.next_at == 10.5
