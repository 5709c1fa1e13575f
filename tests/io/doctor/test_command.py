"""The command as a user has it: options, variables, what is printed, how it ends, and that no secret is ever printed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import meshcache
from meshcache.testing.server import RedisServer
from tests.support import free_port

PASSWORD, SECRET = "correct-horse-battery", "staple-that-nobody-may-see"
ON_LOOPBACK = ("--interfaces", "127.0.0.1", "--discovery", "none", "--wait", "0")


def environment(**variables: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MESHCACHE_")}
    return {**inherited, "PYTHONPATH": str(Path(meshcache.__file__).parents[1]), "COLUMNS": "120", **variables}


def doctor(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "meshcache.cli", "doctor", *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def url(own_server: RedisServer) -> str:
    own_server.client().config_set("requirepass", PASSWORD)
    own_server.client().execute_command("AUTH", PASSWORD)
    return own_server.url.replace("redis://", f"redis://:{PASSWORD}@")


def shows_no_secret(ended: subprocess.CompletedProcess[str]) -> None:
    for text in (ended.stdout, ended.stderr):
        assert PASSWORD not in text
        assert SECRET not in text


def test_plain_lines(url: str) -> None:
    ended = doctor("--url", url, "--secret", SECRET, *ON_LOOPBACK)
    assert ended.returncode == 0, ended.stdout
    shows_no_secret(ended)
    assert ended.stderr == ""
    first, *lines, last = ended.stdout.splitlines()
    assert first.startswith(f"meshcache {meshcache.__version__}: namespace meshcache at redis://:***@127.0.0.1:")
    assert any(line.startswith("ok    Redis") for line in lines)
    assert last.startswith("Nothing is broken, ")


def test_one_document_for_programs(url: str) -> None:
    ended = doctor("--json", *ON_LOOPBACK, MESHCACHE_URL=url, MESHCACHE_SECRET=SECRET, MESHCACHE_NAMESPACE="from-env")
    shows_no_secret(ended)
    document = json.loads(ended.stdout)
    assert (ended.returncode, document["ok"], document["namespace"]) == (0, True, "from-env")
    assert {"name", "verdict", "seen", "advice", "seconds"} == set(document["findings"][0])
    verdicts = {finding["name"]: finding["verdict"] for finding in document["findings"]}
    assert verdicts["redis-writes"] == verdicts["key"] == "ok"


def test_options_win_over_variables(url: str) -> None:
    dead = f"redis://127.0.0.1:{free_port()}"
    ended = doctor("--json", "--url", dead, *ON_LOOPBACK, MESHCACHE_URL=url, MESHCACHE_SECRET=SECRET)
    assert ended.returncode == 1
    shows_no_secret(ended)
    document = json.loads(ended.stdout)
    assert document["ok"] is False
    assert {finding["name"] for finding in document["findings"] if finding["verdict"] == "fail"} == {"redis"}


def test_what_to_do_is_said(url: str) -> None:
    ended = doctor("--url", url.replace(PASSWORD, "wrong-" + PASSWORD), "--secret", SECRET, *ON_LOOPBACK)
    assert ended.returncode == 1
    shows_no_secret(ended)
    at = next(n for n, line in enumerate(ended.stdout.splitlines()) if line.startswith("FAIL  Redis"))
    assert "(WRONGPASS)" in ended.stdout.splitlines()[at]
    assert "-> mend user and password" in ended.stdout.splitlines()[at + 1]
    assert "1 broken, " in ended.stdout.splitlines()[-1]


def test_strict(url: str) -> None:
    weak = ("--url", url, "--secret", "12345678", *ON_LOOPBACK)
    assert doctor(*weak).returncode == 0
    assert doctor(*weak, "--strict").returncode == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--plain", "--json"], "exclude each other"),
        (["--url", f"redis://:{PASSWORD}@host:port"], "url: host and port cannot be read"),
        (["--namespace", "two words"], "namespace: 'two words'"),
        (["--secret", SECRET[:5]], "secret: it must be"),
        (["--discovery", "nowhere"], "discovery: 'nowhere' is not host:port"),
        (["--port", "x"], "port: "),
        (["--peers", "-1"], "--peers"),
        (["--colour"], "--colour"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str) -> None:
    ended = doctor(*arguments)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert said in ended.stderr
    assert PASSWORD not in ended.stderr
    assert SECRET[:5] not in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(url: str, number: signal.Signals) -> None:
    """It ends at once, leaves nothing running, and says no more."""
    command = [sys.executable, "-m", "meshcache.cli", "doctor", "--url", url, "--secret", SECRET, "--wait", "50"]
    command += ["--interfaces", "127.0.0.1", "--discovery", "none"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if b"Key of the mesh" in line:
                break
        process.send_signal(number)
        _, errors = process.communicate(timeout=5)
    assert process.returncode == 130
    assert errors == b""


def test_in_a_terminal(url: str) -> None:
    """Marks, colours, and advice in its place; every line fits."""
    pty = pytest.importorskip("pty")
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "meshcache.cli", "doctor", "--url", url, "--secret", "12345678", *ON_LOOPBACK]
    shown = {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(command, env=environment(**shown), stdout=child, stderr=child, stdin=child) as process:
        os.close(child)
        output = b""
        while True:
            try:
                output += os.read(parent, 65_536)
            except OSError:  # the other side is closed
                break
    os.close(parent)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.decode())
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    assert lines[0].startswith(f"meshcache {meshcache.__version__}  namespace meshcache at redis://:***@")
    assert [line for line in lines if line in ("This host", "Redis", "The mesh")] == ["This host", "Redis", "The mesh"]
    assert any(line.startswith("✓ Writes") for line in lines)
    at = next(n for n, line in enumerate(lines) if line.startswith("! Key of the mesh"))
    assert lines[at + 1].strip().startswith("→ use 16 random characters")
    assert lines[-1].startswith("Nothing is broken, 1 warning")
    assert PASSWORD.encode() not in output
