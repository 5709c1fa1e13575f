"""A small site for tests: one network, one Redis, some gateways, each in a container; and what can befall them."""

from __future__ import annotations

import http.client
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

from testcontainers.community.redis import RedisContainer
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from tests.support import eventually_sync

NAMESPACE = "gateway"
SECRET = "the secret of the containers"
PROGRAM = Path(__file__).with_name("keyvalue.py")


def call(port: int, method: str, path: str, body: str | None = None) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Status, headers and body of the answer to one request, on the loopback interface."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


class Gateway:
    """One container with ``keyvalue.py``, spoken to over HTTP from outside.

    Args:
        port: where its port 8000 is on the loopback interface.
    """

    def __init__(self, port: int) -> None:
        self._port = port

    def get(self, key: str) -> Any:
        """The value, or None for a miss."""
        status, body = self._call("GET", f"/cache/{quote(key)}")
        assert status in (200, 404), (status, body)
        return body["value"] if status == 200 else None

    def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        query = f"?ttl={ttl}" if ttl else ""
        status, body = self._call("PUT", f"/cache/{quote(key)}{query}", json.dumps(value))
        assert status == 204, (status, body)

    def delete(self, key: str) -> int:
        status, body = self._call("DELETE", f"/cache/{quote(key)}")
        assert status == 200, (status, body)
        return int(body["deleted"])

    def status(self) -> Any:
        """``mode``, ``peers`` and ``stats``."""
        return self._call("GET", "/status")[1]

    def mode(self) -> str:
        return str(self.status()["mode"])

    def is_up(self) -> bool:
        try:
            return bool(self.status())
        except (OSError, http.client.HTTPException):
            return False

    def _call(self, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
        status, _, data = call(self._port, method, path, body)
        return status, json.loads(data) if data else None


class SiteGateway(Gateway):
    """A gateway whose container is at hand."""

    def __init__(self, container: DockerContainer) -> None:
        super().__init__(int(container.get_exposed_port(8000)))
        self._container = container

    def kill(self) -> None:
        self._container.get_wrapped_container().kill()

    def pause(self) -> None:
        """Stop all its processes where they are."""
        self._container.get_wrapped_container().pause()

    def unpause(self) -> None:
        self._container.get_wrapped_container().unpause()

    def find_port(self) -> None:
        """It may be another one after the container was taken off its network and put back."""
        self._port = int(self._container.get_exposed_port(8000))

    @property
    def container_id(self) -> str:
        return str(self._container.get_wrapped_container().id)

    def log(self) -> str:
        return self._container.get_wrapped_container().logs().decode()


class Site:
    """A network with a Redis and gateways.  Whatever was started ends with the stack."""

    def __init__(self, stack: ExitStack, redis_image: str, gateway_image: str, *, gateways: int) -> None:
        self._stack = stack
        self._gateway_image = gateway_image
        self.network = stack.enter_context(Network())
        redis = RedisContainer(redis_image).with_network(self.network).with_network_aliases("redis")
        self.redis = stack.enter_context(redis)
        self.gateways = [self.start_gateway() for _ in range(gateways)]
        for gateway in self.gateways:
            eventually_sync(lambda g=gateway: g.is_up(), 20, message="a gateway answers")

    def start_gateway(self, secret: str = SECRET) -> SiteGateway:
        """One more gateway; it may not answer yet."""
        container = DockerContainer(self._gateway_image).with_network(self.network).with_exposed_ports(8000)
        container.with_volume_mapping(PROGRAM, "/opt/keyvalue.py").with_command(["python", "/opt/keyvalue.py"])
        container.with_envs(
            MESHCACHE_URL="redis://redis:6379/0", MESHCACHE_NAMESPACE=NAMESPACE, MESHCACHE_SECRET=secret
        )
        return SiteGateway(self._stack.enter_context(container.with_kwargs(init=True)))

    def cut_redis_off(self) -> None:
        """Take Redis off the network.  It lives on and keeps its data; what is sent to it vanishes."""
        self.network._unwrap_network.disconnect(self.redis.get_container_id())

    def cut_off(self, gateway: SiteGateway) -> None:
        """Take a gateway off the network; nobody can speak to it then."""
        self.network._unwrap_network.disconnect(gateway.container_id)

    def connect(self, gateway: SiteGateway) -> None:
        self.network.connect(gateway.container_id)
        gateway.find_port()

    def connect_redis(self) -> None:
        self.network.connect(self.redis.get_container_id(), ["redis"])

    def redis_cli(self, *command: str) -> str:
        result = self.redis.exec(["redis-cli", "--raw", *command])
        assert result.exit_code == 0, result.output
        return result.output.decode().strip()

    def wait_for_mode(self, mode: str, timeout: float) -> None:
        for gateway in self.gateways:
            eventually_sync(lambda g=gateway: g.mode() == mode, timeout, message=f"a gateway in mode {mode}")

    def wait_for_peers(self, count: int, timeout: float) -> None:
        for gateway in self.gateways:
            eventually_sync(
                lambda g=gateway: len(g.status()["peers"]) == count, timeout, message=f"a gateway with {count} peers"
            )
