"""A proxy that knows the tracked connection from the others, and can delay, mute or cut the one kind."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Self

from tests.support import free_port

__all__ = ["Wires"]


class Wires:
    """Forwards TCP between a cache and its Redis.

    Attributes:
        reply_delay: seconds that each piece of what Redis sends on ordinary connections is held up.
        tracked_delay: the same, on the tracked connection.
        mute_tracked: whether nothing passes on the tracked connection any more, in either direction.
        refuse_tracked: whether a connection is cut as soon as it shows that it wants to be the tracked one.
        lose_replies: so many of the next pieces that Redis sends are lost, and their connections are cut.
        tracked: how many tracked connections there have been.
    """

    def __init__(self, host: str, port: int) -> None:
        self.reply_delay: Callable[[], float] | None = None
        self.tracked_delay: Callable[[], float] | None = None
        self.mute_tracked = False
        self.refuse_tracked = False
        self.lose_replies = 0
        self.tracked = 0
        self.port = free_port()
        self._target = (host, port)
        self._sockets: set[socket.socket] = set()
        self._tracked_now: tuple[socket.socket, socket.socket] | None = None
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._thread(self._accept)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut_tracked(self) -> None:
        """End the tracked connection; all others live on."""
        assert self._tracked_now is not None
        self._end(*self._tracked_now)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end(self._listener, *list(self._sockets))

    def _thread(self, target: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=target, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._thread(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        self._sockets.add(client)
        try:
            first = client.recv(65_536)
            server = socket.create_connection(self._target)
        except OSError:
            self._end(client)
            return
        self._sockets.add(server)
        is_tracked = b"TRACKING" in first
        if is_tracked:
            self.tracked += 1
            self._tracked_now = client, server
            if self.refuse_tracked:
                self._end(client, server)
                return
        with contextlib.suppress(OSError):  # the other end, or this proxy, may be gone at any moment
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._thread(self._pump, server, client, is_tracked)
            while first:
                self._wait_while_mute(is_tracked)
                server.sendall(first)
                first = client.recv(65_536)
        self._end(client, server)

    def _pump(self, server: socket.socket, client: socket.socket, is_tracked: bool) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65_536):
                self._wait_while_mute(is_tracked)
                if self.lose_replies:
                    self.lose_replies -= 1
                    break
                delay = self.tracked_delay if is_tracked else self.reply_delay
                if delay is not None:
                    time.sleep(delay())
                client.sendall(data)
        self._end(client, server)

    def _wait_while_mute(self, is_tracked: bool) -> None:
        while is_tracked and self.mute_tracked:
            time.sleep(0.01)

    def _end(self, *sockets: socket.socket) -> None:
        for end in sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
            self._sockets.discard(end)
