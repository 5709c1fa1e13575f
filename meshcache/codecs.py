"""How values become bytes and bytes values.  What Redis holds is exactly what the codec wrote: any client can read it.

``incr`` makes decimal text of a counter, whatever the codec, as Redis does: with "msgpack" and "json" it reads as an int, with
"text" and "bytes" as its digits.

Pickle is not offered: whoever can write to Redis could then run code in every gateway.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, runtime_checkable

import msgpack

from .errors import CodecError

__all__ = ["CODECS", "BytesCodec", "Codec", "JsonCodec", "MsgpackCodec", "TextCodec"]


@runtime_checkable
class Codec(Protocol):
    """What ``MeshCache(codec=...)`` takes.

    Both methods raise :class:`~meshcache.errors.CodecError` (any other exception is turned into one).  ``decode`` must
    return an object that no one else holds, unless it is immutable.  It is called for each read, but for a small value of
    an immutable type in memory once: ``bytes``, ``str``, ``int``, ``float``, ``bool``, ``None``, ``datetime``.
    """

    name: str

    def encode(self, value: Any) -> bytes:
        """Value to bytes."""
        ...

    def decode(self, data: bytes) -> Any:
        """Bytes to value."""
        ...


class MsgpackCodec:
    """msgpack: None, bool, int (64 bit), float, str, bytes, list, dict, aware datetime.

    Tuples come back as lists, subclasses as what they derive from, datetimes in UTC.

    A value that is a whole int is written as decimal text, which Redis can count, and which is no msgpack: that of one digit
    would be one of the ints 48 to 57, which are written as text too, and what is longer would have bytes left over.
    """

    name = "msgpack"

    def __init__(self) -> None:
        self._pack_plain = _packer(strict=True)
        self._pack = _packer(strict=False)

    def encode(self, value: Any) -> bytes:
        """Raises :class:`CodecError` for what msgpack does not have or would not give back; nothing was changed."""
        if isinstance(value, int) and not isinstance(value, bool) and _MIN_COUNTED <= value <= _MAX_COUNTED:
            return b"%d" % value
        try:
            return self._pack_plain(value)
        except Exception:  # noqa: BLE001, S110 - msgpack raises a dozen types, and a subclass of dict any other
            pass
        try:
            # There is a tuple or a subclass in it, or it cannot be encoded at all.  A tuple is fine but as a key of a
            # dict: that would be a list when it is read, which no dict takes.
            data = self._pack(value)
            _unpack(data)
        except Exception as error:
            raise CodecError(
                f"msgpack cannot encode this {type(value).__name__}: {error}; store plain types "
                "(dict, list, str, int, float, bytes, None; no tuple as a key), or pass codec= an object of your own"
            ) from error
        return data

    def decode(self, data: bytes) -> Any:
        """Raises :class:`CodecError` for bytes that are not one msgpack object, nor the decimal text of an int."""
        try:
            if data[:1] in _FIRST_OF_AN_INT and _AN_INT(data):
                return int(data)
            return _unpack(data)
        except Exception as error:
            raise CodecError(_not_of_this_codec("msgpack", error)) from error


class JsonCodec:
    """JSON, UTF-8, without spaces.  NaN and infinities are refused, since no other reader would take them.

    Tuples come back as lists, and every key of a dict as a str.
    """

    name = "json"

    def encode(self, value: Any) -> bytes:
        """Raises :class:`CodecError` for what JSON does not have; nothing was changed."""
        try:
            return _to_json(value).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise CodecError(f"json cannot encode this {type(value).__name__}: {error}") from error

    def decode(self, data: bytes) -> Any:
        """Raises :class:`CodecError` for bytes that are not JSON."""
        try:
            return _from_json(data.decode())
        except (ValueError, RecursionError) as error:
            raise CodecError(_not_of_this_codec("json", error)) from error


class TextCodec:
    """``str`` as UTF-8."""

    name = "text"

    def encode(self, value: Any) -> bytes:
        """Raises :class:`CodecError` for anything but a ``str``; nothing was changed."""
        if not isinstance(value, str):
            raise CodecError(f"codec 'text' takes str, not {type(value).__name__}")
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise CodecError(f"codec 'text' cannot encode this str: {error.reason}") from error

    def decode(self, data: bytes) -> str:
        """Raises :class:`CodecError` for bytes that are not UTF-8."""
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise CodecError(_not_of_this_codec("text", error)) from error


class BytesCodec:
    """Bytes as they are."""

    name = "bytes"

    def encode(self, value: Any) -> bytes:
        """Raises :class:`CodecError` for anything but ``bytes``, ``bytearray`` or ``memoryview``; nothing was changed."""
        if type(value) is bytes:
            return value
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        raise CodecError(f"codec 'bytes' takes bytes, not {type(value).__name__}")

    def decode(self, data: bytes) -> bytes:
        """Never fails."""
        return data


CODECS: Final[Mapping[str, Callable[[], Codec]]] = {
    "msgpack": MsgpackCodec,
    "json": JsonCodec,
    "text": TextCodec,
    "bytes": BytesCodec,
}
"""The codecs that have a name."""


_MIN_COUNTED: Final = -(2**63)
_MAX_COUNTED: Final = 2**63 - 1
_FIRST_OF_AN_INT: Final = frozenset(b"%c" % byte for byte in b"-0123456789")
_AN_INT: Final = re.compile(rb"-?[0-9]+").fullmatch


def _packer(*, strict: bool) -> Callable[[Any], bytes]:
    # strict: tuples and subclasses are a TypeError.
    return msgpack.Packer(datetime=True, autoreset=True, strict_types=strict).pack  # type: ignore[no-any-return]


def _unpack(data: bytes) -> Any:
    return msgpack.unpackb(data, raw=False, strict_map_key=False, timestamp=3, ext_hook=_refuse_extension)


def _refuse_extension(code: int, data: bytes) -> Any:
    raise CodecError(f"msgpack extension type {code} is not decoded")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_to_json: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
_from_json: Final = json.JSONDecoder(parse_constant=_refuse_constant).decode


def _not_of_this_codec(name: str, error: Exception) -> str:
    # Never the bytes themselves: they may be somebody's data, and errors are logged.
    return f"what is stored is not {name} ({type(error).__name__}): was the key written by another program or codec?"
