"""A Redis that is broken in one way after the other: the doctor names it, says what to do, and blames nothing else."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshcache.doctor import CHECKS, Verdict
from meshcache.testing.deployments import ClusterDeployment, SentinelDeployment
from meshcache.testing.proxy import OutageProxy
from meshcache.testing.server import RedisServer
from tests.io.doctor.conftest import NAMESPACE, Diagnose, Diagnosis
from tests.support import eventually_sync, free_port

pytestmark = pytest.mark.anyio

SECRET = "a secret of more than sixteen characters"
OF_REDIS = {check.name for check in CHECKS if check.group == "redis"}
NO_SERVER = OF_REDIS - {"redis"}


def url(server: RedisServer, credentials: str = "", database: int = 0) -> str:
    return f"redis://{credentials}127.0.0.1:{server.port}/{database}"


def names_only(diagnosis: Diagnosis, name: str, seen: str, advice: str, verdict: Verdict = Verdict.FAIL) -> None:
    """This check, and no other one, complains; it says what it saw and what to do."""
    assert seen.lower() in diagnosis[name].seen.lower()
    assert advice in diagnosis[name].advice
    assert diagnosis.broken == ({name} if verdict is Verdict.FAIL else set())
    assert diagnosis.warned == ({name} if verdict is Verdict.WARN else set())


async def test_a_healthy_server(own_server: RedisServer, diagnose: Diagnose) -> None:
    """And nothing is left behind but the key of the mesh."""
    diagnosis = await diagnose(own_server.url)
    assert diagnosis.broken | diagnosis.warned == set()
    assert [check.name for check in CHECKS] == list(diagnosis)
    assert all(diagnosis[name].verdict is Verdict.OK for name in (*OF_REDIS, "instance", "near-cache", "key"))
    assert diagnosis["redis"].seen.startswith(("Redis ", "Valkey "))
    left = sorted(own_server.client().scan_iter())
    own = f"{{{NAMESPACE}}}:meshcache:".encode()
    assert [key for key in left if not key.startswith(own)] == []
    assert [key for key in left if b"doctor:" in key[len(own) :]] == []


async def test_nothing_listens(diagnose: Diagnose) -> None:
    diagnosis = await diagnose(f"redis://127.0.0.1:{free_port()}", secret=SECRET)
    names_only(diagnosis, "redis", "connection refused", "start Redis there")
    assert all(diagnosis[name].verdict is Verdict.SKIPPED for name in NO_SERVER)
    assert diagnosis["instance"].verdict is Verdict.OK  # in memory, as it should be


async def test_it_hangs(own_server: RedisServer, diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshcache.doctor.examination._LINK_SECONDS", 0.3)
    with OutageProxy(own_server.host, own_server.port) as proxy:
        proxy.silence()
        diagnosis = await diagnose(proxy.url, secret=SECRET)
    names_only(diagnosis, "redis", "did not answer within 0.3 s", "firewall")


async def test_the_name_of_the_host_is_wrong(diagnose: Diagnose) -> None:
    diagnosis = await diagnose("redis://no-such-host.invalid:6379", secret=SECRET)
    assert diagnosis.broken == {"redis"}
    finding = diagnosis["redis"]
    assert "no-such-host.invalid" in finding.seen
    if "did not answer" not in finding.seen:  # a name service that is slow to say no
        assert "the host name cannot be resolved" in finding.seen
        assert "/etc/resolv.conf" in finding.advice


async def test_the_password_is_wrong(own_server: RedisServer, diagnose: Diagnose) -> None:
    own_server.client().config_set("requirepass", "correct horse")
    diagnosis = await diagnose(url(own_server, ":battery-staple@"), secret=SECRET)
    names_only(diagnosis, "redis", "(WRONGPASS)", "mend user and password in the URL")
    assert "staple" not in str(diagnosis)
    assert SECRET not in str(diagnosis)


async def test_the_password_is_missing(own_server: RedisServer, diagnose: Diagnose) -> None:
    own_server.client().config_set("requirepass", "correct horse")
    names_only(await diagnose(own_server.url, secret=SECRET), "redis", "wants a password", "redis://:password@host")


async def test_a_database_that_is_not_there(own_server: RedisServer, diagnose: Diagnose) -> None:
    names_only(await diagnose(url(own_server, database=99), secret=SECRET), "redis", "DB index", "redis://host:6379/0")


async def test_a_certificate_that_nobody_trusts(tls_port: int, certificate: Path, diagnose: Diagnose) -> None:
    diagnosis = await diagnose(f"rediss://127.0.0.1:{tls_port}", secret=SECRET)
    names_only(diagnosis, "redis", "its TLS certificate is not trusted", "?ssl_ca_certs=")
    trusting = await diagnose(f"rediss://127.0.0.1:{tls_port}?ssl_ca_certs={certificate}/cert.pem", secret=SECRET)
    assert trusting.broken == set()


async def test_servers_with_sentinels(diagnose: Diagnose) -> None:
    """The master is found through them and examined; without them nobody knows it."""
    limits = ("--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru")
    with SentinelDeployment(arguments=limits) as deployment:
        diagnosis = await diagnose(deployment.url, secret=SECRET)
        assert diagnosis.broken | diagnosis.warned == set()
        assert ", master, " in diagnosis["redis"].seen
        for sentinel in deployment.sentinels:
            sentinel.kill()
        diagnosis = await diagnose(deployment.url, secret=SECRET)
        assert diagnosis.broken == {"redis"}
        assert "entinel" in diagnosis["redis"].advice


@pytest.fixture
def limited_cluster(cluster: ClusterDeployment) -> Iterator[ClusterDeployment]:
    """As ``cluster``, and nothing to complain of; what was configured is taken back."""
    limits = {"maxmemory": "100mb", "maxmemory-policy": "volatile-lru"}
    for server in cluster.servers:
        for option, value in limits.items():
            server.client().config_set(option, value)
    yield cluster
    cluster.heal()
    for server in cluster.servers:
        server.client().config_set("maxmemory", "0")
        server.client().config_set("maxmemory-policy", "noeviction")


async def test_a_cluster(limited_cluster: ClusterDeployment, diagnose: Diagnose) -> None:
    """Every node is named, and every master examined; nothing is left behind at any."""
    diagnosis = await diagnose(limited_cluster.url, secret=SECRET)
    assert diagnosis.broken | diagnosis.warned == set()
    for master in limited_cluster.masters:
        place, replica = f"127.0.0.1:{master.port}", f"127.0.0.1:{limited_cluster.replica(master).port}"
        assert re.search(rf"{place} \(master, \d+ slots\)", diagnosis["redis-nodes"].seen)
        assert f"{replica} (replica of {place})" in diagnosis["redis-nodes"].seen
        for name in OF_REDIS - {"redis", "redis-nodes", "redis-writes"}:
            assert place in diagnosis[name].seen
        own = f"{{{NAMESPACE}".encode()
        assert [key for key in master.client().scan_iter() if not key.startswith(own)] == []


async def test_one_node_of_a_cluster_is_worse_than_the_others(
    limited_cluster: ClusterDeployment, diagnose: Diagnose
) -> None:
    first, second, third = limited_cluster.masters
    second.client().config_set("maxmemory", "0")
    third.client().execute_command("ACL", "SETUSER", "default", "-evalsha")
    try:
        diagnosis = await diagnose(limited_cluster.url, secret=SECRET)
    finally:
        third.client().execute_command("ACL", "SETUSER", "default", "+evalsha")
    assert {"redis-eviction", "redis-scripts"} <= diagnosis.warned
    for name, at in {"redis-eviction": second, "redis-scripts": third}.items():
        assert diagnosis[name].seen.startswith(f"127.0.0.1:{at.port}: ")
        assert f"127.0.0.1:{first.port}" not in diagnosis[name].seen
    assert "no limit" in diagnosis["redis-eviction"].seen
    assert "evalsha" in diagnosis["redis-scripts"].seen


async def test_a_replica_in_a_cluster_that_does_not_run(limited_cluster: ClusterDeployment, diagnose: Diagnose) -> None:
    master = limited_cluster.masters[0]
    replica = limited_cluster.replica(master)
    replica.kill()
    diagnosis = await diagnose(limited_cluster.url, secret=SECRET)
    seen = f"127.0.0.1:{replica.port} (replica of 127.0.0.1:{master.port}, connection refused)"
    names_only(diagnosis, "redis-nodes", seen, "start those that do not answer", Verdict.WARN)


async def test_a_cluster_in_which_nobody_has_some_slots(diagnose: Diagnose) -> None:
    options = ("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no")
    with RedisServer(arguments=options) as server:
        server.client().execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 9_999)
        eventually_sync(lambda: b"cluster_state:ok" in server.client().execute_command("CLUSTER", "INFO"))
        diagnosis = await diagnose(f"redis+cluster://127.0.0.1:{server.port}", secret=SECRET)
    assert {"redis-nodes", "redis-writes"} <= diagnosis.broken
    assert "nobody has 6384 of the slots" in diagnosis["redis-nodes"].seen
    assert "redis-cli --cluster check" in diagnosis["redis-nodes"].advice


async def test_a_master_of_a_cluster_that_nobody_follows(diagnose: Diagnose) -> None:
    options = ("--cluster-enabled", "yes", "--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru")
    with RedisServer(arguments=options) as server:
        server.client().execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        eventually_sync(lambda: b"cluster_state:ok" in server.client().execute_command("CLUSTER", "INFO"))
        diagnosis = await diagnose(f"redis+cluster://127.0.0.1:{server.port}", secret=SECRET)
    names_only(diagnosis, "redis-nodes", "nobody would take the place of", "a replica", Verdict.WARN)


async def test_a_replica(own_server: RedisServer, diagnose: Diagnose) -> None:
    own_server.client().replicaof("127.0.0.1", free_port())
    diagnosis = await diagnose(own_server.url, secret=SECRET)
    names_only(diagnosis, "redis-writes", "(READONLY)", "point the URL at the primary")
    assert "slave" in diagnosis["redis"].seen
    assert diagnosis["redis-commands"].seen == "Redis takes no writes"


async def test_a_memory_that_is_full(own_server: RedisServer, diagnose: Diagnose) -> None:
    client = own_server.client()
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1mb")
    diagnosis = await diagnose(own_server.url, secret=SECRET)
    assert diagnosis.broken == {"redis-writes"}
    assert "(OOM)" in diagnosis["redis-writes"].seen
    assert "maxmemory" in diagnosis["redis-writes"].advice
    assert diagnosis.warned == {"redis-eviction"}
    assert "noeviction" in diagnosis["redis-eviction"].seen


async def test_a_disk_that_is_full(diagnose: Diagnose) -> None:
    with RedisServer() as reserve:  # for its directory, which goes with it
        directory = reserve.directory / "data"
        directory.mkdir()
        options = ("--dir", str(directory), "--save", "3600 1000000", "--maxmemory", "100mb")
        with RedisServer(arguments=(*options, "--maxmemory-policy", "volatile-lru")) as server:
            shutil.rmtree(directory)
            server.client().bgsave()
            eventually_sync(lambda: server.client().info("persistence")["rdb_last_bgsave_status"] == "err")
            diagnosis = await diagnose(server.url, secret=SECRET)
    assert diagnosis.broken == {"redis-writes"}
    assert "(MISCONF)" in diagnosis["redis-writes"].seen
    assert "disk" in diagnosis["redis-writes"].advice
    assert diagnosis.warned == {"redis-persistence"}


# -- what this user may do

OPERATIONS = (Path(__file__).resolve().parents[3] / "docs" / "operations.md").read_text()
RIGHTS = re.findall("^ACL SETUSER .*$", OPERATIONS, re.MULTILINE)
"""What the docs name, for the namespace that these tests have as well."""


def grant(server: RedisServer, *changes: str) -> str:
    """The user has the rights that the docs name, with these changes; the URL."""
    (rule,) = RIGHTS
    server.client().execute_command(*rule.split(), *changes)
    return url(server, f"{NAMESPACE}:password@")


async def test_the_rights_that_the_docs_name_are_enough(own_server: RedisServer, diagnose: Diagnose) -> None:
    diagnosis = await diagnose(grant(own_server), secret=SECRET)
    assert diagnosis.broken | diagnosis.warned == set()


async def test_scripts_are_forbidden(own_server: RedisServer, diagnose: Diagnose) -> None:
    diagnosis = await diagnose(grant(own_server, "-evalsha"), secret=SECRET)
    names_only(diagnosis, "redis-scripts", "EVALSHA", "permit it", Verdict.WARN)


async def test_loading_scripts_is_forbidden(own_server: RedisServer, diagnose: Diagnose) -> None:
    diagnosis = await diagnose(grant(own_server, "-script|load"), secret=SECRET)
    assert "redis-scripts" in diagnosis.warned
    assert "SCRIPT" in diagnosis["redis-scripts"].seen.upper()


async def test_tracking_is_forbidden(own_server: RedisServer, diagnose: Diagnose) -> None:
    diagnosis = await diagnose(grant(own_server, "-client|tracking"), secret=SECRET)
    names_only(diagnosis, "near-cache", "NOPERM", "CLIENT TRACKING", Verdict.WARN)


async def test_the_keys_of_the_namespace_are_forbidden(own_server: RedisServer, diagnose: Diagnose) -> None:
    diagnosis = await diagnose(grant(own_server, "resetkeys", "~other:*", f"~{{{NAMESPACE}*"), secret=SECRET)
    assert "redis-writes" in diagnosis.broken
    assert "NOPERM" in diagnosis["redis-writes"].seen
    assert f"~{NAMESPACE}:* ~{{{NAMESPACE}*" in diagnosis["redis-writes"].advice


async def test_a_command_is_forbidden(own_server: RedisServer, diagnose: Diagnose) -> None:
    diagnosis = await diagnose(grant(own_server, "-mget"), secret=SECRET)
    assert diagnosis.broken == {"redis-commands"}
    assert "refused: MGET (NOPERM" in diagnosis["redis-commands"].seen


@pytest.mark.parametrize("right", ["client|kill", "client|id", "time"])
async def test_a_command_that_is_only_of_use_is_forbidden(
    own_server: RedisServer, diagnose: Diagnose, right: str
) -> None:
    diagnosis = await diagnose(grant(own_server, f"-{right}"), secret=SECRET)
    assert diagnosis.broken == set()
    assert f"refused: {right.replace('|', ' ').upper()} (NOPERM" in diagnosis["redis-commands"].seen


async def test_a_user_who_may_not_ask_for_anything_but_keys(own_server: RedisServer, diagnose: Diagnose) -> None:
    diagnosis = await diagnose(grant(own_server, "-info", "-time"), secret=SECRET)
    for name in ("redis-persistence", "redis-eviction", "redis-clock"):
        assert diagnosis[name].verdict is Verdict.SKIPPED
    assert "refused: INFO" in diagnosis["redis-commands"].seen


# -- what it forgets, and how quick it is


async def test_snapshots_bring_back_what_was_deleted(own_server: RedisServer, diagnose: Diagnose) -> None:
    own_server.client().config_set("save", "3600 1")
    diagnosis = await diagnose(own_server.url, secret=SECRET)
    names_only(diagnosis, "redis-persistence", "snapshots (3600 1)", "appendonly yes", Verdict.WARN)
    own_server.client().config_set("appendonly", "yes")
    assert (await diagnose(own_server.url, secret=SECRET)).warned == set()


async def test_what_happens_when_its_memory_is_full(own_server: RedisServer, diagnose: Diagnose) -> None:
    client = own_server.client()
    client.config_set("maxmemory-policy", "allkeys-lru")
    diagnosis = await diagnose(own_server.url)
    names_only(diagnosis, "redis-eviction", "the key of the mesh may be dropped", "MESHCACHE_SECRET", Verdict.WARN)
    client.config_set("maxmemory", "0")
    diagnosis = await diagnose(own_server.url, secret=SECRET)
    names_only(diagnosis, "redis-eviction", "no limit", "maxmemory", Verdict.WARN)


async def test_calls_that_take_longer_than_they_may(own_server: RedisServer, diagnose: Diagnose) -> None:
    diagnosis = await diagnose(own_server.url, secret=SECRET, op_timeout=0.00001)
    assert "redis-latency" in diagnosis.broken
    assert "op_timeout" in diagnosis["redis-latency"].seen
    assert diagnosis["redis-latency"].advice.startswith("op_timeout=")


# -- the key


async def test_no_secret_and_no_redis(diagnose: Diagnose) -> None:
    diagnosis = await diagnose(f"redis://127.0.0.1:{free_port()}")
    assert diagnosis.broken == {"redis", "key"}
    assert "set MESHCACHE_SECRET" in diagnosis["key"].advice


async def test_something_else_stands_where_the_key_should_be(own_server: RedisServer, diagnose: Diagnose) -> None:
    own_server.client().set(f"{{{NAMESPACE}}}:meshcache:key", b"short")
    diagnosis = await diagnose(own_server.url)
    assert "key" in diagnosis.broken
    assert "does not hold the 32 bytes" in str(diagnosis)


async def test_a_weak_secret(diagnose: Diagnose) -> None:
    names_only(await diagnose(None, secret="12345678"), "key", "less than 16 characters", "random", Verdict.WARN)
