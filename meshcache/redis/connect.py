"""Which link is used: redis-py's asyncio connections where asyncio runs, its blocking ones in threads elsewhere.

The implementations, and with them redis-py, are imported only when one is needed.
"""

from __future__ import annotations

import asyncio

from .link import CONNECTIONS, Link
from .url import parse_url

__all__ = ["in_asyncio_task", "open_link"]


def open_link(url: str, *, timeout: float, connections: int = CONNECTIONS) -> Link:
    """A link for the event loop that runs now; nothing is sent yet.

    Args:
        url: as :func:`~meshcache.redis.url.check_url` takes it.
        timeout: the longest that a call waits, in seconds.
        connections: how many connections it opens at most; further calls wait for a free one.

    Raises:
        ConfigError: the URL is wrong.
    """
    endpoint = parse_url(url)
    if in_asyncio_task():
        from .asyncio_link import AsyncioLink

        return AsyncioLink(endpoint, timeout=timeout, connections=connections)
    from .thread_link import ThreadLink

    return ThreadLink(endpoint, timeout=timeout, connections=connections)


def in_asyncio_task() -> bool:
    """Whether asyncio runs the caller; otherwise it is another event loop."""
    try:
        return asyncio.current_task() is not None  # None: another event loop is a guest of asyncio's
    except RuntimeError:
        return False
