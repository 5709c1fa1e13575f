"""What Redis itself was told, and when: the ``MONITOR`` of one server through all its restarts.

Only for the story of a key; nothing is judged by it.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping

from meshcache.testing.history.records import Incident

__all__ = ["Monitor"]

_LINE = re.compile(rb'(\d+\.\d+) \[\d+ (\S+)\] "(\w+)" ?(.*)')
_WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_WRITES = {b"SET", b"UNLINK", b"DEL", b"PEXPIRE", b"PERSIST", b"INCRBY", b"DECRBY", b"INCR", b"EVALSHA"}
_ESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|.)")
_PLAIN = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b", b"\\": b"\\", b'"': b'"'}
_LONGEST = 160
_STAMP_BYTES = 16
_KINDS = {b"\0": "invalidate", b"\1": "delete", b"\2": "set", b"\3": "sweep"}
_HASH = 40
_DAY = 86_400.0


class Monitor:
    """Listens to a server on loopback.

    Args:
        host: the server's.
        port: the server's.
        prefix: of the Redis keys that are told.
        sources: who asks from which IP address.
    """

    def __init__(self, host: str, port: int, prefix: str, sources: Mapping[str, str]) -> None:
        self._address = (host, port)
        self._prefix = prefix.encode()
        self._sources = sources
        self._chunks: list[list[bytes]] = []
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._wall_ahead = time.time() - time.monotonic()

    def listen(self) -> None:
        """The server was started: hear all that it is told from now on, until it ends."""
        listener = socket.create_connection(self._address, timeout=5)
        listener.settimeout(None)
        listener.sendall(b"MONITOR\r\n")
        chunks: list[bytes] = [listener.recv(5)]  # +OK: nothing is missed from here on
        self._chunks.append(chunks)
        self._sockets.append(listener)
        thread = threading.Thread(target=self._hear, args=(listener, chunks), daemon=True)
        self._threads.append(thread)
        thread.start()

    def close(self) -> None:
        """Listen no more."""
        for listener in self._sockets:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def incidents(self, began: float) -> Iterator[Incident]:
        """The writes that it was told, each with its key.

        Args:
            began: what the stamps that are shown count their seconds from.
        """
        for chunks in self._chunks:
            for line in b"".join(chunks).split(b"\r\n"):
                match = _LINE.match(line.lstrip(b"+"))
                if match and match[3].upper() in _WRITES:
                    at, source, command, rest = match.groups()
                    yield from self._told(float(at), source, command, rest, began)

    def _told(self, at: float, source: bytes, command: bytes, rest: bytes, began: float) -> Iterator[Incident]:
        words = _WORD.findall(rest)
        text = " ".join(self._readable(word, began + self._wall_ahead) for word in words)[:_LONGEST]
        address, _, port = source.decode().rpartition(":")
        by = "a script" if source == b"lua" else f"{self._sources.get(address, address)} ({port})"
        for word in words:
            if word.startswith(self._prefix):
                key = word[len(self._prefix) :].decode()
                yield Incident(at - self._wall_ahead, f"Redis was told by {by}: {command.decode().upper()} {text}", key)

    @staticmethod
    def _readable(word: bytes, began: float) -> str:
        """A word as it is; of a stamp (a clock's milliseconds in 48 bits, a counter in 16, a node id in 64) and the kind of write
        behind it what they say; scripts' hashes are left out."""
        if len(word) == _HASH:
            return ""
        plain = _ESCAPE.sub(lambda match: _PLAIN.get(match[1]) or bytes([int(match[1][1:], 16)]), word)
        second = int.from_bytes(plain[:6], "big") / 1000 - began
        if len(plain) >= _STAMP_BYTES and abs(second) < _DAY:
            kind = _KINDS.get(plain[_STAMP_BYTES:], "")
            return f"<{kind} {second:.3f}.{int.from_bytes(plain[6:8], 'big')} of {plain[8:10].hex()}…>"
        return word.decode("ascii", "replace")

    @staticmethod
    def _hear(listener: socket.socket, chunks: list[bytes]) -> None:
        with listener, contextlib.suppress(OSError):
            while data := listener.recv(65_536):
                chunks.append(data)
