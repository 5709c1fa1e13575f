"""Keeps the tracked connection of the near cache: opens it while Redis answers, asks whether it is alive, opens it anew.

A tracked connection that breaks may be the first sign of an outage, or a mishap of its own.  So Redis is asked over
another connection: if it answers, every copy goes; if not, it is an outage, which begins with the copies.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf
from typing import Final

import anyio

from ..errors import RedisCommandError, Unavailable
from ..near import Near
from ..redis.tracking import Broken, Tracked, TrackedLink, Way

__all__ = ["Tracker"]

_HEALTH_INTERVAL: Final = 2.0
"""In seconds: how often a connection on which nothing comes is asked whether it lives."""

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 30.0
_WARN_AFTER: Final = 3


class Tracker:
    """Runs tracking for one near cache.

    Args:
        near: told of every change, and of tracking itself.
        link: gets the connection while it is good, for writes.
        way: how the connection is opened.
        is_alive: asks Redis over another connection.  What that means for the mode is not decided here.
        redis_answers: whether the mode says so.
        changed: told of the keys that somebody else changed, None for all.
        warn: called with one line when there can be no near cache.
        now: the monotonic clock, in seconds.

    Attributes:
        tried: set once the first attempt of all is over, whatever came of it.
        told_since: from when on Redis has told of every change, on the clock of ``now``; ``inf`` while it does not.
    """

    def __init__(
        self,
        *,
        near: Near,
        link: TrackedLink,
        way: Way,
        is_alive: Callable[[], Awaitable[bool]],
        redis_answers: Callable[[], bool],
        changed: Callable[[list[str] | None], None],
        warn: Callable[[str], None],
        now: Callable[[], float],
    ) -> None:
        self.tried = anyio.Event()
        self.told_since = inf
        self._now = now
        self._near = near
        self._link = link
        self._way = way
        self._is_alive = is_alive
        self._redis_answers = redis_answers
        self._changed = changed
        self._warn = warn
        self._woken = anyio.Event()

    def wake(self) -> None:
        """The mode changed."""
        self._woken.set()

    def invalidate(self, keys: list[str] | None) -> None:
        """The tracked connection told of changes."""
        self._near.invalidate(keys)
        self._changed(keys)

    def lose_track(self) -> None:
        """The tracked connection is gone."""
        self._near.lose_track()

    async def run(self) -> None:
        """Until cancelled."""
        pause, failures = _FIRST_PAUSE, 0
        while True:
            if not self._redis_answers():
                pause, failures = _FIRST_PAUSE, 0
                await self._sleep(None)
                continue
            start = anyio.current_time()
            try:
                await self._track()
                failures = 0
            except RedisCommandError as error:
                self._warn(f"the near cache is off: Redis does not let this instance track changes: {error}")
                pause = _LONGEST_PAUSE
            except Unavailable as outage:
                failures += 1
                if failures == _WARN_AFTER:
                    self._warn(f"the near cache is off until changes can be tracked: {outage.cause}")
            self.tried.set()
            if await self._is_alive():
                self._near.drop()
            if anyio.current_time() - start > _LONGEST_PAUSE:
                pause = _FIRST_PAUSE
            await self._sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _track(self) -> None:
        """Track until the connection breaks.  Raises ``Unavailable`` or ``RedisCommandError`` if it cannot begin."""
        connection = await self._way.open(self)
        refused: Unavailable | RedisCommandError | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._receive, connection, tasks.cancel_scope)
                try:
                    await self._way.start(connection)
                except (Unavailable, RedisCommandError) as error:
                    refused = error  # not raised here: a task group would wrap it
                else:
                    self._near.drop()  # what there is may have changed while nobody listened, also where no outage came of it
                    self._near.track()
                    self._link.connection = connection
                    self.told_since = self._now()
                    self.tried.set()
                    await self._ask_again_and_again(connection)
                tasks.cancel_scope.cancel()
        finally:
            self._link.connection = None
            self.told_since = inf
            connection.abort()
        if refused is not None:
            raise refused

    async def _receive(self, connection: Tracked, scope: anyio.CancelScope) -> None:
        await connection.run()
        scope.cancel()

    async def _ask_again_and_again(self, connection: Tracked) -> None:
        """Ends when there is no answer in time."""
        while connection.is_open:
            await anyio.sleep(_HEALTH_INTERVAL)
            try:
                await connection.check()
            except (Unavailable, Broken):
                return

    async def _sleep(self, seconds: float | None) -> None:
        with anyio.move_on_after(seconds):
            await self._woken.wait()
        self._woken = anyio.Event()
