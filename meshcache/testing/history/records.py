"""What is recorded of a run: every call, every read after healing, and whatever else happened.

What may not enter: I/O, a clock, randomness, anything of meshcache.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from functools import cache
from math import inf
from typing import Any

__all__ = ["BY_REFRESH", "OR_LOAD", "REDIS", "Call", "History", "Incident", "Read"]

REDIS = "Redis"
"""Where a read of Redis itself, past every instance, was made."""

OR_LOAD, BY_REFRESH = "or load", "by refresh"
"""What the note of a read begins with that loads: what is missing, or whatever is there."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call on one instance.

    Attributes:
        instance: its name; another after each restart.
        what: ``get``, ``set``, ``delete``, ``delete_match``, ``expire`` or ``incr``; or ``load``, of what a loader gave to a call
            that loads: it begins when the loader is called, ends with that call, and may write.
        key: the key, or the pattern.
        value: what was written, unique; or the increment.
        began: when, in seconds.
        ended: when the answer was there; ``inf`` if it never was.
        answer: of a ``get`` the value, None for a miss.
        error: what it raised, if so.
        ttl: of a ``set`` or ``load``: how long the value lives, in seconds.
        in_memory: whether the answer may have come from memory, so that only this process knew of the write.
        note: options of the call and the mode around it, for the story.
    """

    instance: str
    what: str
    key: str
    value: Any = None
    began: float = 0.0
    ended: float = inf
    answer: Any = None
    error: str = ""
    ttl: float = inf
    in_memory: bool = False
    note: str = ""

    @property
    def may_write(self) -> bool:
        """Whether it changes what is read, or may have done so."""
        return self.what not in ("get", "incr")

    @property
    def is_certain_write(self) -> bool:
        """Whether it was acknowledged that the key was written or deleted."""
        if self.ended == inf or self.error:
            return False
        return self.what in ("delete", "delete_match") or (self.what == "set" and self.answer is True)

    @property
    def has_settled(self) -> bool:
        """Whether what it wrote was written by its end, if it ever is."""
        return self.is_certain_write or (self.what == "load" and self.ended < inf and not self.error)

    @property
    def may_load(self) -> bool:
        """Whether its caller may have waited for a loader."""
        return self.what == "load" or self.note.lstrip().startswith((OR_LOAD, BY_REFRESH))

    def concerns(self, key: str) -> bool:
        """Whether it reads or writes this key."""
        return _matcher(self.key)(key) is not None if self.what == "delete_match" else self.key == key


@dataclass(frozen=True, slots=True)
class Read:
    """A read after healing: ``where`` is an instance's name or :data:`REDIS`; ``at`` is when it began, if that is known."""

    where: str
    key: str
    value: Any
    at: float = -inf

    @property
    def writer(self) -> str:
        """The instance that wrote the value, which begins with its name; empty: a miss, or a counter."""
        return self.value.partition(":")[0] if isinstance(self.value, str) else ""


@dataclass(frozen=True, slots=True)
class Incident:
    """What happened besides the calls: a fault, the end of one, a change of mode; or what concerns only one ``key``."""

    at: float
    text: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class History:
    """All that is known of one run.

    Attributes:
        calls: every call, in any order.
        reads: what was read after healing, on each instance and in Redis.
        incidents: for the story.
        heard_until: of each instance that is gone, until when its writes must have been heard by a peer.
        forgotten: of each instance that is gone, when it made what Redis has forgotten since: nobody else need know of it.
        slack: how far apart two writes must be until it is certain which is newer, in seconds.  Stamps count milliseconds;
            where the clocks of the instances disagree, by how much.
        is_exact: whether counters must be exact: no instance was killed, and no Redis that may have forgotten something.
        began: what the story counts its seconds from.
    """

    calls: Sequence[Call]
    reads: Sequence[Read]
    incidents: Sequence[Incident] = ()
    heard_until: Mapping[str, float] = field(default_factory=dict)
    forgotten: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    slack: float = 0.002
    is_exact: bool = True
    began: float = 0.0


@cache
def _matcher(pattern: str) -> Callable[[str], re.Match[str] | None]:
    return re.compile(translate(pattern)).match
