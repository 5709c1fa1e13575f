"""A real server is asked whether a pattern matches a key, and so are we."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from meshcache.glob import matcher
from meshcache.testing.server import RedisServer

# Mostly what means something in a pattern, so that classes are unclosed, ranges reversed and backslashes last.  No class is
# a range with an end above 127: what that means depends on the machine (see meshcache/glob.py).
ALPHABET = "abz*?[]^\\-é\n"
ENDS_ABOVE_127 = re.compile("é-|-é")
PATTERNS = st.text(st.sampled_from(ALPHABET), min_size=1, max_size=14).filter(
    lambda pattern: not ENDS_ABOVE_127.search(pattern)
)
KEYS = st.text(st.sampled_from(ALPHABET), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def client() -> Iterator[redis.Redis]:
    with RedisServer() as server:
        yield server.client()


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PATTERNS, st.lists(KEYS, min_size=1, max_size=6, unique=True))
@example("[", ["[", "a"])
@example("[^", ["^", "a"])
@example("a\\", ["a", "a\\"])
@example("[a-]", ["a", "]", "-", "Z"])
@example("[]a]", ["]", "a", "a]"])
@example("[^]a", ["ba", "]a"])
@example("[\\", ["\\"])
@example("[--a]", ["-", "A", "b"])
@example("*a*a*a*a*a*b", ["a" * 40, "a" * 40 + "b"])
@example("?", ["é", "a"])
@example("??", ["é", "ab"])
@example("[é]?", ["é"])
def test_every_pattern_matches_the_keys_that_redis_matches(client: redis.Redis, pattern: str, keys: list[str]) -> None:
    client.flushall()
    client.mset(dict.fromkeys(keys, "1"))
    told = {key.decode() for key in client.keys(pattern)}
    assert {key for key in keys if matcher(pattern)(key)} == told
