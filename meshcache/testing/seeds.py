"""The command line of the simulators: runs schedules by their seeds, shows how far it is, and says which of them failed.

What may not enter: what a schedule is.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

__all__ = ["Tally", "run_seeds"]

_PROGRESS_PAUSE: Final = 10.0
"""In seconds, between two lines that say how far it is."""

T_contra = TypeVar("T_contra", contravariant=True)
T = TypeVar("T")


class Tally(Protocol[T_contra]):
    """What is summed up over many runs."""

    def add(self, outcome: T_contra) -> None:
        """One more went well."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """For scripts."""
        ...

    def __str__(self) -> str: ...


def run_seeds(program: str, run: Callable[[int], T], tell: Callable[[T], str], tally: Tally[T]) -> int:
    """Do as the arguments of this process say.  Failures go to standard output as they come, progress to standard error.

    Args:
        program: how it is called.
        run: runs one schedule; raises AssertionError, with a message that says all, if it fails.
        tell: what there is to say of a single run that went well.
        tally: is told of each run that went well.

    Returns:
        The exit status: 0 if nothing failed.
    """
    parser = argparse.ArgumentParser(program, description="Run the schedule of a seed, or of many in a row.")
    parser.add_argument("seed", type=int)
    parser.add_argument("count", type=int, nargs="?", default=1)
    parser.add_argument("--json", action="store_true", help="print one document; failures go to standard error")
    options = parser.parse_args()
    failed: list[int] = []
    last_told = began = time.monotonic()
    for done, seed in enumerate(range(options.seed, options.seed + options.count)):
        if done and time.monotonic() - last_told >= _PROGRESS_PAUSE:
            last_told = time.monotonic()
            left = (last_told - began) / done * (options.count - done)
            _say(f"{done:,} of {options.count:,} schedules, {len(failed)} failed, about {left / 60:.1f} min left")
        try:
            outcome = run(seed)
        except AssertionError as failure:
            failed.append(seed)
            print(f"{failure}\n", file=sys.stderr if options.json else sys.stdout, flush=True)
        else:
            tally.add(outcome)
            if options.count == 1 and not options.json:
                print(tell(outcome))  # noqa: T201
    if options.json:
        print(json.dumps({"schedules": options.count, "failed": failed, **tally.as_dict()}))  # noqa: T201
    else:
        print(f"{options.count} schedules, {len(failed)} failed; {tally}")  # noqa: T201
        if failed:
            print(f"seeds: {' '.join(map(str, failed))}")  # noqa: T201
    return 1 if failed else 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201
