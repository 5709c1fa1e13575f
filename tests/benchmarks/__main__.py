"""Every benchmark, one after the other: ``python -m tests.benchmarks``; ``--quick`` for a look whether they run.

Each is a program of its own, with options of its own, and is run as one.  Their tables go to standard output; with ``--json``
one document: by the name of the program, what it printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

from tests.benchmarks.figures import say

PROGRAMS = ["speed", "near_cache", "growth", "outage", "mesh", "scale"]

QUICK = {"speed": ["--quick"], "near_cache": ["--rounds", "1", "--seconds", "0.02"], "scale": ["--sizes", "3"]}
"""Those with a short form, and its options.  The others wait for outages or fill memory, which cannot be short."""


def main(*, quick: bool, as_json: bool) -> int:
    """Run them; 1 if one failed to run.  A goal that is missed is no failure."""
    documents: dict[str, Any] = {}
    failed: list[str] = []
    for name in QUICK if quick else PROGRAMS:
        say(f"\n=== {name}")
        start = time.monotonic()
        command = [sys.executable, "-m", f"tests.benchmarks.{name}", *(QUICK[name] if quick else [])]
        if as_json:
            command.append("--json")
        done = subprocess.run(command, stdout=subprocess.PIPE if as_json else None, text=True, check=False)
        if done.returncode:
            failed.append(name)
        elif as_json:
            documents[name] = json.loads(done.stdout)
        say(f"--- {name}: {time.monotonic() - start:.0f} s{', FAILED' if done.returncode else ''}")
    if as_json:
        print(json.dumps(documents, indent=2, ensure_ascii=False))
    return 1 if failed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="only those that have a short form, in that")
    arguments = parser.parse_args()
    sys.exit(main(quick=arguments.quick, as_json=arguments.json))
