"""Redis' glob patterns.  That they match as a real server's is in tests/io/test_glob_like_redis.py."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.glob import MATCH_ALL, escape, matcher

keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
nasty = st.text(st.sampled_from("ab*?[]^\\-é"), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("user:*", ["user:", "user:1", "user:a:b", "user:\n"], ["user", "xuser:1"]),
        ("*:1", [":1", "user:1", "a:1:1"], ["user:11", "1"]),
        ("h?llo", ["hello", "hallo", "h\nllo"], ["hllo", "heello"]),
        ("h[ae]llo", ["hello", "hallo"], ["hillo"]),
        ("h[^e]llo", ["hallo"], ["hello"]),
        ("h[a-c]llo", ["hallo", "hbllo", "hcllo"], ["hdllo", "h-llo"]),
        ("h[c-a]llo", ["hallo", "hbllo", "hcllo"], ["hdllo"]),
        ("a\\*b", ["a*b"], ["axb", "ab", "a\\*b"]),
        ("a\\", ["a\\"], ["a"]),
        ("a[bc", ["ab", "ac"], ["a", "a[bc", "ad"]),
        ("a[", [], ["a", "a[", "ab"]),
        ("a[^", ["ab", "a^"], ["a"]),
        ("a[]b]", [], ["a]", "ab", "a]b]"]),
        ("a[^]", ["ab"], ["a"]),
        ("a[\\]]", ["a]"], ["a\\", "a"]),
        ("a[\\", ["a\\"], ["a"]),
        ("a[b-]", ["ab", "a]", "a^"], ["a-", "ac"]),
        ("a^b", ["a^b"], ["ab"]),
        ("a.b", ["a.b"], ["axb"]),
        ("é??", ["éé", "éab"], ["éa"]),
        ("*a*b*c*", ["abc", "xaxbxcx", "aabbcc"], ["acb", "ab"]),
        ("a**b", ["ab", "axxb"], ["a"]),
        ("*ab*ab", ["abab", "ababab", "abxab"], ["ab", "aab"]),
    ],
)
def test_patterns_match_as_the_manual_of_redis_says(pattern: str, matching: list[str], others: list[str]) -> None:
    matches = matcher(pattern)
    assert [key for key in matching if not matches(key)] == []
    assert [key for key in others if matches(key)] == []


@given(keys)
def test_a_star_matches_everything(key: str) -> None:
    assert matcher(MATCH_ALL)(key)
    assert matcher("**")(key)


@given(keys, keys)
def test_an_escaped_text_matches_itself_only(text: str, other: str) -> None:
    matches = matcher(escape(text))
    assert matches(text)
    assert matches(other) == (other == text)


@given(nasty, keys, keys)
def test_a_star_around_any_pattern_matches_wherever_it_stands(pattern: str, before: str, after: str) -> None:
    literal = escape(pattern)
    assert matcher(f"*{literal}*")(before + pattern + after)
    assert matcher(f"{escape(before)}*{literal}")(before + pattern)


@pytest.mark.parametrize(
    "pattern", ["*a" * 5 + "*b", "*a" * 400 + "*b", "*[a-z]*" * 30 + "b", "*?" * 300 + "b", "*aaaa" * 40 + "b"]
)
@pytest.mark.parametrize("key", ["a" * 1024, "a" * 1023 + "é"], ids=["ascii", "multibyte"])
def test_no_pattern_takes_long(pattern: str, key: str) -> None:
    matches = matcher(pattern)
    start = time.perf_counter()
    assert not matches(key)
    assert time.perf_counter() - start < 0.25  # a microsecond for each pair of bytes would be 1 s; backtracking, years
