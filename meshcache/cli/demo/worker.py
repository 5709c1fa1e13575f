"""The program of one instance of the demo: opens a ``MeshCache`` and does what it is told, one JSON line a request.

Standard input brings ``{"id": 7, "do": "set", "with": {...}}``; standard output answers ``{"id": 7, "answer": {...}}`` or
``{"id": 7, "error": "..."}`` and, whenever it changed, tells ``{"status": {...}}``.  Standard error has the log.  It ends when
its input ends, whatever became of its parent.

All times are ``time.monotonic()``, which the processes of one machine share; they are taken here, next to the call that
they are about, so that no pipe is in what the demo shows.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import anyio
from anyio.abc import TaskGroup

import meshcache.runtime.runtime  # noqa: F401 - now, so that the time to open a cache has no imports in it
from meshcache import MeshCache

__all__ = ["Worker", "main", "serve"]

_LOOK_EVERY = 0.0005  # between two looks of a watch: adds that much to what it measures, at most
_STATUS_EVERY = 0.05
_LOAD_EVERY = 0.002
_LOAD_KEYS = 20


def main() -> None:
    """Run until standard input ends."""
    serve(Worker)


def serve(worker_class: Callable[[TaskGroup], Worker]) -> None:
    """Do what standard input asks of such a worker, until it ends."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints must not garble the answers
    anyio.run(_serve, worker_class, answers)


async def _serve(worker_class: Callable[[TaskGroup], Worker], answers: int) -> None:
    def send(message: Mapping[str, Any]) -> None:
        os.write(answers, json.dumps(message).encode() + b"\n")  # short of a pipe's buffer: read at once by the parent

    async with anyio.create_task_group() as tasks:
        worker = worker_class(tasks)
        tasks.start_soon(_tell_status, worker, send)
        try:
            async for line in _lines(sys.stdin.fileno()):
                tasks.start_soon(_handle, worker, json.loads(line), send)
        finally:
            with anyio.CancelScope(shield=True):
                await worker.close()
            tasks.cancel_scope.cancel()


async def _lines(source: int) -> AsyncIterator[bytes]:
    rest = b""
    while True:
        await anyio.wait_readable(source)
        data = os.read(source, 65_536)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line


async def _handle(worker: Worker, request: Mapping[str, Any], send: Callable[[Mapping[str, Any]], None]) -> None:
    try:
        do: Callable[..., Awaitable[Mapping[str, Any]]] = getattr(worker, request["do"])
        send({"id": request["id"], "answer": await do(**request["with"])})
    except Exception as error:
        logging.getLogger("demo").exception("%s failed", request["do"])
        send({"id": request["id"], "error": f"{type(error).__name__}: {error}"})


async def _tell_status(worker: Worker, send: Callable[[Mapping[str, Any]], None]) -> None:
    told: Mapping[str, Any] = {}
    while True:
        status = worker.status()
        if status and status != told:
            told = status
            send({"status": status})
        await anyio.sleep(_STATUS_EVERY)


class Worker:
    """The public methods are what may be asked for; each answers with what JSON takes.

    Attributes:
        tasks: for what goes on after the answer.
    """

    def __init__(self, tasks: TaskGroup) -> None:
        self.tasks = tasks
        self._opened: MeshCache | None = None
        self._load = _Load("")

    @property
    def cache(self) -> MeshCache:
        """The cache, once it is open."""
        if self._opened is None:
            raise RuntimeError("open comes first")
        return self._opened

    def status(self) -> Mapping[str, Any]:
        """What is told unasked."""
        if self._opened is None:
            return {}
        stats = self._opened.stats()
        return {name: stats[name] for name in ("mode", "peers", "entries", "dirty")}

    async def started(self) -> Mapping[str, Any]:
        """The program runs, and has imported what it needs."""
        return {}

    async def open(self, url: str | None, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Enter the cache; how long that took."""
        cache = MeshCache(url, **options)
        began = time.monotonic()
        await cache.__aenter__()
        self._opened = cache
        return {"began": began, "seconds": time.monotonic() - began}

    async def close(self) -> Mapping[str, Any]:
        """Leave the cache."""
        cache, self._opened = self._opened, None
        if cache is not None:
            await cache.aclose()
        return {}

    async def stats(self) -> Mapping[str, Any]:
        """The cache's own numbers.  Also a way to know that every request before it has begun."""
        return self.cache.stats()

    async def reach(self, mode: str, peers: int, timeout: float) -> Mapping[str, Any]:
        """Wait for a mode and a number of peers: when it was so, or None."""
        cache = self.cache

        async def reached() -> bool:
            return cache.mode == mode and len(cache.peers) == peers

        at = await _first_time(reached, timeout)
        return {"at": at, "mode": str(cache.mode), "peers": len(cache.peers)}

    async def set(self, values: Mapping[str, Any], ttl: float, pause: float) -> Mapping[str, Any]:
        """Write, one after the other: when each was called, and how long it took."""
        called, took = {}, {}
        for key, value in values.items():
            called[key] = time.monotonic()
            await self.cache.set(key, value, ttl=ttl)
            took[key] = time.monotonic() - called[key]
            await anyio.sleep(pause)
        return {"called": called, "took": took}

    async def delete(self, keys: list[str], pause: float) -> Mapping[str, Any]:
        """Delete, one after the other: when each was called."""
        called = {}
        for key in keys:
            called[key] = time.monotonic()
            await self.cache.delete(key)
            await anyio.sleep(pause)
        return {"called": called}

    async def get(self, keys: list[str]) -> Mapping[str, Any]:
        """Read: the values (None for a miss), and how long each call took."""
        values, took = {}, {}
        for key in keys:
            began = time.monotonic()
            values[key] = await self.cache.get(key)
            took[key] = time.monotonic() - began
        return {"values": values, "took": took}

    async def watch(self, expected: Mapping[str, Any], timeout: float) -> Mapping[str, Any]:
        """Read again and again until each key has the value expected (None: a miss): when it was first so, and what was last."""
        waiting, seen, last = dict(expected), {}, {}

        async def all_seen() -> bool:
            for key in list(waiting):
                last[key] = await self.cache.get(key)
                if last[key] == waiting[key]:
                    seen[key] = time.monotonic()
                    del waiting[key]
            return not waiting

        await _first_time(all_seen, timeout)
        return {"seen": seen, "last": last}

    async def start_load(self, prefix: str) -> Mapping[str, Any]:
        """Set a key and get it back, every 2 ms, until told to stop."""
        self._load = _Load(prefix)
        self.tasks.start_soon(self._load.run, self.cache)
        return {}

    async def stop_load(self) -> Mapping[str, Any]:
        """End the load: what its calls came to."""
        return await self._load.stop()


class _Load:
    """Calls as a gateway makes them, and what they came to.

    A read finds what the same instance wrote just before, or nothing: a write that Redis took last before it died is a miss in
    memory.  Anything else is a lie, and is counted as wrong.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._stopping = anyio.Event()
        self._ended = anyio.Event()
        self._calls = 0
        self._misses = 0
        self._slowest = 0.0
        self._errors: list[str] = []
        self._wrong: list[str] = []
        self._wrote: dict[str, int] = {}

    async def run(self, cache: MeshCache) -> None:
        turn = 0
        while not self._stopping.is_set():
            key = f"{self._prefix}:{turn % _LOAD_KEYS}"
            await self._call(cache.set(key, turn, ttl=120))
            self._wrote[key] = turn
            value = await self._call(cache.get(key))
            self._misses += value is None
            if value not in (turn, None):
                self._wrong.append(f"{key} is {value!r}, and {turn!r} was written")
            turn += 1
            with anyio.move_on_after(_LOAD_EVERY):
                await self._stopping.wait()
        self._ended.set()

    async def stop(self) -> Mapping[str, Any]:
        self._stopping.set()
        await self._ended.wait()
        return {
            "calls": self._calls,
            "misses": self._misses,
            "slowest": self._slowest,
            "errors": self._errors[:3],
            "wrong": self._wrong[:3],
            "wrote": self._wrote,
        }

    async def _call(self, call: Awaitable[Any]) -> Any:
        began = time.monotonic()
        answer = None
        try:
            answer = await call
        except Exception as error:  # noqa: BLE001 - that there is none is what the demo shows
            self._errors.append(f"{type(error).__name__}: {error}")
        self._calls += 1
        self._slowest = max(self._slowest, time.monotonic() - began)
        return answer


async def _first_time(condition: Callable[[], Awaitable[bool]], timeout: float) -> float | None:
    """When the condition first held, or None if it did not within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not await condition():
        if time.monotonic() > deadline:
            return None
        await anyio.sleep(_LOOK_EVERY)
    return time.monotonic()


if __name__ == "__main__":
    main()
