"""The registry: which instances of the namespace reach Redis, what each says of itself, and where it can be found.

A hash in Redis, one field an instance, each with a lease by the server's clock.  What follows from it is decided in
``standings``; the addresses are one more way to find peers, also where multicast does not reach.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from ..errors import RedisCommandError
from ..stamp import STAMP_BYTES, Stamp
from ..standings import Record, Standing
from .link import Link
from .names import Names
from .scripts import Script

__all__ = ["register"]

_NODE_BYTES: Final = 8
_MAX_ADDRESSES: Final = 64


async def register(link: Link, names: Names, record: Record, number: int, keep: float) -> list[Record]:
    """Register an instance, and read who else is registered, in one step.

    Args:
        link: the way to Redis.
        names: the keys.
        record: this instance's own; its ``lease`` is for how long, in seconds.
        number: grows with each registration of this instance.  One that was given up and arrives after a newer one changes
            nothing.
        keep: how long it is remembered after that, in seconds.

    Raises:
        Unavailable: Redis cannot serve; this instance may have been registered.
        RedisCommandError: scripts, or this key, are not permitted; or something else stands there.
    """
    body = msgpack.packb(
        [
            record.standing.plain,
            record.standing.clean,
            record.standing.plain_until,
            record.registered_ms,
            record.left,
            [part for address in record.addresses for part in address],
            record.standing.number,
            record.replays,
        ]
    )
    node = record.node_id.to_bytes(_NODE_BYTES, "big")
    command = _REGISTRY.command([names.registry], [node, body, int(record.lease * 1000), int(keep * 1000), number])
    (reply,) = await _REGISTRY.run(link, [command])
    if isinstance(reply, RedisCommandError):
        raise reply
    return [found for entry in reply if (found := _record(*entry)) is not None]


_REGISTRY: Final = Script("registry.lua")


def _record(node: bytes, lease_ms: int, body: bytes) -> Record | None:
    """One entry; None if it is not of this kind: a newer version's, or somebody else's."""
    if len(node) != _NODE_BYTES:
        return None
    try:
        fields: list[Any] = msgpack.unpackb(body, max_array_len=2 * _MAX_ADDRESSES, max_map_len=0, max_ext_len=0)
        plain, clean, plain_until, registered_ms, left, flat, number, replays, *_ = fields
        if len(plain_until) != STAMP_BYTES or not (isinstance(registered_ms, int) and isinstance(number, int)):
            return None
        addresses = tuple((str(host), int(port)) for host, port in zip(flat[::2], flat[1::2], strict=True))
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    standing = Standing(bool(plain), bool(clean), Stamp(bytes(plain_until)), number)
    lease, node_id = lease_ms / 1000, int.from_bytes(node, "big")
    return Record(node_id, standing, registered_ms, lease, bool(left), addresses, bool(replays))
