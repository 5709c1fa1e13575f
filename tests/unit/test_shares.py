"""The names and bytes of shares: what was packed is found again, and what is none is refused."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.arguments import MAX_KEY_BYTES, check_key
from meshcache.shares import (
    MAX_VALUE,
    MIN_VALUE,
    PREFIX_BYTES,
    Share,
    as_integer,
    counter_of,
    is_share,
    pack_share,
    share_id,
    share_key,
    slot_of,
    unpack_share,
)
from meshcache.stamp import make_stamp

STAMP = make_stamp(1_700_000_000_000, 3, 2**64 - 1)
keys = st.text(min_size=1, max_size=40).filter(lambda key: key.encode("utf-8", "replace").decode() == key)
int64 = st.integers(MIN_VALUE, MAX_VALUE)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**16 - 1), keys)
def test_a_share_has_a_name_that_says_whose_it_is(node_id: int, slot: int, key: str) -> None:
    name = share_key(node_id, slot, key)
    assert is_share(name)
    assert (counter_of(name), slot_of(name)) == (key, slot)
    assert share_id(name) == node_id.to_bytes(8, "big") + slot.to_bytes(2, "big")
    assert len(name) == PREFIX_BYTES + len(key)


def test_no_caller_can_name_one() -> None:
    with pytest.raises(ValueError, match="zero byte"):
        check_key(share_key(1, 0, "k"))
    assert check_key("k\0") == "k\0"
    assert check_key("k" * MAX_KEY_BYTES)


@given(int64, st.none() | st.integers(0, 2**42))
def test_a_share_is_read_back(total: int, beyond_ms: int | None) -> None:
    share = Share(STAMP, total, beyond_ms)
    assert unpack_share(pack_share(share)) == share


@pytest.mark.parametrize("data", [b"", b"5", pack_share(Share(STAMP, 5))[:-1], STAMP + b"\xff" * 7 + b"\xfe5", STAMP + b"\0" * 8 + b"x"])  # fmt: skip
def test_what_is_no_share_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a share"):
        unpack_share(data)


@pytest.mark.parametrize("name", ["\0", "\0" + "0" * 20, "\0" + "z" * 20 + "key", "\0" + "0 " * 10 + "key"])
def test_a_hidden_key_that_is_none_of_a_share(name: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whichever part is wrong
        share_id(name)


@given(int64)
def test_an_integer_is_what_redis_would_count(number: int) -> None:
    assert as_integer(b"%d" % number) == number


@pytest.mark.parametrize(
    "value", [b"", b"-", b"+1", b" 1", b"1 ", b"01", b"-0", b"1.0", b"1_0", b"\xd9\xa1", b"%d" % (2**63), b"9" * 400]
)
def test_what_redis_would_not_count(value: bytes) -> None:
    assert as_integer(value) is None


def test_a_sum_that_lua_could_not_reckon_with_goes_no_further() -> None:
    share = Share(STAMP, 2**53 - 2)
    assert (after := share.plus(1)) is not None
    assert after.sum == 2**53 - 1
    assert share.plus(2) is None
    assert Share(STAMP, MAX_VALUE).plus(-1) is None
    assert Share(STAMP, -(2**53) + 1).plus(-1) is None


def test_a_counter_may_outlive_its_series() -> None:
    assert Share(STAMP, 1, None).deadline(5.0) == inf
    assert Share(STAMP, 1, 1_500).deadline(5.0) == 6.5
