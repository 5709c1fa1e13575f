"""DNS as a source: real questions to a real server on loopback, where only its port is unusual."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import dns.name
import pytest
from dns.resolver import Resolver

from meshcache.discovery import Announcement, Discovery, Dns, DnsSrv
from tests.io.discovery.name_server import NameServer
from tests.support import eventually

pytestmark = pytest.mark.anyio

ME = Announcement(1, "test", ("127.0.0.1",), 7001)
SERVICE = "_mesh._udp.gateways.test."


class Found(list[tuple[str, int]]):
    """Collects what a source finds, and sees that it is told in the event loop's thread."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def __call__(self, host: str, port: int) -> None:
        assert threading.get_ident() == self._thread
        self.append((host, port))


@asynccontextmanager
async def finding(source: Discovery) -> AsyncIterator[Found]:
    found = Found()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(source.run, ME, found)
        yield found
        tasks.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def quick_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshcache.discovery.names._ROUND_SECONDS", 0.05)
    monkeypatch.setattr("meshcache.discovery.names._RETRY_SECONDS", 0.05)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    with NameServer() as server:

        def resolver() -> Resolver:
            made = Resolver(configure=False)
            made.nameservers = ["127.0.0.1"]
            made.port = server.port
            made.search = [dns.name.from_text("test.")]
            return made

        monkeypatch.setattr("meshcache.discovery.dns._resolver", resolver)
        yield server


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_every_address_of_a_name_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async with finding(Dns("localhost", 7946)) as found:
        await eventually(lambda: len(found) >= 3)
    assert {host for host, _ in found} <= {"127.0.0.1", "::1"}
    assert {port for _, port in found} == {7946}


async def test_a_name_that_is_not_there_is_one_warning_and_asked_for_again(caplog: pytest.LogCaptureFixture) -> None:
    async with finding(Dns("x" * 70, 7946)) as found:
        await eventually(lambda: warnings(caplog))
        await anyio.sleep(0.3)
    assert found == []
    (line,) = warnings(caplog)
    assert line.startswith("x" * 70 + " cannot be resolved now, it is tried again: ")


async def test_hosts_and_ports_of_a_service(server: NameServer) -> None:
    server.zone = {
        SERVICE: {"SRV": ["0 0 7946 a.gateways.test.", "10 5 7947 b.gateways.test."]},
        "a.gateways.test.": {"A": ["10.0.0.1"], "AAAA": ["2001:db8::1"]},
        "b.gateways.test.": {"A": ["10.0.0.2"]},
    }
    expected = {("10.0.0.1", 7946), ("2001:db8::1", 7946), ("10.0.0.2", 7947)}
    async with finding(DnsSrv(SERVICE)) as found:
        await eventually(lambda: set(found) == expected)
        server.zone = {SERVICE: {"SRV": ["0 0 7000 c.gateways.test."]}, "c.gateways.test.": {"A": ["10.0.0.3"]}}
        await eventually(lambda: ("10.0.0.3", 7000) in found)
        found.clear()
        await eventually(lambda: len(found) >= 3)
    assert set(found) == {("10.0.0.3", 7000)}


async def test_a_short_name_is_looked_for_in_the_domains_of_the_system(server: NameServer) -> None:
    server.zone = {SERVICE: {"SRV": ["0 0 7946 a.test."]}, "a.test.": {"A": ["10.0.0.1"]}}
    async with finding(DnsSrv("_mesh._udp.gateways")) as found:
        await eventually(lambda: ("10.0.0.1", 7946) in found)


async def test_a_service_too_large_for_a_datagram(server: NameServer) -> None:
    hosts = {f"pod-{number}.gateways.test.": {"A": [f"10.0.0.{number}"]} for number in range(1, 61)}
    server.zone = {SERVICE: {"SRV": [f"0 0 7946 {host}" for host in hosts]}, **hosts}
    async with finding(DnsSrv(SERVICE)) as found:
        await eventually(lambda: {host for host, _ in found} == {f"10.0.0.{number}" for number in range(1, 61)})
    assert server.over_tcp


async def test_hosts_whose_addresses_were_not_sent_along_are_looked_up(server: NameServer) -> None:
    """And one that is gone hinders no other."""
    server.told_along = False
    server.zone = {
        SERVICE: {"SRV": ["0 0 7946 gone.test.", "0 0 7946 a.test.", "0 0 7947 b.test."]},
        "a.test.": {"A": ["10.0.0.1"]},
        "b.test.": {"AAAA": ["2001:db8::2"]},
    }
    async with finding(DnsSrv(SERVICE)) as found:
        await eventually(lambda: set(found) == {("10.0.0.1", 7946), ("2001:db8::2", 7947)})


async def test_a_service_that_is_decidedly_not_there_is_no_failure(
    server: NameServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.zone = {SERVICE: {"SRV": ["0 0 0 ."]}}
    async with finding(DnsSrv(SERVICE)) as found:
        await anyio.sleep(0.3)
    assert found == []
    assert warnings(caplog) == []


async def test_each_spell_without_an_answer_is_one_warning(
    server: NameServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshcache.discovery.dns._SECONDS", 0.2)
    good: Any = {SERVICE: {"SRV": ["0 0 7946 a.test."]}, "a.test.": {"A": ["10.0.0.1"]}}
    async with finding(DnsSrv(SERVICE)) as found:
        await eventually(lambda: len(warnings(caplog)) == 1)
        assert "does not exist" in warnings(caplog)[0]
        server.zone = good
        await eventually(lambda: found)
        server.silent = True
        await eventually(lambda: len(warnings(caplog)) == 2)
        await anyio.sleep(0.5)
        server.silent = False
        found.clear()
        await eventually(lambda: found)
    assert len(warnings(caplog)) == 2


async def test_a_server_that_does_not_answer_holds_up_no_end(server: NameServer) -> None:
    server.silent = True
    with anyio.fail_after(2):
        async with finding(DnsSrv(SERVICE)):
            await anyio.sleep(0.1)
