"""A port of the loopback interface that stays ours while nothing listens on it.

Only what both the server and the proxy need to keep one port through an outage.
"""

from __future__ import annotations

import socket
import sys

__all__ = ["LOOPBACK", "ReservedPort"]

LOOPBACK = "127.0.0.1"

_STAYS_BOUND = sys.platform == "linux"
# Linux lets a second socket bind and listen while the first one, bound with SO_REUSEADDR too, does not listen; so the
# reservation can stay for good, and connections are refused as long as no one listens.  Elsewhere it has to make room.


class ReservedPort:
    """Holds a TCP port of 127.0.0.1.

    Args:
        port: the port; 0 for any free one.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, port: int = 0) -> None:
        self._holder: socket.socket | None = self._bind(port)
        self.port: int = self._holder.getsockname()[1]

    def make_room(self) -> None:
        """Somebody is about to listen on the port."""
        if not _STAYS_BOUND:
            self.release()

    def move(self) -> None:
        """Take any other free port."""
        self.release()
        self._holder = self._bind(0)
        self.port = self._holder.getsockname()[1]

    def listen(self) -> socket.socket:
        """A non-blocking listening socket on the port."""
        self.make_room()
        listener = self._bind(self.port)
        try:
            listener.listen(128)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        return listener

    def release(self) -> None:
        """Give the port up.  May be called twice."""
        if self._holder is not None:
            self._holder.close()
            self._holder = None

    @staticmethod
    def _bind(port: int) -> socket.socket:
        holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind((LOOPBACK, port))
        except OSError as error:
            holder.close()
            raise OSError(error.errno, f"port {port} of {LOOPBACK} cannot be used: {error.strerror}") from error
        return holder
