"""The tracked connections to all masters of a cluster, as one: each tells of the changes at its node, and writes go by slot.

Why ``near`` may take them for one connection:

- A key changes at a master.  All masters that are asked for keys are tracked, each with ``BCAST``, so wherever a key is read,
  its next change is told.  Before a node is asked that is not tracked, all tracking ends, and begins anew with that node.
- A slot that moves: the old master deletes the key, and tells of that; what changes at the new one, that one tells.
- Own writes of a key go over one connection, that of its slot.  If the node sends one on (``MOVED``, ``ASK``), it goes over
  another link, whose changes are told as somebody else's are: so the order in which the two nodes got them does not matter.
- If one of the connections breaks, none of them counts any more.

What may not enter: which copies are kept, and when to connect.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import anyio

from ..errors import RedisCommandError, Unavailable
from .cluster_link import ClusterLink
from .link import Command, Identity, Redirected, no_answer
from .names import Names
from .routing import Call, Part
from .tls import Tls
from .together import all_of
from .tracking import Broken, Listener, Tracked, TrackedConnection, open_tracked, start_tracking
from .url import Address, Endpoint

__all__ = ["AllMasters", "TrackedCluster"]


class TrackedCluster:
    """One tracked connection to each master; see :class:`~meshcache.redis.tracking.Tracked`.

    Args:
        connections: by the address of the node.
        link: knows who has which slot, and takes what a node sends on.
        name: how log lines call the cluster.
        timeout: the longest wait for one reply, in seconds.
    """

    def __init__(
        self, connections: Mapping[Address, TrackedConnection], link: ClusterLink, name: str, timeout: float
    ) -> None:
        self.connections = connections
        self._link = link
        self._name = name
        self._timeout = timeout

    @property
    def is_open(self) -> bool:
        """Whether all of them are."""
        return all(connection.is_open for connection in self.connections.values())

    async def execute(self, command: Command) -> Any:
        """One command; see :meth:`~meshcache.redis.tracking.TrackedConnection.execute`."""
        (reply,) = await self.call([command])
        if isinstance(reply, RedisCommandError):
            raise reply
        return reply

    async def call(self, commands: Sequence[Command]) -> list[Any]:
        """One pipeline for each node; see :meth:`~meshcache.redis.tracking.TrackedConnection.call`."""
        deadline = time.monotonic() + self._timeout
        calls = [Call(command) for command in commands]
        groups: dict[Address, list[Part]] = {}
        for part in (part for call in calls for part in call.parts):
            owner = None if part.slot is None else self._link.owner(part.slot)
            if owner not in self.connections or owner is None:
                raise Broken
            groups.setdefault(owner, []).append(part)
        broken = await all_of([partial(self._ask, *group) for group in groups.items()])
        if any(broken):
            raise Broken
        sent_on = [part for parts in groups.values() for part in parts if not part.answered]
        if sent_on:
            await self._send_on(sent_on, deadline)
        return [call.reply() for call in calls]

    async def check(self) -> None:
        """Ask whether all of them live, and whether these are still the masters."""
        for connection in self.connections.values():
            await connection.check()
        if {(master.host, master.port) for master in await self._link.masters()} != self.connections.keys():
            raise Broken

    async def run(self) -> None:
        """Until one of them is closed."""
        async with anyio.create_task_group() as tasks:
            for connection in self.connections.values():
                tasks.start_soon(self._run, connection, tasks.cancel_scope)

    def when_answered(self, then: Callable[[], None]) -> None:
        """Call this once everything sent so far, to whichever node, has its reply; never, if one of them breaks before."""
        left = len(self.connections)

        def one() -> None:
            nonlocal left
            left -= 1
            if not left:
                then()

        for connection in self.connections.values():
            connection.when_answered(one)

    def abort(self) -> None:
        """Give all of them up; never waits."""
        for connection in self.connections.values():
            connection.abort()

    async def _ask(self, address: Address, parts: list[Part]) -> bool:
        """One pipeline to one node; whether its connection broke."""
        try:
            replies = await self.connections[address].call([part.command for part in parts])
        except Broken:
            return True
        for part, reply in zip(parts, replies, strict=True):
            if not isinstance(reply, Redirected):
                part.answer(reply)
        return False

    async def _send_on(self, parts: list[Part], deadline: float) -> None:
        with anyio.move_on_after(deadline - time.monotonic()):
            replies = await self._link.execute_many([part.command for part in parts])
            for part, reply in zip(parts, replies, strict=True):
                part.answer(reply)
            return
        raise no_answer(self._timeout, self._name)

    @staticmethod
    async def _run(connection: TrackedConnection, scope: anyio.CancelScope) -> None:
        await connection.run()
        scope.cancel()


class AllMasters:
    """The :class:`~meshcache.redis.tracking.Way` to track a cluster.

    Args:
        link: knows the masters.
        name: how log lines call the cluster.
        tls: the ``ssl_…`` options for the way there.
        names: the keys.
        timeout: the longest wait for one reply, in seconds.
    """

    def __init__(self, link: ClusterLink, name: str, tls: Tls, names: Names, timeout: float) -> None:
        self._link = link
        self._name = name
        self._tls = tls
        self._names = names
        self._identity: Identity = link.identity
        self._timeout = timeout
        self._masters: list[Endpoint] = []

    async def open(self, listener: Listener) -> TrackedCluster:
        """A connection to each master; see :class:`~meshcache.redis.tracking.Way`."""
        self._masters = await self._link.masters()
        opened: dict[Address, TrackedConnection] = {}
        try:
            await all_of([partial(self._open, master, listener, opened) for master in self._masters])
        except BaseException:
            with anyio.CancelScope(shield=True):
                for connection in opened.values():
                    connection.abort()
                    await connection.run()  # which closes it
            raise
        return TrackedCluster(opened, self._link, self._name, self._timeout)

    async def start(self, tracked: Tracked) -> None:
        """The handshakes; see :class:`~meshcache.redis.tracking.Way`."""
        assert isinstance(tracked, TrackedCluster)
        try:
            await all_of([partial(self._start, tracked, master) for master in self._masters])
        except BaseException:
            tracked.abort()
            raise
        if not tracked.is_open:
            raise Unavailable(f"{self._name}: connection closed")
        self._link.watched = tracked.connections
        self._link.left_watch = tracked.abort

    async def _open(self, master: Endpoint, listener: Listener, opened: dict[Address, TrackedConnection]) -> None:
        opened[master.host, master.port] = await open_tracked(
            master, self._tls, self._names, listener, self._identity, timeout=self._timeout
        )

    async def _start(self, tracked: TrackedCluster, master: Endpoint) -> None:
        connection = tracked.connections[master.host, master.port]
        await start_tracking(connection, master, self._names, self._identity, timeout=self._timeout)
