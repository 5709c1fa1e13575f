"""The other ways to a server: unix sockets, TLS, host names; and what goes wrong only there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

from meshcache.errors import Unavailable
from meshcache.redis.link import Link
from meshcache.testing.server import Certificates, RedisServer
from tests.io.certificates import client_options, skipped_without_tls
from tests.support import eventually_sync

pytestmark = pytest.mark.anyio

Opened = Callable[..., Link]


@pytest.fixture(scope="module")
def tls(certificates: Certificates) -> Iterator[tuple[RedisServer, int]]:
    """A server, and the port where it speaks TLS and asks for a client's certificate only if there is one."""
    server = RedisServer(tls=certificates)
    try:
        with skipped_without_tls():
            server.start()
        yield server, server.service_port
    finally:
        server.close()


async def test_tls(tls: tuple[RedisServer, int], certificates: Certificates, opened: Opened) -> None:
    _, port = tls
    link = opened(f"rediss://127.0.0.1:{port}/1?{certificates.url_option}")
    value = b"x" * 500_000
    assert await link.execute("SET", "k", value) == b"OK"
    assert await link.execute("GET", "k") == value
    server, _ = tls
    server.client().client_kill_filter(_type="normal", skipme=True)
    assert await link.execute("GET", "k") == value


async def test_tls_with_a_client_certificate(
    tls: tuple[RedisServer, int], certificates: Certificates, opened: Opened
) -> None:
    server, port = tls
    server.client().config_set("tls-auth-clients", "yes")
    try:
        ours = certificates.url_option
        own = client_options(certificates)
        assert await opened(f"rediss://127.0.0.1:{port}?{ours}&{own}").execute("PING") == b"PONG"
        with pytest.raises(Unavailable) as caught:
            await opened(f"rediss://127.0.0.1:{port}?{ours}").execute("PING")
        assert not caught.value.timed_out
    finally:
        server.client().config_set("tls-auth-clients", "optional")


async def test_tls_that_is_cut_off_at_any_moment(
    tls: tuple[RedisServer, int], certificates: Certificates, opened: Opened
) -> None:
    """The event loop has nothing to complain of either: that fails a test."""
    server, port = tls
    link = opened(f"rediss://127.0.0.1:{port}?{certificates.url_option}")
    await link.execute("PING")  # the certificates are read
    for turn in range(200):
        server.client().client_kill_filter(_type="normal", skipme=True)  # so that the next call connects
        with anyio.move_on_after(turn * 25e-6):
            await link.execute("PING")
    assert await link.execute("PING") == b"PONG"


async def test_tls_without_trust(tls: tuple[RedisServer, int], opened: Opened) -> None:
    _, port = tls
    with pytest.raises(
        Unavailable, match=r"its TLS certificate is not trusted \(self.signed certificate in certificate chain\)"
    ):
        await opened(f"rediss://127.0.0.1:{port}").execute("PING")
    assert await opened(f"rediss://127.0.0.1:{port}?ssl_cert_reqs=none").execute("PING") == b"PONG"


async def test_tls_of_another_name(tls: tuple[RedisServer, int], certificates: Certificates, opened: Opened) -> None:
    _, port = tls
    trusted = certificates.url_option
    with pytest.raises(Unavailable, match="its TLS certificate is not trusted"):
        await opened(f"rediss://localhost:{port}?{trusted}").execute("PING")
    link = opened(f"rediss://localhost:{port}?{trusted}&ssl_check_hostname=false")
    assert await link.execute("PING") == b"PONG"


async def test_tls_to_a_server_without(server: RedisServer, opened: Opened) -> None:
    with pytest.raises(Unavailable) as caught:
        await opened(f"rediss://127.0.0.1:{server.port}?ssl_cert_reqs=none", timeout=0.5).execute("PING")
    assert "\n" not in caught.value.cause


async def test_no_tls_to_a_server_with(tls: tuple[RedisServer, int], opened: Opened) -> None:
    _, port = tls
    with pytest.raises(Unavailable):
        await opened(f"redis://127.0.0.1:{port}", timeout=0.5).execute("PING")


async def test_tls_files_that_are_not_there(tls: tuple[RedisServer, int], opened: Opened) -> None:
    _, port = tls
    with pytest.raises(Unavailable, match="the ssl_… options do not work: No such file"):
        await opened(f"rediss://127.0.0.1:{port}?ssl_ca_certs=/no/such/file.pem").execute("PING")


async def test_a_unix_socket(opened: Opened) -> None:
    with RedisServer() as reserve:
        path = reserve.directory / "a socket"
        with RedisServer(arguments=("--unixsocket", str(path), "--requirepass", "secret")) as server:
            eventually_sync(path.exists)
            assert server.running
            quoted = str(path).replace(" ", "%20")
            link = opened(f"unix://:secret@{quoted}?db=2")
            assert await link.execute("SET", "k", "v") == b"OK"
            assert await link.execute("GET", "k") == b"v"
            with pytest.raises(Unavailable, match="user name and password"):
                await opened(f"unix://:wrong@{quoted}").execute("PING")
            server.restart()
            eventually_sync(path.exists)
            assert await link.execute("PING") == b"PONG"
            server.kill()
            with pytest.raises(Unavailable, match=r"connection refused|No such file"):
                await link.execute("PING")


async def test_no_such_unix_socket(opened: Opened, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"/none: .*No such file"):
        await opened(f"unix://{tmp_path}/none").execute("PING")


async def test_no_such_host(opened: Opened) -> None:
    with pytest.raises(Unavailable) as caught:
        await opened("redis://no-such-host.invalid:6379").execute("PING")
    assert "no-such-host.invalid:6379" in caught.value.cause
    assert caught.value.timed_out or "the host name cannot be resolved" in caught.value.cause


async def test_a_host_name(server: RedisServer, opened: Opened) -> None:
    """Of two addresses one may refuse."""
    assert await opened(f"redis://localhost:{server.port}").execute("PING") == b"PONG"
