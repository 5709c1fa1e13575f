"""A process of the benchmark of the mesh: the demo's worker, and the two ways to tell another process of a write.

Times are ``time.monotonic()``, which the processes of one machine share.  A write is visible at the moment when the other
process would read it: after the mesh's op was applied, or after the message of Redis was taken in.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import Any

import anyio
import redis.asyncio
from anyio.abc import TaskGroup

from meshcache.cli.demo.worker import Worker, serve
from meshcache.stamp import Kind, Op

BATCH = 200
VALUE = "0123456789abcdef"


class _Seen:
    """What came, and when."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self.cpu_began = 0.0
        self.cpu = 0.0

    def note(self, *keys: str) -> None:
        now = time.monotonic()
        if not self.at:
            self.cpu_began = time.process_time()
        for key in keys:
            self.at[key] = now
        self.cpu = time.process_time()


class MeshWorker(Worker):
    """What may be asked for."""

    _redis: redis.asyncio.Redis

    def __init__(self, tasks: TaskGroup) -> None:
        super().__init__(tasks)
        self._seen = _Seen()

    # -- the mesh

    async def watch_mesh(self, loss: float = 0.0) -> Mapping[str, Any]:
        """Note from now on when each write of a peer can be read; lose a share of what arrives."""
        runtime: Any = self.cache._runtime
        apply, read = type(runtime.memory).apply, type(runtime._socket)._read
        seen = self._seen

        def apply_and_note(ops: Any, **options: Any) -> None:
            apply(runtime.memory, ops, **options)
            if keys := [op.key for op in ops]:
                seen.note(*keys)

        runtime.memory.apply = apply_and_note
        if loss:
            runtime._socket._read = lambda: (it for it in read(runtime._socket) if random.random() >= loss)
        return {}

    async def set_all(self, prefix: str, count: int) -> Mapping[str, Any]:
        """As fast as it can."""
        for start in range(0, count, BATCH):
            await self.cache.set_many({f"{prefix}:{n}": VALUE for n in range(start, min(count, start + BATCH))})
            await anyio.sleep(0)
        return {}

    async def tell_all(self, prefix: str, count: int) -> Mapping[str, Any]:
        """Tell the peer of as many writes, without a store behind them: so fast that the receiver is what is measured."""
        runtime: Any = self.cache._runtime
        for start in range(0, count, BATCH):
            for n in range(start, min(count, start + BATCH)):
                runtime._mesh.publish(Op(Kind.SET, f"{prefix}:{n}", runtime.memory._clock.tick(), VALUE.encode()))
            await anyio.sleep(0)
        return {}

    # -- Redis pub/sub

    async def connect(self, url: str) -> Mapping[str, Any]:
        """Redis through redis-py, with a connection that is open."""
        self._redis = redis.asyncio.Redis.from_url(url)
        await self._redis.ping()
        return {}

    async def watch_channel(self, channel: str) -> Mapping[str, Any]:
        """Note from now on when each message was taken in."""
        subscription = self._redis.pubsub()
        await subscription.subscribe(channel)
        await subscription.get_message(timeout=5)  # that it stands
        self.tasks.start_soon(self._take_in, subscription, self._seen)
        return {}

    async def publish_all(self, channel: str, prefix: str, count: int) -> Mapping[str, Any]:
        """As fast as it can: pipelines of as many as :meth:`set_all` sets at once."""
        for start in range(0, count, BATCH):
            async with self._redis.pipeline(transaction=False) as pipeline:
                for n in range(start, min(count, start + BATCH)):
                    pipeline.publish(channel, f"{prefix}:{n}")
                await pipeline.execute()
        return {}

    @staticmethod
    async def _take_in(subscription: Any, seen: _Seen) -> None:
        held = {}
        async for message in subscription.listen():
            key = message["data"].decode()
            held[key] = VALUE
            seen.note(key)

    # -- both

    async def one_by_one(self, channel: str, count: int, pause: float) -> Mapping[str, Any]:
        """Set ``m:0`` and so on, and publish ``r:0`` and so on, in turn: when each was called."""
        called = {}
        for n in range(count):
            called[f"m:{n}"] = time.monotonic()
            await self.cache.set(f"m:{n}", VALUE)
            await anyio.sleep(pause)
            called[f"r:{n}"] = time.monotonic()
            await self._redis.publish(channel, f"r:{n}")
            await anyio.sleep(pause)
        return called

    async def seen(self, count: int, timeout: float) -> Mapping[str, Any]:
        """Wait until so many came: when each did."""
        with anyio.move_on_after(timeout):
            while len(self._seen.at) < count:
                await anyio.sleep(0.01)
        return self._seen.at

    async def rate(self, count: int, timeout: float) -> Mapping[str, Any]:
        """Wait until so many came: how many did, in how many seconds, and in how many of this process' time."""
        with anyio.move_on_after(timeout):
            while len(self._seen.at) < count:
                await anyio.sleep(0.01)
        times = self._seen.at.values()
        return {"came": len(times), "seconds": max(times) - min(times), "cpu": self._seen.cpu - self._seen.cpu_began}


def main() -> None:
    """Run until standard input ends."""
    serve(MeshWorker)
