"""What ``cached`` makes of a function: what it is called with, and what cannot be wrapped."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from meshcache.cached import CachedFunction, check_unambiguous

pytestmark = pytest.mark.anyio


class Shelf:
    """Results in a dict, as they are."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    async def get_or_set(self, key: str, loader: Callable[[], Any]) -> Any:
        return self.values[key] if key in self.values else await self.refresh(key, loader)

    async def refresh(self, key: str, loader: Callable[[], Any]) -> Any:
        value = loader()
        self.values[key] = await value if isinstance(value, Awaitable) else value
        return self.values[key]

    async def delete(self, key: str) -> int:
        return int(self.values.pop(key, None) is not None)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def cached(shelf: Shelf, function: Callable[..., Any], key: Any = None) -> CachedFunction[..., Any]:
    return CachedFunction(function, key, get_or_set=shelf.get_or_set, refresh=shelf.refresh, delete=shelf.delete)


async def test_call_invalidate_refresh(shelf: Shelf) -> None:
    calls: list[tuple[int, bool]] = []

    async def load(id: int, *, full: bool = False) -> str:
        calls.append((id, full))
        return f"{id}, call {len(calls)}"

    load = cached(shelf, load, "user:{id}:{full}")
    assert await load(1) == await load(id=1) == await load(1, full=False) == "1, call 1"
    assert await load(1, full=True) == "1, call 2"
    assert await load.refresh(1) == await load(1) == "1, call 3"
    assert await load.invalidate(id=1) is True
    assert await load.invalidate(1) is False
    assert await load(1) == "1, call 4"
    assert calls == [(1, False), (1, True), (1, False), (1, False)]
    assert load.key(1) == "user:1:False"
    assert set(shelf.values) == {"user:1:False", "user:1:True"}


async def test_plain_functions_become_async(shelf: Shelf) -> None:
    assert await cached(shelf, lambda id: id * 2, "twice:{id}")(4) == 8


async def test_it_looks_like_the_function(shelf: Shelf) -> None:
    async def load(id: int) -> str:
        """What it does."""
        return ""

    wrapped = cached(shelf, load, "user:{id}")
    assert wrapped.__name__ == "load"
    assert wrapped.__doc__ == "What it does."
    assert inspect.signature(wrapped) == inspect.signature(load)
    assert inspect.iscoroutinefunction(wrapped.__call__)  # what web frameworks look at
    assert "load" in repr(wrapped)


async def test_methods(shelf: Shelf) -> None:
    class Users:
        def __init__(self, tenant: str) -> None:
            self.tenant = tenant

        async def load(self, id: int) -> str:
            return f"{self.tenant} {id}"

    def key(self: Users, id: int) -> str:
        return f"{self.tenant}:{id}"

    Users.load = cached(shelf, Users.load, key)  # type: ignore[method-assign]
    one, two = Users("one"), Users("two")
    assert await one.load(1) == "one 1"
    assert await two.load(id=1) == "two 1"
    assert await Users.load(one, 1) == "one 1"
    assert set(shelf.values) == {"one:1", "two:1"}
    assert await one.load.invalidate(1)
    assert await two.load.refresh(1) == "two 1"
    assert set(shelf.values) == {"two:1"}


@pytest.mark.parametrize("call", ["__call__", "invalidate", "refresh"])
async def test_wrong_arguments(shelf: Shelf, call: str) -> None:
    async def load(id: int) -> None: ...

    wrapped = cached(shelf, load, "user:{id}")
    for args, kwargs in [((), {}), ((1, 2), {}), ((1,), {"id": 1}), ((), {"other": 1})]:
        with pytest.raises(TypeError):
            await getattr(wrapped, call)(*args, **kwargs)


async def generator() -> Any:
    yield 1


@pytest.mark.parametrize("function", [1, "load", None, dict, generator, lambda: (yield)])
async def test_what_cannot_be_cached(shelf: Shelf, function: Any) -> None:
    with pytest.raises(TypeError):
        cached(shelf, function, "key")


async def test_what_else_can_be_called(shelf: Shelf) -> None:
    async def load(id: int, name: str) -> str:
        return f"{id} {name}"

    assert await cached(shelf, partial(load, 1), "user:{name}")("ada") == "1 ada"
    with pytest.raises(ValueError, match="pass key="):
        cached(shelf, partial(load, 1))


def test_a_function_made_twice_needs_a_key() -> None:
    """Both would make the same keys, and each would be given the other's results."""

    def make(factor: int) -> Callable[[int], int]:
        def times(number: int) -> int:
            return factor * number

        return times

    def plain(number: int) -> int:
        return number

    known: set[object] = set()
    check_unambiguous(make(2), known)
    with pytest.raises(ValueError, match="pass key="):
        check_unambiguous(make(3), known)
    check_unambiguous(make(3), set())
    check_unambiguous(plain, known)
    check_unambiguous(plain, known)
