from __future__ import annotations

import subprocess
import sys

import pytest

import meshcache.discovery


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
