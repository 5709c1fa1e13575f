"""What was changed in Redis of late: what a server that forgot its last seconds may have lost, and what a peer that cannot
reach Redis has not been told.

Decisions only: no I/O, no clock.  ``now`` is seconds of a monotonic clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from math import inf
from typing import Final, NamedTuple

from .glob import MATCH_ALL, matcher
from .stamp import NOBODY, Kind, Op, Stamp, stamp_node
from .store import add_sweep

__all__ = ["Recent"]


_TOLD_WITHIN: Final = 1.0
"""In seconds: a change that came after another in Redis may be told of so long before it here."""


class _Change(NamedTuple):
    at: float
    stamp: Stamp
    fenced: bool = False
    expires_at: float = inf


class Recent:
    """The keys that were changed last.

    Args:
        limit: how many keys are remembered; of more, the oldest are forgotten, and whoever asks for them is told of everything.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._own: OrderedDict[str, _Change] = OrderedDict()  # the oldest first
        self._others: OrderedDict[str, float] = OrderedDict()
        self._sweeps: dict[str, _Change] = {}
        self._laid: OrderedDict[str, float] = OrderedDict()
        self._own_since = self._others_since = -inf  # of everything after this moment there is a record

    def wrote(self, key: str, stamp: Stamp, now: float, *, fenced: bool = False, expires_at: float = inf) -> None:
        """This instance changed a key in Redis, plainly or under the fence; or it brought something older there, for others.

        Args:
            key: the key.
            stamp: that of the write.
            now: this moment.
            fenced: whether Redis has the stamp.
            expires_at: when the value expires there, as far as that is known.
        """
        own = self._own
        known = own.get(key)
        if known is None or known.stamp < stamp:
            own[key] = _Change(now, stamp, fenced, expires_at)
        elif known.stamp == stamp:  # the same once more, perhaps as a delete, which knows no time to live
            own[key] = _Change(now, stamp, fenced or known.fenced, min(expires_at, known.expires_at))
        else:
            own[key] = known._replace(at=now)
        own.move_to_end(key)
        if len(own) > self._limit:
            self._own_since = own.popitem(last=False)[1].at

    def swept(self, pattern: str, stamp: Stamp, now: float) -> None:
        """This instance deleted by pattern in Redis."""
        stamps = {known: change.stamp for known, change in self._sweeps.items()}
        add_sweep(stamps, pattern, stamp)
        self._sweeps = {
            known: old if (old := self._sweeps.get(known)) is not None and old.stamp == newest else _Change(now, newest)
            for known, newest in stamps.items()
        }

    def changed(self, keys: Iterable[str], now: float) -> None:
        """Somebody else changed these keys in Redis."""
        others = self._others
        for key in keys:
            others[key] = now
            others.move_to_end(key)
        while len(others) > self._limit:
            self._others_since = others.popitem(last=False)[1]

    def flushed(self, now: float) -> None:
        """Somebody else changed everything."""
        self._others.clear()
        self._others_since = now

    def laid(self, keys: Iterable[str], now: float) -> None:
        """What plain writes of these keys that were given up may have done in Redis was undone."""
        for key in keys:
            self._laid[key] = now
            self._laid.move_to_end(key)
        while len(self._laid) > self._limit:
            self._laid.popitem(last=False)

    def laid_since(self, moment: float) -> list[str]:
        """The keys of which that happened at or after this moment: a Redis that forgets the last seconds has it to be done again."""
        return [key for key, at in self._laid.items() if at >= moment]

    def own_since(self, moment: float) -> list[Op]:
        """What this instance changed since then, as something to forget: invalidations and sweeps with the stamps of the writes."""
        if self._own and moment < self._own_since:
            return [Op(Kind.SWEEP, MATCH_ALL, max(change.stamp for change in self._own.values()))]
        ops = [Op(Kind.SWEEP, pattern, change.stamp) for pattern, change in self._sweeps.items() if change.at >= moment]
        for key, change in reversed(self._own.items()):
            if change.at < moment:
                break
            ops.append(Op(Kind.INVALIDATE, key, change.stamp))
        return ops

    def overtaken_since(self, moment: float, told_since: float) -> list[Op]:
        """What this instance changed since then and somebody else may have changed afterwards, as :meth:`own_since` gives it.
        What it only deleted because Redis may have forgotten something is not among that.

        Args:
            moment: on the clock of ``now``.
            told_since: from when on this instance has been told of every change that others made; ``inf``: it is not told.
        """
        told_since = max(told_since, self._others_since)
        changed = {key: at for key, at in self._others.items() if at >= moment}
        overtaken = []
        for op in self.own_since(moment):
            if stamp_node(op.stamp) == NOBODY:
                continue
            change = self._own.get(op.key) if op.kind is not Kind.SWEEP else self._sweeps.get(op.key)
            at = moment if change is None else change.at  # None: more was changed than is remembered
            if at < told_since:
                overtaken.append(op)
            elif op.kind is Kind.SWEEP:
                matches = matcher(op.key)
                overtaken += [
                    Op(Kind.INVALIDATE, key, op.stamp)
                    for key, then in changed.items()
                    if then >= at - _TOLD_WITHIN and matches(key)
                ]
            elif changed.get(op.key, -inf) >= at - _TOLD_WITHIN:
                overtaken.append(op)
        return overtaken

    def fenced_since(self, moment: float) -> list[Op]:
        """Those of them that were stamped, so that peers know of them."""
        return [op for op in self.own_since(moment) if op.kind is not Kind.SWEEP and self._own[op.key].fenced]

    def expires_at(self, key: str) -> float:
        """When the value expires that this instance wrote last to a key; ``inf``: never, or that is not known."""
        change = self._own.get(key)
        return inf if change is None else change.expires_at

    def all_since(self, moment: float, stamp_at: Callable[[float], Stamp]) -> list[Op]:
        """What anybody changed since then, as far as this instance knows, as something to forget.

        Args:
            moment: on the clock of ``now``.
            stamp_at: a stamp for a moment of that clock: of the changes of others only their time is known.
        """
        if moment < self._others_since:
            newest = max([stamp_at(self._others_since), *map(stamp_at, self._others.values())])
            return [Op(Kind.SWEEP, MATCH_ALL, max([newest, *(op.stamp for op in self.own_since(moment))]))]
        own = self.own_since(moment)
        latest = {op.key: op.stamp for op in own if op.kind is not Kind.SWEEP}
        for key, at in reversed(self._others.items()):
            if at < moment:
                break
            # Whoever changed it last: the server may have come back with the fence of the change before.
            latest[key] = max(latest.get(key, stamp_at(at)), stamp_at(at))
        return [
            *(op for op in own if op.kind is Kind.SWEEP),
            *(Op(Kind.INVALIDATE, key, stamp) for key, stamp in latest.items()),
        ]

    def forget_before(self, moment: float) -> None:
        """What is older is of no interest any more."""
        while self._own and next(iter(self._own.values())).at < moment:
            self._own.popitem(last=False)
        while self._others and next(iter(self._others.values())) < moment:
            self._others.popitem(last=False)
        while self._laid and next(iter(self._laid.values())) < moment:
            self._laid.popitem(last=False)
        self._sweeps = {pattern: change for pattern, change in self._sweeps.items() if change.at >= moment}
