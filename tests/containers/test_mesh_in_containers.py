"""Three gateways in containers on one network: they find each other by mDNS and stay one cache without Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import eventually_sync

if TYPE_CHECKING:
    from tests.containers.gateways import Site

pytestmark = pytest.mark.containers


def test_shared_while_redis_is_dead(site: Site) -> None:
    one, two, three = site.gateways
    site.wait_for_peers(2, 15)
    site.wait_for_mode("redis", 5)
    one.set("before", "redis")
    assert two.get("before") == "redis"

    site.redis.get_wrapped_container().kill()
    one.set("user:1", {"name": "Ada"}, ttl=60)
    eventually_sync(lambda: two.get("user:1") == {"name": "Ada"}, 5, message="a set on 1 read on 2")
    eventually_sync(lambda: three.get("user:1") == {"name": "Ada"}, 5, message="a set on 1 read on 3")
    one.set("user:2", "soon gone")
    eventually_sync(lambda: three.get("user:2") == "soon gone", 5, message="a second set on 1 read on 3")
    two.delete("user:2")
    for gateway in site.gateways:
        eventually_sync(lambda g=gateway: g.get("user:2") is None, 5, message="a delete on 2 is a miss everywhere")
    site.wait_for_mode("memory", 5)

    four = site.start_gateway()
    site.gateways.append(four)
    eventually_sync(four.is_up, 20, message="a gateway that starts without Redis answers")
    site.wait_for_peers(3, 15)
    four.set("user:4", "from the newcomer")
    eventually_sync(lambda: one.get("user:4") == "from the newcomer", 5, message="a set on 4 read on 1")

    site.redis.get_wrapped_container().start()
    site.wait_for_mode("redis", 15)
    assert site.redis_cli("EXISTS", "gateway:user:1", "gateway:user:4") == "2"
    assert 0 < int(site.redis_cli("TTL", "gateway:user:1")) <= 60
    assert site.redis_cli("EXISTS", "gateway:user:2") == "0"
    assert [gateway.get("user:1") for gateway in site.gateways] == [{"name": "Ada"}] * 4


def test_no_old_value_after_redis_was_cut_off(site: Site) -> None:
    one, two, three = site.gateways
    site.wait_for_peers(2, 15)
    one.set("changed", "old")
    one.set("deleted", "old")
    assert three.get("deleted") == "old"

    site.cut_redis_off()
    two.set("changed", "new")
    three.delete("deleted")
    site.wait_for_mode("memory", 10)
    for gateway in site.gateways:
        eventually_sync(lambda g=gateway: g.get("changed") == "new", 5, message="a set on 2 read everywhere")
        eventually_sync(lambda g=gateway: g.get("deleted") is None, 5, message="a delete on 3 a miss everywhere")

    site.connect_redis()
    site.wait_for_mode("redis", 20)
    assert [gateway.get("changed") for gateway in site.gateways] == ["new"] * 3
    assert [gateway.get("deleted") for gateway in site.gateways] == [None] * 3
    assert site.redis_cli("EXISTS", "gateway:deleted") == "0"


def test_a_wrong_secret_stays_out(site: Site) -> None:
    site.wait_for_peers(2, 15)
    stranger = site.start_gateway(secret="not the secret of this site")
    eventually_sync(stranger.is_up, 20, message="the stranger answers")
    site.redis.get_wrapped_container().kill()
    site.gateways[0].set("private", 1)
    eventually_sync(lambda: site.gateways[1].get("private") == 1, 5, message="a set on 1 read on 2")
    eventually_sync(lambda: "secret" in stranger.log(), 15, message="the stranger warns that its secret is wrong")
    assert stranger.status()["peers"] == []
    assert stranger.get("private") is None
