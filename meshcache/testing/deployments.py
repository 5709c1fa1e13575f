"""More than one server on loopback: a master with replicas and sentinels, and a Redis Cluster.

Both fail over within a second or two, far sooner than one would want in production, so that a test need not wait.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .server import RedisServer

if TYPE_CHECKING:
    from typing import Self

__all__ = ["SentinelDeployment"]

_SERVICE = "mymaster"
_PATIENCE = 20.0


class SentinelDeployment:
    """A master, a replica and three sentinels.

    ::

        with SentinelDeployment() as deployment:
            cache = MeshCache(deployment.url)
            ...
            deployment.master.kill()    # the replica is promoted within a few seconds
            ...
            deployment.heal()           # the old master is back, as a replica

    Args:
        arguments: more options of the command line of both servers.
        program: the server program; None for the one found.
    """

    def __init__(self, *, arguments: Sequence[str] = (), program: Path | None = None) -> None:
        first = RedisServer(arguments=("--repl-diskless-sync-delay", "0", *arguments), program=program)
        second = RedisServer(arguments=(*first.arguments, "--replicaof", f"{first.host} {first.port}"), program=program)
        self.servers = (first, second)
        # One notices later than the others: where three stand for leader at once, each votes for itself, and all wait.
        self.sentinels = tuple(_Sentinel(first, program, down_after_ms) for down_after_ms in (500, 500, 1500))

    @property
    def url(self) -> str:
        """For example ``redis+sentinel://127.0.0.1:40001,127.0.0.1:40002,127.0.0.1:40003/mymaster/0``."""
        places = ",".join(f"{sentinel.host}:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{places}/{_SERVICE}/0"

    @property
    def master(self) -> RedisServer:
        """The server that all sentinels that run agree on."""
        (port,) = self._named()
        return next(server for server in self.servers if server.port == port)

    @property
    def replica(self) -> RedisServer:
        """The other one."""
        master = self.master
        return next(server for server in self.servers if server is not master)

    def start(self) -> None:
        """Start all of them, and wait until the sentinels know each other and the replica."""
        for server in (*self.servers, *self.sentinels):
            server.start()
        _wait(self._is_whole, "the sentinels do not find each other")

    def heal(self) -> None:
        """Start what was killed, and wait until one of the servers is the replica of the other."""
        for server in (*self.servers, *self.sentinels):
            server.resume()
            server.start()
        _wait(self._is_whole, "the servers do not become master and replica")

    def wait_for_new_master(self, old: RedisServer) -> None:
        """Wait until all sentinels name another master than ``old``."""
        others = [{server.port} for server in self.servers if server is not old]
        _wait(lambda: self._named() in others, "no replica was promoted")

    def fail_over(self) -> None:
        """Let master and replica change places, as before maintenance.  Both go on running."""
        old = self.master
        # A master that a sentinel was not told of it makes a replica again, after four times this.
        for sentinel in self.sentinels:
            sentinel.set_period("publish-period", 500)
        _wait(self._ask_to_fail_over, "the sentinels find no replica to promote")
        self.wait_for_new_master(old)
        for sentinel in self.sentinels:
            sentinel.set_period("publish-period", 100)
        _wait(self._is_whole, "the servers do not become master and replica")

    def close(self) -> None:
        """End all of them."""
        for server in (*self.sentinels, *self.servers):
            server.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _named(self) -> set[int]:
        """The ports that the sentinels that run give of the master."""
        return {_view(sentinel)[0]["port"] for sentinel in self.sentinels if sentinel.running}

    def _ask_to_fail_over(self) -> bool:
        return bool(self.sentinels[0].client().execute_command("SENTINEL", "FAILOVER", _SERVICE))  # type: ignore[no-untyped-call]

    def _is_whole(self) -> bool:
        """Whether the servers are master and replica, and every sentinel would promote the replica now."""
        agreed = {
            (view["port"], *(replica["port"] for replica in replicas))
            for view, replicas in map(_view, self.sentinels)
            if view["flags"] == "master"
            and view["num-other-sentinels"] == len(self.sentinels) - 1
            and all(
                replica["flags"] == "slave" and replica["master-link-status"] == "ok" and replica["info-refresh"] < 500
                for replica in replicas
            )
        }
        ports = [server.port for server in self.servers]
        if agreed not in ({tuple(ports)}, {tuple(reversed(ports))}):
            return False
        roles = {server.port: server.client().role()[0] for server in self.servers}
        return [roles[port] for port in agreed.pop()] == [b"master", b"slave"]


def _view(sentinel: RedisServer) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What a sentinel knows of the master and its replicas."""
    client = sentinel.client()
    master: Any = client.sentinel_master(_SERVICE)
    replicas: Any = client.sentinel_slaves(_SERVICE)
    return master, replicas


class _Sentinel(RedisServer):
    """One sentinel; what it learns it writes into its configuration, which :meth:`start` does not overwrite."""

    def __init__(self, master: RedisServer, program: Path | None, down_after_ms: int) -> None:
        super().__init__(program=program)
        self._master = master
        self._down_after_ms = down_after_ms

    def start(self) -> None:
        super().start()
        # What is asked or told once in some seconds is so ten times a second.  A ping-period of 100 would be too short:
        # five times that is how old INFO of the replica may be, which is asked for once a second while the master is down.
        for period in ("info-period", "ask-period", "publish-period"):
            self.set_period(period, 100)
        self.set_period("ping-period", 250)

    def set_period(self, name: str, milliseconds: int) -> None:
        """How often the sentinel does something."""
        self.client().execute_command("SENTINEL", "DEBUG", name, milliseconds)  # type: ignore[no-untyped-call]

    def _command_line(self, program: Path) -> list[str]:
        configuration = self.directory / "sentinel.conf"
        if not configuration.exists():
            lines = [
                f"port {self.port}",
                f"bind {self.host}",
                f"sentinel monitor {_SERVICE} {self._master.host} {self._master.port} 2",
                f"sentinel down-after-milliseconds {_SERVICE} {self._down_after_ms}",
                f"sentinel failover-timeout {_SERVICE} 1500",
            ]
            configuration.write_text("\n".join(lines) + "\n")
        return [str(program), str(configuration), "--sentinel", "--dir", str(self.directory)]


def _wait(condition: Callable[[], bool], problem: str) -> None:
    import redis

    deadline = time.monotonic() + _PATIENCE
    while True:
        with contextlib.suppress(redis.RedisError):
            if condition():
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{problem} within {_PATIENCE:g} s")
        time.sleep(0.02)
