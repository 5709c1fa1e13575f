"""What both links have in common: commands become bytes here, and error replies are sorted out.  No I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final

import hiredis
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from ..errors import RedisCommandError, Unavailable
from .link import Argument, Command, Identity, Redirected, Shard, refusal
from .url import Endpoint

__all__ = ["BROKEN", "PackedLink", "as_reply", "pack", "pack_all", "refused_handshake"]

BROKEN: Final = (RedisError, OSError)
"""What redis-py raises when a connection breaks, once the error replies have been sorted out."""

pack: Final[Callable[[Command], bytes]] = hiredis.pack_command  # type: ignore[assignment]  # its stub knows 1-tuples only
"""One command in bytes."""


def pack_all(commands: Sequence[Command]) -> bytes:
    """Many commands in bytes.  A GET, of which there are a hundred at once, takes a third of the time that hiredis takes."""
    return b"".join(
        [
            b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(command[1]), command[1])
            if command[0] == "GET" and type(command[1]) is bytes and len(command) == 2
            else pack(command)
            for command in commands
        ]
    )


class PackedLink(ABC):
    """A :class:`~meshcache.redis.link.Link` to one server, whose round trips are made by a subclass.

    Of a node of a cluster, a ``Redirected`` stands in the place of a reply, too.
    """

    def __init__(self, endpoint: Endpoint, timeout: float, identity: Identity | None) -> None:
        self.in_flight = 0
        self.identity = identity or Identity(endpoint.name)
        self._in_cluster = endpoint.in_cluster
        self._server = endpoint.name
        self._timeout = timeout

    async def execute(self, *command: Argument) -> Any:
        """One command; see :class:`~meshcache.redis.link.Link`."""
        reply = (await self._call(pack(command), 1))[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def execute_many(self, commands: Sequence[Command]) -> list[Any]:
        """One pipeline; see :class:`~meshcache.redis.link.Link`."""
        if not commands:
            return []
        replies = await self._call(pack_all(commands), len(commands))
        if not self._in_cluster:
            for reply in replies:
                if isinstance(reply, Redirected):
                    raise reply
        return replies

    async def shards(self) -> Sequence[Shard]:
        """This one."""
        return [Shard(self)]

    @abstractmethod
    async def aclose(self) -> None:
        """Give up the connections; see :class:`~meshcache.redis.link.Link`."""

    @abstractmethod
    async def _call(self, request: bytes, count: int) -> list[Any]:
        """One round trip: packed commands to as many replies, each a value, a ``RedisCommandError`` or a ``Redirected``."""


def as_reply(error: RedisError, server: str) -> RedisCommandError | Redirected:
    """The reply that redis-py raised as an exception.

    Raises:
        Unavailable: the reply says that Redis cannot serve.
        RedisError: this very exception: no reply, but a broken connection.
    """
    text = _reply_text(error)
    if text is None:
        raise error
    meaning = refusal(text, server)
    if isinstance(meaning, Unavailable) and not isinstance(meaning, Redirected):
        raise meaning
    return meaning


def refused_handshake(error: RedisError, server: str) -> Unavailable | None:
    """What an error reply to the handshake means: whatever it says, no call gets through.  None: no reply, but a broken
    connection."""
    text = _reply_text(error)
    if text is None:
        return None
    meaning = refusal(text, server)
    return meaning if isinstance(meaning, Unavailable) else Unavailable(f"{server} refuses the connection: {meaning}")


def _reply_text(error: RedisError) -> str | None:
    """The whole error reply; redis-py takes the first word off those it knows, and keeps it as ``status_code``."""
    if error.status_code is not None:
        return f"{error.status_code} {error}"
    if isinstance(error, AuthenticationError):
        return f"WRONGPASS {error}"
    return str(error) if isinstance(error, ResponseError) else None
