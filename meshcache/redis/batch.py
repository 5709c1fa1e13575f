"""A link that coalesces: what is asked while Redis is being asked already goes out together, in pipelines.

A lone call goes straight to the link below and pays nothing.  Calls that are made while others are under way gather until
the end of the turn of the event loop, and one of a few *lanes* sends them in one round trip; while all lanes are busy they
wait for the first that is not.  So a busy instance makes its batches large by itself, and one that is not busy does not wait.

It promises what every :class:`~meshcache.redis.link.Link` does, and:

- **A caller has what it would have alone**: its own reply, or its own ``RedisCommandError``.  Reads go as a pipeline of GET,
  not as MGET, which answers nil for a key that is no string, and refuses the keys of all for one that is forbidden.
- **Who goes away costs nobody else anything.**  No batch is cancelled for a caller.  A call that is given up before it was
  sent is not sent.
- **The time limit** counts from a call's own beginning.  A batch ends as a whole, for its connection is given up then: no
  write may be under way of which its caller was told that it is in doubt.  So a batch has the time of its youngest call, and
  only calls that began within a tenth of the limit share one.
- **An outage goes to all of the batch**; how much such an outage proves, ``Unavailable.repeated`` says.
- **Nobody waits long behind something large or lost.**  A batch is bounded in commands and bytes.  What is large itself, or
  the key of a value that was found to be large, goes over a connection of its own.  If the lanes are all held up, by values
  that nobody knew to be large, or on connections that have died unheard, others step in.

Two calls of which none waited for the other have no order, as on every link with several connections.

What may not enter: redis-py, connections, the mode.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, Final

import anyio
import anyio.abc

from ..errors import Unavailable
from ..loops import asyncio_loop
from .link import Argument, Command, Link, Shard, no_answer

__all__ = ["BatchLink"]

_ALONE: Final = 2
"""So many calls go out as they are while no batch is under way: of so few a batch would save nothing."""

_LANES: Final = 4
"""So many batches are under way at once.  One would double the time of a call where the network takes longer than Python;
with more the batches are no faster."""

_MORE_LANES: Final = 20
"""So many help out, one for each :data:`_PATIENCE` that the first in the queue has waited."""

_PATIENCE: Final = 0.005
"""In seconds."""

_MAX_COMMANDS: Final = 256
"""In one batch: so many callers that go on in one turn of the event loop hold it for about a millisecond."""

_MAX_BYTES: Final = 65_536
"""Sent in one batch; and larger values are large ones."""

_MAX_ARGUMENTS: Final = 16
"""A command with more is a batch in itself."""

_MAX_LARGE_KEYS: Final = 1024
"""So many of the last keys with large values are remembered."""


class BatchLink:
    """A :class:`~meshcache.redis.link.Link` around another one.  It coalesces while :meth:`run` runs; otherwise it hands on.

    Args:
        link: makes the round trips.
        server: what the server is called in the cause of an outage.
        timeout: the longest that a call waits, in seconds; that of ``link``.
    """

    def __init__(self, link: Link, server: str, timeout: float) -> None:
        self.identity = link.identity
        self._link = link
        self._server = server
        self._timeout = timeout
        self._now = anyio.current_time
        self._call: Callable[[], _Call] = _EventCall
        self._tasks: anyio.abc.TaskGroup | None = None  # while it runs
        self._alone = 0  # calls that were handed on
        self._queue: deque[_Call] = deque()
        self._batches: set[_Batch] = set()
        self._idle: list[_Call] = []  # what the lanes without work wait for
        self._more_lanes = 0
        self._watch: _Call | None = None  # what the watch waits for while nobody waits for a lane
        self._sent = 0  # how many round trips there were
        self._answered = 0  # the number of the one that began last of those that had an answer
        self._large: dict[Argument, None] = {}  # keys; the oldest first

    @property
    def in_flight(self) -> int:
        """Calls that wait for a reply now."""
        waiting = [self._queue, *(batch.calls for batch in self._batches)]
        return self._alone + sum(not call.done() for calls in waiting for call in calls)

    async def execute(self, *command: Argument) -> Any:
        """One command; see :class:`~meshcache.redis.link.Link`."""
        if (self._alone < _ALONE and not self._batches and not self._queue) or self._tasks is None:
            return await self._execute_alone(command)
        size = 0
        if len(command) > 2:
            size = sum([len(argument) for argument in command if type(argument) is bytes])
            if size > _MAX_BYTES or len(command) > _MAX_ARGUMENTS:
                return await self._execute_alone(command)
        elif self._large and command[-1] in self._large:
            return await self._execute_alone(command)
        call = self._call()
        call.command, call.size, call.began = command, size, self._now()
        self._queue.append(call)
        if len(self._queue) == 1:
            self._wake_a_lane()
        reply = await call
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def execute_many(self, commands: Sequence[Command]) -> list[Any]:
        """A batch already; see :class:`~meshcache.redis.link.Link`."""
        self._alone += 1
        number = self._next_number()
        try:
            replies = await self._link.execute_many(commands)
        finally:
            self._alone -= 1
        self._has_answer(number)
        return replies

    async def shards(self) -> Sequence[Shard]:
        """The servers that hold the keys; see :class:`~meshcache.redis.link.Link`."""
        return await self._link.shards()

    async def aclose(self) -> None:
        """Give up the connections; see :class:`~meshcache.redis.link.Link`."""
        await self._link.aclose()

    async def run(self) -> None:
        """Coalesce until cancelled; then see to it that whoever waits has a reply."""
        loop = asyncio_loop()
        if loop is not None:
            self._call, self._now = partial(_FutureCall, loop=loop), loop.time
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            for _ in range(_LANES):
                tasks.start_soon(self._run_lane)
            try:
                await self._watch_the_queue(tasks)
            finally:
                self._tasks = None
                for work in self._idle:
                    work.set_result(None)

    # -- lanes

    def _wake_a_lane(self) -> None:
        if self._idle:
            self._idle.pop().set_result(None)
        elif self._watch is not None:
            self._watch.set_result(None)
            self._watch = None

    async def _run_lane(self) -> None:
        with anyio.CancelScope(shield=True):  # for the callers' sake: what is under way ends by its time limit
            while self._tasks is not None:
                work = self._call()
                self._idle.append(work)
                await work
                await self._send_all()

    async def _help_out(self) -> None:
        try:
            with anyio.CancelScope(shield=True):
                await self._send_all()
        finally:
            self._more_lanes -= 1

    async def _watch_the_queue(self, tasks: anyio.abc.TaskGroup) -> None:
        """While calls wait for a lane: end the wait of those whose time is over, and help out."""
        while True:
            if not self._queue:
                self._watch = self._call()
                await self._watch
            await anyio.sleep(_PATIENCE)
            now = self._now()
            while self._queue and now - self._queue[0].began >= self._timeout:
                _tell([self._queue.popleft()], no_answer(self._timeout, self._server))
            if self._queue and now - self._queue[0].began >= _PATIENCE and self._more_lanes < _MORE_LANES:
                self._more_lanes += 1
                tasks.start_soon(self._help_out)

    # -- sending

    async def _execute_alone(self, command: Command) -> Any:
        self._alone += 1
        number = self._next_number()
        try:
            reply = await self._link.execute(*command)
        finally:
            self._alone -= 1
        self._has_answer(number)
        self._weigh(command, reply)
        return reply

    async def _send_all(self) -> None:
        """Send what is in the queue, batch by batch."""
        while self._queue:
            batch = self._take()
            if self._queue:
                self._wake_a_lane()
            if batch.calls:
                await self._send(batch)

    def _take(self) -> _Batch:
        """What goes out together now."""
        queue, size = self._queue, 0
        calls: list[_Call] = []
        youngest = queue[0].began + self._timeout / 10
        while queue and len(calls) < _MAX_COMMANDS and size <= _MAX_BYTES and queue[0].began <= youngest:
            call = queue.popleft()
            if not call.done():
                size += call.size
                calls.append(call)
        return _Batch(calls, self._next_number())

    def _next_number(self) -> int:
        self._sent += 1
        return self._sent

    def _has_answer(self, number: int) -> None:
        self._answered = max(self._answered, number)

    async def _send(self, batch: _Batch) -> None:
        """One round trip.  Every caller that still waits is told what came of it."""
        calls = batch.calls
        self._batches.add(batch)
        try:
            replies = await self._round_trip(batch)
        except Unavailable as outage:
            _tell(calls, outage, others_answered=self._answered > batch.number)
        except Exception as error:  # noqa: BLE001 - a defect, but no reason to let a hundred callers hang
            _tell(calls, Unavailable(f"{self._server}: {error!r}"))
        else:
            self._has_answer(batch.number)
            for call, reply in zip(calls, replies, strict=True):
                if not call.done():
                    call.set_result(reply)
                if type(reply) is bytes and len(reply) > _MAX_BYTES:
                    self._weigh(call.command, reply)
        finally:
            self._batches.discard(batch)

    async def _round_trip(self, batch: _Batch) -> list[Any]:
        commands = [call.command for call in batch.calls]
        remaining = batch.calls[-1].began + self._timeout - self._now()
        if remaining > self._timeout - _PATIENCE:  # nearly all of it: the link's own limit will do
            return await self._link.execute_many(commands)
        with anyio.move_on_after(remaining):
            return await self._link.execute_many(commands)
        raise no_answer(self._timeout, self._server)

    def _weigh(self, command: Command, reply: Any) -> None:
        """Remember whether a key has a large value."""
        if len(command) != 2 or type(reply) is not bytes:
            return
        key = command[1]
        if len(reply) > _MAX_BYTES:
            self._large[key] = None
            if len(self._large) > _MAX_LARGE_KEYS:
                del self._large[next(iter(self._large))]
        elif self._large:
            self._large.pop(key, None)


def _tell(calls: Sequence[_Call], outage: Unavailable, *, others_answered: bool = False) -> None:
    """Tell callers of an outage; each gets an exception of its own."""
    told = False
    for call in calls:
        if not call.done():
            call.set_result(Unavailable(outage.cause, timed_out=outage.timed_out, repeated=told and others_answered))
            told = True


class _FutureCall(asyncio.Future[Any]):
    """A command and the wait for its reply, on asyncio.  Done as soon as its caller is cancelled, too."""

    __slots__ = ("began", "command", "size")

    command: Command
    size: int
    began: float


class _EventCall:
    """The same on any other event loop."""

    command: Command
    size: int
    began: float

    def __init__(self) -> None:
        self._result: Any = None
        self._has_result = anyio.Event()
        self._is_done = False

    def done(self) -> bool:
        return self._is_done

    def set_result(self, result: Any) -> None:
        self._result = result
        self._is_done = True
        self._has_result.set()

    def __await__(self) -> Generator[Any, Any, Any]:
        try:
            yield from self._has_result.wait().__await__()
        finally:
            self._is_done = True
        return self._result


_Call = _FutureCall | _EventCall


class _Batch:
    """Calls that are sent together, in the order in which they began.

    Attributes:
        number: which of all round trips it is: of what began before it, an answer says nothing of what Redis does now.
    """

    __slots__ = ("calls", "number")

    def __init__(self, calls: list[_Call], number: int) -> None:
        self.calls = calls
        self.number = number
