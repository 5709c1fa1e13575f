from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import pairwise

import anyio
import anyio.lowlevel
import pytest

from meshcache.errors import ConfigError
from meshcache.interfaces import local_addresses
from meshcache.udp import Address, UdpSocket
from tests.support import free_port

HAS_IPV6 = "::1" in {item.ip for item in local_addresses()}


@pytest.fixture
def near() -> Iterator[UdpSocket]:
    near = UdpSocket.open(["127.0.0.1"], 0)
    yield near
    near.close()


@pytest.fixture
def far() -> Iterator[UdpSocket]:
    far = UdpSocket.open(["127.0.0.1"], 0)
    yield far
    far.close()


async def collect(source: UdpSocket, count: int) -> list[tuple[bytes, Address]]:
    datagrams: list[tuple[bytes, Address]] = []

    def take(arrived: Iterable[tuple[bytes, Address]]) -> None:
        batch = list(arrived)
        assert len(batch) <= 64
        datagrams.extend(batch)
        if len(datagrams) >= count:
            tasks.cancel_scope.cancel()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(source.listen, take)
    return datagrams


def refuse(arrived: Iterable[tuple[bytes, Address]]) -> None:
    assert not list(arrived)


@pytest.mark.anyio
async def test_a_datagram_arrives_with_its_sender(near: UdpSocket, far: UdpSocket) -> None:
    near.send([(b"one", [("127.0.0.1", far.port)]), (b"two", [("127.0.0.1", far.port)])])
    sender = ("127.0.0.1", near.port)
    assert await collect(far, 2) == [(b"one", sender), (b"two", sender)]
    assert near.addresses == ("127.0.0.1",)
    assert not near.everywhere


@pytest.mark.anyio
async def test_one_datagram_goes_to_many(near: UdpSocket, far: UdpSocket) -> None:
    near.send([(b"x", [("127.0.0.1", far.port), ("127.0.0.1", near.port)])])
    assert await collect(far, 1) == [(b"x", ("127.0.0.1", near.port))]
    assert await collect(near, 1) == [(b"x", ("127.0.0.1", near.port))]


@pytest.mark.anyio
async def test_a_burst_waits_in_the_kernel_and_loses_nothing(near: UdpSocket, far: UdpSocket) -> None:
    """More than the 100 that anyio's own sockets keep; no reader runs while they are sent."""
    burst = [(str(number).encode(), [("127.0.0.1", far.port)]) for number in range(500)]
    near.send(burst)
    assert near.send_errors == 0
    assert [data for data, _ in await collect(far, 500)] == [data for data, _ in burst]


@pytest.mark.anyio
async def test_listening_waits_and_can_be_cancelled(near: UdpSocket, far: UdpSocket) -> None:
    with anyio.move_on_after(0.05) as scope:
        await far.listen(refuse)
    assert scope.cancelled_caught
    near.send([(b"later", [("127.0.0.1", far.port)])])
    assert len(await collect(far, 1)) == 1


@pytest.mark.anyio
async def test_what_is_not_taken_now_is_handed_over_after_the_others_had_their_turn(
    near: UdpSocket, far: UdpSocket
) -> None:
    near.send([(str(number).encode(), [("127.0.0.1", far.port)]) for number in range(5)])
    taken: list[bytes] = []
    turns: list[int] = []

    def take(arrived: Iterable[tuple[bytes, Address]]) -> None:
        for data, _ in arrived:
            taken.append(data)
            break

    async def others() -> None:
        while len(taken) < 5:
            turns.append(len(taken))
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(far.listen, take)
            tasks.start_soon(others)
    assert taken == [b"0", b"1", b"2", b"3", b"4"]
    # Trio shuffles those who are ready, so one may be passed over once.
    assert all(later - earlier <= 2 for earlier, later in pairwise([*turns, 5]))


@pytest.mark.anyio
async def test_what_the_taker_raises_ends_the_listening(near: UdpSocket, far: UdpSocket) -> None:
    def take(arrived: Iterable[tuple[bytes, Address]]) -> None:
        for data, _ in arrived:
            raise LookupError(data)

    near.send([(b"x", [("127.0.0.1", far.port)])] * 2)
    with anyio.fail_after(5), pytest.raises(LookupError, match="x"):
        await far.listen(take)
    assert [data for data, _ in await collect(far, 1)] == [b"x"]


@pytest.mark.anyio
async def test_a_peer_that_is_gone_does_not_disturb(near: UdpSocket, far: UdpSocket) -> None:
    """Its host answers with ICMP, which some kernels report at the next read."""
    near.send([(b"x", [("127.0.0.1", free_port(socket.SOCK_DGRAM))])] * 3)
    far.send([(b"alive", [("127.0.0.1", near.port)])])
    assert [data for data, _ in await collect(near, 1)] == [b"alive"]


@pytest.mark.anyio
async def test_an_error_that_the_kernel_reports_at_a_read_is_swallowed(near: UdpSocket, far: UdpSocket) -> None:
    dead = free_port(socket.SOCK_DGRAM)
    near._socket.connect(("127.0.0.1", dead))  # only a connected socket of Linux is told
    near._socket.send(b"x")
    with anyio.move_on_after(0.05) as scope:
        await near.listen(refuse)
    assert scope.cancelled_caught


@pytest.mark.parametrize(
    "address",
    [("::1", 9), ("localhost", 9), ("", 9), ("10.0.0.1", 70_000), ("127.0.0.1", 0), ("not an address", 9)],
)
def test_what_cannot_be_sent_is_counted_and_dropped(near: UdpSocket, address: tuple[str, int]) -> None:
    near.send([(b"x", [address])])
    assert near.send_errors == 1


def test_a_datagram_that_is_too_large_is_counted_and_dropped(near: UdpSocket, far: UdpSocket) -> None:
    near.send([(b"x" * 70_000, [("127.0.0.1", far.port)]), (b"x", [("127.0.0.1", far.port)])])
    assert near.send_errors == 1


def test_a_full_send_buffer_is_counted_and_dropped(near: UdpSocket, far: UdpSocket) -> None:
    class Full:
        family = socket.AF_INET

        def sendto(self, *_: object) -> int:
            raise BlockingIOError

    real, near._socket = near._socket, Full()  # type: ignore[assignment]
    try:
        near.send([(b"x", [("127.0.0.1", far.port)] * 3)])
    finally:
        near._socket = real
    assert near.send_errors == 3


@pytest.mark.anyio
async def test_close_ends_a_task_that_waits(near: UdpSocket) -> None:
    ended = anyio.Event()

    async def wait() -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await near.listen(refuse)
        ended.set()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            near.close()
            await ended.wait()
    near.close()
    with pytest.raises(anyio.ClosedResourceError):
        await near.listen(refuse)


def test_close_needs_no_event_loop(near: UdpSocket) -> None:
    near.close()
    near.send([(b"x", [("127.0.0.1", 9)])])
    assert near.send_errors == 1


def test_the_receive_buffer_is_raised(near: UdpSocket) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        assert near.receive_buffer >= plain.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert near.receive_buffer == near._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


@pytest.fixture
async def everywhere(anyio_backend: object) -> AsyncIterator[UdpSocket]:
    everywhere = UdpSocket.open(None, 0)
    yield everywhere
    everywhere.close()


@pytest.mark.anyio
async def test_every_interface_speaks_ipv4_with_plain_addresses(everywhere: UdpSocket, near: UdpSocket) -> None:
    assert everywhere.everywhere
    near.send([(b"ping", [("127.0.0.1", everywhere.port)])])
    [(data, sender)] = await collect(everywhere, 1)
    assert (data, sender) == (b"ping", ("127.0.0.1", near.port))
    everywhere.send([(b"pong", [sender])])
    assert await collect(near, 1) == [(b"pong", ("127.0.0.1", everywhere.port))]


@pytest.mark.anyio
@pytest.mark.skipif(not HAS_IPV6, reason="no IPv6 on this host")
async def test_every_interface_speaks_ipv6_with_the_same_socket(everywhere: UdpSocket) -> None:
    six = UdpSocket.open(["::1"], 0)
    try:
        assert six.addresses == ("::1",)
        six.send([(b"ping", [("::1", everywhere.port)])])
        [(data, sender)] = await collect(everywhere, 1)
        assert (data, sender) == (b"ping", ("::1", six.port))
        everywhere.send([(b"pong", [sender])])
        assert await collect(six, 1) == [(b"pong", ("::1", everywhere.port))]
    finally:
        six.close()


def test_every_interface_tells_what_others_can_reach(everywhere: UdpSocket) -> None:
    assert everywhere.addresses
    assert not [ip for ip in everywhere.addresses if ip.startswith(("fe80", "0.", "::ffff"))]
    if any(not item.is_loopback for item in local_addresses()):
        assert "127.0.0.1" not in everywhere.addresses


@pytest.mark.anyio
async def test_several_addresses_share_one_socket(near: UdpSocket) -> None:
    several = UdpSocket.open(["127.0.0.1", "127.0.0.2"], 0)
    try:
        assert several.addresses == ("127.0.0.1", "127.0.0.2")
        near.send([(b"x", [(ip, several.port) for ip in several.addresses])])
        assert len(await collect(several, 2)) == 2
    finally:
        several.close()


def test_an_interface_can_be_given_by_name() -> None:
    name = next(item.interface for item in local_addresses() if item.ip == "127.0.0.1")
    named = UdpSocket.open([name], 0)
    try:
        assert "127.0.0.1" in named.addresses
    finally:
        named.close()


@pytest.mark.parametrize("wanted", ["eth-none", "203.0.113.9", "fe80::1", "nonsense:1"])
def test_an_unknown_interface_is_named_with_those_that_are_there(wanted: str) -> None:
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1") as caught:
        UdpSocket.open(["127.0.0.1", wanted], 0)
    assert caught.value.option == "interfaces"
    assert wanted in str(caught.value)


@pytest.mark.parametrize("interfaces", [["127.0.0.1"], None])
def test_a_port_that_is_taken_is_named_with_the_fix(near: UdpSocket, interfaces: list[str] | None) -> None:
    with pytest.raises(ConfigError, match=f"{near.port} .* is taken .* 0 for any") as caught:
        UdpSocket.open(interfaces, near.port)
    assert caught.value.option == "port"
