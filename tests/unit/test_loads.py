"""Loads: who joins which, and when what was loaded may be stored."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from meshcache.loads import Load, Loads
from meshcache.shares import share_key
from meshcache.stamp import Kind, Op, make_stamp

BEGAN = make_stamp(1, 0, 1)


@pytest.fixture
def loads() -> Loads:
    return Loads()


def lead(loads: Loads, key: str = "key") -> Load:
    load, leads = loads.join(key, ())
    assert leads
    return load


def loading(loads: Loads, key: str = "key") -> Load:
    """A load whose loader runs."""
    load = lead(loads, key)
    loads.ask(load)
    loads.call(load, BEGAN)
    return load


def refreshing(loads: Loads, key: str = "key") -> Load:
    load = loads.lead(key)
    loads.call(load, BEGAN)
    return load


def test_the_first_leads_and_the_others_join(loads: Loads) -> None:
    load = lead(loads)
    assert loads.join("key", ()) == (load, False)
    loads.call(load, BEGAN)
    assert loads.join("key", ()) == (load, False)
    assert loads.store(load)
    assert loads.join("key", ()) == (load, False)
    loads.end(load)
    assert loads.join("key", ())[1]


def test_other_keys_are_loaded_at_the_same_time(loads: Loads) -> None:
    one, two = lead(loads, "one"), lead(loads, "two")
    assert loads.join("one", ()) == (one, False)
    assert loads.join("two", ()) == (two, False)


def test_nothing_is_left_of_a_load_that_ended(loads: Loads) -> None:
    first, second = loading(loads), refreshing(loads)
    assert loads
    loads.end(first)
    loads.end(second)
    assert not loads
    assert loads.matching("*") == []


CHANGES = [
    lambda loads: loads.changed(("key",)),
    lambda loads: loads.changed(["other", "key"], elsewhere=True),
    lambda loads: loads.changed(None, elsewhere=True),
    lambda loads: loads.changed(loads.matching("k*")),
    lambda loads: loads.heard([Op(Kind.DELETE, "key", BEGAN)]),
    lambda loads: loads.heard([Op(Kind.SET, "other", BEGAN), Op(Kind.SET, "key", BEGAN)]),
    lambda loads: loads.heard([Op(Kind.SWEEP, "k*", BEGAN)]),
    lambda loads: loads.heard([Op(Kind.SET, share_key(1, 0, "key"), BEGAN, b"7")]),
    lambda loads: loads.lead("key"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_loaded_before_a_change_is_not_stored(loads: Loads, change: object) -> None:
    load = loading(loads)
    change(loads)  # type: ignore[operator]
    assert not loads.store(load)


@pytest.mark.parametrize("change", CHANGES)
def test_who_asks_after_a_change_does_not_join(loads: Loads, change: object) -> None:
    load = loading(loads)
    change(loads)  # type: ignore[operator]
    assert loads.join("key", ())[0] is not load


@pytest.mark.parametrize(
    "change",
    [
        lambda loads: loads.changed(["other"], elsewhere=True),
        lambda loads: loads.changed(loads.matching("other*")),
        lambda loads: loads.heard([Op(Kind.DELETE, "other", BEGAN), Op(Kind.SWEEP, "other*", BEGAN)]),
        lambda loads: loads.lead("other"),
    ],
)
def test_changes_of_other_keys_do_not_matter(loads: Loads, change: object) -> None:
    load = loading(loads)
    change(loads)  # type: ignore[operator]
    assert loads.join("key", ()) == (load, False)
    assert loads.store(load)
    assert not load.must_be_taken_back


def test_a_change_before_the_loader_is_called_makes_it_ask_again(loads: Loads) -> None:
    load = lead(loads)
    loads.ask(load)
    loads.changed(("key",), elsewhere=True)
    assert load.doubted
    assert loads.join("key", ()) == (load, False)
    loads.ask(load)
    assert not load.doubted
    loads.call(load, BEGAN)
    assert loads.store(load)


@pytest.mark.parametrize("begin", [loading, refreshing])
def test_a_change_elsewhere_while_the_value_is_on_its_way_takes_it_back(loads: Loads, begin: Any) -> None:
    load = begin(loads)
    assert loads.store(load)
    loads.changed(("key",), elsewhere=True)
    assert load.must_be_taken_back
    assert loads.join("key", ())[1]


@pytest.mark.parametrize("begin", [loading, refreshing])
def test_an_own_change_waits_for_what_is_on_its_way(loads: Loads, begin: Any) -> None:
    other, load = loading(loads, "other"), begin(loads)
    assert loads.storing(["key", "other"]) == []
    assert loads.store(load)
    assert loads.storing(["key", "other"]) == [load]
    loads.changed(("key",))
    assert not load.must_be_taken_back
    assert loads.join("key", ())[1]
    loads.end(load)
    loads.end(other)
    assert loads.storing(["key", "other"]) == []


def test_of_two_refreshes_the_one_called_last_stays(loads: Loads) -> None:
    first, second = refreshing(loads), refreshing(loads)
    assert not loads.store(first)
    assert loads.store(second)


def test_a_load_that_waits_for_itself(loads: Loads) -> None:
    load = loading(loads)
    with pytest.raises(RuntimeError, match="'key'"):
        loads.join("key", (load,))


def test_two_loads_that_wait_for_each_other(loads: Loads) -> None:
    a, b = loading(loads, "a"), loading(loads, "b")
    loads.waits((a,), b)
    with pytest.raises(RuntimeError, match="'a'"):
        loads.join("a", (b,))
    loads.waited((a,), b)
    assert loads.join("a", (b,)) == (a, False)


def test_a_circle_of_many(loads: Loads) -> None:
    """a's loader leads b, and waits for c; c's waits for d; and d's for b."""
    a, b, c, d = (loading(loads, key) for key in "abcd")
    loads.waits((a, b), c)
    loads.waits((c,), d)
    for key in "abc":
        with pytest.raises(RuntimeError):
            loads.join(key, (d,))
    assert loads.join("d", ()) == (d, False)
    assert loads.join("c", ()) == (c, False)


def test_loaders_that_wait_for_one_load_in_many_ways(loads: Loads) -> None:
    """Each asks twice for the next: there are 2^50 ways to the last, and none is gone twice."""
    chain = [loading(loads, f"{i}") for i in range(50)]
    for load, following in pairwise(chain):
        loads.waits((load,), following)
        loads.waits((load,), following)
    assert loads.join("0", ()) == (chain[0], False)
    assert loads.join("0", (loading(loads, "another"),)) == (chain[0], False)
