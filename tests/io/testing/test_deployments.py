"""What the deployments promise to the tests that share them."""

from __future__ import annotations

from meshcache.redis.names import key_slot
from meshcache.testing.deployments import ClusterDeployment
from meshcache.testing.server import RedisServer

SLOT = key_slot(b"k")


def moving(server: RedisServer) -> bool:
    (own,) = (line for line in server.client().execute_command("CLUSTER", "NODES").splitlines() if b"myself" in line)
    return b"[" in own


def test_the_owner_of_a_slot_is_right_at_once_where_the_first_server_is_a_replica(cluster: ClusterDeployment) -> None:
    first = cluster.servers[0]
    if first in cluster.masters:
        cluster.fail_over(first)
    source = cluster.owner_of_slot(SLOT)
    target = next(master for master in cluster.masters if master is not source)
    for there in (target, source) * 10:
        cluster.begin_move(SLOT, there)
        cluster.move_keys(SLOT, there)
        cluster.end_move(SLOT, there)
        assert cluster.owner_of_slot(SLOT) is there
        assert cluster.owner(b"k") is there


def test_a_healthy_cluster_has_no_move_half_done(cluster: ClusterDeployment) -> None:
    source = cluster.owner_of_slot(SLOT)
    target = next(master for master in cluster.masters if master is not source)
    cluster.begin_move(SLOT, target)
    assert moving(source)
    assert moving(target)
    cluster.heal()
    assert not any(map(moving, cluster.servers))
