"""That a step of the demo fails when what it shows is not so: the real demo, with a server that somebody meddles with."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis

from meshcache.cli.demo import run, scenario
from meshcache.cli.demo.run import Output, run_demo
from meshcache.cli.demo.servers import OwnServer, RawRedis

Meddle = Callable[[redis.Redis, str], object]
"""Does something to a server, given the namespace."""


class MeddledRedis(RawRedis):
    """Meddles before the first look into Redis, which is after the instances have returned to it."""

    def __init__(self, client: redis.Redis, meddle: Meddle) -> None:
        super().__init__(client)
        self._meddle: Meddle | None = meddle

    def values(self, namespace: str, keys: Any) -> dict[str, tuple[Any, float]]:
        if self._meddle is not None:
            self._meddle(self._client, namespace)
            self._meddle = None
        return super().values(namespace, keys)


class Unkillable(OwnServer):
    def cut(self) -> None:
        pass


class Unkind(OwnServer):
    def cut(self) -> None:
        raise OSError("no permission to kill")


class Gone(OwnServer):
    def restore(self) -> None:
        pass


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[OwnServer], dict[str, Any]]:
    """Runs the demo with a short outage and short patience; what it told as JSON."""
    monkeypatch.setattr(scenario, "_OUTAGE_SECONDS", 1.2)
    monkeypatch.setattr(scenario, "_LOAD_SECONDS", 0.1)
    monkeypatch.setattr(scenario, "_MODE_SECONDS", 3.0)

    def run_with(server: OwnServer) -> dict[str, Any]:
        monkeypatch.setattr(run, "open_server", lambda url: server)
        status = run_demo(None, Output.JSON)
        assert status == 1
        assert not server.close(), "nothing is left behind"
        return json.loads(capsys.readouterr().out)

    return run_with


def failed_step(told: dict[str, Any]) -> dict[str, Any]:
    assert told["ok"] is False
    assert told["leftover"] == ""
    (failed,) = [step for step in told["steps"] if step["outcome"] == "failed"]
    assert all(step["outcome"] == "held" for step in told["steps"][: failed["number"] - 1])
    assert all(step["outcome"] == "not reached" for step in told["steps"][failed["number"] :])
    assert failed["logs"].keys() >= {"1", "2", "3"}
    return failed


@pytest.mark.parametrize(
    ("meddle", "expected", "seen"),
    [
        pytest.param(
            lambda client, namespace: client.delete(f"{namespace}:outage:15"),
            "outage:15 = {'written': 15} in Redis itself",
            "outage:15 a miss",
            id="a write of the outage is lost",
        ),
        pytest.param(
            lambda client, namespace: client.set(f"{namespace}:user:2", '{"name":"Grace"}', keepttl=True),
            "user:2 = {'name': 'Grace Hopper'} in Redis itself",
            "user:2 = {'name': 'Grace'}",
            id="an older value has won",
        ),
        pytest.param(
            lambda client, namespace: client.expire(f"{namespace}:outage:18", 60),
            "outage:18 with ",
            "60.0 s",
            id="a time to live has started again",
        ),
        pytest.param(
            lambda client, namespace: client.set(f"{namespace}:session:9", '{"user":1}'),
            "no deleted key in Redis",
            "session:9 is there",
            id="a deleted key has come back",
        ),
        pytest.param(
            lambda client, namespace: client.delete(f"{namespace}:load:4:3"),
            "load:4:3 = ",
            "load:4:3 a miss",
            id="a write of the fourth is lost",
        ),
    ],
)
def test_what_is_in_redis_is_looked_at(
    demo: Callable[[OwnServer], dict[str, Any]], meddle: Meddle, expected: str, seen: str
) -> None:
    server = OwnServer()
    server.raw = MeddledRedis(server.raw._client, meddle)
    failed = failed_step(demo(server))
    assert failed["number"] == 8
    assert failed["expected"].startswith(expected)
    assert failed["seen"] == seen


@pytest.mark.parametrize(
    ("kind", "number", "expected", "seen"),
    [
        (Unkillable, 3, "instance 1 in mode memory with 2 peers within 3 s", "mode redis, 2 peers"),
        (Gone, 7, "instance 1 in mode redis with 3 peers within 3 s", "mode memory, 3 peers"),
        (Unkind, 3, "no failure outside the instances", "OSError: no permission to kill"),
    ],
)
def test_the_server_must_go_and_come_back(
    demo: Callable[[OwnServer], dict[str, Any]], kind: type[OwnServer], number: int, expected: str, seen: str
) -> None:
    failed = failed_step(demo(kind()))
    assert (failed["number"], failed["expected"], failed["seen"]) == (number, expected, seen)
