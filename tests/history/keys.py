"""Which keys the calls are about.

Only the last state of a key is judged.  So most keys are in use for a while only: what an outage did to one is not
covered up by what is written a minute later.

What may not enter: I/O, a clock.
"""

from __future__ import annotations

from random import Random

__all__ = ["COUNTERS", "DOWN", "all_keys", "some_key", "some_pattern"]

DOWN = "count:down"
"""The counter that is only ever decremented; the others are only incremented, so that their bounds are known."""
COUNTERS = ["count:0", "count:1", DOWN]

_HOT = 4
_PASSING = {"brief": (24, 0.4), "long": (5, 3.0)}
"""How many keys a second come into use, and for how long each is."""


def some_key(random: Random, moment: float) -> str:
    """A key that is in use at this moment, in seconds from the start."""
    if random.random() < 0.1:
        return f"hot:{random.randrange(_HOT)}"
    kind = random.choice(list(_PASSING))
    rate, lasts = _PASSING[kind]
    return f"{kind}:{int(rate * random.uniform(moment, moment + lasts))}"


def some_pattern(random: Random, key: str) -> str:
    """A pattern that matches the key and a few others."""
    if key.startswith("hot"):
        return "hot:*"
    return f"{key[:-1]}?" if random.random() < 0.7 else f"{key}*"


def all_keys(seconds: float) -> list[str]:
    """Every key that can have been used."""
    keys = [f"hot:{number}" for number in range(_HOT)] + COUNTERS
    for kind, (rate, lasts) in _PASSING.items():
        keys += [f"{kind}:{number}" for number in range(int(rate * (seconds + lasts)) + 1)]
    return keys
