"""One run: real instances, a real Redis, a proxy between Redis and each of them, and the trouble of a schedule.

What was done and read goes to ``checker``, which judges it.  A run that does not heal, an instance that ends by itself and
a call that never ends are failures of their own kind.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from meshcache import MeshCache
from meshcache.testing.history.checker import MISSED_WITHIN, Violation, heard_until, judge, kept, stale_reads
from meshcache.testing.history.records import REDIS, Call, History, Incident, Read
from meshcache.testing.proxy import OutageProxy
from meshcache.testing.server import RedisServer

from .keys import COUNTERS, all_keys
from .member import Failure, Member, read_calls, read_events, records
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
_CALL = 5.0
_MEET = 10.0
_HEAL = 45.0
_READ_TRIES = 5
_LINGER = 0.3
"""Everything is read once more after so long, in seconds: what comes late must not do harm either."""
_GRACE = 1.0
"""Within so long, in seconds, a write is heard by any peer that can hear at all."""


Meddle = Callable[[RedisServer, Sequence[Call]], None]


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


def run_schedule(schedule: Schedule, nursery: Nursery, directory: Path, meddle: Meddle | None = None) -> Outcome:
    """Do it, and judge it.

    Args:
        schedule: what is to go wrong.
        nursery: makes the processes.
        directory: empty; gets the records and logs of all instances.
        meddle: called with all calls when all is well again, before anything is read: for whoever wants to see a lie caught.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        run = _Run(schedule, nursery, directory, meddle, stack)
        outcome = run.run()
    outcome.took = time.monotonic() - began
    return outcome


@dataclass(slots=True)
class _Muted:
    """When a place could not speak freely to its peers, and why."""

    fault: Fault
    start: float
    end: float = inf


class _Run:
    def __init__(
        self,
        schedule: Schedule,
        nursery: Nursery,
        directory: Path,
        meddle: Meddle | None,
        stack: ExitStack,
    ) -> None:
        self.schedule = schedule
        self.incidents: list[Incident] = []
        self._nursery = nursery
        self._directory = directory
        self._meddle = meddle
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
        self._members: list[Member] = []
        self._at: list[Member] = []  # who is in each place now
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
            if self._meddle is not None:
                self._meddle(self._server, self._calls())
            self._read_all(of_the_living=True)
            time.sleep(MISSED_WITHIN if any(member.killed for member in self._members) else _LINGER)
            self._settle()
            self._read_all()
        except Failure as failure:
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
            member.call("meet", peers=self.schedule.instances - 1, within=_MEET)
        self._wait(lambda: all(member.call("stats")["mode"] == "redis" for member in self._at), "start", 10.0)
        self._start = time.monotonic() + 0.02
        for member in self._at:
            self._run_calls(member)

    def _make(self, place: int, life: int) -> Member:
        name = names(place) + (str(life) if life > 1 else "")
        records, log = self._directory / f"{name}.jsonl", self._directory / f"{name}.log"
        pid, control = self._nursery.start()
        member = Member(name, place, pid, control, records, log)
        member.begin(
            name=name, records=str(records), log=str(log), seed=self.schedule.seed, backend=self.schedule.backend
        )
        self._members.append(member)
        return member

    def _open(self, member: Member) -> int:
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
        }
        return member.ask("open", url=self._proxies[member.place].url, options=options)

    def _run_calls(self, member: Member) -> int:
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

    def _filter(self, member: Member) -> None:
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
        if (
            fault.kind in ("empty", "snapshot") and self._disk.exists()
        ):  # not if Redis was killed before it wrote anything
            shutil.rmtree(self._disk)
        if fault.kind == "snapshot" and self._snapshot(number).exists():
            shutil.copytree(self._snapshot(number), self._disk)
        self._server.start()
        self._monitor.listen()
        self._tell("Redis answers")

    def _save(self, number: int) -> None:
        def save() -> None:
            if self._disk.exists():
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

    def _ask_to_halt(self) -> list[tuple[Member, int]]:
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

    def _read_all(self, *, of_the_living: bool = False) -> None:
        """Read every key everywhere, while all is well: where a machine with too much to do makes an instance leave Redis
        in the middle, again.

        Args:
            of_the_living: leave out what instances wrote that were killed: what they gave up is undone once they are missed.
        """
        dead = {member.name for member in self._members if member.killed and of_the_living}
        keys = [key for key in all_keys(self.schedule.seconds) if CAN_COUNT or key not in COUNTERS]
        for _ in range(_READ_TRIES):
            outages = self._outages()
            reads = self._read(keys)
            if outages == self._outages():
                self._reads += [read for read in reads if read.writer not in dead]
                return
            self._settle()
        raise Failure("not healed", "the instances", f"they leave Redis each time that they are asked\n{self._logs()}")

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
            is_exact=not any(fault.kind in ("crash", "kill", "empty", "snapshot") for fault in self.schedule.faults),
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
        """Whether it has an answer, which was not a loader's to wait for, and its process was not stopped meanwhile."""
        place = next(member.place for member in self._members if member.name == call.instance)
        return (
            call.ended < inf
            and not call.may_load
            and not any(muted.start < call.ended and call.began < muted.end for muted in self._muted[place])
        )

    def _heard_until(self, member: Member, killed: float) -> float:
        muted = [[(one.start, one.end) for one in place] for place in self._muted]
        own = muted.pop(member.place)
        return heard_until(member.began, killed, own, muted, _GRACE)

    def _calls(self) -> list[Call]:
        return [call for member in self._members for call in read_calls(member)]

    def _all_incidents(self) -> list[Incident]:
        nodes = {
            rest[0]: member.name for member in self._members for kind, _, _, *rest in records(member) if kind == "node"
        }
        told = [incident for member in self._members for incident in read_events(member, nodes)]
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
                raise Failure(kind, "the instances", f"not within {timeout:g} s: {story()}")
            time.sleep(0.02)


def _source(place: int) -> str | None:
    """The address by which Redis knows an instance."""
    return f"127.0.0.{place + 2}" if sys.platform == "linux" else None


def _free_udp_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
