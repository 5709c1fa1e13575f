"""More than one server on loopback: a master with replicas and sentinels, and a Redis Cluster.

Both fail over within a second or two, far sooner than one would want in production, so that a test need not wait.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..redis.cluster_map import OwnSlots
from .ports import ReservedPort
from .server import Certificates, RedisServer

if TYPE_CHECKING:
    from typing import Self

__all__ = ["ClusterDeployment", "SentinelDeployment"]

_SERVICE = "mymaster"
_PATIENCE = 20.0
_SLOTS = 16_384
_MASTERS = 3
_ELECTION_REMEMBERED = 4.5
_CLUSTER_OPTIONS = (
    *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "500"),
    *(
        "--cluster-announce-ip",
        "127.0.0.1",
        "--repl-diskless-sync-delay",
        "0",
        "--cluster-replica-validity-factor",
        "0",
    ),
)


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
        tls: for all of them to speak TLS, among each other, too; None: they speak none.
    """

    def __init__(
        self, *, arguments: Sequence[str] = (), program: Path | None = None, tls: Certificates | None = None
    ) -> None:
        if tls is not None:
            arguments = ("--tls-replication", "yes", *arguments)
        first = RedisServer(arguments=("--repl-diskless-sync-delay", "0", *arguments), program=program, tls=tls)
        master = f"{first.host} {first.service_port}"
        second = RedisServer(arguments=(*first.arguments, "--replicaof", master), program=program, tls=tls)
        self.servers = (first, second)
        self._tls = tls
        # One notices later than the others: where three stand for leader at once, each votes for itself, and all wait.
        self.sentinels = tuple(_Sentinel(first, program, down_after_ms) for down_after_ms in (800, 800, 2000))

    @property
    def url(self) -> str:
        """For example ``redis+sentinel://127.0.0.1:40001,127.0.0.1:40002,127.0.0.1:40003/mymaster/0``."""
        places = ",".join(f"{sentinel.host}:{sentinel.service_port}" for sentinel in self.sentinels)
        path = f"{places}/{_SERVICE}/0"
        return f"redis+sentinel://{path}" if self._tls is None else f"rediss+sentinel://{path}?{self._tls.url_option}"

    @property
    def master(self) -> RedisServer:
        """The server that all sentinels that run agree on."""
        (port,) = self._named()
        return next(server for server in self.servers if server.service_port == port)

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
        others = [{server.service_port} for server in self.servers if server is not old]
        _wait(lambda: self._named() in others, "no replica was promoted")

    def fail_over(self) -> None:
        """Let master and replica change places, as before maintenance.  Both go on running."""
        old = self.master
        # A master that a sentinel was not told of it makes a replica again, after four times this.
        for sentinel in self.sentinels:
            sentinel.set_period("publish-period", 500)
        ask_again_at = 0.0

        def is_promoted() -> bool:
            nonlocal ask_again_at
            if self._named() in others:
                return True
            if time.monotonic() > ask_again_at:  # one that takes too long is given up
                ask_again_at = time.monotonic() + 2
                self._ask_to_fail_over()
            return False

        others = [{server.service_port} for server in self.servers if server is not old]
        _wait(is_promoted, "no replica was promoted")
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

    def _ask_to_fail_over(self) -> None:
        self.sentinels[0].client().execute_command("SENTINEL", "FAILOVER", _SERVICE)  # type: ignore[no-untyped-call]

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
        ports = [server.service_port for server in self.servers]
        if agreed not in ({tuple(ports)}, {tuple(reversed(ports))}):
            return False
        roles = {server.service_port: server.client().role()[0] for server in self.servers}
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
        super().__init__(program=program, tls=master.tls)
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
                *(f"{name} {value}" for name, value in self._tls_options().items()),
                f"tls-replication {'no' if self.tls is None else 'yes'}",
                f"sentinel monitor {_SERVICE} {self._master.host} {self._master.service_port} 2",
                f"sentinel down-after-milliseconds {_SERVICE} {self._down_after_ms}",
                f"sentinel failover-timeout {_SERVICE} 1500",
            ]
            configuration.write_text("\n".join(lines) + "\n")
        return [str(program), str(configuration), "--sentinel", "--dir", str(self.directory)]


class ClusterDeployment:
    """A Redis Cluster: three masters with a third of the slots each, and a replica of each.

    ::

        with ClusterDeployment() as cluster:
            cache = MeshCache(cluster.url)
            ...
            cluster.owner(b"gateway:user:1").kill()     # its replica is promoted within a second or two
            ...
            cluster.heal()                              # the old master is back, as a replica

    Args:
        arguments: more options of the command line of all servers.
        program: the server program; None for the one found.
        tls: for all of them to speak TLS, among each other, too; None: they speak none.
    """

    def __init__(
        self, *, arguments: Sequence[str] = (), program: Path | None = None, tls: Certificates | None = None
    ) -> None:
        if tls is not None:
            arguments = ("--tls-cluster", "yes", "--tls-replication", "yes", *arguments)
        self._tls = tls
        self._buses = [ReservedPort() for _ in range(2 * _MASTERS)]
        self.servers = tuple(
            RedisServer(
                arguments=(*_CLUSTER_OPTIONS, "--cluster-port", str(bus.port), *arguments), program=program, tls=tls
            )
            for bus in self._buses
        )
        self._last_election = -inf
        self._ids = [secrets.token_hex(20) for _ in self.servers]
        for number in range(len(self.servers)):
            self._introduce(number)

    @property
    def url(self) -> str:
        """For example ``redis+cluster://127.0.0.1:40001,127.0.0.1:40002``: two of the nodes."""
        places = ",".join(f"{server.host}:{server.service_port}" for server in self.servers[:2])
        return f"redis+cluster://{places}" if self._tls is None else f"rediss+cluster://{places}?{self._tls.url_option}"

    @property
    def masters(self) -> list[RedisServer]:
        """The servers that have slots, as the first master that runs knows it; in the order of their slots."""
        slots = sorted(self._ask("CLUSTER", "SLOTS"), key=lambda entry: int(entry[0]))
        return list(dict.fromkeys(self._master_of(entry) for entry in slots))

    def owner(self, key: bytes) -> RedisServer:
        """The master that has this key's slot."""
        return self.owner_of_slot(self._slot(key))

    def owner_of_slot(self, slot: int) -> RedisServer:
        """The master that has this slot: of those that say so themselves, the one of the highest epoch."""
        claims = []
        for number, server in enumerate(self.servers):
            if server.running and not server.paused:
                own = self._own_slots(server)
                if slot in own.slots:
                    claims.append((own.epoch, number))
        if claims:
            return self.servers[max(claims)[1]]
        (entry,) = (entry for entry in self._ask("CLUSTER", "SLOTS") if entry[0] <= slot <= entry[1])
        return self._master_of(entry)

    def replica(self, master: RedisServer) -> RedisServer:
        """The replica of a master."""
        return next(
            server
            for server in self.servers
            if server.running and _replication(server).get("master_port") == master.service_port
        )

    def start(self) -> None:
        """Start all of them, and wait until they serve every slot; two seconds, which a master waits after its start."""
        for server in self.servers:
            server.start()
        _wait(self._is_whole, "the nodes do not become a cluster")

    def heal(self) -> None:
        """Start what was killed, wait until every slot is served and every master has a replica, and end moves half done."""
        for server in self.servers:
            server.resume()
            server.start()
        remind_at = time.monotonic() + 2

        def is_whole() -> bool:
            nonlocal remind_at
            if self._is_whole():
                return True
            if time.monotonic() > remind_at:
                # Of two with the same epoch one takes a higher one; who believed that one once believes it for ever.
                remind_at = time.monotonic() + 2
                for master in self.masters:
                    _send(master, "CLUSTER", "BUMPEPOCH")
            return False

        _wait(is_whole, "the nodes do not become a cluster")
        for server in self.servers:
            for slot in self._moving(server):
                _send(server, "CLUSTER", "SETSLOT", slot, "STABLE")

    def wait_for_new_owner(self, key: bytes, old: RedisServer) -> None:
        """Wait until every node that runs knows that another than ``old`` has this key, and serves what it has."""
        slot = self._slot(key)

        def knows(server: RedisServer) -> bool:
            (entry,) = (entry for entry in _send(server, "CLUSTER", "SLOTS") if entry[0] <= slot <= entry[1])
            return self._master_of(entry) is not old and b"cluster_state:ok" in _send(server, "CLUSTER", "INFO")

        _wait(
            lambda: all(knows(server) for server in self.servers if server.running and not server.paused),
            "no replica was promoted",
        )
        self._last_election = time.monotonic()

    def fail_over(self, master: RedisServer) -> None:
        """Let a master and its replica change places, as before maintenance.  Both go on running."""
        # A replica that won an election less than this ago, and has lost its place since, believes at the next one that it has
        # won already; nobody else does.
        time.sleep(max(0.0, self._last_election + _ELECTION_REMEMBERED - time.monotonic()))
        replica = self.replica(master)
        ask_again_at = 0.0

        def is_promoted() -> bool:
            nonlocal ask_again_at
            if replica.client().role()[0] == b"master":
                return self._is_whole()
            if time.monotonic() > ask_again_at:  # the others vote only once in a while
                _send(replica, "CLUSTER", "FAILOVER")
                ask_again_at = time.monotonic() + 1
            return False

        _wait(is_promoted, "the replica was not promoted")
        self._last_election = time.monotonic()

    def begin_move(self, slot: int, target: RedisServer) -> None:
        """Begin to move a slot: from now on the old owner asks clients to look for missing keys at the target."""
        source = self.owner_of_slot(slot)
        _send(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self._id(source))
        _send(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self._id(target))

    def move_keys(self, slot: int, target: RedisServer, *keys: bytes) -> None:
        """Move some keys of the slot; none named: all."""
        source = self.owner_of_slot(slot)
        while some := list(keys) or _send(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
            _send(source, "MIGRATE", target.host, target.service_port, "", 0, 5000, "REPLACE", "KEYS", *some)
            if keys:
                return

    def end_move(self, slot: int, target: RedisServer) -> None:
        """The target is the owner from now on."""
        source = self.owner_of_slot(slot)
        # Or its own next epoch, which is the highest that it knows and one, would not be the highest of all.
        _wait(
            lambda: self._epoch_known_to(target, source) >= self._own_slots(source).epoch,
            "the target does not hear of the source's epoch",
        )
        for server in (target, source, *self.masters):
            _send(server, "CLUSTER", "SETSLOT", slot, "NODE", self._id(target))

    def close(self) -> None:
        """End all of them."""
        for server in self.servers:
            server.close()
        for bus in self._buses:
            bus.release()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _introduce(self, me: int) -> None:
        """Write down for one node who all are: no handshakes, and no wait for the news to spread."""
        lines = []
        for number, (server, bus) in enumerate(zip(self.servers, self._buses, strict=True)):
            master = number % _MASTERS
            kind, whose, slots = "slave", self._ids[master], ""
            if number == master:
                first, last = _SLOTS * master // _MASTERS, _SLOTS * (master + 1) // _MASTERS - 1
                kind, whose, slots = "master", "-", f" {first}-{last}"
            flags = f"myself,{kind}" if number == me else kind
            place = f"{server.host}:{server.service_port}@{bus.port}"
            lines.append(f"{self._ids[number]} {place} {flags} {whose} 0 0 {master + 1} connected{slots}")
        lines.append(f"vars currentEpoch {_MASTERS} lastVoteEpoch 0")
        (self.servers[me].directory / "nodes.conf").write_text("\n".join(lines) + "\n")

    def _is_whole(self) -> bool:
        if any(b"cluster_state:ok" not in _send(server, "CLUSTER", "INFO") for server in self.servers):
            return False
        replications = [_replication(server) for server in self.servers]
        linked = [state for state in replications if state.get("master_link_status") == "up"]
        views = {self._slots_known_to(server) for server in self.servers}
        return len(views) == 1 and len({state["master_port"] for state in linked}) == _MASTERS

    @staticmethod
    def _slots_known_to(server: RedisServer) -> frozenset[tuple[bytes, ...]]:
        """Of each master its id, its epoch and its slots.  Where all know the same, no old news can change it any more."""
        lines = [line.split() for line in _send(server, "CLUSTER", "NODES").splitlines()]
        return frozenset(
            (words[0], words[6], *(word for word in words[8:] if not word.startswith(b"[")))
            for words in lines
            if words[8:]
        )

    @staticmethod
    def _own_slots(server: RedisServer) -> OwnSlots:
        text: bytes = _send(server, "CLUSTER", "NODES")
        return OwnSlots.read(text.decode(), (server.host, server.service_port), lambda address: address)

    def _epoch_known_to(self, server: RedisServer, other: RedisServer) -> int:
        lines = (line.split() for line in _send(server, "CLUSTER", "NODES").decode().splitlines())
        return next(int(words[6]) for words in lines if words[0] == self._id(other))

    @staticmethod
    def _moving(server: RedisServer) -> list[int]:
        """The slots that this server gives or takes."""
        (own,) = (line for line in _send(server, "CLUSTER", "NODES").splitlines() if b"myself" in line)
        return [int(word[1:].partition(b"-")[0]) for word in own.split()[8:] if word.startswith(b"[")]

    def _master_of(self, entry: Any) -> RedisServer:
        """The master in one entry of the reply to CLUSTER SLOTS."""
        return self.servers[self._ids.index(entry[2][2].decode())]

    def _id(self, server: RedisServer) -> str:
        return self._ids[self.servers.index(server)]

    def _ask(self, *command: str) -> Any:
        """Ask a master, if one answers: replicas hear last of slots that move."""
        answering = [server for server in self.servers if server.running and not server.paused]
        masters = (server for server in answering if server.client().role()[0] == b"master")
        return _send(next(masters, answering[0]), *command)

    @staticmethod
    def _slot(key: bytes) -> int:
        from redis.crc import key_slot

        return key_slot(key)


def _send(server: RedisServer, *command: Any) -> Any:
    """One command; the reply as the server gives it, since redis-py has no words for the parts of a command by themselves."""
    return server.client().execute_command(*command)  # type: ignore[no-untyped-call]


def _replication(server: RedisServer) -> dict[str, Any]:
    state: Any = server.client().info("replication")
    return dict(state)


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
