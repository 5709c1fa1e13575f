"""A function whose results are kept in a cache: what ``@cache.cached(...)`` makes of it.

It can be made before the cache is open; only a call needs the cache.  What may not enter: how values are loaded and kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial, update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, overload

from .templates import KeyMaker, key_maker

__all__ = ["CachedFunction", "Decorator", "KeyedFunction", "check_unambiguous"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")

Loader = Callable[[], Any]


class KeyedFunction(Generic[P, R]):
    """A function, and the key of each of its calls.  Wrapped and called as a function or as a method.

    Args:
        function: what is called; neither a generator nor a class.
        key: a template, a function of the same arguments, or None; see ``templates``.

    Raises:
        TypeError: it is no function with one result, or ``key`` is of a wrong type.
        ValueError: the template does not fit the function.
    """

    def __init__(self, function: Callable[P, object], key: str | Callable[..., str] | None) -> None:
        if not callable(function) or isinstance(function, type):
            raise TypeError(f"only a function can be cached, not {function!r}")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{function.__qualname__} is a generator: it has no one result that could be kept")
        update_wrapper(self, function)  # type: ignore[arg-type]  # it wants a function; any object does
        self._function = function
        self._bound: tuple[Any, ...] = ()
        self._key: KeyMaker = key_maker(key, function)
        self._signature = inspect.signature(function)

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key of the call with these arguments.

        Raises:
            TypeError: the arguments do not fit the function, or one of them has no text that could stand in a key.
        """
        bound = self._signature.bind(*self._bound, *args, **kwargs)
        bound.apply_defaults()
        return self._key(bound)

    def __repr__(self) -> str:
        return f"<cached {self._function!r}>"

    def _loader(self, *args: P.args, **kwargs: P.kwargs) -> Loader:
        return partial(self._function, *self._bound, *args, **kwargs)

    def _bind(self, instance: object) -> Self:
        method = object.__new__(type(self))
        method.__dict__.update(self.__dict__)
        method._bound = (instance,)
        return method


class CachedFunction(KeyedFunction[P, R]):
    """A function whose results a :class:`~meshcache.MeshCache` keeps; made by its ``cached``.

    The call, :meth:`invalidate` and :meth:`refresh` take the arguments of the function and are awaited.
    """

    def __init__(
        self,
        function: Callable[P, object],
        key: str | Callable[..., str] | None,
        *,
        get_or_set: Callable[[str, Loader], Awaitable[Any]],
        refresh: Callable[[str, Loader], Awaitable[Any]],
        delete: Callable[[str], Awaitable[int]],
    ) -> None:
        super().__init__(function, key)
        self._get_or_set, self._refresh, self._delete = get_or_set, refresh, delete

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The result that is kept, or what the function says now.  Raises as ``get_or_set``, and as :meth:`key`."""
        value: R = await self._get_or_set(self.key(*args, **kwargs), self._loader(*args, **kwargs))
        return value

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Delete the result that is kept for these arguments; whether there was one.  Raises as ``delete``."""
        return bool(await self._delete(self.key(*args, **kwargs)))

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function now, and keep its result in place of what is there.

        If the key is written or deleted meanwhile, the result is returned but not kept.  Raises as ``get_or_set``; if the
        function raises, what is there stays.
        """
        value: R = await self._refresh(self.key(*args, **kwargs), self._loader(*args, **kwargs))
        return value

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self: CachedFunction[Concatenate[S, Q], R], instance: S, owner: type) -> CachedFunction[Q, R]: ...
    def __get__(self, instance: object, owner: type) -> Any:
        return self if instance is None else self._bind(instance)


class Decorator(Protocol):
    """Makes a cached function of a function, async or not."""

    @overload
    def __call__(self, function: Callable[P, Awaitable[R]], /) -> CachedFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> CachedFunction[P, R]: ...


def check_unambiguous(function: Callable[..., object], known: set[object]) -> None:
    """A function that has captured variables may not make its keys of its name twice: each time it is another function.

    Args:
        function: to be decorated without ``key``.
        known: the code of those before; this one's is added.

    Raises:
        ValueError: it was decorated before, with other variables.
    """
    if getattr(function, "__closure__", None):
        code = function.__code__
        if code in known:
            raise ValueError(
                f"{function.__qualname__} was made and cached before, with other variables captured: pass key=, "
                "with what tells the two apart"
            )
        known.add(code)
