"""What Redis does not know yet: the keys that an outage wrote or deleted, each with the stamp of its newest write.

Decisions only: no I/O, no clock, no randomness, no logging.  Values are not here; the store has them, and a value that the
store had to give up is invalidated in Redis.  So the journal stays small, and bounded: beyond ``max_dirty`` keys it
becomes one sweep of the whole namespace.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from .glob import MATCH_ALL, matcher
from .shares import visible
from .stamp import Stamp
from .store import add_sweep

__all__ = ["Journal"]


class Journal:
    """The dirty keys and patterns.  It is true while there are any.

    Args:
        max_dirty: how many keys are remembered one by one.

    Attributes:
        overflows: how often there were too many.
        ghosts: keys of plain writes that were given up and may still arrive, whoever has written the key since.
    """

    def __init__(self, max_dirty: int) -> None:
        self.overflows = 0
        self._max_dirty = max_dirty
        self._keys: dict[str, Stamp] = {}  # in the order in which they were written last
        self._foreign: set[str] = set()
        self._sweeps: dict[str, Stamp] = {}
        self._foreign_sweeps: set[str] = set()
        self.ghosts: set[str] = set()

    def __len__(self) -> int:
        return len(self._keys) + len(self._sweeps)

    def __bool__(self) -> bool:
        return bool(self._keys or self._sweeps)

    @property
    def sweeps(self) -> Mapping[str, Stamp]:
        """The dirty patterns, each with the stamp of its newest sweep."""
        return self._sweeps

    @property
    def has_own(self) -> bool:
        """Whether Redis lacks a write of this instance itself."""
        return len(self._keys) > len(self._foreign) or len(self._sweeps) > len(self._foreign_sweeps)

    def is_dirty(self, key: str) -> bool:
        """Whether Redis may hold something older for this key than this instance knows: a write must not overtake it."""
        return key in self._keys or self._is_swept(key)

    def is_in_doubt(self, key: str) -> bool:
        """Whether that is a write of this instance itself: then Redis must not be read.

        Of a peer's write that is still to be brought to Redis nobody knows yet whether Redis has something newer.
        """
        return (key in self._keys and key not in self._foreign) or self._is_swept(key)

    def stamp(self, key: str) -> Stamp | None:
        """The stamp of the newest write or sweep of a dirty key, which the store may have given up; None if it is not dirty."""
        newest = self._keys.get(key)
        for pattern, stamp in self._sweeps.items():
            if (newest is None or stamp > newest) and matcher(pattern)(visible(key)):
                newest = stamp
        return newest

    def key_stamp(self, key: str) -> Stamp | None:
        """The stamp of the newest write of a key that is dirty by itself, not by a sweep."""
        return self._keys.get(key)

    def mark(self, key: str, stamp: Stamp, *, foreign: bool = False) -> None:
        """A key was written or deleted, here or by a peer (``foreign``); an older stamp than the one known changes nothing."""
        known = self._keys.get(key)
        if known is None and len(self._keys) >= self._max_dirty:
            self.overflows += 1
            self.mark_sweep(MATCH_ALL, max(stamp, *self._keys.values()))
            self._keys.clear()
            self._foreign.clear()
        elif known is None or known < stamp:
            self._keys.pop(key, None)  # to the end: one that is written all the time must not be replayed all the time
            self._keys[key] = stamp
            if not foreign:
                self._foreign.discard(key)
            elif known is None:
                self._foreign.add(key)

    def mark_sweep(self, pattern: str, stamp: Stamp, *, foreign: bool = False) -> None:
        """Every key that matches and is older was deleted, here or by a peer (``foreign``)."""
        is_known = pattern in self._sweeps
        kept = add_sweep(self._sweeps, pattern, stamp)
        self._foreign_sweeps &= self._sweeps.keys()
        if not foreign or kept != pattern:  # of those that became one some may be own
            self._foreign_sweeps.discard(kept)
        elif not is_known:
            self._foreign_sweeps.add(pattern)

    def oldest(self, limit: int) -> list[tuple[str, Stamp]]:
        """The keys that have not been written for longest."""
        return list(islice(self._keys.items(), limit))

    def done(self, key: str, stamp: Stamp) -> None:
        """Redis knows this write; a key written again meanwhile stays dirty."""
        if self._keys.get(key) == stamp:
            del self._keys[key]
            self._foreign.discard(key)

    def dismiss(self, key: str) -> None:
        """There is nothing left that could be brought to Redis, and nothing there to be deleted for it: an old share."""
        if self._keys.pop(key, None) is not None:
            self._foreign.discard(key)

    def superseded(self, key: str, stamp: Stamp) -> None:
        """Redis has this write of the key, or a newer one: what is older is of no interest any more."""
        known = self._keys.get(key)
        if known is not None and known <= stamp:
            self.done(key, known)

    def sweep_done(self, pattern: str, stamp: Stamp) -> None:
        """Redis knows this sweep."""
        if self._sweeps.get(pattern) == stamp:
            del self._sweeps[pattern]
            self._foreign_sweeps.discard(pattern)

    def clear(self) -> None:
        """Forget what Redis does not know."""
        self._keys.clear()
        self._foreign.clear()
        self._sweeps.clear()
        self._foreign_sweeps.clear()
        self.ghosts.clear()

    def _is_swept(self, key: str) -> bool:
        return bool(self._sweeps) and any(matcher(pattern)(visible(key)) for pattern in self._sweeps)
