"""What peers are told that they could not hear when it happened.

Whoever is cut off from Redis does not hear from it what others change there; and whoever was cut off from its peers, and still is
from Redis, has writes that none of them knows.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

import anyio
import anyio.lowlevel

from ..journal import Journal
from ..memory import MemoryTier
from ..recent import Recent
from ..stamp import Kind, Op

__all__ = ["Briefing"]

_AT_ONCE: Final = 100
"""Writes; then others have their turn."""


class Briefing:
    """Tells all peers what one of them has missed.  What the others know already they pass over, by its stamp.

    Args:
        memory: what this instance knows.
        journal: what Redis lacks; None without a Redis.
        recent: what was changed in Redis of late.
        is_writing: whether a write of a key is under way, so that a copy may be older than its stamp says.
        now: the monotonic clock, in seconds.
        publish: sends a write to every peer.
        brings_itself: whether this instance reaches Redis, and so brings there itself what is dirty.
    """

    def __init__(
        self,
        *,
        memory: MemoryTier,
        journal: Journal | None,
        recent: Recent,
        is_writing: Callable[[str], bool],
        now: Callable[[], float],
        publish: Callable[[Op], None],
        brings_itself: Callable[[], bool],
    ) -> None:
        self._memory = memory
        self._journal = journal
        self._recent = recent
        self._is_writing = is_writing
        self._now = now
        self._publish = publish
        self._brings_itself = brings_itself
        self._wanted = anyio.Event()
        self._due = inf

    def tell_changes(self, since: float) -> None:
        """What this instance has changed in Redis since that moment, with the value where it holds a copy."""
        for op in self._recent.own_since(since):
            if op.kind is Kind.SWEEP or self._is_writing(op.key):
                self._publish(op)
            else:
                self._publish(self._memory.with_copy(op, self._recent.expires_at(op.key)))

    def tell_dirty(self, after: float = 0.0) -> None:
        """All that Redis lacks, in so many seconds, unless this instance can bring it there itself by then."""
        self._due = min(self._due, self._now() + after)
        self._wanted.set()

    async def run(self) -> None:
        """Tell what is dirty when that is wanted, a little at a time.  Until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted = anyio.Event()
            if self._now() < self._due:
                with anyio.move_on_after(self._due - self._now()):
                    await self._wanted.wait()
                self._wanted.set()
                continue
            self._due = inf
            if self._journal is not None:
                await self._tell(self._journal)

    async def _tell(self, journal: Journal) -> None:
        keys = [key for key, _ in journal.oldest(len(journal))]
        for pattern, stamp in list(journal.sweeps.items()):
            self._publish(Op(Kind.SWEEP, pattern, stamp))
        for first in range(0, len(keys), _AT_ONCE):
            if self._brings_itself():
                return
            for op in self._memory.newest(keys[first : first + _AT_ONCE]):
                self._publish(op)
            await anyio.lowlevel.checkpoint()
