"""Asks whether Redis can serve, who it is, and which key the mesh has.  One round trip each; when to ask is decided elsewhere."""

from __future__ import annotations

from typing import Final, NamedTuple

from ..errors import RedisCommandError
from .link import Link
from .names import Names

__all__ = ["Server", "agree_on_mesh_key", "probe"]

_PROBE_TTL_MS: Final = 60_000
_MESH_KEY_BYTES: Final = 32


class Server(NamedTuple):
    """The server that answered.

    Attributes:
        run_id: 40 hexadecimal digits, new at every start of the server; empty if INFO is not permitted.
        version: for example ``"7.2.4"``; empty if INFO is not permitted.
        software: ``"redis"`` or ``"valkey"``.
    """

    run_id: str = ""
    version: str = ""
    software: str = "redis"


async def probe(link: Link, names: Names) -> Server:
    """Write to Redis, and ask who it is.

    Only a write tells: a replica, a server that still loads, or one that cannot save to disk answers a PING.

    Raises:
        Unavailable: it cannot serve.
        RedisCommandError: the user may not write the probe's key.
    """
    written, info = await link.execute_many([("SET", names.probe, "1", "PX", _PROBE_TTL_MS), ("INFO", "server")])
    if isinstance(written, RedisCommandError):
        raise written
    return Server() if isinstance(info, RedisCommandError) else _server(info)


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


def _server(info: bytes) -> Server:
    lines = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
    fields = {name: value for name, _, value in lines}
    valkey = fields.get("valkey_version")  # a Valkey also calls itself some Redis, for old clients
    return Server(fields.get("run_id", ""), valkey or fields.get("redis_version", ""), "valkey" if valkey else "redis")
