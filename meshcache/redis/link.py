"""How commands reach Redis, and how what goes wrong on the way is told apart.  Knows no key, no mode and no tier.

A :class:`Link` promises:

- No call waits longer than its ``timeout``: for a free connection, name resolution, connecting, authentication, and the
  reply.  Then :class:`~meshcache.errors.Unavailable` with ``timed_out``.
- A connection that is refused, reset or closed costs one immediate second try on a fresh connection, within the same time,
  and all idle connections are given up with it: after a restart of the server none of them lives.
- **The second try sends the commands again, and its answer counts.**  If only the reply of the first was lost, Redis runs
  them twice.  That is nothing to a plain SET or UNLINK; an UNLINK then tells of fewer keys; a SET with NX may then answer
  "there was one" though it was this very call that wrote it.  It never answers "written" when another's value stands.
- A connection with a reply outstanding is never used again.
- The caller's own cancellation passes through untouched.
- Nothing is retried beyond that, and nothing is logged.

redis-py is imported by the two implementations only; which of them is used is decided in ``connect``.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from ..errors import RedisCommandError, Unavailable

__all__ = [
    "CONNECTIONS",
    "AnyServer",
    "Argument",
    "ClientId",
    "Command",
    "Identity",
    "Link",
    "Redirected",
    "Server",
    "Shard",
    "may_try_again",
    "no_answer",
    "outage",
    "pipelines",
    "refusal",
]

Argument = str | bytes | int
Command = tuple[Argument, ...]

CONNECTIONS: Final = 32
"""How many connections a link opens at most.  One event loop keeps about so many busy."""


class Link(Protocol):
    """A way to Redis: to one server, or to a cluster of them.

    Attributes:
        identity: which server it must be, and which connections were given up.
    """

    identity: Identity

    @property
    def in_flight(self) -> int:
        """Commands or pipelines under way now, those that wait for a connection included."""
        ...

    async def execute(self, *command: Argument) -> Any:
        """One command; its reply as Redis gives it: bytes, int, None, or a list of these.

        Raises:
            RedisCommandError: Redis refuses this command for good.
            Unavailable: Redis cannot be reached, is too slow, or cannot serve now.
        """
        ...

    async def execute_many(self, commands: Sequence[Command]) -> list[Any]:
        """Many commands in one round trip; their replies in order.  Not a transaction.

        A command that Redis refuses for good has a ``RedisCommandError`` *in its place*.

        Raises:
            Unavailable: as :meth:`execute`, for the whole; any of the commands may have been run.
        """
        ...

    async def shards(self) -> Sequence[Shard]:
        """The servers that hold the keys now: of one server, that; of a cluster, its masters.

        Raises:
            Unavailable: that cannot be found out, or nobody holds some of the keys.
        """
        ...

    async def aclose(self) -> None:
        """Give up the connections.  Later calls raise ``Unavailable``."""
        ...


class Shard(NamedTuple):
    """One of the servers that hold the keys.

    Attributes:
        link: the way to this server, for what concerns it alone: SCAN, INFO, CLIENT.
        slots: the hash slots that it has; None for all.
        taking: those that it is getting from another server.
        epoch: changes when a slot comes back to it that it had given away.
    """

    link: Link
    slots: frozenset[int] | None = None
    taking: frozenset[int] = frozenset()
    epoch: int = 0

    def takes_from(self, other: Shard) -> bool:
        """Whether keys may be on their way from the other server to this one."""
        return other.slots is not None and not self.taking.isdisjoint(other.slots)


# -- who answers


class Server(NamedTuple):
    """The server that answered.

    Attributes:
        run_id: 40 hexadecimal digits, new at every start of the server; empty if INFO is not permitted.  Of a cluster, those
            of all masters, with commas between them.
        version: for example ``"7.2.4"``; empty if INFO is not permitted.
        software: ``"redis"`` or ``"valkey"``.
    """

    run_id: str = ""
    version: str = ""
    software: str = "redis"

    @classmethod
    def of(cls, info: bytes) -> Server:
        """By the reply to ``INFO server``."""
        lines = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
        fields = {name: value for name, _, value in lines}
        valkey = fields.get("valkey_version")  # a Valkey also calls itself some Redis, for old clients
        version = valkey or fields.get("redis_version", "")
        return cls(fields.get("run_id", ""), version, "valkey" if valkey else "redis")


class ClientId(NamedTuple):
    """One connection, as a server knows it.

    Attributes:
        run_id: that of the server; empty if it is not known.
        number: its client id there.
    """

    run_id: str
    number: int


class Identity:
    """Which server a link talks to, and which of its connections were given up while it still had something to do for them.

    A server that was started anew may have forgotten its last seconds: no command may run there before somebody has seen to
    that.  And what was sent on a connection that was given up may still arrive, long after.

    Attributes:
        client_name: what servers call every connection in ``CLIENT LIST``, so that others can end them once this instance is
            gone; empty: nothing.
        expected: the run id that every new connection must find, or several with commas between them; None: any.
        abandoned: the connections given up with a reply outstanding; whoever kills them takes them out.
    """

    def __init__(self, server: str) -> None:
        self.client_name = ""
        self.expected: str | None = None
        self.abandoned: list[ClientId] = []
        self._server = server

    @property
    def greeting(self) -> list[Command]:
        """What every new connection sends first."""
        naming: list[Command] = [("CLIENT", "SETNAME", self.client_name)] if self.client_name else []
        return [*naming, ("CLIENT", "ID"), ("INFO", "server")]

    def check(self, replies: Sequence[Any]) -> ClientId | None:
        """Who a new connection is, by the replies to :attr:`greeting`; None if the user may not know it.

        Raises:
            Unavailable: it is not the server that was expected.
        """
        *_, number, info = replies
        found = "" if isinstance(info, RedisCommandError) else Server.of(info).run_id
        if self.expected and found and found not in self.expected.split(","):
            raise Unavailable(f"{self._server} was started anew, or is another server than before")
        return ClientId(found, number) if isinstance(number, int) else None

    def abandon(self, client_id: ClientId | None) -> None:
        """A connection was given up with a reply outstanding."""
        if client_id is not None:
            self.abandoned.append(client_id)


class AnyServer(Identity):
    """Of a link that only asks who is who: any server will do, and nothing that is sent there need be ended."""

    def abandon(self, client_id: ClientId | None) -> None:
        """Not remembered."""


# -- pipelines

_PIPELINE_COMMANDS: Final = 500
_PIPELINE_BYTES: Final = 2**20


def pipelines(commands: Iterable[Command]) -> Iterator[list[Command]]:
    """Cut commands into runs of at most 500 and about 1 MiB, so that no round trip grows without bound."""
    run: list[Command] = []
    size = 0
    for command in commands:
        length = sum(len(argument) for argument in command if not isinstance(argument, int))
        if run and (len(run) >= _PIPELINE_COMMANDS or size + length > _PIPELINE_BYTES):
            yield run
            run, size = [], 0
        run.append(command)
        size += length
    if run:
        yield run


# -- what went wrong

_CANNOT_SERVE: Final[Mapping[str, str]] = {
    "LOADING": "still loads its data",
    "READONLY": "is a replica that takes no writes",
    "MASTERDOWN": "is a replica that lost its primary",
    "CLUSTERDOWN": "belongs to a cluster that is down",
    "TRYAGAIN": "is moving keys within its cluster",
    "MISCONF": "cannot save to disk, and so refuses writes",
    "OOM": "has no memory left",
    "BUSY": "is blocked by a script",
    "UNKILLABLE": "is blocked by a script",
    "NOREPLICAS": "has too few replicas to take writes",
    "NOAUTH": "wants a password",
    "WRONGPASS": "does not take this user name and password",
    "DENIED": "is in protected mode",
    "MOVED": "is a node of a Redis Cluster, which needs redis+cluster://",
    "ASK": "is a node of a Redis Cluster, which needs redis+cluster://",
    "CROSSSLOT": "is a node of a Redis Cluster, which needs redis+cluster://",
}
"""First words of error replies of a server that answers but cannot serve now: an outage, not the caller's error."""

_REASONS: Final[Sequence[tuple[type[OSError], str]]] = (
    (ConnectionRefusedError, "connection refused"),
    (ConnectionError, "connection reset"),
    (ssl.SSLCertVerificationError, "its TLS certificate is not trusted ({0.verify_message})"),
    (ssl.SSLError, "TLS failed ({0.reason})"),
    (socket.gaierror, "the host name cannot be resolved ({0.strerror})"),
)
"""Errors of the operating system in plain words; the first that fits."""

_REDIRECTIONS: Final = ("MOVED", "ASK", "TRYAGAIN")

_FULL: Final = "max number of clients"
_IN_A_SCRIPT: Final = re.compile(r"^ERR Error running script.*?: -([A-Z]+) ")  # Redis 6 wraps what a script met
_SHOWN_CHARACTERS: Final = 200


class Redirected(Unavailable):
    """A node of a cluster says that another is to be asked, or the same a moment later.

    Attributes:
        code: ``"MOVED"``, ``"ASK"`` or ``"TRYAGAIN"``.
        slot: the hash slot concerned; None for ``TRYAGAIN``.
        place: the other node as ``host:port``, where the host may be missing; empty for ``TRYAGAIN``.
    """

    def __init__(self, cause: str, code: str, slot: int | None, place: str) -> None:
        super().__init__(cause)
        self.code = code
        self.slot = slot
        self.place = place


def refusal(reply: str, server: str) -> Unavailable | RedisCommandError:
    """What an error reply means.

    Args:
        reply: the reply's text with its first word, without the leading ``-``.
        server: what the server is called in the cause.
    """
    wrapped = _IN_A_SCRIPT.match(reply)
    code = wrapped.group(1) if wrapped else reply.partition(" ")[0]
    if code in _REDIRECTIONS and not wrapped:
        _, slot, place, *_ = (*reply.split(), "", "")
        number = int(slot) if code != "TRYAGAIN" and slot.isdigit() else None
        return Redirected(f"{server} {_CANNOT_SERVE[code]} ({code})", code, number, "" if number is None else place)
    if code in _CANNOT_SERVE:
        return Unavailable(f"{server} {_CANNOT_SERVE[code]} ({code})")
    if _FULL in reply:
        return Unavailable(f"{server} has reached its limit of clients ({_FULL})")
    return RedisCommandError(_presentable(reply))


def outage(error: BaseException, server: str) -> Unavailable:
    """What a broken connection means; the cause is the nearest error of the operating system, in plain words."""
    return Unavailable(f"{server}: {_reason(_system_error(error), error)}")


def no_answer(timeout: float, server: str) -> Unavailable:
    """A call that waited its whole time."""
    return Unavailable(f"{server} did not answer within {timeout:g} s", timed_out=True)


def may_try_again(error: BaseException) -> bool:
    """Whether a fresh connection may mend it: not what name resolution or TLS refuse."""
    return not isinstance(_system_error(error), socket.gaierror | ssl.SSLError)


def _system_error(error: BaseException) -> OSError | None:
    link: BaseException | None = error
    while link is not None and not isinstance(link, OSError):
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return link


def _reason(found: OSError | None, error: BaseException) -> str:
    if found is None:
        return "connection closed" if "closed" in str(error) else _presentable(str(error) or type(error).__name__)
    for kind, words in _REASONS:
        if isinstance(found, kind):
            return _presentable(words.format(found))
    return _presentable(found.strerror or str(found))


def _presentable(text: str) -> str:
    """One line, and without the arguments that Redis quotes: they may be values."""
    line = " ".join(text.partition(", with args beginning with")[0].split())
    return line if len(line) <= _SHOWN_CHARACTERS else line[:_SHOWN_CHARACTERS] + "…"
