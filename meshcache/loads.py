"""Which loads are under way in one instance, who joins which, and whether what a load has found may still be stored.

A caller that misses *leads* a load, or *joins* the one under way; see ``loading``, which does the waiting.  A load asks
once more whether the value is there (``Phase.ASKING``), calls the loader (``LOADING``) and stores what it found
(``STORING``).  Every write and delete of a key that this instance makes or hears of is told here.  Then:

1. **Nobody is given what is older than a delete that he knows of.**  From the moment of the change nobody joins a load
   whose loader had been called before it; who asks now begins a load of his own.  A load that is still asking asks again.
2. **What was loaded before a change is not stored after it.**  A change while the loader runs forbids to store.  While a
   value is on its way to Redis, a write of this instance waits until it has arrived, so that it comes after it.  What
   somebody else does meanwhile may have come before or after: the value is deleted again.  A wrong delete costs one miss.
3. **Stored with a stamp** (see ``memory``), a value has the stamp of the moment when its loader was called, so that it
   loses against every write and delete made since, heard of or not.
4. **A load that waits for itself is an error, not a hang**: the loader of ``a`` asks for ``b``, whose loader asks for ``a``.

What may not enter: I/O, a clock, waiting, tasks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import Enum, auto

from .glob import matcher
from .shares import visible
from .stamp import Kind, Op, Stamp

__all__ = ["Load", "Loads", "Phase"]


class Phase(Enum):
    """How far a load is."""

    ASKING = auto()
    LOADING = auto()
    STORING = auto()


class Load:
    """One load of one key.

    Attributes:
        key: the key.
        anew: whether it replaces what is there; otherwise it only fills a gap.
        phase: how far it is.
        began: when the loader was called, as stamps tell it; empty before.
        doubted: the key was changed while the load asked for it: ask again.
        outdated: the key was changed since the loader was called.
        must_be_taken_back: it was, by somebody else, while the value was on its way.
        waits_for: the loads for which its loader waits now.
    """

    __slots__ = ("anew", "began", "doubted", "key", "must_be_taken_back", "outdated", "phase", "waits_for")

    def __init__(self, key: str, *, anew: bool) -> None:
        self.key = key
        self.anew = anew
        self.phase = Phase.ASKING
        self.began = Stamp(b"")
        self.doubted = self.outdated = self.must_be_taken_back = False
        self.waits_for: list[Load] = []


class Loads:
    """The loads under way."""

    def __init__(self) -> None:
        self._under_way: dict[str, list[Load]] = {}  # of each key the newest last

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._under_way)

    # -- the life of a load

    def join(self, key: str, inside: Collection[Load]) -> tuple[Load, bool]:
        """The load of a key that a caller is to wait for, or to lead.

        Args:
            key: the key.
            inside: the loads by whose loaders the caller was called, if any.

        Returns:
            The load, and whether the caller leads it: then :meth:`end` must follow.

        Raises:
            RuntimeError: to wait for it would be to wait for oneself.
        """
        loads = self._under_way.get(key)
        if not loads or loads[-1].outdated:
            return self._add(Load(key, anew=False)), True
        if _waits_for_any(loads[-1], inside):
            raise RuntimeError(f"the loader of {key!r} asks for {key!r} itself, and would wait for ever")
        return loads[-1], False

    def lead(self, key: str) -> Load:
        """A load that replaces what is there; :meth:`end` must follow.  What other loads have found by then is outdated."""
        self.changed((key,))
        return self._add(Load(key, anew=True))

    def ask(self, load: Load) -> None:
        """It is about to ask whether the value is there."""
        load.doubted = False

    def call(self, load: Load, began: Stamp) -> None:
        """The loader is about to be called.

        Args:
            load: the load.
            began: this moment.
        """
        load.phase = Phase.LOADING
        load.began = began

    def store(self, load: Load) -> bool:
        """Whether the value may be stored, which then is about to happen."""
        load.phase = Phase.STORING
        return not load.outdated

    def end(self, load: Load) -> None:
        """It is over, whatever came of it."""
        loads = self._under_way[load.key]
        loads.remove(load)
        if not loads:
            del self._under_way[load.key]

    # -- what happens meanwhile

    def changed(self, keys: Iterable[str] | None, *, elsewhere: bool = False) -> None:
        """Keys are about to be written or deleted, or were.

        Args:
            keys: which; None for any.
            elsewhere: by somebody else.
        """
        if self._under_way:
            for key in self._under_way if keys is None else keys:
                for load in self._under_way.get(key, ()):
                    _change(load, elsewhere=elsewhere)

    def heard(self, ops: Iterable[Op]) -> None:
        """Peers wrote this."""
        if self._under_way:
            for op in ops:
                self.changed(self.matching(op.key) if op.kind is Kind.SWEEP else (visible(op.key),), elsewhere=True)

    def matching(self, pattern: str) -> list[str]:
        """The keys that match, of those that are being loaded."""
        return list(filter(matcher(pattern), self._under_way)) if self._under_way else []

    def storing(self, keys: Iterable[str]) -> list[Load]:
        """The loads whose values are on their way."""
        return [load for key in keys for load in self._under_way.get(key, ()) if load.phase is Phase.STORING]

    def waits(self, inside: Sequence[Load], load: Load) -> None:
        """Loaders begin to wait for a load; :meth:`waited` must follow."""
        for outer in inside:
            outer.waits_for.append(load)

    def waited(self, inside: Sequence[Load], load: Load) -> None:
        """They do not any more."""
        for outer in inside:
            outer.waits_for.remove(load)

    def _add(self, load: Load) -> Load:
        self._under_way.setdefault(load.key, []).append(load)
        return load


def _change(load: Load, *, elsewhere: bool) -> None:
    if load.phase is Phase.ASKING:
        load.doubted = True
    else:
        load.outdated = True
        load.must_be_taken_back |= elsewhere and load.phase is Phase.STORING


def _waits_for_any(load: Load, these: Collection[Load]) -> bool:
    seen: set[Load] = set()
    ahead = [load]
    while ahead:
        load = ahead.pop()
        if load in these:
            return True
        if load not in seen:
            seen.add(load)
            ahead += load.waits_for
    return False
