"""One instance as the run sees it: a process that is told what to do and can be stopped and killed, and what it recorded."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

from meshcache.testing.history.checker import Violation
from meshcache.testing.history.records import Call, Incident

__all__ = ["Failure", "Member", "read_calls", "read_events", "records"]

_ANSWER = 20.0
_END = 3.0


class Failure(Exception):
    """The run itself cannot go on: what kind, of what, why."""

    def __init__(self, kind: str, who: str, why: str) -> None:
        super().__init__(f"{kind}: {who}: {why}")
        self.violation = Violation(kind, who, why)


class Member:
    """One process with one instance.

    Attributes:
        name: A, or A2 after a restart.
        killed: when the trouble killed it, or None.
        asked: what it was asked and will answer later.
    """

    def __init__(self, name: str, place: int, pid: int, control: socket.socket, records: Path, log: Path) -> None:
        self.name = name
        self.place = place
        self.pid = pid
        self.records = records
        self.log = log
        self.began = time.monotonic()
        self.killed: float | None = None
        self.asked: list[int] = []
        self._left = False
        self._control = control
        self._lines = b""
        self._last_id = 0
        self._answers: dict[int, Any] = {}

    @property
    def lives(self) -> bool:
        """Whether there is a process to be asked."""
        return self.killed is None and not self._left

    def ask(self, do: str, **arguments: Any) -> int:
        """Ask for something; the number of the question."""
        self._last_id += 1
        self._send({"id": self._last_id, "do": do, "with": arguments})
        return self._last_id

    def begin(self, **arguments: Any) -> None:
        """What the process must know first."""
        self._send(arguments)

    def answer(self, number: int, timeout: float = _ANSWER) -> Any:
        """Wait for the answer to a question."""
        deadline = time.monotonic() + timeout
        while number not in self._answers:
            remains = deadline - time.monotonic()
            if remains <= 0 or not select.select([self._control], [], [], remains)[0]:
                raise Failure("no answer", self.name, f"it does not answer within {timeout:g} s\n{self.log_tail()}")
            try:
                data = self._control.recv(2**20)
            except ConnectionResetError:
                data = b""
            if not data:
                raise Failure("ended", self.name, f"its process has ended by itself\n{self.log_tail()}")
            *lines, self._lines = (self._lines + data).split(b"\n")
            self._answers |= {message["id"]: message for message in map(json.loads, lines)}
        message = self._answers.pop(number)
        if "error" in message:
            raise Failure("error", self.name, f"{message['error']}\n{self.log_tail()}")
        return message["answer"]

    def call(self, do: str, timeout: float = _ANSWER, **arguments: Any) -> Any:
        """Ask and wait."""
        return self.answer(self.ask(do, **arguments), timeout)

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.killed = time.monotonic()
        self._control.close()

    def leave(self) -> None:
        """Let it close its cache and end; :meth:`end` waits for that."""
        if self.lives:
            self.signal(signal.SIGCONT)
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)

    def end(self) -> None:
        """Wait until it has ended, and end it if it does not.  May be called twice."""
        if not self.lives:
            return
        self._left = True
        deadline = time.monotonic() + _END
        with self._control, contextlib.suppress(OSError):
            while select.select([self._control], [], [], max(0.0, deadline - time.monotonic()))[0]:
                if not self._control.recv(2**20):
                    return
            self.signal(signal.SIGKILL)

    def log_tail(self) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])
        return ""

    def _send(self, message: Any) -> None:
        try:
            self._control.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            raise Failure("ended", self.name, f"its process has ended by itself\n{self.log_tail()}") from None


def records(member: Member) -> Iterator[Sequence[Any]]:
    if member.records.exists():
        for line in member.records.read_bytes().split(b"\n")[:-1]:
            yield json.loads(line)


def read_calls(member: Member) -> Iterator[Call]:
    """The calls of one process: each record of a beginning with that of its end, if there is one."""
    begun: dict[int, tuple[Any, ...]] = {}
    for kind, number, at, *rest in records(member):
        if kind == "call":
            begun[number] = (at, *rest)
        elif kind in ("done", "fail"):
            yield _call(member, begun.pop(number), kind, at, rest)
    for beginning in begun.values():
        yield _call(member, beginning, "", inf, [])


def _call(member: Member, beginning: tuple[Any, ...], kind: str, ended: float, rest: Sequence[Any]) -> Call:
    began, what, key, value, options, mode = beginning
    answer, then, dirty = rest if kind == "done" else (None, "", 0)
    note = "".join(f" {name}={option:.3g}" if name == "ttl" else f" {name}" for name, option in options.items())
    note += f" [{mode}{'' if then in (mode, '') else '->' + then}{f', {dirty} dirty' if dirty else ''}]"
    return Call(
        instance=member.name,
        what=what,
        key=key,
        value=value,
        began=began,
        ended=ended,
        answer=answer,
        error=rest[0] if kind == "fail" else "",
        ttl=options.get("ttl", inf) if what in ("set", "load") else inf,
        in_memory=mode != "redis" or then != "redis" or dirty > 0,
        note=note,
    )


def read_events(member: Member, nodes: Mapping[str, str]) -> Iterator[Incident]:
    """What one instance told of itself and its peers.

    Args:
        member: its process.
        nodes: the names of the instances by node id.
    """
    for kind, _, at, *rest in records(member):
        if kind == "mode":
            yield Incident(at, f"{member.name}: {rest[0]}")
        elif kind == "peer":
            yield Incident(at, f"{member.name} {rest[0]} {nodes.get(rest[1], rest[1])}")
