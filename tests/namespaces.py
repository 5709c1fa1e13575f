"""Hosts for tests: network namespaces on a bridge of their own, apart from every network of this machine.

Needs root and the program ``ip``; where they are missing, :func:`network` skips the test.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Generic, Self, TypeVar

import pytest

__all__ = ["Host", "Network", "ip", "network"]


def ip(*words: str) -> None:
    """Run ``ip``."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Host:
    """A network namespace with loopback and a card, ``eth0``, that has no address yet.

    Args:
        name: of the namespace.
        stack: closed when the network goes; what is started on this host is to be ended there.
    """

    def __init__(self, name: str, stack: ExitStack) -> None:
        self.name = name
        self.stack = stack

    def ip(self, *words: str) -> None:
        ip("-n", self.name, *words)

    def address(self, address: str, card: str = "eth0") -> Self:
        self.ip("address", "add", address, "dev", card, *(("nodad",) if ":" in address else ()))
        return self

    def ask(self, server: str) -> Self:
        """Let the programs that are started here from now on ask this DNS server."""
        directory = Path("/etc/netns") / self.name  # bound over /etc by ``ip netns exec``
        directory.mkdir(parents=True)
        self.stack.callback(shutil.rmtree, directory)
        (directory / "resolv.conf").write_text(f"nameserver {server}\noptions timeout:1 attempts:1\n")
        return self

    def command(self, *words: str) -> list[str]:
        """The command that runs these words on this host, as a process that has the id of the one started."""
        return ["ip", "netns", "exec", self.name, *words]

    def run(self, *words: str, stdin: str | None = None) -> None:
        """Run a program to its end."""
        subprocess.run(self.command(*words), check=True, capture_output=True, text=True, input=stdin)


H = TypeVar("H", bound=Host)


class Network(Generic[H]):
    """Bridges in a namespace of their own, and hosts that are plugged into them: all into the first, unless it is said.

    Args:
        stack: what was made is unmade when it closes.
        host_class: what :meth:`host` makes.
    """

    def __init__(self, stack: ExitStack, host_class: Callable[[str, ExitStack], H]) -> None:
        self._stack = stack
        self._host_class = host_class
        self._name = f"mc{secrets.token_hex(3)}"
        self._hosts = 0
        self._bridges: set[str] = set()
        self._add("hub")
        self._bridge("br0")

    def host(self, *, card: bool = True) -> H:
        self._hosts += 1
        host = self._host_class(self._add(str(self._hosts)), self._stack)
        host.ip("link", "set", "lo", "up")
        if card:
            self.plug(host)
        return host

    def plug(self, host: Host, card: str = "eth0", bridge: str = "br0") -> None:
        """Give the host a card on a bridge."""
        self._bridge(bridge)
        port = f"p{secrets.token_hex(4)}"
        self._hub("link", "add", port, "type", "veth", "peer", "name", card, "netns", host.name)
        self._hub("link", "set", port, "master", bridge, "up")
        host.ip("link", "set", card, "up")

    def _bridge(self, name: str) -> None:
        if name not in self._bridges:
            self._bridges.add(name)
            self._hub("link", "add", name, "type", "bridge", "mcast_snooping", "0")
            self._hub("link", "set", name, "up")

    def _hub(self, *words: str) -> None:
        ip("-n", f"{self._name}-hub", *words)

    def _add(self, suffix: str) -> str:
        name = f"{self._name}-{suffix}"
        ip("netns", "add", name)
        self._stack.callback(ip, "netns", "delete", name)
        return name


@contextmanager
def network(host_class: Callable[[str, ExitStack], H], *programs: str) -> Iterator[Network[H]]:
    """A network, for as long as the test runs; a skip if there cannot be one.

    Args:
        host_class: what its hosts are.
        programs: what the test needs besides ``ip``.
    """
    missing = [program for program in ("ip", *programs) if shutil.which(program) is None]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"network namespaces need root and {' and '.join(('ip', *programs))}")
    with ExitStack() as stack:
        try:
            made = Network(stack, host_class)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        yield made
