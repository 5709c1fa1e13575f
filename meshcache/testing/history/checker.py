"""The judgement: were the reads after a time of trouble the truth, given every call that was made?

A read after healing may be a miss.  Otherwise it must be a value that somebody wrote to that key, and at least as new as
the newest acknowledged write or delete of it.  "Newer" is real time, of one clock for all processes: a value is a *lie* if
its write had ended before an acknowledged write or delete of the key began.  Calls that overlap may be in either order; but
what an instance loads may not outlive what it wrote or deleted itself after the loader had been called.

Not certain, so never held against anybody:

- a call without an answer (its process was killed): its write may have happened, at any time up to healing;
- a ``set`` with ``nx`` or ``xx`` that said False: if only the reply was lost, it wrote all the same;
- that what was loaded is stored;
- an ``expire``: in an outage it writes the value that its instance knows once more;
- a write that memory acknowledged, of an instance that was killed before a peer can have heard of it;
- a write of an instance that is gone, in a Redis that came back as it was before that write.

What may not enter: I/O, a clock, randomness, anything of meshcache.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from math import inf
from typing import Any

from .records import REDIS, Call, History, Read
from .story import describe, grouped, second, tell, tell_call

__all__ = ["MISSED_WITHIN", "Interval", "Violation", "heard_until", "judge", "kept", "stale_reads"]

MISSED_WITHIN = 24.0
"""So long after healing every instance that is gone has been missed, in seconds: its lease has ended, and the others have seen
that."""

_LATE = 7.0
"""A value may live so much longer than its time to live, in seconds: as long as a datagram may wait for a process that stands
still and still be believed, and some time to pass it on."""

_LASTING = 100.0
"""A value with such a time to live, in seconds, outlives every run."""

_PATTERNS = 64
"""So many deleted patterns are told apart; more become one of everything."""

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not be.

    Attributes:
        kind: ``lie``, ``outlived``, ``never written``, ``too early``, ``counter`` or ``raised``.
        key: the key.
        why: one sentence.
        story: what happened to the key, in the order of time.
    """

    kind: str
    key: str
    why: str
    story: str = field(repr=False, default="")

    def __str__(self) -> str:
        return f"{self.kind}: {self.key}: {self.why}\n{self.story}".rstrip()


def judge(history: History) -> list[Violation]:
    """Everything that must not be; empty if all is well."""
    keys = _by_key(history)
    violations = [
        Violation("raised", call.key, f"{call.what} on {call.instance} raised {call.error}", tell_call(history, call))
        for call in history.calls
        if call.error
    ]
    for facts in sorted(keys.values(), key=lambda facts: facts.key):
        if facts.increments:
            violations += _counter(history, facts)
        else:
            violations += _reads_in_the_run(history, facts)
            violations += _final_reads(history, facts)
    return violations


def stale_reads(history: History) -> int:
    """How many reads in the run gave a value although a newer write had been acknowledged before.

    Not wrong in an outage, when instances learn of each other's writes a moment later; a measure of that moment.
    """
    return sum(_stale_of_key(facts, history.slack) for facts in _by_key(history).values())


def kept(history: History) -> tuple[int, int]:
    """Of how many keys the newest write was a ``set`` that nothing overlapped, and how many of those Redis still has.

    A cache that forgets everything tells no lies; this says that it did not.
    """
    count = found = 0
    in_redis = {read.key: read.value for read in history.reads if read.where == REDIS}
    for facts in _by_key(history).values():
        newest = max((call for call in facts.calls if call.may_write), key=lambda call: call.ended, default=None)
        if newest is None or newest.what != "set" or not newest.is_certain_write or newest.ttl < _LASTING:
            continue
        if any(call is not newest and call.may_write and call.ended > newest.began for call in facts.calls):
            continue
        count += 1
        found += in_redis.get(facts.key) == newest.value
    return count, found


def heard_until(
    began: float, killed: float, own: Iterable[Interval], others: Iterable[Iterable[Interval]], grace: float
) -> float:
    """Until when what an instance wrote must have been heard by some peer before it was killed.

    Args:
        began: when it could first speak.
        killed: when it was killed.
        own: when it could not speak freely: it was paused, or its datagrams were dropped.
        others: the same of each other instance; also while it was dead.
        grace: how long it takes to be heard for certain, in seconds.

    Returns:
        A moment; ``-inf`` if nothing was heard for certain.
    """
    trouble = list(own)
    best = -inf
    for other in others:
        free = began
        for start, end in sorted([*trouble, *other, (killed, inf)]):
            until = min(start, killed)
            if until - free >= grace:
                best = max(best, until - grace)
            free = max(free, end)
    return best


# -- the facts of a key


@dataclass(slots=True)
class _Facts:
    key: str
    calls: list[Call] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    writers: dict[Any, Call] = field(default_factory=dict)
    certain: list[Call] = field(default_factory=list)

    def settled(self, write: Call, *, own: bool = False) -> float:
        """When this write had taken its place for good; for the writes of its ``own`` instance, which knows of its loads."""
        if not write.has_settled:
            return inf
        taken = write.began if own and write.what == "load" else write.ended
        return max([taken, *(call.ended for call in self.calls if call.what == "expire" and call.answer is not False)])

    def newer(self, write: Call, slack: float) -> Call | None:
        """The newest write or delete that this one must not outlive, if there is any."""
        settled, settled_here = self.settled(write) + slack, self.settled(write, own=True)
        newer = [
            call for call in self.certain if call.began > (settled_here if call.instance == write.instance else settled)
        ]
        return max(newer, key=lambda call: call.began, default=None)

    @property
    def increments(self) -> list[Call]:
        return [call for call in self.calls if call.what == "incr"]


def _by_key(history: History) -> dict[str, _Facts]:
    facts: dict[str, _Facts] = {}
    sweeps = [call for call in history.calls if call.what == "delete_match"]
    for call in history.calls:
        if call.what != "delete_match":
            facts.setdefault(call.key, _Facts(call.key)).calls.append(call)
    for read in history.reads:
        facts.setdefault(read.key, _Facts(read.key)).reads.append(read)
    for key, known in facts.items():
        known.calls += [sweep for sweep in sweeps if sweep.concerns(key)]
        known.calls.sort(key=lambda call: call.began)
        known.writers = {call.value: call for call in known.calls if call.what in ("set", "load")}
        known.certain = [call for call in known.calls if call.is_certain_write and not _died_with(history, call)]
    return facts


def _died_with(history: History, call: Call) -> bool:
    """Whether only a process knew of this write that is gone, and need not have told anybody."""
    if call.in_memory and call.ended > history.heard_until.get(call.instance, inf):
        return True
    return any(start <= call.ended and call.began <= end for start, end in history.forgotten.get(call.instance, ()))


# -- what is judged


def _reads_in_the_run(history: History, facts: _Facts) -> list[Violation]:
    found = []
    for call in facts.calls:
        if call.what != "get" or call.answer is None:
            continue
        write = facts.writers.get(call.answer)
        if write is None:
            why = f"{call.instance} read {call.answer!r}, which nobody ever wrote to it"
            found.append(Violation("never written", facts.key, why, _story(history, facts, call.began)))
        elif write.began > call.ended:
            why = f"{call.instance} read {call.answer!r} before {write.instance} began to write it"
            found.append(Violation("too early", facts.key, why, _story(history, facts, call.began)))
    return found


def _final_reads(history: History, facts: _Facts) -> list[Violation]:
    where: dict[Any, list[str]] = defaultdict(list)
    for read in facts.reads:
        if read.value is not None and read.where not in where[read.value]:
            where[read.value].append(read.where)
    found = []
    for value, places in where.items():
        write = facts.writers.get(value)
        told = f"after healing {' and '.join(places)} read {value!r}"
        if write is None:
            found.append(
                Violation("never written", facts.key, f"{told}, which nobody ever wrote to it", _story(history, facts))
            )
        elif (newer := facts.newer(write, history.slack)) is not None:
            is_over = newer.began > write.ended
            had = (
                f"written by {second(history, write.ended)}"
                if is_over
                else f"begun to load at {second(history, write.began)}"
            )
            why = (
                f"{told}, which {write.instance} had {had}, "
                f"before {newer.instance} began to {describe(newer)} at {second(history, newer.began)}"
            )
            found.append(Violation("lie", facts.key, why, _story(history, facts, write.began)))
        elif (end := _end_of_life(facts, write)) < max(read.at for read in facts.reads if read.value == value):
            why = f"{told}, whose time to live had ended by {second(history, end - _LATE)}"
            found.append(Violation("outlived", facts.key, why, _story(history, facts, write.began)))
    return found


def _end_of_life(facts: _Facts, write: Call) -> float:
    """From when on the value must not be read any more; ``inf`` if that is not certain."""
    if not write.has_settled or any(call.what == "expire" for call in facts.calls):
        return inf
    return write.ended + write.ttl + _LATE


def _counter(history: History, facts: _Facts) -> list[Violation]:
    acknowledged = sum(call.value for call in facts.increments if call.ended < inf and not call.error)
    attempted = sum(call.value for call in facts.increments)
    sweeps = [call for call in history.calls if call.what == "delete_match"]
    is_exact = (
        history.is_exact
        and len({sweep.key for sweep in sweeps}) <= _PATTERNS
        and not any(sweep.concerns(facts.key) for sweep in sweeps)
    )
    found = []
    for value, places in grouped((read.value or 0, read.where) for read in facts.reads):
        told = f"after healing {' and '.join(places)} read {value}"
        if not isinstance(value, int) or abs(value) > abs(attempted) or value * attempted < 0:
            why = f"{told}, and increments of {attempted} in all were attempted"
        elif is_exact and value != acknowledged:
            why = f"{told}, and increments of {acknowledged} in all were acknowledged"
        else:
            continue
        found.append(Violation("counter", facts.key, why, _story(history, facts)))
    return found


def _stale_of_key(facts: _Facts, slack: float) -> int:
    writes = sorted(facts.certain, key=lambda call: call.ended)
    ends = [write.ended for write in writes]
    newest = list(accumulate((write.began for write in writes), max))
    count = 0
    for call in facts.calls:
        if call.what == "get" and call.answer is not None and (write := facts.writers.get(call.answer)) is not None:
            before = bisect_left(ends, call.began)
            count += before > 0 and newest[before - 1] > facts.settled(write) + slack
    return count


def _story(history: History, facts: _Facts, start: float = -inf) -> str:
    return tell(history, facts.key, facts.calls, facts.reads, start)
