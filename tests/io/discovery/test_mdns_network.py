"""mDNS between hosts: network namespaces on a bridge of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import namespaces
from tests.namespaces import Host, Network
from tests.support import eventually_sync

pytestmark = pytest.mark.netns

ROOT = Path(__file__).resolve().parents[3]


class Program:
    """A program on a host, and the lines that it has printed."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
        )
        self.lines: list[str] = []
        self.errors = ""
        self._readers = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        for reader in self._readers:
            reader.start()

    def printed(self, start: str, timeout: float = 10.0) -> str:
        """Wait for a line that starts like this."""
        match = eventually_sync(
            lambda: next((line for line in self.lines if line.startswith(start)), None),
            timeout,
            message=f"a line {start!r} among {self.lines}; errors: {self.errors[-2000:]}",
        )
        return str(match)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.strip())

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.errors += line


class Instances(Host):
    """A host on which instances run."""

    def start(self, *command: str) -> Program:
        program = Program(self.command(sys.executable, *command))
        self.stack.callback(program.close)
        return program

    def instance(self, interfaces: list[str] | None = None, namespace: str = "test", **more: object) -> Program:
        program = self.start(
            "-m",
            "tests.io.discovery.instance",
            json.dumps({"namespace": namespace, "interfaces": interfaces, **more}),
        )
        program.printed("ready")
        return program


@pytest.fixture
def network() -> Iterator[Network[Instances]]:
    with namespaces.network(Instances) as network:
        yield network


def test_hosts_find_and_reach_each_other_with_no_configuration(network: Network[Instances]) -> None:
    one = network.host().address("10.9.0.1/24").instance()
    two = network.host().address("10.9.0.2/24").instance()
    one.printed("found 10.9.0.2 ")
    two.printed("found 10.9.0.1 ")
    one.printed("heard 10.9.0.2 greetings")
    two.printed("heard 10.9.0.1 greetings")
    assert not [line for line in one.lines if line.startswith("found 127.")]


def test_a_network_of_ipv6_alone_works_too(network: Network[Instances]) -> None:
    one = network.host().address("fd00:9::1/64").instance()
    two = network.host().address("fd00:9::2/64").instance()
    one.printed("heard fd00:9::2 greetings")
    two.printed("heard fd00:9::1 greetings")


def test_hosts_whose_ipv6_is_switched_off_use_ipv4(network: Network[Instances]) -> None:
    hosts = [network.host(), network.host()]
    for number, host in enumerate(hosts, 1):
        host.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        host.address(f"10.9.0.{number}/24")
    one, two = (host.instance() for host in hosts)
    one.printed("heard 10.9.0.2 greetings")
    two.printed("heard 10.9.0.1 greetings")


def test_every_address_of_a_host_is_a_candidate(network: Network[Instances]) -> None:
    one = network.host().address("10.9.0.1/24").instance()
    network.host().address("10.9.0.2/24").address("10.10.0.2/24").address("fd00:9::2/64").instance()
    for address in ("10.9.0.2", "10.10.0.2", "fd00:9::2"):
        one.printed(f"found {address} ")


def test_an_instance_of_loopback_alone_is_silent_on_the_network(network: Network[Instances]) -> None:
    host = network.host().address("10.9.0.1/24")
    hidden = host.instance(["127.0.0.1"])
    beside = host.instance(["127.0.0.1"])
    open_one = network.host().address("10.9.0.2/24").instance()
    last = network.host().address("10.9.0.3/24").instance()
    beside.printed("heard 127.0.0.1 greetings")
    open_one.printed("found 10.9.0.3 ")
    last.printed("found 10.9.0.2 ")
    for program in (open_one, last):
        assert not [line for line in program.lines if "127.0.0.1" in line or "10.9.0.1" in line]
    assert not [line for line in hidden.lines if "10.9." in line]


def test_a_network_that_comes_after_the_start_is_used(network: Network[Instances]) -> None:
    """A gateway that starts before its network is up."""
    host = network.host(card=False)
    early = host.instance()
    other = network.host().address("10.9.0.2/24").instance()
    network.plug(host)
    host.address("10.9.0.1/24")
    early.printed("heard 10.9.0.2 greetings")
    other.printed("found 10.9.0.1 ")
    other.printed("heard 10.9.0.1 greetings")


def test_a_changed_address_is_told(network: Network[Instances]) -> None:
    host = network.host().address("10.9.0.1/24")
    moves = host.instance()
    other = network.host().address("10.9.0.2/24").instance()
    other.printed("heard 10.9.0.1 greetings")
    host.ip("address", "delete", "10.9.0.1/24", "dev", "eth0")
    host.address("10.9.0.7/24")
    other.printed("found 10.9.0.7 ")
    moves.printed("heard 10.9.0.2 greetings")


def test_a_card_that_was_made_anew_is_used_again(network: Network[Instances]) -> None:
    """Same name, same address; but what was joined on the old one is gone."""
    host = network.host().address("10.9.0.1/24")
    keeps = host.instance()
    network.host().address("10.9.0.2/24").instance()
    keeps.printed("found 10.9.0.2 ")
    host.ip("link", "delete", "eth0")
    network.plug(host)
    host.address("10.9.0.1/24")
    late = network.host().address("10.9.0.3/24").instance()
    late.printed("found 10.9.0.1 ")
    keeps.printed("found 10.9.0.3 ")


def test_no_usable_interface_is_raised_and_is_over_when_it_comes(network: Network[Instances]) -> None:
    host = network.host()
    waits = host.instance(["127.0.0.1"], mdns=["eth0"])
    waits.printed("failed RuntimeError None")
    host.address("10.9.0.1/24")
    other = network.host().address("10.9.0.2/24").instance()
    waits.printed("found 10.9.0.2 ")
    other.printed("found 127.0.0.1 ")  # what its socket is bound to


def test_a_port_that_another_holds_is_raised_as_errno_98(network: Network[Instances]) -> None:
    host = network.host().address("10.9.0.1/24")
    holder = host.start(
        "-uc",
        "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 5353)); "
        "print('held'); time.sleep(60)",
    )
    holder.printed("held")
    instance = host.instance()
    eventually_sync(lambda: instance.lines.count("failed OSError 98") >= 2)
    assert instance.errors == "", "zeroconf logs it again and again"


def test_a_killed_instance_says_no_goodbye_and_an_ended_host_disturbs_nobody(network: Network[Instances]) -> None:
    one = network.host().address("10.9.0.1/24").instance()
    two = network.host().address("10.9.0.2/24").instance()
    one.printed("found 10.9.0.2 ")
    two.close()
    three = network.host().address("10.9.0.3/24").instance()
    one.printed("found 10.9.0.3 ")
    three.printed("found 10.9.0.1 ")
    assert not [line for line in one.lines if line.startswith("failed")]
