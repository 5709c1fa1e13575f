"""The Redis of the demo, in two shapes with one face: one of our own that is killed, or the user's, whose way is cut.

Also the eyes that look into it past every instance: a plain client of redis-py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit, urlunsplit

from ...errors import ConfigError
from ...redis.url import Endpoint, parse_url, redact
from ...testing.proxy import OutageProxy
from ...testing.server import RedisServer

if TYPE_CHECKING:
    import redis

__all__ = ["DemoServer", "NoServer", "RawRedis", "open_server"]


_TIMEOUT = 5.0


class NoServer(Exception):  # noqa: N818 - what the command tells before it begins
    """There is no server to show anything with; the message says what to do."""


class DemoServer(Protocol):
    """A Redis that can go away and come back.

    Attributes:
        url: what the instances are given.
        name: software and version.
        where: host and port.
        goes: what happens to it, in words: ``"The server is killed"``.
        returns: and how that ends.
        keeps_data: whether what is in it outlives the demo.
        raw: looks into it, whatever the instances can reach.
    """

    url: str
    name: str
    where: str
    goes: str
    returns: str
    keeps_data: bool
    raw: RawRedis

    def cut(self) -> None:
        """From now on no instance reaches it."""
        ...

    def restore(self) -> None:
        """It answers again, when this returns."""
        ...

    def close(self) -> str:
        """Give everything back; what could not be, or "".  May be called twice."""
        ...


class RawRedis:
    """What is in Redis, without meshcache."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def name(self) -> str:
        """Software and version."""
        info: dict[str, Any] = self._client.info("server")
        if "valkey_version" in info:
            return f"Valkey {info['valkey_version']}"
        return f"Redis {info.get('redis_version', '')}".strip()

    def values(self, namespace: str, keys: Sequence[str]) -> dict[str, tuple[Any, float]]:
        """Of the keys that are there: the value, and the seconds that it has to live (-1 for ever)."""
        found = {}
        for key in keys:
            name = f"{namespace}:{key}"
            data: Any = self._client.get(name)
            if data is not None:
                found[key] = (json.loads(data), float(self._client.pttl(name)) / 1000)
        return found

    def names_with(self, namespace: str) -> list[bytes]:
        """Every key whose name has the namespace in it, those that only meshcache itself reads too."""
        return sorted(set(self._client.scan_iter(match=f"*{namespace}*", count=1000)))

    def clear(self, namespace: str) -> int:
        """Remove all of those; how many there were."""
        names = self.names_with(namespace)
        for batch in _batches(names, 500):
            self._client.delete(*batch)
        return len(names)


class OwnServer:
    """A server of our own; killed and started again with what it had on disk, as a service that crashed would be."""

    goes = "The server is killed"
    returns = "The server is back"
    keeps_data = False

    def __init__(self) -> None:
        # Written before it answers; it need not reach the platter, since only the process is killed, not the machine.
        self._server = RedisServer(persistent=True, arguments=("--appendfsync", "no"))
        try:
            self._server.start()
            self.raw = RawRedis(self._server.client())
            self.name = self.raw.name()
        except BaseException:
            self._server.close()
            raise
        self.url = self._server.url
        self.where = f"{self._server.host}:{self._server.port}"

    def cut(self) -> None:
        self._server.kill()

    def restore(self) -> None:
        self._server.start()

    def close(self) -> str:
        directory = self._server.directory
        pid = self._server.pid if self._server.running else None
        self._server.close()
        left = [f"the server's process {pid}"] if pid is not None and _lives(pid) else []
        left += [f"the server's directory {directory}"] if directory.exists() else []
        return ", ".join(left)


class GivenServer:
    """A server that was there before: nothing happens to it, but to the way there."""

    goes = "The way to Redis is cut"
    returns = "The way is open again"
    keeps_data = True

    def __init__(self, url: str) -> None:
        try:
            endpoint = parse_url(url)
        except ConfigError as error:
            raise NoServer(f"--redis-{error}") from error
        if not isinstance(endpoint, Endpoint) or endpoint.scheme != "redis":
            raise NoServer(
                "--redis-url: the demo cuts the way to the server, and can do so for redis:// only, "
                f"not for {url.partition('://')[0].lower()}://"
            )
        self.where = endpoint.name
        self._client = _client(endpoint)
        try:
            self.raw = RawRedis(self._client)
            self.name = self._reach(url)
            self._proxy = OutageProxy(endpoint.host, endpoint.port)
        except BaseException:
            self._client.close()
            raise
        parts = urlsplit(url)
        login, at, _ = parts.netloc.rpartition("@")
        self.url = urlunsplit(parts._replace(netloc=f"{login}{at}{self._proxy.host}:{self._proxy.port}"))

    def cut(self) -> None:
        self._proxy.refuse()

    def restore(self) -> None:
        self._proxy.forward()

    def close(self) -> str:
        self._proxy.close()
        self._client.close()
        return ""

    def _reach(self, url: str) -> str:
        import redis

        try:
            return self.raw.name()
        except (redis.RedisError, OSError) as error:
            raise NoServer(f"no Redis answers at {redact(url)}: {error}") from error


def open_server(url: str | None) -> DemoServer:
    """The server of this demo: the user's, or one that is started now.

    Raises:
        NoServer: there is none; the message says what to do.
    """
    if url is not None:
        return GivenServer(url)
    try:
        return OwnServer()
    except (OSError, RuntimeError) as error:  # not found, no port, does not start
        raise NoServer(str(error)) from error


def _client(endpoint: Endpoint) -> redis.Redis:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis(
        **endpoint.connection_arguments(),
        socket_timeout=_TIMEOUT,
        socket_connect_timeout=_TIMEOUT,
        retry=Retry(NoBackoff(), 1),
    )


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _batches(names: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]
