"""Counters in memory: sums of what each instance counts, whatever the mesh loses, repeats or turns round."""

from __future__ import annotations

from itertools import permutations
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from meshcache.buckets import Version
from meshcache.counters import Way
from meshcache.errors import RedisCommandError
from meshcache.shares import MAX_VALUE, MIN_VALUE, counter_of, is_share, share_of
from meshcache.stamp import NOBODY, Kind, Op, make_stamp
from meshcache.tier import NO_EXPIRY, NO_KEY
from tests.unit.test_memory import NOW_MS, Instance, run


class Counting(Instance):
    """An instance that counts."""

    def count(self, amount: int = 1, key: str = "hits", ttl_ms: int | None = None) -> int:
        total: int = run(self.tier.incr(key, amount, ttl_ms))
        return total

    def read(self, key: str = "hits") -> int | None:
        value = run(self.tier.get(key))
        return None if value is None else int(value)

    def told(self) -> list[Op]:
        """What it has told since it was asked last."""
        told, self.published[:] = list(self.published), []
        return told


def instances(count: int, **options: Any) -> list[Counting]:
    return [Counting(node_id=number, **options) for number in range(1, count + 1)]


def exchange(*all_of_them: Counting) -> None:
    for sender in all_of_them:
        told = sender.told()
        for other in all_of_them:
            if other is not sender:
                other.hear(*told)


@pytest.fixture
def one() -> Counting:
    return Counting()


# -- one instance


def test_it_counts_from_nothing_up_and_down(one: Counting) -> None:
    assert [one.count(), one.count(5), one.count(-2)] == [1, 6, 4]
    assert one.read() == 4
    assert run(one.tier.get_many(["hits", "none"])) == {"hits": b"4"}
    assert run(one.tier.exists(["hits", "none"])) == 1
    assert (one.tier.hits, one.tier.misses) == (2, 1)


def test_it_counts_on_from_what_was_set_and_from_a_copy(one: Counting) -> None:
    run(one.tier.set("hits", b"10", None))
    assert one.count() == 11
    one.tier.keep("copied", b"100", 60.0)
    assert one.count(key="copied") == 101
    assert one.read("copied") == 101


@pytest.mark.parametrize("value", [b"text", b"1.5", b"", b"01", b"%d" % (MAX_VALUE + 1)])
def test_what_is_no_number_is_refused_as_redis_does(one: Counting, value: bytes) -> None:
    run(one.tier.set("hits", value, None))
    one.told()
    with pytest.raises(RedisCommandError, match="ERR value is not an integer or out of range"):
        one.count()
    assert run(one.tier.get("hits")) == value
    assert one.told() == []


def test_64_bit_and_no_more(one: Counting) -> None:
    run(one.tier.set("hits", b"%d" % (MAX_VALUE - 1), None))
    assert one.count() == MAX_VALUE
    with pytest.raises(RedisCommandError, match="ERR increment or decrement would overflow"):
        one.count()
    assert one.read() == MAX_VALUE
    assert one.count(MIN_VALUE) == -1
    assert one.count(MIN_VALUE + 1) == MIN_VALUE
    with pytest.raises(RedisCommandError, match="overflow"):
        one.count(-1)
    assert one.read() == MIN_VALUE
    shares = [share_of(op) for op in one.tier.dirty(100) if is_share(op.key)]
    assert sum(share.sum for share in shares) == MIN_VALUE - (MAX_VALUE - 1)
    assert len({share.series for share in shares}) == len(shares) > 1  # Lua could not take one sum as large as that


def test_shares_are_seen_nowhere(one: Counting) -> None:
    one.count()
    run(one.tier.set("other", b"1", None))
    assert sorted(one.tier.keys("*")) == ["hits", "other"]
    assert one.tier.keys("h*") == ["hits"]
    assert run(one.tier.delete_match("h*")) == 1
    assert one.read() is None
    one.count()
    assert run(one.tier.delete_match("*")) == 2
    assert one.tier.keys("*") == []


@pytest.mark.parametrize("how", ["set", "delete", "sweep", "sweep all", "expire"])
def test_a_write_of_the_counter_ends_what_was_counted(one: Counting, how: str) -> None:
    one.count(5)
    match how:
        case "set":
            run(one.tier.set("hits", b"100", None))
        case "delete":
            assert run(one.tier.delete(["hits"])) == 1
        case "sweep":
            run(one.tier.delete_match("hi*"))
        case "sweep all":
            run(one.tier.delete_match("*"))
        case "expire":
            assert run(one.tier.expire("hits", 60_000)) is True
    base = {"set": 100, "expire": 5}.get(how)
    assert one.read() == base
    assert one.count() == (base or 0) + 1
    assert one.read() == (base or 0) + 1
    shares = [share_of(op).sum for op in one.tier.dirty(100) if is_share(op.key) and op.kind is Kind.SET]
    assert shares == [1]


def test_a_pattern_is_compared_with_the_counter_and_not_with_the_hidden_keys_of_its_shares(one: Counting) -> None:
    two = Counting(node_id=2)
    one.count()
    counted = one.told()
    one.wall_ms += 10
    run(one.tier.delete_match("*0*"))
    two.hear(*one.told())
    two.hear(*counted)
    assert one.read() == two.read() == 1
    assert [op.key for op in two.tier.dirty(10)] == [counted[0].key]
    run(one.tier.delete_match("*s"))
    two.hear(*one.told())
    two.hear(*counted)
    assert one.read() is two.read() is None


def test_nx_and_xx_know_a_counter(one: Counting) -> None:
    one.count()
    assert run(one.tier.set("hits", b"7", None, nx=True)) is False
    assert one.read() == 1
    assert run(one.tier.set("hits", b"7", None, xx=True)) is True
    assert one.read() == 7


def test_expire_makes_one_value_of_what_was_set_and_counted(one: Counting) -> None:
    run(one.tier.set("hits", b"10", None))
    one.count(5)
    share = one.told()[-1]
    assert run(one.tier.expire("hits", 60_000)) is True
    (told,) = one.told()
    assert (told.kind, told.value) == (Kind.SET, b"15")
    assert told.stamp > share.stamp
    two = Counting(node_id=2)
    two.hear(share, told)
    assert one.count() == 16
    two.hear(*one.told())
    for instance in (one, two):
        assert instance.read() == 16
        assert run(instance.tier.ttl_ms("hits")) == 60_000
        instance.now += 60
        assert instance.read() is None
    assert run(one.tier.expire("hits", 60_000)) is False


def test_expire_of_what_was_counted_on_from_what_redis_had_is_kept_to_this_instance(one: Counting) -> None:
    """Nobody knows how old that number is: Redis and the peers are told to forget the counter."""
    one.tier.keep("hits", b"100", 60.0)
    one.count()
    one.told()
    assert run(one.tier.expire("hits", 5_000)) is True
    assert [op.kind for op in one.told()] == [Kind.INVALIDATE]
    assert [op.kind for op in one.tier.dirty(10)] == [Kind.INVALIDATE]
    assert one.read() == 101
    assert one.count(2) == 103
    assert run(one.tier.ttl_ms("hits")) == 5_000
    one.now += 5
    assert one.read() is None


# -- time to live


def test_a_counter_expires_and_begins_anew(one: Counting) -> None:
    assert one.count(3, ttl_ms=5_000) == 3
    one.now += 2
    assert one.count(3, ttl_ms=60_000) == 6  # it keeps the one it has
    assert run(one.tier.ttl_ms("hits")) == 3_000
    one.now += 3
    assert one.read() is None
    assert run(one.tier.ttl_ms("hits")) == NO_KEY
    assert one.tier.keys("*") == []
    assert one.count(ttl_ms=1_000) == 1
    assert run(one.tier.ttl_ms("hits")) == 1_000


def test_what_expired_is_not_brought_to_redis_and_fills_no_journal(one: Counting) -> None:
    """A rate limiter has a counter for each of its users, each for a minute."""
    assert one.journal is not None
    for number in range(1_000):  # of 100 keys there is room in the journal
        one.count(key=f"rate:{number}", ttl_ms=5_000)
        one.now += 0.1
        one.store.expire(one.now, 100)
    assert len(one.journal) <= 60
    assert one.journal.overflows == 0
    one.now += 10
    one.store.expire(one.now, 100)
    assert one.tier.dirty(100) == []
    assert not one.journal


def test_it_takes_over_the_time_to_live_of_what_was_set(one: Counting) -> None:
    run(one.tier.set("hits", b"1", 5_000))
    one.count(ttl_ms=60_000)
    one.count(key="for ever")
    assert run(one.tier.ttl_ms("hits")) == 5_000
    assert run(one.tier.ttl_ms("for ever")) == NO_EXPIRY
    one.now += 5
    assert one.read() is None


def test_that_of_others_is_theirs_too() -> None:
    one, two = instances(2)
    one.count(ttl_ms=5_000)
    exchange(one, two)
    assert two.count(ttl_ms=60_000) == 2
    assert run(two.tier.ttl_ms("hits")) == 5_000
    exchange(one, two)
    for instance in (one, two):
        instance.now += 5
        assert instance.read() is None


def test_a_series_ends_long_before_redis_forgets_it_but_not_what_is_counted_meanwhile(one: Counting) -> None:
    """Redis remembers a share until its series is over.  So the moment is fixed when it begins, however long it is counted."""
    run(one.tier.set("other", b"", None))
    for _ in range(9):
        one.count()
        one.now += 600
    assert one.read() == 5  # the four of the first half hour are one series, and too old to be brought to Redis
    living = [op for op in one.tier.dirty(100) if op.kind is Kind.SET and is_share(op.key)]
    assert sum(share_of(op).sum for op in living) == 5
    assert all(op.expires_at <= one.now + 3_600 for op in living)
    assert run(one.tier.ttl_ms("hits")) == NO_EXPIRY


# -- several instances


def test_each_reads_the_sum_of_all() -> None:
    everybody = instances(3)
    for number, instance in enumerate(everybody, 1):
        instance.count(number)
    exchange(*everybody)
    assert [instance.read() for instance in everybody] == [6, 6, 6]
    assert [instance.count(10) for instance in everybody] == [16, 16, 16]
    exchange(*everybody)
    assert [instance.read() for instance in everybody] == [36, 36, 36]


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_the_order_in_which_it_is_heard_does_not_matter(order: tuple[int, ...]) -> None:
    one, two, three = instances(3)
    run(one.tier.set("hits", b"100", None))
    two.clock.observe(one.published[0].stamp)
    two.count(1)
    two.count(1)
    one.count(5)
    told = [*one.told(), *two.told()]
    for place in order:
        three.hear(told[place])
        three.hear(told[place])
    assert three.read() == 107


def test_a_set_that_comes_late_ends_what_was_counted_before_it() -> None:
    one, two = instances(2)
    one.count(50)
    exchange(one, two)
    one.wall_ms += 10
    run(one.tier.set("hits", b"0", None))
    reset = one.told()
    two.count(1)  # it has not heard
    counted = two.told()
    one.hear(*counted)
    two.hear(*reset)
    assert one.read() == two.read() == 0  # its clock was behind: it counted before the set
    assert two.count(1) == 1
    exchange(one, two)
    assert one.read() == 1


class CountersMerge(RuleBasedStateMachine):
    """Instances count, set and delete; what they tell is lost, repeated and delayed.  Once all is heard, all read the same, and that
    is what was counted since the last set or delete."""

    def __init__(self) -> None:
        super().__init__()
        self.all = instances(3, max_entries=10_000)
        self.on_the_way: list[tuple[int, Op]] = []
        self.clock = 0

    def _tell(self, sender: int) -> None:
        told = self.all[sender].told()
        self.on_the_way += [(other, op) for other in range(3) if other != sender for op in told]

    def _pass_time(self) -> None:
        self.clock += 1
        for instance in self.all:
            instance.wall_ms = NOW_MS + self.clock

    @rule(who=st.integers(0, 2), amount=st.integers(-50, 50))
    def count(self, who: int, amount: int) -> None:
        self._pass_time()
        self.all[who].count(amount)
        self._tell(who)

    @rule(who=st.integers(0, 2), value=st.integers(-5, 5))
    def set(self, who: int, value: int) -> None:
        self._pass_time()
        run(self.all[who].tier.set("hits", b"%d" % value, None))
        self._tell(who)

    @rule(who=st.integers(0, 2))
    def delete(self, who: int) -> None:
        self._pass_time()
        run(self.all[who].tier.delete(["hits"]))
        self._tell(who)

    @rule(data=st.data())
    def hear(self, data: st.DataObject) -> None:
        if self.on_the_way:
            place = data.draw(st.integers(0, len(self.on_the_way) - 1))
            other, op = self.on_the_way[place]
            self.all[other].hear(op)
            if data.draw(st.booleans()):  # otherwise it comes again
                del self.on_the_way[place]

    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """It is told again later, with what is newest then: as the digest does."""
        if self.on_the_way:
            del self.on_the_way[data.draw(st.integers(0, len(self.on_the_way) - 1))]

    @rule()
    def agree(self) -> None:
        self._synchronise()
        first, *rest = [instance.read() for instance in self.all]
        assert all(value == first for value in rest)
        everything = [op for instance in self.all for op in self._known(instance)]
        base = max((op for op in everything if not is_share(op.key)), key=lambda op: op.stamp, default=None)
        newest: dict[str, Op] = {}
        for op in everything:
            if is_share(op.key) and (op.key not in newest or newest[op.key].stamp < op.stamp):
                newest[op.key] = op
        start = int(base.value) if base is not None and base.kind is Kind.SET else None
        if start is None and not newest:
            assert first is None
        else:
            assert first == (start or 0) + sum(share_of(op).sum for op in newest.values())

    def _known(self, instance: Counting) -> list[Op]:
        names = ["hits", *instance.store.shares.get("hits", ())]
        return [op for name in names if (op := instance.store.op(name, instance.now)) is not None]

    def _synchronise(self) -> None:
        for _ in range(2):
            for instance in self.all:
                known = self._known(instance)
                for other in self.all:
                    if other is not instance:
                        other.hear(*known)


TestCountersMerge = CountersMerge.TestCase
TestCountersMerge.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


class OnlyCounted(RuleBasedStateMachine):
    """Nobody sets or deletes: then the sum of all that was counted is what everybody reads, and each never reads less of its own."""

    @initialize(base=st.integers(-100, 100), copies=st.booleans())
    def begin(self, base: int, copies: bool) -> None:
        self.all = instances(3, max_entries=10_000)
        self.on_the_way: list[tuple[int, Op]] = []
        self.counted = [0, 0, 0]
        self.base = base
        for instance in self.all:
            if copies:
                instance.tier.keep("hits", b"%d" % base, 3_000.0)
            else:
                instance.hear(Op(Kind.SET, "hits", make_stamp(NOW_MS, 0, 9), b"%d" % base))

    @rule(who=st.integers(0, 2), amount=st.integers(1, 50))
    def count(self, who: int, amount: int) -> None:
        total = self.all[who].count(amount)
        self.counted[who] += amount
        assert self.base + self.counted[who] <= total <= self.base + sum(self.counted)
        told = self.all[who].told()
        self.on_the_way += [(other, op) for other in range(3) if other != who for op in told]

    @rule(data=st.data(), lost=st.booleans(), again=st.booleans())
    def hear(self, data: st.DataObject, lost: bool, again: bool) -> None:
        if self.on_the_way:
            other, op = self.on_the_way.pop(data.draw(st.integers(0, len(self.on_the_way) - 1)))
            if not lost:
                self.all[other].hear(op)
            if again or lost:
                self.on_the_way.append((other, op))

    @invariant()
    def never_too_much(self) -> None:
        for who, instance in enumerate(getattr(self, "all", [])):
            value = instance.read()
            assert value is not None
            assert self.base + self.counted[who] <= value <= self.base + sum(self.counted)

    @rule()
    def hear_all(self) -> None:
        for other, op in self.on_the_way:
            self.all[other].hear(op)
        self.on_the_way.clear()
        assert [instance.read() for instance in self.all] == [self.base + sum(self.counted)] * 3


TestOnlyCounted = OnlyCounted.TestCase
TestOnlyCounted.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


# -- increments that go to Redis


def test_increments_under_way_at_once_have_a_share_each(one: Counting) -> None:
    first, second = (one.tier.count("hits", 1, None, Way.PLAIN) for _ in range(2))
    assert first.key != second.key
    one.tier.counted(first, 1, None, Way.PLAIN, is_outdated=False)
    third = one.tier.count("hits", 1, None, Way.PLAIN)
    assert third.key == first.key
    assert share_of(third).series > share_of(first).series
    assert share_of(third).sum == 1
    assert one.told() == []
    assert one.tier.dirty(10) == []


def test_an_increment_in_doubt_is_counted_here_and_carried_along_by_the_next(one: Counting) -> None:
    one.tier.keep("hits", b"10", 60.0)
    op = one.tier.count("hits", 5, None, Way.PLAIN)
    assert one.tier.count_doubted(op, 5) == 15
    assert one.read() == 15
    assert one.tier.is_in_doubt("hits")
    assert one.tier.is_dirty("hits")
    assert [op.key for op in one.tier.dirty(10)] == [op.key]
    one.tier.keep("hits", b"15", 60.0)  # perhaps Redis has it: that is no base to count on from
    assert one.read() == 15
    again = one.tier.count("hits", 1, None, Way.PLAIN)
    assert (share_of(again).series, share_of(again).sum) == (share_of(op).series, 6)
    one.tier.counted(again, 16, None, Way.PLAIN, is_outdated=False)
    assert not one.tier.is_dirty("hits")
    assert one.tier.dirty(10) == []


def test_of_a_counter_in_doubt_without_a_copy_redis_knows_more(one: Counting) -> None:
    one.tier.count_doubted(one.tier.count("hits", 5, None, Way.PLAIN), 5)
    assert one.tier.is_dirty("hits")
    assert not one.tier.is_in_doubt("hits")


@pytest.mark.parametrize("way", [Way.PLAIN, Way.TOLD])
def test_what_was_replayed_meanwhile_is_gone_on_from(one: Counting, way: Way) -> None:
    """An increment in doubt has been replayed; the next one must not be taken for it."""
    told = one.tier.count("hits", 1, None, Way.TOLD)
    one.tier.counted(told, 1, None, Way.TOLD, is_outdated=False)
    one.tier.count_doubted(one.tier.count("hits", 1, None, way), 1)
    (doubted,) = one.tier.dirty(10)
    meanwhile = one.tier.count("hits", 1, None, way)
    one.tier.counted(meanwhile, 3, None, way, is_outdated=False)
    one.tier.cleaned([doubted])
    one.tier.counted_in_redis([doubted])
    one.tier.forget()
    following = one.tier.count("hits", 1, None, Way.TOLD)
    applied = {op.key: (share_of(op).series, share_of(op).sum) for op in (told, doubted, meanwhile)}
    series, total = applied.get(following.key, (None, 0))
    assert share_of(following).sum == (total + 1 if share_of(following).series == series else 1)


def test_own_shares_are_not_taken_back_from_peers(one: Counting) -> None:
    """A peer may still have what Redis has, and has seen more of since."""
    one.count(5)
    (share,) = one.told()
    one.tier.cleaned([share])
    one.tier.forget()
    one.hear(share)
    assert one.read() is None
    assert not one.tier.wants(Version(share.key, share.stamp), one.now)


def test_an_increment_that_redis_refused_leaves_nothing(one: Counting) -> None:
    op = one.tier.count("hits", 5, None, Way.PLAIN)
    one.tier.count_refused(op)
    assert one.read() is None
    assert one.tier.count("hits", 1, None, Way.PLAIN).key == op.key


def test_one_that_is_cut_off_sees_all_that_is_counted_in_redis() -> None:
    """The other's increments are in Redis; the one who is cut off counts on from its copy."""
    cut_off, other = instances(2)
    cut_off.tier.keep("hits", b"10", 60.0)
    for number in range(1, 4):
        op = other.tier.count("hits", 1, None, Way.TOLD)
        assert share_of(op).sum == number
        other.tier.counted(op, 10 + number, 5_000, Way.TOLD, is_outdated=False)
        cut_off.tier.apply(other.told(), in_redis=True)
        assert cut_off.read() == 10 + number
    assert cut_off.tier.dirty(10) == []
    assert other.tier.dirty(10) == []
    assert cut_off.count() == 14


def test_what_a_copy_contains_already_is_not_counted_twice() -> None:
    """It has brought a peer's share to Redis, has a copy of the sum, and then loses Redis too."""
    one, cut_off = instances(2)
    cut_off.count(5)
    one.hear(*cut_off.told())
    (share,) = one.tier.dirty(10)
    one.tier.cleaned([share])
    one.tier.counted_in_redis([share])
    one.tier.forget()
    one.tier.keep("hits", b"105", 60.0)
    one.tier.counters.redis_lost(one.now)
    cut_off.count(1)
    one.hear(*cut_off.told())
    assert one.read() == 106


def test_while_it_recovers_it_reads_what_it_read(one: Counting) -> None:
    """The copy is older than what has just been brought to Redis."""
    one.tier.keep("hits", b"100", 60.0)
    one.tier.counters.redis_lost(one.now)
    names = set()
    for number in range(1, 6):
        one.now += 0.1
        assert one.count() == 100 + number
        shares = one.tier.dirty(10)
        names |= {share.key for share in shares}
        one.tier.cleaned(shares)
        one.tier.counted_in_redis(shares)
        assert one.read() == 100 + number
    assert len(names) == 1


def test_what_was_told_before_this_outage_is_not_counted_twice(one: Counting) -> None:
    op = one.tier.count("hits", 5, None, Way.TOLD)
    one.tier.counted(op, 105, None, Way.TOLD, is_outdated=False)
    one.tier.keep("hits", b"105", 60.0)
    assert one.count() == 106
    (share,) = one.tier.dirty(10)
    assert share_of(share).sum == 1
    assert share.key != op.key
    assert counter_of(share.key) == "hits"


def counted_in_redis(one: Counting, value: int, left_ms: int | None, way: Way = Way.PLAIN) -> None:
    one.tier.counted(one.tier.count("hits", 1, 60_000, way), value, left_ms, way, is_outdated=False)


def test_an_outage_goes_on_from_the_number_that_redis_gave_last(one: Counting) -> None:
    counted_in_redis(one, 57, 10_000)
    assert one.read() is None  # somebody may have deleted it: it is no copy
    assert run(one.tier.ttl_ms("hits")) == NO_KEY
    assert one.count(ttl_ms=60_000) == 58
    assert one.read() == 58
    assert run(one.tier.ttl_ms("hits")) == 10_000
    one.now += 10
    assert one.read() is None
    assert one.count(ttl_ms=60_000) == 1


def test_it_goes_on_from_it_for_a_while_if_the_counter_does_not_expire(one: Counting) -> None:
    counted_in_redis(one, 57, None)
    assert one.count(ttl_ms=5_000) == 58
    assert run(one.tier.ttl_ms("hits")) == NO_EXPIRY
    one.now += 59.9
    assert one.count() == 59
    one.now += 0.1
    assert one.read() == 2


@pytest.mark.parametrize("how", ["set", "delete", "sweep", "heard", "settled"])
def test_but_not_from_before_a_write_that_it_knows(one: Counting, how: str) -> None:
    counted_in_redis(one, 57, 10_000, Way.TOLD)
    match how:
        case "set":
            run(one.tier.set("hits", b"0", None))
        case "delete":
            run(one.tier.delete(["hits"]))
        case "sweep":
            run(one.tier.delete_match("h*"))
        case "heard":
            one.hear(Op(Kind.DELETE, "hits", make_stamp(NOW_MS + 5, 0, 2)))
        case "settled":
            one.tier.settled(one.tier.draft(Kind.DELETE, "hits"))
    assert one.count() == 1
    assert one.read() == 1


def test_nor_from_before_what_it_is_reminded_of(one: Counting) -> None:
    """Redis is gone, and had a set of this instance: what it has counted after that, it goes on from."""
    run(one.tier.set("hits", b"50", None))
    (written,) = one.told()
    one.store.clear()
    counted_in_redis(one, 57, 10_000)
    one.tier.remember([written._replace(kind=Kind.INVALIDATE, value=b"")], lambda key: inf)
    assert one.count() == 58
    later = one.tier.draft(Kind.INVALIDATE, "hits")
    one.tier.remember([later], lambda key: inf)
    assert one.count() == 1


def test_a_counter_outlives_that_somebody_changed_it_before_redis_forgot(one: Counting) -> None:
    one.tier.count_doubted(one.tier.count("hits", 5, None, Way.PLAIN), 5)
    one.wall_ms += 10
    changed = [Op(Kind.INVALIDATE, key, make_stamp(one.wall_ms, 0, NOBODY)) for key in ("hits", "other")]
    one.tier.forget_in_redis(changed)
    assert one.read() == 5
    assert {counter_of(op.key) if is_share(op.key) else op.key for op in one.tier.dirty(10)} == {"hits", "other"}
    one.tier.forget_in_redis([Op(Kind.INVALIDATE, "hits", make_stamp(one.wall_ms, 0, 2))])  # somebody known wrote it
    assert one.read() is None


def test_a_share_that_is_nonsense_is_refused(one: Counting) -> None:
    for op in (
        Op(Kind.SET, "\0" + "0" * 20 + "hits", make_stamp(NOW_MS, 0, 2), b"nonsense"),
        Op(Kind.SET, "\0hits", make_stamp(NOW_MS, 0, 2), b"x" * 40),
    ):
        one.hear(op)
        one.tier.counted_in_redis([op])
    assert len(one.store) == 0
    assert one.tier.dirty(10) == []
    assert one.count() == 1


@given(st.lists(st.integers(1, 5), min_size=1, max_size=20))
def test_the_index_of_shares_follows_the_store(kept: list[int]) -> None:
    instance = Counting(max_entries=max(kept))
    for number in kept:
        instance.count(key=f"key:{number}")
        instance.count(key=f"key:{number}", ttl_ms=1_000)
        instance.now += 0.4
        instance.store.expire(instance.now, 1)
        names = {name for names in instance.store.shares.values() for name in names}
        assert len(names) == len(instance.store)
        assert all(instance.store.peek(name, instance.now) is not None for name in names)
