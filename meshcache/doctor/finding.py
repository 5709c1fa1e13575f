"""What a check has to say.  Records only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Verdict", "fail", "in_words", "ok", "skipped", "together", "warn"]


class Verdict(StrEnum):
    """How it is."""

    OK = "ok"
    WARN = "warn"
    """It works, and there is something to know or to mend."""
    FAIL = "fail"
    """It does not work."""
    SKIPPED = "skipped"
    """It could not be looked at, or does not matter here."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        verdict: how it is.
        seen: what was seen, in one line without secrets.
        advice: what to do about it; empty if nothing.
        name: of the check, for programs: ``redis-write``.
        title: of the check, for people.
        seconds: how long it took.
    """

    verdict: Verdict
    seen: str
    advice: str = ""
    name: str = ""
    title: str = ""
    seconds: float = 0.0


def ok(seen: str) -> Finding:
    """All is well."""
    return Finding(Verdict.OK, seen)


def warn(seen: str, advice: str) -> Finding:
    """It works, but."""
    return Finding(Verdict.WARN, seen, advice)


def fail(seen: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(Verdict.FAIL, seen, advice)


def skipped(why: str) -> Finding:
    """Not looked at."""
    return Finding(Verdict.SKIPPED, why)


def together(findings: Sequence[tuple[str, Finding]]) -> Finding:
    """What was found at several servers, as one finding: the worst, with the names of those of which it is said.

    Args:
        findings: at least one, each with the name of its server.
    """
    worst = max((finding.verdict for _, finding in findings), key=_WORSE.index)
    chosen = [(name, finding) for name, finding in findings if finding.verdict is worst]
    if len(findings) == 1:
        return chosen[0][1]
    names: dict[str, list[str]] = {}
    for name, finding in chosen:
        names.setdefault(finding.seen, []).append(name)
    seen = "; ".join(f"{in_words(some)}: {what}" for what, some in names.items())
    return Finding(worst, seen, "; ".join(dict.fromkeys(finding.advice for _, finding in chosen if finding.advice)))


_WORSE = (Verdict.SKIPPED, Verdict.OK, Verdict.WARN, Verdict.FAIL)


def in_words(items: Iterable[object], most: int = 8) -> str:
    """Some of the items, with commas, and how many more there are."""
    words = list(dict.fromkeys(map(str, items)))
    rest = len(words) - most
    return ", ".join(words[:most]) + (f" and {rest} more" if rest > 0 else "")
