"""Checks of this host: its interfaces, its sockets, its multicast.  Nothing leaves the host but a datagram to the mDNS group."""

from __future__ import annotations

import errno
import ipaddress
import secrets
import socket
import sys
from pathlib import Path

import anyio.to_thread

from ..discovery.mdns import multicast_addresses
from ..errors import ConfigError
from ..interfaces import LocalAddress, usable_addresses
from ..udp import RECEIVE_BUFFER_BYTES, UdpSocket
from .finding import Finding, fail, in_words, ok, skipped, warn
from .patient import Patient

__all__ = [
    "interfaces",
    "mdns_port",
    "multicast",
    "multicast_is_heard",
    "receive_buffer",
    "why_mdns_port_is_not_shared",
]

_MDNS_PORT = 5353
_GROUP, _GROUP_6 = "224.0.0.251", "ff02::fb"
_HEARD_SECONDS = 0.5
_RMEM_MAX = Path("/proc/sys/net/core/rmem_max")


async def interfaces(patient: Patient) -> Finding:
    """Whether the instance can be reached from other hosts at all."""
    try:
        UdpSocket.open(patient.options.interfaces, 0).close()
    except ConfigError as error:
        return fail(str(error), "name an interface or an address that this host has, or none for every usable one")
    here = await anyio.to_thread.run_sync(usable_addresses, patient.options.interfaces)
    shown = in_words(f"{item.ip} ({item.interface})" for item in here)
    if not here:
        return warn("no interface has an address now", "wait for the network, or name another with --interfaces")
    if all(item.is_loopback for item in here):
        seen = f"{shown}: only programs of this host can be reached"
        return warn(seen, "for other hosts there must be a network") if patient.options.interfaces is None else ok(seen)
    public = [item.ip for item in here if ipaddress.ip_address(item.ip).version == 4 and _is_public(item.ip)]
    if public and patient.options.interfaces is None:
        return warn(
            f"{shown}; {in_words(public)} can be reached from everywhere",
            "datagrams are sealed, but nobody out there needs to see them: name the private interface (interfaces=)",
        )
    return ok(shown)


async def receive_buffer(patient: Patient) -> Finding:
    """Whether a burst of datagrams waits in the kernel, or is lost there."""
    try:
        opened = UdpSocket.open(patient.options.interfaces, 0)
    except ConfigError:
        return skipped("there is no socket without an interface")
    with_bookkeeping = 2 if sys.platform == "linux" else 1  # Linux tells the double of what it was asked for
    size = opened.receive_buffer // with_bookkeeping
    opened.close()
    return judge_receive_buffer(size)


def judge_receive_buffer(size: int) -> Finding:
    """What to think of a receive buffer of ``size`` bytes."""
    if size >= RECEIVE_BUFFER_BYTES:
        return ok(f"{_kib(size)} for datagrams that were not read yet")
    limit = ""
    if _RMEM_MAX.exists():  # not in a container: it is the host's
        limit = f" (net.core.rmem_max is {_RMEM_MAX.read_text().strip()})"
    return warn(
        f"only {_kib(size)} for datagrams that were not read yet, of {_kib(RECEIVE_BUFFER_BYTES)} wanted{limit}: "
        "bursts in an outage are lost and sent again",
        f"on the host: sysctl -w net.core.rmem_max={RECEIVE_BUFFER_BYTES}",
    )


async def multicast(patient: Patient) -> Finding:
    """Whether a datagram to the group of mDNS comes back on each interface."""
    if not patient.uses_mdns:
        return skipped("discovery does not use mDNS")
    here = await anyio.to_thread.run_sync(usable_addresses, patient.options.interfaces)
    speaks = [item for item in here if item.ip in multicast_addresses(here)]
    if not speaks:
        return _mdns_fails(patient, "no interface to speak on", "see interfaces")
    deaf = [item for item in speaks if not await anyio.to_thread.run_sync(multicast_is_heard, item)]
    if deaf:
        return _mdns_fails(
            patient,
            f"no multicast on {in_words(f'{item.interface} ({item.ip})' for item in deaf)}: a datagram to "
            f"{_group(deaf[0])} was not heard",
            f"let UDP to {_GROUP} and {_GROUP_6} pass the firewall of this host; or find peers otherwise: discovery= "
            "dns://name:port or host:port",
        )
    return ok(
        f"heard on {in_words(f'{item.interface} ({item.ip})' for item in speaks)}; "
        "whether the network carries it to other hosts, only peers show"
    )


async def mdns_port(patient: Patient) -> Finding:
    """Whether port 5353 can be shared, as it has to be."""
    if not patient.uses_mdns:
        return skipped("discovery does not use mDNS")
    here = await anyio.to_thread.run_sync(usable_addresses, patient.options.interfaces)
    family = socket.AF_INET6 if here and all(":" in item.ip for item in here) else socket.AF_INET
    error = why_mdns_port_is_not_shared(family)
    if error is None:
        return ok(f"UDP port {_MDNS_PORT} can be shared")
    if error.errno == errno.EADDRINUSE:
        return _mdns_fails(
            patient,
            f"UDP port {_MDNS_PORT} is held by another program that does not share it",
            f"see who it is (ss -ulpn sport = :{_MDNS_PORT}) and let it share the port (avahi: disallow-other-stacks=no), "
            "or find peers otherwise: discovery= dns://name:port or host:port",
        )
    return _mdns_fails(patient, f"UDP port {_MDNS_PORT} cannot be used: {error.strerror}", "see the cause")


def why_mdns_port_is_not_shared(family: socket.AddressFamily = socket.AF_INET) -> OSError | None:
    """What the system says to one more socket on port 5353; None if it may be."""
    try:
        with _shared_socket(family) as shared:
            shared.bind(("", _MDNS_PORT))
    except OSError as error:
        return error
    return None


def multicast_is_heard(address: LocalAddress) -> bool:
    """Whether a datagram to the mDNS group, sent on this interface, comes back there.  Blocks for half a second at most."""
    try:
        return _is_heard_6(address) if ":" in address.ip else _is_heard_4(address.ip)
    except OSError:
        return False


def _is_heard_4(ip: str) -> bool:
    with _shared_socket(socket.AF_INET) as probe:
        probe.bind(("", 0))
        probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(_GROUP) + socket.inet_aton(ip))
        probe.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(ip))
        probe.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        return _comes_back(probe, (_GROUP, probe.getsockname()[1]))


def _is_heard_6(address: LocalAddress) -> bool:
    index = address.interface_index
    with _shared_socket(socket.AF_INET6) as probe:
        probe.bind(("::", 0))
        group = socket.inet_pton(socket.AF_INET6, _GROUP_6) + index.to_bytes(4, sys.byteorder)
        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
        return _comes_back(probe, (_GROUP_6, probe.getsockname()[1], 0, index))


def _comes_back(probe: socket.socket, target: tuple[str, int] | tuple[str, int, int, int]) -> bool:
    probe.settimeout(_HEARD_SECONDS)
    token = secrets.token_bytes(16)
    probe.sendto(token, target)
    return probe.recv(64) == token


def _shared_socket(family: socket.AddressFamily) -> socket.socket:
    """As mDNS needs it: every program of this host may have one on the same port."""
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return made


def _mdns_fails(patient: Patient, seen: str, advice: str) -> Finding:
    """Broken if it is the only way to find peers."""
    return warn(seen, advice) if patient.has_other_sources else fail(seen, advice)


def _group(item: LocalAddress) -> str:
    return _GROUP_6 if ":" in item.ip else _GROUP


def _is_public(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    return address.is_global and not address.is_multicast


def _kib(size: int) -> str:
    return f"{size / 2**20:g} MiB" if size % 2**20 == 0 else f"{size / 1024:.0f} KiB"
