"""The link on asyncio (and uvloop): redis-py's asyncio connections, with a pool and a time limit of our own.

redis-py's client is left out because its way is long (locks, retries, metrics and checks for each command), and because
its pool hands out the connections that a restart has broken one after the other.  Its connections are used as they are:
they know the handshake, TLS and the protocol.

Pinned on purpose: RESP2 (no HELLO, so a plain connection is ready when its socket is), no CLIENT SETINFO, no retries, no
health checks, no time limits of redis-py's (each would cost a task for each command).  Maintenance notifications belong
to its pool, which is not used.  Nothing is made before the event loop runs.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.asyncio.connection import AbstractConnection, Connection, UnixDomainSocketConnection
from redis.exceptions import RedisError

from ..errors import Unavailable
from .link import ClientId, Identity, may_try_again, no_answer, outage
from .packed_link import BROKEN, PackedLink, as_reply, pack_all, refused_handshake
from .tls import Tls
from .url import Endpoint

__all__ = ["AsyncioLink"]


class AsyncioLink(PackedLink):
    """A :class:`~meshcache.redis.link.Link` on asyncio.

    Args:
        endpoint: where Redis is.
        timeout: the longest that a call waits, in seconds.
        connections: how many connections it opens at most.
        identity: of the whole that this server is a part of; None for one of its own.
    """

    def __init__(
        self, endpoint: Endpoint, *, timeout: float, connections: int, identity: Identity | None = None
    ) -> None:
        super().__init__(endpoint, timeout, identity)
        self._factory = _Factory(endpoint)
        self._free = asyncio.Semaphore(connections)
        self._idle: list[_Connection] = []  # the one used last is at the end
        self._closed = False

    async def aclose(self) -> None:
        """Close the idle connections now; those in use when their call ends."""
        self._closed = True
        self._drop_idle()
        await asyncio.sleep(0)  # the event loop closes the sockets in its next turn

    async def _call(self, request: bytes, count: int) -> list[Any]:
        self.in_flight += 1
        try:
            async with asyncio.timeout(self._timeout), self._free:  # a timer of the event loop, not a task
                return await self._exchange(request, count)
        except TimeoutError:
            # The idle ones may lead into the same silence (a forgetful NAT), and each would cost another timeout.
            self._drop_idle()
            raise no_answer(self._timeout, self._server) from None
        except Unavailable:
            self._drop_idle()  # broken by the same restart, or connected to what is a replica now
            raise
        finally:
            self.in_flight -= 1

    async def _exchange(self, request: bytes, count: int) -> list[Any]:
        """Send and receive on one connection; if that breaks, once more on a fresh one."""
        if self._closed:
            raise Unavailable(f"the link to {self._server} is closed")
        try:
            return await self._talk(await self._reuse() or await self._open(), request, count)
        except BROKEN as error:
            if not may_try_again(error):
                raise outage(error, self._server) from None
        self._drop_idle()
        try:
            return await self._talk(await self._open(), request, count)
        except BROKEN as error:
            raise outage(error, self._server) from None

    async def _talk(self, connection: _Connection, request: bytes, count: int) -> list[Any]:
        try:
            replies = await self._round_trip(connection, request, count)
        except BaseException:  # the caller's cancellation, too: a reply may be outstanding
            self.identity.abandon(connection.client_id)
            connection.abort()
            raise
        if self._closed:
            connection.abort()
        else:
            self._idle.append(connection)
        return replies

    async def _round_trip(self, connection: _Connection, request: bytes, count: int) -> list[Any]:
        await connection.send_packed_command(request, check_health=False)
        replies = [await self._read(connection)]
        next_reply = connection.next_reply
        while len(replies) < count:
            reply = next_reply()
            if reply is NOT_ENOUGH_DATA:
                reply = await self._read(connection)
            elif isinstance(reply, RedisError):
                reply = as_reply(reply, self._server)
            replies.append(reply)
        return replies

    async def _read(self, connection: _Connection) -> Any:
        try:
            return await connection.read_response()
        except RedisError as error:
            return as_reply(error, self._server)

    async def _reuse(self) -> _Connection | None:
        """The idle connection used last.  If it was closed, or was sent what nobody asked for, no idle one is trusted."""
        if not self._idle:
            return None
        connection = self._idle.pop()
        if not (connection.is_closing or await connection.can_read()):
            return connection
        connection.abort()
        self._drop_idle()
        return None

    async def _open(self) -> _Connection:
        connection = await self._factory.make()
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            greeting = self.identity.greeting
            replies = await self._round_trip(connection, pack_all(greeting), len(greeting))
            connection.client_id = self.identity.check(replies)
        except BaseException as error:
            connection.abort()
            if isinstance(error, RedisError) and (refused := refused_handshake(error, self._server)):
                raise refused from None
            raise
        return connection

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().abort()


# -- redis-py's connections


class _Connection(AbstractConnection):
    """Closes at once.  redis-py's own way first sends what is not sent yet, which a server that hangs never lets end."""

    __slots__ = ()

    client_id: ClientId | None = None

    def abort(self) -> None:
        """Give it up; never waits."""
        self._parser.on_disconnect()  # type: ignore[no-untyped-call]
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None

    @property
    def next_reply(self) -> Callable[[], Any]:
        """Gives the next reply, if all of it is there; otherwise ``NOT_ENOUGH_DATA``.  An error reply is returned, not raised."""
        return self._parser._reader.gets  # type: ignore[attr-defined, no-any-return]

    @property
    def is_closing(self) -> bool:
        """Whether the other side or an error has closed it already."""
        return self._writer is None or self._writer.transport.is_closing()

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Write; the connection is open."""
        if self.is_closing:  # to write then is a bare RuntimeError on uvloop
            raise ConnectionResetError
        await super().send_packed_command(command, check_health)

    async def disconnect(self, *_: Any, **__: Any) -> None:
        """What redis-py calls when anything goes wrong."""
        self.abort()


class _TcpConnection(_Connection, Connection):
    pass


class _TlsConnection(_Connection, Connection):
    def __init__(self, *, tls: ssl.SSLContext, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._tls = tls

    async def _connect(self) -> None:
        await super()._connect()  # type: ignore[no-untyped-call]
        assert self._writer is not None
        # Not in one step: a caller who is cancelled then makes uvloop write to a socket that is closed, and log that.
        await self._writer.start_tls(self._tls, server_hostname=self.host)


class _UnixConnection(_Connection, UnixDomainSocketConnection):
    async def _connect(self) -> None:
        # redis-py's own does the handshake here and then once more, and hides what went wrong in the first.
        self._reader, self._writer = await asyncio.open_unix_connection(path=self.path)


class _Factory:
    """Makes connections, not yet connected."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._tls = Tls(endpoint.tls)
        self._scheme = endpoint.scheme
        self._arguments = {
            **endpoint.connection_arguments(),
            "protocol": 2,
            "driver_info": None,
            "socket_timeout": None,
            "socket_connect_timeout": None,
        }

    async def make(self) -> _Connection:
        if self._scheme == "rediss":
            context = self._tls.context
            if context is None:
                context = await asyncio.to_thread(self._tls.load)
            return _TlsConnection(tls=context, **self._arguments)
        return (_UnixConnection if self._scheme == "unix" else _TcpConnection)(**self._arguments)
