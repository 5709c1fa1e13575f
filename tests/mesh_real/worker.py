"""One instance of the tests in a process of its own: the demo's worker, and what these tests ask for besides.

The loads run here, next to the cache, so that no pipe is in what is measured, and what
many keys hold is told as one hash.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any

import anyio

from meshcache.cli.demo.worker import Worker, serve

GONE = "gone"
"""Second part of the name of every key that the load deletes for good."""

SETS_FOR_ONE_DELETE = 10
HOT_KEYS = 20
LAG = 20
"""A key is deleted by the neighbour so many deletes after it was set there: by then the neighbour's clock is past the set."""


class MeshWorker(Worker):
    """What may be asked for."""

    async def load(self, me: int, neighbour: int, sets: int, rate: float, values: int = 32) -> Mapping[str, Any]:
        """Set and delete at a steady rate.

        Of ten sets one is of a hot key that every instance writes, and one of a key that will be deleted: by this instance
        or, if it was set long enough ago, by its neighbour.

        Args:
            me: names this instance's keys.
            neighbour: whose keys are deleted, besides the own ones.
            sets: how many; a tenth of them comes on top as deletes.
            rate: calls a second.
            values: bytes of each value.

        Returns:
            What this instance alone wrote, by key; which keys it deleted; when it was done; how far it lagged behind the rate.
        """
        wrote: dict[str, str] = {}
        deleted: list[str] = []
        began, lag = time.monotonic(), 0.0
        for turn in range(sets + sets // SETS_FOR_ONE_DELETE):
            due = began + turn / rate
            now = time.monotonic()
            lag = max(lag, now - due)
            await anyio.sleep(max(0.0, due - now))
            number, place = divmod(turn, SETS_FOR_ONE_DELETE + 1)
            if place == SETS_FOR_ONE_DELETE:
                theirs = number % 2 and number >= LAG
                deleted.append(f"{neighbour}:{GONE}:{number - LAG}" if theirs else f"{me}:{GONE}:{number}")
                await self.cache.delete(deleted[-1])
                continue
            if place == 0:
                key = f"{me}:{GONE}:{number}"
            elif place == 1:
                key = f"hot:{number % HOT_KEYS}"
            else:
                key = f"{me}:cold:{turn}"
            value = f"{me}:{turn}".ljust(values, ".")
            await self.cache.set(key, value)
            if place > 1:
                wrote[key] = value
        return {"wrote": wrote, "deleted": deleted, "done": time.monotonic(), "lag": lag}

    async def fill(self, prefix: str, count: int, size: int) -> Mapping[str, Any]:
        """Write ``count`` entries of ``size`` bytes at once; when that began."""
        began = time.monotonic()
        await self.cache.set_many({f"{prefix}:{n}": f"{prefix}:{n}".ljust(size, ".") for n in range(count)})
        return {"began": began}

    async def meet(self, addresses: list[str], timeout: float) -> Mapping[str, Any]:
        """Wait until the peers are at these IP addresses and nowhere else: where they were last, and whether it was so."""
        deadline = time.monotonic() + timeout
        while (at := sorted(peer.host for peer in self.cache.peers)) != sorted(addresses):
            if time.monotonic() > deadline:
                break
            await anyio.sleep(0.02)
        return {"met": at == sorted(addresses), "at": at}

    async def root(self) -> Mapping[str, Any]:
        """The mesh's own hash of what is known here, which costs nothing to ask for, and when it was so."""
        runtime: Any = self.cache._runtime
        return {"at": time.monotonic(), "root": runtime.memory.buckets.root.hex()}

    async def digest(self) -> Mapping[str, Any]:
        """All that can be read here: how many keys, and one hash of them with their values."""
        values = await self._everything()
        text = json.dumps(values, sort_keys=True).encode()
        return {"entries": len(values), "hash": hashlib.sha256(text).hexdigest()}

    async def everything(self) -> Mapping[str, Any]:
        """All that can be read here."""
        return await self._everything()

    async def complete(self, entries: int, timeout: float) -> Mapping[str, Any]:
        """Wait until so many keys can be read: when it was so (None: never), and how many there were last."""
        deadline = time.monotonic() + timeout
        while (count := len(await self.cache.keys())) < entries and time.monotonic() < deadline:
            await anyio.sleep(0.02)
        return {"at": time.monotonic() if count >= entries else None, "entries": count}

    async def gets(self, keys: list[str], seconds: float, pause: float) -> Mapping[str, Any]:
        """Get one key after the other for a while: what each call took, and how late after its pause it had its answer."""
        took: list[float] = []
        late: list[float] = []
        missed = 0
        end = time.monotonic() + seconds
        turn = 0
        while time.monotonic() < end:
            due = time.monotonic() + pause
            await anyio.sleep(pause)
            began = time.monotonic()
            missed += await self.cache.get(keys[turn % len(keys)]) is None
            done = time.monotonic()
            took.append(done - began)
            late.append(done - due)
            turn += 1
        return {"took": took, "late": late, "missed": missed}

    async def _everything(self) -> dict[str, Any]:
        keys = await self.cache.keys()
        values: dict[str, Any] = {}
        for start in range(0, len(keys), 1000):
            values |= await self.cache.get_many(keys[start : start + 1000])
        return values


def main() -> None:
    """Run until standard input ends."""
    serve(MeshWorker)
