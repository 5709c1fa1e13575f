"""Lua scripts that Redis knows by their hash: run, and loaded where a server does not know them yet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any, Final

from ..errors import RedisCommandError
from .link import Argument, Command, Link, pipelines

__all__ = ["Script", "is_forbidden"]

_FORBIDDEN: Final = ("NOPERM", "NOSCRIPT", "ERR unknown command")
"""How replies begin where scripts may not be run; NOSCRIPT remains if they may not be loaded."""


class Script:
    """A file of this folder, behind ``newer.lua``."""

    def __init__(self, file: str) -> None:
        folder = files(__package__)
        self.text = folder.joinpath("newer.lua").read_bytes() + folder.joinpath(file).read_bytes()
        self.digest = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()

    def command(self, keys: Sequence[bytes], arguments: Sequence[Argument]) -> Command:
        """One run of it."""
        return ("EVALSHA", self.digest, len(keys), *keys, *arguments)

    async def run_one(self, link: Link, command: Command) -> Any:
        """The reply to one run; see :meth:`run`."""
        try:
            return await link.execute(*command)
        except RedisCommandError as refusal:
            if not _is_missing(refusal):
                return refusal
        (reply,) = await self.run(link, [command])
        return reply

    async def run(self, link: Link, commands: Iterable[Command]) -> list[Any]:
        """The replies to many runs; those that a server without the script did not run are run again, after loading it.

        A run that Redis refuses has a ``RedisCommandError`` in its place.

        Raises:
            Unavailable: some of them may have been run.
        """
        replies: list[Any] = []
        for some in pipelines(commands):
            got = await link.execute_many(some)
            missed = [i for i, reply in enumerate(got) if _is_missing(reply)]
            if missed:
                load: Command = ("SCRIPT", "LOAD", self.text)
                _, *again = await link.execute_many([load, *(some[i] for i in missed)])
                for i, reply in zip(missed, again, strict=True):
                    got[i] = reply
            replies += got
        return replies


def is_forbidden(reply: object) -> bool:
    """Whether this reply says that scripts may not be run."""
    return isinstance(reply, RedisCommandError) and str(reply).startswith(_FORBIDDEN)


def _is_missing(reply: object) -> bool:
    return isinstance(reply, RedisCommandError) and str(reply).startswith("NOSCRIPT")
