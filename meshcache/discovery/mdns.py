"""Peers on the local network by multicast DNS (RFC 6762, RFC 6763), through python-zeroconf.

zeroconf runs in threads of its own, with an event loop of its own there; so one way serves asyncio and trio.  All calls
that may block are made in worker threads, and what it finds comes back into the event loop through an inbox.

mDNS never notices that a peer was killed (its records live for 75 minutes) and may tell old addresses: it suggests, and
the mesh's heartbeats decide.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import logging
import socket
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, NamedTuple

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

from ..interfaces import LocalAddress, usable_addresses
from .base import Announcement

if TYPE_CHECKING:
    from zeroconf import ServiceBrowser, ServiceInfo, ServiceStateChange, Zeroconf

__all__ = ["SERVICE_TYPE", "Mdns", "multicast_addresses", "namespace_digest"]

SERVICE_TYPE = "_meshcache._udp.local."

_PROTOCOL_VERSION = "1"
_REPEAT_SECONDS = 15.0
_WATCH_SECONDS = 3.0
_REQUEST_MS = 3000
_CALL_SECONDS = 10.0
_MAX_SERVICES = 1024  # anybody on the network may announce what he likes
_MAX_ADDRESSES = 16
_MAX_REQUESTS = 64

Candidate = tuple[str, int]


def namespace_digest(namespace: str) -> str:
    """What an announcement tells of the namespace: the first 8 bytes of a SHA-256, in hex.  Not a secret, only not a name."""
    return hashlib.sha256(b"meshcache namespace\0" + namespace.encode()).hexdigest()[:16]


class Mdns:
    """Announces this instance on the local network and finds the others of its namespace.

    Args:
        interfaces: IP addresses or names of the interfaces to speak on, for example ``["127.0.0.1"]``.  None: those that
            the cache uses.
    """

    name = "mDNS"

    def __init__(self, interfaces: Sequence[str] | None = None) -> None:
        self._interfaces = None if interfaces is None else tuple(interfaces)

    def __repr__(self) -> str:
        return f"Mdns({'' if self._interfaces is None else list(self._interfaces)})"

    async def run(self, announcement: Announcement, found: Callable[[str, int], None]) -> None:
        """See :class:`~meshcache.discovery.base.Discovery`.  Says goodbye and is silent within a second of being cancelled.

        Raises:
            RuntimeError: none of the interfaces can be used now.
            OSError: errno 19 (ENODEV), 98 (EADDRINUSE, port 5353 is held by another) or another of the network.
        """
        # Threads of its own: a program that keeps all of anyio's busy must not keep peers from being found.
        threads = anyio.CapacityLimiter(2)
        while True:
            site = await anyio.to_thread.run_sync(self._look_around, announcement, limiter=threads)
            await self._run_at(site, announcement, found, threads)

    async def _run_at(
        self,
        site: _Site,
        announcement: Announcement,
        found: Callable[[str, int], None],
        threads: anyio.CapacityLimiter,
    ) -> None:
        """Until the network is another: then everything is made anew, since sockets stay where they were joined."""
        inbox = _Inbox()
        session = _Session(site, announcement, inbox)
        try:
            await anyio.to_thread.run_sync(session.open, limiter=threads)
            watch_at = anyio.current_time() + _WATCH_SECONDS
            repeat_at = anyio.current_time() + _REPEAT_SECONDS
            while True:
                for host, port in inbox.take_news():
                    found(host, port)
                now = anyio.current_time()
                if now >= repeat_at:
                    repeat_at = now + _REPEAT_SECONDS
                    for host, port in inbox.standing:
                        found(host, port)
                if now >= watch_at:
                    watch_at = now + _WATCH_SECONDS
                    if await anyio.to_thread.run_sync(self._look_around, announcement, limiter=threads) != site:
                        return
                with anyio.move_on_after(min(watch_at, repeat_at) - now):
                    await inbox.wait()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(session.close, limiter=threads)

    def _look_around(self, announcement: Announcement) -> _Site:
        """Where to speak and what to say, as the network is now."""
        wanted = self._interfaces
        if wanted is None:
            wanted = announcement.interfaces if announcement.everywhere else announcement.addresses
        here = usable_addresses(wanted)
        speaks = multicast_addresses(here)
        if not speaks:
            names = "any" if wanted is None else ", ".join(wanted) or "none"
            raise RuntimeError(f"no network interface to use: wanted {names}, and this host has no such address now")
        return _Site(here, speaks, announcement.addresses_now())


class _Site(NamedTuple):
    """The network as seen from here."""

    here: tuple[LocalAddress, ...]  # with the interfaces' numbers: one that was made anew is another
    speaks: tuple[str, ...]
    told: tuple[str, ...]


class _Inbox:
    """What zeroconf's threads have found, for the event loop in which this was made."""

    def __init__(self) -> None:
        self._token = anyio.lowlevel.current_token()
        self._news: deque[tuple[str, tuple[Candidate, ...]]] = deque()
        self._wake = anyio.Event()
        self._standing: dict[str, tuple[Candidate, ...]] = {}

    def put(self, name: str, candidates: tuple[Candidate, ...]) -> None:
        """From another thread: a service has these addresses now; none if it is gone."""
        self._news.append((name, candidates))
        # A RuntimeError of asyncio is a loop that was closed this very moment.
        with contextlib.suppress(anyio.RunFinishedError, RuntimeError):
            anyio.from_thread.run_sync(self._notify, token=self._token)

    async def wait(self) -> None:
        """Until there is news."""
        await self._wake.wait()
        self._wake = anyio.Event()

    def take_news(self) -> list[Candidate]:
        """The candidates that appeared or changed since the last time."""
        new: list[Candidate] = []
        while self._news:
            name, candidates = self._news.popleft()
            self._standing.pop(name, None)
            if candidates:
                self._standing[name] = candidates
                new += candidates
            while len(self._standing) > _MAX_SERVICES:
                del self._standing[next(iter(self._standing))]  # the oldest, whom the mesh has long met
        return new

    @property
    def standing(self) -> list[Candidate]:
        """The candidates of all services that stand."""
        return [candidate for candidates in self._standing.values() for candidate in candidates]

    def _notify(self) -> None:
        self._wake.set()


class _Session:
    """One life of zeroconf's threads and sockets.  ``open`` and ``close`` block: for a worker thread."""

    def __init__(self, site: _Site, announcement: Announcement, inbox: _Inbox) -> None:
        self._site = site
        self._announcement = announcement
        self._inbox = inbox
        self._node_id = f"{announcement.node_id:016x}"
        self._own_name = f"{self._node_id}.{SERVICE_TYPE}"
        self._digest = namespace_digest(announcement.namespace)
        self._zeroconf: Zeroconf | None = None
        self._browser: ServiceBrowser | None = None
        self._requests: set[Future[bool]] = set()

    def open(self) -> None:
        from zeroconf import DNSQuestionType, ServiceBrowser

        zeroconf = self._zeroconf = _open_zeroconf(list(self._site.speaks))
        if not zeroconf.engine.senders:  # it only logs an address that it cannot use
            raise RuntimeError(f"mDNS cannot use any of {', '.join(self._site.speaks)}")
        # Answers by multicast (QM): all programs of a host share port 5353, and the kernel gives a unicast answer to any.
        self._browser = ServiceBrowser(
            zeroconf, SERVICE_TYPE, handlers=[self._changed], question_type=DNSQuestionType.QM
        )
        # Names are random, so there is nothing to probe for, which would take a second.  The announcement is repeated
        # for half a second; nobody waits for that.
        registering = zeroconf.async_register_service(self._own_info(), cooperating_responders=True)
        asyncio.run_coroutine_threadsafe(registering, _loop(zeroconf)).result(_CALL_SECONDS)

    def close(self) -> None:
        from zeroconf import EventLoopBlocked

        zeroconf, self._zeroconf = self._zeroconf, None
        if zeroconf is None:
            return
        if self._browser is not None:
            self._browser.cancel()
        for request in list(self._requests):
            request.cancel()
        # Says goodbye first.  It raises these if its thread does not get to run for 10 s; whoever closes has given up on
        # it anyway.
        with contextlib.suppress(EventLoopBlocked, TimeoutError):
            zeroconf.close()

    def _own_info(self) -> ServiceInfo:
        from zeroconf import ServiceInfo

        return ServiceInfo(
            SERVICE_TYPE,
            self._own_name,
            port=self._announcement.port,
            properties={"v": _PROTOCOL_VERSION, "ns": self._digest, "id": self._node_id},
            server=f"meshcache-{self._node_id}.local.",
            parsed_addresses=list(self._site.told),
        )

    def _changed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        """In the browser's thread; the names of the arguments are zeroconf's."""
        from zeroconf import ServiceInfo, ServiceStateChange

        if state_change is ServiceStateChange.Removed:
            self._inbox.put(name, ())
            return
        info = ServiceInfo(service_type, name)
        if info.load_from_cache(zeroconf):
            if candidates := self._candidates(info):
                self._inbox.put(name, candidates)
        elif state_change is ServiceStateChange.Added and len(self._requests) < _MAX_REQUESTS:
            # Some of its records were lost.  The answer comes as an update; the other services do not wait for it.
            request = asyncio.run_coroutine_threadsafe(info.async_request(zeroconf, _REQUEST_MS), _loop(zeroconf))
            self._requests.add(request)
            request.add_done_callback(self._requests.discard)

    def _candidates(self, info: ServiceInfo) -> tuple[Candidate, ...]:
        """The addresses of a service; none if it is of another namespace, another protocol, or this instance itself."""
        told = info.decoded_properties
        if told.get("v") != _PROTOCOL_VERSION or told.get("ns") != self._digest or told.get("id") == self._node_id:
            return ()
        hosts = [host for host in info.parsed_scoped_addresses() if _is_plausible(host)]
        return tuple((host, info.port) for host in hosts[:_MAX_ADDRESSES] if info.port)


def _open_zeroconf(addresses: list[str]) -> Zeroconf:
    from zeroconf import Zeroconf

    try:
        with _logs_no_error():
            return Zeroconf(interfaces=addresses, use_asyncio=False)
    except Exception as error:
        # zeroconf leaves its sockets open when it fails here, reachable only through the traceback.
        for frame, _ in traceback.walk_tb(error.__traceback__):
            for value in frame.f_locals.values():
                if isinstance(value, socket.socket):
                    value.close()
        raise


@contextlib.contextmanager
def _logs_no_error() -> Iterator[None]:
    """Zeroconf logs an error besides raising it, and here it would do so every ten seconds for ever: what it raises is told."""
    thread, logger = threading.get_ident(), logging.getLogger("zeroconf")

    def passes(record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR or record.thread != thread

    logger.addFilter(passes)
    try:
        yield
    finally:
        logger.removeFilter(passes)


def _loop(zeroconf: Zeroconf) -> asyncio.AbstractEventLoop:
    if zeroconf.loop is None:
        raise RuntimeError("zeroconf's thread does not run")
    return zeroconf.loop


def multicast_addresses(here: Sequence[LocalAddress]) -> tuple[str, ...]:
    """One address for each interface, IPv4 if it has one: a group is joined once an interface."""
    best: dict[int, str] = {}
    for item in here:
        if item.interface_index not in best or (":" in best[item.interface_index] and ":" not in item.ip):
            best[item.interface_index] = item.ip
    return tuple(best.values())


def _is_plausible(host: str) -> bool:
    """Whether a peer can have this address.  A link-local IPv6 address may be another host's on each interface."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    outside = address.is_multicast or address.is_unspecified or address.is_reserved
    return not outside and not (address.version == 6 and address.is_link_local)
