from __future__ import annotations

import subprocess
import sys

import pytest

from meshcache.discovery import Discovery, Dns, DnsSrv
from meshcache.discovery.dns import dns_source
from meshcache.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("dns://gateways.example:7946", "Dns('gateways.example', 7946)"),
        ("dns://gateway:1/", "Dns('gateway', 1)"),
        ("dns://mesh.prod.svc.cluster.local.:65535", "Dns('mesh.prod.svc.cluster.local.', 65535)"),
        ("dns+srv://_mesh._udp.gateways.example", "DnsSrv('_mesh._udp.gateways.example')"),
    ],
)
def test_is_written_as_a_url(text: str, shown: str) -> None:
    source = dns_source(text)
    assert repr(source) == shown
    assert isinstance(source, Discovery)


@pytest.mark.parametrize(
    "text",
    [
        "dns://gateways.example",
        "dns://gateways.example:0",
        "dns://gateways.example:65536",
        "dns://gateways.example:http",
        "dns://:7946",
        "dns://",
        "dns://ada@gateways:7946",
        "dns://gateways:7946/x",
        "dns://two words:7946",
        "dns://10.0.0.1:7946",
        "dns://[2001:db8::1]:7946",
        "dns+srv://_mesh._udp.gateways:7946",
        "dns+srv://",
        "dns+srv://10.0.0.1",
        "DNS://gateways:7946",
        "srv://gateways:7946",
        "redis://gateways:7946",
    ],
)
def test_anything_else_is_named_at_once(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        dns_source(text)
    assert caught.value.option == "discovery"


def test_an_address_is_said_to_be_none() -> None:
    with pytest.raises(ConfigError, match=r"write it without dns://, as 10\.0\.0\.1:7946"):
        dns_source("dns://10.0.0.1:7946")


@pytest.mark.parametrize("port", [0, 65_536, True, "7946", None])
def test_a_port_that_is_none(port: int) -> None:
    with pytest.raises(ConfigError, match="not a port"):
        Dns("gateways", port)


@pytest.mark.parametrize("name", ["", "two words", "host:1", 7, None])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(ConfigError, match="not a name"):
        DnsSrv(name)


def test_without_dnspython_one_line_says_what_to_install() -> None:
    code = """
import sys
sys.modules["dns"] = None
from meshcache import ConfigError, MeshCache
MeshCache(None, discovery=["dns://gateways:7946"])
try:
    MeshCache(None, discovery=["dns+srv://_mesh._udp.gateways"])
except ConfigError as error:
    print(error)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (
        ended.stdout == "discovery: SRV records need dnspython, which is not installed: pip install 'meshcache[dns]'\n"
    )
