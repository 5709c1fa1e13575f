"""The steps of the demo, and what must hold in each.  It asks the instances and the server, and compares; it shows nothing.

A step either returns what was seen, or raises :class:`~meshcache.cli.demo.board.Unmet`.  Bounds are generous, for slow machines; what was measured is
what is shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from .board import Unmet
from .fleet import SIZE, Answer, Fleet, Instance, Pending
from .servers import DemoServer

__all__ = ["Scenario", "Shown", "Step"]

_VISIBLE_SECONDS = 2.0
_MODE_SECONDS = 10.0
_READY_SECONDS = 1.25  # op_timeout and a second
_CALL_SECONDS = 0.5  # op_timeout, and as much again for a busy machine
_TTL = 60.0
_TTL_SLACK_SECONDS = 0.5
_WRITES = 20
_DELETES = 10
_PAUSE = 0.01  # between two writes that are timed
_LOAD_SECONDS = 0.4  # of calls on either side of the outage's edge
_OUTAGE_SECONDS = 5.0  # at least: a time to live that started again would show, and probes have grown rare


@dataclass(frozen=True, slots=True)
class Shown:
    """What a step has shown.

    Attributes:
        text: one line.
        measures: the numbers in it, units in their names.
        note: a limit of this version that belongs here, or "".
    """

    text: str
    measures: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """A title, and the function that makes it true."""

    title: str
    run: Callable[[], Shown]


class Scenario:
    """The steps, to be run in their order, each once.

    Args:
        server: runs.
        fleet: no instance of it is started yet.
        reachable: told whether the instances can reach the server from now on.
    """

    def __init__(self, server: DemoServer, fleet: Fleet, reachable: Callable[[bool], None]) -> None:
        self.steps: Sequence[Step] = (
            Step("Three instances start and find each other", self._start),
            Step("What 1 writes, 2 and 3 read: Redis answers", self._share_through_redis),
            Step(f"{server.goes}: every call is still answered", self._lose_redis),
            Step("A set on 1 is read on 2 and 3, without Redis", self._set_in_outage),
            Step("A delete on 2 is a miss on 1 and 3", self._delete_in_outage),
            Step("A fourth instance starts in the outage", self._join_in_outage),
            Step(f"{server.returns}: the instances return to it", self._regain_redis),
            Step("Redis has the outage's writes, not the deleted keys", self._check_redis),
            Step("Goodbye: nothing is left behind", self._leave),
        )
        self._server = server
        self._fleet = fleet
        self._reachable = reachable
        self._values: dict[str, Any] = {}  # what each key must be, here and in Redis
        self._written_at: dict[str, float] = {}
        self._deleted: list[str] = []
        self._loads: list[Answer] = []
        self._cut_at = 0.0

    # -- the steps

    def _start(self) -> Shown:
        for _ in range(SIZE - 1):
            self._fleet.start()
        for pending in self._fleet.ask_all("started"):
            pending.result()
        opened = [self._fleet.open(instance, self._server.url) for instance in self._fleet.instances]
        began = min(pending.result()["began"] for pending in opened)
        found = self._all_reach("redis", peers=SIZE - 2) - began
        return Shown(
            f"all on Redis, each with two peers, {_ms(found)} after the first was opened",
            {"found_ms": _round_ms(found)},
        )

    def _share_through_redis(self) -> Shown:
        one, others = self._fleet.instances[0], self._fleet.instances[1:]
        hits_before = [instance.call("stats")["redis_hits"] for instance in others]
        values = {"user:1": {"name": "Ada"}, "user:2": {"name": "Grace"}, "session:9": {"user": 1}}
        took = self._write(one, values)
        reads = [self._expect_values(instance, values) for instance in others]
        for instance, before in zip(others, hits_before, strict=True):
            answered = instance.call("stats")["redis_hits"] - before
            if answered != len(values):
                raise Unmet(f"{len(values)} reads of {instance.name} answered by Redis", f"{answered}")
        read = median(seconds for times in reads for seconds in times)
        return Shown(
            f"set takes {_ms(median(took))}, get {_ms(read)} (medians)",
            {"set_ms": _round_ms(median(took)), "get_ms": _round_ms(read)},
        )

    def _lose_redis(self) -> Shown:
        self._start_load()
        time.sleep(_LOAD_SECONDS)
        waiting = self._fleet.ask_all("reach", mode="memory", peers=SIZE - 2, timeout=_MODE_SECONDS)
        self._cut_at = time.monotonic()
        self._server.cut()
        self._reachable(False)
        noticed = self._reached(waiting, "memory", SIZE - 2) - self._cut_at
        time.sleep(_LOAD_SECONDS)
        calls, slowest = self._end_load()
        cold = self._fleet.instances[0].call("get", keys=["user:1"])["values"]["user:1"] is None
        return Shown(
            f"mode memory everywhere after {_ms(noticed)}; {calls:,} calls, no error, the slowest {_ms(slowest)}",
            {"noticed_ms": _round_ms(noticed), "calls": calls, "errors": 0, "slowest_call_ms": _round_ms(slowest)},
            "what only Redis held is a miss until it is back: this version keeps no warm copy" if cold else "",
        )

    def _set_in_outage(self) -> Shown:
        one, others = self._fleet.instances[0], self._fleet.instances[1:]
        values: dict[str, Any] = {f"outage:{number}": {"written": number} for number in range(_WRITES - 1)}
        values["user:2"] = {"name": "Grace Hopper"}  # Redis still has the older one on its disk
        delays = self._until_visible(others, values, lambda: one.ask("set", values=values, ttl=_TTL, pause=_PAUSE))
        self._values |= values
        return Shown(
            f"{len(values)} writes, readable on both after {_ms(median(delays))} (median), {_ms(max(delays))} at most",
            {
                "writes": len(values),
                "visible_ms_median": _round_ms(median(delays)),
                "visible_ms_max": _round_ms(max(delays)),
            },
        )

    def _delete_in_outage(self) -> Shown:
        one, two, three = self._fleet.instances
        keys = [f"outage:{number}" for number in range(_DELETES)]
        delays = self._until_visible(
            (one, three), dict.fromkeys(keys), lambda: two.ask("delete", keys=keys, pause=_PAUSE)
        )
        two.call("delete", keys=["session:9"], pause=0)  # written before the outage: Redis still has it
        self._deleted = [*keys, "session:9"]
        for key in self._deleted:
            self._values.pop(key, None)
        return Shown(
            f"{len(keys)} deletes, a miss on both after {_ms(median(delays))} (median), {_ms(max(delays))} at most",
            {"deletes": len(keys), "gone_ms_median": _round_ms(median(delays)), "gone_ms_max": _round_ms(max(delays))},
        )

    def _join_in_outage(self) -> Shown:
        before = list(self._fleet.instances)
        four = self._fleet.start()
        four.call("started")
        opened = self._fleet.open(four, self._server.url).result()
        if opened["seconds"] > _READY_SECONDS:
            raise Unmet(f"{four.name} ready within {_READY_SECONDS:g} s", _ms(opened["seconds"]))
        joined = self._all_reach("memory", peers=SIZE - 1) - opened["began"]
        values = {"from:4": {"joined": True}}
        delays = self._until_visible(before, values, lambda: four.ask("set", values=values, ttl=_TTL, pause=0))
        self._values |= values
        earlier = four.call("get", keys=["user:2"])["values"]["user:2"]
        return Shown(
            f"ready in {_ms(opened['seconds'])}, three peers after {_ms(joined)}; "
            f"its set is read on 1, 2 and 3 after {_ms(max(delays))}",
            {
                "ready_ms": _round_ms(opened["seconds"]),
                "joined_ms": _round_ms(joined),
                "visible_ms_max": _round_ms(max(delays)),
            },
            "what was written before it joined is a miss on 4 until Redis is back" if earlier is None else "",
        )

    def _regain_redis(self) -> Shown:
        self._start_load()
        time.sleep(max(0.0, self._cut_at + _OUTAGE_SECONDS - time.monotonic()))
        waiting = self._fleet.ask_all("reach", mode="redis", peers=SIZE - 1, timeout=_MODE_SECONDS)
        outage = time.monotonic() - self._cut_at
        self._server.restore()
        answers_at = time.monotonic()
        self._reachable(True)
        # An instance may find the server before we do.
        back = max(0.0, self._reached(waiting, "redis", SIZE - 1) - answers_at)
        time.sleep(_LOAD_SECONDS)
        calls, slowest = self._end_load()
        return Shown(
            f"after {outage:.1f} s; mode redis everywhere {_ms(back)} later; {calls:,} calls meanwhile, no error, the slowest {_ms(slowest)}",
            {
                "outage_s": round(outage, 3),
                "back_ms": _round_ms(back),
                "calls": calls,
                "errors": 0,
                "slowest_call_ms": _round_ms(slowest),
            },
        )

    def _check_redis(self) -> Shown:
        namespace, raw = self._fleet.namespace, self._server.raw
        found = raw.values(namespace, list(self._values))
        now = time.monotonic()
        _compare("in Redis itself", self._values, {key: value for key, (value, _) in found.items()})
        ages = []
        for key, (_, remaining) in found.items():
            ages.append(now - self._written_at[key])
            if abs(_TTL - ages[-1] - remaining) > _TTL_SLACK_SECONDS:
                raise Unmet(f"{key} with {_TTL - ages[-1]:.1f} s to live", f"{remaining:.1f} s")
        loads = {key: value for load in self._loads for key, value in load["wrote"].items()}
        _compare(
            "in Redis itself", loads, {key: value for key, (value, _) in raw.values(namespace, list(loads)).items()}
        )
        if risen := raw.values(namespace, self._deleted):
            raise Unmet("no deleted key in Redis", f"{', '.join(risen)} is there")
        for instance in self._fleet.instances:
            self._expect_values(instance, {**self._values, **dict.fromkeys(self._deleted)})
        count = len(self._values) + len(loads)
        left = found["user:2"][1]
        return Shown(
            f"{count} of {count} keys, user:2 with {left:.1f} of its {_TTL:g} s left; "
            f"{len(self._deleted)} deleted keys stayed away; all four read the same",
            {"keys": count, "deleted": len(self._deleted), "ttl_s": _TTL, "remaining_ttl_s": round(left, 3)},
        )

    def _leave(self) -> Shown:
        *others, last = self._fleet.instances
        waiting = [instance.ask("reach", mode="redis", peers=SIZE - 2, timeout=_VISIBLE_SECONDS) for instance in others]
        left_at = time.monotonic()
        last.call("close")
        heard = self._reached(waiting, "redis", SIZE - 2) - left_at
        for number, status in self._fleet.close().items():
            if status != 0:
                raise Unmet(f"instance {number} to end with status 0", f"{status}")
        removed = self._server.raw.clear(self._fleet.namespace)
        if names := self._server.raw.names_with(self._fleet.namespace):
            raise Unmet("no key of the demo left in Redis", f"{len(names)} keys")
        if leftover := self._server.close():
            raise Unmet("nothing left behind", leftover)
        return Shown(
            f"the others knew after {_ms(heard)} that 4 had left; {removed} keys removed, no process left",
            {"goodbye_ms": _round_ms(heard), "keys_removed": removed},
        )

    # -- what the steps have in common

    def _write(self, instance: Instance, values: Mapping[str, Any]) -> list[float]:
        """Write and remember; how long each call took."""
        answer = instance.call("set", values=values, ttl=_TTL, pause=0)
        self._values |= values
        self._written_at |= answer["called"]
        return list(answer["took"].values())

    def _expect_values(self, instance: Instance, values: Mapping[str, Any]) -> list[float]:
        """Read and compare; how long each call took."""
        answer = instance.call("get", keys=list(values))
        _compare(f"on {instance.name}", values, answer["values"])
        return list(answer["took"].values())

    def _until_visible(
        self, readers: Sequence[Instance], values: Mapping[str, Any], act: Callable[[], Pending]
    ) -> list[float]:
        """Let somebody act on keys; how long after its call each key was seen so, on the last reader to see it."""
        watches = [reader.ask("watch", expected=values, timeout=_VISIBLE_SECONDS) for reader in readers]
        for reader in readers:
            reader.call("stats")  # answered after the watch has begun
        called = act().result()["called"]
        self._written_at |= called
        delays: list[float] = []
        answers = [watch.result() for watch in watches]
        for reader, answer in zip(readers, answers, strict=True):
            if missing := values.keys() - answer["seen"].keys():
                key = min(missing)
                raise Unmet(
                    f"{_say(key, values[key])} on {reader.name} within {_VISIBLE_SECONDS:g} s",
                    f"{_say(key, answer['last'].get(key))} ({len(missing)} of {len(values)} keys)",
                )
        for key, at in called.items():
            delays.append(max(answer["seen"][key] for answer in answers) - at)
        return delays

    def _all_reach(self, mode: str, peers: int) -> float:
        """Wait until every instance has this mode and so many peers; when the last one had."""
        return self._reached(self._fleet.ask_all("reach", mode=mode, peers=peers, timeout=_MODE_SECONDS), mode, peers)

    @staticmethod
    def _reached(waiting: Sequence[Pending], mode: str, peers: int) -> float:
        answers = [pending.result() for pending in waiting]
        for number, answer in enumerate(answers, 1):
            if answer["at"] is None:
                raise Unmet(
                    f"instance {number} in mode {mode} with {peers} peers within {_MODE_SECONDS:g} s",
                    f"mode {answer['mode']}, {answer['peers']} peers",
                )
        return max(float(answer["at"]) for answer in answers)

    def _start_load(self) -> None:
        for instance in self._fleet.instances:
            instance.call("start_load", prefix=f"load:{instance.number}")

    def _end_load(self) -> tuple[int, float]:
        """How many calls there were, and the seconds of the slowest."""
        loads = [pending.result() for pending in self._fleet.ask_all("stop_load")]
        for number, load in enumerate(loads, 1):
            if complaints := load["errors"] + load["wrong"]:
                raise Unmet(f"no error and no wrong value on instance {number}", complaints[0])
            if load["slowest"] > _CALL_SECONDS:
                raise Unmet(f"no call of instance {number} longer than {_CALL_SECONDS:g} s", _ms(load["slowest"]))
        self._loads += loads
        return sum(load["calls"] for load in loads), max(load["slowest"] for load in loads)


def _compare(where: str, expected: Mapping[str, Any], seen: Mapping[str, Any]) -> None:
    differing = [key for key, value in expected.items() if seen.get(key) != value]
    if differing:
        key = differing[0]
        more = f" ({len(differing)} of {len(expected)} keys differ)" if len(differing) > 1 else ""
        raise Unmet(f"{_say(key, expected[key])} {where}", f"{_say(key, seen.get(key))}{more}")


def _say(key: str, value: Any) -> str:
    return f"{key} a miss" if value is None else f"{key} = {value!r}"


def _ms(seconds: float) -> str:
    milliseconds = seconds * 1000
    return (
        f"{milliseconds:.2f} ms"
        if milliseconds < 1
        else f"{milliseconds:.1f} ms"
        if milliseconds < 100
        else f"{milliseconds:.0f} ms"
    )


def _round_ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
