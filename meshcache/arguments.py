"""The checks of what a caller passes with each call: keys, patterns, amounts and times to live.  No call has an effect before them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from math import ceil, inf

from .shares import HIDDEN, MAX_VALUE, MIN_VALUE

__all__ = ["MAX_KEY_BYTES", "check_amount", "check_key", "check_keys", "check_pattern", "ttl_to_ms"]

MAX_KEY_BYTES = 1024
"""A key and its stamp must fit into one datagram, so that every delete can be told to the peers."""

_MAX_TTL = 100 * 366 * 86_400.0


def check_key(key: object) -> str:
    """The key itself.

    Raises:
        TypeError: it is not a ``str``.
        ValueError: it is empty, longer than 1 024 bytes as UTF-8, begins with a zero byte, or is not encodable (a lone
            surrogate).
    """
    if not isinstance(key, str):
        raise TypeError(f"a key must be str, not {type(key).__name__}")
    if key.isascii():
        size = len(key)
    else:
        try:
            size = len(key.encode())
        except UnicodeEncodeError as error:
            raise ValueError(f"a key must be encodable as UTF-8: {error.reason}") from None
    if not 0 < size <= MAX_KEY_BYTES:
        raise ValueError(
            "a key must not be empty" if not size else f"a key has at most {MAX_KEY_BYTES} bytes, not {size}"
        )
    if key[0] == HIDDEN:
        raise ValueError("a key must not begin with a zero byte: such keys are meshcache's own")
    return key


def check_keys(keys: Iterable[object]) -> list[str]:
    """The keys as a list.  Raises as :func:`check_key`, and TypeError for a bare ``str``, which iterates as letters."""
    if isinstance(keys, str | bytes):
        raise TypeError("keys must be a list of str, not one str")
    return [check_key(key) for key in keys]


def check_pattern(pattern: object) -> str:
    """The pattern itself; Redis' glob rules.  Raises as :func:`check_key`."""
    try:
        return check_key(pattern)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("a key", "a pattern")) from None


def check_amount(amount: object) -> int:
    """What a counter is to be changed by, itself.

    Raises:
        TypeError: it is not an ``int``.
        ValueError: it does not fit into 64 bit.
    """
    if not isinstance(amount, int) or isinstance(amount, bool):
        raise TypeError(f"an amount must be int, not {type(amount).__name__}")
    if not MIN_VALUE <= amount <= MAX_VALUE:
        raise ValueError("an amount must fit into 64 bit")
    return int(amount)


def ttl_to_ms(ttl: float | timedelta) -> int | None:
    """A time to live in whole ms, at least 1; None for ``math.inf``, which means for ever.

    Raises:
        TypeError: it is neither a number of seconds nor a ``timedelta``.
        ValueError: it is 0 or less, not a number, or longer than a hundred years.
    """
    if isinstance(ttl, timedelta):
        seconds: float = ttl.total_seconds()
    elif isinstance(ttl, int | float) and not isinstance(ttl, bool):
        if ttl == inf:
            return None
        seconds = ttl
    else:
        raise TypeError(f"a ttl must be a number of seconds or a timedelta, not {type(ttl).__name__}")
    if not 0 < seconds <= _MAX_TTL:  # NaN fails both
        raise ValueError(f"a ttl must be above 0 seconds and at most a hundred years (math.inf: for ever), not {ttl}")
    return max(1, ceil(round(seconds * 1000, 3)))  # 16.1 * 1000 is a little more than 16 100
