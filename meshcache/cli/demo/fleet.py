"""The instances as processes: starts them, asks them, keeps their last log lines, and ends them whatever happens.

What to ask and what to make of the answer is the scenario's.  Each process ends by itself when this one does, since its
input then ends; and none hears the terminal's Ctrl-C, which is for this process, who ends them in order.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from typing import IO, Any, Literal

from ...interfaces import LocalAddress
from .board import InstanceView, Unmet

__all__ = ["Answer", "Fleet", "Instance", "Pending", "loopback_multicast_works", "worker_command"]

LOOPBACK = "127.0.0.1"
SIZE = 4
Answer = Mapping[str, Any]

_LOG_LINES = 8
_ANSWER_SECONDS = 15.0
_EPITAPH_SECONDS = 0.1
_END_SECONDS = 3.0


def worker_command(module: str = "meshcache.cli.demo.worker") -> list[str]:
    """The command that runs the ``main`` of a worker's module.

    It has this process' own module path, wherever its meshcache comes from; -P keeps the current directory out of it.
    """
    program = f"import sys; sys.path[:] = sys.argv[1:]; from {module} import main; main()"
    return [sys.executable, "-P", "-c", program, *sys.path]


class Pending:
    """An answer that is still to come."""

    def __init__(self, what: str, future: Future[Answer]) -> None:
        self._what = what
        self._future = future

    def result(self, timeout: float = _ANSWER_SECONDS) -> Answer:
        """Wait for it, ``timeout`` seconds at most.

        Raises:
            Unmet: there is none in time, or an error.
        """
        try:
            return self._future.result(timeout)
        except FutureTimeout:
            raise Unmet(f"an answer of {self._what}", f"none within {timeout:g} s") from None


class Instance:
    """One process with one cache.

    Args:
        number: 1 for the first.
        changed: told of every change, from a thread.
        command: what to start; None for :func:`worker_command`.
    """

    def __init__(
        self, number: int, changed: Callable[[InstanceView], None], command: Sequence[str] | None = None
    ) -> None:
        self.number = number
        self.log: deque[str] = deque(maxlen=_LOG_LINES)
        self._changed = changed
        self._view = InstanceView(number)
        self._pending: dict[int, tuple[str, Future[Answer]]] = {}
        self._lock = threading.Lock()
        self._last_id = 0
        self._process = subprocess.Popen(  # noqa: S603 - this very Python, or what our own caller names
            command or worker_command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._threads = [
            threading.Thread(target=self._read_answers, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._read_log, args=(self._process.stderr,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        changed(self._view)

    @property
    def name(self) -> str:
        """For messages."""
        return f"instance {self.number}"

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def epitaph(self) -> list[str]:
        """A line for the log if its process has ended, with the exit status."""
        try:
            status = self._process.wait(_EPITAPH_SECONDS)  # its pipes may close a moment before it can be waited for
        except subprocess.TimeoutExpired:
            return []
        return [f"its process has ended, with status {status}"]

    def ask(self, do: str, **arguments: Any) -> Pending:
        """Ask for something; :mod:`worker` has what there is."""
        what = f"{self.name} to {do!r}"
        future: Future[Answer] = Future()
        with self._lock:
            self._last_id += 1
            self._pending[self._last_id] = (what, future)
            request = json.dumps({"id": self._last_id, "do": do, "with": arguments}).encode() + b"\n"
            try:
                self._stdin.write(request)
                self._stdin.flush()
            except (OSError, ValueError):
                del self._pending[self._last_id]
                future.set_exception(Unmet(f"{self.name} to {do}", "its process has ended"))
        return Pending(what, future)

    def call(self, do: str, **arguments: Any) -> Answer:
        """Ask and wait.  Raises :class:`Unmet`."""
        return self.ask(do, **arguments).result()

    def end(self) -> int:
        """Let the process end in order, and end it if it does not within 3 s; its exit status.  May be called twice."""
        with self._lock, contextlib.suppress(OSError):  # it has gone already
            self._stdin.close()
        try:
            status = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        for thread in self._threads:
            thread.join()
        self._show(replace(self._view, state="ended", mode="", peers=0, entries=0, dirty=0))
        return status

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _show(self, view: InstanceView) -> None:
        self._view = view
        self._changed(view)

    def _read_answers(self, lines: IO[bytes]) -> None:
        with lines:
            for line in lines:
                self._take(json.loads(line))
        with self._lock:
            lost, self._pending = self._pending, {}
        for what, future in lost.values():
            future.set_exception(Unmet(what, "its process has ended"))

    def _take(self, message: Answer) -> None:
        if "status" in message:
            self._show(InstanceView(self.number, "open", **message["status"]))
            return
        with self._lock:
            what, future = self._pending.pop(message["id"])
        if "error" in message:
            future.set_exception(Unmet(what, message["error"]))
        else:
            future.set_result(message["answer"])

    def _read_log(self, lines: IO[bytes]) -> None:
        with lines:
            for line in lines:
                self.log.append(line.decode(errors="replace").rstrip())


class Fleet:
    """All instances: up to four, of one random namespace with one random secret.

    Args:
        discovery: ``"mdns"``, or ``"static"``: each is told the ports of all.
        changed: told of every change of an instance, from a thread.
    """

    def __init__(self, discovery: Literal["mdns", "static"], changed: Callable[[InstanceView], None]) -> None:
        self.namespace = f"meshcache-demo-{secrets.token_hex(8)}"
        self.instances: list[Instance] = []
        self._secret = secrets.token_urlsafe(24)
        self._ports = [0] * SIZE if discovery == "mdns" else _free_udp_ports(SIZE)
        self._sources = ["mdns"] if discovery == "mdns" else [f"{LOOPBACK}:{port}" for port in self._ports]
        self._changed = changed

    def start(self) -> Instance:
        """Start the process of one more instance; it opens no cache yet."""
        instance = Instance(len(self.instances) + 1, self._changed)
        self.instances.append(instance)
        return instance

    def open(self, instance: Instance, url: str) -> Pending:
        """Let an instance open its cache."""
        options = {
            "namespace": self.namespace,
            "secret": self._secret,
            "amnesia_window": 0,  # the server of the demo writes every command to disk before it answers
            "codec": "json",  # so that what is in Redis can be read by eye
            "discovery": self._sources,
            "interfaces": [LOOPBACK],
            "port": self._ports[instance.number - 1],
        }
        return instance.ask("open", url=url, options=options)

    def ask_all(self, do: str, **arguments: Any) -> list[Pending]:
        """Ask every instance for the same."""
        return [instance.ask(do, **arguments) for instance in self.instances]

    def logs(self) -> dict[int, Sequence[str]]:
        """The last log lines of each instance, and which of them have no process any more."""
        lines = {instance.number: [*instance.log, *instance.epitaph] for instance in self.instances}
        return {number: log for number, log in lines.items() if log}

    def close(self) -> dict[int, int]:
        """End every process; the exit status of each instance by its number.  May be called twice."""
        enders = [threading.Thread(target=instance.end) for instance in self.instances]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join()
        return {instance.number: instance.end() for instance in self.instances}


def loopback_multicast_works() -> bool:
    """Whether mDNS can work on loopback: a multicast datagram comes back, and port 5353 may be shared."""
    from ...doctor.host import multicast_is_heard, why_mdns_port_is_not_shared

    return why_mdns_port_is_not_shared() is None and multicast_is_heard(LocalAddress("loopback", 0, LOOPBACK))


def _free_udp_ports(count: int) -> list[int]:
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    try:
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
