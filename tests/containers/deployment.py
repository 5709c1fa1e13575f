"""The deployment of ``compose/``, driven as its readers do it: by Compose, by HTTP, and by what the load generator prints."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.containers.gateways import call
from tests.support import eventually_sync, free_port

GATEWAYS = 3


@dataclass(frozen=True)
class Answer:
    """What a gateway answered."""

    status: int
    body: Any
    cache: str | None
    """``HIT``, ``MISS``, or None where no cache is asked."""


class Service:
    """One gateway of the deployment, from outside."""

    def __init__(self, port: int) -> None:
        self._port = port

    def translate(self, text: str, target: str = "de") -> Answer:
        return self._call("POST", "/translate", {"text": text, "source": "en", "target": target})

    def mentions(self, typed: str) -> Answer:
        return self._call("GET", f"/mentions?q={quote(typed)}")

    def add(self, name: str) -> Answer:
        return self._call("POST", "/members", {"name": name})

    def remove(self, name: str) -> Answer:
        return self._call("DELETE", f"/members/{quote(name)}")

    def health(self) -> Answer:
        return self._call("GET", "/healthz")

    def is_in(self, mode: str) -> bool:
        """Whether it answers, in this mode, knows the others and, with Redis, keeps copies for an outage."""
        expected = {"mode": mode, "peers": GATEWAYS - 1, "near_tracking": mode == "redis"}
        with suppress(OSError, HTTPException):
            answer = self.health()
            return answer.status == 200 and expected.items() <= answer.body.items()
        return False

    def _call(self, method: str, path: str, body: object = None) -> Answer:
        status, headers, data = call(self._port, method, path, None if body is None else json.dumps(body))
        return Answer(status, json.loads(data) if data else None, headers["x-cache"])


class Deployment:
    """A project of Compose of its own: Redis, three gateways, the load.

    Args:
        program: ``docker compose`` or ``docker-compose``.
        file: ``compose.yaml``.
        settings: variables that the file reads.
    """

    def __init__(self, program: Sequence[str], file: Path, settings: Mapping[str, str]) -> None:
        self._command = [*program, "--file", str(file), "--project-name", f"meshcache-test-{uuid.uuid4().hex[:8]}"]
        ports = [free_port() for _ in range(GATEWAYS)]
        self.gateways = [Service(port) for port in ports]
        self._environment = os.environ | {
            "LOAD_OPTIONS": "--json",
            "MESHCACHE_SECRET": "",
            **{f"GATEWAY{number}_PORT": str(port) for number, port in enumerate(ports, 1)},
            **settings,
        }

    def compose(self, *arguments: str) -> str:
        """Run a command of Compose; what it prints."""
        result = subprocess.run(
            [*self._command, *arguments],
            env=self._environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    def up(self) -> None:
        self.compose("up", "--build", "--detach")

    def down(self) -> None:
        self.compose("down", "--volumes", "--timeout", "2")

    def redis_cli(self, *command: str) -> str:
        return self.compose("exec", "-T", "redis", "redis-cli", "--raw", *command).strip()

    def wait_for_mode(self, mode: str, timeout: float) -> None:
        for gateway in self.gateways:
            eventually_sync(
                lambda g=gateway: g.is_in(mode), timeout, message=f"a gateway in mode {mode}, with two peers"
            )

    def printed(self) -> list[dict[str, Any]]:
        """What the load has printed: an object for each second and each failure, and at its end one for the phases."""
        log = self.compose("logs", "--no-color", "--no-log-prefix", "load")
        return [json.loads(line) for line in log.splitlines() if line.startswith("{")]

    def seconds(self) -> list[dict[str, Any]]:
        """The figures of each second of the load."""
        return [line for line in self.printed() if "second" in line]

    def load_for(self, seconds: float) -> None:
        """Let the load go on for so long, and leave it alone: whoever asks for its log takes the processor from it."""
        end = time.time() + seconds
        time.sleep(seconds)
        eventually_sync(
            lambda: any(second["time"] >= end for second in self.seconds()), 20, message="the load goes on", every=0.5
        )
