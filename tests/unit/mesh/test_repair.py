"""Nothing is lost: what the network drops is asked for, what cannot be repeated is found by comparing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meshcache.buckets import Version
from meshcache.events import Mode
from meshcache.mesh.node import OpsLost
from meshcache.mesh.settings import Limits
from meshcache.mesh.wire import AskDigest, Fetch, Fragment, Gap, Heartbeat, Nack, Ops, TellBucket, TellDigest
from meshcache.stamp import Kind, Op
from meshcache.testing.network import Network, Packet, Weather
from tests.unit.mesh.nodes import (
    Known,
    LoseFirst,
    add_host,
    agree,
    count_frames,
    delete_op,
    frame_in,
    introduce,
    joined,
    knows,
    meet,
    ops_of,
    publish,
    set_op,
    sweep_op,
)


@pytest.fixture
def network() -> Network:
    return Network(seed=1)


def lose(*numbers: int) -> Callable[[Packet], bool]:
    """Drop the datagrams with these numbers, the first time."""
    left = set(numbers)

    def accepts(packet: Packet) -> bool:
        frame = frame_in(packet)
        if isinstance(frame, Ops | Fragment) and frame.number in left:
            left.discard(frame.number)
            return False
        return True

    return accepts


# -- repetition


def test_a_lost_datagram_is_asked_for_and_repeated(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    meet(network, a, b)
    network.accepts = lose(2)
    network.recording = True
    for n in (1, 2, 3):
        publish(a, set_op(f"k{n}", n))
    took = network.run_until(lambda: len(ops_of(b)) == 3, 1.0)
    assert 0.010 < took < 0.035
    assert sorted(op.key for op in ops_of(b)) == ["k1", "k2", "k3"]
    assert count_frames(network, Nack) == 1
    network.run(3.0)
    assert count_frames(network, Nack) == 1
    assert a.node.counters.repeats_out == 1


def test_a_lost_tail_is_found_by_the_heartbeat_that_follows_it(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    meet(network, a, b)
    network.run(0.1)
    network.accepts = lose(1)
    publish(a, set_op("last"))
    assert network.run_until(lambda: ops_of(b), 1.0) < 0.09


def test_heartbeats_do_not_multiply_under_load(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    meet(network, a, b)
    network.recording = True
    for n in range(1000):
        publish(a, set_op("k", n))
        network.run(0.01)
    assert count_frames(network, Heartbeat) <= 42


def test_a_datagram_that_was_overtaken_is_not_asked_for() -> None:
    network = Network(1, Weather(delay=(0.0001, 0.009)))
    a, b = add_host(network, 1), add_host(network, 2)
    meet(network, a, b)
    network.recording = True
    for n in range(300):
        publish(a, set_op(f"k{n}", n))
        network.run(0.001)
    network.run(0.1)
    assert len(ops_of(b)) == 300
    assert count_frames(network, Nack) == 0


def test_it_is_asked_for_every_100_ms_until_it_comes(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    meet(network, a, b)
    network.run(0.6)
    network.accepts = LoseFirst(Ops, times=5)
    network.recording = True
    publish(a, set_op("k1"))
    network.run_until(lambda: ops_of(b), 2.0)
    assert count_frames(network, Nack) == 5
    assert count_frames(network, Ops) == 6


@pytest.mark.parametrize("seed", range(10))
def test_everything_arrives_once_at_30_percent_loss(seed: int) -> None:
    network = Network(seed, Weather(loss=0.3, duplicate=0.1, delay=(0.0001, 0.02)))
    hosts = [add_host(network, n) for n in (1, 2, 3)]
    meet(network, *hosts)
    sent = [set_op(f"k{n}", n) for n in range(500)]
    for op in sent:
        publish(hosts[0], op)
        network.run(0.005)
    network.run(3.0)
    for host in hosts[1:]:
        assert sorted(ops_of(host), key=lambda op: op.stamp) == sent


def test_the_last_write_is_everywhere_within_a_second_at_30_percent_loss() -> None:
    times = []
    for seed in range(300):
        network = Network(seed, Weather(loss=0.3))
        a, b = add_host(network, 1), add_host(network, 2)
        meet(network, a, b)
        network.run(1.0)
        publish(a, set_op("k"))
        times.append(network.run_until(lambda b=b: ops_of(b), 10.0))
    times.sort()
    assert times[150] < 0.01
    assert times[296] < 1.0


def test_a_large_value_arrives_whole_despite_loss() -> None:
    network = Network(3, Weather(loss=0.3, duplicate=0.1, delay=(0.0001, 0.02)))
    a, b = add_host(network, 1), add_host(network, 2)
    meet(network, a, b)
    big = set_op("k", 1, network.random.randbytes(2**20), expires_at=a.now + 60)
    publish(a, big)
    network.run_until(lambda: ops_of(b), 5.0)
    network.run(1.0)
    [received] = ops_of(b)
    assert received.value == big.value
    assert 50 < received.expires_at - b.now < 60
    assert b.node.memory_bytes == 0


def test_a_value_above_the_limit_is_invalidated_at_the_peers(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    meet(network, a, b)
    big = set_op("k", 5, b"v" * (2**20 + 1))
    publish(a, big)
    network.run(1.0)
    assert ops_of(b) == [Op(Kind.INVALIDATE, "k", big.stamp)]


def test_a_value_above_the_receivers_limit_is_invalidated_there(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2, limits=Limits(max_value_bytes=10_000))
    meet(network, a, b)
    big = set_op("k", 5, b"v" * 50_000)
    publish(a, big)
    network.run(1.0)
    assert ops_of(b) == [Op(Kind.INVALIDATE, "k", big.stamp)]
    assert b.node.memory_bytes == 0


def test_one_that_was_only_half_met_misses_nothing(network: Network) -> None:
    """The peer that admitted us speaks to us before we admit it; what it said then is repeated."""
    a, b = add_host(network, 1), add_host(network, 2)
    network.accepts = lambda packet: packet.source != b.address or network.now > 1000.2
    introduce(b, a)
    introduce(a, b)
    network.run_until(lambda: knows(b, a), 5.0)
    publish(b, *(set_op(f"k{n}", n) for n in range(5)))
    network.run_until(lambda: len(ops_of(a)) == 5, 5.0)


def test_bursts_are_spread(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    meet(network, a, b)
    for n in range(20_000):
        a.node.publish(set_op(f"k{n}", n, b"v" * 100), a.now)
    assert len(a.node.datagrams_to_send(a.now)) == Limits().burst
    assert a.node.next_timer() == pytest.approx(a.now + 0.001)
    a.pump()
    network.run(0.5)
    assert len(ops_of(b)) > 19_000  # the first burst was taken out above
    network.run(1.0)
    assert len(ops_of(b)) == 20_000
    assert b.node.counters.repeats_in == 0


# -- what cannot be repeated


def test_ring_overrun_between_replicas_is_repaired_by_comparing(network: Network) -> None:
    a, b = (Known(network, n, limits=Limits(ring_bytes=5000)) for n in (1, 2))
    meet(network, a.host, b.host)
    network.sever([a.host], [b.host])
    a.write(*(set_op(f"k{n}", n, b"v" * 100) for n in range(1000)))
    network.run(2.0)
    network.heal()
    network.run_until(lambda: agree(a, b), 2.0)
    assert b.node.counters.numbers_lost > 0
    assert b.replica.get("k0", b.host.now) == b"v" * 100


def test_loss_for_good_is_told_where_comparing_is_not_possible(network: Network) -> None:
    a, b = (add_host(network, n, mode=Mode.REDIS, limits=Limits(ring_bytes=2000)) for n in (1, 2))
    meet(network, a, b)
    network.sever([a], [b])
    publish(a, *(set_op(f"k{n}", n, b"v" * 500) for n in range(20)))
    network.run(1.0)
    network.heal()
    network.run(2.0)
    assert [event for event in b.events if isinstance(event, OpsLost)] == [OpsLost(1)]


def test_what_only_a_dead_peer_knew_is_no_reason_to_forget_the_rest(network: Network) -> None:
    a, b = (Known(network, n, limits=Limits(ring_bytes=2000)) for n in (1, 2))
    meet(network, a.host, b.host)
    network.run(1.0)
    network.accepts = lambda packet: not isinstance(frame_in(packet), Ops | AskDigest)
    a.write(*(set_op(f"k{n}", n, b"v" * 500) for n in range(20)))
    network.run(1.0)
    network.detach(a.host)
    network.run(6.0)
    assert b.node.peers == []
    assert OpsLost(1) not in b.host.events


# -- late joiners and healed partitions


def test_a_late_joiner_learns_everything(network: Network) -> None:
    a, b = Known(network, 1), Known(network, 2)
    meet(network, a.host, b.host)
    writes = [set_op(f"user:{n}", n, b"v" * 200, expires_at=a.host.now + 3600) for n in range(10_000)]
    a.write(*writes[:9_990], delete_op("user:5", 20_000), sweep_op("user:77*", 20_001))
    network.run(2.0)
    late = Known(network, 3)
    introduce(late.host, a.host)
    assert network.run_until(lambda: agree(a, late), 5.0) < 1.0
    assert late.replica.get("user:5", late.host.now) is None
    assert late.replica.get("user:771", late.host.now) is None
    assert late.replica.get("user:6", late.host.now) == b"v" * 200
    assert 3590 < late.replica.records["user:6"].expires_at - late.host.now < 3600
    assert agree(a, b)
    assert knows(late.host, b.host), "by gossip"


def test_both_sides_of_a_healed_partition_agree(network: Network) -> None:
    instances = [Known(network, n) for n in (1, 2, 3, 4)]
    hosts = [instance.host for instance in instances]
    meet(network, *hosts)
    instances[0].write(*(set_op(f"k{n}", n) for n in range(100)))
    network.run(1.0)
    network.sever(hosts[:2], hosts[2:])
    network.sever(hosts[2:], hosts[:2])
    network.run(20.0)
    instances[0].write(set_op("k1", 1001, b"left"), delete_op("k2", 1002), set_op("only left", 1003))
    instances[3].write(set_op("k1", 1004, b"right"), set_op("k2", 1001, b"older"), sweep_op("k3*", 1005))
    network.run(5.0)
    network.heal()
    network.run_until(lambda: agree(*instances), 5.0)
    for instance in instances:
        now = instance.host.now
        assert instance.replica.get("k1", now) == b"right"
        assert instance.replica.get("k2", now) is None
        assert instance.replica.get("k33", now) is None
        assert instance.replica.get("only left", now) == b"value"


def test_comparing_ends_when_there_is_nothing_more_to_learn(network: Network) -> None:
    a, b = Known(network, 1), Known(network, 2)
    a.write(*(set_op(f"a{n}", n) for n in range(50)))
    b.write(*(set_op(f"b{n}", n) for n in range(50)))
    meet(network, a.host, b.host)
    network.run_until(lambda: agree(a, b), 3.0)
    network.run(1.0)
    network.recording = True
    network.run(10.0)
    assert {type(frame_in(packet)) for packet in network.packets} == {Heartbeat}


def test_who_has_no_room_does_not_ask_for_ever(network: Network) -> None:
    a, b = Known(network, 1), Known(network, 2, max_entries=20)
    a.write(*(set_op(f"k{n}", n) for n in range(100)))
    meet(network, a.host, b.host)
    network.run(5.0)
    assert len(b.replica.records) == 20
    network.recording = True
    network.run(20.0)
    assert {type(frame_in(packet)) for packet in network.packets} == {Heartbeat}


def test_tombstones_die_everywhere_and_are_not_handed_round_for_ever(network: Network) -> None:
    instances = [Known(network, n, tombstone_ttl=10.0) for n in (1, 2, 3)]
    instances[0].write(*(delete_op(f"k{n}", n) for n in range(20)), sweep_op("x*", 50))
    meet(network, *(instance.host for instance in instances))
    network.run_until(lambda: agree(*instances), 5.0)
    late = Known(network, 4, tombstone_ttl=10.0)
    network.run(4.0)
    introduce(late.host, instances[1].host)
    for _ in range(200):
        network.run(0.1)
        for instance in (*instances, late):
            instance.replica.forget_old(instance.host.now)
    assert [len(instance.replica.buckets) for instance in (*instances, late)] == [0, 0, 0, 0]
    network.recording = True
    network.run(5.0)
    assert {type(frame_in(packet)) for packet in network.packets} == {Heartbeat}


def test_large_values_are_fetched_too() -> None:
    network = Network(1, Weather(loss=0.2))
    a = Known(network, 1)
    a.write(*(set_op(f"large{n}", n, network.random.randbytes(100_000)) for n in range(10)))
    a.write(set_op("k" * 1024, 11), sweep_op("p" * 1024, 12))
    b = Known(network, 2)
    meet(network, a.host, b.host)
    network.run_until(lambda: agree(a, b), 10.0)
    assert b.replica.get("large7", b.host.now) == a.replica.get("large7", a.host.now)
    network.run(15.0)
    assert b.node.memory_bytes == 0


def test_many_large_values_are_fetched_although_there_is_room_for_two_of_them_only() -> None:
    network = Network(1, Weather(loss=0.3))
    a = Known(network, 1)
    a.write(*(set_op(f"large{n}", n, network.random.randbytes(100_000)) for n in range(20)))
    b = Known(network, 2, limits=Limits(assembly_bytes=200_000))
    meet(network, a.host, b.host)
    network.run_until(lambda: agree(a, b), 30.0)


def test_a_large_value_that_was_forgotten_here_is_fetched_again(network: Network) -> None:
    a, b = Known(network, 1), Known(network, 2)
    meet(network, a.host, b.host)
    a.write(set_op("large", 1, b"v" * 50_000))
    network.run(1.0)
    del b.replica.records["large"]
    b.replica.buckets.remove("large")
    network.run_until(lambda: agree(a, b), 3.0)
    assert b.replica.get("large", b.host.now) == b"v" * 50_000


def test_no_one_compares_while_redis_answers(network: Network) -> None:
    a, b = Known(network, 1, mode=Mode.REDIS), Known(network, 2)
    a.write(set_op("k1"))
    b.write(set_op("k2"))
    network.recording = True
    meet(network, a.host, b.host)
    network.run(5.0)
    assert count_frames(network, AskDigest) == 0
    a.node.set_mode(Mode.MEMORY, a.host.now)
    network.run_until(lambda: agree(a, b), 2.0)


def test_a_peer_that_does_not_answer_is_given_up(network: Network) -> None:
    a, b, c = (Known(network, n) for n in (1, 2, 3))
    meet(network, a.host, b.host, c.host)
    for instance in (a, b):
        instance.replica.apply(set_op(f"only at {instance.node.node_id}"), 0.0)
    network.accepts = lambda packet: packet.source != a.host.address or isinstance(frame_in(packet), Heartbeat)
    network.run_until(lambda: c.replica.get("only at 2", c.host.now), 10.0)


def test_a_peer_that_does_not_send_what_it_says_it_has_is_given_up(network: Network) -> None:
    a, b, c = (Known(network, n) for n in (1, 2, 3))
    meet(network, a.host, b.host, c.host)
    for instance in (a, b):
        instance.replica.apply(set_op(f"only at {instance.node.node_id}"), 0.0)
    network.accepts = lambda packet: packet.source != a.host.address or not isinstance(frame_in(packet), Ops)
    network.run_until(lambda: c.replica.get("only at 2", c.host.now), 10.0)


def test_what_did_not_come_is_not_counted_as_made_up_for(network: Network) -> None:
    a, b = (Known(network, n, limits=Limits(ring_bytes=2000)) for n in (1, 2))
    meet(network, a.host, b.host)
    network.run(1.0)
    network.accepts = lambda packet: packet.source != a.host.address or not isinstance(frame_in(packet), Ops)
    a.write(*(set_op(f"k{n}", n, b"v" * 500) for n in range(20)))
    network.run(10.0)
    assert b.replica.records == {}
    network.accepts = lambda packet: True
    network.run_until(lambda: len(b.replica.records) == 20, 20.0)


# -- bounds


def test_requests_of_one_peer_are_bounded(network: Network) -> None:
    a, b = Known(network, 1, limits=Limits(requests_per_second=50)), Known(network, 2)
    meet(network, a.host, b.host)
    a.write(*(set_op(f"k{n}", n, b"v" * 1000) for n in range(100)))
    network.run(5.0)
    keys = tuple(f"k{n}" for n in range(100))
    network.recording = True
    for _ in range(100):
        for _ in range(20):
            b.node._send(Fetch(keys, ()), a.host.address, b.host.now)
        b.host.pump()
        network.run(0.01)
    assert 1_900 <= a.node.counters.requests_refused <= 1_950
    assert count_frames(network, Ops) <= 100 * 100


def test_requests_for_everything_do_not_fill_the_memory(network: Network) -> None:
    a, b = Known(network, 1), Known(network, 2)
    meet(network, a.host, b.host)
    a.write(*(set_op(f"k{n}", n, b"v" * 1_000_000) for n in range(50)))
    network.run(3.0)
    for _ in range(50):
        frame = Fetch(tuple(f"k{n}" for n in range(50)), ())
        a.node._answer(next(iter(a.node._sessions)), frame, a.host.now)
    assert len(a.node._bulk) <= 3 * Limits().max_bulk


def test_nonsense_requests_are_harmless(network: Network) -> None:
    a, b = Known(network, 1), Known(network, 2)
    meet(network, a.host, b.host)
    a.write(set_op("k"))
    network.run(1.0)
    network.recording = True
    b.node._send(Nack(((0, 2**63 - 1),)), a.host.address, b.host.now)
    b.node._send(Nack(tuple((n, n) for n in range(5, 100, 2))), a.host.address, b.host.now)
    b.node._send(Gap(0, 2**63 - 1), a.host.address, b.host.now)
    b.node._send(Fetch(("unknown",), ("unknown",)), a.host.address, b.host.now)
    b.node._send(TellDigest(b"d" * 1024), a.host.address, b.host.now)
    b.node._send(TellBucket(1, 0, True, (Version("k", set_op("k", 9).stamp),)), a.host.address, b.host.now)
    b.host.pump()
    network.run(1.0)
    assert count_frames(network, Ops) == 1
    assert len(joined(a.host)) == 1


# -- gossip


def test_one_reachable_peer_leads_to_all(network: Network) -> None:
    hosts = [add_host(network, n) for n in range(1, 13)]
    for host in hosts[1:]:
        introduce(host, hosts[0])
    network.run_until(lambda: all(len(host.node.peers) == len(hosts) - 1 for host in hosts), 10.0)


def test_gossip_of_an_address_where_nobody_is_ends(network: Network) -> None:
    a, b = add_host(network, 1), add_host(network, 2)
    meet(network, a, b)
    a.node.add_candidate(("10.9.9.9", 9), a.now)
    network.run(70.0)
    network.recording = True
    network.run(20.0)
    assert not [packet for packet in network.packets if packet.destination == ("10.9.9.9", 9)]
