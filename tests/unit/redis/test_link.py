"""What error replies and broken connections mean, and how commands are cut into pipelines.  No I/O."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from meshcache.errors import ConfigError, RedisCommandError, Unavailable
from meshcache.redis.connect import open_link
from meshcache.redis.link import Command, may_try_again, no_answer, outage, pipelines, refusal

CANNOT_SERVE = """\
LOADING Redis is loading the dataset in memory
READONLY You can't write against a read only replica.
MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.
CLUSTERDOWN Hash slot not served
TRYAGAIN Multiple keys request during rehashing of slot
MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.
OOM command not allowed when used memory > 'maxmemory'.
BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.
UNKILLABLE The busy script was sent by a master instance
NOREPLICAS Not enough good replicas to write.
NOAUTH Authentication required.
WRONGPASS invalid username-password pair or user is disabled.
DENIED Redis is running in protected mode
MOVED 3999 127.0.0.1:6381
ASK 3999 127.0.0.1:6381
CROSSSLOT Keys in request don't hash to the same slot""".splitlines()


@pytest.mark.parametrize("reply", CANNOT_SERVE)
def test_what_a_server_answers_that_cannot_serve(reply: str) -> None:
    code = reply.split()[0]
    meaning = refusal(reply, "h:1")
    assert isinstance(meaning, Unavailable)
    assert meaning.cause.startswith("h:1 ")
    assert meaning.cause.endswith(f"({code})")
    # Redis 6 wraps what a script met.
    wrapped = refusal(f"ERR Error running script (call to f_abc): @user_script:4: @user_script: 4: -{reply}", "h:1")
    assert isinstance(wrapped, Unavailable)
    assert wrapped.cause == meaning.cause


def test_max_clients() -> None:
    for reply in ("ERR max number of clients reached", "ERR max number of clients + cluster connections reached"):
        assert isinstance(refusal(reply, "h:1"), Unavailable)


@pytest.mark.parametrize(
    "reply",
    [
        "WRONGTYPE Operation against a key",
        "NOPERM no permissions",
        "ERR syntax error",
        "NOSCRIPT No matching script.",
        "BUSYKEY x",
        "",
    ],
)
def test_what_is_refused_for_good(reply: str) -> None:
    meaning = refusal(reply, "h:1")
    assert isinstance(meaning, RedisCommandError)
    assert str(meaning) == reply


def test_neither_values_nor_long_texts_are_shown() -> None:
    assert str(refusal("ERR unknown command 'X', with args beginning with: 'value' ", "h")) == "ERR unknown command 'X'"
    assert len(str(refusal("ERR " + "x" * 10_000, "h"))) < 250
    assert str(refusal("ERR two\r\n lines", "h")) == "ERR two lines"


def broken(cause: OSError | None, text: str = "Error while reading") -> RedisConnectionError:
    """As redis-py raises it."""
    try:
        if cause is None:
            raise RedisConnectionError(text)
        try:
            raise cause
        except OSError:
            raise RedisConnectionError(text)  # noqa: B904 - as redis-py does
    except RedisConnectionError as error:
        return error


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 1)"), "connection refused"),
        (ConnectionResetError(104, "Connection reset by peer"), "connection reset"),
        (BrokenPipeError(32, "Broken pipe"), "connection reset"),
        (OSError(113, "No route to host"), "No route to host"),
        (
            OSError("Multiple exceptions: [Errno 111] a, [Errno 111] b"),
            "Multiple exceptions: [Errno 111] a, [Errno 111] b",
        ),
        (None, "connection closed"),
    ],
)
def test_breaks_that_a_fresh_connection_may_mend(cause: OSError | None, words: str) -> None:
    error = broken(cause, "Connection closed by server.")
    assert may_try_again(error)
    meaning = outage(error, "h:1")
    assert meaning.cause == f"h:1: {words}"
    assert not meaning.timed_out


def test_breaks_that_it_will_not() -> None:
    name = broken(socket.gaierror(-2, "Name or service not known"))
    assert not may_try_again(name)
    assert outage(name, "h:1").cause == "h:1: the host name cannot be resolved (Name or service not known)"
    certificate = ssl.SSLCertVerificationError(1, "certificate verify failed")
    certificate.verify_message = "self-signed certificate"
    assert not may_try_again(broken(certificate))
    assert "its TLS certificate is not trusted (self-signed certificate)" in outage(broken(certificate), "h").cause


def test_the_callers_own_trouble_is_not_the_cause() -> None:
    def in_trouble() -> None:
        try:
            raise ConnectionRefusedError("of somebody else")
        except OSError:
            raise RedisConnectionError("Connection closed by server.") from None

    with pytest.raises(RedisConnectionError) as caught:
        in_trouble()
    assert isinstance(caught.value.__context__, ConnectionRefusedError)
    assert outage(caught.value, "h").cause == "h: connection closed"


def test_no_answer() -> None:
    assert no_answer(0.25, "h:1").timed_out
    assert no_answer(0.25, "h:1").cause == "h:1 did not answer within 0.25 s"


def test_pipelines_are_bounded_and_lose_nothing() -> None:
    commands: list[Command] = [("SET", b"k%d" % i, b"x" * (i % 7) * 100_000, "PX", i) for i in range(1300)]
    runs = list(pipelines(commands))
    assert [command for run in runs for command in run] == commands
    assert all(1 <= len(run) <= 500 for run in runs)
    assert all(len(run) == 1 or sum(len(command[2]) for command in run) <= 2**20 for run in runs)
    huge: Command = ("SET", "k", b"x" * 2**22)
    assert list(pipelines([huge, ("GET", "k"), huge])) == [[huge], [("GET", "k")], [huge]]
    assert list(pipelines([])) == []


def test_a_wrong_url_is_known_at_once() -> None:
    with pytest.raises(ConfigError, match="redis://"):
        open_link("localhost", timeout=1.0)


def test_the_light_modules_do_not_import_redis_py() -> None:
    program = (
        "import sys, meshcache.redis.url, meshcache.redis.names, meshcache.redis.link; sys.exit('redis' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
