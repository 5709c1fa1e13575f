"""The deployment of ``compose/`` as its readers start it: Redis and three gateways that share its key and outlive it."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.containers.gateways import Gateway
from tests.support import eventually_sync, free_port

COMPOSE_FILE = Path(__file__).resolve().parents[2] / "compose" / "compose.yaml"

pytestmark = pytest.mark.containers

Compose = Callable[..., str]


@pytest.fixture(scope="session")
def program(engine: None) -> list[str]:
    """``docker compose``, or ``docker-compose`` where that plug-in is not installed."""
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], check=False, capture_output=True).returncode == 0:
        return [docker, "compose"]
    standalone = shutil.which("docker-compose")
    if standalone is None:
        pytest.skip("neither `docker compose` nor `docker-compose` is installed")
    return [standalone]


@pytest.fixture
def ports() -> list[int]:
    return [free_port() for _ in range(3)]


@pytest.fixture
def compose(program: list[str], redis_image: str, gateway_image: str, ports: list[int]) -> Iterator[Compose]:
    """Runs a command of Compose on a project of its own, which ends with the test."""
    environment = os.environ | {
        "MESHCACHE_GATEWAY_IMAGE": gateway_image,
        "MESHCACHE_TEST_REDIS_IMAGE": redis_image,
        "MESHCACHE_SECRET": "",
        **{f"GATEWAY{number}_PORT": str(port) for number, port in enumerate(ports, 1)},
    }
    project = f"meshcache-test-{uuid.uuid4().hex[:8]}"

    def run(*arguments: str) -> str:
        command = [*program, "--file", str(COMPOSE_FILE), "--project-name", project, *arguments]
        result = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stderr
        return result.stdout

    try:
        yield run
    finally:
        run("down", "--volumes", "--timeout", "2")


def test_three_gateways_outlive_their_redis(compose: Compose, ports: list[int]) -> None:
    compose("up", "--detach", "--no-build")
    one, two, three = gateways = [Gateway(port) for port in ports]
    for gateway in gateways:
        eventually_sync(gateway.is_up, 20, message="a gateway answers")
        eventually_sync(lambda g=gateway: g.mode() == "redis", 15, message="a gateway in mode redis")
        eventually_sync(lambda g=gateway: len(g.status()["peers"]) == 2, 15, message="a gateway with two peers")

    compose("kill", "redis")
    one.set("user:1", {"name": "Ada"}, ttl=60)
    for gateway in (two, three):
        eventually_sync(lambda g=gateway: g.get("user:1") == {"name": "Ada"}, 5, message="a set on 1 read elsewhere")

    compose("start", "redis")
    for gateway in gateways:
        eventually_sync(lambda g=gateway: g.mode() == "redis", 15, message="a gateway back on Redis")
    assert compose("exec", "-T", "redis", "redis-cli", "EXISTS", "gateway:user:1").strip() == "1"
