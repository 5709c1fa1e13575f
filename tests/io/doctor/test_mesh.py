"""Meshes on loopback that are as they should be, or broken in one way: other instances are real, in the same process."""

from __future__ import annotations

import logging
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from meshcache import MeshCache
from meshcache.doctor import Verdict
from meshcache.doctor.host import judge_receive_buffer
from meshcache.runtime.surroundings import Surroundings
from meshcache.testing.server import RedisServer
from tests.io.doctor.conftest import NAMESPACE, Diagnose
from tests.support import eventually, free_port

pytestmark = pytest.mark.anyio

SECRET = "a secret of more than sixteen characters"
WAIT = 3.0


@pytest.fixture
def ports() -> list[int]:
    return [free_port(socket.SOCK_DGRAM) for _ in range(3)]


@asynccontextmanager
async def gateway(port: int, url: str | None = None, **options: Any) -> AsyncIterator[MeshCache]:
    """One that runs here already, and looks for nobody."""
    given = {"namespace": NAMESPACE, "interfaces": ["127.0.0.1"], "secret": SECRET, "discovery": [], **options}
    async with MeshCache(url, port=port, **given) as cache:
        yield cache


def at(*ports: int) -> list[str]:
    return [f"127.0.0.1:{port}" for port in ports]


async def test_peers_that_are_met(own_server: RedisServer, ports: list[int], diagnose: Diagnose) -> None:
    """And they see it come and go as any other instance, and stay in their mode."""
    async with gateway(ports[0], own_server.url) as one, gateway(ports[1], own_server.url) as two:
        await one.ping()
        diagnosis = await diagnose(
            own_server.url, secret=SECRET, discovery=at(*ports[:2]), port=ports[2], peers_expected=2, wait=WAIT
        )
        assert diagnosis.broken | diagnosis.warned == set()
        for port in ports[:2]:
            assert f"127.0.0.1:{port} (redis)" in diagnosis["peers"].seen
        assert diagnosis["peer-keys"].verdict is Verdict.OK
        assert diagnosis["peer-clocks"].seen.startswith("2 asked, at most 0.0")
        assert one.stats()["outages"] == two.stats()["outages"] == 0
        await eventually(lambda: [peer.port for peer in one.peers] == [ports[1]])  # who met through us; we said goodbye


async def test_peers_that_redis_knows(own_server: RedisServer, ports: list[int], diagnose: Diagnose) -> None:
    async with gateway(ports[0], own_server.url, discovery=["redis"]) as one:
        await eventually(lambda: one.is_available)
        diagnosis = await diagnose(own_server.url, secret=SECRET, discovery=["redis"], peers_expected=1, wait=10.0)
    assert diagnosis.broken | diagnosis.warned == set()
    assert diagnosis["discovery"].seen == "Redis: 1 address"
    assert f"1 peer: 127.0.0.1:{ports[0]} (redis)" in diagnosis["peers"].seen


async def test_a_peer_that_does_not_answer(ports: list[int], diagnose: Diagnose) -> None:
    async with gateway(ports[0]):
        diagnosis = await diagnose(None, secret=SECRET, discovery=at(*ports[:2]), port=ports[2], wait=WAIT)
    assert diagnosis.broken == set()
    assert diagnosis.warned == {"peers"}
    assert f"no answer from 127.0.0.1:{ports[1]}" in diagnosis["peers"].seen
    assert "UDP" in diagnosis["peers"].advice


async def test_nobody_answers(ports: list[int], diagnose: Diagnose) -> None:
    diagnosis = await diagnose(None, secret=SECRET, discovery=at(*ports), port=ports[2], wait=WAIT)
    assert diagnosis.broken == {"peers"}
    assert f"0 peers; no answer from 127.0.0.1:{min(ports[:2])}" in diagnosis["peers"].seen
    assert f"127.0.0.1:{ports[2]}" not in diagnosis["peers"].seen  # itself


async def test_fewer_peers_than_there_should_be(ports: list[int], diagnose: Diagnose) -> None:
    async with gateway(ports[0]):
        diagnosis = await diagnose(
            None, secret=SECRET, discovery=at(ports[0]), port=ports[2], peers_expected=2, wait=1.0
        )
    assert diagnosis.broken == {"peers"}
    assert diagnosis["peers"].seen.endswith("; 2 are expected")


async def test_another_secret(ports: list[int], diagnose: Diagnose) -> None:
    """The one that runs here looks for us with a key that is not ours."""
    other = "another secret, just as long"
    async with gateway(ports[0], secret=other, discovery=at(ports[2])):
        diagnosis = await diagnose(None, secret=SECRET, port=ports[2], wait=WAIT)
    assert diagnosis.broken == {"peer-keys"}
    assert diagnosis["peer-keys"].seen == f"another key is used at 127.0.0.1:{ports[0]}"
    assert "MESHCACHE_SECRET" in diagnosis["peer-keys"].advice
    assert SECRET not in str(diagnosis)
    assert other not in str(diagnosis)


@pytest.mark.parametrize(
    ("ahead", "verdict"), [(5, Verdict.WARN), (-5, Verdict.WARN), (90, Verdict.FAIL), (-90, Verdict.FAIL)]
)
async def test_a_peer_whose_clock_is_wrong(ports: list[int], diagnose: Diagnose, ahead: int, verdict: Verdict) -> None:
    wrong = MeshCache(None, namespace=NAMESPACE, interfaces=["127.0.0.1"], secret=SECRET, discovery=[], port=ports[0])
    wrong._surroundings = lambda: Surroundings(wall_ms=lambda: time.time_ns() // 1_000_000 + ahead * 1000)
    async with wrong:
        diagnosis = await diagnose(
            None, secret=SECRET, discovery=at(ports[0]), port=ports[2], peers_expected=1, wait=WAIT
        )
    finding = diagnosis["peer-clocks"]
    assert finding.verdict is verdict
    told = re.match(rf"127\.0\.0\.1:{ports[0]} is ([0-9.]+) s (ahead of|behind) this host", finding.seen)
    assert told is not None
    assert float(told[1]) == pytest.approx(abs(ahead), abs=0.2)
    assert told[2] == ("ahead of" if ahead > 0 else "behind")
    assert "NTP" in finding.advice


async def test_a_peer_that_does_not_reach_redis(own_server: RedisServer, ports: list[int], diagnose: Diagnose) -> None:
    async with gateway(ports[0], f"redis://127.0.0.1:{free_port()}"):
        diagnosis = await diagnose(
            own_server.url, secret=SECRET, discovery=at(ports[0]), port=ports[2], peers_expected=1, wait=WAIT
        )
    assert diagnosis.broken == set()
    assert f"not in mode redis, though Redis answers here: 127.0.0.1:{ports[0]}" in diagnosis["peers"].seen


async def test_the_port_of_an_instance_that_runs_here(ports: list[int], diagnose: Diagnose) -> None:
    async with gateway(ports[0]):
        diagnosis = await diagnose(
            None, secret=SECRET, discovery=at(ports[0]), port=ports[0], peers_expected=1, wait=WAIT
        )
    assert diagnosis.broken | diagnosis.warned == set()
    assert "is that of an instance which runs here already" in diagnosis["port"].seen


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        yield other.getsockname()[1]


async def test_a_port_that_another_program_has(taken: int, diagnose: Diagnose) -> None:
    diagnosis = await diagnose(None, secret=SECRET, port=taken)
    assert diagnosis.broken == set()
    assert diagnosis.warned == {"port"}
    assert f"UDP port {taken} is taken" in diagnosis["port"].seen
    assert "ss -ulpn" in diagnosis["port"].advice


async def test_addresses_without_a_fixed_port(ports: list[int], diagnose: Diagnose) -> None:
    async with gateway(ports[0]):
        diagnosis = await diagnose(None, secret=SECRET, discovery=at(ports[0]), peers_expected=1, wait=WAIT)
    assert diagnosis.warned == {"port"}
    assert "port=7946" in diagnosis["port"].advice


async def test_an_interface_that_is_not_there(diagnose: Diagnose) -> None:
    diagnosis = await diagnose(None, secret=SECRET, interfaces=["eth-none"])
    assert diagnosis.broken == {"interfaces"}
    assert "'eth-none' is neither an IP address nor the name of a network interface" in diagnosis["interfaces"].seen
    assert diagnosis["peers"].verdict is Verdict.SKIPPED


async def test_a_name_for_discovery_that_is_not_there(diagnose: Diagnose, caplog: pytest.LogCaptureFixture) -> None:
    """What the temporary instance logs is in the finding, and nowhere else."""
    diagnosis = await diagnose(None, secret=SECRET, discovery=[f"dns://{'x' * 70}:7946"], port=0, wait=0.5)
    assert diagnosis.broken == {"discovery"}
    assert f"{'x' * 70} cannot be resolved now" in diagnosis["discovery"].seen
    assert "/etc/resolv.conf" in diagnosis["discovery"].advice
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_source_of_ones_own_that_fails(diagnose: Diagnose) -> None:
    class Broken:
        name = "the phone book"

        async def run(self, announcement: object, found: object) -> None:
            raise OSError("nobody picks up")

    diagnosis = await diagnose(None, secret=SECRET, discovery=[Broken()], wait=0.3)
    assert "discovery" in diagnosis.broken
    assert "the phone book: does not work now (nobody picks up)" in diagnosis["discovery"].seen


@pytest.mark.parametrize(("size", "verdict"), [(4 * 2**20, Verdict.OK), (212_992, Verdict.WARN)])
def test_a_receive_buffer(size: int, verdict: Verdict) -> None:
    finding = judge_receive_buffer(size)
    assert finding.verdict is verdict
    if verdict is Verdict.WARN:
        assert "only 208 KiB" in finding.seen
        assert "sysctl -w net.core.rmem_max=4194304" in finding.advice


async def test_a_socket_that_gets_less_than_it_asks_for(diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a small net.core.rmem_max, which is the whole machine's and cannot be changed for a test."""
    real = socket.socket.setsockopt

    def small(self: socket.socket, level: int, option: int, *value: Any) -> None:
        if level == socket.SOL_SOCKET and option in (socket.SO_RCVBUF, 33):
            value = (65_536,)
        real(self, level, option, *value)

    monkeypatch.setattr(socket.socket, "setsockopt", small, raising=False)
    diagnosis = await diagnose(None, secret=SECRET)
    assert diagnosis["receive-buffer"].verdict is Verdict.WARN
    assert "only 64 KiB" in diagnosis["receive-buffer"].seen
