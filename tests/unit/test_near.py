"""The near cache: one rule at a time, and then against a model of Redis in which everything overtakes everything."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest

from meshcache import near as near_module
from meshcache.journal import Journal
from meshcache.memory import MemoryTier
from meshcache.near import Near
from meshcache.stamp import HybridClock, Kind, Op, make_stamp
from meshcache.store import Store

STALE_TTL = 60.0
NOW_MS = 1_700_000_000_000


class Instance:
    """A near cache over a memory tier, with a clock that a test sets."""

    def __init__(self, *, serves: bool = True, max_entries: int = 100) -> None:
        self.now = 1000.0
        self.store = Store(max_entries, 1_000_000, tombstone_ttl=3600.0)
        clock = HybridClock(1, lambda: NOW_MS)
        self.memory = MemoryTier(self.store, Journal(100), clock, lambda: self.now, lambda op: None)
        self.near = Near(self.memory, STALE_TTL, serves=serves)

    def opened(self) -> Instance:
        self.near.follow(redis_answers=True)
        self.near.track()
        return self

    def filled(self, key: str = "key", value: bytes = b"value") -> None:
        self.near.fill(key, value, self.near.counter)

    def written(self, key: str = "key", value: bytes = b"value", ttl: float | None = None) -> None:
        self.near.wrote((key,), self.near.writing((key,)), {key: value}, ttl)


def read(instance: Instance, key: str) -> bytes | None:
    entry = instance.near.recall(key, instance.now)
    return None if entry is None else entry.value


@pytest.fixture
def instance() -> Instance:
    return Instance().opened()


def test_what_was_read_is_kept_for_stale_ttl(instance: Instance) -> None:
    instance.filled()
    assert read(instance, "key") == b"value"
    instance.now += STALE_TTL - 0.01
    assert read(instance, "key") == b"value"
    instance.now += 0.02
    assert read(instance, "key") is None
    assert instance.near.hits == 2


def test_a_read_of_many_keys_fills_as_many_reads_of_one(instance: Instance) -> None:
    instance.filled("same")
    instance.filled("gone")
    instance.filled("other", b"old")
    begun = instance.near.counter
    instance.near.invalidate(["late"])
    found = dict.fromkeys(("same", "new", "other", "late"), b"value")
    instance.near.fill_all([*found, "gone"], found, begun)
    assert [key for key in ("same", "new", "other", "late", "gone") if read(instance, key)] == ["same", "new"]
    instance.near.lose_track()
    instance.near.track()
    instance.near.fill_all([*found], found, begun)
    assert read(instance, "late") is None


def test_a_key_that_is_read_again_lives_on(instance: Instance) -> None:
    for _ in range(10):
        instance.filled()
        instance.now += STALE_TTL / 2
    assert read(instance, "key") == b"value"


@pytest.mark.parametrize(("ttl", "lives"), [(5.0, 5.0), (600.0, 600.0), (None, STALE_TTL)])
def test_what_was_written_keeps_its_ttl_also_when_it_is_read(
    instance: Instance, ttl: float | None, lives: float
) -> None:
    instance.written(ttl=ttl)
    instance.filled()
    instance.now += lives - 0.01
    assert read(instance, "key") == b"value"
    instance.now += 0.02
    assert read(instance, "key") is None


def test_an_invalidation_takes_the_copy_out(instance: Instance) -> None:
    instance.filled("key")
    instance.filled("other")
    instance.near.invalidate(["key"])
    assert read(instance, "key") is None
    assert read(instance, "other") == b"value"
    assert instance.near.invalidated == 1


def test_a_flush_takes_everything_out(instance: Instance) -> None:
    begun = instance.near.counter
    instance.filled("key")
    instance.near.invalidate(None)
    instance.near.fill("late", b"old", begun)
    assert instance.store.copies == len(instance.store) == 0


def test_an_invalidation_that_overtakes_the_reply(instance: Instance) -> None:
    begun = instance.near.counter
    instance.near.invalidate(["key"])
    instance.near.fill("key", b"old", begun)
    assert read(instance, "key") is None
    instance.near.fill("key", b"new", instance.near.counter)
    assert read(instance, "key") == b"new"


def test_an_invalidation_that_is_remembered_no_more(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_module, "MAX_REMEMBERED", 3)
    begun = instance.near.counter
    for key in ("key", "a", "b", "c"):
        instance.near.invalidate([key])
    instance.near.fill("key", b"old", begun)
    assert read(instance, "key") is None


def test_a_read_that_began_before_an_own_write(instance: Instance) -> None:
    before = instance.near.counter
    number = instance.near.writing(("key",))
    meanwhile = instance.near.counter
    instance.near.wrote(("key",), number, {"key": b"new"}, None)
    instance.near.fill("key", b"old", before)
    instance.near.fill("key", b"old", meanwhile)
    assert read(instance, "key") == b"new"


def test_of_own_writes_under_way_the_last_one_stays(instance: Instance) -> None:
    one, two = instance.near.writing(("key",)), instance.near.writing(("key",))
    instance.near.wrote(("key",), one, {"key": b"one"}, None)
    begun = instance.near.counter
    instance.near.wrote(("key",), two, {"key": b"two"}, None)
    instance.near.fill("key", b"one", begun)
    assert read(instance, "key") == b"two"


def test_a_foreign_write_while_an_own_one_is_under_way(instance: Instance) -> None:
    number = instance.near.writing(("key",))
    instance.near.invalidate(["key"])
    instance.near.wrote(("key",), number, {"key": b"mine"}, None)
    assert read(instance, "key") is None


def test_two_replies_that_differ_make_no_copy(instance: Instance) -> None:
    begun = instance.near.counter
    instance.near.fill("key", b"new", begun)
    instance.near.fill("key", b"old", begun)
    instance.near.fill("key", b"old", begun)
    assert read(instance, "key") is None


def test_a_miss_takes_the_copy_out(instance: Instance) -> None:
    instance.filled()
    instance.near.fill("key", None, instance.near.counter)
    assert read(instance, "key") is None


def test_a_stamped_write_wins_over_a_copy_and_no_copy_over_it(instance: Instance) -> None:
    instance.filled()
    stamped = Op(Kind.SET, "key", make_stamp(NOW_MS, 0, 2), b"stamped")
    instance.memory.apply([stamped])
    instance.filled(value=b"read")
    assert read(instance, "key") is None  # the way of a dirty key is not through here
    assert instance.store.get("key", instance.now) == b"stamped"
    assert instance.store.copies == 0


def test_no_copy_of_a_dirty_key_that_memory_gave_up(instance: Instance) -> None:
    instance.memory.apply([Op(Kind.SET, "key", make_stamp(NOW_MS, 0, 2), b"stamped")])
    instance.store.clear()
    instance.filled()
    assert read(instance, "key") is None


def test_nothing_is_kept_while_changes_are_not_told() -> None:
    instance = Instance()
    instance.filled()
    instance.near.follow(redis_answers=True)
    instance.filled()
    instance.written()
    assert instance.store.copies == 0
    instance.near.track()
    instance.filled()
    assert instance.store.copies == 1
    begun, number = instance.near.counter, instance.near.writing(("written",))
    instance.near.lose_track()
    assert not instance.near.serving
    instance.near.track()
    instance.near.fill("late", b"old", begun)
    instance.near.wrote(("written",), number, {"written": b"value"}, None)
    assert instance.store.copies == 1
    instance.near.drop()
    assert instance.store.copies == 0


def test_standby_never_serves() -> None:
    assert not Instance(serves=False).opened().near.serving


def test_copies_outlive_the_beginning_of_an_outage(instance: Instance) -> None:
    instance.filled()
    instance.near.lose_track()
    instance.near.follow(redis_answers=False)
    assert instance.store.get("key", instance.now) == b"value"
    instance.memory.forget()
    assert instance.store.get("key", instance.now) is None


def test_a_delete_by_pattern(instance: Instance) -> None:
    begun = instance.near.counter
    instance.filled("user:1")
    instance.filled("page:1")
    instance.near.forget("user:*")
    instance.near.fill("user:2", b"old", begun)
    assert read(instance, "user:1") is read(instance, "user:2") is None
    assert read(instance, "page:1") == b"value"


# -- everything at once


@dataclass
class Read:
    key: str
    begun: int
    value: bytes | None = None
    executed: bool = False


@dataclass
class Write:
    key: str
    value: bytes | None
    number: int
    connection: int
    waits: bool = True  # the caller has not gone away
    rank: int = 0
    then: list[Callable[[], None]] = field(default_factory=list)


class World:
    """Redis, one instance, and others that write; a random one of the next possible steps at a time.

    Redis as its source has it (tracking.c): in one turn of its event loop it runs commands of any connections and notes for
    each changed key who changed it last; at the turn's end it sends one message, without the keys whose last writer is the
    tracked connection itself.
    """

    KEYS = ("a", "b")

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.instance = Instance().opened()
        self.near = self.instance.near
        self.values: dict[str, bytes] = {}
        self.rank_of: dict[bytes | None, int] = {}
        self.rank = 0
        self.acknowledged = dict.fromkeys(self.KEYS, 0)
        self.changed_in_turn: dict[str, int] = {}
        self.connection = 1
        self.to_redis: deque[Write] = deque()
        self.orphans: list[Write] = []  # sent on a connection that broke, perhaps run all the same
        self.from_redis: deque[Write | list[str]] = deque()
        self.sent: list[Write] = []  # on this connection, without a reply yet
        self.answered: deque[Write] = deque()  # the reply is there, and the caller about to be woken
        self.tried_again: list[Write] = []  # over another connection, since the tracked one broke
        self.reads: list[Read] = []

    def step(self) -> None:
        steps = [
            (4, self.begin_read),
            (4, self.run_read),
            (4, self.end_read),
            (3, self.send_write),
            (3, self.run_write),
            (3, self.end_turn),
            (4, self.receive),
            (3, self.wake),
            (1, self.run_second_try),
            (2, self.foreign_write),
            (1, self.leave_write),
            (0.2, self.reconnect),
            (0.5, self.run_orphan),
        ]
        weights, choices = zip(*steps, strict=True)
        self.random.choices(choices, weights)[0]()
        self.check_acknowledged()

    def key(self) -> str:
        return self.random.choice(self.KEYS)

    def new_value(self) -> bytes | None:
        return None if self.random.random() < 0.2 else b"%d" % self.random.getrandbits(48)

    def change(self, key: str, value: bytes | None, connection: int) -> int:
        self.rank += 1
        if value is None:
            self.values.pop(key, None)
        else:
            self.values[key] = value
            self.rank_of[value] = self.rank
        self.changed_in_turn[key] = connection
        return self.rank

    def begin_read(self) -> None:
        key = self.key()
        if self.near.recall(key, self.instance.now) is None:
            self.reads.append(Read(key, self.near.counter))

    def run_read(self) -> None:
        waiting = [read for read in self.reads if not read.executed]
        if waiting:
            read = self.random.choice(waiting)
            read.executed, read.value = True, self.values.get(read.key)

    def end_read(self) -> None:
        done = [read for read in self.reads if read.executed]
        if done:
            read = self.random.choice(done)
            self.reads.remove(read)
            self.near.fill(read.key, read.value, read.begun)

    def send_write(self) -> None:
        key = self.key()
        value = self.new_value()
        drop = value is None or self.random.random() < 0.5
        write = Write(key, value, self.near.writing((key,), drop=drop), self.connection)
        self.to_redis.append(write)
        self.sent.append(write)

    def run_write(self) -> None:
        if self.to_redis:
            write = self.to_redis.popleft()
            write.rank = self.change(write.key, write.value, write.connection)
            self.from_redis.append(write)

    def foreign_write(self) -> None:
        self.change(self.key(), self.new_value(), 0)

    def run_orphan(self) -> None:
        if self.orphans:
            write = self.orphans.pop(0)
            self.change(write.key, write.value, write.connection)

    def end_turn(self) -> None:
        told = [key for key, connection in self.changed_in_turn.items() if connection != self.connection]
        self.changed_in_turn.clear()
        if told:
            self.from_redis.append(told)

    def receive(self) -> None:
        if not self.from_redis:
            return
        message = self.from_redis.popleft()
        if isinstance(message, list):
            self.near.invalidate(message)
            return
        self.sent.remove(message)
        if message.waits:
            self.answered.append(message)
        for then in message.then:
            then()

    def wake(self) -> None:
        if self.answered:
            self.acknowledge(self.answered.popleft())

    def acknowledge(self, write: Write) -> None:
        value = {} if write.value is None else {write.key: write.value}
        self.near.wrote((write.key,), write.number, value, None)
        self.acknowledged[write.key] = write.rank

    def run_second_try(self) -> None:
        if self.tried_again:
            write = self.tried_again.pop(self.random.randrange(len(self.tried_again)))
            write.rank = self.change(write.key, write.value, 0)
            self.acknowledge(write)

    def leave_write(self) -> None:
        waiting = [write for write in self.sent if write.waits]
        if waiting:
            write = self.random.choice(waiting)
            write.waits = False
            self.sent[-1].then.append(lambda: self.near.failed((write.key,), write.number))

    def reconnect(self) -> None:
        self.near.lose_track()
        left = [write for write in self.sent if write.waits]
        self.orphans += [write for write in self.to_redis if self.random.random() < 0.5]
        self.to_redis.clear()
        self.from_redis.clear()
        self.sent.clear()
        self.connection += 1
        for write in left:
            if self.random.random() < 0.5:
                self.tried_again.append(write)
            else:
                self.near.failed((write.key,), write.number)
        self.near.drop()
        # The new connection is registered in a turn of its own; what the turn before changed is told to those of then.
        self.changed_in_turn.clear()
        self.near.track()

    def check_acknowledged(self) -> None:
        for key in self.KEYS:
            copy = self.instance.store.copy(key, self.instance.now)
            if copy is not None and copy.value is not None:
                assert self.rank_of[copy.value] >= self.acknowledged[key], (
                    f"{key}: older than an acknowledged own write"
                )

    def settle(self) -> None:
        while self.to_redis or self.orphans or self.tried_again:
            self.run_write()
            self.run_orphan()
            self.run_second_try()
        self.end_turn()
        while self.from_redis or self.answered:
            self.receive()
            self.wake()
        for key in self.KEYS:
            copy = self.instance.store.copy(key, self.instance.now)
            assert copy is None or copy.value == self.values.get(key), f"{key}: not what Redis has"
        while self.reads:  # replies that come after everything
            self.run_read()
            self.end_read()
        for key in self.KEYS:
            copy = self.instance.store.copy(key, self.instance.now)
            assert copy is None or copy.value == self.values.get(key), f"{key}: an old reply was kept"


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_no_copy_is_older_than_its_key(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_module, "MAX_REMEMBERED", 1)  # of two keys one is always forgotten
    copies = 0
    for seed in range(first, first + 100):
        world = World(seed)
        try:
            for _ in range(300):
                world.step()
                copies += world.instance.store.copies
            world.settle()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    assert copies > 1000  # not kept empty by too much caution
