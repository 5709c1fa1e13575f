"""One JSON document: everything that the demo showed, for programs."""

from __future__ import annotations

import json
from typing import Any

from ..board import Picture, StepView

__all__ = ["document"]


def document(picture: Picture, version: str) -> str:
    """The whole run as JSON text, with a line break at its end.

    ``ok`` is true only if every step held; ``steps`` has each with its ``outcome`` (``held``, ``failed``, ``not reached``),
    its ``seconds``, ``measures`` and, if it failed, what was ``expected`` and ``seen`` and the ``logs`` of the instances.
    """
    return (
        json.dumps(
            {
                "meshcache": version,
                "ok": picture.ok,
                "interrupted": picture.interrupted,
                "seconds": round(picture.seconds, 3),
                "server": {"name": picture.server.name, "where": picture.server.where},
                "discovery": picture.discovery,
                "steps": [_step(step) for step in picture.steps],
                "leftover": picture.leftover,
            },
            indent=2,
        )
        + "\n"
    )


def _step(step: StepView) -> dict[str, Any]:
    told: dict[str, Any] = {
        "number": step.number,
        "title": step.title,
        "outcome": str(step.outcome),
        "seconds": round(step.seconds, 3),
        "shown": step.shown,
        "note": step.note,
        "measures": dict(step.measures),
    }
    if step.failure is not None:
        told |= {
            "expected": step.failure.expected,
            "seen": step.failure.seen,
            "logs": {str(number): list(lines) for number, lines in step.failure.logs.items()},
        }
    return told
