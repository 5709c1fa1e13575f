"""The mesh's socket: raw and non-blocking, read dry at each wake-up.

anyio's own UDP sockets keep 100 datagrams on asyncio and drop the oldest without a word; here the kernel's buffer, raised
to 4 MiB, is the only queue.  This room moves bytes; it does not look into them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NoReturn

import anyio

from .errors import ConfigError
from .interfaces import LocalAddress, is_interface, local_addresses, usable_addresses
from .loops import asyncio_loop

__all__ = ["RECEIVE_BUFFER_BYTES", "Address", "UdpSocket"]

Address = tuple[str, int]
"""IP address as text, UDP port.  An IPv4 address is always written as one, also where it came over an IPv6 socket."""

RECEIVE_BUFFER_BYTES = 4 * 2**20
"""What is asked of the kernel for datagrams that were not read yet."""

_SO_RCVBUFFORCE = 33  # Linux, with CAP_NET_ADMIN: beyond net.core.rmem_max; the socket module does not name it
_DATAGRAM_BYTES = 2048  # a datagram of the mesh has 1 200 at most; what is cut off here would not open anyway
_DATAGRAMS_AT_ONCE = 64


class UdpSocket:
    """A bound UDP socket.  Made by :meth:`open`.

    Attributes:
        port: the UDP port.
        addresses: the IP addresses under which others can reach this socket, as they were when it was opened.
        everywhere: an address that this host, or an interface which was named, gets later reaches it too.
        receive_buffer: bytes that the kernel keeps for datagrams not read yet, as far as it tells.
        send_errors: how many datagrams could not be sent and were dropped, one for each destination.
    """

    def __init__(self, bound: socket.socket, addresses: tuple[str, ...], *, everywhere: bool) -> None:
        self._socket = bound
        self._is_ipv6 = bound.family == socket.AF_INET6
        self.addresses = addresses
        self.everywhere = everywhere
        self.port: int = bound.getsockname()[1]
        self.receive_buffer = _raise_receive_buffer(bound)
        self.send_errors = 0
        self._watch: _Watch | None = None

    @classmethod
    def open(cls, interfaces: Sequence[str] | None, port: int) -> UdpSocket:
        """Bind a socket.

        With one IP address it is bound to that address.  With None, several, or the name of an interface, whose addresses
        may change, it is bound to all (IPv4 and IPv6 in one socket where the host has both): datagrams then also come in
        through interfaces that were not named, and are judged by their seal, as every datagram is.  Link-local addresses of
        IPv6 are not told to others, but answered.

        Args:
            interfaces: IP addresses or names of interfaces; None for every usable one.
            port: UDP port; 0 for any free one.

        Raises:
            ConfigError: an interface is not of this host, or the port cannot be had; names the option and the fix.
        """
        local = local_addresses()
        usable = usable_addresses(interfaces, local)
        for wanted in interfaces or ():
            if not usable_addresses([wanted], local) and not is_interface(wanted):
                raise ConfigError("interfaces", _unknown(wanted, local))
        ips = tuple(dict.fromkeys(item.ip for item in usable))
        follows = interfaces is None or any(map(is_interface, interfaces))
        if interfaces is not None and len(ips) == 1 and (not follows or usable[0].is_loopback):
            return cls(_bind(ips[0], port), ips, everywhere=False)
        wildcard = follows or any(":" in ip for ip in ips)
        bound = (_bind_dual_stack(port) if wildcard else None) or _bind("0.0.0.0", port)  # noqa: S104 - asked for
        if bound.family == socket.AF_INET:
            ips = tuple(ip for ip in ips if ":" not in ip)
        return cls(bound, ips, everywhere=follows)

    async def listen(self, take: Callable[[Iterable[tuple[bytes, Address]]], None]) -> None:
        """Hand over what arrives, until cancelled or closed.

        Args:
            take: called in the event loop as soon as datagrams are there, with an iterator over them, each with its sender, 64
                at most.  Each is read when it is asked for.  What is not asked for stays in the kernel's buffer, and
                ``take`` is called again once others had their turn.  What it raises is raised here.

        Raises:
            anyio.ClosedResourceError: the socket was closed, before or meanwhile.
        """
        if self._socket.fileno() < 0:
            raise anyio.ClosedResourceError
        loop = asyncio_loop()
        if loop is not None:
            with contextlib.suppress(NotImplementedError):  # Windows' proactor; anyio has a thread for it
                self._watch = _Watch(loop, self._socket, lambda: take(self._read()))
        if self._watch is not None:
            await self._watch.run()
        while True:
            try:
                await anyio.wait_readable(self._socket)
            except (OSError, ValueError) as error:  # its file descriptor is gone
                raise anyio.ClosedResourceError from error
            if self._socket.fileno() < 0:
                raise anyio.ClosedResourceError
            take(self._read())

    def send(self, datagrams: Iterable[tuple[bytes, Iterable[Address]]]) -> None:
        """Send each datagram to all its destinations, without waiting.

        What the kernel does not take now (its buffer is full, no route, an address of a family that this socket does not
        speak) is counted in ``send_errors`` and dropped: the mesh repairs losses by itself.
        """
        for data, destinations in datagrams:
            for host, port in destinations:
                target = _target(host, self._is_ipv6)
                try:
                    if target is None:
                        self.send_errors += 1
                    else:
                        self._socket.sendto(data, (target, port))
                except (OSError, OverflowError):  # the latter: a port that is none
                    self.send_errors += 1

    def close(self) -> None:
        """Close the socket.  A task in :meth:`listen` gets ``ClosedResourceError``.  May be called twice."""
        if self._socket.fileno() >= 0:
            if self._watch is not None:
                self._watch.close()
            with contextlib.suppress(RuntimeError):  # no event loop runs any more, so nobody waits
                anyio.notify_closing(self._socket)
            self._socket.close()

    def abandon(self) -> None:
        """Close a forked child's copy.  Tells no event loop: the child shares what its parent's waits with."""
        self._socket.close()

    def _read(self) -> Iterator[tuple[bytes, Address]]:
        for _ in range(_DATAGRAMS_AT_ONCE):
            try:
                data, sender = self._socket.recvfrom(_DATAGRAM_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                continue  # ICMP told of an earlier datagram's fate: its peer is gone, which heartbeats find out
            host: str = sender[0]
            yield data, (host.removeprefix("::ffff:") if "." in host else host, sender[1])


class _Watch:
    """Calls ``readable`` whenever a socket is, on asyncio: in the very callback of the selector.

    To wake a task that reads, as ``anyio.wait_readable`` does, takes one more turn of the event loop, and putting the socket
    into the selector and taking it out for each wait costs as much as reading a datagram.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, watched: socket.socket, readable: Callable[[], None]) -> None:
        self._loop = loop
        self._descriptor = watched.fileno()
        self._readable = readable
        self._ended: asyncio.Future[NoReturn] = loop.create_future()
        loop.add_reader(self._descriptor, self._call)

    async def run(self) -> NoReturn:
        """Until cancelled, closed, or ``readable`` raises, which is raised here."""
        try:
            await self._ended
        finally:
            self._unwatch()

    def close(self) -> None:
        """Let go of the socket, which is still open, and end :meth:`run`."""
        self._end(anyio.ClosedResourceError())

    def _call(self) -> None:
        try:
            self._readable()
        except Exception as error:  # noqa: BLE001 - raised again by the task
            self._end(error)

    def _end(self, error: Exception) -> None:
        self._unwatch()
        if not self._ended.done():
            self._ended.set_exception(error)

    def _unwatch(self) -> None:
        if not self._loop.is_closed():
            self._loop.remove_reader(self._descriptor)


@lru_cache(maxsize=4096)
def _target(host: str, is_ipv6: bool) -> str | None:
    """The host as this family's socket takes it; None if it cannot, or if it is a name, which would be resolved, blocking."""
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return None
    if is_ipv6:
        return host if version == 6 else f"::ffff:{host}"
    return host if version == 4 else None


def _bind(ip: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        bound.setblocking(False)
        bound.bind((ip, port))
    except OSError as error:
        bound.close()
        raise _config_error(error, ip, port) from error
    return bound


def _bind_dual_stack(port: int) -> socket.socket | None:
    """One socket for IPv6 and IPv4; None where the host has no IPv6."""
    try:
        bound = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    except OSError:
        return None
    try:
        bound.setblocking(False)
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.bind(("::", port))
    except OSError as error:
        bound.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise _config_error(error, "::", port) from error
        return None
    return bound


def _raise_receive_buffer(bound: socket.socket) -> int:
    if sys.platform == "linux":
        try:
            bound.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
        except OSError:  # not permitted: as much as net.core.rmem_max allows
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    else:
        size = RECEIVE_BUFFER_BYTES
        while size >= 65_536:  # BSD refuses too much rather than giving what it has
            try:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
                break
            except OSError:
                size //= 2
    return bound.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def _config_error(error: OSError, ip: str, port: int) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError("port", f"UDP port {port} of {ip} is taken by another program; choose another, or 0 for any")
    if error.errno == errno.EACCES:
        return ConfigError("port", f"UDP port {port} needs more rights than this process has; choose one from 1024 up")
    return ConfigError("interfaces", f"a socket cannot be bound to {ip}: {error.strerror}")


def _unknown(wanted: str, local: Sequence[LocalAddress]) -> str:
    known = ", ".join(f"{item.ip} ({item.interface})" for item in local) or "no address at all"
    return f"{wanted!r} is neither an IP address nor the name of a network interface of this host, which has {known}"
