"""The memory tier: calls in an outage, what peers tell, and what recovery asks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.buckets import Version
from meshcache.journal import Journal
from meshcache.memory import MemoryTier
from meshcache.stamp import HybridClock, Kind, Op, Stamp, make_stamp
from meshcache.store import ENTRY_OVERHEAD_BYTES, Store
from meshcache.tier import NO_EXPIRY, NO_KEY

NOW_MS = 1_700_000_000_000
MINE, PEER = 1, 2


class Instance:
    """A memory tier with clocks that a test sets, and a record of what it publishes."""

    def __init__(
        self, *, max_entries: int = 100, max_dirty: int = 100, redis: bool = True, node_id: int = MINE
    ) -> None:
        self.now = 12_345.678
        self.wall_ms = NOW_MS
        self.published: list[Op] = []
        self.store = Store(max_entries, 1_000_000, tombstone_ttl=3600.0)
        self.journal = Journal(max_dirty) if redis else None
        self.clock = HybridClock(node_id, lambda: self.wall_ms)
        self.tier = MemoryTier(self.store, self.journal, self.clock, lambda: self.now, self.published.append)

    def hear(self, *ops: Op) -> None:
        self.tier.apply(ops)


def run(coroutine: Any) -> Any:
    """The result of a call that waits for nothing.  That it waits for nothing is a promise: each call is atomic."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("a call of the memory tier waited")


def peer_stamp(number: int) -> Stamp:
    return make_stamp(NOW_MS + number, 0, PEER)


def heard(number: int, key: str = "key", value: bytes = b"theirs") -> Op:
    return Op(Kind.SET, key, peer_stamp(number), value)


def heard_delete(number: int, key: str = "key") -> Op:
    return Op(Kind.DELETE, key, peer_stamp(number))


@pytest.fixture
def instance() -> Instance:
    return Instance()


@pytest.fixture
def tier(instance: Instance) -> MemoryTier:
    return instance.tier


# -- calls


def test_the_peers_are_told_once_the_journal_has_a_write_and_before_the_store_has(
    instance: Instance, tier: MemoryTier
) -> None:
    told: list[tuple[bool, bool]] = []
    tier._publish = lambda op: told.append(
        (tier.is_dirty(op.key), instance.store.peek(op.key, instance.now) is not None)
    )
    run(tier.set("key", b"value", None))
    assert told == [(True, False)]
    assert run(tier.get("key")) == b"value"


def test_a_value_is_read_back_journalled_and_published_until_it_expires(instance: Instance, tier: MemoryTier) -> None:
    assert run(tier.set("key", b"value", 5_000)) is True
    assert run(tier.get("key")) == b"value"
    (op,) = instance.published
    assert op[:2] == (Kind.SET, "key")
    assert (op.value, op.expires_at) == (b"value", instance.now + 5)
    assert tier.is_dirty("key")
    instance.now += 5
    assert run(tier.get("key")) is None
    assert (tier.hits, tier.misses) == (1, 1)


def test_many_keys_at_once(instance: Instance, tier: MemoryTier) -> None:
    run(tier.set_many({"a": b"1", "b": b"2"}, None))
    assert run(tier.get_many(["a", "none", "b"])) == {"a": b"1", "b": b"2"}
    assert [op.key for op in instance.published] == ["a", "b"]
    assert (tier.hits, tier.misses) == (2, 1)


@pytest.mark.parametrize("gone", ["never", "deleted", "expired"])
def test_nx_writes_only_what_is_not_there_and_xx_only_what_is(instance: Instance, tier: MemoryTier, gone: str) -> None:
    if gone == "deleted":
        run(tier.set("key", b"0", None))
        run(tier.delete(["key"]))
    elif gone == "expired":
        run(tier.set("key", b"0", 1))
        instance.now += 1
    told = len(instance.published)
    assert run(tier.set("key", b"xx", None, xx=True)) is False
    assert run(tier.get("key")) is None
    assert run(tier.set("key", b"nx", None, nx=True)) is True
    assert run(tier.set("key", b"nx again", None, nx=True)) is False
    assert run(tier.get("key")) == b"nx"
    assert run(tier.set("key", b"xx", None, xx=True)) is True
    assert run(tier.get("key")) == b"xx"
    assert len(instance.published) == told + 2  # what was not written was not told


def test_delete_counts_what_was_there_and_tells_of_all(instance: Instance, tier: MemoryTier) -> None:
    run(tier.set("a", b"1", None))
    run(tier.set("expired", b"1", 1))
    instance.now += 1
    instance.published.clear()
    assert run(tier.delete(["a", "a", "expired", "elsewhere"])) == 1
    assert {op.key for op in instance.published} == {"a", "expired", "elsewhere"}
    assert all(op.kind is Kind.DELETE for op in instance.published)
    assert tier.is_dirty("elsewhere")  # Redis may have it


def test_exists_counts_a_key_as_often_as_it_is_named(tier: MemoryTier) -> None:
    run(tier.set("a", b"", None))
    run(tier.set("b", b"1", None))
    run(tier.delete(["b"]))
    assert run(tier.exists(["a", "a", "b", "none"])) == 2


def test_ttl_is_what_remains_rounded_up(instance: Instance, tier: MemoryTier) -> None:
    run(tier.set("for ever", b"1", None))
    run(tier.set("key", b"1", 1_500))
    assert run(tier.ttl_ms("for ever")) == NO_EXPIRY
    assert run(tier.ttl_ms("none")) == NO_KEY
    assert run(tier.ttl_ms("key")) == 1_500
    instance.now += 0.4999
    assert run(tier.ttl_ms("key")) == 1_001
    instance.now += 1.0
    assert run(tier.ttl_ms("key")) == 1
    instance.now += 0.001
    assert run(tier.ttl_ms("key")) == NO_KEY
    run(tier.set("key", b"1", None))
    run(tier.delete(["key"]))
    assert run(tier.ttl_ms("key")) == NO_KEY


@given(now=st.floats(0, 1e7), ttl_ms=st.integers(1, 10**10))
def test_ttl_right_after_the_write_is_the_one_that_was_given(now: float, ttl_ms: int) -> None:
    instance = Instance()
    instance.now = now
    run(instance.tier.set("key", b"1", ttl_ms))
    assert run(instance.tier.ttl_ms("key")) == ttl_ms


def test_what_follows_a_new_time_to_live_is_newer(instance: Instance, tier: MemoryTier) -> None:
    """In the same millisecond, too: a stamp just above the value's own must not be met again by the next write."""
    for _ in range(3):
        assert run(tier.set("key", b"value", None))
        assert run(tier.expire("key", 1000))
        assert run(tier.delete(["key"])) == 1
        assert run(tier.get("key")) is None
    stamps = [op.stamp for op in instance.published]
    assert stamps == sorted(set(stamps))


def test_expire_gives_a_new_time_to_live_and_tells_the_value_with_it(instance: Instance, tier: MemoryTier) -> None:
    run(tier.set("key", b"value", 1_000))
    assert run(tier.expire("key", 9_000)) is True
    assert run(tier.ttl_ms("key")) == 9_000
    assert instance.published[-1].value == b"value"
    assert instance.published[-1].stamp > instance.published[0].stamp
    assert run(tier.expire("key", None)) is True
    assert run(tier.ttl_ms("key")) == NO_EXPIRY


def test_a_copy_of_what_redis_has_may_be_told_to_stay_for_ever_and_then_to_go(
    instance: Instance, tier: MemoryTier
) -> None:
    tier.keep("key", b"value", 60.0)
    for ttl_ms, left in ((None, NO_EXPIRY), (None, NO_EXPIRY), (5_000, 5_000)):
        assert run(tier.expire("key", ttl_ms)) is True
        assert run(tier.ttl_ms("key")) == left
    instance.now += 5
    assert run(tier.get("key")) is None


def test_expire_of_what_is_not_there_tells_nobody(instance: Instance, tier: MemoryTier) -> None:
    run(tier.set("expired", b"1", 1))
    instance.now += 1
    instance.published.clear()
    assert run(tier.expire("none", 1_000)) is False
    assert run(tier.expire("expired", 1_000)) is False
    assert instance.published == []


def test_what_was_loaded_is_written_with_the_stamp_of_the_moment_it_began(instance: Instance, tier: MemoryTier) -> None:
    began = tier.tick()
    instance.wall_ms += 1_000
    assert run(tier.fill("key", b"loaded", 5_000, began)) is False
    assert run(tier.get("key")) == b"loaded"
    assert instance.published == [Op(Kind.SET, "key", began, b"loaded", instance.now + 5)]
    assert tier.is_dirty("key")


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        lambda instance: run(instance.tier.set("key", b"newer", None)),
        lambda instance: run(instance.tier.delete(["key"])),
        lambda instance: run(instance.tier.delete_match("k*")),
        lambda instance: instance.hear(heard(5, value=b"newer")),
        lambda instance: instance.hear(heard_delete(5)),
        lambda instance: instance.hear(Op(Kind.SWEEP, "k*", peer_stamp(5))),
    ],
    ids=["set", "delete", "sweep", "heard set", "heard delete", "heard sweep"],
)
def test_what_was_loaded_loses_against_what_was_written_since(
    instance: Instance, tier: MemoryTier, change: Callable[[Instance], object], anew: bool
) -> None:
    began = tier.tick()
    change(instance)
    told = len(instance.published)
    newest = run(tier.get("key"))
    run(tier.fill("key", b"loaded", None, began, anew=anew))
    assert run(tier.get("key")) == newest
    assert len(instance.published) == told


def test_what_was_loaded_loses_against_what_is_heard_of_later(instance: Instance, tier: MemoryTier) -> None:
    began = tier.tick()
    instance.wall_ms += 1_000
    run(tier.fill("key", b"loaded", None, began))
    instance.hear(heard_delete(5))
    assert run(tier.get("key")) is None


def test_what_was_loaded_loses_against_a_newer_write_that_memory_gave_up() -> None:
    instance = Instance(max_entries=1)
    began = instance.tier.tick()
    run(instance.tier.delete(["key"]))
    run(instance.tier.set("other", b"1", None))
    run(instance.tier.fill("key", b"loaded", None, began))
    assert run(instance.tier.get("key")) is None
    assert [op.kind for op in instance.tier.dirty(10) if op.key == "key"] == [Kind.INVALIDATE]


def test_keys_lists_what_matches_and_has_a_value(instance: Instance, tier: MemoryTier) -> None:
    for key in ("a:1", "a:2", "b:1"):
        run(tier.set(key, b"1", None))
    run(tier.set("a:expired", b"1", 1))
    run(tier.delete(["a:2"]))
    instance.now += 1
    assert tier.keys("a:*") == ["a:1"]
    assert tier.keys("*") == ["a:1", "b:1"]


def test_delete_match_counts_deletes_and_tells_one_sweep(instance: Instance, tier: MemoryTier) -> None:
    for key in ("a:1", "a:2", "b:1"):
        run(tier.set(key, b"1", None))
    instance.published.clear()
    assert run(tier.delete_match("a:*")) == 2
    assert tier.keys("*") == ["b:1"]
    (op,) = instance.published
    assert op[:2] == (Kind.SWEEP, "a:*")
    assert tier.is_dirty("a:in Redis only")
    assert run(tier.delete_match("a:*")) == 0
    run(tier.set("a:1", b"again", None))
    assert run(tier.get("a:1")) == b"again"


# -- what peers tell


def test_the_newest_write_wins_whichever_came_first() -> None:
    ops = [heard(1, value=b"1"), heard_delete(2), heard(3, value=b"3"), Op(Kind.SWEEP, "k*", peer_stamp(2))]
    for order in permutations(ops):
        instance = Instance()
        instance.hear(*order)
        assert run(instance.tier.get("key")) == b"3"
        assert instance.tier.dirty(10) == [ops[2]]
        assert instance.published == []  # what a peer told is not told again


def test_an_own_write_is_newer_than_every_write_heard_before(instance: Instance, tier: MemoryTier) -> None:
    instance.hear(heard(30_000))  # a peer whose clock is half a minute ahead
    run(tier.set("key", b"mine", None))
    assert run(tier.get("key")) == b"mine"
    instance.hear(heard(29_999))
    assert run(tier.get("key")) == b"mine"


def test_a_write_of_a_clock_too_far_ahead_is_refused_and_counted(instance: Instance, tier: MemoryTier) -> None:
    instance.hear(heard(60_001), heard(60_000, "other"))
    assert run(tier.get("key")) is None
    assert run(tier.get("other")) == b"theirs"
    assert tier.refused_stamps == 1
    assert not tier.is_dirty("key")


def test_a_value_that_was_evicted_is_invalidated_in_redis_and_never_brought_back_by_an_older_one() -> None:
    instance = Instance(max_entries=1)
    instance.hear(heard(5), heard(6, "other"))
    assert run(instance.tier.get("key")) is None
    instance.hear(heard(4), heard_delete(3))
    assert run(instance.tier.get("key")) is None
    assert instance.tier.dirty(10)[0] == Op(Kind.INVALIDATE, "key", peer_stamp(5))
    instance.hear(heard(5))  # the very same one again may come back
    assert run(instance.tier.get("key")) == b"theirs"
    assert instance.tier.dirty(1) == [heard(5)]


def test_a_delete_that_was_evicted_is_not_undone_by_an_older_write() -> None:
    instance = Instance(max_entries=1)
    instance.hear(heard_delete(5), heard(6, "other"), heard(4))
    assert run(instance.tier.get("key")) is None
    assert instance.tier.dirty(10)[0][:2] == (Kind.INVALIDATE, "key")


def test_after_an_overflow_of_the_journal_an_older_write_still_brings_nothing_back() -> None:
    instance = Instance(max_entries=2, max_dirty=2)
    instance.hear(heard_delete(5), heard(6, "a"), heard(7, "b"))
    assert instance.journal is not None
    assert instance.journal.overflows == 1
    instance.hear(heard(4))
    assert run(instance.tier.get("key")) is None
    assert instance.tier.dirty(10) == []  # it would be written to Redis after the sweep
    run(instance.tier.set("key", b"new", None))
    assert run(instance.tier.get("key")) == b"new"


def test_a_value_too_large_for_the_store_is_invalidated() -> None:
    instance = Instance()
    instance.tier.store = small = Store(10, 2 * ENTRY_OVERHEAD_BYTES, 3600.0)
    run(instance.tier.set("key", b"old", None))
    run(instance.tier.set("key", bytes(2 * ENTRY_OVERHEAD_BYTES), None))
    assert run(instance.tier.get("key")) is None
    assert [op.kind for op in instance.tier.dirty(10)] == [Kind.INVALIDATE]
    assert small.evictions == 0


# -- what recovery asks


def test_dirty_keys_are_told_as_they_are_now_the_last_written_last(instance: Instance, tier: MemoryTier) -> None:
    run(tier.set("set", b"1", 60_000))
    run(tier.set("deleted", b"1", None))
    run(tier.delete(["deleted"]))
    run(tier.set("expired", b"1", 1_000))
    instance.hear(Op(Kind.INVALIDATE, "unknown", peer_stamp(1)))
    run(tier.set("set", b"2", 50_000))
    instance.now += 1
    told = [(op.kind, op.key, op.value) for op in tier.dirty(10)]
    assert told == [
        (Kind.DELETE, "deleted", b""),
        (Kind.INVALIDATE, "expired", b""),
        (Kind.INVALIDATE, "unknown", b""),
        (Kind.SET, "set", b"2"),
    ]
    assert tier.dirty(10)[3].expires_at == instance.now - 1 + 50
    assert [op.key for op in tier.dirty(2)] == ["deleted", "expired"]


def test_the_newest_of_some_keys_are_those_that_are_dirty_one_by_one(instance: Instance, tier: MemoryTier) -> None:
    run(tier.set("a", b"1", None))
    run(tier.set("b", b"1", None))
    run(tier.delete_match("swept:*"))
    assert [(op.kind, op.key, op.value) for op in tier.newest(["b", "clean", "swept:1"])] == [(Kind.SET, "b", b"1")]


def test_a_peers_write_is_dirty_but_not_in_doubt(instance: Instance, tier: MemoryTier) -> None:
    instance.hear(Op(Kind.SET, "theirs", peer_stamp(1), b"1"))
    run(tier.set("ours", b"1", None))
    assert tier.is_dirty("theirs")
    assert not tier.is_in_doubt("theirs")
    assert tier.is_in_doubt("ours")
    run(tier.set("theirs", b"2", None))
    assert tier.is_in_doubt("theirs")
    assert not tier.is_dirty("neither")


def test_what_is_dirty_survives_the_return_of_redis(tier: MemoryTier) -> None:
    run(tier.set("clean", b"1", None))
    tier.cleaned(tier.dirty(10))
    run(tier.set("dirty", b"1", 60_000))
    run(tier.delete(["deleted"]))
    size = tier.store.bytes
    tier.forget()
    assert tier.keys("*") == ["dirty"]
    assert len(tier.store) == 2
    assert 0 < tier.store.bytes < size
    assert run(tier.ttl_ms("dirty")) == 60_000


def test_a_key_written_again_while_it_was_replayed_stays_dirty(tier: MemoryTier) -> None:
    run(tier.set("a", b"1", None))
    run(tier.set("b", b"1", None))
    ops = tier.dirty(10)
    run(tier.set("a", b"2", None))
    tier.cleaned(ops)
    assert [(op.key, op.value) for op in tier.dirty(10)] == [("a", b"2")]
    assert not tier.is_dirty("b")


def test_what_others_swept_in_redis_is_not_brought_back(instance: Instance, tier: MemoryTier) -> None:
    run(tier.set("a:1", b"old", None))
    run(tier.set("b:1", b"old", None))
    tier.learn_sweeps({"a:*": peer_stamp(1)})
    assert run(tier.get("a:1")) is None
    assert [(op.kind, op.key) for op in tier.dirty(10)] == [(Kind.INVALIDATE, "a:1"), (Kind.SET, "b:1")]
    assert not tier.is_dirty("a:2")  # Redis knows the sweep
    instance.hear(heard(0, "a:2"))
    assert run(tier.get("a:2")) is None
    run(tier.set("a:1", b"new", None))
    assert run(tier.get("a:1")) == b"new"


def test_a_sweep_of_a_clock_too_far_ahead_is_refused_and_counted(tier: MemoryTier) -> None:
    run(tier.set("a:1", b"value", None))
    tier.learn_sweeps({"a:*": peer_stamp(3_600_000)})
    assert run(tier.get("a:1")) == b"value"
    assert tier.refused_stamps == 1
    run(tier.set("a:2", b"value", None))
    assert run(tier.get("a:2")) == b"value"


def test_after_recovery_nothing_is_remembered(instance: Instance, tier: MemoryTier) -> None:
    run(tier.set("key", b"value", None))
    tier.cleaned(tier.dirty(10))
    tier.forget()
    assert run(tier.get("key")) is None
    assert instance.store.bytes == 0


def test_without_redis_nothing_is_journalled_and_everything_else_works() -> None:
    instance = Instance(redis=False)
    tier = instance.tier
    run(tier.set("key", b"value", None))
    instance.hear(heard(5, "other"), heard(4, "other", b"older"))
    assert run(tier.get_many(["key", "other"])) == {"key": b"value", "other": b"theirs"}
    assert run(tier.delete(["key"])) == 1
    assert run(tier.delete_match("*")) == 1
    assert not tier.is_dirty("key")
    assert tier.dirty(10) == []
    tier.cleaned([])
    assert [op.kind for op in instance.published] == [Kind.SET, Kind.DELETE, Kind.SWEEP]


# -- several instances


@given(st.data())
def test_instances_that_hear_the_same_writes_in_any_order_agree(data: st.DataObject) -> None:
    instances = [Instance(node_id=number) for number in range(3)]
    for _ in range(data.draw(st.integers(0, 12))):
        writer = data.draw(st.sampled_from(instances))
        key = data.draw(st.sampled_from(["a", "b"]))
        match data.draw(st.sampled_from(["set", "delete", "sweep"])):
            case "set":
                run(writer.tier.set(key, data.draw(st.binary(max_size=2)), None))
            case "delete":
                run(writer.tier.delete([key]))
            case "sweep":
                run(writer.tier.delete_match(key + "*"))
    ops = [op for instance in instances for op in instance.published]
    states = []
    for instance in instances:
        instance.hear(*data.draw(st.permutations(ops)))
        states.append(run(instance.tier.get_many(["a", "b"])))
    assert states[0] == states[1] == states[2]


# -- what is compared with peers


def test_two_that_heard_the_same_sum_up_the_same(instance: Instance, tier: MemoryTier) -> None:
    run(tier.set("kept", b"1", None))
    run(tier.set("short", b"1", 1_000))
    run(tier.delete(["deleted"]))
    run(tier.delete_match("swept:*"))
    other = Store(100, 10**6, 3600.0)
    for op in reversed(instance.published):
        other.apply(op, instance.now)
    assert other.buckets.root == tier.buckets.root != bytes(8)
    instance.now += 5
    assert run(tier.get("short")) is None
    while tier.store.expire(instance.now, 10):
        pass
    assert other.buckets.root == tier.buckets.root, "expiry alone makes no difference to talk about"


def test_what_is_wanted_is_what_would_be_taken(instance: Instance, tier: MemoryTier) -> None:
    run(tier.set("key", b"1", None))
    run(tier.delete_match("swept:*"))
    own = {op.key: op.stamp for op in instance.published}
    newer, older = peer_stamp(1_000), peer_stamp(-1_000)
    far = make_stamp(NOW_MS + 10**9, 0, PEER)
    assert tier.wants(Version("key", newer), instance.now)
    assert tier.wants(Version("unknown", older), instance.now)
    assert tier.wants(Version("other:*", older, is_sweep=True), instance.now)
    assert not tier.wants(Version("key", own["key"]), instance.now)
    assert not tier.wants(Version("swept:1", older), instance.now)
    assert not tier.wants(Version("swept:*", own["swept:*"], is_sweep=True), instance.now)
    assert not tier.wants(Version("key", far), instance.now)


def test_what_a_peer_is_told(instance: Instance, tier: MemoryTier) -> None:
    run(tier.set("set", b"1", 60_000))
    run(tier.delete(["deleted"]))
    run(tier.delete_match("swept:*"))
    told = {
        name: tier.op(name, is_sweep, instance.now)
        for name, is_sweep in [("set", False), ("deleted", False), ("swept:*", True)]
    }
    assert {name: (op.kind, op.value) for name, op in told.items() if op is not None} == {
        "set": (Kind.SET, b"1"),
        "deleted": (Kind.DELETE, b""),
        "swept:*": (Kind.SWEEP, b""),
    }
    assert tier.op("nothing", False, instance.now) is None
    assert tier.op("nothing", True, instance.now) is None


def test_values_in_doubt_are_forgotten_and_deletes_are_not(instance: Instance, tier: MemoryTier) -> None:
    run(tier.set("value", b"1", None))
    run(tier.delete(["deleted"]))
    tier.forget_values()
    assert run(tier.get("value")) is None
    assert tier.op("deleted", False, instance.now) is not None
    assert tier.op("value", False, instance.now) is None
    assert [(op.kind, op.key) for op in tier.dirty(10)] == [(Kind.INVALIDATE, "value"), (Kind.DELETE, "deleted")]


def test_a_sweep_that_redis_has_is_repeated_while_something_older_may_be_on_its_way_there(
    instance: Instance, tier: MemoryTier
) -> None:
    """Nothing in Redis refuses what a sweep deleted: a set of a peer that is being brought there may arrive after it."""
    assert tier.journal is not None
    peers = HybridClock(99, lambda: 2_000)
    sweep = Op(Kind.SWEEP, "a*", peers.tick())
    tier.apply([sweep], in_redis=True)
    assert not tier.journal
    tier.apply([Op(Kind.SET, "key", peers.tick(), b"x")])
    later = Op(Kind.SWEEP, "k*", peers.tick())
    tier.apply([later], in_redis=True)
    assert tier.journal.sweeps == {"k*": later.stamp}
