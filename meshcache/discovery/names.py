"""Names of hosts: looked up in worker threads, again and again, for ever.  Which names, and where they come from, is the sources'."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable

import anyio
import anyio.to_thread

__all__ = ["Candidate", "ask_again_and_again", "look_up"]

logger = logging.getLogger("meshcache")

Candidate = tuple[str, int]
"""IP address and UDP port."""

_ROUND_SECONDS = 10.0
_RETRY_SECONDS = 2.0
"""After a failure: a headless service has no name until its first instance is there."""


def look_up(host: str, port: int) -> list[Candidate]:
    """The addresses that the system's resolver knows for a name: ``/etc/hosts``, DNS, whatever it is set up for.  Blocks.

    Raises:
        OSError: there are none now.
    """
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except UnicodeError as error:  # a label of more than 63 characters
        raise OSError(str(error)) from error
    return [(ip, port) for ip in dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in answers)]


async def ask_again_and_again(
    what: str,
    ask: Callable[[], Iterable[Candidate]],
    found: Callable[[str, int], None],
    threads: anyio.CapacityLimiter,
) -> None:
    """Ask every 10 s, and every 2 s while it fails; until cancelled.  A spell of failures is one warning.

    Args:
        what: is asked for, for the warning.
        ask: called in a worker thread; raises ``OSError`` if there is no answer now.
        found: told of every answer, in the event loop.
        threads: of its own, so that a program which keeps all of anyio's busy does not keep peers from being found.
    """
    warned = False
    while True:
        try:
            # A resolver may take half a minute; nobody who closes the cache waits for it.
            candidates = await anyio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=threads)
        except OSError as error:
            if not warned:
                logger.warning("%s cannot be resolved now, it is tried again: %s", what, error.strerror or error)
            warned = True
            await anyio.sleep(_RETRY_SECONDS)
        else:
            warned = False
            for host, port in candidates:
                found(host, port)
            await anyio.sleep(_ROUND_SECONDS)
