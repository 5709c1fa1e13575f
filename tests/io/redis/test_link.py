"""The link against real servers: what it answers, how long it waits, and what it survives, on every event loop."""

from __future__ import annotations

import gc
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest

from meshcache.errors import RedisCommandError, Unavailable
from meshcache.redis.link import Link, Server
from meshcache.redis.probe import end_connections, end_connections_of
from meshcache.testing.proxy import OutageProxy
from meshcache.testing.server import RedisServer
from tests.support import eventually, free_port

pytestmark = pytest.mark.anyio

TIMEOUT = 0.25
SCHEDULING = 0.15  # what a busy machine may add to the promise; far below a second TIMEOUT

Opened = Callable[..., Link]


async def outage(call: Callable[[], Awaitable[Any]], *, timed_out: bool) -> tuple[Unavailable, float]:
    """The call ends as an outage; the outage, and how long it took."""
    start = anyio.current_time()
    with pytest.raises(Unavailable) as caught:
        await call()
    took = anyio.current_time() - start
    assert caught.value.timed_out is timed_out, caught.value.cause
    assert "\n" not in caught.value.cause
    return caught.value, took


def clients(server: RedisServer) -> int:
    """How many connections others have to the server."""
    return len(server.client().client_list()) - 1


# -- what it answers


async def test_a_command_and_its_reply(link: Link) -> None:
    assert await link.execute("SET", b"k", b"\x00\xff", "PX", 60_000) == b"OK"
    assert await link.execute("GET", "k") == b"\x00\xff"
    assert await link.execute("GET", "none") is None
    assert await link.execute("EXISTS", "k", "k") == 2
    assert await link.execute("MGET", "k", "none") == [b"\x00\xff", None]
    assert link.in_flight == 0


async def test_a_large_value_passes_both_ways(link: Link) -> None:
    value = bytes(range(256)) * 40_000
    await link.execute("SET", "k", value)
    assert await link.execute("GET", "k") == value


async def test_many_commands_in_order_with_a_refused_one_in_its_place(link: Link) -> None:
    replies = await link.execute_many(
        [("SET", "k", "v"), ("LPUSH", "k", "x"), *(("INCRBY", "n", i) for i in range(1000)), ("GET", "k")]
    )
    assert replies[0] == b"OK"
    assert isinstance(replies[1], RedisCommandError)
    assert replies[2:-1] == list(itertools.accumulate(range(1000)))
    assert replies[-1] == b"v"
    assert await link.execute_many([]) == []


async def test_a_hundred_calls_at_once_share_the_connections(server: RedisServer, opened: Opened) -> None:
    link = opened(server.url, connections=7)
    found: dict[int, bytes] = {}

    async def one(i: int) -> None:
        for _ in range(5):
            await link.execute("SET", f"k{i}", b"%d" % i)
            found[i] = await link.execute("GET", f"k{i}")

    async with anyio.create_task_group() as tasks:
        for i in range(100):
            tasks.start_soon(one, i)
    assert found == {i: b"%d" % i for i in range(100)}
    assert 1 <= clients(server) <= 7


async def test_in_flight_counts_calls_under_way(own_server: RedisServer, opened: Opened) -> None:
    link = opened(own_server.url, connections=2)
    await link.execute("PING")
    own_server.pause()
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(link.execute, "PING")
        await eventually(lambda: link.in_flight == 5)
        own_server.resume()
    assert link.in_flight == 0


# -- how long it waits


async def test_a_frozen_server_costs_the_timeout_and_no_more(own_server: RedisServer, opened: Opened) -> None:
    link = opened(own_server.url, timeout=TIMEOUT)
    await link.execute("SET", "k", "v")
    own_server.pause()
    for _ in range(3):  # on an idle connection, then on fresh ones that the kernel accepts
        cause, took = await outage(lambda: link.execute("GET", "k"), timed_out=True)
        assert TIMEOUT * 0.9 <= took < TIMEOUT + SCHEDULING
        assert cause.cause == f"127.0.0.1:{own_server.port} did not answer within 0.25 s"
    own_server.resume()
    assert await link.execute("GET", "k") == b"v"
    # What was sent and not answered is not read by anybody else: replies still belong to their commands.
    assert [await link.execute("ECHO", str(i)) for i in range(10)] == [b"%d" % i for i in range(10)]


async def test_a_silent_network_costs_the_timeout_and_no_more(server: RedisServer, opened: Opened) -> None:
    with OutageProxy(server.host, server.port) as proxy:
        link = opened(proxy.url, timeout=TIMEOUT)
        await link.execute("SET", "k", "v")
        proxy.silence()
        for call in (lambda: link.execute("GET", "k"), lambda: link.execute_many([("GET", "k")] * 10)):
            _, took = await outage(call, timed_out=True)
            assert TIMEOUT * 0.9 <= took < TIMEOUT + SCHEDULING
        proxy.forward()
        assert await link.execute("GET", "k") == b"v"


async def test_waiting_for_a_free_connection_counts(own_server: RedisServer, opened: Opened) -> None:
    link = opened(own_server.url, timeout=TIMEOUT, connections=1)
    await link.execute("PING")
    own_server.pause()
    took: list[float] = []

    async def one() -> None:
        took.append((await outage(lambda: link.execute("PING"), timed_out=True))[1])

    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(one)
    assert len(took) == 100
    assert max(took) < TIMEOUT + 2 * SCHEDULING
    own_server.resume()
    await eventually(lambda: answers(link))


async def answers(link: Link) -> bool:
    try:
        return await link.execute("PING") == b"PONG"
    except Unavailable:
        return False


async def test_a_request_too_large_for_the_wire_times_out_as_well(own_server: RedisServer, opened: Opened) -> None:
    link = opened(own_server.url, timeout=TIMEOUT)
    await link.execute("PING")
    own_server.pause()
    value = b"x" * 16_000_000  # no socket buffer takes that
    _, took = await outage(lambda: link.execute("SET", "k", value), timed_out=True)
    assert took < TIMEOUT + 2 * SCHEDULING
    own_server.resume()
    await eventually(lambda: answers(link))
    await eventually(lambda: clients(own_server) <= 1, message="the connection with half a request is gone")


async def test_connecting_counts(opened: Opened) -> None:
    """A host that drops packets: the queue of a listener that accepts nobody is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        fillers = []
        try:
            for _ in range(4):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(address)
                fillers.append(filler)
            link = opened(f"redis://127.0.0.1:{address[1]}/0", timeout=TIMEOUT)
            _, took = await outage(lambda: link.execute("PING"), timed_out=True)
            assert took < TIMEOUT + SCHEDULING
        finally:
            for filler in fillers:
                filler.close()


async def test_authentication_counts(opened: Opened) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts, and never says a word
        link = opened(f"redis://:secret@127.0.0.1:{listener.getsockname()[1]}/1", timeout=TIMEOUT)
        cause, took = await outage(lambda: link.execute("PING"), timed_out=True)
        assert took < TIMEOUT + SCHEDULING
        assert "secret" not in cause.cause


async def test_name_resolution_counts(monkeypatch: pytest.MonkeyPatch, opened: Opened, anyio_backend: Any) -> None:
    if anyio_backend[1].get("use_uvloop"):
        pytest.skip("uvloop resolves names in C; nothing to slow down there")
    hang = __import__("threading").Event()

    def slow(*_: Any, **__: Any) -> Any:
        hang.wait(5)
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    link = opened("redis://redis.example:6379/0", timeout=TIMEOUT)
    try:
        _, took = await outage(lambda: link.execute("PING"), timed_out=True)
    finally:
        hang.set()
    assert took < TIMEOUT + SCHEDULING


# -- connections that break


async def test_refused(opened: Opened) -> None:
    port = free_port()
    link = opened(f"redis://127.0.0.1:{port}/0", timeout=TIMEOUT)
    cause, took = await outage(lambda: link.execute("PING"), timed_out=False)
    assert cause.cause == f"127.0.0.1:{port}: connection refused"
    assert took < SCHEDULING


async def test_refused_by_every_address_of_a_name(opened: Opened) -> None:
    link = opened(f"redis://localhost:{free_port()}/0", timeout=TIMEOUT)
    cause, took = await outage(lambda: link.execute("PING"), timed_out=False)
    assert "refused" in cause.cause or "Connect call failed" in cause.cause
    assert took < SCHEDULING


async def test_a_reset_of_idle_connections_is_not_noticed(server: RedisServer, opened: Opened) -> None:
    with OutageProxy(server.host, server.port) as proxy:
        link = opened(proxy.url)
        await link.execute("SET", "k", "v")
        for _ in range(5):
            proxy.reset()
            assert await link.execute("GET", "k") == b"v"


async def test_a_reset_in_mid_request_is_mended_by_the_second_try(own_server: RedisServer, opened: Opened) -> None:
    with OutageProxy(own_server.host, own_server.port) as proxy:
        link = opened(proxy.url)
        await link.execute("SET", "k", "v")
        own_server.pause()
        got: list[bytes] = []

        async def read() -> None:
            got.append(await link.execute("GET", "k"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await eventually(lambda: link.in_flight == 1)
            await anyio.sleep(0.02)  # not a matter of the outcome: the request is most likely on its way now
            proxy.reset()
            own_server.resume()
        assert got == [b"v"]


async def test_both_tries_are_reset(opened: Opened) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        seen = 0

        async def hang_up(stream: anyio.abc.SocketStream) -> None:
            nonlocal seen
            async with stream:
                await stream.receive()
                seen += 1

        link = opened(f"redis://127.0.0.1:{port}/0", timeout=TIMEOUT)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, hang_up)
            cause, took = await outage(lambda: link.execute("PING"), timed_out=False)
            tasks.cancel_scope.cancel()
    assert seen == 2
    assert took < SCHEDULING
    assert cause.cause in {f"127.0.0.1:{port}: connection closed", f"127.0.0.1:{port}: connection reset"}


async def test_a_restart_leaves_no_stale_connection_behind(own_server: RedisServer, opened: Opened) -> None:
    link = opened(own_server.url, connections=100)

    async def burst(*command: str) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(link.execute, *command)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(burst, "BLPOP", "none", "0")  # each needs a connection of its own
        await eventually(lambda: clients(own_server) == 100)
        own_server.client().rpush("none", *range(100))
    own_server.restart()
    for _ in range(100):  # each with one second try at most, so a stale one after another would be seen
        assert await link.execute("PING") == b"PONG"
    assert clients(own_server) == 1
    await burst("PING")
    own_server.restart()
    await burst("PING")  # all at once on stale connections
    own_server.kill()
    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(lambda: outage(lambda: link.execute("PING"), timed_out=False))
    own_server.start()
    assert await link.execute("PING") == b"PONG"


async def test_a_restart_in_mid_request(own_server: RedisServer, opened: Opened) -> None:
    link = opened(own_server.url)
    await link.execute("PING")
    own_server.pause()
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(lambda: outage(lambda: link.execute("PING"), timed_out=False))
        await eventually(lambda: link.in_flight == 20)
        own_server.kill()


async def test_a_server_that_was_started_anew_is_not_the_one_expected(own_server: RedisServer, opened: Opened) -> None:
    link = opened(own_server.url)
    link.identity.expected = Server.of(await link.execute("INFO", "server")).run_id
    own_server.kill()
    own_server.start()
    with pytest.raises(Unavailable, match="started anew"):
        await link.execute("SET", "key", "lost with the next restart, who knows")
    link.identity.expected = None
    assert await link.execute("EXISTS", "key") == 0


async def test_a_connection_given_up_can_be_named_and_killed(own_server: RedisServer, opened: Opened) -> None:
    link, other = opened(own_server.url, timeout=0.1), opened(own_server.url)
    await other.execute("CLIENT", "PAUSE", 10_000, "WRITE")
    await outage(lambda: link.execute("SET", "key", "too late"), timed_out=True)
    assert link.identity.abandoned
    await end_connections(other, link.identity.abandoned)
    await other.execute("CLIENT", "UNPAUSE")
    assert await other.execute("EXISTS", "key") == 0


async def test_all_connections_of_a_name_can_be_ended(own_server: RedisServer, opened: Opened) -> None:
    gone, namesake, other = opened(own_server.url), opened(own_server.url), opened(own_server.url)
    gone.identity.client_name = namesake.identity.client_name = "meshcache:gone"
    other.identity.client_name = "meshcache:other"
    own = await other.execute("CLIENT", "ID")
    assert await other.execute("CLIENT", "GETNAME") == b"meshcache:other"
    for link in (gone, namesake):
        await link.execute("PING")

    def names() -> list[str]:
        return sorted(client["name"] for client in own_server.client().client_list() if client["name"])

    await end_connections_of(other, {"meshcache:gone": 3600.0})
    assert names() == ["meshcache:gone", "meshcache:gone", "meshcache:other"]  # none is so old
    await end_connections_of(other, {"meshcache:gone": 0.0, "meshcache:nobody": 0.0})
    assert names() == ["meshcache:other"]
    assert await other.execute("CLIENT", "ID") == own


class Impostor:
    """Answers every request with "+number" of the connection, and misbehaves on demand."""

    def __init__(self) -> None:
        self.connections = 0
        self.dead = 0  # connections up to this number end at their next request
        self.unasked = b""  # sent after each reply
        self.requests = 0
        self.greets = anyio.Event()  # no connection is ready before
        self.greets.set()
        self.answers = anyio.Event()  # nothing is answered before
        self.answers.set()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """Its URL."""
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listener.serve, self._connection)
            yield f"redis://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/0"
            tasks.cancel_scope.cancel()

    async def _connection(self, stream: anyio.abc.SocketStream) -> None:
        self.connections += 1
        number = self.connections
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await stream.receive()
                await self.greets.wait()
                await stream.send(b":%d\r\n$0\r\n\r\n" % number)  # to CLIENT ID and INFO
                while True:
                    await stream.receive()
                    self.requests += 1
                    await self.answers.wait()
                    if number <= self.dead:
                        return
                    await stream.send(b"+%d\r\n" % number + self.unasked)


async def test_idle_connections_that_only_look_alive_are_given_up_with_the_first(opened: Opened) -> None:
    """A restart behind a proxy or a NAT: each of them breaks only when it is used."""
    impostor = Impostor()
    async with impostor.serve() as url:
        link = opened(url, connections=20)
        impostor.answers = anyio.Event()
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(link.execute, "PING")
            await eventually(lambda: impostor.connections == 20)
            impostor.answers.set()
        impostor.dead = before = impostor.connections
        for _ in range(before):
            assert int(await link.execute("PING")) == before + 1
        await link.aclose()


async def test_a_reply_that_nobody_asked_for_is_nobodys_reply(opened: Opened) -> None:
    impostor = Impostor()
    async with impostor.serve() as url:
        link = opened(url, connections=1)
        for unasked in (b"+in the same packet\r\n", b"", b"$100\r\nhalf", b""):
            impostor.unasked = unasked
            for _ in range(3):
                assert (await link.execute("PING")).isdigit()
        await link.aclose()


async def test_nothing_is_sent_any_more_once_the_call_was_given_up(opened: Opened) -> None:
    """The connection of the second try is ready only when nobody waits any more: what it sent then, nobody would know of."""
    impostor = Impostor()
    impostor.dead = 1
    async with impostor.serve() as url:
        link = opened(url, timeout=4 * TIMEOUT)
        impostor.answers = anyio.Event()
        impostor.greets = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: outage(lambda: link.execute("PING"), timed_out=True))
            impostor.greets.set()
            await eventually(lambda: impostor.requests == 1)
            impostor.greets = anyio.Event()
            await anyio.sleep(2 * TIMEOUT)
            impostor.answers.set()  # which ends the first connection
        await eventually(lambda: impostor.connections == 2)
        impostor.greets.set()
        await anyio.sleep(TIMEOUT)
        assert impostor.requests == 1
        await link.aclose()


async def test_bytes_that_are_not_redis_protocol(opened: Opened) -> None:
    impostor = Impostor()
    impostor.unasked = b"HTTP/1.1 400 Bad Request\r\n\r\n"
    async with impostor.serve() as url:
        link = opened(url)
        with pytest.raises(Unavailable):
            await link.execute_many([("PING",), ("PING",)])
        await link.aclose()


# -- the caller's cancellation


async def test_cancellation_passes_through_and_leaks_nothing(own_server: RedisServer, opened: Opened) -> None:
    link = opened(own_server.url, timeout=1.0, connections=3)
    await link.execute("PING")
    own_server.pause()
    for _ in range(5):
        with anyio.move_on_after(0.02) as scope:
            async with anyio.create_task_group() as tasks:
                for _ in range(10):
                    tasks.start_soon(link.execute, "BLPOP", "none", 0)
        assert scope.cancelled_caught
        assert link.in_flight == 0
    own_server.resume()
    assert await link.execute("ECHO", "mine") == b"mine"
    gc.collect()


async def test_cancellation_of_a_call_that_waits_for_its_reply(server: RedisServer, opened: Opened) -> None:
    link = opened(server.url, connections=1)
    with anyio.move_on_after(0.03) as scope:
        await link.execute("BLPOP", "none", 1)
    assert scope.cancelled_caught
    # On trio the abandoned thread may keep the only connection until its reply is there: never more than that.
    assert await link.execute("ECHO", "mine") == b"mine"
    await eventually(lambda: clients(server) <= 1)


async def test_cancellation_while_connecting(opened: Opened) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        link = opened(f"redis://:pw@127.0.0.1:{listener.getsockname()[1]}/1", timeout=0.5)
        for delay in (0, 0.001, 0.01):
            with anyio.move_on_after(delay) as scope:
                await link.execute("PING")
            assert scope.cancelled_caught
    gc.collect()


async def test_cancellation_at_the_moment_of_the_timeout_is_one_or_the_other(
    own_server: RedisServer, opened: Opened
) -> None:
    link = opened(own_server.url, timeout=0.02)
    own_server.pause()
    for _ in range(30):
        with anyio.move_on_after(0.02) as scope:
            with suppress(Unavailable):
                await link.execute("PING")
            await anyio.sleep(1)  # a cancellation that was swallowed would let this sleep for a second
        assert scope.cancelled_caught
    assert link.in_flight == 0


# -- closing


async def test_after_close_calls_are_unavailable_and_nothing_is_open(server: RedisServer, opened: Opened) -> None:
    link = opened(server.url)
    await link.execute("PING")
    before = clients(server)
    await link.aclose()
    await link.aclose()
    await eventually(lambda: clients(server) < before)
    with pytest.raises(Unavailable, match="closed"):
        await link.execute("PING")


async def test_closing_lets_calls_under_way_end(server: RedisServer, opened: Opened) -> None:
    link = opened(server.url)
    got: list[Any] = []

    async def wait() -> None:
        got.append(await link.execute("BLPOP", "list", 3))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await eventually(lambda: any(client["cmd"] == "blpop" for client in server.client().client_list()))
        await link.aclose()
        server.client().rpush("list", "x")
    assert got == [[b"list", b"x"]]
    await eventually(lambda: clients(server) == 0)


async def test_nothing_is_opened_before_the_first_call(server: RedisServer, opened: Opened) -> None:
    opened(server.url)
    await anyio.sleep(0)
    assert clients(server) == 0
