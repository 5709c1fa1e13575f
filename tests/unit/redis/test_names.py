"""The names of Redis keys: ours are found again, and what is kept beside them is never mistaken for them."""

from __future__ import annotations

from binascii import crc_hqx

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.glob import matcher
from meshcache.redis.names import Names, _SlotTags

KEYS = st.text(st.sampled_from("{}ab:é*"), min_size=1, max_size=8) | st.text(min_size=1, max_size=40).filter(
    lambda key: key.encode("utf-8", "replace").decode() == key
)
NAMESPACES = st.from_regex(r"[A-Za-z0-9_.:/@-]{1,12}", fullmatch=True)


def slot(key: bytes) -> int:
    """As the Redis Cluster Specification has it."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % 16_384


def test_a_key() -> None:
    names = Names("gateway")
    assert names.key("user:1") == b"gateway:user:1"
    assert names.key("ключ") == "gateway:ключ".encode()
    assert names.strip(b"gateway:user:1") == "user:1"
    assert names.strip(b"gateway2:user:1") is None
    assert names.strip(b"gateway:\xff") is None
    assert names.fence("user:1") == b"{gateway:user:1}:meshcache:fence"
    assert names.mesh_key == b"{gateway}:meshcache:key"


def test_a_pattern_takes_the_namespace_literally() -> None:
    names = Names("a-b.c")
    assert matcher(names.pattern("user:*").decode())("a-b.c:user:1")
    assert not matcher(names.pattern("user:*").decode())("a-bxc:user:1")
    assert not matcher(names.pattern("*").decode())("a-b.c")


@given(NAMESPACES, KEYS)
def test_a_key_is_found_again(namespace: str, key: str) -> None:
    assert Names(namespace).strip(Names(namespace).key(key)) == key


@given(NAMESPACES, KEYS)
def test_a_fence_is_in_the_slot_of_its_key(namespace: str, key: str) -> None:
    names = Names(namespace)
    assert slot(names.fence(key)) == slot(names.shares(key)) == slot(names.key(key))


@given(NAMESPACES, KEYS, NAMESPACES, KEYS)
def test_two_keys_have_two_fences(namespace: str, key: str, other_namespace: str, other: str) -> None:
    one, two = Names(namespace), Names(other_namespace)
    assert (one.fence(key) == two.fence(other)) == (one.key(key) == two.key(other))


@given(NAMESPACES, NAMESPACES, KEYS)
def test_what_is_kept_beside_is_outside_every_pattern(namespace: str, other_namespace: str, key: str) -> None:
    one, two = Names(namespace), Names(other_namespace)
    kept = [one.fence(key), one.shares(key), one.mesh_key, one.sweeps, one.probe]
    assert len(set(kept)) == 5
    for redis_key in kept:
        assert two.strip(redis_key) is None
        assert not matcher(two.pattern("*").decode())(redis_key.decode())


@pytest.mark.parametrize("key", ["a}b", "a{}b", "}{", "}"])
def test_keys_that_are_hashed_as_a_whole_but_cannot_be_a_tag(key: str) -> None:
    fence = Names("gw").fence(key)
    assert fence.endswith(b":meshcache:fence:gw:" + key.encode())
    assert fence.startswith(b"{")


def test_every_slot_has_a_tag_and_every_instance_the_same() -> None:
    tags = [_SlotTags(), _SlotTags()]
    for wanted in range(0, 16_384, 7):
        assert slot(tags[0][wanted]) == wanted
    for wanted in reversed(range(0, 16_384, 7)):
        assert tags[1][wanted] == tags[0][wanted]
