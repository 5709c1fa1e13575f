"""An instance in a process of its own that counts in an outage, to be killed: ``python -m tests.io.cache.counting URL PORT PEER COUNTERS``."""

from __future__ import annotations

import sys

import anyio

from meshcache import Mode
from tests.io.cache.instances import SECRET, lone_cache
from tests.support import eventually


async def main(url: str, port: str, peer: str, counters: str) -> None:
    """Count each once as soon as Redis is gone and a peer is there, say so, and go on."""
    async with lone_cache(url, port=int(port), discovery=[f"127.0.0.1:{peer}"], secret=SECRET) as cache:
        await cache.wait_for_peers(1)
        await eventually(lambda: cache.mode is Mode.MEMORY)
        for number in range(int(counters)):
            await cache.incr(f"counter:{number}")
        print("counted", flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
