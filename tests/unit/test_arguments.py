"""What a caller passes with each call."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.arguments import MAX_KEY_BYTES, check_amount, check_key, check_keys, check_pattern, ttl_to_ms

HUNDRED_YEARS = 100 * 366 * 86_400


class Name(StrEnum):
    USER = "user"


@pytest.mark.parametrize("check", [check_key, check_pattern])
@pytest.mark.parametrize("key", ["a", "é", "\1", "a\0", " ", "a b\n", "x" * 1024, "é" * 512, "😀" * 256, Name.USER])
def test_any_text_of_1_to_1024_bytes_is_a_key(check: Callable[[object], str], key: str) -> None:
    assert check(key) == key


@pytest.mark.parametrize(
    ("key", "error", "says"),
    [
        ("", ValueError, "must not be empty"),
        ("x" * 1025, ValueError, "at most 1024 bytes, not 1025"),
        ("é" * 513, ValueError, "at most 1024 bytes, not 1026"),
        ("\0", ValueError, "must not begin with a zero byte"),
        ("\0key", ValueError, "must not begin with a zero byte"),
        ("\ud800", ValueError, "encodable as UTF-8"),
        (b"bytes", TypeError, "must be str, not bytes"),
        (None, TypeError, "must be str, not NoneType"),
        (1, TypeError, "must be str, not int"),
    ],
)
def test_a_wrong_key_or_pattern_is_refused(key: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=f"^a key.*{says}"):
        check_key(key)
    with pytest.raises(error, match=f"^a pattern.*{says}"):
        check_pattern(key)
    with pytest.raises(error, match=says):
        check_keys(["good", key])


@given(st.text(max_size=1100))
def test_a_key_that_is_taken_fits_into_a_datagram(text: str) -> None:
    try:
        key = check_key(text)
    except ValueError:
        assert not text or text[0] == "\0" or max(text) > "\ud7ff" or len(text.encode()) > MAX_KEY_BYTES
    else:
        assert 0 < len(key.encode()) <= MAX_KEY_BYTES


def test_keys_come_from_any_iterable() -> None:
    assert check_keys(("a", "b")) == check_keys(iter("ab")) == check_keys({"a": 1, "b": 2}) == ["a", "b"]
    assert check_keys([]) == []


@pytest.mark.parametrize("keys", ["user:1", b"user:1", 5, None])
def test_one_key_is_not_a_list_of_letters(keys: Any) -> None:
    with pytest.raises(TypeError):
        check_keys(keys)


@pytest.mark.parametrize(
    ("ttl", "ms"),
    [
        (60, 60_000),
        (0.5, 500),
        (16.1, 16_100),  # 16.1 * 1000 is 16100.000000000002
        (0.0101, 11),
        (1e-9, 1),
        (5e-324, 1),
        (timedelta(minutes=1), 60_000),
        (timedelta(microseconds=1), 1),
        (timedelta(milliseconds=16_100), 16_100),
        (HUNDRED_YEARS, HUNDRED_YEARS * 1000),
        (math.inf, None),
    ],
)
def test_a_ttl_is_whole_milliseconds_rounded_up(ttl: Any, ms: int | None) -> None:
    assert ttl_to_ms(ttl) == ms


@given(st.integers(1, HUNDRED_YEARS * 1000))
def test_a_ttl_in_milliseconds_is_kept_to_the_millisecond(ms: int) -> None:
    assert ttl_to_ms(timedelta(milliseconds=ms)) == ms
    assert ttl_to_ms(ms / 1000) == ms


@given(st.floats(0, HUNDRED_YEARS, exclude_min=True))
def test_a_ttl_never_becomes_shorter_by_a_microsecond_nor_longer_by_a_millisecond(seconds: float) -> None:
    ms = ttl_to_ms(seconds)
    assert ms is not None
    assert ms >= 1
    assert seconds * 1000 - 0.001 <= ms <= max(1, seconds * 1000 + 1)


@pytest.mark.parametrize(
    "ttl",
    [
        0,
        0.0,
        -1,
        -0.001,
        -math.inf,
        math.nan,
        HUNDRED_YEARS + 1,
        1e308,
        10**400,
        timedelta(0),
        timedelta(-1),
        timedelta.max,
    ],
)
def test_a_ttl_out_of_range_is_refused(ttl: Any) -> None:
    with pytest.raises(ValueError, match=r"above 0 seconds and at most a hundred years \(math.inf: for ever\)"):
        ttl_to_ms(ttl)


@pytest.mark.parametrize("ttl", [None, "60", b"60", True, False, Decimal(60), [60]])
def test_a_ttl_of_another_type_is_refused(ttl: Any) -> None:
    with pytest.raises(TypeError, match="seconds or a timedelta, not"):
        ttl_to_ms(ttl)


def test_an_amount_is_an_int_of_64_bit() -> None:
    for amount in (0, 1, -1, 2**63 - 1, -(2**63)):
        assert check_amount(amount) == amount
    for amount in (2**63, -(2**63) - 1):
        with pytest.raises(ValueError, match="an amount must fit into 64 bit"):
            check_amount(amount)
    for wrong in (1.0, "1", True, None):
        with pytest.raises(TypeError, match="an amount must be int"):
            check_amount(wrong)
