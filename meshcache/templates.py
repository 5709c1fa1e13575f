"""How the arguments of a call become a key: ``user:{id}`` and a call with ``id=1`` make ``user:1``.

Two different lists of arguments never make one key, as far as the template names them.  That holds in two steps:

1. **A value becomes a text that no other value has.**  A ``str`` stands as it is; so do numbers, ``True``, ``False`` and
   ``None``; a ``str`` that could be read as one of them stands in quotes, like ``'1'``.  If the parameter is annotated with a
   plain type, then values of that type stand as they are and all others are marked: with ``id: str`` the call ``f("1")``
   makes ``1`` and ``f(1)`` makes ``int(1)``.  Of other types only those with an obvious text are taken: bytes, UUID,
   Decimal, date and time, enum members, and tuples, lists, dicts and sets of all these.
2. **The texts cannot run into each other.**  Between two fields there must be a sign, such as ``:``, that is neither letter
   nor digit.  The first such sign between any two fields, ``:`` and ``%`` are percent-encoded in the texts.  So in the
   key these signs stand where the template put them, and nowhere else.

Two kinds of equal values make two keys, which costs a load: ``1`` and ``1.0`` and ``True``.

What may not enter: caches, clocks, I/O.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from itertools import islice
from string import Formatter
from uuid import UUID

__all__ = ["KeyMaker", "key_maker"]

KeyMaker = Callable[[inspect.BoundArguments], str]
"""Makes the key of a call from its arguments, defaults applied."""

_PLAIN: Mapping[str, type] = {
    kind.__name__: kind for kind in (str, int, float, bool, bytes, UUID, Decimal, datetime, date, time, timedelta)
}
"""The types whose values stand as they are where a parameter is annotated with them."""

_PLAIN_ANYWHERE = (int, float, bool, type(None))
_WORDS = ("None", "True", "False")
_MARKS = frozenset("'\"()[]{}")
"""What a text begins with, or has in it, if it is not simply a word or a number."""


def key_maker(key: str | Callable[..., str] | None, function: Callable[..., object]) -> KeyMaker:
    """What makes the keys of a function's calls.

    Args:
        key: a template, a function of the same arguments, or None for a template of the function's name and all its
            parameters.
        function: the function.

    Raises:
        TypeError: ``key`` is neither.
        ValueError: the template is not one, or names what is no parameter; or there is no name to make one of.
    """
    if key is None:
        return _default(function)
    if isinstance(key, str):
        return _template(key, function)
    if not callable(key):
        raise TypeError(f"key must be a template such as 'user:{{id}}', or a function, not {type(key).__name__}")
    return lambda bound: key(*bound.args, **bound.kwargs)


def _default(function: Callable[..., object]) -> KeyMaker:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "<")
    parameters = list(inspect.signature(function).parameters)
    if not module or name.endswith((">", "<")):
        raise ValueError(f"{function!r} has no name to make keys of: pass key=")
    if parameters and parameters[0] in ("self", "cls"):
        raise ValueError(
            f"{name} is a method, and {parameters[0]} makes no key: pass key=, with what tells objects apart"
        )
    plain = _plain_types(function)
    encoder = _encoder(":%")

    def make(bound: inspect.BoundArguments) -> str:
        texts = (_text(bound.arguments[parameter], plain.get(parameter)) for parameter in parameters)
        return ":".join([f"{module}.{name}", *(text.translate(encoder) for text in texts)])

    return make


def _template(template: str, function: Callable[..., object]) -> KeyMaker:
    parts = list(_parts(template))
    plain = _plain_types(function)
    for _, name in parts:
        if name is not None:
            _check_name(name, template, function)
    if any("%" in literal for literal, _ in parts):
        raise ValueError(f"key={template!r}: a template has no %, which marks what is encoded in values")
    encoder = _encoder({":", "%", *_signs_between(parts, template)})

    def make(bound: inspect.BoundArguments) -> str:
        arguments = bound.arguments
        return "".join(
            literal if name is None else literal + _text(arguments[name], plain.get(name)).translate(encoder)
            for literal, name in parts
        )

    return make


def _parts(template: str) -> Iterable[tuple[str, str | None]]:
    """Literal texts, each with the field that follows it, if one does."""
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"key={template!r}: {error}") from None
    before = ""
    for literal, field, spec, conversion in parsed:
        if spec or conversion:
            raise ValueError(f"key={template!r}: {{{field}}} takes neither a format nor a conversion")
        before += literal
        if field is not None:
            yield before, field
            before = ""
    yield before, None


def _signs_between(parts: Iterable[tuple[str, str | None]], template: str) -> Iterator[str]:
    """The first sign between each two fields."""
    for literal, name in islice(parts, 1, None):
        if name is not None:
            sign = next((sign for sign in literal if not sign.isalnum()), None)
            if sign is None:
                problem = f"put a sign such as ':' before {{{name}}}, or two calls could make one key"
                raise ValueError(f"key={template!r}: {problem}")
            yield sign


def _check_name(name: str, template: str, function: Callable[..., object]) -> None:
    parameters = inspect.signature(function).parameters
    if name not in parameters:
        near = difflib.get_close_matches(name, parameters, 1)
        hint = f"; did you mean {{{near[0]}}}?" if near else f"; it has {', '.join(parameters) or 'none'}"
        what = f"{{{name}}} is no parameter of {getattr(function, '__qualname__', function)}"
        raise ValueError(f"key={template!r}: {what}{hint}")


def _plain_types(function: Callable[..., object]) -> Mapping[str, type]:
    """The plain types by the names of the parameters that are annotated with one, by the type itself or by its name."""
    return {
        name: _PLAIN[word]
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and isinstance(word := getattr(parameter.annotation, "__name__", parameter.annotation), str)
        and word in _PLAIN
        and parameter.annotation in (word, _PLAIN[word])
    }


def _encoder(signs: Iterable[str]) -> Mapping[int, str]:
    """For ``str.translate``: percent-encodes these signs."""
    return {ord(sign): "".join(f"%{byte:02X}" for byte in sign.encode()) for sign in signs}


# -- values


def _text(value: object, plain: type | None) -> str:
    """A text that no other value has where ``plain`` is the same.

    Raises:
        TypeError: there is none.
    """
    kind = type(value)
    if isinstance(value, str) and kind is str:
        return value if _stands_as_it_is(value, plain) else repr(value)
    if kind in _PLAIN_ANYWHERE or kind in _PLAIN.values():
        text = repr(value) if kind is bytes else str(value)
        return text if kind is plain or (plain is None and kind in _PLAIN_ANYWHERE) else f"{kind.__name__}({text})"
    if isinstance(value, Enum):
        name = value.name if str(value.name).isidentifier() else repr(value.name or value.value)
        return f"{kind.__module__}.{kind.__qualname__}({name})"
    return _text_of_many(value)


def _text_of_many(value: object) -> str:
    """A tuple, list, dict or set; in it every ``str`` stands in quotes."""
    kind = type(value)
    if kind is tuple or kind is list:
        opening, closing = "()" if kind is tuple else "[]"
        return opening + ",".join(map(_item, value)) + closing  # type: ignore[call-overload]
    if isinstance(value, dict) and kind is dict:
        return "{" + ",".join(sorted(f"{_item(key)}={_item(item)}" for key, item in value.items())) + "}"
    if kind is set or kind is frozenset:
        return f"{kind.__name__}({','.join(sorted(map(_item, value)))})"  # type: ignore[call-overload]
    raise TypeError(
        f"a {kind.__qualname__} has no text that tells it from every other: leave it out of the template, "
        "or pass a function as key="
    )


def _item(value: object) -> str:
    return repr(value) if type(value) is str else _text(value, None)


def _stands_as_it_is(text: str, plain: type | None) -> bool:
    if not _MARKS.isdisjoint(text):
        return False
    return plain is str or (plain is None and text not in _WORDS and not _is_number(text))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
