from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from meshcache.discovery import Announcement, Static
from tests.support import eventually

ME = Announcement(1, "test", ("127.0.0.1",), 7001)


class Found(list[tuple[str, int]]):
    """Collects what a source finds, and sees that it is told in the event loop's thread."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def __call__(self, host: str, port: int) -> None:
        assert threading.get_ident() == self._thread
        self.append((host, port))


@pytest.fixture
def quick_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshcache.discovery.static._ROUND_SECONDS", 0.05)
    monkeypatch.setattr("meshcache.discovery.names._ROUND_SECONDS", 0.05)
    monkeypatch.setattr("meshcache.discovery.names._RETRY_SECONDS", 0.05)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A resolver that knows these names, and waits where the answer is an event."""
    known: dict[str, Any] = {}
    real = socket.getaddrinfo

    def resolve(host: str, port: int, **options: Any) -> Any:
        answer = known.get(host)
        if isinstance(answer, threading.Event):
            answer.wait()
            answer = None
        if answer is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [item for ip in answer for item in real(ip, port, type=socket.SOCK_DGRAM)]

    monkeypatch.setattr("meshcache.discovery.names.socket.getaddrinfo", resolve)
    yield known
    for answer in known.values():
        if isinstance(answer, threading.Event):
            answer.set()


@pytest.mark.anyio
async def test_an_address_is_found_at_once_and_again(quick_rounds: None) -> None:
    found = Found()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Static(["127.0.0.1:7946", "[::1]:7947"]).run, ME, found)
        await eventually(lambda: len(found) >= 4)
        tasks.cancel_scope.cancel()
    assert found[:4] == [("127.0.0.1", 7946), ("::1", 7947)] * 2


@pytest.mark.anyio
async def test_a_name_stands_for_all_its_addresses_of_the_time(quick_rounds: None, names: dict[str, Any]) -> None:
    names["gateways"] = ["10.0.0.1", "10.0.0.2"]
    found = Found()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Static(["gateways:7946"]).run, ME, found)
        await eventually(lambda: {("10.0.0.1", 7946), ("10.0.0.2", 7946)} <= set(found))
        names["gateways"] = ["10.0.0.3"]
        await eventually(lambda: ("10.0.0.3", 7946) in found)
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_the_real_resolver_knows_localhost() -> None:
    found = Found()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Static(["localhost:7946"]).run, ME, found)
        await eventually(lambda: found)
        tasks.cancel_scope.cancel()
    assert {host for host, _ in found} <= {"127.0.0.1", "::1"}


@pytest.mark.anyio
async def test_a_name_that_fails_is_warned_of_once_and_hinders_no_other(
    quick_rounds: None, names: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    names["good"] = ["10.0.0.1"]
    found = Found()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Static(["bad:7946", "x" * 70 + ":7946", "good:7946"]).run, ME, found)
        await eventually(lambda: len(found) >= 5)
        names["bad"] = ["10.0.0.2"]
        await eventually(lambda: ("10.0.0.2", 7946) in found)
        tasks.cancel_scope.cancel()
    warned = [record for record in caplog.records if record.name == "meshcache" and record.levelno == logging.WARNING]
    assert len([record for record in warned if record.getMessage().startswith("bad ")]) == 1


@pytest.mark.anyio
async def test_a_resolver_that_hangs_hinders_neither_others_nor_the_end(
    quick_rounds: None, names: dict[str, Any]
) -> None:
    names["hangs"] = threading.Event()
    names["good"] = ["10.0.0.1"]
    found = Found()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Static(["hangs:7946", "good:7946", "127.0.0.1:7946"]).run, ME, found)
            await eventually(lambda: found.count(("10.0.0.1", 7946)) >= 2 and ("127.0.0.1", 7946) in found)
            tasks.cancel_scope.cancel()
    names["hangs"].set()
