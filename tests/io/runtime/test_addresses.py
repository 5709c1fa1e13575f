"""What an instance tells Redis of where it can be reached follows the host's network."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest

from meshcache.interfaces import LocalAddress
from meshcache.runtime.addresses import OwnAddresses
from meshcache.udp import UdpSocket
from tests.support import eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
def everywhere() -> Iterator[UdpSocket]:
    opened = UdpSocket.open(None, 0)
    yield opened
    opened.close()


async def test_an_address_that_changes_is_followed(everywhere: UdpSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    here = [LocalAddress("eth0", 2, "10.9.0.7")]
    monkeypatch.setattr("meshcache.runtime.addresses._LOOK_SECONDS", 0.01)
    monkeypatch.setattr("meshcache.runtime.addresses.usable_addresses", lambda interfaces: tuple(here))
    own = OwnAddresses(everywhere, None)
    assert own() == tuple((ip, everywhere.port) for ip in everywhere.addresses)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(own.run)
        await eventually(lambda: own() == (("10.9.0.7", everywhere.port),))
        here[:] = [LocalAddress("eth0", 2, "10.9.0.8")]
        await eventually(lambda: own() == (("10.9.0.8", everywhere.port),))
        tasks.cancel_scope.cancel()


async def test_a_socket_that_is_bound_to_its_address_stays_there() -> None:
    bound = UdpSocket.open(["127.0.0.1"], 0)
    try:
        own = OwnAddresses(bound, ["127.0.0.1"])
        with anyio.fail_after(1):
            await own.run()
        assert own() == (("127.0.0.1", bound.port),)
    finally:
        bound.close()
