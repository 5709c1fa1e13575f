"""The store against a simple model, and what a user would notice of it one by one."""

from __future__ import annotations

import gc
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meshcache.buckets import Buckets, Version
from meshcache.stamp import Kind, Op, Stamp, make_stamp
from meshcache.store import ENTRY_OVERHEAD_BYTES, MAX_SWEEPS, NOT_DECODED, Entry, Store, add_sweep

NOW = 1000.0
TOMBSTONE_TTL = 20.0


def stamp(number: int, node: int = 1) -> Stamp:
    return make_stamp(number, 0, node)


def put(number: int, key: str = "key", value: bytes = b"value", expires_at: float = inf) -> Op:
    return Op(Kind.SET, key, stamp(number), value, expires_at)


def delete(number: int, key: str = "key") -> Op:
    return Op(Kind.DELETE, key, stamp(number))


def sweep(number: int, pattern: str) -> Op:
    return Op(Kind.SWEEP, pattern, stamp(number))


def expire_all(store: Store, now: float) -> None:
    for _ in range(10_000):
        if not store.expire(now, 100):
            return
    raise AssertionError("expire() never comes to an end")


@pytest.fixture
def store() -> Store:
    return Store(max_entries=100, max_bytes=1_000_000, tombstone_ttl=TOMBSTONE_TTL)


# -- reading


def test_recall_counts_what_it_finds_and_no_miss(store: Store) -> None:
    assert store.recall("key", NOW) is None
    store.apply(put(1, expires_at=NOW + 5), NOW)
    entry = store.recall("key", NOW)
    assert entry is not None
    assert entry.value == b"value"
    assert store.recall("key", NOW + 5) is None
    store.apply(delete(2), NOW)
    assert store.recall("key", NOW) is None
    assert (store.hits, store.misses) == (1, 0)


def shared(store: Store, key: str = "key") -> Entry:
    """An entry with a decoded value of 1 000 bytes."""
    entry = store.peek(key, NOW)
    assert entry is not None
    store.share(entry, "decoded", 1000)
    assert entry.decoded == "decoded"
    return entry


CHANGES: dict[str, Callable[[Store], object]] = {
    "written": lambda store: store.apply(put(2, value=b"other"), NOW),
    "deleted": lambda store: store.apply(delete(2), NOW),
    "expired": lambda store: store.expire(NOW + 61, 10),
    "found expired": lambda store: store.peek("key", NOW + 61),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_decoded_value_goes_with_the_value(store: Store, change: str) -> None:
    store.apply(put(1, expires_at=NOW + 60), NOW)
    without = store.bytes
    shared(store)
    assert store.bytes == without + 1000
    CHANGES[change](store)
    entry = store.peek("key", NOW)
    assert entry is not None
    assert entry.decoded is NOT_DECODED
    assert store.bytes == ENTRY_OVERHEAD_BYTES + len("key") + len(entry.value or b"")


@pytest.mark.parametrize("value", [b"value", b"other", b""])
def test_a_decoded_value_goes_with_the_value_of_a_copy(store: Store, value: bytes) -> None:
    store.put_copy("key", b"value", NOW + 60, now=NOW)
    entry = shared(store)
    assert store.put_copy("key", value, NOW + 90, now=NOW, newest=True)
    assert entry.decoded is NOT_DECODED
    assert store.bytes == ENTRY_OVERHEAD_BYTES + len("key") + len(value)
    shared(store)
    store.drop_copy("key")
    assert store.bytes == 0


def test_what_is_shared_counts_towards_the_bound() -> None:
    store = Store(max_entries=10, max_bytes=3 * ENTRY_OVERHEAD_BYTES + 100, tombstone_ttl=TOMBSTONE_TTL)
    store.apply(put(1, "a"), NOW)
    store.apply(put(2, "b"), NOW)
    shared(store, "a")
    store.apply(put(3, "c"), NOW)
    assert [key for key in "abc" if store.peek(key, NOW)] == ["b", "c"]


# -- the newest write wins


def test_a_value_is_read_until_it_expires(store: Store) -> None:
    assert store.apply(put(1, expires_at=NOW + 5), NOW)
    assert store.get("key", NOW + 4.999) == b"value"
    assert store.get("key", NOW + 5) is None
    assert (store.hits, store.misses) == (1, 1)


def test_an_empty_value_is_a_value(store: Store) -> None:
    store.apply(put(1, value=b""), NOW)
    assert store.get("key", NOW) == b""
    assert list(store.keys("*", NOW)) == ["key"]


@pytest.mark.parametrize("late", [put(1), delete(1), Op(Kind.INVALIDATE, "key", stamp(1)), put(2, value=b"other")])
def test_an_older_write_or_the_same_again_changes_nothing(store: Store, late: Op) -> None:
    store.apply(put(2), NOW)
    assert not store.apply(late, NOW)
    assert store.get("key", NOW) == b"value"


def test_a_deleted_key_is_not_brought_back_by_an_older_write(store: Store) -> None:
    store.apply(delete(2), NOW)
    assert not store.apply(put(1), NOW)
    assert store.get("key", NOW) is None
    assert store.apply(put(3), NOW)
    assert store.get("key", NOW) == b"value"


def test_an_expired_key_is_not_brought_back_by_an_older_write(store: Store) -> None:
    store.apply(put(2, expires_at=NOW + 1), NOW)
    expire_all(store, NOW + 3)
    assert not store.apply(put(1), NOW + 3)
    assert store.get("key", NOW + 3) is None


def test_of_two_writes_with_one_stamp_the_one_that_knows_the_value_wins(store: Store) -> None:
    invalidation = Op(Kind.INVALIDATE, "key", stamp(1))
    assert store.apply(invalidation, NOW)
    assert store.apply(put(1), NOW)
    assert not store.apply(invalidation, NOW)
    assert store.get("key", NOW) == b"value"


def test_a_write_that_arrives_expired_hides_what_was_there(store: Store) -> None:
    store.apply(put(1), NOW)
    assert store.apply(put(2, expires_at=NOW), NOW)
    assert store.get("key", NOW) is None
    assert store.bytes == ENTRY_OVERHEAD_BYTES + len("key")  # its value takes no room


def test_a_tombstone_is_forgotten_after_its_time(store: Store) -> None:
    store.apply(delete(2), NOW)
    expire_all(store, NOW + TOMBSTONE_TTL - 1)
    assert len(store) == 1
    expire_all(store, NOW + TOMBSTONE_TTL + 1)
    assert len(store) == 0
    assert store.bytes == 0


def test_what_expired_long_ago_goes_in_one_round_after_a_pause(store: Store) -> None:
    store.apply(put(1, expires_at=NOW + 1), NOW)
    expire_all(store, NOW + 10 * TOMBSTONE_TTL)
    assert len(store) == 0


@pytest.mark.parametrize("limit", [1, 3, 10])
def test_what_expires_together_goes_in_slices(store: Store, limit: int) -> None:
    for number in range(10):
        store.apply(put(number, f"key{number}", expires_at=NOW + 1), NOW)
    taken, more = 0, True
    while more:
        before = store.bytes
        more = store.expire(NOW + 2, limit)
        freed = before - store.bytes
        assert freed <= limit * len(b"value")
        taken += freed // len(b"value")
    assert taken == 10
    assert len(store) == 10  # as tombstones


# -- sweeps


def test_a_sweep_of_many_goes_bit_by_bit_and_is_not_noticed() -> None:
    store = Store(10_000, 10_000_000, TOMBSTONE_TTL, at_once=10)
    for number in range(1000):
        store.apply(put(number + 1, f"{'ab'[number % 2]}:{number}"), NOW)
    store.apply(sweep(2000, "a:*"), NOW)
    under_way = store.newest_sweep
    assert under_way is not None
    assert len(store) == 1000
    assert store.get("a:0", NOW) is None
    assert store.peek("a:2", NOW) is None
    assert len(list(store.keys("*", NOW))) == 500
    store.apply(put(3000, "a:4"), NOW)
    store.sweep_on(NOW, 100)
    assert 0 < under_way.left < 1000
    expire_all(store, NOW)
    assert (under_way.left, under_way.count, len(store)) == (0, 500, 501)


def test_a_sweep_leaves_the_others_in_their_order() -> None:
    store = Store(10_000, 10_000_000, TOMBSTONE_TTL, at_once=10)
    for number in range(1000):
        store.apply(put(number + 1, f"{'ab'[number % 2]}:{number}"), NOW)
    store.apply(sweep(2000, "a:*"), NOW)
    expire_all(store, NOW)
    assert list(store.keys("*", NOW)) == [f"b:{number}" for number in range(1, 1000, 2)]


def test_what_a_sweep_of_everything_deletes_is_counted_bit_by_bit() -> None:
    store = Store(10_000, 10_000_000, TOMBSTONE_TTL, at_once=10)
    for number in range(1000):
        store.apply(put(number + 1, str(number), expires_at=NOW + (number % 2)), NOW)
    store.apply(delete(1500, "deleted"), NOW)
    store.apply(sweep(2000, "*"), NOW)
    under_way = store.newest_sweep
    assert under_way is not None
    assert (len(store), under_way.left) == (0, 1001)
    store.apply(put(3000, "new"), NOW)
    expire_all(store, NOW + 0.5)
    assert (under_way.left, under_way.count, len(store)) == (0, 500, 1)


def test_a_sweep_deletes_what_is_older_and_matches(store: Store) -> None:
    for key in ("a:1", "a:2", "b:1"):
        store.apply(put(1, key), NOW)
    store.apply(put(9, "a:new"), NOW)
    assert store.apply(sweep(5, "a:*"), NOW)
    assert sorted(store.keys("*", NOW)) == ["a:new", "b:1"]
    assert store.sweeps == {"a:*": stamp(5)}


def test_a_sweep_refuses_older_writes_that_come_after_it(store: Store) -> None:
    store.apply(sweep(5, "a:*"), NOW)
    assert not store.apply(put(4, "a:1"), NOW)
    assert store.apply(put(6, "a:1"), NOW)
    assert store.apply(put(4, "b:1"), NOW)


def test_an_older_sweep_of_the_same_pattern_or_the_same_again_changes_nothing(store: Store) -> None:
    store.apply(sweep(5, "a:*"), NOW)
    assert not store.apply(sweep(5, "a:*"), NOW)
    assert not store.apply(sweep(4, "a:*"), NOW)
    assert store.sweeps == {"a:*": stamp(5)}


def test_a_sweep_is_forgotten_after_its_time(store: Store) -> None:
    store.apply(sweep(5, "a:*"), NOW)
    store.expire(NOW + TOMBSTONE_TTL - 0.1, 10)
    assert not store.apply(put(4, "a:1"), NOW)
    store.expire(NOW + TOMBSTONE_TTL, 10)
    assert not store.sweeps
    assert store.apply(put(4, "a:1"), NOW + TOMBSTONE_TTL)


def test_too_many_sweeps_become_one_of_everything(store: Store) -> None:
    store.apply(put(1, "old"), NOW)
    store.apply(put(999, "new"), NOW)
    for number in range(MAX_SWEEPS):
        store.apply(sweep(100 + number, f"{number}:*"), NOW)
    assert sorted(store.keys("*", NOW)) == ["new", "old"]
    store.apply(sweep(50, "one more"), NOW)
    assert list(store.keys("*", NOW)) == ["new"]
    assert store.sweeps == {"*": stamp(100 + MAX_SWEEPS - 1)}  # the newest of all, not the last
    assert not store.apply(put(100 + MAX_SWEEPS - 2, "whatever"), NOW)


def test_a_remembered_sweep_keeps_its_newest_stamp() -> None:
    sweeps: dict[str, Stamp] = {}
    assert add_sweep(sweeps, "a:*", stamp(5)) == "a:*"
    assert add_sweep(sweeps, "a:*", stamp(4)) == "a:*"
    assert sweeps == {"a:*": stamp(5)}


# -- bounds


def test_the_least_recently_used_goes_first_and_a_read_counts_as_use() -> None:
    store = Store(max_entries=3, max_bytes=1_000_000, tombstone_ttl=TOMBSTONE_TTL)
    for number, key in enumerate("abc"):
        store.apply(put(number, key), NOW)
    store.get("a", NOW)
    store.peek("b", NOW)  # leaves no trace
    store.apply(put(9, "d"), NOW)
    assert list(store.keys("*", NOW)) == ["c", "a", "d"]
    assert store.evictions == 1


def test_what_just_fits_stays_and_a_byte_more_does_not() -> None:
    store = Store(10, 2 * (ENTRY_OVERHEAD_BYTES + len("a") + 5), TOMBSTONE_TTL)
    store.apply(put(1, "a", b"12345"), NOW)
    store.apply(put(2, "b", b"12345"), NOW)
    assert list(store.keys("*", NOW)) == ["a", "b"]
    store.apply(put(3, "b", b"123456"), NOW)
    assert list(store.keys("*", NOW)) == ["b"]


def test_tombstones_count_as_well() -> None:
    store = Store(max_entries=2, max_bytes=1_000_000, tombstone_ttl=TOMBSTONE_TTL)
    store.apply(put(1, "a"), NOW)
    store.apply(delete(2, "b"), NOW)
    store.apply(delete(3, "c"), NOW)
    assert len(store) == 2
    assert store.get("a", NOW) is None


def test_a_value_that_does_not_fit_at_all_is_a_miss_and_evicts_nothing() -> None:
    store = Store(max_entries=10, max_bytes=3 * ENTRY_OVERHEAD_BYTES, tombstone_ttl=TOMBSTONE_TTL)
    store.apply(put(1, "a"), NOW)
    store.apply(put(2, "b"), NOW)
    assert store.apply(put(3, "a", bytes(3 * ENTRY_OVERHEAD_BYTES)), NOW)
    assert store.get("a", NOW) is None  # never the old value
    assert store.get("b", NOW) == b"value"
    assert store.evictions == 0


def test_clear_forgets_stamps_and_sweeps_as_well(store: Store) -> None:
    store.apply(put(5, "a", expires_at=NOW + 1), NOW)
    store.apply(sweep(4, "b*"), NOW)
    store.clear()
    assert (len(store), store.bytes, dict(store.sweeps)) == (0, 0, {})
    assert store.apply(put(1, "a"), NOW)
    assert store.apply(put(1, "b"), NOW)
    expire_all(store, NOW + 2)
    assert sorted(store.keys("*", NOW + 2)) == ["a", "b"]


def test_an_entry_costs_what_is_counted_for_it() -> None:
    count, value = 50_000, 100
    store = Store(count, 10**12, 3600.0)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for i in range(count):
            store.apply(put(i, f"user:{i:08d}", bytes(value), NOW + 60 + i % 3600), NOW)
        gc.collect()
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert store.bytes == count * (ENTRY_OVERHEAD_BYTES + len("user:00000000") + value)
    assert 0.7 < (used - count * (len("user:00000000") + value)) / (count * ENTRY_OVERHEAD_BYTES) < 1.3


def test_writing_a_key_again_and_again_with_other_times_to_live_costs_no_memory(store: Store) -> None:
    store.apply(put(0, expires_at=NOW + 1), NOW)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for i in range(1, 20_000):
            store.apply(put(i, expires_at=NOW + 10 * i), NOW)
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(store) == 1
    assert used < 50_000


# -- any order of the same writes


@st.composite
def writes(draw: st.DrawFn) -> list[Op]:
    numbers = draw(st.lists(st.integers(0, 50), unique=True, max_size=15))
    ops = []
    for number in numbers:
        kind = draw(st.sampled_from(Kind))
        if kind is Kind.SWEEP:
            ops.append(sweep(number, draw(st.sampled_from(["*", "a*", "?1"]))))
        else:
            value = b"%d" % number if kind is Kind.SET else b""
            ops.append(Op(kind, draw(st.sampled_from(["a1", "a2", "b1", "b2"])), stamp(number), value))
    return ops


@given(writes().flatmap(lambda ops: st.tuples(st.just(ops), st.permutations(ops + ops[: len(ops) // 2]))))
def test_the_same_writes_in_any_order_and_twice_give_the_same_values(both: tuple[list[Op], list[Op]]) -> None:
    states = []
    for ops in both:
        store = Store(max_entries=100, max_bytes=1_000_000, tombstone_ttl=TOMBSTONE_TTL)
        for op in ops:
            store.apply(op, NOW)
        states.append({key: store.get(key, NOW) for key in list(store.keys("*", NOW))})
    assert states[0] == states[1]


# -- the model

MAX_ENTRIES = 5
MAX_BYTES = 4 * ENTRY_OVERHEAD_BYTES + 500
KEYS = ["a", "b", "aa", "ab", "ba", "bb", "é" * 9]
PATTERNS: dict[str, Callable[[str], bool]] = {
    "*": lambda key: True,
    "a*": lambda key: key.startswith("a"),
    "?b": lambda key: len(key) == 2 and key[1] == "b",
}


@dataclass
class Known:
    """What the model knows of a key."""

    stamp: Stamp
    kind: Kind
    value: bytes | None
    expires_at: float
    dead_at: float

    def readable(self, now: float) -> bool:
        return self.value is not None and self.expires_at > now


class StoreAgainstModel(RuleBasedStateMachine):
    """A store so small that it evicts all the time, beside a dictionary that is always right."""

    max_entries = MAX_ENTRIES
    max_bytes = MAX_BYTES
    at_once = MAX_ENTRIES

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.store = Store(self.max_entries, self.max_bytes, TOMBSTONE_TTL, at_once=self.at_once)
        self.model: OrderedDict[str, Known] = OrderedDict()
        self.sweeps: dict[str, Stamp] = {}
        self.sweeps_end = -inf
        self.newest_evicted = b""
        self.hits = self.misses = self.evictions = 0

    def look(self, key: str) -> Entry | None:
        """The entry as it is: before all time, nothing has expired."""
        return self.store.peek(key, -inf)

    @rule(
        kind=st.sampled_from([Kind.SET, Kind.SET, Kind.SET, Kind.DELETE, Kind.INVALIDATE]),
        key=st.sampled_from(KEYS),
        number=st.integers(0, 300),
        node=st.integers(1, 2),
        size=st.sampled_from([0, 1, 100, 400, MAX_BYTES]),
        ttl=st.sampled_from([-1.0, 0.0, 0.4, 1.0, 5.0, 30.0, inf]),
    )
    def write(self, kind: Kind, key: str, number: int, node: int, size: int, ttl: float) -> None:
        op = Op(
            kind, key, stamp(number, node), b"%d" % number + bytes(size) if kind is Kind.SET else b"", self.now + ttl
        )
        known = self.model.get(key)
        newer = known is None or (op.stamp, op.kind) > (known.stamp, known.kind)
        swept = any(op.stamp < swept and PATTERNS[pattern](key) for pattern, swept in self.sweeps.items())
        doubtful = known is None and op.stamp < self.newest_evicted
        taken = newer and not swept and not doubtful
        sizes = {other: entry.size for other in self.model if (entry := self.look(other)) is not None}

        if kind is Kind.SET:
            assert not self.store.wants(Version(key, op.stamp)) or taken
        assert self.store.apply(op, self.now) == taken

        if taken:
            assert not self.store.wants(Version(key, op.stamp))
            fits = ENTRY_OVERHEAD_BYTES + len(key) + len(op.value) <= self.max_bytes
            lives = kind is Kind.SET and ttl > 0 and fits
            dead_at = op.expires_at if lives else self.now
            if kind is not Kind.SET:  # remembered as long as it is told to be
                dead_at = max(self.now, min(self.now + TOMBSTONE_TTL, op.expires_at)) - TOMBSTONE_TTL
            self.model[key] = Known(op.stamp, kind, op.value if lives else None, op.expires_at, dead_at)
            self.model.move_to_end(key)
            self.settle_evictions(sizes)

    def settle_evictions(self, sizes: dict[str, int]) -> None:
        evicted = [key for key in self.model if self.look(key) is None]
        assert evicted == list(self.model)[: len(evicted)], "not the least recently used"
        if evicted:
            full = len(self.store) + 1 > self.max_entries or self.store.bytes + sizes[evicted[-1]] > self.max_bytes
            assert full, "more were evicted than had to be"
        for key in evicted:
            self.newest_evicted = max(self.newest_evicted, self.model.pop(key).stamp)
        self.evictions += len(evicted)

    @rule(pattern=st.sampled_from(list(PATTERNS)), number=st.integers(0, 200))
    def sweep(self, pattern: str, number: int) -> None:
        newer = stamp(number) > max(self.sweeps.get(pattern, b""), self.sweeps.get("*", b""))
        assert self.store.wants(Version(pattern, stamp(number), is_sweep=True)) == newer
        assert self.store.apply(sweep(number, pattern), self.now) == newer
        if newer:
            if pattern == "*":
                self.sweeps = {other: swept for other, swept in self.sweeps.items() if swept > stamp(number)}
            self.sweeps[pattern] = stamp(number)
            self.sweeps_end = self.now + TOMBSTONE_TTL
            for key, known in list(self.model.items()):
                if PATTERNS[pattern](key) and known.stamp < stamp(number):
                    del self.model[key]

    @rule(key=st.sampled_from(KEYS))
    def get(self, key: str) -> None:
        known = self.model.get(key)
        value = self.store.get(key, self.now)
        if known is not None and known.readable(self.now):
            assert value == known.value
            self.model.move_to_end(key)
            self.hits += 1
        else:
            assert value is None
            self.misses += 1

    @rule(key=st.sampled_from(KEYS))
    def peek(self, key: str) -> None:
        known, entry = self.model.get(key), self.store.peek(key, self.now)
        assert (entry is None) == (known is None)
        if entry is not None and known is not None:
            assert (entry.stamp, entry.kind) == (known.stamp, known.kind)
            assert entry.value == (known.value if known.readable(self.now) else None)

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 4.0, TOMBSTONE_TTL, 100.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(limit=st.integers(1, 4))
    def expire_a_slice(self, limit: int) -> None:
        had_value = {key for key in self.model if (entry := self.look(key)) is not None and entry.value is not None}
        self.store.expire(self.now, limit)
        gone = {key for key in self.model if self.look(key) is None}
        buried = {key for key in had_value - gone if (entry := self.look(key)) is not None and entry.value is None}
        assert len(gone | buried) <= limit
        self.settle_expiry(gone)

    @rule(limit=st.integers(1, 100))
    def expire_everything(self, limit: int) -> None:
        rounds = 0
        while self.store.expire(self.now, limit):
            rounds += 1
            assert rounds < 100, "it always says that there is more"
        self.settle_expiry({key for key in self.model if self.look(key) is None})
        for key, known in self.model.items():
            entry = self.look(key)
            assert entry is not None
            assert entry.value is None or known.expires_at + 1 > self.now, "an expired value takes room"
            assert entry.value is not None or known.dead_at + TOMBSTONE_TTL + 1 > self.now, (
                "an old tombstone takes room"
            )

    def settle_expiry(self, gone: set[str]) -> None:
        for key in gone:
            assert self.model[key].dead_at + TOMBSTONE_TTL <= self.now, "gone before its time"
            del self.model[key]
        if self.sweeps_end <= self.now:
            self.sweeps.clear()

    @precondition(lambda self: len(self.model) >= 3)
    @rule()
    def clear(self) -> None:
        self.store.clear()
        self.model.clear()
        self.sweeps.clear()
        self.newest_evicted = b""

    @rule()
    def forget_values(self) -> None:
        values = [key for key in self.model if (entry := self.look(key)) is not None and entry.value is not None]
        self.store.forget_values()
        for key in values:
            del self.model[key]

    @rule(kept=st.sets(st.sampled_from(KEYS)))
    def keep_only(self, kept: set[str]) -> None:
        order = [key for key in self.model if key in kept]
        self.store.keep_only(order)
        self.model = OrderedDict((key, self.model[key]) for key in order)
        self.sweeps.clear()
        self.newest_evicted = b""

    @rule(key=st.sampled_from(KEYS))
    def what_a_peer_is_told_makes_the_same_entry(self, key: str) -> None:
        known = self.model.get(key)
        op = self.store.op(key, self.now)
        if known is None:
            assert op is None
            return
        if op is None:
            assert known.dead_at + TOMBSTONE_TTL <= self.now, "kept for itself"
            return
        assert op.stamp == known.stamp
        assert (op.kind is Kind.SET) == known.readable(self.now)
        other = Store(self.max_entries, self.max_bytes, TOMBSTONE_TTL)
        other.apply(op, self.now)
        assert other.get(key, self.now) == (known.value if known.readable(self.now) else None)
        told = other.op(key, self.now)
        assert told is not None
        assert told.expires_at <= op.expires_at + 1, "what is handed on must not live longer each time"

    @invariant()
    def sums_up_what_it_knows(self) -> None:
        expected = Buckets()
        for key, known in self.model.items():
            expected.put(key, known.stamp)
        for pattern, swept in self.sweeps.items():
            expected.put(pattern, swept, is_sweep=True)
        assert self.store.buckets.hashes == expected.hashes
        assert self.store.buckets.root == expected.root

    @invariant()
    def agrees_with_the_model(self) -> None:
        readable = [key for key, known in self.model.items() if known.readable(self.now)]
        assert list(self.store.keys("*", self.now)) == readable
        assert len(self.store) == len(self.model) <= self.max_entries
        assert self.store.sweeps == self.sweeps
        assert (self.store.hits, self.store.misses, self.store.evictions) == (self.hits, self.misses, self.evictions)

    @invariant()
    def counts_every_byte(self) -> None:
        total = 0
        for key in self.model:
            entry = self.look(key)
            assert entry is not None
            assert entry.size == ENTRY_OVERHEAD_BYTES + len(key) + len(entry.value or b"")
            total += entry.size
        assert self.store.bytes == total <= self.max_bytes

    @invariant()
    def calendar_has_each_key_once(self) -> None:
        # From inside: a leak here would show only after days.
        calendar = self.store._calendar
        filed = sorted(key for day in calendar._days.values() for key in day)
        assert filed == sorted(key for key in self.model if (entry := self.look(key)) and entry.expires_at != inf)
        assert all(calendar._days.values()), "a second that nobody waits for"
        assert set(calendar._days) <= set(calendar._order)
        assert len(calendar._order) <= 2 * len(calendar._days) + 100


class SweepsBitByBit(StoreAgainstModel):
    """A larger store, which looks at a few entries at a time for what a sweep deletes: nobody who reads may notice."""

    max_entries = 100
    max_bytes = 1_000_000
    at_once = 0

    @property
    def is_sweeping(self) -> bool:
        return bool(self.store._sweeping or self.store._cleared)

    @rule(limit=st.integers(1, 3))
    def go_on(self, limit: int) -> None:
        self.store.sweep_on(self.now, limit)

    @rule()
    def finish(self) -> None:
        for _ in range(100):
            if not self.is_sweeping:
                return
            self.store.sweep_on(self.now, 1)
        raise AssertionError("it never comes to an end")

    @invariant()
    def sums_up_what_it_knows(self) -> None:
        if not self.is_sweeping:
            super().sums_up_what_it_knows()

    @invariant()
    def agrees_with_the_model(self) -> None:
        readable = {key for key, known in self.model.items() if known.readable(self.now)}
        assert set(self.store.keys("*", self.now)) == readable
        assert self.store.sweeps == self.sweeps
        if not self.is_sweeping:
            assert len(self.store) == len(self.model)

    @invariant()
    def counts_every_byte(self) -> None:
        if not self.is_sweeping:
            super().counts_every_byte()

    @invariant()
    def calendar_has_each_key_once(self) -> None:
        if not self.is_sweeping:
            super().calendar_has_each_key_once()


TestStoreAgainstModel = StoreAgainstModel.TestCase
TestStoreAgainstModel.settings = settings(max_examples=200, stateful_step_count=50)

TestSweepsBitByBit = SweepsBitByBit.TestCase
TestSweepsBitByBit.settings = settings(max_examples=200, stateful_step_count=50)
