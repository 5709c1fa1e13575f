"""Marks for tests that wait for seconds of other people's timers: on fewer event loops than all three."""

from __future__ import annotations

import pytest

__all__ = ["on_asyncio_and_trio", "on_one_event_loop"]

on_asyncio_and_trio = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
"""uvloop runs the same code of ours as asyncio's own loop."""

on_one_event_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""Of what is about servers rather than about waiting for them."""
