from __future__ import annotations

import pytest

from meshcache.interfaces import LocalAddress, local_addresses, usable_addresses

LOOPBACK = LocalAddress("lo", 1, "127.0.0.1")
LOOPBACK_6 = LocalAddress("lo", 1, "::1")
CARD = LocalAddress("eth0", 2, "10.0.0.5")
CARD_6 = LocalAddress("eth0", 2, "2001:db8::5")
OTHER = LocalAddress("wlan0", 3, "192.168.1.7")
HOST = (LOOPBACK, LOOPBACK_6, CARD, CARD_6, OTHER)


@pytest.mark.parametrize(
    ("interfaces", "expected"),
    [
        (None, [CARD, CARD_6, OTHER]),
        (["eth0"], [CARD, CARD_6]),
        (["10.0.0.5"], [CARD]),
        (["2001:DB8:0::5"], [CARD_6]),
        (["wlan0", "eth0", "10.0.0.5"], [OTHER, CARD, CARD_6]),
        (["lo"], [LOOPBACK, LOOPBACK_6]),
        (["127.0.0.2"], [LOOPBACK._replace(ip="127.0.0.2")]),
        (["eth7"], []),
        (["10.0.0.6"], []),
    ],
)
def test_what_interfaces_means(interfaces: list[str] | None, expected: list[LocalAddress]) -> None:
    assert usable_addresses(interfaces, HOST) == tuple(expected)


def test_a_host_with_nothing_but_loopback_uses_that() -> None:
    assert usable_addresses(None, [LOOPBACK]) == (LOOPBACK,)
    assert usable_addresses(None, []) == ()


def test_this_host_has_loopback_and_no_link_local_address() -> None:
    local = local_addresses()
    assert "127.0.0.1" in {item.ip for item in local}
    assert not [item for item in local if item.ip.startswith("fe80")]
    assert all(item.interface_index > 0 for item in local)
