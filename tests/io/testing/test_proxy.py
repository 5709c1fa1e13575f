from __future__ import annotations

import gc
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import redis

from meshcache.testing.proxy import OutageProxy
from meshcache.testing.server import RedisServer
from tests.support import eventually_sync, free_port


class Echo:
    """A server that sends back what it gets, and the end as well."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.received = bytearray()
        self.accepted = 0
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65_536):
                    self.received += data
                    connection.sendall(data)
            except OSError:
                pass

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self._threads:
            thread.join(5)


@pytest.fixture
def echo() -> Iterator[Echo]:
    echo = Echo()
    yield echo
    echo.close()


@pytest.fixture
def wire(echo: Echo) -> Iterator[OutageProxy]:
    with OutageProxy("127.0.0.1", echo.port) as wire:
        yield wire


@contextmanager
def connected(wire: OutageProxy, timeout: float = 5) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", wire.port), timeout=timeout) as connection:
        yield connection


def ask(connection: socket.socket, text: bytes) -> bytes:
    connection.sendall(text)
    answer = b""
    while len(answer) < len(text):
        chunk = connection.recv(65_536)
        if not chunk:
            break
        answer += chunk
    return answer


def silent(connection: socket.socket) -> bool:
    connection.settimeout(0.1)
    try:
        connection.recv(1)
    except TimeoutError:
        connection.settimeout(5)
        return True
    return False


def test_forwards_both_ways_and_the_end(wire: OutageProxy) -> None:
    with connected(wire) as connection:
        assert ask(connection, b"hello") == b"hello"
        assert wire.connections == 1
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    eventually_sync(lambda: wire.connections == 0)


def test_forwards_more_than_all_buffers_hold(wire: OutageProxy) -> None:
    data = bytes(range(256)) * 80_000  # 20 MB
    with connected(wire) as connection:
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        answer = bytearray()
        while len(answer) < len(data):
            answer += connection.recv(2**20)
        sender.join()
        assert answer == data


def test_serves_redis(redis_server: RedisServer, proxy: OutageProxy) -> None:
    with redis.Redis.from_url(proxy.url) as client:
        client.set("key", "value")
        assert redis_server.client().get("key") == b"value"


def test_refuse_resets_what_is_open_and_refuses_what_is_new(wire: OutageProxy) -> None:
    with connected(wire) as connection:
        ask(connection, b"hello")
        wire.refuse()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", wire.port))
    assert wire.connections == 0
    wire.refuse()
    wire.forward()
    with connected(wire) as connection:
        assert ask(connection, b"again") == b"again"


def test_the_port_stays_ours_while_it_refuses(wire: OutageProxy) -> None:
    wire.refuse()
    for _ in range(3):
        wire.forward()
        wire.refuse()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", wire.port))


def test_silence_holds_back_both_directions_until_forward(wire: OutageProxy, echo: Echo) -> None:
    with connected(wire) as connection:
        ask(connection, b"before")
        wire.silence()
        connection.sendall(b"held")
        assert silent(connection)
        assert bytes(echo.received) == b"before"
        wire.forward()
        assert connection.recv(100) == b"held"
        assert ask(connection, b"after") == b"after"


def test_silence_stops_the_answer_that_is_on_its_way(redis_server: RedisServer, proxy: OutageProxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as connection:
        assert ask(connection, b"PING\r\n") == b"+PONG\r\n"
        redis_server.pause()
        connection.sendall(b"PING\r\n")
        proxy.silence()
        redis_server.resume()
        assert silent(connection)
        proxy.forward()
        assert connection.recv(100) == b"+PONG\r\n"


def test_silence_accepts_new_connections_and_tells_the_server_nothing(wire: OutageProxy, echo: Echo) -> None:
    wire.silence()
    with connected(wire) as connection:
        connection.sendall(b"held")
        assert silent(connection)
        assert echo.accepted == 0
        wire.forward()
        assert connection.recv(100) == b"held"


def test_an_end_during_silence_is_passed_on_later(wire: OutageProxy, echo: Echo) -> None:
    with connected(wire) as connection:
        ask(connection, b"before")
        wire.silence()
        connection.sendall(b"last words")
    wire.forward()
    eventually_sync(lambda: bytes(echo.received) == b"beforelast words")
    eventually_sync(lambda: wire.connections == 0)


def test_silence_after_refuse_listens(wire: OutageProxy) -> None:
    wire.refuse()
    wire.silence()
    with connected(wire) as connection:
        assert silent(connection)


def test_reset_happens_once(wire: OutageProxy) -> None:
    with connected(wire) as one, connected(wire) as two:
        ask(one, b"one")
        ask(two, b"two")
        wire.reset()
        for connection in (one, two):
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
    with connected(wire) as connection:
        assert ask(connection, b"again") == b"again"


def test_reset_during_silence_discards_what_was_held(wire: OutageProxy, echo: Echo) -> None:
    wire.silence()
    with connected(wire) as connection:
        connection.sendall(b"lost")
        wire.reset()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    wire.forward()
    with connected(wire) as connection:
        ask(connection, b"heard")
    assert bytes(echo.received) == b"heard"


def test_a_server_that_is_down_looks_like_a_reset(redis_server: RedisServer, proxy: OutageProxy) -> None:
    redis_server.kill()
    with (
        pytest.raises(ConnectionResetError),
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as connection,
    ):
        connection.recv(1)
    redis_server.start()
    with redis.Redis.from_url(proxy.url) as client:
        assert client.ping()


def test_a_server_that_is_killed_ends_the_connections(redis_server: RedisServer, proxy: OutageProxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as connection:
        ask(connection, b"PING\r\n")
        redis_server.kill()
        try:
            while connection.recv(100):
                pass
        except ConnectionResetError:
            pass


def test_may_be_driven_by_many_threads_under_load(wire: OutageProxy) -> None:
    stop = threading.Event()
    broken: list[BaseException] = []

    def load() -> None:
        while not stop.is_set():
            try:
                with connected(wire, timeout=0.5) as connection:
                    for _ in range(20):
                        answer = ask(connection, b"x" * 5000)
                        assert answer in (b"", b"x" * 5000) or len(answer) < 5000
            except OSError:
                pass
            except BaseException as error:
                broken.append(error)

    def drive() -> None:
        try:
            for _ in range(30):
                for switch in (wire.silence, wire.forward, wire.reset, wire.refuse, wire.forward):
                    switch()
        except BaseException as error:
            broken.append(error)

    loads = [threading.Thread(target=load) for _ in range(4)]
    drivers = [threading.Thread(target=drive) for _ in range(3)]
    for thread in (*loads, *drivers):
        thread.start()
    for thread in drivers:
        thread.join()
    stop.set()
    for thread in loads:
        thread.join()
    assert broken == []
    wire.forward()
    with connected(wire) as connection:
        assert ask(connection, b"well") == b"well"


def test_close_resets_ends_the_thread_and_frees_the_port(echo: Echo) -> None:
    wire = OutageProxy("127.0.0.1", echo.port)
    with connected(wire) as connection:
        ask(connection, b"hello")
        wire.close()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    wire.close()
    assert "meshcache-outage-proxy" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(RuntimeError, match="closed"):
        wire.forward()
    with socket.socket() as other:
        other.bind(("127.0.0.1", wire.port))


def test_who_forgets_to_close_leaves_no_thread() -> None:
    wire = OutageProxy("127.0.0.1", free_port())
    assert wire.connections == 0
    del wire
    gc.collect()
    assert "meshcache-outage-proxy" not in {thread.name for thread in threading.enumerate()}


def test_names_the_state_in_its_repr(wire: OutageProxy) -> None:
    wire.silence()
    assert repr(wire) == f"<OutageProxy redis://127.0.0.1:{wire.port}/0 silence>"


def test_a_busy_proxy_may_see_its_end_before_it_is_woken_for_it(echo: Echo) -> None:
    wire = OutageProxy("127.0.0.1", echo.port)
    waker = wire._loop._waker

    class SlowWaker:
        close = staticmethod(waker.close)

        def send(self, data: bytes) -> int:
            with suppress(ConnectionResetError), connected(wire):  # wakes the thread, which resets it
                pass
            time.sleep(0.1)
            return waker.send(data)

    wire._loop._waker = SlowWaker()  # type: ignore[assignment]
    wire.close()


def test_half_open_passes_requests_on_and_holds_back_replies(wire: OutageProxy, echo: Echo) -> None:
    with connected(wire) as connection:
        ask(connection, b"before")
        wire.half_open()
        connection.sendall(b"heard")
        eventually_sync(lambda: echo.received == b"beforeheard")
        assert silent(connection)
        wire.forward()
        assert connection.recv(16) == b"heard"


def test_half_open_for_new_connections(wire: OutageProxy, echo: Echo) -> None:
    wire.half_open()
    with connected(wire) as connection:
        connection.sendall(b"hello")
        eventually_sync(lambda: echo.received == b"hello")
        assert silent(connection)
        wire.forward()
        assert connection.recv(16) == b"hello"


def test_a_reset_forgets_the_replies_that_half_open_held_back(wire: OutageProxy, echo: Echo) -> None:
    wire.half_open()
    with connected(wire) as connection:
        connection.sendall(b"hello")
        eventually_sync(lambda: echo.received == b"hello")
        wire.reset()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    eventually_sync(lambda: wire.connections == 0)


def test_slow_is_late_in_both_directions(wire: OutageProxy) -> None:
    wire.slow(0.1)
    with connected(wire) as connection:
        began = time.monotonic()
        assert ask(connection, b"hello") == b"hello"
        assert 0.2 <= time.monotonic() - began < 1.0


def test_slow_delays_each_byte_by_the_same(wire: OutageProxy) -> None:
    """What is sent one after the other arrives one after the other, and not each after a delay of its own."""
    wire.slow(0.2)
    with connected(wire) as connection:
        began = time.monotonic()
        for number in range(20):
            connection.sendall(b"%02d" % number)
            time.sleep(0.005)
        answer = b""
        while len(answer) < 40:
            answer += connection.recv(64)
        assert answer == b"".join(b"%02d" % number for number in range(20))
        assert 0.4 <= time.monotonic() - began < 1.5


def test_slow_passes_on_much_at_once_and_the_end(wire: OutageProxy) -> None:
    data = bytes(range(256)) * 20_000  # 5 MB
    wire.slow(0.1)
    with connected(wire) as connection:
        sender = threading.Thread(target=lambda: (connection.sendall(data), connection.shutdown(socket.SHUT_WR)))
        sender.start()
        answer = bytearray()
        while chunk := connection.recv(2**20):
            answer += chunk
        sender.join()
        assert answer == data
    eventually_sync(lambda: wire.connections == 0)


def test_what_was_slow_is_passed_on_at_forward_and_held_back_in_silence(wire: OutageProxy, echo: Echo) -> None:
    wire.slow(60)
    with connected(wire) as connection:
        connection.sendall(b"hello")
        eventually_sync(lambda: wire.connections == 1)
        wire.silence()
        assert silent(connection)
        assert echo.received == b""
        wire.forward()
        assert connection.recv(16) == b"hello"


@pytest.mark.parametrize("delay", [0, -1, float("inf"), float("nan")])
def test_slow_takes_seconds(wire: OutageProxy, delay: float) -> None:
    with pytest.raises(ValueError, match="number of seconds"):
        wire.slow(delay)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
def test_the_server_sees_the_source() -> None:
    with (
        RedisServer(arguments=("--protected-mode", "no")) as server,
        OutageProxy(server.host, server.port, source="127.0.0.7") as wire,
        redis.Redis.from_url(wire.url) as client,
    ):
        assert client.client_info()["addr"].startswith("127.0.0.7:")
