"""The tracked connection: the one on which Redis tells of changed keys, and over which this instance writes meanwhile.

``CLIENT TRACKING on BCAST PREFIX <ns>: NOLOOP`` (Redis 6 and later, Valkey): Redis sends the names of changed keys as RESP3
push messages, without those that this connection itself changed last.  That is why plain writes take this connection,
all of them, in order (see ``near``, which says what follows).  They are pipelined: none waits for the one before.

redis-py knows RESP3 pushes, but hands them out only while somebody reads a reply, so that nobody is told while the
connection is idle; and its own near cache polls.  Hence its parser, hiredis, is used directly, on asyncio in the
transport's own callback, which costs a few µs for each message, elsewhere on anyio's streams.

What may not enter: which copies are kept, and when to connect.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, Final, Protocol, TypeVar, cast

import anyio
import anyio.abc
import hiredis
from anyio import to_thread
from anyio.streams.tls import TLSStream

from ..errors import RedisCommandError, Unavailable
from ..loops import on_trio
from .link import Argument, ClientId, Command, Identity, Link, Redirected, Shard, no_answer, outage, refusal
from .names import Names
from .packed_link import pack, pack_all
from .tls import Tls
from .url import Endpoint

__all__ = [
    "Broken",
    "Listener",
    "OneServer",
    "Tracked",
    "TrackedConnection",
    "TrackedLink",
    "Way",
    "open_tracked",
    "start_tracking",
]

T = TypeVar("T")

_INCOMPLETE: Final = object()
_Push: Final = hiredis.PushNotification
_RECEIVE_BYTES: Final = 65_536
_ROUND_TRIPS: Final = 2
"""So many pieces are under way at once.  One would double the time of a write where the network takes longer than Python;
with more, the pieces are smaller, and each costs a system call on both sides."""

_STILL_GATHERING: Final = 2
"""So many pieces of a single request are sent after one of several before a lone caller is held to be alone."""

_ENOUGH: Final = 24
"""So many requests go at once, although their turn may bring more: Redis works on them meanwhile."""

_MANY: Final = 4
"""After a piece of so many requests the next one is gathered for two turns of the event loop instead of one: among other calls,
which are busy elsewhere, that makes larger pieces, and a write takes hardly longer."""

_GONE: Final = (OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


class Listener(Protocol):
    """Told what a tracked connection hears, in the event loop, at once and in order."""

    def invalidate(self, keys: list[str] | None) -> None:
        """Somebody else changed these keys, given without namespace; None: everything was flushed."""
        ...

    def lose_track(self) -> None:
        """The connection is gone: changes are no longer told."""
        ...


class Broken(Exception):  # noqa: N818 - a condition, handled where it is met
    """The connection broke, or was closed here, before the reply was there."""


class Tracked(Protocol):
    """What a :class:`TrackedLink` writes over: one tracked connection, or several as one."""

    @property
    def is_open(self) -> bool:
        """Whether requests may be sent."""
        ...

    async def execute(self, command: Command) -> Any:
        """One command; as :meth:`call`, but a ``RedisCommandError`` is raised."""
        ...

    async def call(self, commands: Sequence[Command]) -> list[Any]:
        """One pipeline; see :meth:`TrackedConnection.call`."""
        ...

    async def check(self) -> None:
        """Ask whether it is still what is to be tracked.  Raises ``Unavailable`` or ``Broken`` if not."""
        ...

    async def run(self) -> None:
        """Returns once it is closed; must be running for anything to be received."""
        ...

    def when_answered(self, then: Callable[[], None]) -> None:
        """Call this once everything sent so far has its reply; never, if it breaks before."""
        ...

    def abort(self) -> None:
        """Give it up; never waits."""
        ...


class Way(Protocol):
    """How something tracked is opened."""

    async def open(self, listener: Listener) -> Tracked:
        """Connected, for the event loop that runs now; nothing is sent yet.  May raise ``Unavailable``."""
        ...

    async def start(self, tracked: Tracked) -> None:
        """Begin to track; it must be running.  May raise ``Unavailable`` or ``RedisCommandError``; it is closed then."""
        ...


class _Request(Protocol):
    """Commands that were sent together.  Whoever awaits it goes on once it has ended, or is late."""

    count: int
    replies: list[Any]
    then: tuple[Callable[[], None], ...]
    is_late: bool

    def end(self) -> None:
        """All replies are there, or none will come any more: let the caller go on."""
        ...

    def __await__(self) -> Generator[Any, None, None]: ...


class TrackedConnection(ABC):
    """What both kinds have in common: replies are given out in order, pushes are told at once.

    Attributes:
        is_open: whether requests may be sent.
        in_cluster: whether a ``Redirected`` is a reply.
    """

    def __init__(self, server: str, timeout: float, names: Names, listener: Listener, identity: Identity) -> None:
        self.is_open = False
        self.in_cluster = False
        self.client_id: ClientId | None = None
        self._identity = identity
        self._given_up: Unavailable | None = None
        self._server = server
        self._timeout = timeout
        self._names = names
        self._listener = listener
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self._requests: deque[_Request] = deque()

    async def call(self, commands: Sequence[Command]) -> list[Any]:
        """One pipeline; a command that Redis refuses for good has a ``RedisCommandError`` in its place.

        The caller may be cancelled: the commands are run all the same, and the connection stays in order.

        Raises:
            Unavailable: no reply in time, or Redis cannot serve; the connection is given up then, and what else is under way on
            it ends in the same way, with the very same exception.
            Broken: the connection broke by itself.
        """
        request = self._send(pack_all(commands), len(commands))
        await request
        return self._replies_to(request)

    async def execute(self, command: Command) -> Any:
        """One command; as :meth:`call`, but a ``RedisCommandError`` is raised."""
        request = self._send(pack(command), 1)
        await request
        replies = request.replies
        if replies and type(replies[0]) is not hiredis.ReplyError:
            return replies[0]
        (reply,) = self._replies_to(request)
        if isinstance(reply, RedisCommandError):
            raise reply
        return reply

    async def check(self) -> None:
        """Ask whether it lives.  Raises as :meth:`call`."""
        await self.call([("PING",)])

    def when_answered(self, then: Callable[[], None]) -> None:
        """Call this once everything sent so far has its reply; never, if the connection breaks before."""
        if self._requests:
            self._requests[-1].then += (then,)
        elif self.is_open:
            then()

    @abstractmethod
    def abort(self) -> None:
        """Give it up; never waits."""

    @abstractmethod
    async def connect(self, endpoint: Endpoint, tls: Tls) -> None:
        """Open the socket."""

    @abstractmethod
    async def run(self) -> None:
        """Returns once the connection is closed; must be running for anything to be received."""

    @abstractmethod
    def _send(self, commands: bytes, count: int) -> _Request:
        """Send so many commands, now or with those that others send in the same turn."""

    def _broken(self) -> Exception:
        """What to raise where no reply will come.  What was sent before the connection was given up may still arrive: a second
        try would be overtaken by the first."""
        return Broken() if self._given_up is None else self._given_up

    def _replies_to(self, request: _Request) -> list[Any]:
        """The replies to what has been sent, with errors sorted out."""
        replies = request.replies
        if len(replies) < request.count:
            if request.is_late:
                outage = no_answer(self._timeout, self._server)
                self._give_up(outage)
                raise outage
            raise self._broken()
        for i, reply in enumerate(replies):
            if isinstance(reply, hiredis.ReplyError):
                meaning = refusal(str(reply), self._server)
                if isinstance(meaning, Unavailable) and not (self.in_cluster and isinstance(meaning, Redirected)):
                    self._give_up(meaning)
                    raise meaning
                replies[i] = meaning
        return replies

    def _give_up(self, outage: Unavailable) -> None:
        if self._given_up is None:
            self._given_up = outage
            self.abort()

    def _received(self, data: bytes) -> None:
        requests, gets = self._requests, self._reader.gets
        try:
            self._reader.feed(data)
            while (reply := gets()) is not _INCOMPLETE:
                if type(reply) is _Push:
                    self._pushed(reply)
                    continue
                request = requests[0]
                request.replies.append(reply)
                if len(request.replies) == request.count:
                    requests.popleft()
                    request.end()
                    for then in request.then:
                        then()
        except (hiredis.ProtocolError, IndexError):  # not RESP3, or more replies than requests
            self.abort()

    def _pushed(self, message: list[Any]) -> None:
        if message[0] != b"invalidate":
            return
        names = message[1]
        self._listener.invalidate(
            None if names is None else [key for key in map(self._names.strip, names) if key is not None]
        )

    def _close(self) -> None:
        """No more is heard, from this moment."""
        if self.is_open:
            self.is_open = False
            if self._requests:
                self._identity.abandon(self.client_id)
            self._listener.lose_track()

    def _ended(self) -> None:
        """The connection is gone: nobody who waits will get a reply."""
        self._close()
        requests = list(self._requests)
        self._requests.clear()
        for request in requests:
            request.end()


class TrackedLink:
    """A :class:`~meshcache.redis.link.Link` for writes: over the tracked connection while there is one, else over another link.

    If the tracked connection breaks, the other link makes the second try, within the same time limit.

    Attributes:
        connection: the tracked connection, or several as one, or None.
        in_flight: commands or pipelines under way on the tracked connection.
    """

    def __init__(self, other: Link, endpoint_name: str, timeout: float) -> None:
        self.connection: Tracked | None = None
        self.identity = other.identity
        self.in_flight = 0
        self._other = other
        self._server = endpoint_name
        self._timeout = timeout

    async def execute(self, *command: Argument) -> Any:
        """One command; see :class:`~meshcache.redis.link.Link`."""
        connection = self.connection
        if connection is None or not connection.is_open:
            return await self._other.execute(*command)
        start = time.monotonic()
        self.in_flight += 1
        try:
            return await connection.execute(command)
        except Broken:
            pass
        finally:
            self.in_flight -= 1
        return await self._in_time(start, self._other.execute(*command))

    async def execute_many(self, commands: Sequence[Command]) -> list[Any]:
        """One pipeline; see :class:`~meshcache.redis.link.Link`."""
        connection = self.connection
        if connection is None or not connection.is_open or not commands:
            return await self._other.execute_many(commands)
        start = time.monotonic()
        self.in_flight += 1
        try:
            return await connection.call(commands)
        except Broken:
            pass
        finally:
            self.in_flight -= 1
        return await self._in_time(start, self._other.execute_many(commands))

    async def _in_time(self, start: float, second_try: Awaitable[T]) -> T:
        with anyio.move_on_after(self._timeout - (time.monotonic() - start)):
            return await second_try
        raise no_answer(self._timeout, self._server)

    async def shards(self) -> Sequence[Shard]:
        """Those of the other link."""
        return await self._other.shards()

    def when_answered(self, then: Callable[[], None]) -> None:
        """Call this once what was sent so far has its reply; never, if the tracked connection is gone or breaks before."""
        if self.connection is not None:
            self.connection.when_answered(then)

    def abort(self) -> None:
        """Give up the tracked connection; never waits."""
        if self.connection is not None:
            self.connection.abort()

    async def aclose(self) -> None:
        """Give up the tracked connection."""
        self.abort()


class OneServer:
    """The :class:`Way` to track one server.

    Args:
        find_server: tells where it is now; may raise ``Unavailable``.
        tls: the ``ssl_…`` options for the way there.
        names: the keys.
        identity: which server it must be.
        timeout: the longest wait for one reply, in seconds.
    """

    def __init__(
        self,
        find_server: Callable[[], Awaitable[Endpoint]],
        tls: Tls,
        names: Names,
        identity: Identity,
        timeout: float,
    ) -> None:
        self._find_server = find_server
        self._tls = tls
        self._names = names
        self._identity = identity
        self._timeout = timeout
        self._endpoint: Endpoint | None = None

    async def open(self, listener: Listener) -> TrackedConnection:
        """A connection to the server; see :class:`Way`."""
        self._endpoint = await self._find_server()
        return await open_tracked(
            self._endpoint, self._tls, self._names, listener, self._identity, timeout=self._timeout
        )

    async def start(self, tracked: Tracked) -> None:
        """The handshake; see :class:`Way`."""
        assert self._endpoint is not None
        assert isinstance(tracked, TrackedConnection)
        await start_tracking(tracked, self._endpoint, self._names, self._identity, timeout=self._timeout)


async def open_tracked(
    endpoint: Endpoint, tls: Tls, names: Names, listener: Listener, identity: Identity, *, timeout: float
) -> TrackedConnection:
    """A connected socket, for the event loop that runs now; nothing is sent yet: see :func:`start_tracking`.

    Raises:
        Unavailable: no connection within ``timeout`` seconds.
    """
    kind = _StreamConnection if on_trio() else _AsyncioConnection
    connection = kind(endpoint.name, timeout, names, listener, identity)
    connection.in_cluster = endpoint.in_cluster
    try:
        with anyio.fail_after(timeout):
            await connection.connect(endpoint, tls)
    except TimeoutError:
        raise no_answer(timeout, endpoint.name) from None
    except (OSError, anyio.BrokenResourceError) as error:
        raise outage(error, endpoint.name) from None
    return connection


async def start_tracking(
    connection: TrackedConnection, endpoint: Endpoint, names: Names, identity: Identity, *, timeout: float
) -> None:
    """The handshake: RESP3, who we are, and what to tell.  The connection must be running.

    ``timeout`` seconds are the longest wait for a credential provider.

    Raises:
        Unavailable: the connection broke, Redis cannot serve now, or it is not the server that was expected.
        RedisCommandError: this server or this user cannot have it.
    """
    commands: list[Command] = [("HELLO", "3", *await _login(endpoint, timeout))]
    if endpoint.db:
        commands.append(("SELECT", endpoint.db))
    asked = len(commands)
    commands += identity.greeting
    commands.append(("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", names.prefix, "NOLOOP"))
    try:
        replies = await connection.call(commands)
    except Broken:
        raise Unavailable(f"{endpoint.name}: connection closed") from None
    try:
        connection.client_id = identity.check(replies[asked:-1])
    except Unavailable:
        connection.abort()
        raise
    for reply in (*replies[:asked], replies[-1]):
        if isinstance(reply, RedisCommandError):
            connection.abort()
            raise reply


class _FutureRequest(asyncio.Future[None]):
    """A :class:`_Request` on asyncio."""

    __slots__ = ("began", "count", "is_late", "replies", "then")

    count: int
    replies: list[Any]
    then: tuple[Callable[[], None], ...]
    began: float
    is_late: bool

    def end(self) -> None:
        if not self.done():  # its caller may have gone away
            self.set_result(None)


async def _login(endpoint: Endpoint, timeout: float) -> tuple[str, ...]:
    """What HELLO is to be told of who we are."""
    if endpoint.credentials is None:
        known = endpoint.username or endpoint.password
        return ("AUTH", endpoint.username or "default", endpoint.password or "") if known else ()
    ask = endpoint.credentials
    with anyio.move_on_after(timeout):
        words = await (ask.get_credentials_in_thread() if on_trio() else ask.get_credentials_async())
        return ("AUTH", *(("default", *words) if len(words) == 1 else words))
    raise Unavailable(f"the credential provider did not answer within {timeout:g} s")


class _AsyncioConnection(TrackedConnection, asyncio.Protocol):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._loop = asyncio.get_running_loop()
        self._closed = anyio.Event()
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []
        self._last_piece = 0  # so many requests it had
        self._gathering = 0  # above it, several write at once: even the first waits for the others of its turn
        self._trips: deque[_Request] = deque()  # of each piece that was sent, the last request
        self._timer: asyncio.TimerHandle | None = None

    async def connect(self, endpoint: Endpoint, tls: Tls) -> None:
        if endpoint.scheme == "unix":
            await self._loop.create_unix_connection(lambda: self, endpoint.path)
        elif endpoint.scheme == "rediss":
            context = await asyncio.to_thread(tls.load)
            await self._loop.create_connection(
                lambda: self, endpoint.host, endpoint.port, ssl=context, server_hostname=endpoint.host
            )
        else:
            await self._loop.create_connection(lambda: self, endpoint.host, endpoint.port)

    async def run(self) -> None:
        await self._closed.wait()

    def abort(self) -> None:
        self._close()
        if self._transport is not None:
            self._transport.abort()

    def _send(self, commands: bytes, count: int) -> _FutureRequest:
        transport, loop, requests, unsent = self._transport, self._loop, self._requests, self._unsent
        if transport is None or not self.is_open or transport.is_closing():
            raise self._broken()
        request = _FutureRequest(loop=loop)
        request.count, request.replies, request.then = count, [], ()
        request.began, request.is_late = loop.time(), False
        is_alone = not requests and not self._gathering
        requests.append(request)
        unsent.append(commands)
        if is_alone or len(unsent) == _ENOUGH:
            self._flush()
        elif len(unsent) == 1:
            if self._last_piece < _MANY:
                loop.call_soon(self._flush)
            else:
                loop.call_soon(loop.call_soon, self._flush)
        if self._timer is None:
            self._watch(request)
        return request

    def _flush(self) -> None:
        """Send what was asked in a turn or two of the event loop, in one piece; so few at a time that the next is large, too."""
        transport, trips = self._transport, self._trips
        while trips and len(trips[0].replies) == trips[0].count:
            trips.popleft()
        if self._unsent and len(trips) < _ROUND_TRIPS and transport is not None and not transport.is_closing():
            if len(self._unsent) > 1:
                self._gathering = _STILL_GATHERING
            elif self._gathering:
                self._gathering -= 1
            self._last_piece = len(self._unsent)
            transport.write(b"".join(self._unsent))
            self._unsent.clear()
            trips.append(self._requests[-1])

    def _watch(self, oldest: _FutureRequest) -> None:
        self._timer = self._loop.call_at(oldest.began + self._timeout, self._check_time)

    def _check_time(self) -> None:
        """One timer for all: requests are answered in the order in which they began."""
        self._timer = None
        now = self._loop.time()
        for request in cast("deque[_FutureRequest]", self._requests):
            if request.done():
                continue  # its caller went away
            if (
                request.began + self._timeout > now
            ):  # the very sum of _watch: rounded otherwise, this might be early for ever
                self._watch(request)
                return
            request.is_late = True
            request.end()

    # -- what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        self._received(data)
        if self._unsent:
            self._loop.call_soon(self._flush)  # after those who go on now, and may ask the next

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._ended()
        self._closed.set()


class _EventRequest:
    """A :class:`_Request` on any event loop."""

    def __init__(self, count: int, timeout: float) -> None:
        self.count = count
        self.replies: list[Any] = []
        self.then: tuple[Callable[[], None], ...] = ()
        self.is_late = False
        self._timeout = timeout
        self._has_ended = anyio.Event()

    def end(self) -> None:
        self._has_ended.set()

    def __await__(self) -> Generator[Any, None, None]:
        with anyio.move_on_after(self._timeout) as scope:  # noqa: ASYNC100 - what is waited for here waits
            yield from self._has_ended.wait().__await__()
        self.is_late = scope.cancelled_caught


class _StreamConnection(TrackedConnection):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._stream: anyio.abc.ByteStream | None = None
        self._unsent: list[bytes] = []
        self._work = anyio.Event()  # set once there is something to send
        self._scope = anyio.CancelScope()

    async def connect(self, endpoint: Endpoint, tls: Tls) -> None:
        if endpoint.scheme == "unix":
            self._stream = await anyio.connect_unix(endpoint.path)
        else:
            self._stream = await anyio.connect_tcp(endpoint.host, endpoint.port)
        if endpoint.scheme == "rediss":
            try:
                context = await to_thread.run_sync(tls.load)
                self._stream = await TLSStream.wrap(
                    self._stream,
                    server_side=False,
                    hostname=endpoint.host,
                    ssl_context=context,
                    standard_compatible=False,
                )
            except BaseException:
                await anyio.aclose_forcefully(self._stream)  # nobody else would
                raise
        self.is_open = True

    async def run(self) -> None:
        assert self._stream is not None
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._send_all)
                    await self._receive()
        finally:
            self._ended()
            await anyio.aclose_forcefully(self._stream)

    def abort(self) -> None:
        self._close()
        self._scope.cancel()

    def _send(self, commands: bytes, count: int) -> _EventRequest:
        if not self.is_open:
            raise self._broken()
        request = _EventRequest(count, self._timeout)
        self._requests.append(request)
        self._unsent.append(commands)
        self._work.set()
        return request

    async def _receive(self) -> None:
        assert self._stream is not None
        try:
            while True:
                self._received(await self._stream.receive(_RECEIVE_BYTES))
        except _GONE:
            self.abort()

    async def _send_all(self) -> None:
        """What was asked meanwhile goes out in one piece.  A task of its own: no caller that is cancelled leaves half a
        command behind."""
        assert self._stream is not None
        try:
            while True:
                await self._work.wait()
                self._work = anyio.Event()
                request = b"".join(self._unsent)
                self._unsent.clear()
                await self._stream.send(request)
        except _GONE:
            self.abort()
