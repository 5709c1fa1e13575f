"""HTTP/1.1 over connections that are kept: as much as this load needs, and as little work as it can be.

A load generator on the machine that it measures must not be what takes the time.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

__all__ = ["Gateway", "Reply", "RequestError"]

TIMEOUT = 5.0
"""In seconds.  A request that takes longer has failed."""

MAX_IDLE = 3.0
"""In seconds.  Servers close connections that idle for a while; one that is about to be closed is not used."""


class RequestError(Exception):
    """A request that got no answer."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


class Gateway:
    """One gateway, with as many connections as there are requests under way.

    Args:
        url: ``http://host:port``.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{url!r} is not http://host:port")
        self._host, self._port = parts.hostname, parts.port or 80
        self._idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for _, _, writer in self._idle:
            writer.close()

    async def ask(self, method: str, path: str, body: bytes = b"") -> Reply:
        """Send a request and wait for the answer.

        Raises:
            RequestError: there was none within ``TIMEOUT``, or it was no HTTP.
        """
        try:
            async with asyncio.timeout(TIMEOUT):
                reader, writer = self._kept() or await asyncio.open_connection(self._host, self._port)
                try:
                    writer.write(self._request(method, path, body))
                    reply = await _read(reader)
                except BaseException:
                    writer.close()
                    raise
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            raise RequestError(f"{method} {path}: {error!r}") from error
        self._idle.append((asyncio.get_running_loop().time(), reader, writer))
        return reply

    def _kept(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """The connection that was used last, if it is still good."""
        oldest = asyncio.get_running_loop().time() - MAX_IDLE
        while self._idle:
            used, reader, writer = self._idle.pop()
            if used >= oldest and not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    def _request(self, method: str, path: str, body: bytes) -> bytes:
        head = f"{method} {path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-length: {len(body)}\r\n"
        return f"{head}content-type: application/json\r\n\r\n".encode() + body


async def _read(reader: asyncio.StreamReader) -> Reply:
    """One answer, of known length."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
    _, status, *_ = first.split(" ", 2)
    pairs = (line.partition(":") for line in lines if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    return Reply(int(status), headers, await reader.readexactly(int(headers.get("content-length", 0))))
