"""One run: real instances, a real Redis, a proxy between Redis and each of them, and the trouble of a schedule.

What was done and read goes to ``checker``, which judges it.  A run that does not heal, an instance that ends by itself and
a call that never ends are failures of their own kind.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from meshcache import MeshCache
from meshcache.testing.proxy import OutageProxy
from meshcache.testing.server import RedisServer

from .checker import REDIS, Call, History, Incident, Read, Violation, heard_until, judge, kept, stale_reads
from .keys import COUNTERS, all_keys
from .monitor import Monitor
from .nursery import Nursery
from .schedule import Fault, Schedule, names

__all__ = ["Outcome", "run_schedule"]

CAN_COUNT = hasattr(MeshCache, "incr")
"""Whether there are counters to be judged."""

_NAMESPACE = "history"
_REDIS = (
    # Acknowledged means in the page cache, which a killed process does not take along; a snapshot is a copy of that.
    *("--appendfsync", "no"),
    *("--auto-aof-rewrite-percentage", "0"),
    *("--protected-mode", "no"),  # it listens on loopback alone, and is asked from more addresses of it than one
)
_CLIENTS = 3
_ANSWER = 20.0
_CALL = 5.0
_HEAL = 45.0
_END = 3.0
_READ_TRIES = 5
_LINGER = 0.3
"""Everything is read once more after so long, in seconds: what comes late must not do harm either."""
_GRACE = 1.0
"""Within so long, in seconds, a write is heard by any peer that can hear at all."""


@dataclass(slots=True)
class Outcome:
    """What came of a run.

    Attributes:
        schedule: what was done.
        history: all that is known of it.
        violations: what must not be; empty if all is well.
        calls: how many of each kind.
        acknowledged: how many writes and deletes were acknowledged.
        hits: how many reads after healing gave a value, of how many.
        reads: of how many.
        lasting: of how many keys the newest write was a ``set`` that nothing overlapped.
        kept: how many of those values Redis still had.
        stale: how many reads in the run were overtaken by an acknowledged write.
        slowest: the longest call on an instance that was not stopped meanwhile, in seconds.
        healed_after: how long it took until all was well again, in seconds.
        took: the whole run, in seconds.
    """

    schedule: Schedule
    history: History = field(default_factory=lambda: History((), ()))
    violations: list[Violation] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    acknowledged: int = 0
    hits: int = 0
    reads: int = 0
    lasting: int = 0
    kept: int = 0
    stale: int = 0
    slowest: float = 0.0
    healed_after: float = 0.0
    took: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """One run in one line."""
        return {
            "seed": self.schedule.seed,
            "seconds": self.schedule.seconds,
            "instances": self.schedule.instances,
            "near_cache": self.schedule.near_cache,
            "amnesia_window": self.schedule.amnesia_window,
            "backend": self.schedule.backend,
            "faults": [str(fault) for fault in self.schedule.faults],
            "violations": [{"kind": one.kind, "key": one.key, "why": one.why} for one in self.violations],
            "calls": self.calls,
            "acknowledged": self.acknowledged,
            "hits": self.hits,
            "reads": self.reads,
            "lasting": self.lasting,
            "kept": self.kept,
            "stale": self.stale,
            "slowest": round(self.slowest, 3),
            "healed_after": round(self.healed_after, 3),
            "took": round(self.took, 3),
        }


def run_schedule(schedule: Schedule, nursery: Nursery, directory: Path, **options: Any) -> Outcome:
    """Do it, and judge it.

    Args:
        schedule: what is to go wrong.
        nursery: makes the processes.
        directory: empty; gets the records and logs of all instances.
        options: of all caches, besides those of the schedule.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        run = _Run(schedule, nursery, directory, options, stack)
        outcome = run.run()
    outcome.took = time.monotonic() - began
    return outcome


class _Failure(Exception):
    """The run itself cannot go on: what kind, of what, why."""

    def __init__(self, kind: str, who: str, why: str) -> None:
        super().__init__(f"{kind}: {who}: {why}")
        self.violation = Violation(kind, who, why)


class _Member:
    """One process with one instance.

    Attributes:
        name: A, or A2 after a restart.
        killed: when the trouble killed it, or None.
        asked: what it was asked and will answer later.
    """

    def __init__(self, name: str, place: int, pid: int, control: socket.socket, records: Path, log: Path) -> None:
        self.name = name
        self.place = place
        self.pid = pid
        self.records = records
        self.log = log
        self.began = time.monotonic()
        self.killed: float | None = None
        self.asked: list[int] = []
        self._left = False
        self._control = control
        self._lines = b""
        self._last_id = 0
        self._answers: dict[int, Any] = {}

    @property
    def lives(self) -> bool:
        """Whether there is a process to be asked."""
        return self.killed is None and not self._left

    def ask(self, do: str, **arguments: Any) -> int:
        """Ask for something; the number of the question."""
        self._last_id += 1
        self._send({"id": self._last_id, "do": do, "with": arguments})
        return self._last_id

    def begin(self, **arguments: Any) -> None:
        """What the process must know first."""
        self._send(arguments)

    def answer(self, number: int, timeout: float = _ANSWER) -> Any:
        """Wait for the answer to a question."""
        deadline = time.monotonic() + timeout
        while number not in self._answers:
            remains = deadline - time.monotonic()
            if remains <= 0 or not select.select([self._control], [], [], remains)[0]:
                raise _Failure("no answer", self.name, f"it does not answer within {timeout:g} s\n{self.log_tail()}")
            try:
                data = self._control.recv(2**20)
            except ConnectionResetError:
                data = b""
            if not data:
                raise _Failure("ended", self.name, f"its process has ended by itself\n{self.log_tail()}")
            *lines, self._lines = (self._lines + data).split(b"\n")
            self._answers |= {message["id"]: message for message in map(json.loads, lines)}
        message = self._answers.pop(number)
        if "error" in message:
            raise _Failure("error", self.name, f"{message['error']}\n{self.log_tail()}")
        return message["answer"]

    def call(self, do: str, timeout: float = _ANSWER, **arguments: Any) -> Any:
        """Ask and wait."""
        return self.answer(self.ask(do, **arguments), timeout)

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.killed = time.monotonic()
        self._control.close()

    def leave(self) -> None:
        """Let it close its cache and end; :meth:`end` waits for that."""
        if self.lives:
            self.signal(signal.SIGCONT)
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)

    def end(self) -> None:
        """Wait until it has ended, and end it if it does not.  May be called twice."""
        if not self.lives:
            return
        self._left = True
        deadline = time.monotonic() + _END
        with self._control, contextlib.suppress(OSError):
            while select.select([self._control], [], [], max(0.0, deadline - time.monotonic()))[0]:
                if not self._control.recv(2**20):
                    return
            self.signal(signal.SIGKILL)

    def log_tail(self) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])
        return ""

    def _send(self, message: Any) -> None:
        try:
            self._control.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            raise _Failure("ended", self.name, f"its process has ended by itself\n{self.log_tail()}") from None


@dataclass(slots=True)
class _Muted:
    """When a place could not speak freely to its peers, and why."""

    fault: Fault
    start: float
    end: float = inf


class _Run:
    def __init__(
        self, schedule: Schedule, nursery: Nursery, directory: Path, options: Mapping[str, Any], stack: ExitStack
    ) -> None:
        self.schedule = schedule
        self.incidents: list[Incident] = []
        self._nursery = nursery
        self._directory = directory
        self._options = options
        self._server = stack.enter_context(RedisServer(persistent=True, arguments=_REDIS))
        sources = {source: names(place) for place in range(schedule.instances) if (source := _source(place))}
        self._monitor = Monitor(self._server.host, self._server.port, f"{_NAMESPACE}:", sources)
        stack.callback(self._monitor.close)
        self._monitor.listen()
        self._disk = self._server.directory / "appendonlydir"
        self._proxies = [
            stack.enter_context(OutageProxy(self._server.host, self._server.port, source=_source(place)))
            for place in range(schedule.instances)
        ]
        self._ports = _free_udp_ports(schedule.instances)
        self._members: list[_Member] = []
        self._at: list[_Member] = []  # who is in each place now
        self._filters: dict[int, dict[str, Any]] = {}
        self._muted: list[list[_Muted]] = [[] for _ in range(schedule.instances)]
        self._redis = stack.enter_context(ThreadPoolExecutor(1))  # starting it must not keep the other faults waiting
        self._redis_jobs: list[Any] = []
        self._start = time.monotonic()
        self._reads: list[Read] = []
        self._read_at = inf
        stack.callback(self._end_all)

    def run(self) -> Outcome:
        outcome = Outcome(self.schedule)
        try:
            self._open_all()
            self._trouble()
            self._heal()
            outcome.healed_after = self._settle()
            self._read_all()
            time.sleep(_LINGER)
            self._settle()
            self._read_all()
        except _Failure as failure:
            told = failure.violation
            story = "\n".join(
                f"  {one.at - self._start:9.4f}  * {one.text}" for one in self._all_incidents() if not one.key
            )
            outcome.violations.append(Violation(told.kind, told.key, told.why, story))
        self._end_all()
        self._monitor.close()
        self._judge(outcome)
        return outcome

    # -- the beginning

    def _open_all(self) -> None:
        for place in range(self.schedule.instances):
            self._at.append(self._make(place, 1))
        opened = [(member, self._open(member)) for member in self._at]
        for member, number in opened:
            member.answer(number)
        for member in self._at:
            member.call("meet", peers=self.schedule.instances - 1, within=_ANSWER / 2)
        self._wait(lambda: all(member.call("stats")["mode"] == "redis" for member in self._at), "start", 10.0)
        self._start = time.monotonic() + 0.02
        for member in self._at:
            self._run_calls(member)

    def _make(self, place: int, life: int) -> _Member:
        name = names(place) + (str(life) if life > 1 else "")
        records, log = self._directory / f"{name}.jsonl", self._directory / f"{name}.log"
        pid, control = self._nursery.start()
        member = _Member(name, place, pid, control, records, log)
        member.begin(
            name=name, records=str(records), log=str(log), seed=self.schedule.seed, backend=self.schedule.backend
        )
        self._members.append(member)
        return member

    def _open(self, member: _Member) -> int:
        if member.place in self._filters:
            member.ask("drop", **self._filters[member.place])
        options = {
            "namespace": _NAMESPACE,
            "secret": f"history of seed {self.schedule.seed}",
            "codec": "json",  # so that what is in Redis can be read without it
            "near_cache": self.schedule.near_cache,
            "amnesia_window": self.schedule.amnesia_window,
            "discovery": [f"127.0.0.1:{port}" for port in self._ports],
            "interfaces": ["127.0.0.1"],
            "port": self._ports[member.place],
            **self._options,
        }
        return member.ask("open", url=self._proxies[member.place].url, options=options)

    def _run_calls(self, member: _Member) -> int:
        return member.ask(
            "run",
            seed=f"{self.schedule.seed}/{member.name}",
            start=self._start,
            seconds=self.schedule.seconds,
            clients=_CLIENTS,
            counters=CAN_COUNT,
        )

    # -- trouble

    def _trouble(self) -> None:
        for at, do in sorted(self._steps(), key=lambda step: step[0]):
            self._sleep_until(at)
            do()
        self._sleep_until(self.schedule.seconds)

    def _steps(self) -> Iterator[tuple[float, Callable[[], None]]]:
        for number, fault in enumerate(self.schedule.faults):
            if fault.kind == "snapshot":
                yield fault.saved_at, lambda number=number: self._save(number)  # type: ignore[misc]
            yield fault.at, lambda fault=fault, number=number: self._begin(fault, number)  # type: ignore[misc]
            if fault.until is not None and fault.until < self.schedule.seconds:
                yield fault.until, lambda fault=fault, number=number: self._finish(fault, number)  # type: ignore[misc]

    def _begin(self, fault: Fault, number: int) -> None:
        if fault.target is None:
            self._on_redis(lambda: self._strike_redis(fault))
            return
        member, proxy = self._at[fault.target], self._proxies[fault.target]
        match fault.kind:
            case "refuse":
                proxy.refuse()
            case "silent":
                proxy.silence()
            case "half-open":
                proxy.half_open()
            case "slow":
                proxy.slow(fault.delay)
            case "crash":
                member.kill()
                self._mute(fault)
            case "pause":
                self._mute(fault)
                member.signal(signal.SIGSTOP)
            case "drop":
                self._mute(fault)
                ports = [self._ports[peer] for peer in fault.peers]
                self._filters[fault.target] = {"loss": fault.loss, "ports": ports}
                self._filter(member)
        self._tell(f"{fault.kind} {names(fault.target)} begins")

    def _finish(self, fault: Fault, number: int) -> None:
        if fault.target is None:
            self._on_redis(lambda: self._mend_redis(fault, number))
            return
        member, proxy = self._at[fault.target], self._proxies[fault.target]
        self._tell(f"{fault.kind} {names(fault.target)} ends")
        match fault.kind:
            case "refuse" | "silent" | "half-open" | "slow":
                proxy.forward()
            case "crash" if fault.until is not None and not member.lives:
                lives = sum(one.place == fault.target for one in self._members)
                self._at[fault.target] = member = self._make(fault.target, lives + 1)
                member.asked += [self._open(member), self._run_calls(member)]
                self._unmute(fault)
            case "pause":
                member.signal(signal.SIGCONT)
                self._unmute(fault)
            case "drop":
                del self._filters[fault.target]
                self._filter(member)
                self._unmute(fault)

    def _filter(self, member: _Member) -> None:
        if member.lives:
            member.asked.append(member.ask("drop", **self._filters.get(member.place, {"loss": 0.0, "ports": []})))

    def _on_redis(self, job: Callable[[], None]) -> None:
        self._redis_jobs.append(self._redis.submit(job))

    def _strike_redis(self, fault: Fault) -> None:
        if fault.kind == "stop":
            self._server.pause()
        else:
            self._server.kill()
        self._tell(f"{fault.kind} Redis begins")

    def _mend_redis(self, fault: Fault, number: int) -> None:
        self._tell(f"{fault.kind} Redis ends")
        if fault.kind == "stop":
            self._server.resume()
            return
        if fault.kind in ("empty", "snapshot"):
            shutil.rmtree(self._disk)
        if fault.kind == "snapshot":
            shutil.copytree(self._snapshot(number), self._disk)
        self._server.start()
        self._monitor.listen()
        self._tell("Redis answers")

    def _save(self, number: int) -> None:
        def save() -> None:
            shutil.copytree(self._disk, self._snapshot(number))
            self._tell("Redis as it is now is kept for a snapshot")

        self._on_redis(save)

    def _snapshot(self, number: int) -> Path:
        return self._server.directory / f"snapshot-{number}"

    def _mute(self, fault: Fault) -> None:
        assert fault.target is not None
        self._muted[fault.target].append(_Muted(fault, time.monotonic()))

    def _unmute(self, fault: Fault) -> None:
        assert fault.target is not None
        for muted in self._muted[fault.target]:
            if muted.fault is fault:
                muted.end = time.monotonic()

    # -- healing

    def _heal(self) -> None:
        """The end of all trouble; some go on with their calls meanwhile."""
        halts = [] if self.schedule.tail else self._ask_to_halt()
        self._tell("healing begins")
        for number, fault in enumerate(self.schedule.faults):
            if fault.until is not None and fault.until >= self.schedule.seconds:
                self._finish(fault, number)
        for job in self._redis_jobs:
            job.result()
        if self.schedule.tail:
            time.sleep(self.schedule.tail)
            halts = self._ask_to_halt()
        for member, number in halts:
            for earlier in member.asked:
                member.answer(earlier)
            member.answer(number, _CALL)
        for member in self._members:  # those that were started while it healed
            if member.lives and all(member is not told for told, _ in halts):
                for earlier in member.asked:
                    member.answer(earlier)
                member.call("halt", _CALL)
        self._tell("no more calls")

    def _ask_to_halt(self) -> list[tuple[_Member, int]]:
        return [(member, member.ask("halt")) for member in self._members if member.lives]

    def _settle(self) -> float:
        began = time.monotonic()
        last: dict[str, Any] = {}

        def settled() -> bool:
            for member in self._members:
                if member.lives:
                    stats = member.call("stats")
                    last[member.name] = {name: stats[name] for name in ("mode", "dirty", "peers", "mode_seconds")}
            return all(stats["mode"] == "redis" and not stats["dirty"] for stats in last.values())

        self._wait(settled, "not healed", _HEAL, lambda: f"{last}\n{self._logs()}")
        return time.monotonic() - began

    def _logs(self) -> str:
        return "\n".join(f"{member.name}:\n{member.log_tail()}" for member in self._members if member.lives)

    def _read_all(self) -> None:
        """Read every key everywhere, while all is well: where a machine with too much to do makes an instance leave Redis
        in the middle, again."""
        keys = [key for key in all_keys(self.schedule.seconds) if CAN_COUNT or key not in COUNTERS]
        for _ in range(_READ_TRIES):
            outages = self._outages()
            reads = self._read(keys)
            if outages == self._outages():
                self._reads += reads
                return
            self._settle()
        raise _Failure("not healed", "the instances", f"they leave Redis each time that they are asked\n{self._logs()}")

    def _read(self, keys: Sequence[str]) -> list[Read]:
        asked = [(member, member.ask("read", keys=keys)) for member in self._members if member.lives]
        reads = [
            Read(member.name, key, value) for member, number in asked for key, value in member.answer(number).items()
        ]
        raw = self._server.client().mget([f"{_NAMESPACE}:{key}" for key in keys])
        self._read_at = time.monotonic()
        decoded = (None if data is None else json.loads(data) for data in raw)
        return [*reads, *(Read(REDIS, key, value) for key, value in zip(keys, decoded, strict=True))]

    def _outages(self) -> list[int]:
        return [member.call("stats")["outages"] for member in self._members if member.lives]

    def _end_all(self) -> None:
        for member in self._members:
            member.leave()
        for member in self._members:
            member.end()

    # -- the judgement

    def _judge(self, outcome: Outcome) -> None:
        calls = self._calls()
        outcome.history = history = History(
            calls=calls,
            reads=self._reads,
            incidents=self._all_incidents(),
            heard_until={one.name: self._heard_until(one, one.killed) for one in self._members if one.killed},
            is_exact=not any(fault.kind in ("crash", "empty", "snapshot") for fault in self.schedule.faults),
            began=self._start,
        )
        outcome.violations += judge(history)
        for call in calls:
            outcome.calls[call.what] = outcome.calls.get(call.what, 0) + 1
            outcome.acknowledged += call.is_certain_write
        outcome.hits = sum(read.value is not None for read in self._reads)
        outcome.reads = len(self._reads)
        outcome.lasting, outcome.kept = kept(history)
        outcome.stale = stale_reads(history)
        outcome.slowest = max((call.ended - call.began for call in calls if self._was_running(call)), default=0.0)

    def _was_running(self, call: Call) -> bool:
        """Whether it has an answer, and its process was not stopped meanwhile."""
        place = next(member.place for member in self._members if member.name == call.instance)
        return call.ended < inf and not any(
            muted.start < call.ended and call.began < muted.end for muted in self._muted[place]
        )

    def _heard_until(self, member: _Member, killed: float) -> float:
        muted = [[(one.start, one.end) for one in place] for place in self._muted]
        own = muted.pop(member.place)
        return heard_until(member.began, killed, own, muted, _GRACE)

    def _calls(self) -> list[Call]:
        return [call for member in self._members for call in _read_calls(member)]

    def _all_incidents(self) -> list[Incident]:
        nodes = {
            rest[0]: member.name for member in self._members for kind, _, _, *rest in _records(member) if kind == "node"
        }
        told = [incident for member in self._members for incident in _read_events(member, nodes)]
        told = [incident for incident in told if incident.at <= self._read_at]  # what follows is that they end
        return sorted([*self.incidents, *told, *self._monitor.incidents(self._start)], key=lambda incident: incident.at)

    # -- time

    def _tell(self, text: str) -> None:
        self.incidents.append(Incident(time.monotonic(), text))

    def _sleep_until(self, second: float) -> None:
        time.sleep(max(0.0, self._start + second - time.monotonic()))

    def _wait(
        self, condition: Callable[[], bool], kind: str, timeout: float, story: Callable[[], str] = lambda: ""
    ) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise _Failure(kind, "the instances", f"not within {timeout:g} s: {story()}")
            time.sleep(0.02)


def _records(member: _Member) -> Iterator[Sequence[Any]]:
    if member.records.exists():
        for line in member.records.read_bytes().split(b"\n")[:-1]:
            yield json.loads(line)


def _read_calls(member: _Member) -> Iterator[Call]:
    """The calls of one process: each record of a beginning with that of its end, if there is one."""
    begun: dict[int, tuple[Any, ...]] = {}
    for kind, number, at, *rest in _records(member):
        if kind == "call":
            begun[number] = (at, *rest)
        elif kind in ("done", "fail"):
            yield _call(member, begun.pop(number), kind, at, rest)
    for beginning in begun.values():
        yield _call(member, beginning, "", inf, [])


def _call(member: _Member, beginning: tuple[Any, ...], kind: str, ended: float, rest: Sequence[Any]) -> Call:
    began, what, key, value, options, mode = beginning
    answer, then, dirty = rest if kind == "done" else (None, "", 0)
    note = "".join(f" {name}={option:.3g}" if name == "ttl" else f" {name}" for name, option in options.items())
    note += f" [{mode}{'' if then in (mode, '') else '->' + then}{f', {dirty} dirty' if dirty else ''}]"
    return Call(
        instance=member.name,
        what=what,
        key=key,
        value=value,
        began=began,
        ended=ended,
        answer=answer,
        error=rest[0] if kind == "fail" else "",
        ttl=options.get("ttl", inf) if what == "set" else inf,
        in_memory=mode != "redis" or then != "redis" or dirty > 0,
        note=note,
    )


def _read_events(member: _Member, nodes: Mapping[str, str]) -> Iterator[Incident]:
    """What one instance told of itself and its peers.

    Args:
        member: its process.
        nodes: the names of the instances by node id.
    """
    for kind, _, at, *rest in _records(member):
        if kind == "mode":
            yield Incident(at, f"{member.name}: {rest[0]}")
        elif kind == "peer":
            yield Incident(at, f"{member.name} {rest[0]} {nodes.get(rest[1], rest[1])}")


def _source(place: int) -> str | None:
    """The address by which Redis knows an instance."""
    return f"127.0.0.{place + 2}" if sys.platform == "linux" else None


def _free_udp_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
