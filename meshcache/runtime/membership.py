"""How this instance stands towards the others: whether it may write plainly now, and what it tells them of that.

What follows from what is in ``standings``; here are the lease in Redis, kept fresh, and the announcements to the mesh.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final, Protocol

import anyio

from ..errors import RedisCommandError, Unavailable
from ..events import Mode
from ..journal import Journal
from ..redis.link import Link
from ..redis.names import Names
from ..redis.registry import register
from ..stamp import Kind, Op, Stamp, stamp_node
from ..standings import AT_FIRST, NEVER, Record, Standing, Standings

__all__ = ["LEASE", "Membership", "Surface"]

LEASE: Final = 15.0
"""In seconds.  So long after an instance was cut off from Redis and from its peers, the others know it by its lease."""

_REFRESH: Final = 5.0
_REFRESH_STAMPING: Final = 1.0
"""In seconds: how soon it is seen in the registry that nobody has writes any more that Redis lacks."""
_MARGIN: Final = 2.0
"""In seconds: the lease ends here so much sooner than in Redis."""


class Surface(Protocol):
    """What membership needs of the runtime."""

    mode: Mode

    def announce(self, standing: Standing) -> None:
        """Tell the peers, before anything else is sent to them."""
        ...

    def lost(self, outage: Unavailable) -> None:
        """Redis did not answer."""
        ...

    def found_instances(self, records: list[Record]) -> None:
        """These are registered in Redis."""
        ...

    def warn_once(self, about: str, message: str) -> None:
        """One line in the log."""
        ...


class Membership:
    """The standing of one instance.

    Args:
        node_id: this instance.
        standings: what is known of the others.
        journal: what Redis lacks.
        link: the way to Redis; not that of callers.
        names: the Redis keys.
        now: the monotonic clock, in seconds.
        wall_ms: the clock that stamps are made by.
        addresses: where this instance can be reached now.
        forget_after: how long an instance is reckoned with that was lost, in seconds.
        surface: the runtime.

    Attributes:
        standing: what the others are told.
        plain_until: the stamp of the last plain write.
        replays: whether writes are being brought to Redis, this instance's or a peer's.
        doubted: how many sets were brought to Redis as deletes, since somebody might have written the key plainly after them.
        may_run_scripts: False once Redis has refused: then nothing is stamped there, and nobody brings old sets to it.
    """

    def __init__(
        self,
        *,
        node_id: int,
        standings: Standings,
        journal: Journal,
        link: Link,
        names: Names,
        now: Callable[[], float],
        wall_ms: Callable[[], int],
        addresses: Callable[[], tuple[tuple[str, int], ...]],
        forget_after: float,
        surface: Surface,
    ) -> None:
        self.standing = AT_FIRST
        self.plain_until = NEVER
        self.replays = False
        self.doubted = 0
        self.may_run_scripts = True
        self._node_id = node_id
        self._standings = standings
        self._journal = journal
        self._link = link
        self._names = names
        self._now = now
        self._wall_ms = wall_ms
        self._addresses = addresses
        self._forget_after = forget_after
        self._surface = surface
        self._plain = False
        self._may_be_plain = False
        self._leaving = False
        self._lease_until = -inf
        self._registering = anyio.Lock()
        self._registrations = 0
        self._woken = anyio.Event()

    # -- this instance's writes

    def writes_plainly(self) -> bool:
        """Whether a write may go to Redis without a stamp now."""
        return self._plain and self._now() < self._lease_until

    def update(self) -> None:
        """The mode changed, the journal, or what is known of the others: see what follows, and tell it."""
        if self._plain and not self._wants_plain():
            self._plain = self._may_be_plain = False
        clean = self._surface.mode is Mode.REDIS and not self._journal.has_own
        known = self.standing
        standing = Standing(self._plain, clean, NEVER if self._plain else self.plain_until, known.number)
        if standing != known:
            if self.standing.clean and not clean:
                self._standings.unclean(self._now())
            self.standing = standing = standing._replace(number=known.number + 1)
            self._surface.announce(standing)
            self._woken.set()

    def enter(self) -> None:
        """Redis answers from now on.  Plain writes may begin at once if the last registration allows."""
        self._plain = self._may_be_plain and self._wants_plain()
        self.update()

    def look(self) -> None:
        """Register soon, and so find out whether Redis is there, and still the same."""
        self._woken.set()

    def leave(self) -> None:
        """This instance is about to go: nothing is plain any more."""
        self._leaving = True
        self.update()

    # -- the registry

    async def run(self) -> None:
        """Keep the lease while Redis answers.  Until cancelled."""
        while True:
            pause = _REFRESH if self._plain else _REFRESH_STAMPING
            with anyio.move_on_after(pause if self._surface.mode is Mode.REDIS else None):
                await self._woken.wait()
            self._woken = anyio.Event()
            if self._surface.mode is Mode.REDIS:
                try:
                    await self.register()
                except Unavailable as outage:
                    self._surface.lost(outage)
                    continue
                self.enter()

    async def register(self, *, entering: bool = False) -> None:
        """Tell Redis how this instance stands, and learn it of the others.

        Args:
            entering: Redis is about to be what answers.

        Raises:
            Unavailable: Redis cannot serve.
        """
        async with self._registering:  # each says what is true when it is sent, and the last one stays
            await self._register(entering=entering)

    async def _register(self, *, entering: bool) -> None:
        begun = self._now()
        self._registrations += 1
        wants_plain = self._plain or ((entering or self._surface.mode is Mode.REDIS) and self._nobody_hinders())
        number = self.standing.number + (wants_plain is not self.standing.plain)  # as it will be if that is granted
        standing = Standing(wants_plain, self.standing.clean, self.plain_until, number)
        record = Record(self._node_id, standing, self._wall_ms(), LEASE, self._leaving, self._addresses(), self.replays)
        try:
            records = await register(self._link, self._names, record, self._registrations, self._forget_after)
        except RedisCommandError as error:
            self.may_run_scripts = False
            self._may_be_plain, self._lease_until = True, inf
            self._surface.warn_once(
                "scripts",
                "Redis does not let this instance run its scripts: what an outage wrote is deleted in Redis afterwards, "
                f"not replayed ({error})",
            )
            return
        self.may_run_scripts = True
        self._standings.registered(records, self._now())
        self._lease_until = begun + LEASE - _MARGIN
        self._may_be_plain = wants_plain and self._nobody_hinders()
        self._surface.found_instances(records)
        if wants_plain and not self._may_be_plain:
            self._woken.set()
        self.update()

    # -- the replay

    def may_set(self, ops: list[Op]) -> list[Op]:
        """Of writes that are about to be brought to Redis: those that may not be there as they were, as invalidations."""
        newest = self._standings.last_plain(self._now(), self._wall_ms())
        safe = [op if op.kind is not Kind.SET or self._is_newer(op.stamp, newest) else _forgotten(op) for op in ops]
        self.doubted += sum(kept is not op for kept, op in zip(safe, ops, strict=True))
        return safe

    def is_undecided(self) -> bool:
        """Whether somebody may be writing plainly now."""
        return self._standings.last_plain(self._now(), self._wall_ms()) is None

    # -- inside

    def _is_newer(self, stamp: Stamp, newest: Stamp | None) -> bool:
        if newest is None or stamp <= newest:
            return False
        return stamp_node(stamp) == self._node_id or (not self._plain and stamp > self.plain_until)

    def _wants_plain(self) -> bool:
        return self._surface.mode is Mode.REDIS and self._nobody_hinders()

    def _nobody_hinders(self) -> bool:
        hindered = self.may_run_scripts and self._standings.must_stamp(self._now())
        return not (hindered or self._leaving)


def _forgotten(op: Op) -> Op:
    return Op(Kind.INVALIDATE, op.key, op.stamp)
