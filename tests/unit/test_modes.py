"""The mode of an instance: the table, the thresholds, the pace of probes, the hold-down of a server that flaps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.events import Mode, ModeChanged
from meshcache.modes import TRANSITIONS, ModeMachine, Pace, Signal, diagram

START = 100.0
PACE = Pace()
WAY_TO = {Mode.MEMORY: (), Mode.RECOVERING: (Signal.PROBED,), Mode.REDIS: (Signal.PROBED, Signal.DRAINED)}


def machine(mode: Mode = Mode.REDIS, now: float = START, failure_threshold: int = 3) -> ModeMachine:
    made = ModeMachine(now, failure_threshold=failure_threshold)
    for signal in WAY_TO[mode]:
        assert send(made, signal, now) is not None
    assert made.mode is mode
    return made


def send(machine: ModeMachine, signal: Signal, now: float) -> ModeChanged | None:
    match signal:
        case Signal.OUTAGE:
            return machine.failed("reset by peer", now)
        case Signal.PROBED:
            return machine.probed("Redis 8 answers", now)
        case Signal.DRAINED:
            return machine.drained("nothing is dirty", now)


def recover(machine: ModeMachine, now: float) -> None:
    send(machine, Signal.PROBED, now)
    send(machine, Signal.DRAINED, now)
    assert machine.mode is Mode.REDIS


# -- the table


def test_the_table_is_the_one_of_the_design() -> None:
    assert dict(TRANSITIONS) == {
        (Mode.REDIS, Signal.OUTAGE): Mode.MEMORY,
        (Mode.MEMORY, Signal.PROBED): Mode.RECOVERING,
        (Mode.RECOVERING, Signal.OUTAGE): Mode.MEMORY,
        (Mode.RECOVERING, Signal.DRAINED): Mode.REDIS,
    }


@pytest.mark.parametrize("signal", Signal)
@pytest.mark.parametrize("mode", Mode)
def test_every_signal_in_every_mode_does_what_the_table_says(mode: Mode, signal: Signal) -> None:
    modes = machine(mode)
    change = send(modes, signal, START + 7)
    new = TRANSITIONS.get((mode, signal))
    if new is None:
        assert change is None
        assert modes.mode is mode
        assert modes.since == START
    else:
        assert change is not None
        assert (change.old, change.new, change.held) == (mode, new, 7.0)
        assert change.cause in ("reset by peer", "Redis 8 answers", "nothing is dirty")
        assert modes.mode is new
        assert modes.since == START + 7


def test_an_instance_starts_in_memory_and_reaches_redis_only_by_recovering() -> None:
    modes = ModeMachine(START)
    assert modes.mode is Mode.MEMORY
    assert modes.drained("", START) is None
    assert modes.probed("", START) is not None
    assert modes.mode is Mode.RECOVERING


def test_outages_are_counted_by_what_callers_lost() -> None:
    modes = ModeMachine(START)
    modes.failed("refused", START)
    assert modes.outages == 0  # Redis was never there
    recover(modes, START)
    modes.failed("reset", START + 60)
    modes.probed("", START + 61)
    modes.failed("reset", START + 62)  # a failed recovery is the same outage
    assert modes.outages == 1
    assert modes.last_cause == "reset"


# -- calls that time out


def test_so_many_timeouts_in_a_row_are_an_outage_and_not_one_less() -> None:
    modes = machine(failure_threshold=3)
    assert modes.timed_out("slow", START, others_in_flight=1) is None
    assert modes.timed_out("slow", START, others_in_flight=1) is None
    modes.answered()
    assert modes.timed_out("slow", START, others_in_flight=1) is None
    assert modes.timed_out("slow", START, others_in_flight=1) is None
    change = modes.timed_out("no answer within 0.25 s", START + 1, others_in_flight=1)
    assert change == ModeChanged(Mode.REDIS, Mode.MEMORY, "no answer within 0.25 s", 1.0)


def test_one_timeout_is_an_outage_if_nothing_else_is_under_way() -> None:
    assert machine().timed_out("slow", START, others_in_flight=0) is not None


def test_calls_that_shared_a_connection_count_once_while_others_are_answered() -> None:
    modes = machine(failure_threshold=3)
    assert modes.timed_out("slow", START, others_in_flight=1) is None
    for _ in range(100):
        assert modes.timed_out("slow", START, others_in_flight=1, repeated=True) is None
    assert modes.timed_out("slow", START, others_in_flight=1) is None
    assert modes.timed_out("slow", START, others_in_flight=1) is not None


def test_a_repeated_timeout_is_an_outage_as_well_if_nothing_else_is_under_way() -> None:
    assert machine().timed_out("slow", START, others_in_flight=0, repeated=True) is not None


def test_timeouts_of_the_last_outage_do_not_count_in_the_next_one() -> None:
    modes = machine()
    for _ in range(5):
        modes.timed_out("slow", START, others_in_flight=9)
    for _ in range(5):
        assert modes.timed_out("probe", START, others_in_flight=9) is None  # it is an outage already
    recover(modes, START + 10)
    assert modes.timed_out("slow", START + 10, others_in_flight=9) is None


# -- the pace of probes


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=60))
def test_pauses_stay_in_their_bounds_and_grow_whatever_the_dice_say(dice: list[float]) -> None:
    modes = machine()
    modes.failed("reset", START)
    step = PACE.first
    for random in dice:
        pause = modes.probe_pause(START, random)
        assert step / 2 <= pause <= step
        assert PACE.first / 2 <= pause <= PACE.longest
        step = min(step * PACE.growth, PACE.longest)


def test_probing_never_makes_an_outage_longer_by_half() -> None:
    modes = machine()
    modes.failed("reset", START)
    waited = 0.0
    for _ in range(40):
        pause = modes.probe_pause(START, 0.999)
        assert waited < 1 or pause <= waited / 2
        waited += pause


def test_every_outage_starts_with_the_first_pause_again() -> None:
    modes = machine()
    modes.failed("reset", START)
    for _ in range(30):
        modes.probe_pause(START, 0.5)
    recover(modes, START + 100)
    modes.failed("reset", START + 200)
    assert modes.probe_pause(START + 200, 0.5) <= PACE.first


# -- a server that flaps


def test_the_first_loss_is_never_a_flap_however_soon_it_comes() -> None:
    modes = machine()
    modes.failed("reset", START + 0.1)
    assert not modes.held_down(START + 0.1)


def test_a_server_that_flaps_is_held_down_twice_as_long_each_time_and_no_longer_than_the_longest() -> None:
    modes = machine()
    now = START + 60
    modes.failed("reset", now)
    holds = []
    for _ in range(8):
        now += 10
        recover(modes, now)
        now += 1  # shorter than the flap window
        modes.failed("reset", now)
        holds.append(modes.probe_pause(now, 0.0))
        assert modes.held_down(now)
        assert modes.held_down(now + holds[-1] - 0.001)
        assert not modes.held_down(now + holds[-1])
    assert holds == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]


def test_a_recovery_that_fails_is_a_flap_as_well() -> None:
    modes = ModeMachine(START)
    modes.probed("", START)
    modes.failed("reset", START + 1)
    assert modes.held_down(START + 1)


def test_a_server_that_stays_is_trusted_again() -> None:
    modes = machine()
    for now in (START + 1, START + 11, START + 21):
        modes.failed("reset", now)
        recover(modes, now + 9)
    assert modes.probe_pause(START + 22, 0.0) > 0
    modes.failed("reset", START + 21 + 9 + PACE.flap_window)
    assert not modes.held_down(START + 21 + 9 + PACE.flap_window)
    recover(modes, START + 60)
    modes.failed("reset", START + 61)
    assert modes.probe_pause(START + 61, 0.0) == PACE.hold_first  # counted from the start again


def test_the_pace_can_be_another() -> None:
    modes = ModeMachine(START, pace=Pace(first=1.0, longest=2.0, growth=4.0))
    assert [modes.probe_pause(START, 0.0) for _ in range(3)] == [0.5, 1.0, 1.0]


# -- the picture


def test_the_picture_shows_the_start_and_each_transition_once() -> None:
    lines = diagram().splitlines()
    assert lines[:2] == ["stateDiagram-v2", "    [*] --> memory"]
    assert lines[2:] == [f"    {old} --> {new}: {signal.value}" for (old, signal), new in TRANSITIONS.items()]
    assert len(lines) == 2 + len(TRANSITIONS)


def test_the_picture_in_the_docs_is_this_one() -> None:
    from pathlib import Path

    docs = Path(__file__).parents[2] / "docs" / "failing-over.md"
    assert diagram() in docs.read_text(encoding="utf-8")
