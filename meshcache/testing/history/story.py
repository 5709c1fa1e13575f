"""The story of a key, for whoever has to find out why it shows what it must not: its calls, what Redis was told of it, and
what went wrong meanwhile, in the order of time.

What may not enter: I/O, a clock, randomness, anything of meshcache.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from typing import Any, NamedTuple

from .records import Call, History, Read

__all__ = ["describe", "grouped", "second", "tell", "tell_call"]

_OWN_LINES = 60
_OTHER_LINES = 30
_BEFORE = 6
_NEAR = 1.0


class _Line(NamedTuple):
    at: float
    text: str


def tell(history: History, key: str, calls: Sequence[Call], reads: Sequence[Read], start: float = -inf) -> str:
    """What happened to a key.

    Args:
        history: of the run.
        key: the key.
        calls: all that concern it.
        reads: those of it after healing.
        start: what came before is hardly of interest.
    """
    own = [_Line(call.began, _line(history, call)) for call in calls]
    own += [_incident(history, incident.at, incident.text) for incident in history.incidents if incident.key == key]
    own = _shortened(sorted(own), start)
    others = [_incident(history, incident.at, incident.text) for incident in history.incidents if not incident.key]
    lines = sorted([*own, *_nearest(others, [line.at for line in own])])
    healed = grouped((read.value, read.where) for read in reads)
    told = [line.text for line in lines]
    told += [f"{'healed':>9}  {' '.join(places)} read {value!r}" for value, places in healed]
    return "\n".join(f"  {line}" for line in told)


def tell_call(history: History, call: Call) -> str:
    """One call, and what had happened in the second before."""
    lines = [
        _incident(history, incident.at, incident.text)
        for incident in history.incidents
        if incident.key in ("", call.key) and call.began - _NEAR <= incident.at <= call.ended
    ]
    return "\n".join(f"  {line.text}" for line in sorted([*lines, _Line(call.began, _line(history, call))]))


def describe(call: Call) -> str:
    """What was called, without when and where."""
    return f"{call.what} {call.key}" + ("" if call.value is None else f" = {call.value!r}")


def second(history: History, at: float) -> str:
    """A moment, in seconds from the start of the run."""
    return f"{at - history.began:.4f}"


def grouped(pairs: Iterable[tuple[Any, str]]) -> list[tuple[Any, list[str]]]:
    """Each value with the places where it was read, once each."""
    groups: dict[Any, list[str]] = {}
    for value, where in pairs:
        places = groups.setdefault(value, [])
        if where not in places:
            places.append(where)
    return list(groups.items())


def _line(history: History, call: Call) -> str:
    if call.error:
        outcome = f"raised {call.error}"
    elif call.ended == inf:
        outcome = "no answer"
    else:
        outcome = f"{call.answer!r} after {1000 * (call.ended - call.began):.1f} ms"
    return f"{second(history, call.began):>9}  {call.instance:<3} {describe(call)}{call.note} -> {outcome}"


def _incident(history: History, at: float, text: str) -> _Line:
    return _Line(at, f"{second(history, at):>9}  * {text}")


def _shortened(lines: list[_Line], start: float) -> list[_Line]:
    """From a little before ``start`` to the end; if that is too much, its first and its last lines."""
    if len(lines) <= _OWN_LINES:
        return lines
    first = next((place for place, line in enumerate(lines) if line.at >= start), 0)
    lines = lines[max(0, min(first - _BEFORE, len(lines) - _OWN_LINES)) :]
    left_out = len(lines) - _OWN_LINES
    if left_out <= 0:
        return lines
    half = _OWN_LINES // 2
    gap = _Line(lines[half].at, f"{'…':>9}  {left_out} lines more")
    return [*lines[:half], gap, *lines[half + left_out :]]


def _nearest(lines: list[_Line], moments: Sequence[float]) -> list[_Line]:
    """As many as there is room for of those that happened at about these moments."""
    return sorted(lines, key=lambda line: min((abs(line.at - moment) for moment in moments), default=0.0))[
        :_OTHER_LINES
    ]
