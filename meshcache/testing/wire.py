"""TCP between instances and a Redis, simulated: a server process that can be killed, started, stopped and continued, and for
each instance a wire to it that can be cut in several ways.

What is sent stays in order within a connection.  What was sent before a cut, or before the sender gave the connection up, may
still arrive long after: that is what TCP does, and one of the dangers that this is made for.

What may not enter: what instances are, schedules.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from math import inf
from random import Random
from typing import Any, Final

import hiredis

from .redis_model import RedisModel, ReplyError, Simple, Snapshot
from .virtual import Process, VirtualLoop

__all__ = ["CUTS", "ServerProcess", "Wire"]

CUTS: Final = ("refuse", "silent", "half-open", "slow")
"""``refuse``
    Connections are reset, and new ones refused.
``silent``
    Nothing gets through, in either direction.
``half-open``
    What the instance sends arrives, and nothing comes back.
``slow``
    Everything takes long.
"""

_QUICK: Final = (0.00005, 0.0006)
_SLOW: Final = (0.05, 0.3)
_LONGEST_RETRANSMISSION: Final = 3.0
_GIVEN_UP: Final = 0.4
_ATOMIC: Final = 0.8
"""So often is a pipeline run in one go."""

_INTERLEAVED: Final = 0.002
_EXPIRY_CYCLE: Final = 0.1

_EMPTY: Final = object()

Listener = Callable[[str, list[bytes], Any], None]


class _End:
    """The end of one direction of a connection."""


_FIN: Final = _End()
_RESET: Final = _End()

_Sent = bytes | _End


class ServerProcess:
    """A Redis behind its address.

    Args:
        loop: tells the time.
        random: everything random follows from it.
        page: see :class:`~meshcache.testing.redis_model.RedisModel`.

    Attributes:
        model: the process that runs now, also while it is stopped; None: there is none.
        commands: how many were run by all that were started here.
        ran: told of each command that was run: for which process, and its reply.
    """

    def __init__(self, loop: VirtualLoop, random: Random, *, page: int = 1_000_000) -> None:
        self.loop = loop
        self.random = random
        self.model: RedisModel | None = None
        self.commands = 0
        self.ran: Listener | None = None
        self._page = page
        self._is_stopped = False
        self._served: list[_Served] = []
        self._expires_at = inf

    def start(self, data: Snapshot | None = None, *, loads_for: float = 0.0) -> None:
        """Start a new process with this data; it says that it loads for some seconds."""
        assert self.model is None
        self.model = RedisModel(self.random, self.now_ms, data, page=self._page)
        self.model.loads_until = self.now_ms() + int(loads_for * 1000) if loads_for else 0
        self._expires_at = inf
        self.look_ahead()

    def kill(self) -> None:
        """End the process: what waits to be read is lost, and all connections break."""
        self.model = None
        self._is_stopped = False
        served, self._served = self._served, []
        for one in served:
            one.die()

    def stop(self) -> None:
        """As SIGSTOP does: the kernel still takes connections, and what is sent on them."""
        self._is_stopped = True

    def go_on(self) -> None:
        """Read all that waits, in no order but that within each connection."""
        self._is_stopped = False
        waiting = list(self._served)
        self.random.shuffle(waiting)
        for one in waiting:
            one.work()
        self.look_ahead()

    def now_ms(self) -> int:
        """Its wall clock."""
        return int(self.loop.time() * 1000)

    # -- what connections ask

    @property
    def works(self) -> bool:
        """Whether it takes steps."""
        return self.model is not None and not self._is_stopped

    def accept(self, connection: _Connection) -> _Served:
        """A connection was made."""
        assert self.model is not None
        served = _Served(self, self.model, connection)
        self._served.append(served)
        return served

    def look_ahead(self) -> None:
        """See to it that keys expire soon after their time, also if nobody asks for them."""
        moment = None if self.model is None else self.model.expires_next
        if moment is not None and moment < self._expires_at:
            self._expires_at = moment
            after = self.random.uniform(0, _EXPIRY_CYCLE)
            self.loop.at(max(self.loop.time(), moment / 1000) + after, self._expire, moment)

    def _expire(self, moment: float) -> None:
        if moment == self._expires_at:
            self._expires_at = inf
            if self.works:
                assert self.model is not None
                self.model.expire()
                self.broadcast()
                self.look_ahead()

    def forget(self, served: _Served) -> None:
        """A connection is no more."""
        if served in self._served:
            self._served.remove(served)

    def broadcast(self) -> None:
        """Tell those who track of what was changed."""
        assert self.model is not None
        changed, self.model.changed = self.model.changed, {}
        for served in self._served:
            prefix = served.prefix
            if prefix is not None:
                keys = [key for key, by in changed.items() if by is not served and key.startswith(prefix)]
                if keys:
                    served.push(keys)


class Wire:
    """What lies between one process and the server.

    Args:
        process: the client.
        server: the server.
        random: everything random follows from it.

    Attributes:
        state: ``"ok"`` or one of :data:`CUTS`; to be changed by :meth:`become`.
        keeping: the directions of connections in which something waits for the end of a cut.
    """

    def __init__(self, process: Process, server: ServerProcess, random: Random) -> None:
        self.process = process
        self.server = server
        self.loop = server.loop
        self.random = random
        self.state = "ok"
        self.keeping: list[_Way] = []
        self._connections: list[_Connection] = []
        self._callers: list[asyncio.Future[None]] = []
        self._cut_at = 0.0
        self._connects_while_half_open = False

    def become(self, state: str) -> None:
        """From now on it is in this state."""
        self.state = state
        self._cut_at = self.loop.time()
        self._connects_while_half_open = self.random.random() < 0.5
        if state == "refuse":
            for connection in list(self._connections):
                connection.reset()
        keeping, self.keeping = self.keeping, []
        for way in keeping:
            way.look()
        callers, self._callers = self._callers, []
        for caller in callers:
            self._wake(caller, self.random.uniform(0, 1))  # when the next SYN is sent

    def passes(self, *, up: bool) -> bool:
        """Whether what is sent in this direction arrives."""
        return not (self.state == "silent" or (self.state == "half-open" and not up))

    def delay(self) -> float:
        """How long the next piece of data is under way."""
        return self.random.uniform(*(_SLOW if self.state == "slow" else _QUICK))

    async def dial(self, factory: Callable[[], asyncio.BaseProtocol]) -> asyncio.Transport:
        """Make a connection, for a task of the process.

        Raises:
            ConnectionRefusedError: nobody listens.
        """
        await self._reach()
        if self.state == "refuse" or self.server.model is None:
            raise ConnectionRefusedError(111, "Connection refused")
        connection = _Connection(self, factory())
        self._connections.append(connection)
        connection.protocol.connection_made(connection)
        return connection

    def hang_up(self) -> None:
        """The process is dead: its kernel ends all its connections, and still brings to the server what was sent before."""
        for connection in list(self._connections):
            connection.give_up()

    def forget(self, connection: _Connection) -> None:
        """This connection is no more, for the client."""
        self._connections.remove(connection)

    async def _reach(self) -> None:
        """There and back once."""
        while True:
            caller: asyncio.Future[None] = self.loop.create_future()
            if self.state == "silent" or (self.state == "half-open" and not self._connects_while_half_open):
                self._callers.append(caller)
                await caller
            else:
                self._wake(caller, self.delay() + self.delay())
                await caller
                return

    def _wake(self, caller: asyncio.Future[None], after: float) -> None:
        self.loop.at(self.loop.time() + after, self.process.hear, _end_wait, caller)

    def retransmission(self) -> float:
        """After the end of a cut: how long until TCP tries again.  Its pauses double, so they grow with the cut."""
        longest = min(max(self.loop.time() - self._cut_at, 0.2), _LONGEST_RETRANSMISSION)
        return self.random.uniform(0, longest)


def _end_wait(caller: asyncio.Future[None]) -> None:
    if not caller.done():
        caller.set_result(None)


class _Way:
    """One direction of a connection."""

    def __init__(self, wire: Wire, arrive: Callable[[_Sent], None], *, is_up: bool) -> None:
        self._wire = wire
        self._is_up = is_up
        self._arrive = arrive
        self._kept: deque[_Sent] = deque()
        self._free_at = 0.0
        self._cut = False

    def send(self, data: _Sent) -> None:
        """It arrives later, or never."""
        if self._kept:
            self._kept.append(data)
        elif self._wire.passes(up=self._is_up):
            self._depart(data)
        else:
            self._keep(data)

    def look(self) -> None:
        """The wire has changed: what was kept may be on its way again, a while from now."""
        if not self._wire.passes(up=self._is_up):
            self._wire.keeping.append(self)
        elif isinstance(self._kept[-1], _End) and self._wire.random.random() < _GIVEN_UP:
            self._kept.clear()  # its sender has gone, and the kernel does not try for ever
        else:
            self._wire.loop.at(self._wire.loop.time() + self._wire.retransmission(), self._resume)

    def cut(self) -> None:
        """Nothing arrives any more, not even what is under way."""
        self._cut = True

    def _keep(self, data: _Sent) -> None:
        self._kept.append(data)
        self._wire.keeping.append(self)

    def _resume(self) -> None:
        if not self._wire.passes(up=self._is_up):
            self._wire.keeping.append(self)
        else:
            while self._kept:
                self._depart(self._kept.popleft())

    def _depart(self, data: _Sent) -> None:
        loop = self._wire.loop
        self._free_at = max(self._free_at + 1e-6, loop.time() + self._wire.delay())
        loop.at(self._free_at, self._come, data)

    def _come(self, data: _Sent) -> None:
        if not self._cut:
            self._arrive(data)


class _Connection(asyncio.Transport):
    """The client's end of a connection."""

    def __init__(self, wire: Wire, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self.protocol: asyncio.Protocol = protocol  # type: ignore[assignment]
        self.who = wire.process.name
        self._wire = wire
        self._is_closing = False
        self._unread: deque[bytes] | None = None  # while nobody wants to read
        self.down = _Way(wire, self._come, is_up=False)
        self._served = wire.server.accept(self)
        self.up = _Way(wire, self._served.come, is_up=True)

    # -- the transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See ``asyncio.WriteTransport``."""
        if not self._is_closing:
            self.up.send(bytes(data))

    def is_closing(self) -> bool:
        """See ``asyncio.BaseTransport``."""
        return self._is_closing

    def abort(self) -> None:
        """See ``asyncio.WriteTransport``: here as there, what was written has left already."""
        if not self._is_closing:
            self.give_up()
            self._wire.loop.call_soon(self.protocol.connection_lost, None)

    def close(self) -> None:
        """Likewise."""
        self.abort()

    def get_protocol(self) -> asyncio.BaseProtocol:
        """See ``asyncio.BaseTransport``."""
        return self.protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """See ``asyncio.BaseTransport``."""
        self.protocol = protocol  # type: ignore[assignment]

    def pause_reading(self) -> None:
        """See ``asyncio.ReadTransport``."""
        if self._unread is None:
            self._unread = deque()

    def resume_reading(self) -> None:
        """See ``asyncio.ReadTransport``."""
        unread, self._unread = self._unread or deque(), None
        for data in unread:
            self.protocol.data_received(data)

    def get_write_buffer_size(self) -> int:
        """See ``asyncio.WriteTransport``."""
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See ``asyncio.WriteTransport``."""

    # -- what happens to it

    def give_up(self) -> None:
        """The client sends and hears no more."""
        if not self._is_closing:
            self._is_closing = True
            self.up.send(_FIN)
            self._wire.forget(self)

    def reset(self) -> None:
        """Something between the two ends the connection; what is on its way to the server may still arrive."""
        wire = self._wire
        if wire.random.random() < 0.5:
            self.up.cut()
            wire.loop.at(wire.loop.time() + wire.delay(), self._served.come, _RESET)
        else:
            self.up.send(_FIN)
        self.down.cut()
        self._come(_RESET)

    def _come(self, data: _Sent) -> None:
        self._wire.process.hear(self._hear, data)

    def _hear(self, data: _Sent) -> None:
        if self._is_closing:
            return
        if isinstance(data, bytes):
            if self._unread is None:
                self.protocol.data_received(data)
            else:
                self._unread.append(data)
        elif data is _RESET or not self.protocol.eof_received():
            self._is_closing = True
            self._wire.forget(self)
            self.protocol.connection_lost(
                ConnectionResetError(104, "Connection reset by peer") if data is _RESET else None
            )


class _Served:
    """The server's end of a connection."""

    def __init__(self, server: ServerProcess, model: RedisModel, connection: _Connection) -> None:
        self.client_id = 0
        self.resp = 2
        self.name = b""
        self.since_ms = 0
        self.prefix: bytes | None = None
        self._server = server
        self._model = model
        self._connection = connection
        self._reader = hiredis.Reader(notEnoughData=_EMPTY)
        self._unread: deque[_Sent] = deque()  # what the kernel has
        self._to_run: deque[list[bytes]] = deque()
        self._is_busy = False
        self._is_closed = False

    def come(self, data: _Sent) -> None:
        """Something arrives from the client."""
        if self._is_closed:
            if not isinstance(data, _End):
                self._connection.down.send(_RESET)
            return
        self._unread.append(data)
        if self._server.works:
            self.work()

    def work(self) -> None:
        """Do what the client asked for, as far as that has arrived."""
        if self._is_busy or self._is_closed:
            return
        if not self.client_id:
            self.client_id = self._model.next_client_id()
            self.since_ms = self._server.now_ms()
            self._model.clients[self.client_id] = self
        while self._unread and isinstance(data := self._unread[0], bytes):
            self._reader.feed(data)
            self._unread.popleft()
        while (command := self._reader.gets()) is not _EMPTY:
            self._to_run.append(command)
        self._run()
        if self._unread and not self._is_busy and not self._is_closed:
            self.close()

    def push(self, keys: list[bytes]) -> None:
        """Tell that these were changed."""
        self._connection.down.send(b">2\r\n" + _encoded(b"invalidate", 3) + _encoded(keys, 3))

    def kill(self) -> None:
        """The server closes it: ``CLIENT KILL``."""
        self.close()
        self._connection.down.send(_FIN)

    def die(self) -> None:
        """The server's process is dead."""
        self._is_closed = True
        self._connection.down.send(_RESET if self._unread else _FIN)

    def close(self) -> None:
        """It is no more."""
        self._is_closed = True
        self._model.clients.pop(self.client_id, None)
        self._server.forget(self)

    def _run(self) -> None:
        """Run the commands in one go, or only some of them now."""
        server, to_run = self._server, self._to_run
        count = len(to_run)
        if count > 1 and server.random.random() > _ATOMIC:
            count = server.random.randint(1, count - 1)
            self._is_busy = True
            server.loop.at(server.loop.time() + server.random.uniform(0, _INTERLEAVED), self._go_on)
        replies = []
        server.commands += count
        for _ in range(count):
            command = to_run.popleft()
            reply = self._model.execute(command, self)
            if server.ran is not None:
                server.ran(self._connection.who, command, reply)
            replies.append(_encoded(reply, self.resp))
        if replies:
            self._connection.down.send(b"".join(replies))
        if self._model.changed:
            server.broadcast()
            server.look_ahead()

    def _go_on(self) -> None:
        self._is_busy = False
        if self._server.works:
            self.work()


def _encoded(reply: Any, resp: int) -> bytes:
    """A reply in RESP 2 or 3."""
    if reply is None:
        return b"_\r\n" if resp == 3 else b"$-1\r\n"
    return _ENCODERS[type(reply)](reply, resp)


def _encoded_list(reply: list[Any], resp: int) -> bytes:
    return b"*%d\r\n" % len(reply) + b"".join([_encoded(item, resp) for item in reply])


def _encoded_dict(reply: dict[bytes, Any], resp: int) -> bytes:
    head = b"%%%d\r\n" % len(reply) if resp == 3 else b"*%d\r\n" % (2 * len(reply))
    return head + b"".join([_encoded(key, resp) + _encoded(value, resp) for key, value in reply.items()])


_ENCODERS: Final[dict[type, Callable[[Any, int], bytes]]] = {
    bytes: lambda reply, _: b"$%d\r\n%b\r\n" % (len(reply), reply),
    int: lambda reply, _: b":%d\r\n" % reply,
    Simple: lambda reply, _: b"+" + reply + b"\r\n",
    ReplyError: lambda reply, _: b"-" + str(reply).encode() + b"\r\n",
    list: _encoded_list,
    dict: _encoded_dict,
}
