"""What is taken from an announcement; the wire is in ``tests/io/discovery``."""

from __future__ import annotations

from typing import Any

import pytest
from zeroconf import ServiceInfo

from meshcache.discovery.base import Announcement
from meshcache.discovery.mdns import SERVICE_TYPE, Mdns, _Session, _Site, multicast_addresses, namespace_digest
from meshcache.interfaces import LocalAddress

ME = Announcement(0xA1, "gateway", ("10.0.0.1",), 7001)
GOOD = {"v": "1", "ns": namespace_digest("gateway"), "id": f"{0xB2:016x}"}


def candidates(properties: dict[str, Any], addresses: list[str], port: int = 7002) -> tuple[tuple[str, int], ...]:
    session = _Session(_Site((), (), ()), ME, None)  # type: ignore[arg-type]
    info = ServiceInfo(
        SERVICE_TYPE, f"other.{SERVICE_TYPE}", port=port, properties=properties, parsed_addresses=addresses
    )
    return session._candidates(info)


def test_every_address_of_a_service_is_a_candidate() -> None:
    found = candidates(GOOD, ["10.0.0.2", "10.0.1.2", "2001:db8::2", "127.0.0.1"])
    assert sorted(found) == [("10.0.0.2", 7002), ("10.0.1.2", 7002), ("127.0.0.1", 7002), ("2001:db8::2", 7002)]


@pytest.mark.parametrize(
    "properties",
    [
        {**GOOD, "v": "2"},
        {**GOOD, "ns": namespace_digest("other")},
        {**GOOD, "id": f"{ME.node_id:016x}"},
        {"ns": GOOD["ns"]},
        {"v": b"\xff\xfe", "ns": b"\xff"},
        {},
    ],
)
def test_what_is_not_for_this_instance_is_left_out(properties: dict[str, Any]) -> None:
    assert candidates(properties, ["10.0.0.2"]) == ()


@pytest.mark.parametrize("host", ["0.0.0.0", "224.0.0.251", "255.255.255.255", "::", "ff02::fb", "fe80::1"])
def test_an_address_that_no_peer_can_have_is_left_out(host: str) -> None:
    assert candidates(GOOD, [host, "10.0.0.2"]) == (("10.0.0.2", 7002),)


def test_one_announcement_cannot_name_addresses_without_end() -> None:
    assert len(candidates(GOOD, [f"10.0.0.{number}" for number in range(1, 200)])) == 16
    assert candidates(GOOD, ["10.0.0.2"], port=0) == ()


def test_the_announcement_does_not_tell_the_namespace() -> None:
    session = _Session(_Site((), (), ("10.0.0.1",)), ME, None)  # type: ignore[arg-type]
    info = session._own_info()
    assert b"gateway" not in info.text
    assert "gateway" not in info.name
    assert info.decoded_properties == {"v": "1", "ns": namespace_digest("gateway"), "id": f"{0xA1:016x}"}
    assert namespace_digest("gateway") != namespace_digest("gateway2")


def test_one_address_an_interface_is_spoken_from_ipv4_first() -> None:
    here = [
        LocalAddress("eth0", 2, "2001:db8::5"),
        LocalAddress("eth0", 2, "10.0.0.5"),
        LocalAddress("eth0", 2, "10.0.0.6"),
        LocalAddress("eth1", 3, "2001:db8:1::5"),
    ]
    assert multicast_addresses(here) == ("10.0.0.5", "2001:db8:1::5")


def test_shows_its_interfaces() -> None:
    assert repr(Mdns()) == "Mdns()"
    assert repr(Mdns(["127.0.0.1"])) == "Mdns(['127.0.0.1'])"
