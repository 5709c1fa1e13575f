"""Who may still write plainly, and who may have writes that Redis lacks."""

from __future__ import annotations

from meshcache.stamp import Stamp, make_stamp, stamp_ms
from meshcache.standings import NEVER, Gone, Record, Standing, Standings

WALL_MS = 1_700_000_000_000
PEER, OTHER = 7, 8
PLAIN = Standing(plain=True, clean=True)
LEASE = 15.0


def at(seconds: float) -> Stamp:
    """The stamp of a moment; all clocks agree here."""
    return make_stamp(WALL_MS + int(seconds * 1000), 0, 0)


def fenced(until: float, *, clean: bool = True) -> Standing:
    return Standing(plain=False, clean=clean, plain_until=at(until))


def standings() -> Standings:
    return Standings(gone_after=5.0, forget_after=600.0, lease=LEASE)


def last_plain(known: Standings, now: float) -> Stamp | None:
    return known.last_plain(now, WALL_MS + int(now * 1000))


def lose(known: Standings, node_id: int, now: float, *, silent: bool) -> None:
    heard_at = now - 5.0 if silent else now
    known.lost(node_id, now, silent=silent, heard_at=heard_at, wall_ms=WALL_MS + int(now * 1000))


def record(node_id: int, standing: Standing, registered: float, now: float, *, left: bool = False) -> Record:
    return Record(node_id, standing, WALL_MS + int(registered * 1000), registered + LEASE - now, left)


def test_alone_nothing_hinders_and_nothing_is_in_doubt() -> None:
    known = standings()
    assert not known.must_stamp(0.0)
    assert last_plain(known, 0.0) == NEVER


def test_a_peer_that_says_nothing_yet_may_be_writing_plainly() -> None:
    known = standings()
    known.joined(PEER, clean=True)
    assert not known.must_stamp(0.0)
    assert last_plain(known, 0.0) is None


def test_a_peer_that_lost_redis_makes_everybody_stamp_until_it_is_clean() -> None:
    known = standings()
    known.joined(PEER, clean=True)
    assert not known.heard(PEER, PLAIN)
    assert known.heard(PEER, fenced(1.0, clean=False))
    assert known.must_stamp(1.0)
    assert last_plain(known, 2.0) == at(1.0)
    assert not known.heard(PEER, fenced(1.0, clean=False))
    known.heard(PEER, fenced(1.0))
    assert not known.must_stamp(3.0)


def test_the_newest_of_all_plain_writes_counts() -> None:
    known = standings()
    for node_id, until in ((PEER, 1.0), (OTHER, 4.0)):
        known.joined(node_id, clean=False)
        known.heard(node_id, fenced(until, clean=False))
    assert last_plain(known, 5.0) == at(4.0)
    known.heard(PEER, PLAIN)
    assert last_plain(known, 5.0) is None


def test_a_peer_that_fell_silent_is_reckoned_with_for_ten_minutes() -> None:
    known = standings()
    known.joined(PEER, clean=True)
    known.heard(PEER, PLAIN)
    lose(known, PEER, 105.0, silent=True)
    assert known.must_stamp(105.0)
    assert known.must_stamp(699.0)
    assert not known.must_stamp(701.0)


def test_a_peer_that_said_goodbye_hinders_nobody_but_its_last_plain_write_counts() -> None:
    known = standings()
    known.joined(PEER, clean=True)
    known.heard(PEER, PLAIN)
    lose(known, PEER, 100.0, silent=False)
    assert not known.must_stamp(100.0)
    assert last_plain(known, 101.0) == at(100.0)


def test_a_goodbye_with_writes_that_redis_lacks_is_as_bad_as_silence() -> None:
    known = standings()
    known.joined(PEER, clean=False)
    known.heard(PEER, fenced(50.0, clean=False))
    lose(known, PEER, 100.0, silent=False)
    assert known.must_stamp(101.0)
    assert last_plain(known, 101.0) == at(50.0)


def test_one_that_fell_silent_while_it_wrote_plainly_goes_on_until_it_must_have_missed_us() -> None:
    known = standings()
    known.joined(PEER, clean=True)
    known.heard(PEER, PLAIN)
    lose(known, PEER, 105.0, silent=True)  # heard last at 100
    assert last_plain(known, 106.9) is None
    after = last_plain(known, 200.0)
    assert after is not None
    assert 106_900 < stamp_ms(after) - WALL_MS < 107_100


def test_if_it_hears_us_it_stops_when_we_say_that_we_are_not_clean() -> None:
    known = standings()
    known.joined(PEER, clean=True)
    known.heard(PEER, PLAIN)
    lose(known, PEER, 105.0, silent=True)
    known.unclean(300.0)
    assert last_plain(known, 301.0) is None
    after = last_plain(known, 308.0)
    assert after is not None
    assert stamp_ms(after) - WALL_MS == 307_000


def test_of_one_that_is_long_gone_only_the_registry_knows() -> None:
    known = standings()
    known.joined(PEER, clean=True)
    known.heard(PEER, PLAIN)
    lose(known, PEER, 105.0, silent=True)
    assert last_plain(known, 1000.0) is None
    known.registered([record(PEER, PLAIN, 400.0, 1000.0)], 1000.0)
    assert last_plain(known, 1000.0) == at(400.0 + LEASE)
    known.registered([], 1001.0)
    assert last_plain(known, 1001.0) == NEVER


def test_one_that_is_never_heard_but_holds_a_lease_may_be_writing_plainly() -> None:
    known = standings()
    known.registered([record(PEER, PLAIN, 10.0, 12.0)], 12.0)
    assert last_plain(known, 12.0) is None
    assert not known.must_stamp(12.0)
    known.registered([record(PEER, fenced(9.0), 13.0, 14.0)], 14.0)
    assert last_plain(known, 14.0) == at(9.0)


def test_one_that_is_never_heard_and_lost_its_lease_or_is_not_clean_makes_everybody_stamp() -> None:
    for standing, now in ((PLAIN, 26.0), (fenced(9.0, clean=False), 12.0)):
        known = standings()
        known.registered([record(PEER, standing, 10.0, now)], now)
        assert known.must_stamp(now)
        assert known.must_stamp(10.0 + LEASE + 599.0)
        assert not known.must_stamp(10.0 + LEASE + 601.0)


def test_one_that_replays_makes_everybody_stamp_also_where_what_it_says_of_itself_is_clean() -> None:
    known = standings()
    replaying = record(PEER, fenced(9.0), 10.0, 12.0)._replace(replays=True)
    known.registered([replaying], 12.0)
    assert known.must_stamp(12.0)
    known.joined(PEER, clean=True)
    known.heard(PEER, fenced(9.0))
    assert known.must_stamp(13.0)
    known.registered([replaying._replace(replays=False)], 14.0)
    assert not known.must_stamp(14.0)


def test_one_that_signed_off_hinders_nobody() -> None:
    known = standings()
    known.registered([record(PEER, fenced(9.0), 10.0, 100.0, left=True)], 100.0)
    assert not known.must_stamp(100.0)
    assert last_plain(known, 100.0) == at(9.0)


def test_what_a_peer_says_is_newer_than_what_it_registered() -> None:
    """It cannot tell Redis that it lost it."""
    known = standings()
    known.joined(PEER, clean=True)
    known.registered([record(PEER, PLAIN, 10.0, 11.0)], 11.0)
    known.heard(PEER, fenced(10.5, clean=False))
    assert last_plain(known, 12.0) == at(10.5)


def test_a_peer_that_is_back_is_judged_by_what_it_says_now() -> None:
    known = standings()
    known.joined(PEER, clean=True)
    lose(known, PEER, 105.0, silent=True)
    known.joined(PEER, clean=True)
    known.heard(PEER, fenced(110.0))
    assert not known.must_stamp(111.0)
    assert last_plain(known, 111.0) == at(110.0)


def test_of_what_it_registered_and_what_was_heard_the_newer_holds() -> None:
    known = standings()
    known.joined(PEER, clean=True)
    known.heard(PEER, fenced(1.0)._replace(number=3))
    known.registered([record(PEER, PLAIN._replace(number=4), 2.0, 2.0)], 2.0)
    assert last_plain(known, 2.0) is None  # the heartbeat that says so was lost
    known.heard(PEER, fenced(2.5)._replace(number=5))
    assert last_plain(known, 3.0) == at(2.5)
    known.registered([record(PEER, PLAIN._replace(number=6), 4.0, 4.0)], 4.0)
    lose(known, PEER, 5.0, silent=True)
    assert last_plain(known, 5.0) is None


def gone(known: Standings, now: float, *, recovering: bool = False) -> list[Gone]:
    return known.newly_gone(now, recovering=recovering)


def test_an_instance_is_gone_when_its_lease_has_ended_and_is_told_once() -> None:
    known = standings()
    known.registered([record(PEER, PLAIN, 10.0, 10.0)], 10.0)
    assert gone(known, 10.0 + LEASE - 0.1) == []
    assert gone(known, 10.0 + LEASE) == [Gone(PEER, since=10.0, until=10.0 + LEASE)]
    assert gone(known, 100.0) == []
    known.registered([record(PEER, PLAIN, 100.0, 101.0)], 101.0)
    assert gone(known, 101.0) == []
    assert [one.since for one in gone(known, 116.0)] == [100.0]


def test_an_instance_that_was_not_clean_may_have_given_up_writes_before_it_said_so() -> None:
    known = standings()
    known.registered([record(PEER, fenced(9.0, clean=False), 10.0, 30.0)], 30.0)
    assert gone(known, 30.0) == [Gone(PEER, since=5.0, until=25.0)]


def test_an_instance_that_is_heard_undoes_its_own() -> None:
    known = standings()
    known.joined(PEER, clean=True)
    known.registered([record(PEER, PLAIN, 10.0, 30.0)], 30.0)
    assert gone(known, 30.0, recovering=True) == []
    lose(known, PEER, 40.0, silent=True)
    assert [one.node_id for one in gone(known, 40.0)] == [PEER]


def test_whoever_is_about_to_bring_writes_does_not_wait_for_the_lease_of_one_that_fell_silent() -> None:
    known = standings()
    known.joined(PEER, clean=True)
    known.joined(OTHER, clean=True)
    for node_id in (PEER, OTHER):
        lose(known, node_id, 15.0, silent=True)  # heard last at 10
    known.registered([record(PEER, PLAIN, 9.0, 16.0), record(OTHER, PLAIN, 14.0, 16.0)], 16.0)
    assert gone(known, 16.0) == []
    # The other one has registered since it was heard last: it lives.
    assert gone(known, 16.0, recovering=True) == [Gone(PEER, since=9.0, until=16.0)]
    assert [one.node_id for one in gone(known, 100.0, recovering=True)] == [OTHER]


def test_of_those_who_said_goodbye_only_one_that_was_not_clean_leaves_something_behind() -> None:
    known = standings()
    left = [
        record(PEER, fenced(9.0), 10.0, 11.0, left=True),
        record(OTHER, fenced(9.0, clean=False), 10.0, 11.0, left=True),
    ]
    known.registered(left, 11.0)
    assert [one.node_id for one in gone(known, 11.0)] == [OTHER]
    assert gone(known, 100.0) == []
