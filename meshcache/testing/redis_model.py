"""A model of Redis: what its commands do to the data and what they answer, as far as meshcache uses them.

It knows no sockets and no clock: the time is passed in, and so is what a client's connection is.  The scripts of
``meshcache/redis`` are ported by hand.  ``tests/io/testing`` runs the same commands against it and against a real server.

What may not enter: I/O, faults.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from binascii import crc32
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from random import Random
from typing import Any, Final, Protocol

from ..glob import matcher
from ..redis.scripts import Script

__all__ = ["Client", "RedisModel", "ReplyError", "Simple", "Snapshot"]

Value = bytes | dict[bytes, bytes]
Snapshot = dict[bytes, tuple[Value, int | None]]
"""All data: each key with its value and the ms at which it expires."""

_INTEGER: Final = re.compile(rb"-?[1-9][0-9]*|0")
_LARGEST: Final = 2**63 - 1
_RUN_ID_BYTES: Final = 20
_WHILE_LOADING: Final = frozenset({b"CLIENT", b"INFO", b"HELLO", b"SELECT"})
_WRONG_TYPE: Final = "WRONGTYPE Operation against a key holding the wrong kind of value"


class ReplyError(Exception):
    """An error reply; its text begins with the code."""


class Simple(bytes):
    """A simple string, such as OK."""


_OK: Final = Simple(b"OK")


class Client(Protocol):
    """What a client's connection is to the server.

    Attributes:
        client_id: its number.
        resp: 2 or 3.
        prefix: it is told of changes of keys that begin with this; None: it is not.
        name: what it calls itself.
        since_ms: when it was made.
    """

    client_id: int
    since_ms: int
    name: bytes
    resp: int
    prefix: bytes | None

    def kill(self) -> None:
        """The server closes it."""
        ...


class RedisModel:
    """One server process.

    Args:
        random: for the run id.
        now_ms: its wall clock.
        data: what it begins with.
        page: how many keys SCAN looks at, whatever COUNT says; that is only a hint, in Redis too.

    Attributes:
        run_id: new for each process.
        data: what it holds; keys that have expired may be among it.
        clients: the connections.
        changed: the keys that were changed since this was emptied, each with the client that changed it last.
        loads_until: until then, in ms, it still loads its data.
    """

    def __init__(
        self, random: Random, now_ms: Callable[[], int], data: Snapshot | None = None, *, page: int = 1_000_000
    ) -> None:
        self.run_id = random.randbytes(_RUN_ID_BYTES).hex()
        self.data: Snapshot = dict(data or {})
        self.clients: dict[int, Client] = {}
        self.changed: dict[bytes, Client | None] = {}
        self.loads_until = 0
        self._expiring = [(ends, key) for key, (_, ends) in self.data.items() if ends is not None]
        heapq.heapify(self._expiring)
        self._now_ms = now_ms
        self._page = page
        self._last_client = 2  # Redis has used some for itself
        self._scripts: set[bytes] = set()

    def snapshot(self) -> Snapshot:
        """A copy of all data."""
        return dict(self.data)  # values are never changed in place

    def next_client_id(self) -> int:
        """The number of a new connection."""
        self._last_client += 1
        return self._last_client

    def execute(self, command: Sequence[bytes], client: Client) -> Any:
        """The reply to one command: bytes, int, None, :class:`Simple`, a list or dict of these, or a :class:`ReplyError`."""
        try:
            return self._command(command[0].upper())(self, client, *command[1:])
        except ReplyError as error:
            return error

    def _command(self, name: bytes) -> Callable[..., Any]:
        if self.loads_until and name not in _WHILE_LOADING:
            if self._now_ms() < self.loads_until:
                raise ReplyError("LOADING Redis is loading the dataset in memory")
            self.loads_until = 0
        command = _COMMANDS.get(name)
        if command is None:
            raise ReplyError(f"ERR unknown command '{name.decode(errors='replace')}'")
        return command

    def read(self, key: bytes) -> Value | None:
        """What a key holds now, without leaving a trace."""
        held = self.data.get(key)
        return None if held is None or (held[1] is not None and held[1] <= self._now_ms()) else held[0]

    @property
    def expires_next(self) -> int | None:
        """When the next key may expire, in ms; None: none ever."""
        return self._expiring[0][0] if self._expiring else None

    def expire(self) -> None:
        """Remove what has expired, as Redis does now and then: those who track are told of it."""
        while self._expiring and self._expiring[0][0] <= self._now_ms():
            self._get(heapq.heappop(self._expiring)[1])

    # -- the data

    def _get(self, key: bytes) -> Value | None:
        held = self.data.get(key)
        if held is None:
            return None
        if held[1] is not None and held[1] <= self._now_ms():
            del self.data[key]
            self.changed[key] = None
            return None
        return held[0]

    def _string(self, key: bytes) -> bytes | None:
        value = self._get(key)
        if isinstance(value, dict):
            raise ReplyError(_WRONG_TYPE)
        return value

    def _hash(self, key: bytes) -> dict[bytes, bytes]:
        value = self._get(key)
        if isinstance(value, bytes):
            raise ReplyError(_WRONG_TYPE)
        return {} if value is None else value

    def _put(self, client: Client | None, key: bytes, value: Value, expires_at: int | None) -> None:
        self.data[key] = value, expires_at
        self.changed[key] = client
        if expires_at is not None:
            heapq.heappush(self._expiring, (expires_at, key))

    def _remove(self, client: Client | None, keys: Iterable[bytes]) -> int:
        removed = 0
        for key in keys:
            if self._get(key) is not None:
                del self.data[key]
                self.changed[key] = client
                removed += 1
        return removed

    # -- strings

    def get(self, client: Client | None, key: bytes) -> bytes | None:
        """GET"""
        return self._string(key)

    def mget(self, client: Client | None, key: bytes, *keys: bytes) -> list[bytes | None]:
        """MGET"""
        values = map(self._get, (key, *keys))
        return [value if isinstance(value, bytes) else None for value in values]

    def set(self, client: Client | None, key: bytes, value: bytes, *options: bytes) -> Simple | None:
        """SET with NX, XX, PX and EX"""
        nx = xx = False
        expires_at = None
        words = iter(options)
        for word in words:
            match word.upper():
                case b"NX":
                    nx = True
                case b"XX":
                    xx = True
                case (b"PX" | b"EX") as unit:
                    amount = _integer(next(words, b"")) * (1000 if unit == b"EX" else 1)
                    if amount <= 0 or amount > _LARGEST:
                        raise ReplyError("ERR invalid expire time in 'set' command")
                    expires_at = self._now_ms() + amount
                case _:
                    raise ReplyError("ERR syntax error")
        if nx and xx:
            raise ReplyError("ERR syntax error")
        if (nx or xx) and (self._get(key) is not None) == nx:
            return None
        self._put(client, key, value, expires_at)
        return _OK

    def incrby(self, client: Client | None, key: bytes, amount: bytes) -> int:
        """INCRBY; the time to live stays"""
        value = self._string(key)
        total = (0 if value is None else _integer(value)) + _integer(amount)
        if not -_LARGEST - 1 <= total <= _LARGEST:
            raise ReplyError("ERR increment or decrement would overflow")
        self._put(client, key, b"%d" % total, self.data[key][1] if value is not None else None)
        return total

    # -- keys

    def unlink(self, client: Client | None, key: bytes, *keys: bytes) -> int:
        """UNLINK and DEL"""
        return self._remove(client, (key, *keys))

    def exists(self, client: Client | None, key: bytes, *keys: bytes) -> int:
        """EXISTS"""
        return sum(self._get(one) is not None for one in (key, *keys))

    def pttl(self, client: Client | None, key: bytes) -> int:
        """PTTL"""
        if self._get(key) is None:
            return -2
        expires_at = self.data[key][1]
        return -1 if expires_at is None else expires_at - self._now_ms()

    def pexpire(self, client: Client | None, key: bytes, amount: bytes) -> int:
        """PEXPIRE"""
        ms = _integer(amount)
        value = self._get(key)
        if value is None:
            return 0
        if ms <= 0:
            return self._remove(client, [key])
        self._put(client, key, value, self._now_ms() + ms)
        return 1

    def persist(self, client: Client | None, key: bytes) -> int:
        """PERSIST"""
        value = self._get(key)
        if value is None or self.data[key][1] is None:
            return 0
        self._put(client, key, value, None)
        return 1

    def scan(self, client: Client | None, cursor: bytes, *options: bytes) -> list[Any]:
        """SCAN.  Its order is that of a hash: what is written meanwhile may or may not be found, as in Redis."""
        words = [(word.upper(), option) for word, option in zip(options[::2], options[1::2], strict=True)]
        pattern = next((option for word, option in words if word == b"MATCH"), b"*")
        match = matcher(pattern.decode("utf-8", "surrogateescape"))
        start = _integer(cursor)
        places = sorted((crc32(key) + 1, key) for key in self.data)
        page = [place for place in places if place[0] > start]
        if len(page) > self._page:
            last = page[self._page - 1][0]
            page = [place for place in page if place[0] <= last]
            cursor = b"%d" % last if page[-1] != places[-1] else b"0"
        else:
            cursor = b"0"
        found = [key for _, key in page if match(key.decode("utf-8", "surrogateescape")) and self._get(key) is not None]
        return [cursor, found]

    # -- hashes

    def hset(self, client: Client | None, key: bytes, *pairs: bytes) -> int:
        """HSET"""
        if not pairs or len(pairs) % 2:
            raise ReplyError("ERR wrong number of arguments for 'hset' command")
        fields = self._hash(key)
        expires_at = self.data[key][1] if fields else None
        new = fields | dict(zip(pairs[::2], pairs[1::2], strict=True))
        self._put(client, key, new, expires_at)
        return len(new) - len(fields)

    def hget(self, client: Client | None, key: bytes, field: bytes) -> bytes | None:
        """HGET"""
        return self._hash(key).get(field)

    def hdel(self, client: Client | None, key: bytes, *fields: bytes) -> int:
        """HDEL"""
        old = self._hash(key)
        new = {field: value for field, value in old.items() if field not in fields}
        if not new:
            self._remove(client, [key])
        elif len(new) < len(old):
            self._put(client, key, new, self.data[key][1])
        return len(old) - len(new)

    def hlen(self, client: Client | None, key: bytes) -> int:
        """HLEN"""
        return len(self._hash(key))

    def hvals(self, client: Client | None, key: bytes) -> list[bytes]:
        """HVALS"""
        return list(self._hash(key).values())

    def hgetall(self, client: Client | None, key: bytes) -> dict[bytes, bytes]:
        """HGETALL"""
        return dict(self._hash(key))

    # -- the server

    def ping(self, client: Client) -> Simple:
        """PING"""
        return Simple(b"PONG")

    def select(self, client: Client, database: bytes) -> Simple:
        """SELECT; there is one database"""
        return _OK

    def hello(self, client: Client, version: bytes = b"2", *_: bytes) -> dict[bytes, Any]:
        """HELLO"""
        client.resp = int(version)
        return {b"server": b"redis", b"version": b"7.4.0", b"proto": client.resp, b"id": client.client_id}

    def info(self, client: Client, *sections: bytes) -> bytes:
        """INFO"""
        return f"# Server\r\nredis_version:7.4.0\r\nredis_mode:standalone\r\nrun_id:{self.run_id}\r\n".encode()

    def client(self, client: Client, what: bytes, *words: bytes) -> Any:
        """CLIENT ID, KILL ID, LIST, SETNAME and TRACKING"""
        match what.upper(), [word.upper() for word in words]:
            case b"ID", []:
                return client.client_id
            case b"KILL", [b"ID", number]:
                victim = self.clients.get(_integer(number))
                if victim is None or victim is client:
                    return 0
                victim.kill()
                return 1
            case b"SETNAME", [_]:
                client.name = words[0]
                return _OK
            case b"LIST", []:
                now = self._now_ms()
                return b"".join(
                    b"id=%d addr=? name=%b age=%d db=0\n" % (number, one.name, (now - one.since_ms) // 1000)
                    for number, one in self.clients.items()
                )
            case b"TRACKING", [b"ON", b"BCAST", b"PREFIX", _, b"NOLOOP"]:
                client.prefix = words[3]
                return _OK
        raise ReplyError(f"ERR unknown subcommand '{what.decode(errors='replace')}'. Try CLIENT HELP.")

    # -- scripts

    def script(self, client: Client, what: bytes, text: bytes) -> bytes:
        """SCRIPT LOAD"""
        if what.upper() != b"LOAD":
            raise ReplyError(f"ERR unknown subcommand '{what.decode(errors='replace')}'. Try SCRIPT HELP.")
        digest = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
        if digest not in _SCRIPTS:
            raise NotImplementedError("this script has not been ported to the model")
        self._scripts.add(digest)
        return digest

    def evalsha(self, client: Client, digest: bytes, count: bytes, *words: bytes) -> Any:
        """EVALSHA"""
        if digest not in self._scripts:
            raise ReplyError("NOSCRIPT No matching script. Please use EVAL.")
        keys = _integer(count)
        return _SCRIPTS[digest](self, words[:keys], words[keys:])

    # What a script changes is told to the client that runs it, too, NOLOOP or not: it was another that changed it.

    def _fence(self, keys: Sequence[bytes], words: Sequence[bytes]) -> Any:  # noqa: PLR0912 - as long as the script
        """fence.lua"""
        key, fence_key, shares_key = keys
        stamp, fence_ttl, condition, *rest = words
        if stamp[16] == 0 and stamp[8:16] == bytes(8) and self._get(shares_key) is not None:
            return None
        if condition in (b"NX", b"XX") and (self._get(key) is not None) == (condition == b"NX"):
            return None
        fence = self._string(fence_key)
        if condition == b"AGAIN":
            if fence is not None and fence > stamp:
                self.unlink(None, key)
                return fence
        elif fence is not None and not stamp > fence:
            return fence
        if fence is not None or stamp[16] != 3:
            self.set(None, fence_key, stamp, b"PX", fence_ttl)
        counted = self._hash(shares_key)
        left = self.pttl(None, key) if counted else -2
        before = self._get(key) if counted else None
        existed = 1
        if not rest:
            existed = self.unlink(None, key)
        else:
            self.set(None, key, rest[0], *([b"PX", rest[1]] if len(rest) > 1 else []))
        after = None
        for share in counted.values() if left != -2 else ():
            if not stamp[:16] > share[:16]:
                after = None
                with suppress(ReplyError):
                    after = self.incrby(None, key, share[32:])
        if after is not None and not rest:
            was = int(before) if isinstance(before, bytes) and _INTEGER.fullmatch(before) else 0
            if was * after <= 0:
                self.unlink(None, key)
            elif abs(after) > abs(was):
                self.set(None, key, b"%d" % was)
            if left > 0:
                self.pexpire(None, key, b"%d" % left)
        return [existed]

    def _count(self, keys: Sequence[bytes], words: Sequence[bytes]) -> Any:
        """count.lua"""
        key, fence_key, shares_key = keys
        share, series, stamp, total, keep, ttl, now, forgotten = words
        fence = self._string(fence_key)
        is_outdated = fence is not None and fence[:16] > series
        if is_outdated and now != b"NOW":
            return fence
        left = self.pttl(None, key)
        value: int | None = None
        known = self.hget(None, shares_key, share)
        if known is None or stamp > known[16:32]:
            by = _integer(total)
            if known is not None and known[:16] == series:
                by -= _integer(known[32:])
            value = self.incrby(None, key, b"%d" % by)
            if left == -2:
                left = -1
                if ttl:
                    self.pexpire(None, key, ttl)
                    left = _integer(ttl)
            is_new = self.hset(None, shares_key, share, series + stamp + total) == 1
            if self.pttl(None, shares_key) < _integer(keep) - 15_000:
                self.pexpire(None, shares_key, keep)
            if is_new and self.hlen(None, shares_key) % 64 == 0:
                for other, text in self.hgetall(None, shares_key).items():
                    if forgotten > text[16:32]:
                        self.hdel(None, shares_key, other)
        if value is None:
            held = self._string(key)
            value = int(held) if held is not None and _INTEGER.fullmatch(held) else 0
        told = value if abs(value) < 2**53 else self._string(key)  # Lua's numbers are doubles
        return [told, left, *([fence] if is_outdated else [])]

    def _expire(self, keys: Sequence[bytes], words: Sequence[bytes]) -> Any:
        """expire.lua"""
        key, fence_key, shares_key = keys
        ttl, node, fence_ttl = words
        if self._get(key) is None:
            return None
        if ttl:
            self.pexpire(None, key, ttl)
        else:
            self.persist(None, key)
        fence, value = self._string(fence_key), self._get(key)
        if fence is None or not isinstance(value, bytes) or self._get(shares_key) is not None:
            return []
        counter = int.from_bytes(fence[6:8], "big") + 1
        if counter > 0xFFFF:
            return []
        raised = fence[:6] + counter.to_bytes(2, "big") + node
        self.set(None, fence_key, raised + b"\2", b"PX", fence_ttl)
        return [value, raised]

    def _sweeps(self, keys: Sequence[bytes], words: Sequence[bytes]) -> Any:
        """sweeps.lua"""
        (key,) = keys
        keep, most, *pairs = words
        for pattern, stamp in zip(pairs[::2], pairs[1::2], strict=True):
            old = self.hget(None, key, pattern)
            if old is None or stamp > old:
                self.hset(None, key, pattern, stamp)
        if self.hlen(None, key) > int(most):
            newest = max(self.hvals(None, key))
            self.unlink(None, key)
            self.hset(None, key, b"*", newest)
        self.pexpire(None, key, keep)
        return 1

    def _registry(self, keys: Sequence[bytes], words: Sequence[bytes]) -> Any:
        """registry.lua"""
        (key,) = keys
        name, registered = words[:2]
        lease, keep, number = map(int, words[2:5])
        now = self._now_ms()
        known = _REGISTERED.fullmatch(self.hget(None, key, name) or b"")
        if known is None or int(known[2]) < number:
            self.hset(None, key, name, b"%d %d " % (now + lease, number) + registered)
            self.pexpire(None, key, b"%d" % (lease + keep))
        others = []
        for other, text in self.hgetall(None, key).items():
            match = _REGISTERED.fullmatch(text)
            left = int(match[1]) - now if match else None
            if match is None or left is None or left < -keep:
                self.hdel(None, key, other)
            elif other != name:
                others.append([other, left, match[3]])
        return others


_REGISTERED: Final = re.compile(rb"([0-9]+) ([0-9]+) (.*)", re.DOTALL)

_SCRIPTS: Final[dict[bytes, Callable[..., Any]]] = {
    Script(file).digest.encode(): port
    for file, port in (
        ("fence.lua", RedisModel._fence),
        ("count.lua", RedisModel._count),
        ("expire.lua", RedisModel._expire),
        ("sweeps.lua", RedisModel._sweeps),
        ("registry.lua", RedisModel._registry),
    )
}

_COMMANDS: Final[dict[bytes, Callable[..., Any]]] = {
    name.upper().encode(): getattr(RedisModel, name)
    for name in (
        *("get", "mget", "set", "incrby", "unlink", "exists", "pttl", "pexpire", "persist", "scan"),
        *("hset", "hget", "hdel", "hlen", "hvals", "hgetall"),
        *("ping", "select", "hello", "info", "client", "script", "evalsha"),
    )
} | {b"DEL": RedisModel.unlink}


def _integer(text: bytes) -> int:
    if not _INTEGER.fullmatch(text):
        raise ReplyError("ERR value is not an integer or out of range")
    return int(text)
