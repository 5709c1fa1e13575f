"""A TCP proxy that plays the outages of a network: refused, silent, half-open, slow, reset.

It runs in one thread of its own and may be driven from any thread; it knows nothing of Redis' protocol.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import struct
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from .ports import LOOPBACK, ReservedPort

if TYPE_CHECKING:
    from typing import Self

__all__ = ["OutageProxy"]

_CHUNK_BYTES = 65_536
_LATE_BYTES = 2**24  # so much is under way in one direction of a slow connection at most
_LINGER_NOT = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds: close() sends RST


class OutageProxy:
    """A proxy on 127.0.0.1 in front of one server; it forwards until told otherwise.

    Every switch has taken effect, on connections that are open too, when its call returns, and may be made at any time
    from any thread.

    ::

        with RedisServer() as server, OutageProxy(server.host, server.port) as proxy:
            cache = MeshCache(proxy.url)
            ...
            proxy.silence()

    A connection that the server refuses is accepted here and then reset: a proxy cannot know before.

    Args:
        host: the server's host name or IP address.
        port: the server's TCP port.
        source: the IP address from which the server is asked; None for any.  On Linux all of 127.0.0.0/8 may be used, so
            that one can see at the server which proxy a connection comes from.

    Raises:
        OSError: no port is free, or ``host`` cannot be resolved.
    """

    host = LOOPBACK

    def __init__(self, host: str, port: int, *, source: str | None = None) -> None:
        family, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._loop = _Loop(family, target, source)
        self._finalizer = weakref.finalize(self, self._loop.stop, os.getpid())
        self.port: int = self._loop.reserved.port

    @property
    def url(self) -> str:
        """For example ``redis://127.0.0.1:40002/0``."""
        return f"redis://{self.host}:{self.port}/0"

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._loop.connections)

    def forward(self) -> None:
        """Pass everything on: the healthy network.  What :meth:`silence` held back is passed on now, in order."""
        self._loop.call(self._loop.forward)

    def refuse(self) -> None:
        """Nothing listens on the port any more (``ECONNREFUSED``), and open connections are reset: the server is down."""
        self._loop.call(self._loop.refuse)

    def silence(self) -> None:
        """Accept connections and pass nothing on, in either direction: packets are dropped, or the server hangs.

        What either side sends meanwhile is held back, and so is the end of a connection; :meth:`forward` passes it on,
        :meth:`reset` and :meth:`refuse` discard it.  Connections made meanwhile reach the server at :meth:`forward`.
        """
        self._loop.call(self._loop.silence)

    def half_open(self) -> None:
        """Pass on what clients send, and hold back every reply: the server does what it is asked, and nobody hears of it.

        What the server sends meanwhile is passed on at :meth:`forward`; :meth:`reset` and :meth:`refuse` discard it.
        """
        self._loop.call(self._loop.half_open)

    def slow(self, delay: float) -> None:
        """Pass everything on, ``delay`` seconds late in each direction; in order, and no slower than that however much it is.

        What is under way when this ends is late no longer.

        Raises:
            ValueError: the delay is not above 0.
        """
        if not 0 < delay < inf:
            raise ValueError(f"{delay!r} is not a number of seconds above 0")
        self._loop.call(lambda: self._loop.slow(delay))

    def reset(self) -> None:
        """Reset all open connections once (``ECONNRESET``); new ones are treated as before."""
        self._loop.call(self._loop.reset)

    def close(self) -> None:
        """Reset all connections and end the thread.  May be called twice."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<OutageProxy {self.url} {self._loop.state}>"


class _Direction:
    """Bytes under way from one socket to the other.

    Attributes:
        flows: whether any may be passed on now.
        held: may be passed on, and the target has not taken them yet.
        ended: the source has sent its last byte.
        finished: and the target was told.
    """

    __slots__ = ("_late", "_late_bytes", "ended", "finished", "flows", "held")

    def __init__(self) -> None:
        self.flows = True
        self.held = bytearray()
        self.ended = False
        self.finished = False
        self._late: deque[tuple[float, bytes]] = deque()  # each with the moment when it may be passed on
        self._late_bytes = 0

    @property
    def takes(self) -> bool:
        """Whether more may be read from the source."""
        return self.flows and not self.ended and not self.held and self._late_bytes < _LATE_BYTES

    @property
    def waits(self) -> bool:
        """Whether the target has to take something now."""
        return self.flows and bool(self.held)

    @property
    def due(self) -> float:
        """When something may be passed on that is late now; ``inf`` if nothing is, or nothing flows."""
        return self._late[0][0] if self._late and self.flows else inf

    def take(self, data: bytes, due: float) -> None:
        """What was read; nothing at the end."""
        self.ended = not data
        self._late.append((due, data))
        self._late_bytes += len(data)

    def ripen(self, now: float) -> None:
        """What is due by now may be passed on."""
        while self._late and self._late[0][0] <= now:
            data = self._late.popleft()[1]
            self._late_bytes -= len(data)
            self.held += data

    def flush(self, target: socket.socket) -> None:
        """Write what is held, as far as the target takes it; then pass the end on, if it has come."""
        if not self.flows:
            return
        if self.held:
            del self.held[: target.send(self.held)]
        if self.ended and not self.held and not self._late and not self.finished:
            self.finished = True
            target.shutdown(socket.SHUT_WR)


class _Connection:
    """A client and its connection to the server; moves bytes, and knows when it is done."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.server: socket.socket | None = None  # made when the first byte may flow
        self.connecting = False
        self.to_server = _Direction()
        self.to_client = _Direction()

    def connect(self, family: int, target: object, source: str | None) -> None:
        self.server = _prepare(socket.socket(family, socket.SOCK_STREAM))
        if source is not None:
            self.server.bind((source, 0))
        self.connecting = True
        code = self.server.connect_ex(target)  # type: ignore[arg-type]  # as getaddrinfo gave it
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))

    def wishes(self, side: socket.socket) -> int:
        """The events that this side waits for while bytes may flow."""
        if self.connecting:
            return selectors.EVENT_WRITE if side is self.server else 0
        outwards, inwards = self._directions(side)
        return (selectors.EVENT_READ if outwards.takes else 0) | (selectors.EVENT_WRITE if inwards.waits else 0)

    def handle(self, side: socket.socket, events: int, delay: float) -> None:
        """Raises OSError when either side broke."""
        if self.connecting:
            code = side.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            self.connecting = False
            return
        outwards, inwards = self._directions(side)
        if events & selectors.EVENT_WRITE:
            inwards.flush(side)
        if events & selectors.EVENT_READ:
            now = time.monotonic()
            outwards.take(side.recv(_CHUNK_BYTES), now + delay)
            outwards.ripen(now)
            outwards.flush(self._other(side))

    @property
    def due(self) -> float:
        """When some bytes may be passed on that are late now."""
        return inf if self.connecting else min(self.to_server.due, self.to_client.due)

    def ripen(self, now: float) -> None:
        """Pass on what is due by now.  Raises OSError when either side broke."""
        if self.server is None or self.connecting:
            return
        for direction, target in ((self.to_server, self.server), (self.to_client, self.client)):
            direction.ripen(now)
            with contextlib.suppress(BlockingIOError, InterruptedError):
                direction.flush(target)

    @property
    def done(self) -> bool:
        return self.to_server.finished and self.to_client.finished

    @property
    def sockets(self) -> list[socket.socket]:
        return [self.client] if self.server is None else [self.client, self.server]

    def close(self, *, reset: bool) -> None:
        for side in self.sockets:
            if reset:
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            side.close()

    def _directions(self, side: socket.socket) -> tuple[_Direction, _Direction]:
        """What leaves this side, and what arrives at it."""
        return (self.to_server, self.to_client) if side is self.client else (self.to_client, self.to_server)

    def _other(self, side: socket.socket) -> socket.socket:
        return self.client if side is not self.client or self.server is None else self.server


class _Loop:
    """The thread, its selector, and the states of the wire.  All but ``call`` and ``stop`` runs in the thread."""

    def __init__(self, family: int, target: object, source: str | None) -> None:
        self.reserved = ReservedPort()
        self.connections: set[_Connection] = set()
        self.state = "forward"
        self._delay = 0.0
        self._family = family
        self._target = target
        self._source = source
        self._selector = selectors.DefaultSelector()
        self._waker, self._wakened = socket.socketpair()
        self._wakened.setblocking(False)
        self._selector.register(self._wakened, selectors.EVENT_READ)
        self._listener: socket.socket | None = None
        self._calls: deque[_Call] = deque()
        self._lock = threading.Lock()  # no call is queued after the last
        self._stopped = False
        self._listen()
        self._thread = threading.Thread(target=self._run, name="meshcache-outage-proxy", daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], None]) -> None:
        """Run it in the thread and wait for it.  From any other thread."""
        call = _Call(function)
        with self._lock:
            if self._stopped:
                raise RuntimeError("this OutageProxy is closed; make a new one")
            self._calls.append(call)
            self._waker.send(b"\0")
        call.done.wait()
        if call.error is not None:
            raise call.error

    def stop(self, owner_pid: int) -> None:
        if os.getpid() != owner_pid:  # a forked child has no such thread
            return
        with self._lock:
            if not self._stopped:
                self._stopped = True
                self._waker.send(b"\0")
        self._thread.join()

    def forward(self) -> None:
        self._pass_on("forward")

    def silence(self) -> None:
        self._pass_on("silence")

    def half_open(self) -> None:
        self._pass_on("half-open")

    def slow(self, delay: float) -> None:
        self._pass_on("slow", delay)

    def _pass_on(self, state: str, delay: float = 0.0) -> None:
        self.state, self._delay = state, delay
        self._listen()
        for connection in list(self.connections):
            self._open(connection)
            if self._ripen(connection, inf):
                self._arm(connection)

    def refuse(self) -> None:
        self.state = "refuse"
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None
        self._drop_all()

    def reset(self) -> None:
        self._accept()
        self._drop_all()

    def _run(self) -> None:
        try:
            while not self._stopped or self._calls:
                for key, events in self._selector.select(self._pause()):
                    if key.fileobj is self._wakened:
                        self._wakened.recv(_CHUNK_BYTES)
                    elif key.fileobj is self._listener:
                        self._accept()
                    elif key.data in self.connections:  # may have gone in this very round
                        self._move(key.data, key.fileobj, events)  # type: ignore[arg-type]
                self._pass_on_late()
                while self._calls:
                    self._calls.popleft().run()
        finally:
            self._close()

    def _close(self) -> None:
        self.refuse()
        self.reserved.release()
        self._selector.close()
        with self._lock:  # nobody wakes a thread that has ended, however it ended, or waits for it
            self._stopped = True
            self._waker.close()
            self._wakened.close()
            while self._calls:
                self._calls.popleft().fail(RuntimeError("this OutageProxy has ended"))

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = self.reserved.listen()
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _accept(self) -> None:
        while self._listener is not None:
            try:
                client, _ = self._listener.accept()
            except OSError:  # nobody waits, or who waited has gone
                return
            connection = _Connection(_prepare(client))
            self.connections.add(connection)
            self._arm(connection)

    def _move(self, connection: _Connection, side: socket.socket, events: int) -> None:
        try:
            connection.handle(side, events, self._delay)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._drop(connection, reset=True)
            return
        self._arm(connection)

    def _arm(self, connection: _Connection) -> None:
        """Let the selector watch what this connection waits for; nothing at all while the wire is silent."""
        if connection.done:
            self._drop(connection, reset=False)
            return
        self._open(connection)
        if connection.to_server.flows and connection.server is None:
            try:
                connection.connect(self._family, self._target, self._source)
            except OSError:
                self._drop(connection, reset=True)
                return
        for side in connection.sockets:
            wishes = connection.wishes(side) if connection.to_server.flows else 0
            watched = self._selector.get_map().get(side)
            if watched is None:
                if wishes:
                    self._selector.register(side, wishes, connection)
            elif not wishes:
                self._selector.unregister(side)
            elif wishes != watched.events:
                self._selector.modify(side, wishes, connection)

    def _open(self, connection: _Connection) -> None:
        connection.to_server.flows = self.state != "silence"
        connection.to_client.flows = self.state not in ("silence", "half-open")

    def _ripen(self, connection: _Connection, now: float) -> bool:
        """Pass on what is due by now; False if the connection broke of that."""
        try:
            connection.ripen(now)
        except OSError:
            self._drop(connection, reset=True)
            return False
        return True

    def _pause(self) -> float | None:
        """Until something late is due, in seconds; None if nothing is late."""
        due = min((connection.due for connection in self.connections), default=inf)
        return None if due == inf else max(0.0, due - time.monotonic())

    def _pass_on_late(self) -> None:
        now = time.monotonic()
        for connection in [one for one in self.connections if one.due <= now]:
            if self._ripen(connection, now):
                self._arm(connection)

    def _drop_all(self) -> None:
        for connection in list(self.connections):
            self._drop(connection, reset=True)

    def _drop(self, connection: _Connection, *, reset: bool) -> None:
        for side in connection.sockets:
            if side in self._selector.get_map():
                self._selector.unregister(side)
        connection.close(reset=reset)
        self.connections.discard(connection)


class _Call:
    """A function for the thread to run, and its outcome."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self.done = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._function()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that asked
            self.error = error
        finally:
            self.done.set()

    def fail(self, error: BaseException) -> None:
        self.error = error
        self.done.set()


def _prepare(side: socket.socket) -> socket.socket:
    side.setblocking(False)
    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return side
