"""Events for whoever listens.  A listener that is slow loses the oldest ones; it never holds anything up."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from ..events import Event

__all__ = ["Feed", "Subscription"]

_BACKLOG = 1000


class Feed:
    """Passes every event to every subscription that is open."""

    def __init__(self) -> None:
        self._subscriptions: list[Subscription] = []
        self._closed = False

    def put(self, event: Event) -> None:
        """Tell all who listen now."""
        for subscription in self._subscriptions:
            subscription._put(event)

    def close(self) -> None:
        """Nothing more will come: iteration ends once the backlog is read."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription._close()

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """Listen from now on until the block ends."""
        subscription = Subscription()
        if self._closed:
            subscription._close()
        self._subscriptions.append(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.remove(subscription)


class Subscription:
    """An async iterator over the events since it was made, 1 000 unread ones at most."""

    def __init__(self) -> None:
        self._unread: deque[Event] = deque(maxlen=_BACKLOG)
        self._closed = False
        self._woken = anyio.Event()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        while not self._unread:
            if self._closed:
                raise StopAsyncIteration
            self._woken = anyio.Event()
            await self._woken.wait()
        return self._unread.popleft()

    def _put(self, event: Event) -> None:
        self._unread.append(event)
        self._woken.set()

    def _close(self) -> None:
        self._closed = True
        self._woken.set()
