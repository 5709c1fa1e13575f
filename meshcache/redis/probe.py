"""Asks whether Redis can serve, who it is, and which key the mesh has, and ends connections.  When to ask is decided elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from ..errors import RedisCommandError
from .link import ClientId, Command, Link, Server, Shard
from .names import Names
from .together import all_of

__all__ = ["agree_on_mesh_key", "end_connections", "end_connections_of", "probe"]

_PROBE_TTL_MS: Final = 60_000
_MESH_KEY_BYTES: Final = 32
_LISTED_CLIENT: Final = re.compile(rb"^id=(\d+) .*? name=(\S*) age=(\d+) ", re.MULTILINE)


async def probe(link: Link, names: Names) -> Server:
    """Write to Redis, and ask who it is.  Of a cluster, to every master, and only if each slot has one.

    Only a write tells: a replica, a server that still loads, or one that cannot save to disk answers a PING.

    Raises:
        Unavailable: it cannot serve.
        RedisCommandError: the user may not write the probe's key.
    """
    servers = await all_of([partial(_probe, shard, names) for shard in await link.shards()])
    return servers[0]._replace(run_id=",".join(sorted(server.run_id for server in servers if server.run_id)))


async def _probe(shard: Shard, names: Names) -> Server:
    probes: list[Command] = []
    if shard.slots is None:
        probes = [("SET", names.probe, "1", "PX", _PROBE_TTL_MS)]
    elif shard.slots:  # one that is getting its first slot takes no writes yet
        probes = [("SET", names.probe_in(shard.slots), "1", "PX", _PROBE_TTL_MS)]
    *written, info = await shard.link.execute_many([*probes, ("INFO", "server")])
    for reply in written:
        if isinstance(reply, Exception):
            raise reply
    return Server() if isinstance(info, RedisCommandError) else Server.of(info)


async def end_connections(link: Link, clients: Sequence[ClientId]) -> None:
    """Let the servers close connections, so that what was sent there arrives no more.  What is not permitted is left out.

    Raises:
        Unavailable: Redis cannot serve; some may have been closed.
    """
    if clients:
        await all_of([partial(_end_connections, shard.link, clients) for shard in await link.shards()])


async def _end_connections(link: Link, clients: Sequence[ClientId]) -> None:
    """Those of one server: elsewhere the same numbers are other people's."""
    (info,) = await link.execute_many([("INFO", "server")])
    here = "" if isinstance(info, RedisCommandError) else Server.of(info).run_id
    await link.execute_many([("CLIENT", "KILL", "ID", number) for run_id, number in clients if run_id == here])


async def end_connections_of(link: Link, client_names: Mapping[str, float]) -> None:
    """Let the servers close every connection of these names.  What is not permitted is left out.

    Args:
        link: the way to Redis.
        client_names: names as ``CLIENT LIST`` has them, and how old a connection must be, in seconds.

    Raises:
        Unavailable: Redis cannot serve; some may have been closed.
    """
    oldest = {name.encode(): int(seconds) for name, seconds in client_names.items()}
    await all_of([partial(_end_connections_of, shard.link, oldest) for shard in await link.shards()])


async def _end_connections_of(link: Link, oldest: Mapping[bytes, int]) -> None:
    (listed,) = await link.execute_many([("CLIENT", "LIST")])
    if isinstance(listed, bytes):
        clients = _LISTED_CLIENT.findall(listed)
        old = [int(number) for number, name, age in clients if name in oldest and int(age) >= oldest[name]]
        await link.execute_many([("CLIENT", "KILL", "ID", number) for number in old])


async def agree_on_mesh_key(link: Link, names: Names, mine: bytes) -> bytes:
    """The 32 bytes that the namespace has now: those in Redis, or ``mine`` if there were none.

    Raises:
        Unavailable: Redis cannot serve.
        RedisCommandError: the user may not, or something else stands in that key.
    """
    written, key = await link.execute_many([("SET", names.mesh_key, mine, "NX"), ("GET", names.mesh_key)])
    for reply in (key, written):
        if isinstance(reply, RedisCommandError):
            raise reply
    if not isinstance(key, bytes) or len(key) != _MESH_KEY_BYTES:
        raise RedisCommandError(f"{names.mesh_key.decode()} does not hold the {_MESH_KEY_BYTES} bytes of a mesh key")
    return key
