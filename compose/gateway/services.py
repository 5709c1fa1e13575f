"""The two services, and all that the gateway has to do with its cache: keys, times to live, and what invalidates what.

No HTTP and no SQL here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import Any

from meshcache import MeshCache

from .database import Database

__all__ = ["Members", "RefusedError", "Translations"]

TRANSLATION_TTL = 3600.0
"""In seconds.  A translation does not change; it may as well stay."""

MENTIONS_TTL = 60.0
"""In seconds.  Lists are invalidated when they change.  But where a gateway cannot know yet that another has invalidated a
list which it is just loading, the old one is stored: this is how long it may then be wrong."""

LONGEST_TEXT = 500
SUGGESTIONS = 8
NAME = re.compile(r"[a-z0-9_-]{1,40}")


class RefusedError(Exception):
    """What was asked for makes no sense; nothing was changed.  The message is for the caller."""


class Translations:
    """Texts from one language into another, word by word; cached by text and pair of languages."""

    def __init__(self, cache: MeshCache, database: Database) -> None:
        self._cache = cache
        self._database = database

    async def translate(self, text: str, source: str, target: str) -> tuple[str, bool]:
        """The translation, and whether it came from the cache.

        Raises:
            RefusedError: the text is too long, or nobody knows these languages.
        """
        if not 0 < len(text) <= LONGEST_TEXT:
            raise RefusedError(f"text must have 1 to {LONGEST_TEXT} characters")
        digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()  # a key is short, a text need not be
        key = f"translation:{source}:{target}:{digest}"
        return await through(self._cache, key, TRANSLATION_TTL, lambda: self._load(text, source, target))

    async def _load(self, text: str, source: str, target: str) -> str:
        words = await self._database.words(source, target)
        if not words:
            raise RefusedError(f"there is no dictionary from {source!r} to {target!r}")
        return " ".join(words.get(word, word) for word in text.lower().split())


class Members:
    """The members of a workspace, and which of them ``@ad`` may mean; the lists are cached by what was typed."""

    def __init__(self, cache: MeshCache, database: Database) -> None:
        self._cache = cache
        self._database = database

    async def mentions(self, typed: str) -> tuple[list[str], bool]:
        """The first members whose names begin so, and whether the list came from the cache.

        Raises:
            RefusedError: what was typed does not begin with ``@``, or no name begins so.
        """
        if not typed.startswith("@"):
            raise RefusedError("q must be @ and the beginning of a name")
        prefix = typed[1:].lower()
        if prefix:
            check_name(prefix)
        return await through(
            self._cache, f"mentions:{prefix}", MENTIONS_TTL, lambda: self._database.members(prefix, SUGGESTIONS)
        )

    async def add(self, name: str) -> bool:
        """True if there was no such member.  Raises ``RefusedError`` for what is no name."""
        added = await self._database.add_member(check_name(name))
        await self._invalidate(name)
        return added

    async def remove(self, name: str) -> bool:
        """True if there was such a member.  Raises ``RefusedError`` for what is no name."""
        removed = await self._database.remove_member(check_name(name))
        await self._invalidate(name)
        return removed

    async def _invalidate(self, name: str) -> None:
        """Forget every list that the name can be in, on all gateways, whether Redis is there or not."""
        await self._cache.delete_many(f"mentions:{name[:length]}" for length in range(len(name) + 1))


async def through(cache: MeshCache, key: str, ttl: float, load: Callable[[], Awaitable[Any]]) -> tuple[Any, bool]:
    """What the cache has under the key, else what ``load`` gives, kept for ``ttl`` seconds; and whether the cache had it."""
    hit = True

    async def loader() -> Any:
        nonlocal hit
        hit = False
        return await load()

    return await cache.get_or_set(key, loader, ttl), hit


def check_name(name: str) -> str:
    """The name itself.  Raises ``RefusedError`` if it is none."""
    if not NAME.fullmatch(name):
        raise RefusedError("a name is 1 to 40 of a-z 0-9 _ -")
    return name
