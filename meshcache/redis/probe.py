"""Asks whether Redis can serve, who it is, and which key the mesh has.  One round trip each; when to ask is decided elsewhere."""

from __future__ import annotations

from typing import Final

from ..errors import RedisCommandError
from .link import Link, Server
from .names import Names

__all__ = ["agree_on_mesh_key", "probe"]

_PROBE_TTL_MS: Final = 60_000
_MESH_KEY_BYTES: Final = 32


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
    return Server() if isinstance(info, RedisCommandError) else Server.of(info)


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
