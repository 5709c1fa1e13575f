"""The link to whoever is master now: the sentinels are asked, and asked again when a call meets an outage.

It is a link over a link: commands travel over one to the master.  redis-py's ``Sentinel`` asks one sentinel after the other,
each with its whole time limit, and cannot run on trio, so the sentinels are asked over links as well.  As the guidelines
for Sentinel clients have it, an answer counts only once the server itself says that it is a master: a sentinel that was
cut off may name the old one.

What may not enter: redis-py, which the links below know.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import anyio

from ..errors import RedisCommandError, Unavailable
from .link import AnyServer, Argument, Command, Identity, Link, Shard, no_answer
from .together import first_of
from .url import Address, Endpoint, SentinelEndpoint

__all__ = ["SentinelLink"]

T = TypeVar("T")

OpenServer = Callable[[Endpoint, Identity], Link]
"""Opens a link to one server, which must have that identity."""

_STAGGER: Final = 0.02
"""How long one sentinel is waited for before the next is asked as well, in seconds; a tenth of the usual ``op_timeout``."""


class SentinelLink:
    """A :class:`~meshcache.redis.link.Link` to the master that the sentinels name.

    Args:
        where: the sentinels, and how to get into the master.
        timeout: the longest that a call waits, in seconds; asking the sentinels counts.
        open_link: opens a link to one server, master or sentinel.

    Attributes:
        in_flight: commands or pipelines under way.
        identity: that of every master.
        when_moved: called when another server turns out to be the master.
    """

    def __init__(self, where: SentinelEndpoint, *, timeout: float, open_link: OpenServer) -> None:
        self.in_flight = 0
        self.identity = Identity(where.name)
        self.when_moved: Callable[[], None] = lambda: None
        self._where = where
        self._timeout = timeout
        self._open_link = open_link
        self._sentinels = [open_link(sentinel, AnyServer(sentinel.name)) for sentinel in where.sentinels]
        self._address: Address | None = None
        self._master: Link | None = None
        self._sure = False
        self._finding = anyio.Lock()
        self._closed = False

    async def execute(self, *command: Argument) -> Any:
        """One command; see :class:`~meshcache.redis.link.Link`."""
        return await self._through(lambda master: master.execute(*command))

    async def execute_many(self, commands: Sequence[Command]) -> list[Any]:
        """One pipeline; see :class:`~meshcache.redis.link.Link`."""
        return await self._through(lambda master: master.execute_many(commands))

    async def shards(self) -> Sequence[Shard]:
        """The master.  Not its link: that may lead to another server a moment later."""
        return [Shard(self)]

    async def aclose(self) -> None:
        """Give up the connections, to the sentinels as well."""
        self._closed = True
        self._sure = False
        for link in [*self._sentinels, *([self._master] if self._master else [])]:
            await link.aclose()

    async def find_master(self) -> Endpoint:
        """The server that is master now.

        Raises:
            Unavailable: no sentinel names one, or it is none.
        """
        with anyio.move_on_after(self._timeout):
            await self._find()
            assert self._address is not None
            return self._where.master.at(self._address)
        raise no_answer(self._timeout, self._where.name)

    async def _through(self, ask: Callable[[Link], Awaitable[T]]) -> T:
        """Ask the master; if that meets an outage and another is master by now, ask that one, within the same time."""
        self.in_flight += 1
        deadline = time.monotonic() + self._timeout
        met: Unavailable | None = None
        master = self._master
        try:
            if self._sure and master is not None:
                try:
                    return await ask(master)
                except Unavailable as outage:
                    self._doubt(master)
                    if outage.timed_out:
                        raise
                    met = outage
            with anyio.move_on_after(deadline - time.monotonic()):
                return await self._ask_anew(ask, master, met)
        finally:
            self.in_flight -= 1
        raise met or no_answer(self._timeout, self._where.name)

    async def _ask_anew(self, ask: Callable[[Link], Awaitable[T]], before: Link | None, met: Unavailable | None) -> T:
        try:
            master = await self._find()
        except Unavailable:
            if met is not None:  # nearer to what is wrong
                raise met from None
            raise
        if met is not None and master is before:
            raise met  # the sentinels stand by it
        try:
            return await ask(master)
        except Unavailable:
            self._doubt(master)
            raise

    def _doubt(self, master: Link) -> None:
        if master is self._master:
            self._sure = False

    async def _find(self) -> Link:
        """The link to the master; the sentinels are asked if that is in doubt, by one call for all that wait."""
        async with self._finding:
            if self._closed:
                raise Unavailable(f"the link to {self._where.name} is closed")
            if not self._sure:
                await self._ask_sentinels()
            assert self._master is not None
            return self._master

    async def _ask_sentinels(self) -> None:
        candidates: dict[Address, Link] = {}
        before = self._master
        if self._address is not None and before is not None:
            candidates[self._address] = before
        try:
            self._address = await first_of([self._asking(one, candidates) for one in self._sentinels], _STAGGER)
            self._master, self._sure = candidates[self._address], True
        finally:
            with anyio.CancelScope(shield=True):
                for link in candidates.values():
                    if link is not self._master:
                        await link.aclose()
        if before is not None and before is not self._master:
            self.when_moved()

    def _asking(self, sentinel: Link, candidates: dict[Address, Link]) -> Callable[[], Awaitable[Address]]:
        async def ask() -> Address:
            address = await self._named_by(sentinel)
            if address not in candidates:
                candidates[address] = self._open_link(self._where.master.at(address), self.identity)
            await self._check_role(address, candidates[address])
            return address

        return ask

    async def _named_by(self, sentinel: Link) -> Address:
        service = self._where.service
        try:
            address = await sentinel.execute("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
        except RedisCommandError as error:
            raise Unavailable(f"a sentinel of {service} refuses to name the master: {error}") from None
        if not address:
            raise Unavailable(f"the sentinels know no service called {service}")
        host, port = address
        return host.decode(), int(port)

    async def _check_role(self, address: Address, link: Link) -> None:
        try:
            role = await link.execute("ROLE")
        except RedisCommandError:
            return  # not permitted; a replica will refuse the first write
        if role[0] != b"master":
            name = self._where.master.at(address).name
            raise Unavailable(f"{name} is named as the master of {self._where.service}, and is a replica")
