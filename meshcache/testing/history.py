"""The judgement: were the reads after a time of trouble the truth, given every call that was made?

A read after healing may be a miss.  Otherwise it must be a value that somebody wrote to that key, and at least as new as
the newest acknowledged write or delete of it.  "Newer" is real time, of one clock for all processes: a value is a *lie* if
its write had ended before an acknowledged write or delete of the key began.  Calls that overlap may be in either order.

Not certain, so never held against anybody:

- a call without an answer (its process was killed): its write may have happened, at any time up to healing;
- a ``set`` with ``nx`` or ``xx`` that said False: if only the reply was lost, it wrote all the same;
- a write that memory acknowledged, of an instance that was killed before a peer can have heard of it;
- a write of an instance that is gone, in a Redis that came back as it was before that write.

What may not enter: I/O, a clock, randomness, anything of meshcache.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import accumulate
from math import inf
from typing import Any

__all__ = [
    "REDIS",
    "Call",
    "History",
    "Incident",
    "Interval",
    "Read",
    "Violation",
    "heard_until",
    "judge",
    "stale_reads",
]

REDIS = "Redis"
"""Where a read of Redis itself, past every instance, was made."""

SLACK = 0.002
"""Stamps count milliseconds: of two writes that follow each other faster than this, in seconds, either may win."""

_STORY_LINES = 70

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Call:
    """One call on one instance.

    Attributes:
        instance: its name; another after each restart.
        what: ``get``, ``set``, ``delete``, ``delete_match`` or ``incr``.
        key: the key, or the pattern.
        value: what was written, unique; or the increment.
        began: when, in seconds.
        ended: when the answer was there; ``inf`` if it never was.
        answer: of a ``get`` the value, None for a miss.
        error: what it raised, if so.
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
    in_memory: bool = False
    note: str = ""

    @property
    def is_certain_write(self) -> bool:
        """Whether it was acknowledged that the key was written or deleted."""
        if self.ended == inf or self.error:
            return False
        return self.what in ("delete", "delete_match") or (self.what == "set" and self.answer is True)

    def concerns(self, key: str) -> bool:
        """Whether it reads or writes this key."""
        return fnmatchcase(key, self.key) if self.what == "delete_match" else self.key == key


@dataclass(frozen=True, slots=True)
class Read:
    """A read after healing: ``where`` is an instance's name or :data:`REDIS`."""

    where: str
    key: str
    value: Any
    at: float


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
        heard_until: of each instance that is gone, until when its writes must have been heard by a peer; see :func:`heard_until`.
        forgotten: of each instance that is gone, when it made what Redis has forgotten since: nobody else need know of it.
        slack: how far apart in real time two writes must be until it is certain which is newer, in seconds: as much as the
            clocks of the instances disagree, and a little.
        is_exact: whether counters must be exact: no instance was killed, and Redis lost nothing.
        began: what the story counts its seconds from.
    """

    calls: Sequence[Call]
    reads: Sequence[Read]
    incidents: Sequence[Incident] = ()
    heard_until: Mapping[str, float] = field(default_factory=dict)
    forgotten: Mapping[str, Sequence[Interval]] = field(default_factory=dict)
    slack: float = SLACK
    is_exact: bool = True
    began: float = 0.0


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not be.

    Attributes:
        kind: ``lie``, ``never written``, ``too early``, ``counter`` or ``raised``.
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
        Violation("raised", call.key, f"{call.what} on {call.instance} raised {call.error}", _around(history, call))
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
        known.writers = {call.value: call for call in known.calls if call.what == "set"}
        known.certain = [call for call in known.calls if call.is_certain_write and not _died_with(history, call)]
    return facts


def _died_with(history: History, call: Call) -> bool:
    """Whether only a process knew of this write that is gone, and need not have told anybody."""
    if call.in_memory and call.ended > history.heard_until.get(call.instance, inf):
        return True
    return any(start <= call.ended and call.began <= end for start, end in history.forgotten.get(call.instance, ()))


def _settled(write: Call) -> float:
    """When this write had taken its place for good."""
    return write.ended if write.is_certain_write else inf


# -- what is judged


def _reads_in_the_run(history: History, facts: _Facts) -> list[Violation]:
    found = []
    for call in facts.calls:
        if call.what != "get" or call.answer is None:
            continue
        write = facts.writers.get(call.answer)
        if write is None:
            why = f"{call.instance} read {call.answer!r}, which nobody ever wrote to it"
            found.append(Violation("never written", facts.key, why, _story(history, facts, call.began, call.ended)))
        elif write.began > call.ended:
            why = f"{call.instance} read {call.answer!r} before {write.instance} began to write it"
            found.append(Violation("too early", facts.key, why, _story(history, facts, call.began, write.ended)))
    return found


def _final_reads(history: History, facts: _Facts) -> list[Violation]:
    where: dict[Any, list[str]] = defaultdict(list)
    for read in facts.reads:
        if read.value is not None and read.where not in where[read.value]:
            where[read.value].append(read.where)
    newest = max(facts.certain, key=lambda call: call.began, default=None)
    found = []
    for value, places in where.items():
        write = facts.writers.get(value)
        told = f"after healing {' and '.join(places)} read {value!r}"
        if write is None:
            found.append(
                Violation("never written", facts.key, f"{told}, which nobody ever wrote to it", _story(history, facts))
            )
        elif newest is not None and newest.began > _settled(write) + history.slack:
            why = (
                f"{told}, which {write.instance} had written by {_second(history, write.ended)}, "
                f"before {newest.instance} began to {_describe(newest)} at {_second(history, newest.began)}"
            )
            found.append(Violation("lie", facts.key, why, _story(history, facts, write.began, newest.ended)))
    return found


def _counter(history: History, facts: _Facts) -> list[Violation]:
    acknowledged = sum(call.value for call in facts.increments if call.ended < inf and not call.error)
    attempted = sum(call.value for call in facts.increments)
    is_exact = history.is_exact and not any(
        call.what == "delete_match" and call.concerns(facts.key) for call in history.calls
    )
    found = []
    for value, places in _grouped((read.value or 0, read.where) for read in facts.reads):
        told = f"after healing {' and '.join(places)} read {value}"
        if not isinstance(value, int) or abs(value) > abs(attempted) or value * attempted < 0:
            why = f"{told}, and increments of {attempted} in all were attempted"
        elif is_exact and value != acknowledged:
            why = f"{told}, and increments of {acknowledged} in all were acknowledged"
        else:
            continue
        found.append(Violation("counter", facts.key, why, _story(history, facts)))
    return found


def _grouped(pairs: Iterable[tuple[Any, str]]) -> list[tuple[Any, list[str]]]:
    groups: dict[Any, list[str]] = {}
    for value, where in pairs:
        places = groups.setdefault(value, [])
        if where not in places:
            places.append(where)
    return list(groups.items())


def _stale_of_key(facts: _Facts, slack: float) -> int:
    writes = sorted(facts.certain, key=lambda call: call.ended)
    ends = [write.ended for write in writes]
    newest = list(accumulate((write.began for write in writes), max))
    count = 0
    for call in facts.calls:
        if call.what == "get" and call.answer is not None and (write := facts.writers.get(call.answer)) is not None:
            before = bisect_left(ends, call.began)
            count += before > 0 and newest[before - 1] > _settled(write) + slack
    return count


# -- the story


def _story(history: History, facts: _Facts, start: float = -inf, end: float = inf) -> str:
    """What happened to a key: all its calls and all incidents, as much of it around what matters as can be read."""
    lines = [(call.began, _line(history, call)) for call in facts.calls]
    lines += [
        (incident.at, f"{_second(history, incident.at):>9}  * {incident.text}")
        for incident in history.incidents
        if incident.key in ("", facts.key)
    ]
    lines.sort(key=lambda line: line[0])
    if len(lines) > _STORY_LINES:
        lines = _shortened(lines, start, end)
    told = [text for _, text in lines]
    for value, places in _grouped((read.value, read.where) for read in facts.reads):
        told.append(f"{'healed':>9}  {' '.join(places)} read {value!r}")
    return "\n".join(f"  {line}" for line in told)


def _shortened(lines: list[tuple[float, str]], start: float, end: float) -> list[tuple[float, str]]:
    """The lines from ``start`` to ``end``, with as many around as there is room for; the middle is left out if that is too much."""
    first = next((place for place, (at, _) in enumerate(lines) if at >= start), 0)
    last = next((place for place, (at, _) in enumerate(lines) if at > end), len(lines))
    room = max(8, (_STORY_LINES - (last - first)) // 2)
    before, after = lines[max(0, first - room) : first], lines[last : last + room]
    chosen = lines[first:last]
    if len(chosen) > _STORY_LINES:
        half = _STORY_LINES // 2
        left_out = (chosen[half][0], f"{'…':>9}  {len(chosen) - 2 * half} lines more")
        chosen = [*chosen[:half], left_out, *chosen[-half:]]
    return [*before, *chosen, *after]


def _around(history: History, call: Call) -> str:
    near = [one for one in history.incidents if call.began - 1 <= one.at <= call.ended and one.key in ("", call.key)]
    return "\n".join([f"  {_second(history, one.at):>9}  * {one.text}" for one in near] + [f"  {_line(history, call)}"])


def _line(history: History, call: Call) -> str:
    if call.error:
        outcome = f"raised {call.error}"
    elif call.ended == inf:
        outcome = "no answer"
    else:
        outcome = f"{call.answer!r} after {1000 * (call.ended - call.began):.1f} ms"
    return f"{_second(history, call.began):>9}  {call.instance:<3} {_describe(call)}{call.note} -> {outcome}"


def _describe(call: Call) -> str:
    return f"{call.what} {call.key}" + ("" if call.value is None else f" = {call.value!r}")


def _second(history: History, at: float) -> str:
    return f"{at - history.began:.4f}"
