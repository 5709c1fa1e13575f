"""What Redis answers while it cannot serve is an outage; what it refuses for good is the caller's error.  All of it for real."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

from meshcache.errors import RedisCommandError, Unavailable
from meshcache.redis.fence import apply
from meshcache.redis.link import Link
from meshcache.redis.names import Names
from meshcache.redis.probe import probe
from meshcache.redis.tier import RedisTier
from meshcache.stamp import Kind, Op, make_stamp
from meshcache.testing.server import RedisServer
from tests.support import eventually, eventually_sync, free_port

pytestmark = pytest.mark.anyio

VALUE = b"private value"

Opened = Callable[..., Link]


async def cause_of(call: Awaitable[Any]) -> str:
    """The call is an outage with a cause of one line that gives nothing away."""
    with pytest.raises(Unavailable) as caught:
        await call
    cause = caught.value.cause
    assert not caught.value.timed_out, cause
    assert "\n" not in cause
    assert "private" not in cause
    assert "secret" not in cause
    return cause


async def writes_fail_with(code: str, link: Link) -> None:
    """Every way to write says so, and none of them takes it for the caller's error."""
    names = Names("gw")
    tier = RedisTier(link, names)
    op = Op(Kind.SET, "k", make_stamp(1, 0, 1), VALUE)
    for call in (
        lambda: tier.set("k", VALUE, 1000),
        lambda: tier.set_many({"a": VALUE, "b": VALUE}, None),
        lambda: probe(link, names),
        lambda: apply(link, names, [op, op], 0.0, 1000),
    ):
        assert f"({code})" in await cause_of(call())


def url(server: RedisServer, credentials: str = "", database: int = 0) -> str:
    return f"redis://{credentials}127.0.0.1:{server.port}/{database}"


# -- outages


async def test_readonly(own_server: RedisServer, opened: Opened) -> None:
    link = opened(own_server.url)
    await link.execute("SET", "gw:k", VALUE)
    own_server.client().replicaof("127.0.0.1", free_port())
    await writes_fail_with("READONLY", link)
    assert await link.execute("GET", "gw:k") == VALUE
    own_server.client().replicaof("NO", "ONE")
    assert await link.execute("SET", "gw:k", VALUE) == b"OK"


async def test_masterdown(own_server: RedisServer, opened: Opened) -> None:
    own_server.client().config_set("replica-serve-stale-data", "no")
    own_server.client().replicaof("127.0.0.1", free_port())
    link = opened(own_server.url)
    assert "(MASTERDOWN)" in await cause_of(link.execute("GET", "k"))
    assert "(MASTERDOWN)" in await cause_of(link.execute_many([("GET", "a"), ("SET", "b", VALUE)]))


async def test_oom(own_server: RedisServer, opened: Opened) -> None:
    link = opened(own_server.url)
    await link.execute("SET", "gw:k", VALUE)
    own_server.client().config_set("maxmemory", "1")
    await writes_fail_with("OOM", link)
    assert await link.execute("GET", "gw:k") == VALUE
    own_server.client().config_set("maxmemory", "0")
    assert await link.execute("SET", "gw:k", VALUE) == b"OK"


async def test_noreplicas(own_server: RedisServer, opened: Opened) -> None:
    own_server.client().config_set("min-replicas-to-write", "1")
    await writes_fail_with("NOREPLICAS", opened(own_server.url))


async def test_misconf(opened: Opened) -> None:
    with RedisServer() as reserve:  # for its directory, which goes with it
        directory = reserve.directory / "data"
        directory.mkdir()
        with RedisServer(arguments=("--dir", str(directory), "--save", "3600 1000000")) as server:
            shutil.rmtree(directory)
            server.client().bgsave()
            await eventually(lambda: server.client().info("persistence")["rdb_last_bgsave_status"] == "err")
            await writes_fail_with("MISCONF", opened(server.url))


async def test_loading(opened: Opened) -> None:
    with RedisServer(persistent=True) as server:
        pipeline = server.client().pipeline()
        for i in range(16_000):  # it looks up from loading after every 1024 commands
            pipeline.set(f"k{i}", VALUE)
        pipeline.execute()
        server.kill()
        server.arguments = ("--key-load-delay", "50")  # us
        link = opened(server.url)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, server.start)
            causes: set[str] = set()

            async def loaded() -> bool:
                try:
                    await link.execute("SET", "gw:k", VALUE)
                except Unavailable as unavailable:
                    causes.add(unavailable.cause)
                    return False
                return True

            await eventually(loaded, 15.0)
        assert f"127.0.0.1:{server.port} still loads its data (LOADING)" in causes


async def test_busy(own_server: RedisServer, opened: Opened) -> None:
    own_server.client().config_set("lua-time-limit", "10")
    link, busy = opened(own_server.url), opened(own_server.url)
    async with anyio.create_task_group() as tasks:

        async def loop_for_ever() -> None:
            with pytest.raises(RedisCommandError, match="killed"):
                await busy.execute("EVAL", "while true do end", 0)

        async def is_busy() -> bool:
            try:
                await link.execute("GET", "k")
            except Unavailable as unavailable:
                return "(BUSY)" in unavailable.cause
            return False

        tasks.start_soon(loop_for_ever)
        await eventually(is_busy)
        await writes_fail_with("BUSY", link)
        own_server.client().script_kill()
    assert await link.execute("GET", "k") is None


async def test_max_clients(own_server: RedisServer, opened: Opened) -> None:
    link, late = opened(own_server.url, connections=1), opened(own_server.url)
    await link.execute("PING")
    await anyio.to_thread.run_sync(own_server.client().ping)
    own_server.client().config_set("maxclients", "2")
    # A server that refuses closes with our request unread, and the reset may arrive before the reason.
    causes = {await cause_of(late.execute("PING")) for _ in range(20)}
    assert causes <= {
        f"127.0.0.1:{own_server.port} has reached its limit of clients (max number of clients)",
        f"127.0.0.1:{own_server.port}: connection reset",
        f"127.0.0.1:{own_server.port}: connection closed",
    }
    assert await link.execute("PING") == b"PONG"
    own_server.client().config_set("maxclients", "100")
    assert await late.execute("PING") == b"PONG"


async def test_a_password_is_wanted(own_server: RedisServer, opened: Opened) -> None:
    link = opened(own_server.url)
    own_server.client().config_set("requirepass", "secret-of-the-server")
    await cause_of(link.execute("SET", "k", VALUE))
    assert "wants a password (NOAUTH)" in await cause_of(link.execute("SET", "k", VALUE))
    assert "(NOAUTH)" in await cause_of(link.execute_many([("SET", "k", VALUE), ("GET", "k")]))
    good = opened(url(own_server, ":secret-of-the-server@"))
    assert await good.execute("SET", "k", VALUE) == b"OK"


@pytest.mark.parametrize("credentials", [":secret-but-wrong@", "ada:secret-but-wrong@"])
async def test_the_password_is_wrong(own_server: RedisServer, opened: Opened, credentials: str) -> None:
    own_server.client().config_set("requirepass", "secret-of-the-server")
    cause = await cause_of(opened(url(own_server, credentials)).execute("GET", "k"))
    assert cause == f"127.0.0.1:{own_server.port} does not take this user name and password (WRONGPASS)"


async def test_a_password_that_was_rotated(own_server: RedisServer, opened: Opened) -> None:
    own_server.client().config_set("requirepass", "secret-old")
    link = opened(url(own_server, ":secret-old@"))
    assert await link.execute("SET", "k", VALUE) == b"OK"
    own_server.client().config_set("requirepass", "secret-new")
    own_server.client().client_kill_filter(_type="normal", skipme=True)
    assert "(WRONGPASS)" in await cause_of(link.execute("GET", "k"))


async def test_a_password_where_none_is_set(own_server: RedisServer, opened: Opened) -> None:
    cause = await cause_of(opened(url(own_server, ":secret@")).execute("GET", "k"))
    assert cause.startswith(f"127.0.0.1:{own_server.port} refuses the connection: ERR AUTH")


async def test_a_database_that_is_not_there(own_server: RedisServer, opened: Opened) -> None:
    cause = await cause_of(opened(url(own_server, database=99)).execute("GET", "k"))
    assert cause.startswith(f"127.0.0.1:{own_server.port} refuses the connection: ERR ")


async def test_another_database(own_server: RedisServer, opened: Opened) -> None:
    await opened(url(own_server, database=3)).execute("SET", "k", VALUE)
    assert await opened(url(own_server, database=0)).execute("GET", "k") is None
    assert await opened(url(own_server, database=3)).execute("GET", "k") == VALUE


async def test_a_cluster_that_is_down(opened: Opened) -> None:
    with RedisServer(arguments=("--cluster-enabled", "yes")) as server:
        assert "(CLUSTERDOWN)" in await cause_of(opened(server.url).execute("GET", "k"))


@pytest.fixture(scope="module")
def cluster_node() -> Iterator[RedisServer]:
    """A cluster of one node that has all slots."""
    with RedisServer(arguments=("--cluster-enabled", "yes")) as server:
        server.client().execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        eventually_sync(lambda: b"cluster_state:ok" in server.client().execute_command("CLUSTER", "INFO"))
        yield server


async def test_a_node_of_a_cluster(cluster_node: RedisServer, opened: Opened) -> None:
    link = opened(cluster_node.url)
    assert "(CROSSSLOT)" in await cause_of(link.execute("MGET", "a", "b"))
    assert await link.execute("SET", "k", VALUE) == b"OK"


async def test_a_key_and_its_fence_are_in_one_slot(cluster_node: RedisServer, opened: Opened) -> None:
    """Redis itself is asked: a script over two slots is refused."""
    cluster_node.client().flushall()
    link, names = opened(cluster_node.url), Names("gw")
    keys = ["k", "{a}k", "a{b}c", "a}b", "a{}b", "{}{a}", "a{b", "}{", "{{a}}", "a{b}{c}", "x}y{z}", "ключ}", "{", "}"]
    ops = [Op(Kind.SET, key, make_stamp(1, 0, 1), b"v") for key in keys]
    assert await apply(link, names, ops, 0.0, 60_000) == [True] * len(keys)
    for key in keys:
        assert cluster_node.client().get(names.key(key)) == b"v"
        assert cluster_node.client().exists(names.fence(key)) == 1
    assert cluster_node.client().dbsize() == 2 * len(keys)


# -- the caller's errors


async def test_what_redis_refuses_for_good(server: RedisServer, link: Link) -> None:
    server.client().rpush("list", "x")
    for command, message in {
        ("GET", "list"): "WRONGTYPE Operation against a key holding the wrong kind of value",
        ("INCRBY", "text", 1): "ERR value is not an integer or out of range",
        ("SET", "k", "v", "PX", -1): "ERR invalid expire time in 'set' command",
        ("NOSUCH", VALUE, "x"): "ERR unknown command 'NOSUCH'",
    }.items():
        server.client().set("text", "abc")
        with pytest.raises(RedisCommandError) as caught:
            await link.execute(*command)
        assert str(caught.value) == message
        (reply,) = await link.execute_many([command])
        assert isinstance(reply, RedisCommandError)
        assert str(reply) == message
    assert await link.execute("PING") == b"PONG"


async def test_noperm(server: RedisServer, opened: Opened) -> None:
    server.client().execute_command("ACL", "SETUSER", "ada", "reset", "on", ">secret", "~mine:*", "+@all", "-flushall")
    link = opened(url(server, "ada:secret@"))
    assert await link.execute("SET", "mine:1", VALUE) == b"OK"
    for command in (("SET", "theirs:1", VALUE), ("FLUSHALL",)):
        with pytest.raises(RedisCommandError, match=r"^NOPERM") as caught:
            await link.execute(*command)
        assert "private" not in str(caught.value)
