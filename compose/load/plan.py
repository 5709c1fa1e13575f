"""What is asked of which gateway, and in which order.  No I/O and no clock; randomness is passed in.

Requests come in rounds of the same composition, shuffled.  So the share of requests that a cache can answer is the same in
every second: if the hit ratio changes, the caches have changed.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, cycle, islice
from random import Random

__all__ = ["HIT_RATIO", "Ask", "rounds", "warm_up"]

FRESH, AGAIN, TEXTS, MENTIONS = 4, 4, 24, 8
"""Of each kind in a round: a text that nobody has asked for; one that was fresh two rounds ago, now asked of another
gateway, which has it only if the caches are shared; a text, and a list of members, that everybody asks for all the time."""

HIT_RATIO = (AGAIN + TEXTS + MENTIONS) / (FRESH + AGAIN + TEXTS + MENTIONS)
"""The share of hits if every cache works."""

WORDS = (
    "good", "morning", "evening", "thanks", "please", "the", "order", "invoice", "question", "answer", "is", "ready",
    "here", "new", "today", "and", "waits",
)  # fmt: skip
LANGUAGES = ("de", "es", "fr")
TYPED = (
    "@a", "@ad", "@al", "@b", "@d", "@e", "@f", "@g", "@i", "@j", "@ja", "@k", "@ka", "@l", "@li", "@m", "@ma", "@r", "@s",
)  # fmt: skip
POPULAR = 60


@dataclass(frozen=True, slots=True)
class Ask:
    """One request."""

    gateway: int
    """Its place in the list of gateways."""
    method: str
    path: str
    body: bytes = b""

    def of(self, gateway: int) -> Ask:
        """The same, asked of another gateway."""
        return Ask(gateway, self.method, self.path, self.body)


def warm_up(gateways: int) -> list[Ask]:
    """Everything that is popular, asked of every gateway."""
    return [ask.of(gateway) for ask in [*_texts(), *_mentions()] for gateway in range(gateways)]


def rounds(gateways: int, random: Random, run: str) -> Iterator[Ask]:
    """Requests without end.

    Args:
        gateways: how many there are.
        random: for the order.
        run: a name of this run, so that its fresh texts are fresh.
    """
    popular_texts, popular_mentions = cycle(_texts()), cycle(_mentions())
    fresh_texts = (_translate(f"{run} {number} {WORDS[number % len(WORDS)]}", number) for number in count())
    turns = _turns(gateways, random)
    before: deque[list[Ask]] = deque([[], []])
    while True:
        fresh = [ask.of(next(turns)) for ask in islice(fresh_texts, FRESH)]
        again = [ask.of((ask.gateway + 1) % gateways) for ask in before.popleft()]
        before.append(fresh)
        asks = [
            *fresh,
            *again,
            *(ask.of(next(turns)) for ask in islice(popular_texts, TEXTS + AGAIN - len(again))),
            *(ask.of(next(turns)) for ask in islice(popular_mentions, MENTIONS)),
        ]
        random.shuffle(asks)
        yield from asks


def _turns(gateways: int, random: Random) -> Iterator[int]:
    """All gateways equally often, but none always with the same request."""
    while True:
        yield from random.sample(range(gateways), gateways)


def _texts() -> list[Ask]:
    return [
        _translate(f"{WORDS[number % len(WORDS)]} {WORDS[number * 7 % len(WORDS)]}", number)
        for number in range(POPULAR)
    ]


def _mentions() -> list[Ask]:
    return [Ask(0, "GET", f"/mentions?q={typed}") for typed in TYPED]


def _translate(text: str, number: int) -> Ask:
    body = {"text": text, "source": "en", "target": LANGUAGES[number % len(LANGUAGES)]}
    return Ask(0, "POST", "/translate", json.dumps(body).encode())
