"""Counters in Redis: shares are brought there by a script that adds of each what is new, exactly once.

Beside a counter stands a hash: of each share, what was added of it and when.  So a share may be brought to Redis again after
a reply that never came, by several instances, and in any order.  Counters themselves are what ``INCRBY`` makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, inf
from typing import Final, NamedTuple

from ..errors import RedisCommandError
from ..shares import counter_of, share_id, share_of
from ..stamp import STAMP_BYTES, Kind, Op, Stamp, make_stamp, stamp_ms
from .link import Argument, Command, Link
from .names import Names
from .scripts import Script, is_forbidden

__all__ = ["Counted", "bring_shares", "count"]

_MARGIN_MS: Final = 30_000
"""Redis remembers what was added for so much longer than anybody may bring it: on its way, a share may lose some seconds of its age."""

_NO_KEY: Final = -2


class Counted(NamedTuple):
    """Redis has a share.

    Attributes:
        value: the counter now.
        left_ms: its time to live; None for ever.
        fence: the stamp of its last stamped write, if that is newer than the series.
    """

    value: int
    left_ms: int | None
    fence: Stamp | None = None


async def bring_shares(link: Link, names: Names, ops: Sequence[Op], now: float, life_ms: int) -> list[bool]:
    """Bring shares to Redis that may be old, in pipelines of bounded size.

    Args:
        link: the way to Redis.
        names: the keys.
        ops: writes of shares.
        now: this moment on the clock of ``Op.expires_at``, in seconds.
        life_ms: how long a series can live.

    Returns:
        Of each whether Redis has it.  False if its series has ended, or the counter was written after it began; if the counter
        is no integer or would not fit into 64 bit; or if scripts are not permitted: then it is not counted at all.

    Raises:
        Unavailable: some of them may have been added.  To bring them again does no harm.
    """
    living = [op for op in ops if op.kind is Kind.SET and op.expires_at > now]
    commands = [_command(names, op, now, life_ms, _left_ms(op, now)) for op in living]
    added = {
        op.key for op, reply in zip(living, await _COUNT.run(link, commands), strict=True) if isinstance(reply, list)
    }
    return [op.key in added for op in ops]


async def count(
    link: Link, names: Names, op: Op, amount: int, *, now: float, life_ms: int, ttl_ms: int | None
) -> Counted:
    """Count now.

    Args:
        link: the way to Redis.
        names: the keys.
        op: the share, with the increment.
        amount: the increment alone.
        now: this moment on the clock of ``Op.expires_at``, in seconds.
        life_ms: how long a series can live.
        ttl_ms: the time to live of a counter that is made by this; None for ever.

    Where scripts are not permitted it is a plain INCRBY: then a connection that breaks at that moment may count twice.

    Raises:
        Unavailable: it may have been counted.
        RedisCommandError: it is no integer, or would not fit into 64 bit; or the user may not.
    """
    reply = await _COUNT.run_one(link, _command(names, op, now, life_ms, ttl_ms, "NOW"))
    if is_forbidden(reply):
        return await _count_without_script(link, names.key(counter_of(op.key)), amount, ttl_ms)
    if isinstance(reply, RedisCommandError):
        raise reply
    value, left_ms, *fence = reply
    return Counted(int(value), left_ms if left_ms >= 0 else None, Stamp(fence[0][:STAMP_BYTES]) if fence else None)


_COUNT: Final = Script("count.lua")


def _command(names: Names, op: Op, now: float, life_ms: int, ttl_ms: int | None, when: str = "") -> Command:
    share, key = share_of(op), counter_of(op.key)
    remembered_ms = _MARGIN_MS + max(0, ceil((op.expires_at - now) * 1000))
    arguments: list[Argument] = [
        share_id(op.key),
        share.series,
        op.stamp,
        share.sum,
        remembered_ms,
        "" if ttl_ms is None else ttl_ms,
        when,
        make_stamp(max(0, stamp_ms(op.stamp) - life_ms - _MARGIN_MS), 0, 0),
    ]
    return _COUNT.command([names.key(key), names.fence(key), names.shares(key)], arguments)


async def _count_without_script(link: Link, redis_key: bytes, amount: int, ttl_ms: int | None) -> Counted:
    before, value = await link.execute_many([("PTTL", redis_key), ("INCRBY", redis_key, amount)])
    if isinstance(value, RedisCommandError):
        raise value
    if before == _NO_KEY and ttl_ms is not None:
        await link.execute("PEXPIRE", redis_key, ttl_ms)
        return Counted(value, ttl_ms)
    return Counted(value, before if isinstance(before, int) and before >= 0 else None)


def _left_ms(op: Op, now: float) -> int | None:
    deadline = share_of(op).deadline(op.expires_at)
    return None if deadline == inf else max(1, ceil((deadline - now) * 1000))
