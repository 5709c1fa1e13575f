"""Networks as they are: addresses change, cards go and come back, multicast does not, names appear.  Whole instances, no Redis."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import namespaces
from tests.mesh_real.mesh import PORT, MeshHost
from tests.namespaces import Network
from tests.support import eventually_sync

pytestmark = pytest.mark.netns

SECRET = secrets.token_hex(16)
GONE_AFTER = 5.0
PATIENCE = 25.0


@pytest.fixture
def network() -> Iterator[Network[MeshHost]]:
    with namespaces.network(MeshHost, "nft") as network:
        yield network


@pytest.fixture
def opened() -> Callable[..., None]:
    """Starts instances on hosts, all with the same options but where it is said, and waits for their caches."""
    count = 0

    def start(*hosts: MeshHost, **options: Any) -> None:
        nonlocal count
        pending = []
        for host in hosts:
            count += 1
            pending.append(host.start(count, SECRET, [], **options))
        for each in pending:
            each.result(30)

    return start


def meets(host: MeshHost, *addresses: str, timeout: float = PATIENCE) -> None:
    answer = host.instance.ask("meet", addresses=list(addresses), timeout=timeout).result(timeout + 10)
    assert answer["met"], (
        f"{host.instance.name} has peers at {answer['at']}, not {addresses}: {list(host.instance.log)}"
    )


def share(writer: MeshHost, *readers: MeshHost) -> None:
    """What one sets, the others read."""
    key, value = secrets.token_hex(4), secrets.token_hex(4)
    writer.instance.call("set", values={key: value}, ttl=60, pause=0)
    for reader in readers:
        assert reader.instance.call("watch", expected={key: value}, timeout=3)["last"] == {key: value}


def warnings(host: MeshHost) -> list[str]:
    return [line for line in host.instance.log if " WARNING " in line or " ERROR " in line]


ways = pytest.mark.parametrize("discovery", [["mdns"], [f"10.9.0.{n}:{PORT}" for n in (1, 2)]], ids=["mdns", "static"])
wheres = pytest.mark.parametrize("interfaces", [None, ["eth0"]], ids=["everywhere", "by-name"])


@ways
@wheres
def test_an_instance_whose_address_changes(
    network: Network[MeshHost], opened: Callable[..., None], discovery: list[str], interfaces: list[str] | None
) -> None:
    one, two = network.host().address("10.9.0.1/24"), network.host().address("10.9.0.2/24")
    opened(one, two, discovery=discovery, interfaces=interfaces)
    meets(one, "10.9.0.2")
    meets(two, "10.9.0.1")
    one.ip("address", "delete", "10.9.0.1/24", "dev", "eth0")
    one.address("10.9.0.7/24")
    meets(two, "10.9.0.7")
    meets(one, "10.9.0.2")
    share(one, two)
    share(two, one)
    if discovery == ["mdns"]:  # somebody new finds the new address
        three = network.host().address("10.9.0.3/24")
        opened(three, discovery=discovery, interfaces=interfaces)
        meets(three, "10.9.0.2", "10.9.0.7")


@ways
def test_a_card_that_goes_down_and_up(
    network: Network[MeshHost], opened: Callable[..., None], discovery: list[str]
) -> None:
    one, two = network.host().address("10.9.0.1/24"), network.host().address("10.9.0.2/24")
    opened(one, two, discovery=discovery)
    meets(one, "10.9.0.2")
    one.ip("link", "set", "eth0", "down")
    meets(one, timeout=GONE_AFTER + 3)
    meets(two, timeout=GONE_AFTER + 3)
    one.ip("link", "set", "eth0", "up")
    meets(one, "10.9.0.2")
    meets(two, "10.9.0.1")
    share(one, two)
    share(two, one)


@ways
@wheres
def test_a_card_that_is_made_anew(
    network: Network[MeshHost], opened: Callable[..., None], discovery: list[str], interfaces: list[str] | None
) -> None:
    """Another interface, with the same name; and another address, which no list of addresses knows."""
    one, two = network.host().address("10.9.0.1/24"), network.host().address("10.9.0.2/24")
    opened(one, two, discovery=discovery, interfaces=interfaces)
    meets(one, "10.9.0.2")
    one.ip("link", "delete", "eth0")
    meets(two, timeout=GONE_AFTER + 3)
    network.plug(one)
    one.address("10.9.0.8/24")
    meets(one, "10.9.0.2")
    meets(two, "10.9.0.8")
    share(one, two)
    share(two, one)


def test_an_instance_that_starts_before_its_card_has_an_address(
    network: Network[MeshHost], opened: Callable[..., None]
) -> None:
    one, two = network.host(), network.host().address("10.9.0.2/24")
    opened(one, two, discovery=["mdns"], interfaces=["eth0"])
    one.address("10.9.0.1/24")
    meets(one, "10.9.0.2")
    meets(two, "10.9.0.1")
    share(one, two)


@wheres
def test_ipv6_alone(network: Network[MeshHost], opened: Callable[..., None], interfaces: list[str] | None) -> None:
    one, two, three = (network.host().address(f"fd00:9::{number}/64") for number in (1, 2, 3))
    opened(one, two, discovery=["mdns"], interfaces=interfaces)
    opened(three, discovery=[f"[fd00:9::1]:{PORT}"], interfaces=interfaces)
    meets(one, "fd00:9::2", "fd00:9::3")
    meets(three, "fd00:9::1", "fd00:9::2")
    share(two, one, three)


@ways
def test_two_cards_of_which_one_dies(
    network: Network[MeshHost], opened: Callable[..., None], discovery: list[str]
) -> None:
    """They are on two networks, both of them, and go on over the other one."""
    one, two = network.host().address("10.9.0.1/24"), network.host().address("10.9.0.2/24")
    for number, host in enumerate((one, two), 1):
        network.plug(host, "eth1", "br1")
        host.address(f"10.8.0.{number}/24", "eth1")
    if discovery != ["mdns"]:
        discovery = [*discovery, *(address.replace("10.9", "10.8") for address in discovery)]
    opened(one, two, discovery=discovery)
    (first,) = one.instance.call("meet", addresses=["?"], timeout=3)["at"]
    died, other = ("eth0", "10.8.0") if first.startswith("10.9") else ("eth1", "10.9.0")
    one.ip("link", "set", died, "down")
    meets(one, f"{other}.2")
    meets(two, f"{other}.1")
    share(one, two)
    share(two, one)


def test_two_networks_and_one_host_on_both(network: Network[MeshHost], opened: Callable[..., None]) -> None:
    """The two that cannot reach each other meet the one between, and are not disturbed by what it tells of the other."""
    left, both, right = network.host().address("10.9.0.1/24"), network.host().address("10.9.0.2/24"), network.host()
    network.plug(both, "eth1", "br1")
    both.address("10.8.0.2/24", "eth1")
    right.ip("link", "delete", "eth0")
    network.plug(right, "eth0", "br1")
    right.address("10.8.0.3/24")
    opened(left, both, right, discovery=["mdns"])
    meets(both, "10.9.0.1", "10.8.0.3")
    meets(left, "10.9.0.2")
    meets(right, "10.8.0.2")
    share(both, left, right)
    assert warnings(left) + warnings(both) + warnings(right) == []


HOLDER = """
import socket, sys
held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
held.bind(("", 5353))
print("held", flush=True)
sys.stdin.read()
"""


def test_port_5353_held_by_another_program(network: Network[MeshHost], opened: Callable[..., None]) -> None:
    """One warning; the other sources go on; and mDNS works once the port is free."""
    one, two, three = (network.host().address(f"10.9.0.{number}/24") for number in (1, 2, 3))
    holder = subprocess.Popen(
        one.command(sys.executable, "-c", HOLDER), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        opened(one, discovery=["mdns", f"10.9.0.2:{PORT}"])
        opened(two, discovery=[])
        meets(one, "10.9.0.2")
        share(one, two)
        (line,) = warnings(one)
        assert "discovery by mDNS does not work now; it is tried again: [Errno 98] Address already in use" in line
        holder.communicate()
    opened(three, discovery=["mdns"])
    meets(one, "10.9.0.2", "10.9.0.3")
    assert warnings(one) == [line]


NO_MULTICAST = {
    "dropped": lambda host: host.drop_multicast(),
    "switched-off": lambda host: host.ip("link", "set", "eth0", "multicast", "off"),
}


@pytest.mark.parametrize("how", NO_MULTICAST)
def test_no_multicast_at_all(network: Network[MeshHost], opened: Callable[..., None], how: str) -> None:
    """mDNS is silent, and that is all."""
    hosts = [network.host().address(f"10.9.0.{number}/24") for number in (1, 2, 3)]
    for host in hosts:
        NO_MULTICAST[how](host)
    one, two, three = hosts
    opened(one, discovery=["mdns"])
    opened(two, discovery=["mdns", f"10.9.0.1:{PORT}"])
    opened(three, discovery=["mdns", f"10.9.0.2:{PORT}"])
    for host, others in ((one, (2, 3)), (two, (1, 3)), (three, (1, 2))):
        meets(host, *(f"10.9.0.{number}" for number in others))  # one and three through two
    share(one, two, three)
    for host in hosts:
        assert len(warnings(host)) <= 1, warnings(host)


class Names:
    """A DNS server on a host of its own."""

    def __init__(self, host: MeshHost) -> None:
        command = [sys.executable, "-m", "tests.io.discovery.name_server", "0.0.0.0"]
        self._process = subprocess.Popen(
            host.command(*command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        host.stack.callback(self._close)
        assert self._read() == "ready\n"

    def know(self, zone: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(zone) + "\n")
        self._process.stdin.flush()
        assert self._read() == "taken\n"

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def _close(self) -> None:
        self._process.communicate()


@pytest.mark.parametrize(
    "discovery", [f"dns://gateways.test:{PORT}", "dns+srv://_mesh._udp.gateways.test"], ids=["addresses", "services"]
)
def test_a_headless_service(network: Network[MeshHost], opened: Callable[..., None], discovery: str) -> None:
    """The name is not there before the first instance is; then one is replaced by another elsewhere."""
    names = Names(network.host().address("10.9.0.53/24"))
    one, two, three = (network.host().address(f"10.9.0.{number}/24").ask("10.9.0.53") for number in (1, 2, 3))

    def ready(*numbers: int) -> None:
        hosts = {f"pod-{number}.gateways.test.": {"A": [f"10.9.0.{number}"]} for number in numbers}
        names.know(
            {
                "gateways.test.": {"A": [f"10.9.0.{number}" for number in numbers]},
                "_mesh._udp.gateways.test.": {"SRV": [f"0 0 {PORT} {host}" for host in hosts]},
                **hosts,
            }
        )

    opened(one, two, discovery=[discovery])
    eventually_sync(lambda: warnings(one))
    ready(1, 2)
    meets(one, "10.9.0.2")
    meets(two, "10.9.0.1")
    assert len(warnings(one)) == 1
    two.instance.end()
    ready(1, 3)
    opened(three, discovery=[discovery])
    meets(one, "10.9.0.3")
    meets(three, "10.9.0.1")
    share(three, one)
    assert len(warnings(one)) == 1
