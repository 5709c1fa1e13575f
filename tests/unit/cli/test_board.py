"""The board: what the demo's renderers get to see."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshcache.cli.demo.board import Board, Failure, InstanceView, Outcome, ServerView, StepView

SERVER = ServerView("Redis 8.0", "127.0.0.1:7000", reachable=True)


@pytest.fixture
def ended() -> list[StepView]:
    return []


@pytest.fixture
def board(ended: list[StepView]) -> Board:
    return Board(["first", "second", "third"], SERVER, "found by mDNS", ended.append)


def outcomes(board: Board) -> list[Outcome]:
    return [step.outcome for step in board.picture.steps]


def test_steps_go_from_waiting_to_held(board: Board, ended: list[StepView]) -> None:
    assert outcomes(board) == [Outcome.WAITING] * 3
    board.begin(1)
    assert outcomes(board) == [Outcome.RUNNING, Outcome.WAITING, Outcome.WAITING]
    assert ended == []
    board.held(1, "seen it", {"found_ms": 1.5}, "a limit")
    assert outcomes(board)[0] is Outcome.HELD
    (step,) = ended
    assert (step.number, step.title, step.shown, step.note) == (1, "first", "seen it", "a limit")
    assert step.measures == {"found_ms": 1.5}
    assert step.seconds > 0


def test_only_a_run_of_all_steps_that_leaves_nothing_is_ok(board: Board) -> None:
    for number in (1, 2, 3):
        assert not board.picture.ok
        board.begin(number)
        board.held(number, "", {}, "")
    board.end(interrupted=False, leftover="")
    assert board.picture.ok
    assert not replace(board.picture, leftover="a directory").ok


def test_after_a_failure_nothing_else_is_reached(board: Board, ended: list[StepView]) -> None:
    board.begin(1)
    board.held(1, "", {}, "")
    board.begin(2)
    board.failed(2, Failure("day", "night"))
    board.end(interrupted=False, leftover="")
    assert outcomes(board) == [Outcome.HELD, Outcome.FAILED, Outcome.NOT_REACHED]
    assert ended[-1].failure == Failure("day", "night")
    assert not board.picture.ok


def test_an_interrupted_step_was_not_reached(board: Board) -> None:
    board.begin(1)
    board.end(interrupted=True, leftover="")
    assert outcomes(board) == [Outcome.NOT_REACHED] * 3
    assert board.picture.interrupted


def test_time_stands_still_at_the_end(board: Board) -> None:
    assert board.picture.seconds < board.picture.seconds
    board.end(interrupted=False, leftover="")
    assert board.picture.seconds == board.picture.seconds


def test_instances_are_in_order_and_the_newest_view_counts(board: Board) -> None:
    board.instance_changed(InstanceView(2))
    board.instance_changed(InstanceView(1))
    board.instance_changed(InstanceView(2, "open", "memory", 1, 5, 5))
    assert board.picture.instances == (InstanceView(1), InstanceView(2, "open", "memory", 1, 5, 5))


def test_the_server_goes_away(board: Board) -> None:
    board.server_changed(replace(SERVER, reachable=False))
    assert not board.picture.server.reachable
