"""The IP addresses that this host has, and which of them ``interfaces=`` means.

Asked of the operating system at each call; nothing is kept, and nothing is sent.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = ["LocalAddress", "is_interface", "local_addresses", "usable_addresses"]


class LocalAddress(NamedTuple):
    """One IP address of one network interface."""

    interface: str
    """For example ``eth0``."""
    interface_index: int
    """The operating system's number of the interface; another one if it was removed and made again."""
    ip: str

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can reach it."""
        return ipaddress.ip_address(self.ip).is_loopback


def local_addresses() -> tuple[LocalAddress, ...]:
    """Every address of this host but the link-local ones of IPv6: those mean nothing without the name of an interface."""
    import ifaddr  # comes with zeroconf; not on the way of ``import meshcache``

    return tuple(
        LocalAddress(str(adapter.name), adapter.index or 0, ip)
        for adapter in ifaddr.get_adapters()
        for ip in (str(item.ip[0] if isinstance(item.ip, tuple) else item.ip) for item in adapter.ips)
        if not (":" in ip and ipaddress.ip_address(ip).is_link_local)
    )


def is_interface(wanted: str) -> bool:
    """Whether this is the name of an interface that this host has now, with or without an address."""
    return wanted in (name for _, name in socket.if_nameindex())


def usable_addresses(
    interfaces: Sequence[str] | None = None, local: Iterable[LocalAddress] | None = None
) -> tuple[LocalAddress, ...]:
    """The addresses that ``interfaces`` means, as far as this host has them now.

    Args:
        interfaces: IP addresses or names of interfaces.  None: all but loopback, or loopback if there is nothing else.
        local: what to choose from; None: :func:`local_addresses`.
    """
    have = tuple(local_addresses() if local is None else local)
    if interfaces is None:
        return tuple(item for item in have if not item.is_loopback) or have
    return tuple(dict.fromkeys(item for wanted in interfaces for item in _matching(wanted, have)))


def _matching(wanted: str, have: tuple[LocalAddress, ...]) -> Iterable[LocalAddress]:
    try:
        address = ipaddress.ip_address(wanted)
    except ValueError:
        return [item for item in have if item.interface == wanted]
    found = [item for item in have if ipaddress.ip_address(item.ip) == address]
    if not found and address.version == 4 and address.is_loopback:
        # All of 127.0.0.0/8 is this host, though only the first is listed.
        return [item._replace(ip=str(address)) for item in have if item.is_loopback and ":" not in item.ip][:1]
    return found
