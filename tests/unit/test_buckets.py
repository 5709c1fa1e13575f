"""The summary depends on what is known and on nothing else, whatever way it came about."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from meshcache.buckets import BUCKETS, HASH_BYTES, Buckets, Version, bucket_of, root_of
from meshcache.stamp import make_stamp


def summary(known: dict[tuple[str, bool], int], seed: int = 0) -> Buckets:
    buckets = Buckets()
    items = list(known.items())
    Random(seed).shuffle(items)
    for (key, is_sweep), n in items:
        buckets.put(key, make_stamp(n, 0, 1), is_sweep=is_sweep)
    return buckets


changes = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c", "*", "é"]), st.booleans(), st.integers(0, 5), st.booleans()), max_size=60
)


@given(changes)
def test_any_history_that_ends_the_same_gives_the_same_hashes(history: list[tuple[str, bool, int, bool]]) -> None:
    buckets, known = Buckets(), {}
    for key, is_sweep, n, is_put in history:
        if is_put:
            buckets.put(key, make_stamp(n, 0, 1), is_sweep=is_sweep)
            known[key, is_sweep] = n
        else:
            buckets.remove(key, is_sweep=is_sweep)
            known.pop((key, is_sweep), None)
    fresh = summary(known, seed=len(history))
    assert (buckets.root, buckets.hashes, len(buckets)) == (fresh.root, fresh.hashes, len(known))
    assert root_of(buckets.hashes) == buckets.root
    listed = [version for bucket in range(BUCKETS) for version in buckets.versions(bucket)]
    assert sorted(listed) == sorted(Version(key, make_stamp(n, 0, 1), is_sweep) for (key, is_sweep), n in known.items())


def test_every_difference_shows_in_the_root_and_in_its_own_bucket_only() -> None:
    known = {(f"user:{n}", False): n for n in range(500)}
    one = summary(known)
    for change in ({("user:7", False): 8}, {("new", False): 1}, {("user:7", True): 7}):
        other = summary(known | change)
        assert other.root != one.root
        [(key, _)] = change
        differing = [
            n
            for n in range(BUCKETS)
            if one.hashes[n * HASH_BYTES : (n + 1) * HASH_BYTES] != other.hashes[n * HASH_BYTES : (n + 1) * HASH_BYTES]
        ]
        assert differing == [bucket_of(key)]


def test_nothing_known() -> None:
    buckets = Buckets()
    assert buckets.root == bytes(HASH_BYTES)
    buckets.put("k", make_stamp(1, 0, 1))
    buckets.remove("unknown")
    buckets.clear()
    assert (buckets.root, buckets.hashes, len(buckets)) == (bytes(HASH_BYTES), bytes(BUCKETS * HASH_BYTES), 0)


def test_keys_spread_over_the_buckets() -> None:
    buckets = summary({(f"user:{n}", False): 1 for n in range(12_800)})
    sizes = [sum(1 for _ in buckets.versions(bucket)) for bucket in range(BUCKETS)]
    assert min(sizes) > 60
    assert max(sizes) < 150
