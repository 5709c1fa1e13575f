"""One instance in a process of its own: it makes calls by itself, records each, and does what its control socket says.

A record is in the file before and after each call, so that a killed process leaves what it did.  All times are
``time.monotonic()``, which the processes of one host share; they are taken next to the call, the first before anything
else and the last after everything else, so that no call seems shorter than it was.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import count
from math import inf
from random import Random
from typing import Any

import anyio
import trio  # noqa: F401 - now, before the fork
from anyio.abc import TaskGroup

import meshcache.runtime.runtime  # noqa: F401 - now, before the fork
from meshcache import MeshCache, ModeChanged, PeerJoined, PeerLeft
from meshcache.testing.history.records import BY_REFRESH, OR_LOAD
from meshcache.udp import UdpSocket
from tests.history.keys import COUNTERS, DOWN, some_key, some_pattern

__all__ = ["main"]

Address = tuple[str, int]

_READS_AT_ONCE = 8
_MEAN_PAUSE = 0.02
"""Between two calls of one client, in seconds."""


def main(control: socket.socket) -> None:
    """Run until the socket ends."""
    request = json.loads(_first_line(control))
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, sys.stderr.fileno())
    os.dup2(log, sys.stdout.fileno())
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        anyio.run(_serve, control, request, backend=request["backend"])
    except BaseException:
        traceback.print_exc()
        raise


def _first_line(control: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += control.recv(1)
    return line


async def _serve(control: socket.socket, request: dict[str, Any]) -> None:
    async with anyio.create_task_group() as tasks:
        worker = _Worker(tasks, request)
        async for line in _lines(control):
            asked = json.loads(line)
            do: Callable[..., Awaitable[Any]] = getattr(worker, asked["do"])
            try:
                answer = {"answer": await do(**asked["with"])}
            except Exception as error:
                traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {error}"}
            control.sendall(json.dumps({"id": asked["id"], **answer}).encode() + b"\n")
        await worker.close()
        tasks.cancel_scope.cancel()


async def _lines(control: socket.socket) -> AsyncIterator[bytes]:
    rest = b""
    while True:
        await anyio.wait_readable(control)
        data = control.recv(65_536)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line


class _Worker:
    """The public methods are what may be asked for."""

    def __init__(self, tasks: TaskGroup, request: dict[str, Any]) -> None:
        self._tasks = tasks
        self._name: str = request["name"]
        self._records = os.open(request["records"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._numbers = count(1)
        self._filter = _Filter(Random(f"{self._name}/{request['seed']}"))
        self._patience = Random(f"{self._name}/{request['seed']}/patience")
        self._cache: MeshCache | None = None
        self._clients = 0
        self._halted = anyio.Event()
        self._ended = anyio.Event()

    @property
    def cache(self) -> MeshCache:
        assert self._cache is not None, "open comes first"
        return self._cache

    async def open(self, url: str, options: dict[str, Any]) -> None:
        """Enter the cache."""
        self._filter.install()
        cache = MeshCache(url, **options)
        await cache.__aenter__()
        self._cache = cache
        self._record(("node", 0, time.monotonic(), cache.node_id))
        self._tasks.start_soon(self._watch)

    async def meet(self, peers: int, within: float) -> None:
        """Wait for so many peers."""
        await self.cache.wait_for_peers(peers, within)

    async def drop(self, loss: float, ports: list[int]) -> None:
        """Lose this part of the datagrams from and to these ports."""
        self._filter.loss, self._filter.ports = loss, frozenset(ports)

    async def run(self, seed: str, start: float, seconds: float, clients: int, counters: bool) -> None:
        """Make calls until told to stop."""
        self._clients = clients
        for number in range(clients):
            self._tasks.start_soon(self._client, Random(f"{seed}/{number}"), start, seconds, counters)

    async def halt(self) -> None:
        """No more calls; those under way have ended then."""
        self._halted.set()
        while self._clients:
            await self._ended.wait()
            self._ended = anyio.Event()

    async def stats(self) -> dict[str, Any]:
        """The cache's own numbers."""
        return self.cache.stats()

    async def read(self, keys: Sequence[str]) -> dict[str, Any]:
        """What can be read here, by ``get``."""
        found: dict[str, Any] = {}

        async def some(mine: Iterable[str]) -> None:
            for key in mine:
                found[key] = await self.cache.get(key)

        async with anyio.create_task_group() as tasks:
            for start in range(_READS_AT_ONCE):
                tasks.start_soon(some, keys[start::_READS_AT_ONCE])
        return found

    async def close(self) -> None:
        """Leave the cache."""
        self._halted.set()
        if self._cache is not None:
            await self._cache.aclose()

    # -- the calls

    async def _client(self, random: Random, start: float, seconds: float, counters: bool) -> None:
        while not self._halted.is_set():
            with anyio.move_on_after(random.expovariate(1 / _MEAN_PAUSE)):
                await self._halted.wait()
                break
            await self._any_call(random, min(time.monotonic() - start, seconds), counters)
        self._clients -= 1
        self._ended.set()

    async def _any_call(self, random: Random, moment: float, counters: bool) -> None:
        roll, key, cache = random.random(), some_key(random, moment), self.cache
        keys = list(dict.fromkeys([key, some_key(random, moment), some_key(random, moment)]))
        if roll < 0.06 and counters:
            key, amount = random.choice(COUNTERS), random.randint(1, 5)
            counts: Any = cache  # a MeshCache that has counters
            if key == DOWN:
                await self._call("incr", {key: -amount}, {}, lambda: counts.decr(key, amount))
            else:
                await self._call("incr", {key: amount}, {}, lambda: counts.incr(key, amount))
        elif roll < 0.30:
            await self._call("get", {key: None}, {}, lambda: cache.get(key))
        elif roll < 0.36:
            await self._call("get", dict.fromkeys(keys), {}, lambda: cache.get_many(keys))
        elif roll < 0.44:
            await self._load(random, key)
        elif roll < 0.70:
            value, options = self._value(), _set_options(random)
            await self._call("set", {key: value}, options, lambda: cache.set(key, value, **options))
        elif roll < 0.76:
            values, ttl = {one: self._value() for one in keys}, _ttl(random)
            await self._call("set", values, ttl, lambda: cache.set_many(values, **ttl))
        elif roll < 0.79:
            new = {"ttl": random.uniform(100, 200)}
            await self._call("expire", {key: None}, new, lambda: cache.expire(key, **new))
        elif roll < 0.91:
            await self._call("delete", {key: None}, {}, lambda: cache.delete(key))
        elif roll < 0.97:
            await self._call("delete", dict.fromkeys(keys), {}, lambda: cache.delete_many(keys))
        else:
            pattern = some_pattern(random, key)
            await self._call("delete_match", {pattern: None}, {}, lambda: cache.delete_match(pattern))

    async def _load(self, random: Random, key: str) -> None:
        """A read that loads what is missing, or a refresh.  What is loaded is a call in itself, which may write."""
        ttl, takes = _ttl(random), random.choice([0.0, random.expovariate(20), random.expovariate(2)])
        begun: list[dict[str, int]] = []

        async def loader() -> str:
            value = self._value()
            begun.append(self._begin("load", {key: value}, ttl))
            await anyio.sleep(takes)
            return value

        function = self.cache.cached(key=lambda: key, **ttl)(loader)
        if random.random() < 0.25:
            await self._call("get", {key: None}, {BY_REFRESH: True}, function.refresh)
        else:
            await self._call("get", {key: None}, {OR_LOAD: True}, function)
        for numbers in begun:
            self._end(numbers, {key: None})

    def _value(self) -> str:
        return f"{self._name}:{next(self._numbers)}"

    async def _call(
        self, what: str, values: Mapping[str, Any], options: Mapping[str, Any], make: Callable[[], Awaitable[Any]]
    ) -> None:
        """Make a call and record it, once for each of its keys; one that its caller gives up has no end."""
        numbers = self._begin(what, values, options)
        with anyio.move_on_after(inf if what == "incr" else self._some_patience()) as scope:
            try:
                answer = await make()
            except Exception as error:
                ended, told = time.monotonic(), f"{type(error).__name__}: {error}"
                self._record(*(("fail", number, ended, told) for number in numbers.values()))
                return
        if scope.cancelled_caught:
            return
        answers = dict.fromkeys(values, answer)
        if isinstance(answer, dict):  # of get_many
            answers |= {key: answer.get(key) for key in values}
        elif what == "set" and answer is None:  # of set_many
            answers = dict.fromkeys(values, True)
        self._end(numbers, answers)

    def _some_patience(self) -> float:
        """How long a caller waits, in seconds."""
        random = self._patience
        return inf if random.random() < 0.9 else random.choice([random.expovariate(1000), random.expovariate(20)])

    def _begin(self, what: str, values: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, int]:
        """A call begins, of each of its keys; the numbers by which that is known."""
        began = time.monotonic()
        numbers = {key: next(self._numbers) for key in values}
        mode = str(self.cache.mode)
        self._record(*(("call", numbers[key], began, what, key, value, options, mode) for key, value in values.items()))
        return numbers

    def _end(self, numbers: Mapping[str, int], answers: Mapping[str, Any]) -> None:
        """It has ended."""
        ended, stats = time.monotonic(), self.cache.stats()
        told = stats["mode"], stats["dirty"]
        self._record(*(("done", number, ended, answers[key], *told) for key, number in numbers.items()))

    async def _watch(self) -> None:
        async for event in self.cache.events():
            now = time.monotonic()
            match event:
                case ModeChanged():
                    self._record(("mode", 0, now, f"{event.old} -> {event.new}: {event.cause}"))
                case PeerJoined():
                    self._record(("peer", 0, now, "hears", event.peer.node_id))
                case PeerLeft():
                    self._record(("peer", 0, now, "hears no more of", event.peer.node_id))

    def _record(self, *records: tuple[Any, ...]) -> None:
        os.write(self._records, b"".join(json.dumps(record).encode() + b"\n" for record in records))


def _set_options(random: Random) -> dict[str, Any]:
    roll = random.random()
    return {"nx": True} if roll < 0.08 else {"xx": True} if roll < 0.16 else _ttl(random)


def _ttl(random: Random) -> dict[str, Any]:
    roll = random.random()
    if roll < 0.6:
        return {}
    return {"ttl": random.uniform(100, 200) if roll < 0.87 else random.uniform(0.05, 2)}


class _Filter:
    """Drops datagrams of this process, by chance, on their way in and out of its socket.

    Attributes:
        loss: the part that is dropped.
        ports: of those peers.
    """

    def __init__(self, random: Random) -> None:
        self.loss = 0.0
        self.ports: frozenset[int] = frozenset()
        self._random = random

    def install(self) -> None:
        """Put it around every socket of the mesh in this process."""
        send, listen = UdpSocket.send, UdpSocket.listen

        def filtered_send(udp: UdpSocket, datagrams: Iterable[tuple[bytes, Iterable[Address]]]) -> None:
            send(udp, [(data, [to for to in addresses if self._passes(to)]) for data, addresses in datagrams])

        async def filtered_listen(udp: UdpSocket, take: Callable[[Iterable[tuple[bytes, Address]]], None]) -> None:
            await listen(udp, lambda datagrams: take(one for one in datagrams if self._passes(one[1])))

        UdpSocket.send, UdpSocket.listen = filtered_send, filtered_listen  # type: ignore[method-assign]

    def _passes(self, address: Address) -> bool:
        return address[1] not in self.ports or self._random.random() >= self.loss
