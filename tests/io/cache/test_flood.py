"""A flood from somebody without the key, over a real socket, at a cache that works meanwhile."""

from __future__ import annotations

import os
import secrets
import sys
import time
from pathlib import Path

import anyio
import pytest

from tests.io.cache.instances import SECRET, mesh
from tests.support import eventually

pytestmark = pytest.mark.anyio

COUNT = 40_000
ROOT = Path(__file__).resolve().parents[3]


async def test_a_flooded_cache_keeps_answering_and_believes_nothing() -> None:
    async with mesh(None, None) as (target, peer):
        node_ids = [peer.peers[0].node_id, target.peers[0].node_id]
        seed = secrets.randbits(32)
        command = [sys.executable, "-m", "tests.fuzz.flood", peer.peers[0].port, COUNT, seed, SECRET, *node_ids]
        took: list[float] = []
        before = target.stats()["mesh"]["datagrams_in"]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flood, [str(word) for word in command])
            turn = 0
            with anyio.fail_after(30):
                while target.stats()["mesh"]["datagrams_in"] - before < COUNT // 10 or turn < 100:
                    began = time.monotonic()
                    await target.set(f"own:{turn}", turn)
                    assert await target.get(f"own:{turn}") == turn
                    took.append(time.monotonic() - began)
                    await peer.set(f"theirs:{turn}", turn)
                    turn += 1
                    await anyio.sleep(0.001)

        async def knows_all() -> bool:
            expected = {f"{whose}:{n}": n for whose in ("own", "theirs") for n in range(turn)}
            return all([await cache.get_many(await cache.keys()) == expected for cache in (target, peer)])

        await eventually(knows_all, 10, message=f"both know {turn} writes of each, and nothing else (seed {seed})")
        # A flood may drown a few heartbeats; the two meet again then.
        await eventually(
            lambda: [peer.node_id for peer in target.peers] == node_ids[1:], 10, message="nobody but the peer"
        )
        assert max(took) < 0.25
        counters = target.stats()["mesh"]
        assert sum(count for name, count in counters.items() if name.startswith("dropped_")) > COUNT // 20
        print(f"{counters['datagrams_in']} datagrams came; the slowest set and get took {max(took) * 1000:.1f} ms")


async def flood(command: list[str]) -> None:
    await anyio.run_process(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
