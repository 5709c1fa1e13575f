"""Which node a command of a cluster goes to, how it is cut, and what a node tells of the others.  No I/O."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot as redis_py_key_slot

from meshcache.errors import RedisCommandError, Unavailable
from meshcache.redis.cluster_map import ClusterMap, Member, OwnSlots, read_address
from meshcache.redis.link import Command, Redirected, refusal
from meshcache.redis.names import SLOTS, Names, key_slot
from meshcache.redis.routing import Call


@given(st.binary(max_size=12) | st.lists(st.sampled_from([b"{", b"}", b"a"]), max_size=6).map(b"".join))
def test_the_slot_of_a_key_is_that_of_redis_py(key: bytes) -> None:
    assert key_slot(key) == redis_py_key_slot(key)


@given(st.sets(st.integers(0, SLOTS - 1), min_size=30))
def test_a_probe_has_a_key_in_the_slots_of_a_node(slots: set[int]) -> None:
    key = Names("gateway").probe_in(frozenset(slots))
    assert key_slot(key) in slots
    assert key.startswith(b"{gateway")


def test_a_probe_has_a_key_in_a_single_slot() -> None:
    for slot in (0, 7777, SLOTS - 1):
        assert key_slot(Names("gateway").probe_in(frozenset({slot}))) == slot


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("GET", "k"), b"k"),
        (("SET", b"k", b"v", "PX", 5), b"k"),
        (("EVALSHA", "abc", 2, b"k", b"{k}f", 1), b"k"),
        (("MGET", "k"), b"k"),
        (("MGET", "{k}1", "{k}2"), b"k"),
        (("HGETALL", "k"), b"k"),
    ],
)
def test_one_slot(command: Command, key: bytes) -> None:
    (part,) = Call(command).parts
    assert part.slot == key_slot(key)
    assert part.command is command or part.command == command


@pytest.mark.parametrize(
    "command",
    [
        ("PING",),
        ("TIME",),
        ("EVALSHA", "abc", 0),
        ("CONFIG", "GET", "save"),
        ("INFO", "server"),
        ("SCRIPT", "LOAD", b"return 1"),
    ],
)
def test_what_has_no_key_goes_everywhere(command: Command) -> None:
    (part,) = Call(command).parts
    assert part.slot is None
    part.answer(b"one")
    part.answer(RedisCommandError("refused"))
    part.answer(b"two")
    assert isinstance(part.reply, RedisCommandError)


@given(st.lists(st.sampled_from(["a", "b", "c", "{a}1", "{a}2", "d"]), min_size=1, max_size=12))
def test_what_is_cut_is_put_together_again(keys: list[str]) -> None:
    held = {b"a": b"1", b"c": b"3", b"{a}2": b"4"}

    def answer(call: Call) -> object:
        for part in call.parts:
            assert {key_slot(str(key).encode()) for key in part.command[1:]} == {part.slot}
            values = [held.get(str(key).encode()) for key in part.command[1:]]
            part.answer(values if part.command[0] == "MGET" else len([value for value in values if value]))
        return call.reply()

    values = [held.get(key.encode()) for key in keys]
    assert answer(Call(("MGET", *keys))) == values
    assert answer(Call(("EXISTS", *keys))) == len([value for value in values if value])


def test_a_part_that_is_refused_refuses_the_whole() -> None:
    call = Call(("UNLINK", "a", "b", "c"))
    assert len(call.parts) == 3
    for number, part in enumerate(call.parts):
        part.answer(RedisCommandError(f"{number}") if number else 1)
    assert str(call.reply()) == "1"


@pytest.mark.parametrize("keys", [["{a}1", "{a}2", "{a}3"], ["b", "{a}1", "c", "{a}2", "{a}3"]])
def test_a_part_is_cut_finer(keys: list[str]) -> None:
    call = Call(("MGET", *keys))
    part = next(part for part in call.parts if part.slot == key_slot(b"a"))
    assert part.divisible
    call.cut_finer(part)
    for part in call.parts:
        assert len(part.command) == 2
        assert not part.divisible
        part.answer([f"value of {part.command[1]}".encode()])
    assert call.reply() == [f"value of {key}".encode() for key in keys]
    deleted = Call(("UNLINK", *keys))
    deleted.cut_finer(next(part for part in deleted.parts if part.divisible))
    for part in deleted.parts:
        part.answer(1)
    assert deleted.reply() == len(keys)
    assert not any(part.divisible for part in Call(("EVALSHA", "abc", 2, "{k}", "{k}f")).parts)


# -- what nodes tell

ASKED = ("10.0.0.9", 7000)


def same(address: tuple[str, int]) -> tuple[str, int]:
    return address


def node(host: bytes | None, port: int, name: bytes) -> list[object]:
    return [host, port, name, []]


SLOTS_REPLY = [
    [0, 99, node(b"10.0.0.1", 7001, b"a"), node(b"10.0.0.2", 7002, b"ar")],
    [100, 199, node(b"", 7003, b"b"), node(b"?", 7004, b"br")],
    [200, 299, node(None, 7005, b"c")],
    [300, 310, node(b"10.0.0.1", 7001, b"a")],
]


def test_who_has_which_slots() -> None:
    known = ClusterMap.read(SLOTS_REPLY, ASKED, same)
    assert known.masters == {"a": ("10.0.0.1", 7001), "b": ("10.0.0.9", 7003), "c": ("10.0.0.9", 7005)}
    assert known.nodes == (("10.0.0.1", 7001), ("10.0.0.2", 7002), ("10.0.0.9", 7003), ("10.0.0.9", 7005))
    assert [known.owners[slot] for slot in (0, 99, 100, 299)] == [
        *[("10.0.0.1", 7001)] * 2,
        ("10.0.0.9", 7003),
        ("10.0.0.9", 7005),
    ]
    assert known.unserved == SLOTS - 311
    assert known.slots_of(("10.0.0.1", 7001)) == {*range(100), *range(300, 311)}


def test_addresses_are_mapped() -> None:
    known = ClusterMap.read(SLOTS_REPLY, ASKED, lambda address: ("localhost", address[1] + 1))
    assert known.masters["b"] == ("localhost", 7004)


def test_a_node_that_knows_nobody() -> None:
    with pytest.raises(Unavailable, match=r"10\.0\.0\.9:7000 knows of no cluster"):
        ClusterMap.read([], ASKED, same)


def test_who_belongs_to_a_cluster() -> None:
    text = (
        "aaa :7001@17001 myself,master - 0 0 1 connected 0-99\n"
        "bbb 10.0.0.2:7002@17002 slave,fail aaa 0 0 1 disconnected\n"
        "ccc :0@0 master,noaddr - 0 0 3 disconnected\n"
        "ddd 10.0.0.4:7004@17004 handshake - 0 0 0 connected\n"
    )
    master = ("10.0.0.9", 7001)
    assert Member.read(text, ASKED, same) == [Member(master, None), Member(("10.0.0.2", 7002), master)]


def test_what_a_node_says_of_its_own_slots() -> None:
    text = (
        "aaa 10.0.0.1:7001@17001,host-a myself,master - 0 0 4 connected 0-99 300 [42->-bbb] [43->-zzz] [107-<-bbb]\n"
        "bbb 10.0.0.2:7002@17002 master - 0 0 2 connected 100-199 [1->-aaa]\n"
        "ccc :0@0 master,noaddr - 0 0 3 disconnected\n"
    )
    own = OwnSlots.read(text, ASKED, same)
    assert own.slots == {*range(100), 300}
    assert own.giving == {42: ("bbb", ("10.0.0.2", 7002)), 43: ("zzz", None)}
    assert own.taking == {107}
    assert own.epoch == 4
    assert OwnSlots.read("", ASKED, same) == OwnSlots()


@pytest.mark.parametrize(
    ("place", "address"),
    [
        ("10.0.0.1:7001", ("10.0.0.1", 7001)),
        (":7001", ("10.0.0.9", 7001)),
        ("fd00::1:7001", ("fd00::1", 7001)),
        ("host.example:7001", ("host.example", 7001)),
    ],
)
def test_addresses(place: str, address: tuple[str, int]) -> None:
    assert read_address(place, ASKED, same) == address


@pytest.mark.parametrize(
    ("reply", "code", "slot", "place"),
    [
        ("MOVED 3999 127.0.0.1:6381", "MOVED", 3999, "127.0.0.1:6381"),
        ("ASK 3999 127.0.0.1:6381", "ASK", 3999, "127.0.0.1:6381"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "TRYAGAIN", None, ""),
        ("MOVED", "MOVED", None, ""),
        ("MOVED x y", "MOVED", None, ""),
    ],
)
def test_redirections(reply: str, code: str, slot: int | None, place: str) -> None:
    meaning = refusal(reply, "h:1")
    assert isinstance(meaning, Redirected)
    assert (meaning.code, meaning.slot, meaning.place) == (code, slot, place)
