from __future__ import annotations

import subprocess
import sys

import pytest

import meshcache.discovery
from meshcache.discovery import Announcement
from meshcache.interfaces import local_addresses


def test_exports_its_public_names() -> None:
    for name in ("Announcement", "Discovery", "Dns", "DnsSrv", "Mdns", "Static"):
        assert name in dir(meshcache.discovery)
        assert getattr(meshcache.discovery, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        meshcache.discovery.nothing  # noqa: B018


def test_making_a_source_does_not_load_zeroconf() -> None:
    program = """
import sys
from meshcache.discovery import Announcement, Dns, DnsSrv, Mdns, Static
Mdns(), Static(["10.0.0.1:7946"]), Dns("gateways", 7946), DnsSrv("_mesh._udp.gateways")
sys.exit(bool({"zeroconf", "ifaddr", "dns.resolver"} & sys.modules.keys()))
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_sources_are_sources() -> None:
    assert isinstance(meshcache.discovery.Mdns(), meshcache.discovery.Discovery)
    assert isinstance(meshcache.discovery.Static([]), meshcache.discovery.Discovery)


def test_addresses_that_may_change_are_asked_of_the_system() -> None:
    """And an instance that is bound to one address stays there."""
    loopback = next(item.interface for item in local_addresses() if item.ip == "127.0.0.1")
    bound = Announcement(1, "test", ("203.0.113.9",), 7001)
    follows = Announcement(1, "test", ("203.0.113.9",), 7001, everywhere=True, interfaces=(loopback,))
    assert bound.addresses_now() == ("203.0.113.9",)
    assert "127.0.0.1" in follows.addresses_now()
    assert "203.0.113.9" not in follows.addresses_now()
