"""Plain lines, as things happen: for logs, pipes and terminals without colour.  ASCII only."""

from __future__ import annotations

from collections.abc import Iterator

from ..board import Outcome, Picture, StepView

__all__ = ["begin_lines", "end_lines", "step_lines"]


def begin_lines(picture: Picture, version: str) -> Iterator[str]:
    """What is about to happen."""
    yield f"meshcache {version}: {picture.server.name} at {picture.server.where}, instances on loopback, {picture.discovery}"


def step_lines(step: StepView, count: int) -> Iterator[str]:
    """A step that held or failed, one of ``count``."""
    verdict = "ok" if step.outcome is Outcome.HELD else "FAILED"
    yield f"[{step.number}/{count}] {verdict:<6} {step.title} ({step.seconds:.1f} s)"
    if step.shown:
        yield f"             {step.shown}"
    if step.note:
        yield f"             note: {step.note}"
    yield from failure_lines(step)


def failure_lines(step: StepView) -> Iterator[str]:
    """Why a step failed; nothing if it did not."""
    if step.failure is None:
        return
    yield f"             expected: {step.failure.expected}"
    yield f"             seen:     {step.failure.seen}"
    for number, lines in step.failure.logs.items():
        yield f"             last log lines of instance {number}:"
        for line in lines:
            yield f"               {line}"


def end_lines(picture: Picture) -> Iterator[str]:
    """What came of it."""
    yield verdict(picture)
    if picture.leftover:
        yield f"left behind: {picture.leftover}"


def verdict(picture: Picture) -> str:
    """One sentence."""
    held = sum(step.outcome is Outcome.HELD for step in picture.steps)
    took = f"in {picture.seconds:.1f} s"
    if picture.interrupted:
        return f"Interrupted after {held} of {len(picture.steps)} steps, {took}."
    if held == len(picture.steps):
        return f"All {held} steps held, {took}."
    return f"{held} of {len(picture.steps)} steps held, {took}."
