"""Processes in milliseconds: one process imports what an instance needs, and forks whenever one is wanted.

An instance's process ends by itself when its control socket ends, so when whoever asked for it ends; the nursery as well.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from meshcache.cli.demo.fleet import worker_command

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Nursery", "main"]

_PID_BYTES = 8


class Nursery:
    """Starts processes that run ``tests.history.worker``."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [*worker_command("tests.history.nursery"), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # the terminal's Ctrl-C is for who asked
            )

    def start(self) -> tuple[int, socket.socket]:
        """A new process: its id, and the socket over which it is told what to do."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._socket, [b"\0"], [theirs.fileno()])
        pid = int.from_bytes(self._socket.recv(_PID_BYTES), "big")
        if not pid:
            raise RuntimeError("the nursery has ended")
        return pid, ours

    def close(self) -> None:
        """End it.  What it started ends when its own socket does."""
        self._socket.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def main() -> None:
    """Fork for each request, until there are no more."""
    from tests.history import worker

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    requests = socket.socket(fileno=int(sys.path.pop()))
    while True:
        data, descriptors, _, _ = socket.recv_fds(requests, 1, 1)
        if not data:
            return
        pid = os.fork()
        if pid == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            status = 1
            try:
                worker.main(socket.socket(fileno=descriptors[0]))
                status = 0
            finally:
                os._exit(status)
        os.close(descriptors[0])
        requests.sendall(pid.to_bytes(_PID_BYTES, "big"))
