"""The records of who is there keep their deadlines and their bounds."""

from __future__ import annotations

from itertools import pairwise
from math import inf
from random import Random

from meshcache.events import Mode, Peer
from meshcache.mesh.inbox import Inbox
from meshcache.mesh.peers import Candidates, Nonces, Session, Sessions, Throttle
from meshcache.mesh.settings import Limits, Timing

ADDRESS = ("10.0.0.1", 7000)


# -- nonces


def test_a_nonce_is_good_once_and_for_a_while() -> None:
    nonces: Nonces[str] = Nonces(10, 3.0, Random(1))
    nonce = nonces.issue("a", 0.0)
    assert len(nonce) == 16
    assert nonces.subject(nonce) == "a"
    assert nonces.redeem(nonce, 2.9) == "a"
    assert nonces.redeem(nonce, 2.9) is None
    late = nonces.issue("a", 10.0)
    assert late != nonce
    assert nonces.redeem(late, 13.0) is None
    assert nonces.redeem(b"x" * 16, 13.0) is None


def test_asking_again_spoils_nothing() -> None:
    nonces: Nonces[str] = Nonces(10, 3.0, Random(1))
    nonce = nonces.issue("a", 0.0)
    assert nonces.issue("a", 2.9) == nonce
    newer = nonces.issue("a", 3.0)
    assert newer != nonce
    assert nonces.redeem(nonce, 3.0) is None
    assert nonces.redeem(newer, 3.0) == "a"


def test_nonces_are_bounded() -> None:
    nonces: Nonces[int] = Nonces(10, 3.0, Random(1))
    issued = [nonces.issue(n, 0.0) for n in range(1000)]
    assert len(nonces) == 10
    assert [nonces.redeem(nonce, 0.0) for nonce in issued[-11:]] == [None, *range(990, 1000)]
    assert len(nonces) == 0


def test_throttle() -> None:
    throttle: Throttle[str] = Throttle(2, 1.0)
    assert throttle.passes("a", 0.0)
    assert not throttle.passes("a", 0.9)
    assert throttle.passes("b", 0.9)
    assert not throttle.passes("c", 0.9), "two in one second are enough"
    assert throttle.passes("c", 1.0)
    assert not throttle.passes("a", 1.0)


# -- candidates


def greetings(candidates: Candidates, start: float, end: float) -> list[float]:
    moments = []
    while candidates.next_hello <= end:
        now = max(start, candidates.next_hello)
        if candidates.due(now):
            moments.append(now)
    return moments


def test_a_candidate_is_greeted_at_once_and_then_less_often() -> None:
    candidates = Candidates(10, Timing(), Random(1))
    assert candidates.next_hello == inf
    candidates.add(ADDRESS, 100.0, 60.0)
    assert candidates.next_hello == 100.0
    moments = greetings(candidates, 100.0, 130.0)
    assert moments[0] == 100.0
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    for pause, nominal in zip(pauses, [0.2, 0.5, *[1.0] * 40], strict=False):
        assert 0.8 * nominal <= pause <= 1.2 * nominal
    assert len(set(pauses)) == len(pauses), "jitter"


def test_a_candidate_is_forgotten_a_minute_after_it_was_named_last() -> None:
    candidates = Candidates(10, Timing(), Random(1))
    for start in (100.0, 130.0):
        candidates.add(ADDRESS, start, 60.0)
        greetings(candidates, start, start + 30)
    moments = greetings(candidates, 160.0, 1000.0)
    assert 188.0 < moments[-1] < 190.0
    assert len(candidates) == 0
    assert candidates.next_hello == inf


def test_naming_a_candidate_again_does_not_greet_it_more_often() -> None:
    candidates = Candidates(10, Timing(), Random(1))
    candidates.add(ADDRESS, 0.0, 60.0)
    assert candidates.due(0.0) == [ADDRESS]
    for _ in range(100):
        candidates.add(ADDRESS, 0.1, 60.0)
        assert candidates.due(0.1) == []


def test_an_address_that_led_to_a_peer_is_left_alone_until_that_is_lost() -> None:
    candidates = Candidates(10, Timing(), Random(1))
    candidates.add(ADDRESS, 0.0, 60.0)
    candidates.due(0.0)
    candidates.leads_to(ADDRESS, 7)
    assert candidates.next_hello == inf
    candidates.lost(8, 10.0)
    assert candidates.next_hello == inf
    candidates.lost(7, 10.0)
    assert candidates.due(10.0) == [ADDRESS]


def test_own_address_is_left_alone() -> None:
    candidates = Candidates(10, Timing(), Random(1))
    for now in range(0, 60, 10):
        candidates.add(ADDRESS, float(now), 60.0)
        assert candidates.due(float(now)) == ([ADDRESS] if now == 0 else [])
        candidates.is_own(ADDRESS, float(now))


def test_candidates_are_bounded_and_old_ones_make_room() -> None:
    candidates = Candidates(10, Timing(), Random(1))
    assert [candidates.add(("10.0.0.1", port), 0.0, 60.0) for port in range(12)] == [True] * 10 + [False] * 2
    assert candidates.add(("10.0.0.1", 3), 1.0, 60.0), "named again"
    assert candidates.add(("10.0.0.1", 11), 60.0, 60.0)
    assert len(candidates) == 2


# -- sessions


def session(node_id: int, now: float) -> Session:
    return Session(node_id, ("10.0.0.1", node_id), Mode.MEMORY, 1, Inbox(0, Limits()), now)


def test_who_will_be_missed_next() -> None:
    sessions = Sessions(Limits(), Timing())
    assert sessions.next_silence == inf
    one, two, three = (session(n, 10.0 + n) for n in (1, 2, 3))
    for each in (one, two, three):
        sessions.add(each)
    assert sessions.next_silence == 16.0
    sessions.heard(one, 14.0)
    assert sessions.next_silence == 17.0
    assert sessions.silent(16.9) == []
    assert sessions.silent(17.0) == [two]
    assert sessions.silent(18.0) == [two, three]
    sessions.remove(two)
    assert list(sessions) == [three, one]
    assert not sessions.is_suspect(one, 15.9)
    assert sessions.is_suspect(one, 16.0)


def test_addresses_follow() -> None:
    sessions = Sessions(Limits(), Timing())
    one, two = session(1, 0.0), session(2, 0.0)
    assert sessions.addresses == ()
    sessions.add(one)
    sessions.add(two)
    assert sessions.addresses == (("10.0.0.1", 1), ("10.0.0.1", 2))
    sessions.move(one, ("10.0.0.9", 5))
    assert set(sessions.addresses) == {("10.0.0.9", 5), ("10.0.0.1", 2)}
    assert one.peer == Peer("0000000000000001", "10.0.0.9", 5, Mode.MEMORY)
    sessions.remove(two)
    assert sessions.addresses == (("10.0.0.9", 5),)
