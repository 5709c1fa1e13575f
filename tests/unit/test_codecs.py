"""The codecs: what goes in comes out, what cannot come out is refused on its way in, and garbage is a CodecError."""

from __future__ import annotations

import json
import math
from collections import OrderedDict, namedtuple
from datetime import UTC, datetime, timedelta, timezone
from enum import IntEnum, StrEnum
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meshcache.codecs import CODECS, BytesCodec, Codec, JsonCodec, MsgpackCodec, TextCodec
from meshcache.errors import CodecError

text = st.text(st.characters(exclude_categories=["Cs"]))
int64 = st.integers(-(2**63), 2**64 - 1)
aware = st.datetimes(
    datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.sampled_from([UTC, timezone(timedelta(hours=-5))])
)

msgpack_scalars = st.none() | st.booleans() | int64 | st.floats(allow_nan=False) | text | st.binary() | aware
msgpack_keys = st.none() | int64 | text | st.binary()
msgpack_values = st.recursive(
    msgpack_scalars, lambda inner: st.lists(inner) | st.dictionaries(msgpack_keys, inner), max_leaves=15
)
json_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
json_values = st.recursive(json_scalars, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=15)

Point = namedtuple("Point", "x y")


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Odd(dict[str, int]):
    """A mapping that fails half way."""

    def items(self) -> Any:
        raise LookupError("no items today")


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.fixture(params=sorted(CODECS))
def codec(request: pytest.FixtureRequest) -> Codec:
    return CODECS[request.param]()


def test_each_named_codec_has_its_name_and_the_face_of_a_codec(codec: Codec) -> None:
    assert isinstance(codec, Codec)
    assert CODECS[codec.name]().name == codec.name


# -- round trips


@given(msgpack_values)
def test_msgpack_gives_back_what_it_took(value: Any) -> None:
    codec = MsgpackCodec()
    assert codec.decode(codec.encode(value)) == value


@given(st.integers(-(2**63), 2**63 - 1))
def test_an_int_is_written_as_redis_counts_it(number: int) -> None:
    for name in ("msgpack", "json"):
        codec = CODECS[name]()
        assert codec.encode(number) == b"%d" % number
        assert codec.decode(b"%d" % number) == number


@given(msgpack_values.filter(lambda value: not isinstance(value, int) or isinstance(value, bool)))
def test_nothing_but_an_int_looks_like_one_in_msgpack(value: Any) -> None:
    data = MsgpackCodec().encode(value)
    assert data == msgpack.packb(value, datetime=True)
    assert not data.removeprefix(b"-").isdigit()


def test_other_ints_of_msgpack() -> None:
    codec = MsgpackCodec()
    assert codec.encode(Level.HIGH) == b"3"
    assert codec.decode(codec.encode(2**64 - 1)) == 2**64 - 1
    assert codec.decode(codec.encode(True)) is True
    assert codec.decode(codec.encode([48, -5])) == [48, -5]
    assert codec.decode(b"-") == 45  # msgpack, from another program
    for data in (b"--5", b"5-", b"1 ", b"1" * 5000):
        with pytest.raises(CodecError):
            codec.decode(data)


@given(json_values)
def test_json_gives_back_what_it_took(value: Any) -> None:
    codec = JsonCodec()
    assert codec.decode(codec.encode(value)) == value


@given(text)
def test_text_gives_back_what_it_took(value: str) -> None:
    assert TextCodec().decode(TextCodec().encode(value)) == value


@given(st.binary())
def test_bytes_gives_back_what_it_took(value: bytes) -> None:
    codec = BytesCodec()
    for view in (value, bytearray(value), memoryview(value), memoryview(value)[::2]):
        assert codec.decode(codec.encode(view)) == bytes(view)
        assert type(codec.encode(view)) is bytes


@pytest.mark.parametrize(
    ("value", "given_back"),
    [
        ((1, (2, 3)), [1, [2, 3]]),
        (Point(1, 2), [1, 2]),
        (OrderedDict(a=1), {"a": 1}),
        ([Colour.RED, {Colour.RED: Level.HIGH}], ["red", {"red": 3}]),
        (bytearray(b"x"), b"x"),
        (memoryview(b"x"), b"x"),
        (float("inf"), float("inf")),
        (datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2))), datetime(2026, 1, 1, 10, tzinfo=UTC)),
    ],
)
def test_msgpack_gives_back_plain_types(value: Any, given_back: Any) -> None:
    codec = MsgpackCodec()
    decoded = codec.decode(codec.encode(value))
    assert decoded == given_back
    assert type(decoded) is type(given_back)


def test_msgpack_keeps_nan() -> None:
    codec = MsgpackCodec()
    assert math.isnan(codec.decode(codec.encode(math.nan)))


def test_what_redis_holds_is_plain_for_any_other_client() -> None:
    value = {"name": "Ada", "tags": ["é", None]}
    assert msgpack.unpackb(MsgpackCodec().encode(value)) == value
    assert JsonCodec().encode(value) == '{"name":"Ada","tags":["é",null]}'.encode()
    assert TextCodec().encode("é") == "é".encode()
    assert BytesCodec().encode(b"\0") == b"\0"


@pytest.mark.parametrize(("codec", "value"), [(MsgpackCodec(), {"a": [1, {}]}), (JsonCodec(), {"a": [1, {}]})])
def test_a_decoded_value_is_never_shared(codec: Codec, value: Any) -> None:
    data = codec.encode(value)
    first = codec.decode(data)
    first["a"].append("mine")
    first["a"][1]["mine"] = True
    value["a"].append("changed after it was encoded")
    assert codec.decode(data) == {"a": [1, {}]}


@pytest.mark.parametrize("codec", [MsgpackCodec(), JsonCodec()])
def test_what_is_nested_as_deeply_as_any_sane_value_is_taken(codec: Codec) -> None:
    value = nested(200)
    assert codec.decode(codec.encode(value)) == value


# -- refusals


def refusals() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    pairs: list[tuple[Any, Any]] = [
        (MsgpackCodec, object()),
        (MsgpackCodec, {"a": [1, {2, 3}]}),
        (MsgpackCodec, 2**64),
        (MsgpackCodec, -(2**63) - 1),
        (MsgpackCodec, 10**5000),
        (MsgpackCodec, "\ud800"),
        (MsgpackCodec, {"\udfff": 1}),
        (MsgpackCodec, datetime(2026, 1, 1)),  # naive: nobody knows which moment that is
        (MsgpackCodec, nested(100_000)),
        (MsgpackCodec, cycle),
        (MsgpackCodec, {(1, 2): 3}),
        (MsgpackCodec, [{"a": {(): 3}}]),
        (MsgpackCodec, ["half", memoryview(b"abcd")[::2]]),
        (MsgpackCodec, ["half", Odd(a=1)]),
        (JsonCodec, object()),
        (JsonCodec, {"a": {2, 3}}),
        (JsonCodec, b"bytes"),
        (JsonCodec, math.nan),
        (JsonCodec, [math.inf]),
        (JsonCodec, "\ud800"),
        (JsonCodec, {(1, 2): 3}),
        (JsonCodec, 10**5000),
        (JsonCodec, nested(100_000)),
        (JsonCodec, cycle),
        (TextCodec, b"bytes"),
        (TextCodec, 1),
        (TextCodec, None),
        (TextCodec, "\ud800"),
        (BytesCodec, "text"),
        (BytesCodec, 3),  # not three zero bytes
        (BytesCodec, None),
        (BytesCodec, [1, 2]),
    ]
    return [pytest.param(codec(), value, id=f"{codec.name}-{type(value).__name__}") for codec, value in pairs]


@pytest.mark.parametrize(("codec", "value"), refusals())
def test_a_value_that_cannot_be_encoded_is_refused_and_leaves_nothing_behind(codec: Any, value: Any) -> None:
    good = b"good" if codec.name == "bytes" else "good"
    clean = codec.encode(good)
    with pytest.raises(CodecError) as caught:
        codec.encode(value)
    assert codec.name in str(caught.value)
    assert type(value).__name__ in str(caught.value) or codec.name == "text"
    assert codec.encode(good) == clean


def test_the_error_says_what_to_do() -> None:
    with pytest.raises(CodecError, match=r"store plain types .* or pass codec="):
        MsgpackCodec().encode(object())


# -- garbage


@given(st.binary(max_size=64) | st.binary(max_size=4).map(lambda head: head + b"\xdd\xff\xff\xff\xff"))
@example(b"")
@example(b"\xc1")
@example(b"\x01\x02")  # two objects
@example(b"\xdd\xff\xff\xff\xff")  # a list of four thousand million
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\xc6\xff\xff\xff\xff")
@example(b"\x91" * 100_000)
@example(b"\x81\x90\x01")  # a list as a key
@example(b"\xd4\x05x")  # an extension type
@example(b"\xd7\xff" + b"\xff" * 8)  # a moment that there is not
@example(b"\xa1\xff")  # not UTF-8
@example(b"[" * 100_000)
@example(b"NaN")
@example(b"-Infinity")
@example(b'"\xed\xa0\x80"')  # a lone surrogate, which is not UTF-8
@example(b"\xef\xbb\xbf1")
@example("1".encode("utf-16"))
@example(b"1" * 5000)
def test_bytes_of_another_program_give_a_value_or_a_codec_error_and_nothing_else(data: bytes) -> None:
    for make in CODECS.values():
        codec = make()
        try:
            codec.decode(data)
        except CodecError as error:
            complaint = str(error)
        else:
            continue
        assert codec.name in complaint
        assert len(complaint) < 200, "the bytes themselves have no place in a log"


@pytest.mark.parametrize(
    ("codec", "data"),
    [
        (MsgpackCodec(), b""),
        (MsgpackCodec(), b"\x01\x02"),
        (MsgpackCodec(), b"\xd4\x05x"),
        (MsgpackCodec(), b"\xdd\xff\xff\xff\xff"),
        (MsgpackCodec(), b"\x91" * 100_000),
        (JsonCodec(), b""),
        (JsonCodec(), b"{'a': 1}"),
        (JsonCodec(), b"NaN"),
        (JsonCodec(), b"[1] [2]"),
        (JsonCodec(), "1".encode("utf-16")),
        (JsonCodec(), b'"\xed\xa0\x80"'),
        (JsonCodec(), b"[" * 100_000),
        (TextCodec(), b"\xff"),
        (TextCodec(), b"\xed\xa0\x80"),
    ],
)
def test_what_is_not_of_this_codec_is_refused(codec: Codec, data: bytes) -> None:
    with pytest.raises(CodecError, match=f"not {codec.name}.* another program or codec"):
        codec.decode(data)


@given(json_values)
def test_json_reads_what_other_programs_write(value: Any) -> None:
    assert JsonCodec().decode(json.dumps(value, indent=2).encode()) == value
