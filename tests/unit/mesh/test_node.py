"""Nodes meet whatever is lost, tell each other everything once, and let nobody else in."""

from __future__ import annotations

from random import Random

import pytest

from meshcache.events import Mode, PeerModeChanged
from meshcache.mesh.errors import Reason
from meshcache.mesh.node import ClockTold, ForeignKey
from meshcache.mesh.seal import MeshKey, Sealer
from meshcache.mesh.settings import Limits
from meshcache.mesh.wire import Bye, Challenge, Echo, Heartbeat, Hello, Ops, encode
from meshcache.testing.network import Network, Packet, Weather
from tests.unit.mesh.nodes import (
    KEY,
    OTHER_KEY,
    LoseFirst,
    add_host,
    delete_op,
    frame_in,
    introduce,
    joined,
    knows,
    left,
    meet,
    ops_of,
    publish,
    set_op,
)


@pytest.fixture
def network() -> Network:
    return Network(seed=1)


# -- meeting


def test_two_meet_in_two_round_trips(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    introduce(a, b)
    assert network.run_until(lambda: knows(a, b) and knows(b, a), 1.0) < 0.004
    assert joined(a) == ["0000000000000002"]
    assert joined(b) == ["0000000000000001"]
    [peer] = b.node.peers
    assert (peer.host, peer.port, peer.mode) == ("10.0.0.1", 7000, Mode.MEMORY)


@pytest.mark.parametrize("lost", [Hello, Challenge, Echo, Heartbeat])
@pytest.mark.parametrize("times", [1, 2, 5])
@pytest.mark.parametrize("both", [False, True], ids=["one says hello", "both say hello"])
def test_they_meet_although_datagrams_are_lost(network: Network, lost: type, times: int, both: bool) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    network.accepts = LoseFirst(lost, times=times)
    introduce(a, b)
    if both:
        introduce(b, a)
    network.run_until(lambda: knows(a, b) and knows(b, a), 10.0)
    network.run(20.0)
    assert len(joined(a)) == len(joined(b)) == 1
    assert left(a) == left(b) == []


@pytest.mark.parametrize("seed", range(30))
def test_they_meet_in_bad_weather(seed: int) -> None:
    network = Network(seed, Weather(loss=0.4, duplicate=0.3, delay=(0.001, 0.3)))
    hosts = [add_host(network, n) for n in (1, 2, 3, 4)]
    for host in hosts:
        introduce(host, *(other for other in hosts if other is not host))
    network.run_until(lambda: all(len(host.node.peers) == 3 for host in hosts), 30.0)


def test_once_they_know_each_other_they_say_hello_no_more(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    meet(network, a, b)
    network.run(1.0)
    network.recording = True
    for _ in range(10):
        introduce(a, b)
        introduce(b, a)
        network.run(5.0)
    assert {type(frame_in(packet)) for packet in network.packets} == {Heartbeat}
    assert 195 <= len(network.packets) <= 205, "two a second, each"


def test_one_that_was_forgotten_is_met_again(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    meet(network, a, b)
    network.sever([a], [b])
    network.run_until(lambda: not knows(b, a), 6.0)
    assert knows(a, b)
    network.heal()
    assert network.run_until(lambda: knows(b, a), 2.0) < 0.6
    network.run(10.0)
    assert left(a) == []
    assert left(b) == [("0000000000000001", "silent")]
    assert len(joined(b)) == 2


def test_a_healed_partition_is_noticed_though_no_source_names_anyone(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    introduce(a, b)
    network.sever([a], [b])
    network.sever([b], [a])
    network.heal()
    network.run(1.0)
    network.sever([a], [b])
    network.sever([b], [a])
    network.run(300.0)
    assert not knows(a, b)
    assert not knows(b, a)
    network.heal()
    assert network.run_until(lambda: knows(a, b) and knows(b, a), 5.0) < 3.0


def test_an_instance_that_started_again_at_the_same_address_is_found(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    meet(network, a, b)
    network.detach(b)
    again = add_host(network, 252)
    assert again.address == b.address
    network.run_until(lambda: knows(a, again) and knows(again, a) and not knows(a, b), 8.0)


def test_own_address_is_recognised_and_left_alone(network: Network) -> None:
    a = add_host(network, 1)
    network.recording = True
    for _ in range(6):
        introduce(a, a)
        network.run(10.0)
    assert a.node.peers == []
    assert len(network.packets) == 1
    assert a.node.counters.dropped[Reason.OWN] == 1


def test_second_address_of_a_peer_is_not_greeted_for_ever(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    meet(network, a, b)
    alias = ("192.168.0.2", 7000)
    network.hosts[alias] = b  # answers from its first address
    a.node.add_candidate(alias, a.now)
    a.pump()
    network.run(5.0)
    network.recording = True
    network.run(40.0)
    assert {type(frame_in(packet)) for packet in network.packets} == {Heartbeat}
    assert len(a.node.peers) == len(b.node.peers) == 1


# -- leaving


def test_a_peer_that_falls_silent_is_suspected_and_then_gone(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    meet(network, a, b)
    network.run(3.0)
    network.detach(b)
    crashed_at = network.now
    network.run_until(lambda: not knows(a, b), 6.0)
    assert 4.4 < network.now - crashed_at <= 5.0
    assert left(a) == [("0000000000000002", "silent")]


def test_a_peer_that_says_goodbye_is_gone_at_once(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    meet(network, a, b)
    b.node.publish(delete_op("last words"), b.now)
    b.node.close(b.now)
    b.pump()
    assert network.run_until(lambda: not knows(a, b), 1.0) < 0.002
    assert left(a) == [("0000000000000002", "bye")]
    assert b.node.next_timer() is None
    publish(b, set_op("too late"))
    network.run(10.0)
    assert len(joined(a)) == 1
    assert not b.node.datagrams_to_send(b.now)


def test_last_words_arrive_before_goodbye() -> None:
    network = Network(1, Weather(delay=(0.001, 0.001)))
    a, b = add_host(network, 1), add_host(network, 2)
    meet(network, a, b)
    b.node.publish(delete_op("last words"), b.now)
    b.node.close(b.now)
    b.pump()
    network.run(1.0)
    assert ops_of(a) == [delete_op("last words")]


# -- what peers tell each other


def test_writes_reach_each_peer_once(network: Network) -> None:
    network.weather = Weather(duplicate=0.5, delay=(0.001, 0.2))
    hosts = [add_host(network, n) for n in (1, 2, 3)]
    meet(network, *hosts)
    sent = [set_op(f"user:{n}", n) if n % 3 else delete_op(f"user:{n}", n) for n in range(200)]
    for op in sent:
        publish(hosts[0], op)
        network.run(0.01)
    network.run(1.0)
    for host in hosts[1:]:
        assert sorted(ops_of(host), key=lambda op: op.stamp) == sent
        assert host.node.counters.dropped[Reason.REPLAYED] > 0
    assert ops_of(hosts[0]) == []


def test_writes_of_one_turn_share_datagrams_and_each_is_sealed_once(network: Network) -> None:
    hosts = [add_host(network, n) for n in (1, 2, 3)]
    meet(network, *hosts)
    a = hosts[0]
    for n in range(100):
        a.node.publish(set_op(f"user:{n}", n), a.now)
    datagrams = a.node.datagrams_to_send(a.now)
    assert len(datagrams) <= 5
    for data, destinations in datagrams:
        assert len(data) <= 1200
        assert set(destinations) == {hosts[1].address, hosts[2].address}
    assert a.node.counters.ops_out == 100


def test_time_to_live_is_told_as_what_remains(network: Network) -> None:
    a, b = add_host(network, 1, clock_ahead=5000.0), add_host(network, 2, clock_ahead=-300.0)
    meet(network, a, b)
    publish(a, set_op("k", expires_at=a.now + 60.0), set_op("forever"))
    network.run_until(lambda: ops_of(b), 1.0)
    [limited, forever] = ops_of(b)
    assert 59.9 < limited.expires_at - b.now <= 60.0
    assert forever == set_op("forever")


def test_nothing_is_kept_for_peers_that_are_not_there(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    publish(a, set_op("before"))
    meet(network, a, b)
    network.run(1.0)
    assert ops_of(b) == []
    assert a.node.counters.ops_out == 0


def test_a_change_of_mode_is_told_at_once(network: Network) -> None:
    a, b = add_host(network, 1, mode=Mode.REDIS), add_host(network, 2)
    meet(network, a, b)
    network.run(0.1)
    assert b.node.peers[0].mode is Mode.REDIS
    a.node.set_mode(Mode.MEMORY, a.now)
    a.pump()
    network.run_until(lambda: b.node.peers[0].mode is Mode.MEMORY, 0.002)
    [change] = [event for event in b.events if isinstance(event, PeerModeChanged)]
    assert (change.old, change.peer) == (Mode.REDIS, b.node.peers[0])
    a.node.set_mode(Mode.MEMORY, a.now)
    assert a.node.datagrams_to_send(a.now) == []


def test_a_change_of_mode_that_was_lost_is_told_by_the_next_heartbeat(network: Network) -> None:
    a, b = add_host(network, 1, mode=Mode.REDIS), add_host(network, 2)
    meet(network, a, b)
    network.accepts = LoseFirst(Heartbeat, source=a.address)
    a.node.set_mode(Mode.MEMORY, a.now)
    a.pump()
    network.run(0.6)
    assert b.node.peers[0].mode is Mode.MEMORY


def test_an_overtaken_heartbeat_changes_nothing(network: Network) -> None:
    a, b = add_host(network, 1, mode=Mode.REDIS), add_host(network, 2)
    meet(network, a, b)
    network.run(1.0)
    network.recording, network.accepts = True, lambda _: False
    a.node.set_mode(Mode.MEMORY, a.now)
    a.pump()
    a.node.set_mode(Mode.RECOVERING, a.now)
    a.pump()
    for packet in reversed(network.packets[:2]):
        network.deliver(packet)
        network.run(0.001)
    assert b.node.peers[0].mode is Mode.RECOVERING


def test_a_mode_that_changed_during_the_handshake_is_told_right_after_it(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2, mode=Mode.REDIS)
    introduce(a, b)
    network.run_until(lambda: knows(a, b), 1.0)
    b.node.set_mode(Mode.MEMORY, b.now)
    assert not knows(b, a)
    network.run_until(lambda: a.node.peers[0].mode is Mode.MEMORY, 0.01)


# -- addresses that change


def test_address_follows_sealed_datagrams(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    meet(network, a, b)
    network.run(1.0)
    network.detach(b)
    b.address = ("10.9.9.9", 4000)
    network.hosts[b.address] = b
    publish(b, set_op("from elsewhere"))
    network.run(0.01)
    assert ops_of(a) == [set_op("from elsewhere")]
    publish(a, set_op("answer"))
    network.run(0.01)
    assert ops_of(b) == [set_op("answer")]
    assert (a.node.peers[0].host, a.node.peers[0].port) == b.address


def test_an_old_or_forged_datagram_moves_no_address(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    meet(network, a, b)
    network.recording = True
    network.run(2.0)
    evil = ("6.6.6.6", 666)
    for packet in network.packets:
        if packet.source == b.address:
            network.deliver(Packet(packet.data, evil, a.address))
            network.deliver(Packet(packet.data[:-1] + b"x", evil, a.address))
    network.run(0.01)
    assert (a.node.peers[0].host, a.node.peers[0].port) == b.address


# -- who may not speak


def test_another_key_stays_outside_and_is_reported_once_a_minute(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2, keys=[OTHER_KEY])
    for _ in range(12):
        introduce(a, b)
        introduce(b, a)
        network.run(10.0)
    for host, other in ((a, b), (b, a)):
        assert host.node.peers == []
        assert host.events == [ForeignKey(other.address)] * 2
        assert host.node.counters.dropped[Reason.UNKNOWN_KEY] > 10


def test_a_forged_key_id_brings_nobody_in(network: Network) -> None:
    a = add_host(network, 1)
    sealer = Sealer(5, [OTHER_KEY])
    datagram = bytearray(sealer.seal(encode(Hello(b"n" * 16), 0.0)))
    datagram[3:7] = KEY.key_id
    network.recording = True
    network.deliver(Packet(bytes(datagram), ("10.0.0.5", 1), a.address))
    network.run(1.0)
    assert a.node.counters.dropped == {Reason.FORGED: 1}
    assert network.packets == []
    assert a.events == []


def test_reports_of_foreign_keys_are_bounded(network: Network) -> None:
    a = add_host(network, 1, limits=Limits(max_foreign=3))
    datagram = Sealer(5, [OTHER_KEY]).seal(encode(Hello(b"n" * 16), 0.0))
    for port in range(1000):
        network.deliver(Packet(datagram, ("10.0.0.5", port), a.address))
    network.run(1.0)
    assert len(a.events) == 3


def test_a_recording_of_the_dead_brings_nobody_back(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    network.recording = True
    meet(network, a, b)
    publish(b, set_op("alive"))
    network.run(5.0)
    network.detach(b)
    network.run(10.0)
    assert a.node.peers == []
    before, events = list(network.packets), len(a.events)
    for packet in before:
        if packet.source == b.address:
            network.deliver(packet)
            network.run(0.01)
            network.deliver(packet)
            network.run(0.3)
    assert a.node.peers == []
    assert len(a.events) == events


def test_a_recording_of_the_living_changes_nothing(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    network.recording = True
    meet(network, a, b)
    publish(b, set_op("once"))
    network.run(5.0)
    events = len(a.events)
    for packet in list(network.packets):
        network.deliver(packet)
    network.run(5.0)
    assert len(a.events) == events


def test_a_goodbye_cannot_be_replayed(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    meet(network, a, b)
    goodbye = Sealer(2, [KEY]).seal(encode(Bye(), 0.0))  # b's own, from before they met
    before = a.node.counters.dropped[Reason.REPLAYED]
    a.receive(goodbye, b.address)
    assert knows(a, b)
    assert a.node.counters.dropped[Reason.REPLAYED] == before + 1


@pytest.mark.parametrize(
    "frame",
    [
        Hello(b"n" * 16),
        Heartbeat(Mode.MEMORY, 3),
        Bye(),
        Ops(1, (set_op("k", value=b"v" * 900),)),
        Echo(b"n" * 16, Mode.MEMORY, 1),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_a_stranger_gets_no_more_than_it_sent(network: Network, frame: Hello | Heartbeat | Bye | Ops | Echo) -> None:
    a = add_host(network, 1)
    sealer = Sealer(5, [KEY])
    network.recording = True
    victim = ("10.0.0.66", 53)
    sent = 0
    for _ in range(500):
        datagram = sealer.seal(encode(frame, 0.0))
        sent += len(datagram)
        network.deliver(Packet(datagram, victim, a.address))
        network.run(0.02)
    network.run(100.0)
    received = [len(packet.data) for packet in network.packets]
    assert len(received) <= 500
    assert all(size <= len(datagram) for size in received)
    assert a.node.peers == []
    assert ops_of(a) == []


def test_a_stranger_that_talks_much_is_greeted_seldom(network: Network) -> None:
    a = add_host(network, 1)
    sealer = Sealer(5, [KEY])
    network.recording = True
    for n in range(100):
        a.receive(sealer.seal(encode(Ops(n + 1, (set_op("k"),)), 0.0)), ("10.0.0.5", 7000))
        network.run(0.005)
    assert 2 <= len(network.packets) <= 3


def test_a_stranger_that_says_less_than_an_answer_gets_none(network: Network) -> None:
    a = add_host(network, 1)
    network.recording = True
    short = encode(Heartbeat(Mode.MEMORY, 3), 0.0)[:1] + b"\x04\x01\x03\x01\xc0\x90"
    a.receive(Sealer(5, [KEY]).seal(short), ("10.0.0.5", 7000))
    network.run(1.0)
    assert network.packets == []
    assert a.node.counters.dropped == {Reason.SIZE: 1}


def test_garbage_is_counted_and_dropped(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    meet(network, a, b)
    random = Random(5)
    counters = a.node.counters
    before, events = counters.dropped.total(), len(a.events)
    for _ in range(2000):
        a.receive(random.randbytes(random.randrange(0, 1500)), b.address)
    good = Sealer(2, [KEY]).seal(b"not msgpack")
    for size in range(len(good)):
        a.receive(good[:size], b.address)
    assert counters.dropped.total() == before + 2000 + len(good)
    assert len(a.events) == events
    assert knows(a, b)


def test_a_peer_that_talks_nonsense_is_ignored_and_not_dismissed(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    meet(network, a, b)
    for body in (b"\xc1", b"\x91\x63", encode(Echo(b"n" * 16, Mode.MEMORY, 0), 0.0)):
        network.deliver(Packet(b.node._sealer.seal(body), b.address, a.address))
    network.run(1.0)
    dropped = a.node.counters.dropped
    assert (dropped[Reason.MALFORMED], dropped[Reason.UNKNOWN_FRAME], dropped[Reason.STALE_NONCE]) == (1, 1, 1)
    assert knows(a, b)


# -- bounds


def test_peers_are_bounded(network: Network) -> None:
    a = add_host(network, 1, limits=Limits(max_peers=3))
    others = [add_host(network, n) for n in range(2, 8)]
    for other in others:
        introduce(other, a)
    network.run(3.0)
    assert len(a.node.peers) == 3
    assert a.node.counters.dropped[Reason.CROWDED] > 0


def test_candidates_are_bounded(network: Network) -> None:
    a = add_host(network, 1)
    for n in range(1000):
        a.node.add_candidate((f"10.1.{n // 250}.{n % 250}", 7000), a.now)
    assert len(a.node.datagrams_to_send(a.now)) == 256
    assert a.node.counters.candidates_refused == 744


def test_a_flood_of_forged_senders_leaves_nothing_behind(network: Network) -> None:
    a, b = add_host(network, 1, limits=Limits(max_strangers=16, max_handshakes=16)), add_host(network, 2)
    meet(network, a, b)
    for node_id in range(1000, 3000):
        hello = Sealer(node_id, [KEY]).seal(encode(Hello(b"n" * 16), 0.0))
        a.node.receive_datagram(hello, ("10.0.0.66", node_id), a.now)
        a.node.datagrams_to_send(a.now)
    assert len(a.node._openers) <= 17
    assert len(a.node._challenges) <= 16
    assert knows(a, b)


# -- time


def test_no_timer_without_anything_to_wait_for(network: Network) -> None:
    assert add_host(network, 1).node.next_timer() is None


def test_timer_is_never_in_the_past_twice(network: Network) -> None:
    network.weather = Weather(loss=0.3, delay=(0.001, 0.1))
    hosts = [add_host(network, n, clock_ahead=n * 1234.567) for n in (1, 2, 3)]
    for host in hosts:
        introduce(host, *hosts)
    for _ in range(3000):
        network.run(0.01)
        for host in hosts:
            deadline = host.node.next_timer()
            assert deadline is None or deadline >= host.now - 1e-6


def test_after_a_long_sleep_one_heartbeat_is_sent_and_not_a_burst(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    meet(network, a, b)
    a.node.handle_timer(a.now + 4.0)
    assert len(a.node.datagrams_to_send(a.now + 4.0)) == 1


def test_what_waited_in_the_socket_during_a_long_sleep_is_not_believed(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    meet(network, a, b)
    b.pause()
    publish(a, set_op("k", expires_at=a.now + 10.0))
    network.run(9.0)
    b.resume()
    network.run(3.0)
    assert ops_of(b) == []
    assert knows(a, b)
    assert knows(b, a)


# -- keys


def test_keys_can_be_changed_one_instance_at_a_time(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    meet(network, a, b)
    for host, keys in ((a, [KEY, OTHER_KEY]), (b, [OTHER_KEY, KEY]), (a, [OTHER_KEY]), (b, [OTHER_KEY])):
        host.node.set_keys(keys)
        host.pump()
        network.run(6.0)
        publish(a, set_op(f"under {len(keys)}"))
        network.run(1.0)
    assert left(a) == left(b) == []
    assert len(ops_of(b)) == 4


def test_without_a_key_a_node_is_silent_and_deaf_until_it_has_one(network: Network) -> None:
    a, b = add_host(network, 1, keys=[]), add_host(network, 2)
    network.recording = True
    introduce(a, b)
    publish(a, set_op("alone"))
    network.run(5.0)
    assert network.packets == []
    assert a.node.next_timer() is None
    introduce(b, a)
    network.run(1.0)
    a.node.set_keys([KEY])
    a.pump()
    network.run_until(lambda: knows(a, b) and knows(b, a), 1.0)


def test_secrets_make_a_mesh() -> None:
    network = Network(1)
    a = add_host(network, 1, keys=[MeshKey.from_secret("correct horse battery", "gateway")])
    b = add_host(network, 2, keys=[MeshKey.from_secret(b"correct horse battery", "gateway")])
    c = add_host(network, 3, keys=[MeshKey.from_secret("correct horse battery", "other")])
    introduce(c, a, b)
    meet(network, a, b)
    network.run(5.0)
    assert c.node.peers == []


# -- counters


def test_counters(network: Network) -> None:
    a, b, c = (add_host(network, n) for n in (1, 2, 3))
    meet(network, a, b, c)
    network.recording = True
    before = a.node.counters.as_dict()
    publish(a, set_op("k"))
    network.run(0.001)
    after = a.node.counters.as_dict()
    sent = [packet for packet in network.packets if packet.source == a.address]
    assert after["datagrams_out"] - before["datagrams_out"] == len(sent)
    assert after["bytes_out"] - before["bytes_out"] == sum(len(packet.data) for packet in sent)
    assert after["ops_out"] == 1
    assert b.node.counters.ops_in == 1
    assert {f"dropped_{reason}" for reason in Reason} < set(after)
    assert all(type(value) is int for value in after.values())


# -- what a doctor asks


def test_a_peer_tells_what_its_clock_says(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2, wall_ms=lambda: 1_700_000_000_000)
    mute = add_host(network, 3)
    meet(network, a, b, mute)
    a.node.ask_clocks(a.now)
    a.pump()
    assert network.run_until(lambda: [event for event in a.events if isinstance(event, ClockTold)], 1.0) < 0.1
    (told,) = (event for event in a.events if isinstance(event, ClockTold))
    assert (told.node_id, told.wall_ms) == (2, 1_700_000_000_000)
    assert 0 < told.round_trip < 0.1
    network.run(1.0)
    assert len([event for event in a.events if isinstance(event, ClockTold)]) == 1


def test_addresses_from_which_nobody_answers_are_known(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    introduce(a, b, a)
    a.node.add_candidate(("10.0.0.99", 7000), a.now)
    a.pump()
    assert a.node.silent == []
    network.run(3.0)
    assert a.node.silent == [("10.0.0.99", 7000)]
