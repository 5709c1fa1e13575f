"""What the mesh promises, between processes whose network loses datagrams, parts and heals, without Redis.

By default the loads are short; with ``MESHCACHE_TEST_FULL=1`` they are as long as when their figures were taken.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Sequence

import pytest

from tests.mesh_real.mesh import FULL, Mesh

pytestmark = pytest.mark.netns

Report = Callable[[str], None]


def percentile(values: Sequence[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def test_all_agree_though_30_percent_is_lost(three: Mesh, report: Report) -> None:
    for host in three.hosts:
        host.lose(30)
    sets = 5000 if FULL else 1000
    loads = [pending.result(120) for pending in three.loads(0, 1, 2, sets=sets, rate=200)]
    took = three.agree(max(load["done"] for load in loads), within=3)
    values = three.everything()
    deleted = {key for load in loads for key in load["deleted"]}
    assert len(deleted) > sets // 10 * 2
    assert not deleted & values.keys(), "a deleted key lives"
    for load in loads:
        wrong = {key: values.get(key) for key, value in load["wrote"].items() if values.get(key) != value}
        assert not wrong, f"{len(wrong)} writes are lost"
    counters = three.counters()
    assert all(counter["repeats_out"] for counter in counters), "nothing had to be repaired"
    report(
        f"30 % loss: {len(values)} keys, all agree {took:.2f} s after the last write; "
        f"sent again {[counter['repeats_out'] for counter in counters]}, lost for good "
        f"{[counter['numbers_lost'] for counter in counters]}; behind the rate by {max(x['lag'] for x in loads):.2f} s"
    )


def test_all_agree_when_a_partition_heals(three: Mesh, report: Report) -> None:
    seconds = 20 if FULL else 8
    three.partition([0, 1], [2])
    began = time.monotonic()
    loads = [pending.result(120) for pending in three.loads(0, 1, 2, sets=round((seconds - 1) * 91), rate=100)]
    peers = [host.instance.call("stats")["peers"] for host in three.hosts]
    assert peers == [1, 1, 0], "they were parted long enough to notice"
    time.sleep(max(0.0, began + seconds - time.monotonic()))  # the length of the partition is the subject
    took = three.agree(three.heal(), within=5)
    values = three.everything()
    deleted = {key for load in loads for key in load["deleted"]}
    assert not deleted & values.keys(), "a deleted key lives"
    for load in loads:
        assert not [key for key, value in load["wrote"].items() if values.get(key) != value], "a write is lost"
    report(f"partition of {seconds} s: {len(values)} keys, all agree {took:.2f} s after the heal")


def test_one_that_was_stopped_catches_up_and_undoes_nothing(three: Mesh, report: Report) -> None:
    seconds = 15 if FULL else 8
    one, two, sleeper = (host.instance for host in three.hosts)
    # So much at once that a part of it is still to be sent when the process stops.
    sleeper.call("fill", prefix="contended", count=20_000, size=200)
    os.kill(sleeper.pid, signal.SIGSTOP)
    try:
        stopped = time.monotonic()
        before = two.call("digest")["entries"]
        newer = {f"contended:{n}": f"newer {n}" for n in range(0, 20_000, 200)}
        gone = [f"contended:{n}" for n in range(1, 20_000, 200)]
        one.call("set", values=newer, ttl=600, pause=0)
        two.call("delete", keys=gone, pause=0)
        loads = [pending.result(120) for pending in three.loads(0, 1, sets=round((seconds - 2) * 91), rate=100)]
        time.sleep(max(0.0, stopped + seconds - time.monotonic()))  # the length of the stop is the subject
        assert one.call("stats")["peers"] == 1, "it was stopped long enough to be missed"
    finally:
        os.kill(sleeper.pid, signal.SIGCONT)
    took = three.agree(time.monotonic(), within=5)
    values = three.everything()
    assert {key: values.get(key) for key in newer} == newer, "an older value is back"
    assert not [key for key in gone if key in values], "a deleted key lives"
    for load in loads:
        assert not [key for key, value in load["wrote"].items() if values.get(key) != value], "a write is lost"
    report(
        f"stopped for {seconds} s with {20_000 - before} of 20000 writes unsent: all agree {took:.2f} s after it went on"
    )


def test_a_late_joiner_is_soon_complete_and_disturbs_nobody(two_of_three: Mesh, report: Report) -> None:
    mesh, entries = two_of_three, 10_000
    old = [host.instance for host in mesh.hosts[:2]]
    old[0].call("fill", prefix="old", count=entries, size=200)
    assert old[1].call("complete", entries=entries, timeout=10)["at"]
    mesh.agree(time.monotonic(), within=5)
    quiet = [pending.result() for pending in [each.ask("gets", keys=["old:1"], seconds=1, pause=0.001) for each in old]]
    keys = [f"old:{n}" for n in range(0, entries, 97)]
    watched = [each.ask("gets", keys=keys, seconds=6, pause=0.001) for each in old]
    opened = mesh.add()
    complete = mesh.hosts[2].instance.call("complete", entries=entries, timeout=10)
    assert complete["at"], complete
    took = complete["at"] - opened
    gets = [pending.result() for pending in watched]
    mesh.agree(time.monotonic(), within=5)
    assert not any(get["missed"] for get in gets)
    p99 = [percentile(get["took"], 99) * 1000 for get in gets]
    late = [percentile(get["late"], 99) * 1000 for get in gets]
    quiet_late = [percentile(get["late"], 99) * 1000 for get in quiet]
    report(
        f"late joiner: {entries} entries complete {took:.2f} s after it was opened; meanwhile a get elsewhere took "
        f"p99 {p99[0]:.3f} and {p99[1]:.3f} ms, behind its due time {late[0]:.2f} and {late[1]:.2f} ms "
        f"(with nobody joining {quiet_late[0]:.2f} and {quiet_late[1]:.2f})"
    )
    assert took <= 5
    assert max(p99) < 2
