"""Events for whoever listens.  A listener that is slow loses the oldest ones; it never holds anything up."""

from __future__ import annotations

from collections import deque
from weakref import WeakSet

import anyio

from ..events import Event

__all__ = ["Feed", "Subscription"]

_BACKLOG = 1000


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
            if self._woken.is_set():  # otherwise another task waits for this one already
                self._woken = anyio.Event()
            await self._woken.wait()
        return self._unread.popleft()

    def put(self, event: Event) -> None:
        """One more."""
        self._unread.append(event)
        self._woken.set()

    def close(self) -> None:
        """There will be no more: iteration ends once the unread ones are read."""
        self._closed = True
        self._woken.set()


class Feed:
    """Passes every event to every subscription that somebody still holds."""

    def __init__(self) -> None:
        self._subscriptions: WeakSet[Subscription] = WeakSet()
        self._closed = False

    def subscribe(self) -> Subscription:
        """Listen from now on, until the subscription is dropped."""
        subscription = Subscription()
        if self._closed:
            subscription.close()
        self._subscriptions.add(subscription)
        return subscription

    def put(self, event: Event) -> None:
        """Tell all who listen now."""
        for subscription in self._subscriptions:
            subscription.put(event)

    def close(self) -> None:
        """Nothing more will come."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.close()
