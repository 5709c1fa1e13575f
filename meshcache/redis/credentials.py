"""User names and passwords that are asked for anew at each connection, so that a password may be rotated while running.

Takes redis-py's ``CredentialProvider`` or a plain function, and is a provider in its turn, for redis-py's connections.
redis-py itself is not imported.  What may not enter: when to connect, and what a refused password means.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

from anyio import CapacityLimiter, to_thread

from ..errors import ConfigError, Unavailable

__all__ = ["Credentials"]

_ONLY_FOR_COMPATIBILITY: Final = "CredentialProvider.get_credentials_async"
"""redis-py's own, which calls the blocking function in the event loop and complains."""

_THREADS: Final = 4
"""One that hangs must not take all threads of the program."""


class Credentials:
    """Asks somebody else for user and password.

    Args:
        source: redis-py's ``CredentialProvider``, or a function without arguments that returns a password, or a user name
            and a password.  It may block: it is called in a worker thread, unless the provider has an asyncio way of its
            own and asyncio runs.

    Raises:
        ConfigError: it is neither.
    """

    def __init__(self, source: Any) -> None:
        self._ask: Callable[[], Any] = getattr(source, "get_credentials", source)
        asynchronous = getattr(source, "get_credentials_async", None)
        if getattr(asynchronous, "__qualname__", "") == _ONLY_FOR_COMPATIBILITY:
            asynchronous = None
        self._ask_async: Callable[[], Any] | None = asynchronous
        self._limiter = CapacityLimiter(_THREADS)
        if isinstance(source, type) or not callable(self._ask) or inspect.iscoroutinefunction(self._ask):
            raise ConfigError(
                "credential_provider",
                "it must be a redis-py CredentialProvider, or a function (not async) that returns a password or a tuple "
                "of user name and password",
            )

    def get_credentials(self) -> tuple[str, ...]:
        """``(user, password)`` or ``(password,)``, asked for now.  May block.

        Raises:
            Unavailable: whoever was asked failed, or gave something else.
        """
        try:
            answer = self._ask()
        except Exception as error:  # noqa: BLE001 - it is anybody's code
            raise _failed(error) from None
        return _checked(answer)

    async def get_credentials_async(self) -> tuple[str, ...]:
        """:meth:`get_credentials` for asyncio; does not block."""
        if self._ask_async is None:
            return await self.get_credentials_in_thread()
        try:
            answer = await self._ask_async()
        except Exception as error:  # noqa: BLE001 - it is anybody's code
            raise _failed(error) from None
        return _checked(answer)

    async def get_credentials_in_thread(self) -> tuple[str, ...]:
        """:meth:`get_credentials` for any event loop; whoever is cancelled leaves the thread alone."""
        return await to_thread.run_sync(self.get_credentials, abandon_on_cancel=True, limiter=self._limiter)


def _failed(error: Exception) -> Unavailable:
    """Without the text of the error, which may hold a secret."""
    reason = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
    return Unavailable(f"the credential provider failed ({type(error).__name__}{reason})")


def _checked(answer: Any) -> tuple[str, ...]:
    words = (answer,) if isinstance(answer, str) else tuple(answer) if isinstance(answer, tuple | list) else ()
    if len(words) == 2 and not words[0]:
        words = words[1:]
    if not 1 <= len(words) <= 2 or not all(isinstance(word, str) and word for word in words):
        raise Unavailable("the credential provider gave neither a password nor a user name and a password")
    return words
