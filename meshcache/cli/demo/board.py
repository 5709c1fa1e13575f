"""What there is to see: the server, the instances, the steps.  The scenario writes it, the renderers read it.

No rendering and no processes here.  Records are frozen and replaced whole, so that a renderer may read from any thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

__all__ = ["Board", "Failure", "InstanceView", "Outcome", "Picture", "ServerView", "StepView", "Unmet"]


class Unmet(Exception):  # noqa: N818 - a finding of the demo, not an error of its program
    """Something was not as it should be.

    Attributes:
        expected: what should have been.
        seen: what was.
    """

    def __init__(self, expected: str, seen: str) -> None:
        super().__init__(f"expected {expected}, seen {seen}")
        self.expected = expected
        self.seen = seen


class Outcome(StrEnum):
    """How far a step has come."""

    WAITING = "waiting"
    RUNNING = "running"
    HELD = "held"
    FAILED = "failed"
    NOT_REACHED = "not reached"


@dataclass(frozen=True, slots=True)
class ServerView:
    """The Redis.

    Attributes:
        name: software and version.
        where: host and port.
        reachable: whether the instances can reach it now.
    """

    name: str
    where: str
    reachable: bool


@dataclass(frozen=True, slots=True)
class InstanceView:
    """One instance, as it last told of itself.

    Attributes:
        number: 1 for the first.
        state: ``"starting"``, ``"open"`` or ``"ended"``.
        mode: its mode, or "" if it is not open.
        peers: how many other instances it hears.
        entries: how many keys its memory holds.
        dirty: how many keys Redis does not know yet.
    """

    number: int
    state: str = "starting"
    mode: str = ""
    peers: int = 0
    entries: int = 0
    dirty: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a step did not hold.

    Attributes:
        expected: what should have been.
        seen: what was.
        logs: the last log lines of each instance, by its number.
    """

    expected: str
    seen: str
    logs: Mapping[int, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepView:
    """One step.

    Attributes:
        number: 1 for the first.
        title: what it is to show.
        outcome: how far it has come.
        shown: what was seen when it held, in one line.
        note: a limit of this version that a reader should know here, or "".
        seconds: how long it took.
        measures: the numbers in ``shown``, units in their names.
        failure: why it did not hold.
    """

    number: int
    title: str
    outcome: Outcome = Outcome.WAITING
    shown: str = ""
    note: str = ""
    seconds: float = 0.0
    measures: Mapping[str, float] = field(default_factory=dict)
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything at one moment.

    Attributes:
        discovery: how the instances find each other, in words.
        seconds: since the beginning, until the end once there is one.
        interrupted: somebody stopped it.
        leftover: what could not be cleaned up, or "".
    """

    server: ServerView
    discovery: str
    instances: Sequence[InstanceView]
    steps: Sequence[StepView]
    seconds: float
    ended: bool
    interrupted: bool
    leftover: str

    @property
    def ok(self) -> bool:
        """Every step held, and nothing is left behind."""
        return not self.leftover and all(step.outcome is Outcome.HELD for step in self.steps)


class Board:
    """Collects what there is to see.  May be written and read from any thread.

    Args:
        titles: of the steps.
        server: the Redis.
        discovery: how the instances find each other, in words.
        step_ended: told of each step that held or failed, in the thread of the scenario.
    """

    def __init__(
        self,
        titles: Sequence[str],
        server: ServerView,
        discovery: str,
        step_ended: Callable[[StepView], None] = lambda step: None,
    ) -> None:
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._step_began = self._began
        self._step_ended = step_ended
        self._picture = Picture(
            server=server,
            discovery=discovery,
            instances=(),
            steps=tuple(StepView(number, title) for number, title in enumerate(titles, 1)),
            seconds=0.0,
            ended=False,
            interrupted=False,
            leftover="",
        )

    @property
    def picture(self) -> Picture:
        """How it looks now."""
        with self._lock:
            picture = self._picture
        return picture if picture.ended else replace(picture, seconds=time.monotonic() - self._began)

    def server_changed(self, server: ServerView) -> None:
        """The server went or came back."""
        with self._lock:
            self._picture = replace(self._picture, server=server)

    def instance_changed(self, instance: InstanceView) -> None:
        """An instance told of itself, or ended."""
        with self._lock:
            others = [other for other in self._picture.instances if other.number != instance.number]
            instances = sorted([*others, instance], key=lambda view: view.number)
            self._picture = replace(self._picture, instances=tuple(instances))

    def begin(self, number: int) -> None:
        """A step begins."""
        self._step_began = time.monotonic()
        self._replace_step(replace(self._step(number), outcome=Outcome.RUNNING))

    def held(self, number: int, shown: str, measures: Mapping[str, float], note: str) -> None:
        """A step held."""
        self._end(replace(self._step(number), outcome=Outcome.HELD, shown=shown, measures=dict(measures), note=note))

    def failed(self, number: int, failure: Failure) -> None:
        """A step did not hold; none after it is tried."""
        self._end(replace(self._step(number), outcome=Outcome.FAILED, failure=failure))

    def end(self, *, interrupted: bool, leftover: str) -> None:
        """Nothing more will happen."""
        with self._lock:
            steps = tuple(
                step if step.outcome in (Outcome.HELD, Outcome.FAILED) else replace(step, outcome=Outcome.NOT_REACHED)
                for step in self._picture.steps
            )
            seconds = time.monotonic() - self._began
            self._picture = replace(
                self._picture, steps=steps, seconds=seconds, ended=True, interrupted=interrupted, leftover=leftover
            )

    def _step(self, number: int) -> StepView:
        return self._picture.steps[number - 1]

    def _end(self, step: StepView) -> None:
        ended = replace(step, seconds=time.monotonic() - self._step_began)
        self._replace_step(ended)
        self._step_ended(ended)

    def _replace_step(self, step: StepView) -> None:
        with self._lock:
            steps = tuple(step if other.number == step.number else other for other in self._picture.steps)
            self._picture = replace(self._picture, steps=steps)
