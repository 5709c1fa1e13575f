"""A link for tests that remembers what goes through it, and can keep it back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio

from meshcache.errors import Unavailable
from meshcache.redis.link import Argument, Command, Link

__all__ = ["Gate", "Hold"]


class Hold:
    """What is kept back at one time, until it is let go."""

    def __init__(self) -> None:
        self.outage: Unavailable | None = None
        self.over = anyio.Event()

    def let_go(self, outage: Unavailable | None = None) -> None:
        """Let it pass now; or end it so, as if its connections had died."""
        self.outage = outage
        self.over.set()


class Gate:
    """A link around another one.

    Attributes:
        alone: the single commands that came.
        batches: the pipelines that came.
        held: how many of both are kept back now.
    """

    def __init__(self, link: Link) -> None:
        self.identity = link.identity
        self.alone: list[Command] = []
        self.batches: list[Sequence[Command]] = []
        self.held = 0
        self._link = link
        self._hold: Hold | None = None
        self._holds: list[Hold] = []

    @property
    def in_flight(self) -> int:
        return self._link.in_flight

    def close(self) -> Hold:
        """Keep back what comes from now on."""
        self._hold = Hold()
        self._holds.append(self._hold)
        return self._hold

    def open(self) -> None:
        """What comes from now on passes; what is kept back already stays."""
        self._hold = None

    def let_all_go(self) -> None:
        """Keep nothing back any more."""
        self.open()
        for hold in self._holds:
            hold.let_go(hold.outage)

    async def execute(self, *command: Argument) -> Any:
        self.alone.append(command)
        await self._pass()
        return await self._link.execute(*command)

    async def execute_many(self, commands: Sequence[Command]) -> list[Any]:
        self.batches.append(commands)
        await self._pass()
        return await self._link.execute_many(commands)

    async def aclose(self) -> None:
        await self._link.aclose()

    async def _pass(self) -> None:
        hold = self._hold
        if hold is None:
            return
        self.held += 1
        try:
            await hold.over.wait()
        finally:
            self.held -= 1
        if hold.outage is not None:
            raise hold.outage
