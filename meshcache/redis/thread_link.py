"""The link where there is no asyncio, on trio: redis-py's blocking connections in worker threads.

A call is one hop to a thread, which talks to Redis and comes back.  When its time is over or the caller is cancelled, the
thread is left alone: it ends by its own socket timeout, and then returns or closes the connection.  The threads have a
limiter of their own, so that a hanging name server starves nobody else's threads.

Pinned as in ``asyncio_link``: RESP2, no CLIENT SETINFO, no retries, no health checks.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import anyio
import anyio.to_thread
from redis.connection import Connection, UnixDomainSocketConnection
from redis.exceptions import RedisError

from ..errors import Unavailable
from .link import ClientId, Identity, may_try_again, no_answer, outage
from .packed_link import BROKEN, PackedLink, as_reply, pack_all, refused_handshake
from .tls import Tls
from .url import Endpoint

__all__ = ["ThreadLink"]


class ThreadLink(PackedLink):
    """A :class:`~meshcache.redis.link.Link` in worker threads.

    Args:
        endpoint: where Redis is.
        timeout: the longest that a call waits, in seconds.
        connections: how many connections, and threads, it uses at most.
        identity: of the whole that this server is a part of; None for one of its own.
    """

    def __init__(
        self, endpoint: Endpoint, *, timeout: float, connections: int, identity: Identity | None = None
    ) -> None:
        super().__init__(endpoint, timeout, identity)
        self._limiter = anyio.CapacityLimiter(connections)
        self._talker = _Talker(endpoint, timeout, self.identity)

    async def aclose(self) -> None:
        """Close the idle connections now; those in use when their thread is done with them."""
        self._talker.close()

    async def _call(self, request: bytes, count: int) -> list[Any]:
        self.in_flight += 1
        deadline = time.monotonic() + self._timeout
        using = _Using()
        try:
            with anyio.move_on_after(self._timeout):
                return await anyio.to_thread.run_sync(
                    self._talker.exchange,
                    request,
                    count,
                    deadline,
                    using,
                    abandon_on_cancel=True,
                    limiter=self._limiter,
                )
        except anyio.get_cancelled_exc_class():
            using.give_up(self.identity)
            raise
        finally:
            self.in_flight -= 1
        using.give_up(self.identity)
        self._talker.drop_idle()
        raise no_answer(self._timeout, self._server)


class _Using:
    """The connections that a call sends on, and whether anybody still waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: list[ClientId | None] = []
        self._is_given_up = False

    def begin(self, client_id: ClientId | None) -> bool:
        """The thread is about to send; False if it must not: nobody would know that this may still arrive."""
        with self._lock:
            self._clients.append(client_id)
            return not self._is_given_up

    def give_up(self, identity: Identity) -> None:
        """Nobody waits any more; the thread may go on for a moment."""
        with self._lock:
            self._is_given_up = True
        for client_id in self._clients:
            identity.abandon(client_id)


class _Connection(Protocol):
    """What is used of redis-py's blocking connections, which have no types."""

    client_id: ClientId | None

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def can_read(self, timeout: float) -> bool: ...
    def send_packed_command(self, command: list[bytes], check_health: bool) -> None: ...
    def read_response(self) -> Any: ...


class _TcpConnection(Connection):
    client_id: ClientId | None = None


class _UnixConnection(UnixDomainSocketConnection):
    client_id: ClientId | None = None


class _TlsConnection(_TcpConnection):
    def __init__(self, *, tls: Tls, **arguments: Any) -> None:
        super().__init__(**arguments)  # type: ignore[no-untyped-call]
        self._tls = tls

    def _connect(self) -> ssl.SSLSocket:
        plain = super()._connect()  # type: ignore[no-untyped-call]
        try:
            return self._tls.load().wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise


class _Talker:
    """What happens in the threads.  Its idle connections are shared by them; one in use belongs to one thread."""

    def __init__(self, endpoint: Endpoint, timeout: float, identity: Identity) -> None:
        self._identity = identity
        self._server = endpoint.name
        self._timeout = timeout
        self._make: Callable[..., _Connection] = _TcpConnection
        self._arguments = {
            **endpoint.connection_arguments(),
            "protocol": 2,
            "driver_info": None,
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
        }
        if endpoint.scheme == "rediss":
            self._make = _TlsConnection
            self._arguments["tls"] = Tls(endpoint.tls)
        elif endpoint.scheme == "unix":
            self._make = _UnixConnection
        self._idle: list[_Connection] = []  # the one used last is at the end
        self._lock = threading.Lock()
        self._closed = False

    def exchange(self, request: bytes, count: int, deadline: float, using: _Using) -> list[Any]:
        """Send and receive on one connection; if that breaks before the deadline, once more on a fresh one.

        ``using`` is told the client ids of both, and asked whether the second may still be used.
        """
        try:
            return self._exchange(request, count, deadline, using)
        except Unavailable:
            self.drop_idle()  # broken by the same restart, or connected to what is a replica now
            raise

    def _exchange(self, request: bytes, count: int, deadline: float, using: _Using) -> list[Any]:
        if self._closed:
            raise Unavailable(f"the link to {self._server} is closed")
        try:
            return self._talk(self._reuse() or self._open(), request, count, using)
        except BROKEN as error:
            if not may_try_again(error) or time.monotonic() >= deadline:
                raise self._cause(error, deadline) from None
        self.drop_idle()
        try:
            return self._talk(self._open(), request, count, using)
        except BROKEN as error:
            raise self._cause(error, deadline) from None

    def _cause(self, error: BaseException, deadline: float) -> Unavailable:
        late = time.monotonic() >= deadline
        return no_answer(self._timeout, self._server) if late else outage(error, self._server)

    def drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.disconnect()

    def close(self) -> None:
        self._closed = True
        self.drop_idle()

    def _talk(self, connection: _Connection, request: bytes, count: int, using: _Using) -> list[Any]:
        if not using.begin(connection.client_id):
            connection.disconnect()
            raise no_answer(self._timeout, self._server)
        try:
            replies = self._round_trip(connection, request, count)
        except BaseException:  # a reply may be outstanding
            self._identity.abandon(connection.client_id)
            connection.disconnect()
            raise
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return replies
        connection.disconnect()
        return replies

    def _round_trip(self, connection: _Connection, request: bytes, count: int) -> list[Any]:
        connection.send_packed_command([request], check_health=False)
        return [self._read(connection) for _ in range(count)]

    def _read(self, connection: _Connection) -> Any:
        try:
            return connection.read_response()
        except RedisError as error:
            return as_reply(error, self._server)

    def _reuse(self) -> _Connection | None:
        """The idle connection used last.  If it was closed, or was sent what nobody asked for, no idle one is trusted."""
        with self._lock:
            if not self._idle:
                return None
            connection = self._idle.pop()
        try:
            if not connection.can_read(0):
                return connection
        except BROKEN:
            pass
        connection.disconnect()
        self.drop_idle()
        return None

    def _open(self) -> _Connection:
        connection = self._make(**self._arguments)
        try:
            connection.connect()
            greeting = self._identity.greeting
            replies = self._round_trip(connection, pack_all(greeting), len(greeting))
            connection.client_id = self._identity.check(replies)
        except BaseException as error:
            connection.disconnect()
            if isinstance(error, RedisError) and (refused := refused_handshake(error, self._server)):
                raise refused from None
            raise
        return connection
