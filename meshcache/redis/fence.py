"""Stamped writes in Redis: applied only if newer than the last stamped write of the key, by a script, so atomically.

The fence of a key is a sidecar key with the stamp (16 bytes) and kind (1 byte) of that write, kept for a while.  Values stand
in plain keys.  Writes without a stamp know nothing of fences.  Where the user may not run scripts, everything becomes a
delete, which is always safe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import ceil, inf
from typing import Any, Final, Literal, NamedTuple

from ..errors import RedisCommandError
from ..stamp import STAMP_BYTES, Kind, Op, Stamp
from ..store import MAX_SWEEPS
from .link import Argument, Command, Link, pipelines
from .names import Names
from .scripts import Script, is_forbidden
from .tier import scan_pages

__all__ = [
    "Applied",
    "Condition",
    "Expires",
    "Outcome",
    "apply",
    "expire",
    "publish_sweeps",
    "read_sweeps",
    "sweep",
    "write",
]

Condition = Literal["", "NX", "XX", "AGAIN"]


async def apply(link: Link, names: Names, ops: Sequence[Op], now: float, fence_ttl_ms: int) -> list[bool]:
    """Bring stamped writes to Redis, in pipelines of bounded size.

    A set whose time is over is a delete.

    Args:
        link: the way to Redis.
        names: the keys.
        ops: of kind SET, DELETE or INVALIDATE.
        now: this moment on the clock of ``Op.expires_at``, in seconds.
        fence_ttl_ms: how long the fences are kept.

    Returns:
        For each op whether it was applied; False if the key has a stamp as new or newer, or if a set had to become a
        delete because scripts are not permitted.

    Raises:
        Unavailable: some of them may have been applied.  To apply them again does no harm.
        RedisCommandError: not even a delete is permitted.
    """
    outcomes = await write(link, names, ops, now, fence_ttl_ms)
    refused = [op for op, outcome in zip(ops, outcomes, strict=True) if isinstance(outcome, RedisCommandError)]
    await _unlink(link, (names.key(op.key) for op in refused))
    return [
        op.kind is not Kind.SET if isinstance(outcome, RedisCommandError) else isinstance(outcome, Applied)
        for op, outcome in zip(ops, outcomes, strict=True)
    ]


class Applied(NamedTuple):
    """A stamped write is in Redis.

    Attributes:
        existed: of a delete, whether there was such a key.
    """

    existed: bool


Outcome = Applied | Stamp | None | RedisCommandError
"""Applied; or refused, since Redis has this newer stamp; or refused by the condition; or not permitted."""


async def write(
    link: Link, names: Names, ops: Sequence[Op], now: float, fence_ttl_ms: int, condition: Condition = ""
) -> list[Outcome]:
    """Bring stamped writes to Redis under one condition, in pipelines of bounded size.

    Args:
        link: the way to Redis.
        names: the keys.
        ops: of kind SET, DELETE, INVALIDATE or SWEEP.
        now: this moment on the clock of ``Op.expires_at``, in seconds.
        fence_ttl_ms: how long the fences are kept.
        condition: ``"NX"``: only if there is no such key; ``"XX"``: only if there is one; ``"AGAIN"``: a plain write that was
            given up may have replaced what Redis has, so also what was applied already, and what is newer is deleted.

    Returns:
        The outcome of each op.

    Raises:
        Unavailable: some of them may have been applied.
    """
    replies = await _FENCE.run(link, [_fenced(names, op, now, fence_ttl_ms, condition) for op in ops])
    return [_outcome(reply) for reply in replies]


class Expires(NamedTuple):
    """What a new time to live was given to, where the key has a fence.

    Attributes:
        value: the value.
        stamp: its version now.
    """

    value: bytes
    stamp: Stamp


async def expire(
    link: Link, names: Names, key: str, ttl_ms: int | None, node_id: int, fence_ttl_ms: int
) -> Expires | bool:
    """Give the value that Redis has of a key a new time to live; that makes it no newer than it is.

    Returns:
        False if there is no such key; what the peers are to be told; or True if there is nothing to tell: the version of
        the value is not known, or it is no string.

    Raises:
        Unavailable: it may have been done.
        RedisCommandError: it is not permitted.
    """
    arguments: list[Argument] = ["" if ttl_ms is None else ttl_ms, node_id.to_bytes(8, "big"), fence_ttl_ms]
    (reply,) = await _EXPIRE.run(
        link, [_EXPIRE.command([names.key(key), names.fence(key), names.shares(key)], arguments)]
    )
    if isinstance(reply, RedisCommandError):
        raise reply
    if reply is None:
        return False
    return Expires(reply[0], Stamp(reply[1])) if reply else True


async def sweep(link: Link, names: Names, pattern: str, stamp: Stamp, fence_ttl_ms: int) -> int:
    """Delete every key that matches, but those with a stamp as new or newer.  Page by page: never blocks Redis for long.

    Returns:
        How many were deleted.

    It sets no fence where there was none; that older writes of such keys do not come back is what :func:`read_sweeps` is for.

    Raises:
        Unavailable: some of them may have been deleted.
        RedisCommandError: the user may not.
    """
    deleted = 0
    async for page in scan_pages(link, names, pattern):
        keys = [key for key in map(names.strip, page) if key is not None]
        deleted += sum(await apply(link, names, [Op(Kind.SWEEP, key, stamp) for key in keys], 0.0, fence_ttl_ms))
    return deleted


async def publish_sweeps(link: Link, names: Names, sweeps: Mapping[str, Stamp], fence_ttl_ms: int) -> None:
    """Tell in Redis which patterns were deleted, and when, for those that come back later.  The newest stamp wins.

    Where scripts are not permitted nothing is told: then nobody brings old sets to Redis either.

    Raises:
        Unavailable: Redis cannot serve.
        RedisCommandError: something else stands in that key.
    """
    words: list[Argument] = [word for sweep in sweeps.items() for word in sweep]
    if not words:
        return
    (reply,) = await _SWEEPS.run(link, [_SWEEPS.command([names.sweeps], [fence_ttl_ms, MAX_SWEEPS, *words])])
    if isinstance(reply, RedisCommandError) and not is_forbidden(reply):
        raise reply


async def read_sweeps(link: Link, names: Names) -> dict[str, Stamp]:
    """The patterns that were deleted in outages of the last ``fence_ttl``, with their stamps.

    Raises:
        Unavailable: Redis cannot serve.
        RedisCommandError: the user may not.
    """
    flat = await link.execute("HGETALL", names.sweeps)
    return {
        pattern.decode(): Stamp(stamp)
        for pattern, stamp in zip(flat[::2], flat[1::2], strict=True)
        if len(stamp) == STAMP_BYTES and _is_text(pattern)  # who else wrote there is not ours
    }


_FENCE: Final = Script("fence.lua")
_EXPIRE: Final = Script("expire.lua")
_SWEEPS: Final = Script("sweeps.lua")


def _fenced(names: Names, op: Op, now: float, fence_ttl_ms: int, condition: Condition) -> Command:
    arguments: list[Argument] = [op.stamp + bytes([op.kind]), fence_ttl_ms, condition]
    ttl_ms = None if op.expires_at == inf else ceil((op.expires_at - now) * 1000)
    if op.kind is Kind.SET and (ttl_ms is None or ttl_ms > 0):
        arguments.append(op.value)
        if ttl_ms is not None:
            arguments.append(ttl_ms)
    return _FENCE.command([names.key(op.key), names.fence(op.key), names.shares(op.key)], arguments)


def _outcome(reply: Any) -> Outcome:
    if isinstance(reply, list):
        return Applied(bool(reply[0]))
    return Stamp(reply[:STAMP_BYTES]) if isinstance(reply, bytes) else reply


async def _unlink(link: Link, redis_keys: Iterable[bytes]) -> None:
    for commands in pipelines(("UNLINK", key) for key in redis_keys):
        for reply in await link.execute_many(commands):
            if isinstance(reply, RedisCommandError):
                raise reply


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
