"""A temporary instance: everything that a gateway on this host would be, for some seconds, with ears on what it hears.

It joins the mesh, is greeted, and says goodbye.  It writes nothing of its own but what every instance writes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self

import anyio

from ..discovery.base import Announcement, Discovery
from ..discovery.roster import Roster
from ..errors import ConfigError
from ..events import Mode
from ..mesh.node import ClockTold, ForeignKey, MeshEvent
from ..mesh.settings import Address
from ..options import Options
from ..redis.place import read_place
from ..runtime.meshwork import Meshwork
from ..runtime.runtime import Runtime
from ..runtime.surroundings import Surroundings

__all__ = ["Ear", "TemporaryInstance"]


class Ear:
    """A source of addresses, and what it told."""

    def __init__(self, source: Discovery) -> None:
        self.name = source.name
        self.source = source
        self.found: set[Address] = set()
        self.error: Exception | None = None

    async def run(self, announcement: Announcement, found: Callable[[str, int], None]) -> None:
        """See :class:`~meshcache.discovery.base.Discovery`."""

        def tell(host: str, port: int) -> None:
            self.found.add((host, port))
            self.error = None
            found(host, port)

        try:
            await self.source.run(announcement, tell)
        except Exception as error:
            self.error = error
            raise


class _RosterEar(Ear, Roster):
    """The registry in Redis is no source of its own: the runtime tells it what is there, and knows it by its type."""

    def tell(self, addresses: Iterable[Address]) -> None:
        assert isinstance(self.source, Roster)
        self.source.tell(addresses)


class _Listening(Runtime):
    """A runtime whose mesh events are kept."""

    def __init__(self, url: str | None, options: Options, ears: list[Ear]) -> None:
        super().__init__(*read_place(url, options.credential_provider), options, ears, Surroundings())
        self.foreign: set[Address] = set()
        self.ahead: dict[str, float] = {}

    @property
    def mesh(self) -> Meshwork:
        return self._mesh

    def _heard(self, event: MeshEvent) -> None:
        if isinstance(event, ForeignKey):
            self.foreign.add(event.address)
        elif isinstance(event, ClockTold):
            self.ahead[f"{event.node_id:016x}"] = event.wall_ms / 1000 - (time.time() - event.round_trip / 2)
        super()._heard(event)


class TemporaryInstance:
    """One instance, open for as long as the ``async with`` block lasts.

    Args:
        url: where Redis is, or None.
        options: of the cache.
        sources: where addresses of peers come from.

    Attributes:
        ears: the sources, and what they told.
        runtime: the instance itself.
        port_taken: the port that was asked for is another program's; it has any other one then.
        warnings: what it logged, as an operator would read it.
    """

    def __init__(self, url: str | None, options: Options, sources: list[Discovery]) -> None:
        self.ears = [_RosterEar(source) if isinstance(source, Roster) else Ear(source) for source in sources]
        self.port_taken = False
        self.warnings: list[logging.LogRecord] = []
        try:
            self.runtime = _Listening(url, options, self.ears)
        except ConfigError as error:
            if error.option != "port":
                raise
            self.port_taken = True
            self.runtime = _Listening(url, replace(options, port=0), self.ears)
        self._log = _captured(self.warnings)

    async def __aenter__(self) -> Self:
        self._log.__enter__()
        try:
            await self.runtime.start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stop()

    async def reach(self, mode: Mode, timeout: float) -> bool:
        """Wait until it is in this mode."""
        return await self.until(lambda: self.runtime.mode is mode, timeout)

    async def has_key(self, timeout: float) -> bool:
        """Wait until it can seal datagrams; whether it can."""
        with anyio.move_on_after(timeout) as waiting:
            await self.runtime.mesh.has_key()
        return not waiting.cancelled_caught

    async def until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until the condition holds; whether it does."""
        deadline = anyio.current_time() + timeout
        while not condition() and anyio.current_time() < deadline:  # noqa: ASYNC110 - of anybody's making
            await anyio.sleep(0.02)
        return condition()

    def warned(self, start: str) -> str:
        """The rest of the first warning that starts like this; empty if there is none."""
        lines = (record.getMessage() for record in self.warnings)
        return next((line.removeprefix(start) for line in lines if line.startswith(start)), "")

    async def ask_clocks(self, timeout: float) -> dict[str, float]:
        """How far each peer's clock is ahead of this host's, in seconds, by its node id; those that answer."""
        wanted = {peer.node_id for peer in self.runtime.peers}
        self.runtime.mesh.ask_clocks()
        await self.until(lambda: wanted <= self.runtime.ahead.keys(), timeout)
        return self.runtime.ahead

    async def _stop(self) -> None:
        try:
            await self.runtime.stop()
        finally:
            self._log.__exit__(None, None, None)


@contextmanager
def _captured(records: list[logging.LogRecord]) -> Iterator[None]:
    """What meshcache logs at warning level and above goes there, and nowhere else."""

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logger, keep = logging.getLogger("meshcache"), Keep(logging.WARNING)
    propagated = logger.propagate
    logger.addHandler(keep)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(keep)
        logger.propagate = propagated
