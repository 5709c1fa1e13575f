"""Every exception that meshcache raises on purpose, drawn as one tree.

    Exception
    └── MeshCacheError
        ├── ConfigError (ValueError)   an option, URL or environment variable is wrong      nothing was started
        ├── CodecError                 a value cannot be encoded, or bytes not decoded      nothing was changed
        ├── RedisCommandError          Redis refuses this command for good (WRONGTYPE, …)   Redis changed nothing
        └── ClosedError (RuntimeError) the cache is not open: not entered yet, or closed    nothing was changed

    ValueError, TypeError              a key, TTL or value is wrong in itself               nothing was changed
    TimeoutError                       ``wait_for_peers`` only                              nothing was changed
    RuntimeError                       a loader asks for the key that it loads              nothing was changed

All of these are the caller's to mend.  What is Redis' or the network's fault is an *outage*; it never reaches the caller
as an exception.  Inside the package it travels as :class:`Unavailable`, which no public call lets through.
"""

from __future__ import annotations

__all__ = ["ClosedError", "CodecError", "ConfigError", "MeshCacheError", "RedisCommandError", "Unavailable"]


class MeshCacheError(Exception):
    """The root of what meshcache raises on purpose."""


class ConfigError(MeshCacheError, ValueError):
    """An option is wrong.  Raised before anything is started.

    Attributes:
        option: the name of the option at fault, as it is written in ``MeshCache(...)``.
    """

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(option, problem)  # both, so that it can be pickled
        self.option = option

    def __str__(self) -> str:
        return ": ".join(self.args)


class CodecError(MeshCacheError):
    """The codec cannot encode this value, or what is stored was not written by this codec.  Nothing was changed."""


class RedisCommandError(MeshCacheError):
    """Redis understood the command and refuses it for good, for example ``WRONGTYPE`` or ``NOPERM``.

    Redis changed nothing.  For a call over several keys, those handled before the refused one may have been changed.
    """


class ClosedError(MeshCacheError, RuntimeError):
    """The cache is not open: it was not entered with ``async with``, or it has been closed.  Nothing was changed."""


class Unavailable(Exception):  # noqa: N818 - a condition that the package handles, not an error it reports
    """Redis could not answer: an outage, seen by one call.  Internal: the memory tier answers instead.

    Attributes:
        cause: one line for the operator's log, without secrets.
        timed_out: the call waited longer than ``op_timeout``; one such alone does not prove an outage.
        repeated: another call that timed out in the same round trip was told already, and Redis has answered what was sent
            after it: this one proves nothing more.
    """

    def __init__(self, cause: str, *, timed_out: bool = False, repeated: bool = False) -> None:
        super().__init__(cause)
        self.cause = cause
        self.timed_out = timed_out
        self.repeated = repeated
