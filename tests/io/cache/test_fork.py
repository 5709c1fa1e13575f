"""A forked child is no second copy of its parent's instance."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from meshcache.testing.server import RedisServer

CHECKOUT = Path(__file__).resolve().parents[3]

PROGRAM = """
import asyncio, os, sys, traceback
from meshcache import ClosedError, MeshCache

OPTIONS = dict(namespace="fork", discovery=[], interfaces=["127.0.0.1"])

async def child(parent_id, inherited):
    try:
        await inherited.get("key")
    except ClosedError as error:
        assert "fork" in str(error)
    else:
        raise AssertionError("the inherited cache still answers")
    await inherited.aclose()
    async with MeshCache(sys.argv[1], **OPTIONS) as own:
        assert own.node_id != parent_id
        assert await own.get("key") == "parent"
        await own.set("key", "child")

async def main():
    async with MeshCache(sys.argv[1], **OPTIONS) as cache:
        await cache.set("key", "parent")
        node_id = cache.node_id
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                asyncio.run(child(node_id, cache))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert await cache.get("key") == "child"
        for i in range(100):
            await cache.set("key", i)
            assert await cache.get("key") == i
        assert str(cache.mode) == "redis"

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_child_makes_a_cache_of_its_own(redis_server: RedisServer) -> None:
    command = [sys.executable, "-c", PROGRAM, redis_server.url]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30, cwd=CHECKOUT)
    assert result.returncode == 0, result.stderr
