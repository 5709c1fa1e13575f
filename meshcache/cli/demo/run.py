"""Puts the demo together: the server, the instances, the steps, one way to show them; and the cleaning up, whatever happened."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum, auto
from types import FrameType
from typing import Literal

from rich.console import Console
from rich.live import Live

from ... import __version__
from .board import Board, Failure, InstanceView, Outcome, ServerView, StepView, Unmet
from .fleet import Fleet, loopback_multicast_works
from .render.document import document
from .render.live import LivePicture
from .render.plain import begin_lines, end_lines, step_lines
from .scenario import Scenario
from .servers import DemoServer, NoServer, open_server

__all__ = ["Output", "run_demo"]

_PACE_SECONDS = 0.8  # in a terminal each step stays in sight so long before the next begins
_FRAMES_A_SECOND = 12.5


class Output(Enum):
    """How to show it.  ``TERMINAL`` becomes ``PLAIN`` where there is none."""

    TERMINAL = auto()
    PLAIN = auto()
    JSON = auto()


def run_demo(redis_url: str | None, output: Output) -> int:
    """Run the demo; the exit status: 0 every step held, 1 one did not, 2 no server, 130 interrupted.

    Args:
        redis_url: a server that is there, or None to start one.
        output: how to show it, on standard output.
    """
    if sys.platform == "win32":
        return _refuse("the demo stops and starts processes as POSIX systems do: it needs Linux or macOS")
    with _signals():
        try:
            server = open_server(redis_url)
        except NoServer as error:
            return _refuse(str(error))
        except KeyboardInterrupt:
            return 130
        try:
            return _Run(server, output).run()
        finally:
            server.close()


def _refuse(why: str) -> int:
    sys.stderr.write(f"meshcache demo: {why}\n")
    return 2


class _Run:
    """One run of all steps on a server that is up."""

    def __init__(self, server: DemoServer, output: Output) -> None:
        self._server = server
        self._discovery: Literal["mdns", "static"] = "mdns" if loopback_multicast_works() else "static"
        self._fleet = Fleet(self._discovery, self._instance_changed)
        self._scenario = Scenario(server, self._fleet, self._reachable)
        self._view = ServerView(server.name, server.where, reachable=True)
        self._console = Console(highlight=False)
        self._output = output
        if output is Output.TERMINAL and (not self._console.is_terminal or self._console.is_dumb_terminal):
            self._output = Output.PLAIN
        self._board = Board(
            [step.title for step in self._scenario.steps],
            self._view,
            "found by mDNS"
            if self._discovery == "mdns"
            else "told each other's addresses, since mDNS cannot work here",
            self._step_ended,
        )

    def run(self) -> int:
        with self._shown():
            interrupted, leftover = False, ""
            try:
                self._try_steps()
            except KeyboardInterrupt:
                interrupted = True
            finally:
                leftover = self._clean_up()
            self._board.end(interrupted=interrupted, leftover=leftover)
        picture = self._board.picture
        return 130 if interrupted else 0 if picture.ok else 1

    def _try_steps(self) -> None:
        for number, step in enumerate(self._scenario.steps, 1):
            self._board.begin(number)
            try:
                shown = step.run()
            except Unmet as error:
                self._board.failed(number, Failure(error.expected, error.seen, self._fleet.logs()))
                return
            except Exception as error:  # noqa: BLE001 - whatever the server or the system does, the demo says it and cleans up
                seen = f"{type(error).__name__}: {error}"
                self._board.failed(number, Failure("no failure outside the instances", seen, self._fleet.logs()))
                return
            self._board.held(number, shown.text, shown.measures, shown.note)
            if self._output is Output.TERMINAL:
                time.sleep(_PACE_SECONDS)

    def _clean_up(self) -> str:
        """Give everything back, undisturbed by a second Ctrl-C; what could not be, or ""."""
        with _signals(ignore=True):
            self._fleet.close()
            left = []
            if self._server.keeps_data and not self._all_held:
                try:
                    self._server.raw.clear(self._fleet.namespace)
                except Exception as error:  # noqa: BLE001 - it may be the very thing that failed
                    left.append(f"keys with {self._fleet.namespace} in their name in Redis ({error})")
            left.append(self._server.close())
            return ", ".join(filter(None, left))

    @property
    def _all_held(self) -> bool:
        return all(step.outcome is Outcome.HELD for step in self._board.picture.steps)

    # -- what the parts tell

    def _instance_changed(self, view: InstanceView) -> None:
        self._board.instance_changed(view)

    def _reachable(self, reachable: bool) -> None:
        self._board.server_changed(replace(self._view, reachable=reachable))

    def _step_ended(self, step: StepView) -> None:
        if self._output is Output.PLAIN:
            _write(step_lines(step, len(self._scenario.steps)))

    # -- showing

    @contextmanager
    def _shown(self) -> Iterator[None]:
        match self._output:
            case Output.TERMINAL:
                picture = LivePicture(lambda: self._board.picture, __version__)
                with Live(picture, console=self._console, refresh_per_second=_FRAMES_A_SECOND):
                    yield
            case Output.PLAIN:
                _write(begin_lines(self._board.picture, __version__))
                yield
                _write(end_lines(self._board.picture))
            case Output.JSON:
                yield
                sys.stdout.write(document(self._board.picture, __version__))


def _write(lines: Iterator[str]) -> None:
    for line in lines:
        sys.stdout.write(line + "\n")
    sys.stdout.flush()


@contextmanager
def _signals(*, ignore: bool = False) -> Iterator[None]:
    """A polite end (SIGTERM, a closed terminal) is a Ctrl-C: everything is cleaned up.  Or none of them has any effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    wanted = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = {number: signal.signal(number, signal.SIG_IGN if ignore else interrupt) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
