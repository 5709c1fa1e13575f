"""Checks of Redis: whether it can be reached, takes writes, is quick, permits what a cache needs, and what it forgets.

Of a cluster, at each of its masters, but for the first two, which ask all at once.

They write keys of their own, with a random name and a short life, and delete them.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from math import ceil
from typing import Any, Final

from ..errors import RedisCommandError, Unavailable
from ..redis.fence import apply
from ..redis.link import Command, Link
from ..redis.probe import probe
from ..redis.tier import RedisTier
from ..stamp import Kind, Op, make_stamp
from .finding import Finding, fail, in_words, ok, skipped, together, warn
from .patient import Node, Patient

__all__ = [
    "clock",
    "commands",
    "cure",
    "eviction",
    "latency",
    "permit",
    "persistence",
    "reachable",
    "scripts",
    "writes",
]

_SAMPLES: Final = 50
_KEY_MS: Final = 10_000
_CLOCK_SECONDS: Final = 1.0
_FULL_PERCENT: Final = 90
_CONNECTIONS: Final = 40
"""About so many one instance opens at most."""

_CURES: Final[Mapping[str, str]] = {
    "know no service": "mend the name of the service in the URL: redis+sentinel://host1,host2/service",
    "cannot be resolved": "mend the host name in the URL, or the name service of this host (/etc/resolv.conf); in a "
    "container, join the network in which the name is known",
    "connection refused": "start Redis there, or mend host and port in the URL; Redis listens on loopback alone unless "
    "its `bind` says otherwise",
    "is not trusted": "name the CA in the URL (?ssl_ca_certs=/path/ca.pem), and the host as its certificate does",
    "TLS failed": "rediss:// needs a TLS port, and redis:// one without",
    "ssl_… options": "mend the paths in the URL",
    "No such file": "mend the path of the unix socket in the URL, or start Redis there",
    "did not answer within": "look whether Redis hangs, whether a firewall drops packets on the way, and whether the "
    "address is right",
    "WRONGPASS": "mend user and password in the URL; special characters must be percent-encoded",
    "NOAUTH": "put the password into the URL: redis://:password@host, or user:password",
    "ERR AUTH": "the server has no password: take it out of the URL",
    "ERR DB index": "name a database that the server has: redis://host:6379/0",
    "DENIED": "the server is in protected mode: give it a password (`requirepass`, or an ACL)",
    "READONLY": "this is a replica: point the URL at the primary",
    "MASTERDOWN": "its primary is gone: promote a replica, and point the URL at it",
    "NOREPLICAS": "bring its replicas back, or lower `min-replicas-to-write`",
    "CLUSTERDOWN": "mend the cluster: redis-cli --cluster check",
    "OOM": "raise `maxmemory`, or let Redis drop old keys (`maxmemory-policy allkeys-lru`)",
    "MISCONF": "give the server room on its disk and the right to write there, or switch snapshots off "
    "(CONFIG SET save '')",
    "LOADING": "wait until it has read its data",
    "BUSY": "a script runs for too long: SCRIPT KILL",
    "max number of clients": "raise `maxclients`, or find who opens so many connections",
    "connection reset": "something accepts connections and closes them: a proxy without a server behind it, or TLS "
    "where none is expected",
    "connection closed": "something accepts connections and closes them: a proxy without a server behind it, or TLS "
    "where none is expected",
    "NOPERM": "",  # by the namespace; see _permit
}
"""What to do, by a part of what was seen; the first that fits."""

_OF_CALLS: Final = frozenset({"SET", "GET", "MGET", "EXISTS", "PTTL", "PEXPIRE", "PERSIST", "SCAN", "UNLINK"})
"""Without one of these, calls of the cache raise."""


# -- reaching it


async def reachable(patient: Patient) -> Finding:
    """Whether anybody answers, and lets us in."""
    link = patient.link
    if link is None:
        return skipped("no Redis is configured (url=none)")
    try:
        # Not PING, which a server that cannot save refuses like a write.
        info = await RedisTier(link, patient.names).info()
    except Unavailable as outage:
        return fail(outage.cause, cure(outage.cause, patient))
    except RedisCommandError:  # not permitted, but an answer
        info = {}
    patient.answers = True
    patient.nodes = [Node(link=link, info=info)]
    return ok(_who(info))


def _who(info: Mapping[str, Any]) -> str:
    if not info:
        return "it answers; who it is, INFO may not tell"
    software = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version") or info.get("redis_version")
    clients = int(info.get("connected_clients", 0))
    return (
        f"{software} {version}, {info.get('role', 'role unknown')}, up for {_duration(info.get('uptime_in_seconds', 0))}, "
        f"{clients} {'client' if clients == 1 else 'clients'}"
    )


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


async def writes(patient: Patient) -> Finding:
    """Whether it takes writes: a replica, or a server that is full or cannot save, answers a PING all the same."""
    link = patient.server
    key = patient.names.key(_token(patient))
    try:
        await probe(link, patient.names)
        await link.execute("SET", key, b"doctor", "PX", _KEY_MS)
        await link.execute("UNLINK", key)
    except (Unavailable, RedisCommandError) as error:
        return fail(f"it takes no writes: {_words(error)}", cure(str(error), patient))
    patient.takes_writes = True
    return ok("a key was written and deleted")


async def at_each(patient: Patient, look: Callable[[Patient, Node], Awaitable[Finding]]) -> Finding:
    """One check at each server that holds keys."""
    return together([(node.name, await look(patient, node)) for node in patient.nodes])


async def latency(patient: Patient) -> Finding:
    """How long one call takes, against the time that a call may take."""
    return await at_each(patient, _latency)


async def _latency(patient: Patient, node: Node) -> Finding:
    link = node.link
    key, taken = patient.names.key(_token(patient, node)), []
    try:
        for _ in range(_SAMPLES):
            began = time.perf_counter()
            await link.execute("EXISTS", key)
            taken.append(time.perf_counter() - began)
    except Unavailable as outage:
        return fail(outage.cause, cure(outage.cause, patient))
    except RedisCommandError:
        return skipped("EXISTS is not permitted")
    return _judge_latency(sorted(taken), patient.options.op_timeout)


def _judge_latency(taken: list[float], op_timeout: float) -> Finding:
    median, p99 = taken[len(taken) // 2], taken[ceil(len(taken) * 0.99) - 1]
    seen = f"a call takes {_ms(median)} (median), {_ms(p99)} (99th percentile of {len(taken)})"
    if median >= op_timeout:
        return fail(
            f"{seen}, and no call may wait longer than op_timeout, {_ms(op_timeout)}: every one is an outage",
            f"op_timeout={10 * p99:.2g} or more; or bring Redis nearer",
        )
    if p99 * 2 > op_timeout:
        return warn(
            f"{seen}, and op_timeout is {_ms(op_timeout)}: memory answers some calls in place of Redis",
            f"op_timeout={max(10 * p99, 0.02):.2g}, ten times the 99th percentile",
        )
    return ok(seen)


# -- what it permits


async def commands(patient: Patient) -> Finding:
    """Whether this user may do what a cache does, on the keys where it does it."""
    return await at_each(patient, _commands)


async def _commands(patient: Patient, node: Node) -> Finding:
    link = node.link
    refused: dict[str, str] = {}
    try:
        for command in _all_commands(patient, node):
            try:
                await link.execute(*command)
            except RedisCommandError as error:
                refused[_name_of(command)] = str(error)
    except Unavailable as outage:
        return fail(outage.cause, cure(outage.cause, patient))
    if not refused:
        return ok("everything that a cache asks for")
    seen = f"refused: {in_words(refused)} ({next(iter(refused.values()))})"
    if _OF_CALLS & refused.keys():
        return fail(seen, permit(patient))
    return warn(f"{seen}; the cache works, with less certainty after an outage", permit(patient))


def _all_commands(patient: Patient, node: Node) -> list[Command]:
    names, token = patient.names, _token(patient, node)
    probed = names.probe if node.slots is None else names.probe_in(node.slots)
    key, own = names.key(token), probed + b":" + token.encode()
    return [
        ("SET", key, b"1", "PX", _KEY_MS),
        ("GET", key),
        ("MGET", key),
        ("EXISTS", key),
        ("PTTL", key),
        ("PEXPIRE", key, _KEY_MS),
        ("PERSIST", key),
        ("SCAN", "0", "MATCH", names.pattern(token), "COUNT", 1),
        ("UNLINK", key),
        ("INFO", "server"),
        ("TIME",),
        ("CLIENT", "ID"),
        ("CLIENT", "SETNAME", "meshcache:doctor"),
        ("CLIENT", "LIST", "TYPE", "pubsub"),  # few, most likely
        ("CLIENT", "KILL", "ID", 2**62),  # nobody's
        ("HSET", own, "field", "1"),
        ("PEXPIRE", own, _KEY_MS),
        ("HGET", own, "field"),
        ("HLEN", own),
        ("HDEL", own, "none"),
        ("HVALS", own),
        ("HGETALL", own),
        ("DEL", own),
    ]


async def scripts(patient: Patient) -> Finding:
    """Whether the fence works: the script that brings an outage's writes to Redis without undoing newer ones."""
    return await at_each(patient, _scripts)


async def _scripts(patient: Patient, node: Node) -> Finding:
    link = node.link
    key, now = _token(patient, node), time.monotonic()
    op = Op(Kind.SET, key, make_stamp(time.time_ns() // 1_000_000, 0, 0), b"doctor", now + _KEY_MS / 1000)
    try:
        why = await _refusal_of_scripts(link)
        (applied,) = await apply(link, patient.names, [op], now, _KEY_MS)
        await link.execute("UNLINK", patient.names.key(key), patient.names.fence(key))
    except Unavailable as outage:
        return fail(outage.cause, cure(outage.cause, patient))
    except RedisCommandError as error:
        why, applied = str(error), False
    if applied:
        return ok("SCRIPT LOAD and EVALSHA, and fences beside the keys")
    return warn(
        f"the script of the fence may not run: {why or 'its keys are not permitted'}; "
        "what an outage has set is deleted in Redis afterwards, not written",
        permit(patient),
    )


async def _refusal_of_scripts(link: Link) -> str:
    script = b"return 1"
    digest = hashlib.sha1(script, usedforsecurity=False).hexdigest()
    for command in (("SCRIPT", "LOAD", script), ("EVALSHA", digest, 0)):
        try:
            await link.execute(*command)
        except RedisCommandError as error:
            return str(error)
    return ""


# -- what it forgets, and when


async def persistence(patient: Patient) -> Finding:
    """What Redis has after it was started anew: everything, nothing, or worst, what it had long ago."""
    return await at_each(patient, _persistence)


async def _persistence(_: Patient, node: Node) -> Finding:
    info = node.info
    if "aof_enabled" not in info:
        return skipped("INFO is not permitted")
    broken = [name for name in ("aof_last_write_status", "rdb_last_bgsave_status") if info.get(name) == "err"]
    if broken:
        return warn(
            f"Redis cannot save to its disk ({in_words(broken)}): it may refuse writes at any time", _CURES["MISCONF"]
        )
    if info["aof_enabled"]:
        return ok("an append-only file: after a crash at most the last second is missing, which the cache reckons with")
    return _judge_snapshots(await _snapshots(node.link, info))


def _judge_snapshots(saves: str | None) -> Finding:
    if saves is None:
        return ok("no append-only file; whether snapshots are taken, CONFIG GET and INFO may not tell")
    if not saves:
        return ok("nothing is saved: a new start is empty, which costs misses and tells no lies")
    return warn(
        f"snapshots ({saves}) without an append-only file: after a crash Redis has again what it had at the last one, "
        "with keys that were deleted since",
        "for a cache: CONFIG SET save '' (a new start is empty), or appendonly yes; and in redis.conf",
    )


async def _snapshots(link: Link, info: Mapping[str, Any]) -> str | None:
    """When snapshots are taken; empty if never; None if nobody may tell."""
    try:
        reply = await link.execute("CONFIG", "GET", "save")
        return str(reply[1].decode()) if reply else ""
    except (Unavailable, RedisCommandError):
        return f"{info['rdb_saves']} since the start" if info.get("rdb_saves") else None


async def eviction(patient: Patient) -> Finding:
    """What Redis does when its memory is full."""
    return await at_each(patient, _eviction)


async def _eviction(patient: Patient, node: Node) -> Finding:
    info = node.info
    if "maxmemory_policy" not in info:
        return skipped("INFO is not permitted, or does not tell")
    limit, used, policy = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0)), str(info["maxmemory_policy"])
    seen = f"{used / 2**20:.0f} MiB used of {f'{limit / 2**20:.0f} MiB' if limit else 'no limit'}, {policy}"
    if not limit:
        return warn(
            f"{seen}: it grows until the system ends it",
            "give it a limit: `maxmemory`, and `maxmemory-policy allkeys-lru`",
        )
    if policy == "noeviction":
        full = used * 100 >= limit * _FULL_PERCENT
        return warn(
            f"{seen}: {'it is nearly full, and then' if full else 'when it is full,'} writes are refused, which is an outage",
            _CURES["OOM"],
        )
    if policy.startswith("allkeys") and patient.options.secret is None:
        return warn(
            f"{seen}: the key of the mesh may be dropped too",
            "set a secret (MESHCACHE_SECRET): then nothing of it is in Redis",
        )
    return ok(seen)


async def clock(patient: Patient) -> Finding:
    """Whether this host and Redis agree on the time; so hosts can be compared that do not hear each other."""
    return await at_each(patient, _clock)


async def _clock(patient: Patient, node: Node) -> Finding:
    try:
        began = time.time()
        told = await _time(node.link)
        ended = time.time()
    except Unavailable as outage:
        return fail(outage.cause, cure(outage.cause, patient))
    if told is None:
        return skipped("neither INFO nor TIME tells the time here")
    ahead = (began + ended) / 2 - told
    seen = f"this host's clock is {in_seconds(ahead)} that of Redis"
    if abs(ahead) - (ended - began) / 2 > _CLOCK_SECONDS:
        return warn(seen, "set the clocks of both by NTP: of two writes in an outage the newer one by the clock wins")
    return ok(seen)


async def _time(link: Link) -> float | None:
    for command in (("INFO", "server"), ("TIME",)):
        try:
            reply = await link.execute(*command)
        except RedisCommandError:
            continue
        if command == ("TIME",):
            return int(reply[0]) + int(reply[1]) / 1e6
        for line in reply.decode("utf-8", "replace").splitlines():
            name, _, value = line.partition(":")
            if name == "server_time_usec":
                return int(value) / 1e6
    return None


def in_seconds(ahead: float) -> str:
    """A difference of two clocks, in words."""
    return f"{abs(ahead):.3f} s {'ahead of' if ahead > 0 else 'behind'}"


# -- words


def _token(patient: Patient, node: Node | None = None) -> str:
    """A key that nobody has, of this node if one is named."""
    token = f"meshcache-doctor:{secrets.token_hex(8)}"
    if node is None or node.has(patient.names.key(token)):
        return token
    return next(own for number in count() if node.has(patient.names.key(own := f"{token}:{number}")))


def _name_of(command: Command) -> str:
    words = 2 if command[0] == "CLIENT" else 1
    return " ".join(str(word) for word in command[:words])


def _words(error: Unavailable | RedisCommandError) -> str:
    return error.cause if isinstance(error, Unavailable) else str(error)


def cure(seen: str, patient: Patient) -> str:
    """What to do about something that was seen."""
    found = next((part for part in _CURES if part in seen), None)
    advice = "look at Redis' own log" if found is None else _CURES[found] or permit(patient)
    if "+sentinel://" in (patient.url or ""):
        advice += "; this goes for the sentinels in the URL and for the master that they name"
    return advice


def permit(patient: Patient) -> str:
    """What to do about a user who may not do enough."""
    namespace = patient.options.namespace
    return (
        f"permit it: ~{namespace}:* ~{{{namespace}* and the commands that docs/operations.md lists under "
        "“What Redis must permit” (ACL SETUSER)"
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"
