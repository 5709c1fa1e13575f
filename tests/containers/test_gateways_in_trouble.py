"""A gateway is killed, paused or cut off in an outage: what it wrote is not lost, and nothing old comes back with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import eventually_sync

if TYPE_CHECKING:
    from tests.containers.gateways import Gateway, Site

pytestmark = pytest.mark.containers


def reads(gateways: Sequence[Gateway], key: str, value: Any) -> None:
    for gateway in gateways:
        eventually_sync(lambda g=gateway: g.get(key) == value, 5, message=f"{key} reads {value!r}")


def in_mode(gateways: Sequence[Gateway], mode: str, timeout: float = 20) -> None:
    for gateway in gateways:
        eventually_sync(lambda g=gateway: g.mode() == mode, timeout, message=f"a gateway in mode {mode}")


def test_one_that_is_killed_leaves_its_writes_to_the_others(site: Site) -> None:
    one, two, three = site.gateways
    site.wait_for_peers(2, 15)
    site.redis.get_wrapped_container().kill()
    for number in range(50):
        one.set(f"key:{number}", number)
    reads([two, three], "key:49", 49)
    one.kill()
    for number in range(50):
        reads([two], f"key:{number}", number)
    site.redis.get_wrapped_container().start()
    in_mode([two, three], "redis")
    assert [three.get(f"key:{number}") for number in range(50)] == list(range(50))
    assert site.redis_cli("EXISTS", *(f"gateway:key:{number}" for number in range(50))) == "50"


def test_one_that_sleeps_through_the_recovery_changes_nothing_that_is_newer(site: Site) -> None:
    one, two, three = site.gateways
    site.wait_for_peers(2, 15)
    for key in ("changed", "deleted", "later"):
        one.set(key, "old")
    site.cut_redis_off()
    for key in ("changed", "deleted", "later"):
        three.set(key, "of the sleeper")
    for key in ("changed", "deleted", "later"):
        reads([one, two], key, "of the sleeper")
    three.pause()
    try:
        two.set("changed", "new")
        two.delete("deleted")
        reads([one], "changed", "new")
        site.connect_redis()
        in_mode([one, two], "redis")
        one.set("later", "newest")
    finally:
        three.unpause()
    in_mode([three], "redis")
    eventually_sync(lambda: three.status()["stats"]["dirty"] == 0, 10, message="the sleeper has nothing left to tell")
    for gateway in site.gateways:
        assert gateway.get("changed") == "new"
        assert gateway.get("deleted") is None
        assert gateway.get("later") == "newest"


def test_one_that_is_cut_off_from_everything_comes_back_without_old_values(site: Site) -> None:
    one, two, three = site.gateways
    site.wait_for_peers(2, 15)
    one.set("changed", "old")
    one.set("deleted", "old")
    assert three.get("changed") == three.get("deleted") == "old"  # it has copies
    site.cut_off(three)
    one.set("changed", "new")
    two.delete("deleted")
    site.connect(three)
    eventually_sync(three.is_up, 20, message="it can be spoken to again")
    in_mode([three], "redis")
    for gateway in site.gateways:
        eventually_sync(lambda g=gateway: g.get("changed") == "new", 5, message="the new value is read")
        assert gateway.get("deleted") is None
