"""Three instances without Redis, each a process in a network namespace of its own, on one bridge.

``MESHCACHE_TEST_FULL=1``
    The whole load of each test, as long as it was when its figures were promised; by default a shorter one.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence
from typing import Any

import pytest

from meshcache.cli.demo.fleet import Instance, Pending, worker_command
from tests.namespaces import Host, Network

FULL = os.environ.get("MESHCACHE_TEST_FULL") == "1"
PORT = 7946

__all__ = ["FULL", "Mesh", "MeshHost"]


class MeshHost(Host):
    """A host with one instance, and a filter in front of it that is made of nftables' rules on the mesh's datagrams."""

    instance: Instance
    """Once it was started."""

    def start(self, number: int, secret: str, peers: Sequence[str], **options: Any) -> Pending:
        """Start the process and let it open its cache."""
        program = worker_command("tests.mesh_real.worker")
        self.instance = Instance(number, lambda _: None, self.command(*program))
        self.stack.callback(self.instance.end)
        self.stack.callback(self._show_log)
        return self.instance.ask(
            "open",
            url=None,
            options={
                "secret": secret,
                "discovery": [f"{peer}:{PORT}" for peer in peers],
                "port": PORT,
                "max_entries": 100_000,
                **options,
            },
        )

    def drop(self, *rules: str) -> None:
        """Drop what arrives here and matches one of these rules; none: drop nothing."""
        chain = ["type filter hook input priority 0", *(f"udp dport {PORT} {rule} drop" for rule in rules)]
        # The table is made before it is deleted, since there may be none yet.
        table = ["table inet mesh", "delete table inet mesh", "table inet mesh {", "chain in {", *chain, "}", "}", ""]
        self.run("nft", "-f", "-", stdin="\n".join(table))

    def drop_multicast(self) -> None:
        """Let no multicast arrive here."""
        rules = "table inet quiet { chain in { type filter hook input priority 0; ip daddr 224.0.0.0/4 drop; }; }"
        self.run("nft", "-f", "-", stdin=rules)

    def lose(self, percent: int) -> None:
        """Drop so many of 100 datagrams that arrive, by chance."""
        self.drop(f"numgen random mod 100 < {percent}")

    def _show_log(self) -> None:
        for line in self.instance.log:
            print(f"{self.instance.name}: {line}")


class Mesh:
    """The hosts, and what is asked of all of them.

    Attributes:
        hosts: with an instance each, number 1 first.
    """

    def __init__(self, network: Network[MeshHost], size: int) -> None:
        self._secret = secrets.token_hex(16)
        self._addresses = [f"10.9.0.{number}" for number in range(1, size + 1)]
        self.hosts = [network.host().address(f"{address}/24") for address in self._addresses]
        self._started = 0

    def start(self, count: int) -> None:
        """Start so many more, and wait until all have met."""
        first, self._started = self._started, self._started + count
        opened = [
            host.start(number, self._secret, self._addresses)
            for number, host in enumerate(self.hosts[first : self._started], first + 1)
        ]
        for pending in opened:
            pending.result(30)
        for host in self.hosts[: self._started]:
            host.instance.call("reach", mode="memory", peers=self._started - 1, timeout=10)

    def add(self) -> float:
        """Start one more, and let it open its cache; when it began to."""
        self._started += 1
        host = self.hosts[self._started - 1]
        began = host.start(self._started, self._secret, self._addresses).result(30)["began"]
        return float(began)

    def partition(self, *sides: Sequence[int]) -> None:
        """Let nothing pass between these groups of hosts, given by their places."""
        for side in sides:
            others = [self._addresses[place] for other in sides if other is not side for place in other]
            for place in side:
                self.hosts[place].drop(f"ip saddr {{ {', '.join(others)} }}")

    def heal(self) -> float:
        """Let everything pass; when that was."""
        for host in self.hosts:
            host.drop()
        return time.monotonic()

    def loads(self, *places: int, sets: int, rate: float) -> list[Pending]:
        """Let these hosts write at once."""
        return [
            self.hosts[place].instance.ask("load", me=place, neighbour=(place + 1) % 3, sets=sets, rate=rate)
            for place in places
        ]

    def agree(self, since: float, within: float) -> float:
        """Wait until all hold the same; how long after ``since`` that was, in seconds."""
        instances = [host.instance for host in self.hosts[: self._started]]
        while True:
            told = [pending.result() for pending in [instance.ask("root") for instance in instances]]
            if len({each["root"] for each in told}) == 1:
                break
            if min(each["at"] for each in told) - since > within:
                pytest.fail(f"no agreement within {within} s: {self._differences()}")
            time.sleep(0.02)
        assert len({instance.call("digest")["hash"] for instance in instances}) == 1, self._differences()
        return float(max(each["at"] for each in told) - since)

    def everything(self) -> dict[str, Any]:
        """What the first holds."""
        return dict(self.hosts[0].instance.call("everything"))

    def counters(self) -> list[dict[str, Any]]:
        """What each mesh has counted."""
        return [host.instance.call("stats")["mesh"] for host in self.hosts[: self._started]]

    def _differences(self) -> str:
        all_values = [host.instance.call("everything") for host in self.hosts[: self._started]]
        keys = {key for values in all_values for key in values}
        odd = sorted(key for key in keys if len({values.get(key) for values in all_values}) > 1)
        some = {key: [values.get(key) for values in all_values] for key in odd[:5]}
        return f"{len(odd)} of {len(keys)} keys, such as {some}; {self.counters()}"
