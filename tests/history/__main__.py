"""``python -m tests.history SEED [COUNT]``: runs that schedule of trouble and those after it, and says what must not be."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

from .nursery import Nursery
from .run import Outcome, run_schedule
from .schedule import CUTS, FAULTS, make_schedule

_TOLD = 3


def main() -> int:
    """The exit status: 0 if nothing was wrong."""
    options = _arguments()
    kinds = _kinds(options.faults)
    wrong: Counter[str] = Counter()
    failed = []
    with Nursery() as nursery:
        for seed in range(options.seed, options.seed + options.count):
            schedule = make_schedule(seed, options.seconds, kinds, options.instances)
            chosen = {name: getattr(options, name) for name in ("backend", "near_cache") if getattr(options, name)}
            schedule = replace(schedule, **chosen)
            with tempfile.TemporaryDirectory(prefix="meshcache-history-") as temporary:
                directory = Path(temporary) if options.keep is None else options.keep / str(seed)
                directory.mkdir(parents=True, exist_ok=True)
                outcome = run_schedule(schedule, nursery, directory)
            print(json.dumps(outcome.as_json()) if options.json else _told(outcome), flush=True)
            wrong.update(one.kind for one in outcome.violations)
            if outcome.violations:
                failed.append(seed)
                _explain(outcome, sys.stderr if options.json else sys.stdout)
                if options.first:
                    break
    if not options.json:
        what = ", ".join(f"{count} {kind}" for kind, count in wrong.most_common()) or "nothing wrong"
        print(f"{len(failed)} of {options.count} schedules failed: {what}")
        if failed:
            print(f"seeds: {' '.join(map(str, failed))}")
    return bool(failed)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.history", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("count", type=int, nargs="?", default=1)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each schedule is (default: 10)")
    parser.add_argument("--instances", type=int, help="how many (default: 3 to 5, by the seed)")
    parser.add_argument("--backend", choices=["asyncio", "trio"], help="default: by the seed")
    parser.add_argument("--near-cache", choices=["off", "standby", "serve"], help="default: by the seed")
    parser.add_argument(
        "--faults", default=",".join(FAULTS), help=f"of {','.join(FAULTS)}; cut is all of {','.join(CUTS)}"
    )
    parser.add_argument(
        "--json", action="store_true", help="one line for each schedule; the stories go to standard error"
    )
    parser.add_argument("--first", action="store_true", help="stop at the first schedule that fails")
    parser.add_argument("--keep", type=Path, help="a directory for the records and logs of all instances")
    return parser.parse_args()


def _kinds(text: str) -> set[str]:
    kinds = {kind for word in text.split(",") for kind in (CUTS if word == "cut" else [word] if word else [])}
    if not kinds <= set(FAULTS):
        sys.exit(f"there are no such faults: {', '.join(sorted(kinds - set(FAULTS)))}; there are {', '.join(FAULTS)}")
    return kinds


def _told(outcome: Outcome) -> str:
    schedule = outcome.schedule
    kinds = Counter(fault.kind for fault in schedule.faults)
    faults = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no faults"
    verdict = f"{len(outcome.violations)} VIOLATIONS" if outcome.violations else "ok"
    return (
        f"seed {schedule.seed}: {verdict}: {schedule.instances} instances on {schedule.backend}, {faults}; "
        f"{sum(outcome.calls.values())} calls, {outcome.acknowledged} writes, {outcome.hits} hits of {outcome.reads} reads, "
        f"kept {outcome.kept} of {outcome.lasting}, "
        f"{outcome.stale} stale in the run, slowest {outcome.slowest:.2f} s, healed after {outcome.healed_after:.1f} s, "
        f"took {outcome.took:.1f} s"
    )


def _explain(outcome: Outcome, where: object) -> None:
    print(outcome.schedule, file=where)  # type: ignore[call-overload]
    for violation in outcome.violations[:_TOLD]:
        print(f"\n{violation}", file=where)  # type: ignore[call-overload]
    for violation in outcome.violations[_TOLD:]:
        print(f"\n{violation.kind}: {violation.key}: {violation.why}", file=where)  # type: ignore[call-overload]
    print(file=where)  # type: ignore[call-overload]


if __name__ == "__main__":
    sys.exit(main())
