"""Networks that are broken in one way, in namespaces of their own: the command as a program on one host, instances on the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import namespaces
from tests.mesh_real.mesh import PORT, MeshHost
from tests.namespaces import Network

pytestmark = pytest.mark.netns

ROOT = Path(__file__).resolve().parents[3]
SECRET = "a secret of more than sixteen characters"


@pytest.fixture
def network() -> Iterator[Network[MeshHost]]:
    with namespaces.network(MeshHost, "nft") as network:
        yield network


class Report:
    """What the doctor says, and whether it calls it broken."""

    def __init__(self, host: MeshHost, *arguments: str) -> None:
        command = [sys.executable, "-m", "meshcache.cli", "doctor", "--url", "none", "--json", *arguments]
        self.ended = subprocess.run(
            host.command(*command),
            cwd=ROOT,
            env={**os.environ, "MESHCACHE_SECRET": SECRET, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert self.ended.returncode in (0, 1), self.ended.stderr
        assert self.ended.stderr == ""
        assert SECRET not in self.ended.stdout
        self.document: dict[str, Any] = json.loads(self.ended.stdout)
        self.findings = {finding["name"]: finding for finding in self.document["findings"]}
        print(self.ended.stdout)

    def having(self, verdict: str) -> set[str]:
        return {name for name, finding in self.findings.items() if finding["verdict"] == verdict} - {"receive-buffer"}

    def seen(self, name: str) -> str:
        return str(self.findings[name]["seen"])


def instance(host: MeshHost, number: int, *discovery: str, secret: str = SECRET) -> None:
    """A gateway that runs there."""
    host.start(number, secret, [], discovery=list(discovery), namespace="meshcache").result(30)


def two(network: Network[MeshHost]) -> tuple[MeshHost, MeshHost]:
    return network.host().address("10.9.0.1/24"), network.host().address("10.9.0.2/24")


def test_a_healthy_network(network: Network[MeshHost]) -> None:
    here, there = two(network)
    instance(there, 2, "mdns")
    report = Report(here, "--peers", "1")
    assert report.ended.returncode == 0
    assert report.having("fail") | report.having("warn") == set()
    assert f"1 peer: 10.9.0.2:{PORT} (memory)" in report.seen("peers")
    assert report.seen("multicast").startswith("heard on eth0 (10.9.0.1)")
    assert report.document["ok"] is True


def test_a_healthy_network_of_ipv6(network: Network[MeshHost]) -> None:
    here, there = network.host().address("fd00:9::1/64"), network.host().address("fd00:9::2/64")
    instance(there, 2, "mdns")
    report = Report(here, "--peers", "1")
    assert report.having("fail") | report.having("warn") == set()
    assert f"1 peer: [fd00:9::2]:{PORT}" in report.seen("peers")


@pytest.mark.parametrize("where", ["here", "there"])
@pytest.mark.parametrize("discovery", ["mdns", f"10.9.0.2:{PORT}"], ids=["mdns", "static"])
def test_udp_that_a_firewall_drops(network: Network[MeshHost], where: str, discovery: str) -> None:
    """All but multicast DNS; at either end."""
    here, there = two(network)
    instance(there, 2, "mdns")
    rules = "table inet wall { chain arrives { type filter hook input priority 0; udp dport != 5353 drop; }; }"
    {"here": here, "there": there}[where].run("nft", "-f", "-", stdin=rules)
    report = Report(here, "--discovery", discovery, "--port", str(PORT))
    assert report.ended.returncode == 1
    assert report.having("fail") == {"peers"} | ({"multicast"} if where == "here" and discovery == "mdns" else set())
    assert f"0 peers; no answer from 10.9.0.2:{PORT}" in report.seen("peers")
    assert "let UDP pass between the instances, both ways" in report.findings["peers"]["advice"]


def test_udp_that_passes_one_way_only(network: Network[MeshHost]) -> None:
    """What comes in is heard; what is sent from here is dropped on its way."""
    here, there = two(network)
    instance(there, 2, f"10.9.0.1:{PORT}")
    there.drop("ip saddr 10.9.0.1")
    report = Report(here, "--discovery", f"10.9.0.2:{PORT}", "--port", str(PORT))
    assert report.having("fail") == {"peers"}
    assert "datagrams come in, but the answers to them do not arrive" in report.seen("peers")


def test_port_5353_held_by_another_program(network: Network[MeshHost]) -> None:
    here, there = two(network)
    instance(there, 2)
    program = "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 5353)); "
    holder = subprocess.Popen(
        here.command(sys.executable, "-c", program + "print('held', flush=True); sys.stdin.read()"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        alone = Report(here)
        beside = Report(here, "--discovery", "mdns", "--discovery", f"10.9.0.2:{PORT}", "--port", str(PORT))
        holder.communicate()
    assert alone.ended.returncode == 1
    assert alone.having("fail") == {"mdns-port", "discovery"}
    assert "UDP port 5353 is held by another program" in alone.seen("mdns-port")
    assert "avahi" in alone.findings["mdns-port"]["advice"]
    assert beside.ended.returncode == 0  # the other source goes on
    assert beside.having("warn") == {"mdns-port", "discovery"}
    assert "1 peer: 10.9.0.2" in beside.seen("peers")


def test_no_multicast(network: Network[MeshHost]) -> None:
    here, there = two(network)
    instance(there, 2, "mdns")
    here.drop_multicast()
    report = Report(here)
    assert report.ended.returncode == 1
    assert report.having("fail") == {"multicast"}
    assert "no multicast on eth0 (10.9.0.1)" in report.seen("multicast")
    assert "dns://name:port" in report.findings["multicast"]["advice"]


def test_another_secret_at_a_peer(network: Network[MeshHost]) -> None:
    here, there = two(network)
    instance(there, 2, "mdns", secret="another secret, just as long")
    report = Report(here)
    assert report.ended.returncode == 1
    assert report.having("fail") == {"peer-keys", "peers"}
    assert report.seen("peer-keys") == f"another key is used at 10.9.0.2:{PORT}"


def test_a_host_without_a_network(network: Network[MeshHost]) -> None:
    report = Report(network.host(card=False))
    assert "interfaces" in report.having("warn")
    assert "only programs of this host can be reached" in report.seen("interfaces")
