"""The command ``meshcache doctor``: runs the checks of :mod:`meshcache.doctor` and shows what they found."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import Any

import anyio
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from .. import __version__
from ..doctor import CHECKS, Check, Finding, Patient, Verdict, examine
from ..errors import ConfigError
from ..options import Options
from ..redis.url import redact

__all__ = ["Output", "run_doctor"]

_HEADINGS = {"host": "This host", "redis": "Redis", "mesh": "The mesh"}
_STYLES = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red", Verdict.SKIPPED: "dim"}
_MARKS = {Verdict.OK: "✓", Verdict.WARN: "!", Verdict.FAIL: "✗", Verdict.SKIPPED: "·"}
_PLAIN_MARKS = {Verdict.OK: "ok", Verdict.WARN: "WARN", Verdict.FAIL: "FAIL", Verdict.SKIPPED: "-"}
_TITLE_WIDTH = max(len(check.title) for check in CHECKS)


class Output(Enum):
    """How to show it.  ``TERMINAL`` becomes ``PLAIN`` where there is none."""

    TERMINAL = auto()
    PLAIN = auto()
    JSON = auto()


def run_doctor(
    given: Mapping[str, str], output: Output, *, peers: int | None = None, wait: float = 3.0, strict: bool = False
) -> int:
    """Examine this host; the exit status: 0 nothing is broken, 1 something is, 2 an option is wrong, 130 interrupted.

    Args:
        given: options as text, by their names in lower case; they win over the variables of the environment.
        output: how to show it, on standard output.
        peers: so many other instances must be met; None: any number is right.
        wait: how long to listen for them, in seconds.
        strict: a warning counts as broken.
    """
    try:
        environ = {**os.environ, **{f"MESHCACHE_{name.upper()}": text for name, text in given.items()}}
        patient = Patient.of(Options.environment(environ), peers_expected=peers, wait=wait)
    except ConfigError as error:
        sys.stderr.write(f"meshcache doctor: {error}\n")
        return 2
    report = _REPORTS[output](patient, strict=strict)
    with report:
        findings = anyio.run(_examine, patient, report)
        if findings is None:
            return 130
        report.end(findings)
    return int(not _is_well(findings, strict=strict))


async def _examine(patient: Patient, report: _Report) -> list[Finding] | None:
    """The findings; None if interrupted, and everything is cleaned up all the same."""
    findings: list[Finding] | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_cancel_when_told, tasks.cancel_scope)
        findings = await examine(patient, report.began, report.ended)
        tasks.cancel_scope.cancel()
    return findings


async def _cancel_when_told(scope: anyio.CancelScope) -> None:
    if sys.platform == "win32":
        return  # Ctrl-C is an exception there
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async for _ in signals:
            scope.cancel()
            return


def _is_well(findings: Sequence[Finding], *, strict: bool) -> bool:
    broken = {Verdict.FAIL, Verdict.WARN} if strict else {Verdict.FAIL}
    return not any(finding.verdict in broken for finding in findings)


def _summary(findings: Sequence[Finding], seconds: float) -> str:
    """One sentence."""
    count = Counter(finding.verdict for finding in findings)
    parts = [
        f"{count[Verdict.FAIL]} broken" if count[Verdict.FAIL] else "Nothing is broken",
        f"{count[Verdict.WARN]} {'warning' if count[Verdict.WARN] == 1 else 'warnings'}" if count[Verdict.WARN] else "",
        f"{count[Verdict.OK]} fine",
        f"{count[Verdict.SKIPPED]} not looked at" if count[Verdict.SKIPPED] else "",
    ]
    return f"{', '.join(filter(None, parts))}; {seconds:.1f} s."


def _subject(patient: Patient) -> str:
    return f"namespace {patient.options.namespace} at {redact(patient.url) if patient.url else 'no Redis'}"


class _Report:
    """How it is shown; the base shows nothing."""

    def __init__(self, patient: Patient, *, strict: bool) -> None:
        self.patient = patient
        self.strict = strict
        self.started = time.monotonic()

    def __enter__(self) -> None:
        """Before the first check."""

    def __exit__(self, *_: object) -> None:
        """Whatever happened."""

    def began(self, check: Check) -> None:
        """A check begins."""

    def ended(self, finding: Finding) -> None:
        """A check is over."""

    def end(self, findings: Sequence[Finding]) -> None:
        """All are over."""

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


class _Json(_Report):
    """One document at the end, for programs."""

    def end(self, findings: Sequence[Finding]) -> None:
        document: dict[str, Any] = {
            "meshcache": __version__,
            "ok": _is_well(findings, strict=self.strict),
            "namespace": self.patient.options.namespace,
            "url": redact(self.patient.url) if self.patient.url else None,
            "seconds": round(self.seconds, 3),
            "findings": [
                {
                    "name": finding.name,
                    "verdict": str(finding.verdict),
                    "seen": finding.seen,
                    "advice": finding.advice,
                    "seconds": round(finding.seconds, 3),
                }
                for finding in findings
            ],
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")


class _Plain(_Report):
    """Lines as things are found: for logs, pipes and terminals without colour."""

    def __enter__(self) -> None:
        self._write(f"meshcache {__version__}: {_subject(self.patient)}")

    def ended(self, finding: Finding) -> None:
        self._write(f"{_PLAIN_MARKS[finding.verdict]:<5} {finding.title:<{_TITLE_WIDTH}} {finding.seen}")
        if finding.advice:
            self._write(f"{'':<5} {'':<{_TITLE_WIDTH}} -> {finding.advice}")

    def end(self, findings: Sequence[Finding]) -> None:
        self._write(_summary(findings, self.seconds))

    @staticmethod
    def _write(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


class _Terminal(_Report):
    """What was found stays, and below it is what is being looked at."""

    def __init__(self, patient: Patient, *, strict: bool) -> None:
        super().__init__(patient, strict=strict)
        self._console = Console(highlight=False)
        self._unicode = self._console.encoding.lower().startswith("utf")
        self._status: Status | None = None
        self._group = ""

    def __enter__(self) -> None:
        self._console.print(Text.assemble(("meshcache", "bold"), f" {__version__}  ", (_subject(self.patient), "dim")))
        self._status = self._console.status("", spinner="dots" if self._unicode else "line")
        self._status.start()

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def began(self, check: Check) -> None:
        if check.group != self._group:
            self._group = check.group
            self._console.print(Text(f"\n{_HEADINGS[check.group]}", style="bold"))
        if self._status is not None:
            self._status.update(Text(check.title, style="cyan"))

    def ended(self, finding: Finding) -> None:
        style = _STYLES[finding.verdict]
        mark = _MARKS[finding.verdict] if self._unicode else _PLAIN_MARKS[finding.verdict]
        row = Table.grid(padding=(0, 1), expand=True)
        row.add_column(width=1 if self._unicode else 4)
        row.add_column(width=_TITLE_WIDTH)
        row.add_column(ratio=1)
        dim = "dim" if finding.verdict is Verdict.SKIPPED else ""
        row.add_row(Text(mark, style=f"bold {style}"), Text(finding.title, style=dim), Text(finding.seen, style=dim))
        if finding.advice:
            row.add_row("", "", Text(f"{'→' if self._unicode else '->'} {finding.advice}", style=style))
        self._console.print(row)

    def end(self, findings: Sequence[Finding]) -> None:
        self.__exit__()
        style = "green" if _is_well(findings, strict=self.strict) else "red"
        self._console.print(Text(f"\n{_summary(findings, self.seconds)}", style=f"bold {style}"))


def _terminal(patient: Patient, *, strict: bool) -> _Report:
    console = Console()
    plain = not console.is_terminal or console.is_dumb_terminal
    return (_Plain if plain else _Terminal)(patient, strict=strict)


_REPORTS = {Output.TERMINAL: _terminal, Output.PLAIN: _Plain, Output.JSON: _Json}
