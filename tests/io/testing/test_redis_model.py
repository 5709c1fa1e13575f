"""The model of Redis answers as a real one does: the same commands and scripts, by chance, go to both.

Expiry: a time to live is so long that it does not end here, or so short that the next command waits for its end.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import hiredis
import pytest

from meshcache.redis.names import Names
from meshcache.redis.scripts import Script
from meshcache.stamp import make_stamp
from meshcache.testing.redis_model import RedisModel, ReplyError, Simple
from meshcache.testing.server import RedisServer

NAMES = Names("test")
KEYS = [b"test:%d" % number for number in range(4)]
FENCES = [NAMES.fence(str(number)) for number in range(4)]
SHARES = [NAMES.shares(str(number)) for number in range(4)]
SCRIPTS = {kind: Script(f"{kind}.lua") for kind in ("fence", "count", "expire", "sweeps", "registry")}
SHORT = 2
LONG = 100_000
TOLERANCE = 5_000
"""In ms: of what remains of a long time to live."""


class Real:
    """One connection to a real server."""

    def __init__(self, server: RedisServer) -> None:
        self._socket = socket.create_connection((server.host, server.port), timeout=10)
        self._reader = hiredis.Reader(notEnoughData=Ellipsis)
        self.pushed: list[bytes] = []

    def close(self) -> None:
        self._socket.close()

    def run(self, command: Sequence[bytes]) -> Any:
        self._socket.sendall(hiredis.pack_command(tuple(command)))
        while True:
            reply = self._reader.gets()
            if isinstance(reply, hiredis.PushNotification):
                self.pushed += reply[1]
            elif reply is not Ellipsis:
                return reply
            else:
                self._reader.feed(self._socket.recv(65_536))

    def time_ms(self) -> int:
        seconds, microseconds = self.run([b"TIME"])
        return int(seconds) * 1000 + int(microseconds) // 1000


class Modelled:
    """A client of the model."""

    def __init__(self, model: RedisModel) -> None:
        self.client_id = model.next_client_id()
        self.resp = 2
        self.prefix: bytes | None = None
        self.killed = False
        model.clients[self.client_id] = self

    def kill(self) -> None:
        self.killed = True


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def real(server: RedisServer) -> Iterator[Real]:
    real = Real(server)
    real.run([b"FLUSHALL"])
    real.run([b"SCRIPT", b"FLUSH"])
    yield real
    real.close()


@pytest.mark.parametrize("seed", range(40))
def test_both_answer_alike(real: Real, seed: int) -> None:
    random = Random(seed)
    now = real.time_ms()
    model = RedisModel(random, lambda: now)
    client = Modelled(model)
    told = []
    for _ in range(200):
        command = some_command(random)
        now = real.time_ms()
        modelled, true = model.execute(command, client), real.run(command)
        told.append(f"{command} -> {modelled!r}, in truth {true!r}")
        assert comparable(command, modelled) == comparable(command, true), "\n".join(told)
        if b"%d" % SHORT in command:
            ran = real.time_ms()  # the real one may have begun later than the model
            while real.time_ms() <= ran + SHORT + 2:
                pass
    now = real.time_ms()
    assert {key for key in model.data if model.read(key) is not None} == set(real.run([b"KEYS", b"*"]))


@pytest.mark.parametrize("seed", range(10))
def test_both_tell_of_the_same_changes(server: RedisServer, real: Real, seed: int) -> None:
    """Of what others change, and of what this connection changed and another after it."""
    random = Random(seed)
    model = RedisModel(random, lambda: 0)
    tracking = [b"CLIENT", b"TRACKING", b"ON", b"BCAST", b"PREFIX", NAMES.prefix, b"NOLOOP"]
    us, others = Modelled(model), Modelled(model)
    for command in ([b"HELLO", b"3"], tracking):
        assert not isinstance(model.execute(command, us), ReplyError)
        assert not isinstance(real.run(command), hiredis.ReplyError)
    other = Real(server)
    for _ in range(100):
        command = some_command(random, with_ttl=False)
        by_us = random.random() < 0.3
        model.changed.clear()
        modelled = model.execute(command, us if by_us else others)
        true = (real if by_us else other).run(command)
        assert comparable(command, modelled) == comparable(command, true)
        real.run([b"PING"])
        expected = {key for key, by in model.changed.items() if by is not us and key.startswith(NAMES.prefix)}
        assert set(real.pushed) == expected, command
        real.pushed.clear()
    other.close()


def test_both_tell_of_what_expired_though_nobody_asks_for_it(real: Real) -> None:
    now = 0
    model = RedisModel(Random(1), lambda: now)
    us = Modelled(model)
    for command in ([b"HELLO", b"3"], [b"CLIENT", b"TRACKING", b"ON", b"BCAST", b"PREFIX", NAMES.prefix, b"NOLOOP"]):
        model.execute(command, us)
        real.run(command)
    command = [b"SET", KEYS[0], b"brief", b"PX", b"20"]
    model.execute(command, us)
    real.run(command)
    model.changed.clear()
    assert model.expires_next == 20
    now = 20
    model.expire()
    assert set(model.changed) == {KEYS[0]}
    assert model.expires_next is None
    deadline = time.monotonic() + 10
    while real.pushed != [KEYS[0]]:
        real.run([b"PING"])
        assert time.monotonic() < deadline


def test_both_kill_a_client_by_its_number(server: RedisServer, real: Real) -> None:
    model = RedisModel(Random(1), lambda: 0)
    victim, killer = Modelled(model), Modelled(model)
    other = Real(server)
    number = other.run([b"CLIENT", b"ID"])
    assert model.execute([b"CLIENT", b"ID"], victim) == victim.client_id
    assert model.execute([b"CLIENT", b"KILL", b"ID", b"%d" % victim.client_id], killer) == 1
    assert real.run([b"CLIENT", b"KILL", b"ID", b"%d" % number]) == 1
    assert victim.killed
    # Nobody, and never the client that asks.
    for id_in_model, id_in_truth in ((10**6, 10**6), (killer.client_id, real.run([b"CLIENT", b"ID"]))):
        assert model.execute([b"CLIENT", b"KILL", b"ID", b"%d" % id_in_model], killer) == 0
        assert real.run([b"CLIENT", b"KILL", b"ID", b"%d" % id_in_truth]) == 0
    assert not killer.killed
    other.close()


def test_scan_in_pages_finds_what_is_there_all_the_time() -> None:
    """As Redis promises: what comes or goes meanwhile may be found or not."""
    for seed in range(50):
        random = Random(seed)
        model = RedisModel(random, lambda: 0, page=random.randint(1, 5))
        client = Modelled(model)
        stays = {b"stays:%d" % number for number in range(random.randint(0, 20))}
        for key in stays:
            model.execute([b"SET", key, b"1"], client)
        found: list[bytes] = []
        cursor = b"0"
        while True:
            cursor, page = model.execute([b"SCAN", cursor, b"MATCH", b"stays:*", b"COUNT", b"500"], client)
            found += page
            if cursor == b"0":
                break
            for _ in range(3):
                model.execute([random.choice([b"SET", b"UNLINK"]), b"goes:%d" % random.randrange(20), b"1"], client)
        assert set(found) == stays


def test_a_server_that_loads_answers_only_what_asks_who_it_is() -> None:
    now = 0
    model = RedisModel(Random(1), lambda: now)
    client = Modelled(model)
    model.loads_until = 100
    assert str(model.execute([b"GET", b"a"], client)).startswith("LOADING ")
    assert f"run_id:{model.run_id}".encode() in model.execute([b"INFO", b"server"], client)
    now = 100
    assert model.execute([b"GET", b"a"], client) is None


# -- what is asked


def some_command(random: Random, *, with_ttl: bool = True) -> list[bytes]:
    key, ttl = random.choice(KEYS), b"%d" % random.choice([SHORT, LONG, LONG] if with_ttl else [LONG])
    value = random.choice([b"v%d" % random.randrange(100), b"%d" % random.randrange(-5, 5)])
    kinds = [
        "strings",
        "strings",
        "keys",
        "keys",
        "hashes",
        "fence",
        "fence",
        "fence",
        "count",
        "count",
        "expire",
        "sweeps",
    ]
    kind = random.choice([*kinds, "registry"] if with_ttl else kinds)
    if kind == "strings":
        options = random.choice(
            [[], [b"NX"], [b"XX"], [b"PX", ttl], [b"NX", b"PX", ttl], [b"PX", b"0"], [b"NX", b"XX"]]
        )
        return random.choice(
            [
                [b"SET", key, value, *options],
                [b"SET", key, value],
                [b"GET", key],
                [b"MGET", *random.choices(KEYS, k=random.randint(1, 4))],
                [b"INCRBY", key, b"%d" % random.randint(-3, 3)],
            ]
        )
    if kind == "keys":
        return random.choice(
            [
                [b"UNLINK", *random.choices(KEYS, k=random.randint(1, 3))],
                [b"EXISTS", *random.choices(KEYS, k=random.randint(1, 3))],
                [b"PTTL", key],
                [b"PEXPIRE", key, random.choice([ttl, b"0", b"-1", b"x"])],
                [b"PERSIST", key],
                [b"SCAN", b"0", b"MATCH", random.choice([b"test:*", b"test:[01]", b"*"]), b"COUNT", b"500"],
                [b"NOSUCHCOMMAND", key],
            ]
        )
    if kind == "hashes":
        field = b"f%d" % random.randrange(3)
        return random.choice(
            [
                [b"HSET", key, field, value],
                [b"HGET", key, field],
                [b"HDEL", key, field],
                [b"HLEN", key],
                [b"HVALS", key],
                [b"HGETALL", key],
            ]
        )
    return some_script(random, kind, ttl, value)


def some_script(random: Random, kind: str, ttl: bytes, value: bytes) -> list[bytes]:
    script = SCRIPTS[kind]
    if random.random() < 0.1:
        return [b"SCRIPT", b"LOAD", script.text]
    head = [b"EVALSHA", script.digest.encode()]
    stamp = make_stamp(random.randrange(5), random.randrange(2), random.randrange(2))
    if kind == "sweeps":
        pairs = [word for _ in range(random.randint(1, 4)) for word in (b"p%d" % random.randrange(6), bytes(stamp))]
        return [*head, b"1", NAMES.sweeps, b"%d" % LONG, b"3", *pairs]
    if kind == "registry":
        lease = b"%d" % random.choice([1000, 1_000_000, -2000])
        name, registered = b"%08d" % random.randrange(4), random.choice([b"a b", b"\n\x00", b""])
        keep, number = b"%d" % random.choice([1000, 1_000_000]), b"%d" % random.randrange(10)
        return [*head, b"1", NAMES.registry, name, registered, lease, keep, number]
    place = random.randrange(len(KEYS))
    head += [b"3", KEYS[place], FENCES[place], SHARES[place]]
    if kind == "expire":
        return [*head, random.choice([ttl, b""]), stamp[8:], b"%d" % LONG]
    if kind == "count":
        series = make_stamp(random.randrange(5), 0, random.randrange(2))
        share, total = b"share %d" % random.randrange(3), b"%d" % random.randint(-5, 5)
        forgotten = make_stamp(random.randrange(3), 0, 0)
        return [
            *head, share, series, max(series, stamp), total, b"%d" % LONG, random.choice([b"", ttl]),
            random.choice([b"", b"NOW"]), forgotten,
        ]  # fmt: skip
    condition = random.choice([b"", b"", b"", b"NX", b"XX", b"AGAIN"])
    rest = random.choice([[], [value], [value, ttl]])
    fence = stamp + bytes([random.randrange(4)])
    if random.random() < 0.1:
        fence = fence[:8] + bytes(9)  # of nobody, an invalidation
    return [*head, fence, b"%d" % LONG, condition, *rest]


def comparable(command: Sequence[bytes], reply: Any) -> Any:
    """A reply of either, without what may differ: the words of an error, an order, and a moment more or less."""
    if isinstance(reply, ReplyError | hiredis.ReplyError):
        return "error", _code(str(reply))
    if isinstance(reply, Simple):
        return bytes(reply)
    name = command[0]
    if name == b"HGETALL":
        return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
    if name == b"HVALS":
        return sorted(reply)
    if name == b"SCAN":
        return reply[0], sorted(reply[1])
    if name == b"PTTL" and reply > 0:
        return "about", (reply + TOLERANCE) // (2 * TOLERANCE)
    if name == b"EVALSHA" and command[1] == SCRIPTS["registry"].digest.encode():
        return sorted((other, round(left / 10**5), registered) for other, left, registered in reply)
    if name == b"EVALSHA" and command[1] == SCRIPTS["count"].digest.encode() and isinstance(reply, list):
        value, left, *fence = reply
        return value, left if left < 0 else ("about", (left + TOLERANCE) // (2 * TOLERANCE)), fence
    return reply


def _code(text: str) -> str:
    """The first word; of an error within a script that of the command."""
    return text.partition(" ")[0]
