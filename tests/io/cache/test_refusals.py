"""Whatever keeps Redis from serving: nobody who uses the cache notices, one line says why, and it ends by itself.

Each answer is that of a real server.  What it means for one command is tested with the link, in ``tests/io/redis``.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from meshcache import MeshCache, Mode, RedisCommandError
from meshcache.redis.names import key_slot
from meshcache.testing.deployments import ClusterDeployment
from meshcache.testing.server import RedisServer
from tests.io.cache.instances import lone_cache
from tests.io.certificates import Authority
from tests.io.loops import on_asyncio_and_trio
from tests.support import eventually, eventually_sync, free_port

pytestmark = pytest.mark.anyio


def login(server: RedisServer, credentials: str) -> str:
    return server.url.replace("://", f"://{credentials}@")


def drop_clients(server: RedisServer) -> None:
    server.client().client_kill_filter(_type="normal", skipme=True)


async def falls_over(cache: MeshCache, caplog: pytest.LogCaptureFixture, cause: str) -> None:
    """The cache goes on in memory, and one line says why."""
    for i in range(20):
        assert await cache.set("k", i)
        assert await cache.get("k") == i
    assert cache.mode is Mode.MEMORY
    (line,) = [record.getMessage() for record in caplog.records if "redis -> memory" in record.getMessage()]
    assert re.search(cause, line), line
    assert "secret" not in line


async def comes_back(cache: MeshCache, server: RedisServer) -> None:
    await eventually(lambda: cache.mode is Mode.REDIS, 10)
    await cache.set("k", "after")
    assert server.client().exists("test:k")


async def test_readonly(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async with lone_cache(redis_server.url) as cache:
        redis_server.client().replicaof("127.0.0.1", free_port())
        await falls_over(cache, caplog, r"is a replica that takes no writes \(READONLY\)")
        redis_server.client().replicaof("NO", "ONE")
        await comes_back(cache, redis_server)


async def test_masterdown(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    redis_server.client().config_set("replica-serve-stale-data", "no")
    async with lone_cache(redis_server.url) as cache:
        redis_server.client().replicaof("127.0.0.1", free_port())
        assert await cache.get("k") is None  # a write would be told that it is a replica
        await falls_over(cache, caplog, r"is a replica that lost its primary \(MASTERDOWN\)")
        redis_server.client().replicaof("NO", "ONE")
        await comes_back(cache, redis_server)


async def test_oom(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async with lone_cache(redis_server.url) as cache:
        redis_server.client().config_set("maxmemory", "1")
        await falls_over(cache, caplog, r"has no memory left \(OOM\)")
        redis_server.client().config_set("maxmemory", "0")
        await comes_back(cache, redis_server)


@on_asyncio_and_trio
async def test_misconf(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    with RedisServer(arguments=("--dir", str(directory), "--save", "3600 1000000")) as server:
        async with lone_cache(server.url) as cache:
            shutil.rmtree(directory)
            server.client().bgsave()
            await eventually(lambda: server.client().info("persistence")["rdb_last_bgsave_status"] == "err")
            await falls_over(cache, caplog, r"cannot save to disk, and so refuses writes \(MISCONF\)")
            server.client().config_set("stop-writes-on-bgsave-error", "no")
            await comes_back(cache, server)


@on_asyncio_and_trio
async def test_loading(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(persistent=True) as server:
        pipeline = server.client().pipeline()
        for i in range(6_000):  # it looks up from loading after every 1024 commands
            pipeline.set(f"k{i}", "v")
        pipeline.execute()
        server.kill()
        server.arguments = ("--key-load-delay", "80")  # us
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, server.start)
            await eventually(lambda: b"oading" in _log(server), 10, message="the server loads")
            async with lone_cache(server.url, op_timeout=1.0) as cache:
                await cache.set("k", 1)
                assert await cache.get("k") == 1
                await comes_back(cache, server)
    lines = [record.getMessage() for record in caplog.records]
    assert any("starts in memory, without Redis" in line and "still loads its data (LOADING)" in line for line in lines)


def _log(server: RedisServer) -> bytes:
    return (server.directory / "server.log").read_bytes()


async def test_max_clients(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    redis_server.client().ping()
    async with lone_cache(redis_server.url) as cache:
        redis_server.client().config_set("maxclients", "1")
        drop_clients(redis_server)
        # A server that refuses closes with our request unread, and the reset may arrive before the reason.
        await falls_over(cache, caplog, r"limit of clients \(max number of clients\)|connection (reset|closed)")
        redis_server.client().config_set("maxclients", "100")
        await comes_back(cache, redis_server)


async def test_noauth(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async with lone_cache(redis_server.url) as cache:
        redis_server.client().config_set("requirepass", "secret")
        drop_clients(redis_server)
        await falls_over(cache, caplog, r"wants a password \(NOAUTH\)")
        redis_server.client().config_set("requirepass", "")
        await comes_back(cache, redis_server)


@pytest.mark.parametrize("near_cache", ["off", "standby"])
async def test_a_rotated_password(redis_server: RedisServer, caplog: pytest.LogCaptureFixture, near_cache: str) -> None:
    password = "secret-old"
    redis_server.client().execute_command("ACL", "SETUSER", "ada", "reset", "on", ">secret-old", "~*", "+@all", "&*")

    def provider() -> tuple[str, str]:
        return ("ada", password)

    async with lone_cache(redis_server.url, credential_provider=provider, near_cache=near_cache) as cache:
        assert cache.mode is Mode.REDIS
        await eventually(lambda: cache.stats()["near_tracking"] == (near_cache != "off"))
        redis_server.client().execute_command("ACL", "SETUSER", "ada", "resetpass", ">secret-new")
        drop_clients(redis_server)
        await falls_over(cache, caplog, r"does not take this user name and password \(WRONGPASS\)")
        password = "secret-new"
        await comes_back(cache, redis_server)
        await eventually(lambda: cache.stats()["near_tracking"] == (near_cache != "off"))


async def test_a_provider_that_fails_or_hangs(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    redis_server.client().config_set("requirepass", "secret")
    answers = [OSError(13, "Permission denied"), "secret"]

    def provider() -> str:
        answer = answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer

    async with lone_cache(redis_server.url, credential_provider=provider) as cache:
        await cache.set("k", 1)
        assert await cache.get("k") == 1
        del answers[0]
        await comes_back(cache, redis_server)
    (line,) = [record.getMessage() for record in caplog.records if "starts in memory" in record.getMessage()]
    assert "the credential provider failed (PermissionError: Permission denied)" in line


async def test_a_host_name_that_nobody_knows(caplog: pytest.LogCaptureFixture) -> None:
    async with lone_cache("redis://no-such-host.invalid:6379/0", op_timeout=1.0) as cache:
        assert await cache.set("k", 1)
        assert await cache.get("k") == 1
        await eventually(lambda: "starts in memory" in caplog.text)
    (line,) = [record.getMessage() for record in caplog.records if "starts in memory" in record.getMessage()]
    assert re.search(r"no-such-host\.invalid:6379: the host name cannot be resolved|did not answer|no answer", line)


async def test_a_certificate_that_is_not_trusted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A private authority; a client with a certificate; and then the server's is exchanged for one of somebody else's."""
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    certificate, key = ours.issue("server")
    port = free_port()
    options = {
        "--tls-port": str(port),
        "--tls-cert-file": str(certificate),
        "--tls-key-file": str(key),
        "--tls-ca-cert-file": str(ours.certificate),
        "--tls-auth-clients": "yes",
    }
    own, own_key = ours.issue("client")
    url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={ours.certificate}&ssl_certfile={own}&ssl_keyfile={own_key}"
    with RedisServer(arguments=[word for option in options.items() for word in option]) as server:
        async with lone_cache(url, op_timeout=1.0) as cache:
            assert cache.mode is Mode.REDIS
            await eventually(lambda: cache.stats()["near_tracking"])
            _exchange(server, *theirs.issue("intruder"))
            await falls_over(cache, caplog, r"its TLS certificate is not trusted \(.*\)")
            _exchange(server, certificate, key)
            await comes_back(cache, server)


def _exchange(server: RedisServer, certificate: Path, key: Path) -> None:
    server.client().execute_command("CONFIG", "SET", "tls-cert-file", str(certificate), "tls-key-file", str(key))
    drop_clients(server)


# -- in a cluster


@pytest.fixture(scope="module")
def lone_node() -> Iterator[RedisServer]:
    """A cluster of one node that has all slots."""
    with RedisServer(arguments=("--cluster-enabled", "yes")) as server:
        server.client().execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        eventually_sync(lambda: b"cluster_state:ok" in server.client().execute_command("CLUSTER", "INFO"))
        yield server


async def test_clusterdown(lone_node: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody else's slot is nobody's: the others are refused, too."""
    slot = (key_slot(b"test:k") + 1) % 16_384
    async with lone_cache(lone_node.url.replace("redis://", "redis+cluster://"), near_cache="off") as cache:
        assert cache.mode is Mode.REDIS
        lone_node.client().execute_command("CLUSTER", "DELSLOTS", slot)
        await eventually(lambda: b"cluster_state:fail" in lone_node.client().execute_command("CLUSTER", "INFO"))
        await falls_over(cache, caplog, r"belongs to a cluster that is down \(CLUSTERDOWN\)")
        lone_node.client().execute_command("CLUSTER", "ADDSLOTS", slot)
        await comes_back(cache, lone_node)


@on_asyncio_and_trio
async def test_tryagain(cluster: ClusterDeployment, caplog: pytest.LogCaptureFixture) -> None:
    """A replay finds a key at one node and its fence at another.  It waits, and says so, until the slot has moved."""
    caplog.set_level("INFO", "meshcache")
    slot = key_slot(b"{tag}")
    target = next(master for master in cluster.masters if master is not cluster.owner_of_slot(slot))

    async def write_in_an_outage(cache: MeshCache, value: str) -> None:
        for server in cluster.servers:
            server.pause()
        for _ in range(3):
            await cache.get("{tag}k")
        await cache.set("{tag}k", value)
        assert cache.mode is Mode.MEMORY

    def resume() -> None:
        for server in cluster.servers:
            server.resume()

    async with lone_cache(cluster.url, codec="text", near_cache="off") as cache:
        await write_in_an_outage(cache, "first")
        resume()
        await eventually(lambda: cache.mode is Mode.REDIS and not cache.stats()["dirty"], 20)
        cluster.begin_move(slot, target)
        cluster.move_keys(slot, target, b"test:{tag}k")  # but not its fence
        await write_in_an_outage(cache, "second")
        resume()
        await eventually(lambda: "is moving keys within its cluster (TRYAGAIN)" in caplog.text, 10)
        assert await cache.get("{tag}k") == "second"
        await anyio.to_thread.run_sync(cluster.move_keys, slot, target)
        await anyio.to_thread.run_sync(cluster.end_move, slot, target)
        await eventually(lambda: cache.mode is Mode.REDIS and not cache.stats()["dirty"], 20)
        assert target.client().get("test:{tag}k") == b"second"


# -- what is the caller's own


async def test_the_callers_own_errors_change_no_mode(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.client().execute_command(
        *("ACL", "SETUSER", "ada", "reset", "on", ">pw", "~test:m*", "~{test*", "+@all", "&*")
    )
    redis_server.client().rpush("test:mylist", "x")
    async with lone_cache(login(redis_server, "ada:pw")) as cache:
        assert cache.mode is Mode.REDIS
        with pytest.raises(RedisCommandError, match=r"^WRONGTYPE"):
            await cache.get("mylist")
        for call in (
            cache.get("theirs"),
            cache.set("theirs", 1),
            cache.delete("theirs"),
            cache.set_many({"theirs": 1}),
        ):
            with pytest.raises(RedisCommandError, match=r"^NOPERM"):
                await call
        assert await cache.set("mine", 1)
        assert cache.mode is Mode.REDIS
        assert cache.stats()["outages"] == 0
    assert [record for record in caplog.records if "memory" in record.getMessage()] == []
