"""Peers by DNS: the addresses of a name, or the hosts and ports that a service record names.

Made for a headless service, whose name stands for all its instances: of Kubernetes, of Docker, of Consul.  The system's
resolver knows nothing of SRV records, so those are asked of DNS itself, through dnspython (the extra ``dns``).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

import anyio

from ..errors import ConfigError
from .base import Announcement
from .names import Candidate, ask_again_and_again, look_up

if TYPE_CHECKING:
    from dns.resolver import Answer, Resolver

__all__ = ["Dns", "DnsSrv", "dns_source"]

_NAME = re.compile(r"[^\s:/@\[\]?#,]+")
_URL = re.compile(rf"(?P<scheme>dns|dns\+srv)://(?P<name>{_NAME.pattern})(?::(?P<port>[0-9]{{1,5}}))?/?")
_SECONDS = 5.0
"""How long DNS may take to tell of a service."""


class Dns:
    """All addresses (A and AAAA) of a name, asked for every 10 s.  In a list of texts: ``"dns://gateways.example:7946"``.

    Args:
        host: the name; its own address may be among the answers.
        port: the UDP port of the instances, which is then to be fixed with ``port=``.

    Raises:
        ConfigError: this is no name, or no port.
    """

    name = "DNS"

    def __init__(self, host: str, port: int) -> None:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65_536:
            raise ConfigError("discovery", f"{port!r} is not a port of 1 to 65535, as in dns://gateways.example:7946")
        self._host, self._port = _check_name(host), port

    def __repr__(self) -> str:
        return f"Dns({self._host!r}, {self._port})"

    async def run(self, announcement: Announcement, found: Callable[[str, int], None]) -> None:
        """See :class:`~meshcache.discovery.base.Discovery`.  Never raises: it asks again until there is an answer."""
        ask = partial(look_up, self._host, self._port)
        await ask_again_and_again(self._host, ask, found, anyio.CapacityLimiter(1))


class DnsSrv:
    """The hosts and ports that a name's SRV records have (RFC 2782), asked for every 10 s.

    In a list of texts: ``"dns+srv://_mesh._udp.gateways.example"``.  Priorities and weights are for those who choose one; here
    all are greeted.  Needs dnspython: ``pip install 'meshcache[dns]'``.

    Args:
        name: of the records, for example ``_mesh._udp.gateways.prod.svc.cluster.local``.

    Raises:
        ConfigError: this is no name, or dnspython is not installed.
    """

    name = "DNS (SRV)"

    def __init__(self, name: str) -> None:
        self._name = _check_name(name)
        if find_spec("dns") is None or find_spec("dns.resolver") is None:
            raise ConfigError(
                "discovery", "SRV records need dnspython, which is not installed: pip install 'meshcache[dns]'"
            )

    def __repr__(self) -> str:
        return f"DnsSrv({self._name!r})"

    async def run(self, announcement: Announcement, found: Callable[[str, int], None]) -> None:
        """See :class:`~meshcache.discovery.base.Discovery`.  Never raises: it asks again until there is an answer."""
        await ask_again_and_again(self._name, partial(_services, self._name), found, anyio.CapacityLimiter(1))


def dns_source(url: str) -> Dns | DnsSrv:
    """The source that ``dns://name:port`` or ``dns+srv://name`` means.

    Raises:
        ConfigError: it is not written like that; or as :class:`Dns` and :class:`DnsSrv`.
    """
    match = _URL.fullmatch(url)
    if match is None or (match["port"] is None) != (match["scheme"] == "dns+srv"):
        raise ConfigError("discovery", f"{url!r} is neither dns://name:port nor dns+srv://_service._udp.name")
    return Dns(match["name"], int(match["port"])) if match["port"] else DnsSrv(match["name"])


def _check_name(name: str) -> str:
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise ConfigError("discovery", f"{name!r} is not a name that DNS could know")
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name
    raise ConfigError("discovery", f"{name!r} is an address, not a name: write it without dns://, as {name}:7946")


def _services(name: str) -> list[Candidate]:
    """The addresses and ports of a service.  Blocks.

    Raises:
        OSError: DNS knows none now.
    """
    from dns.exception import DNSException

    candidates: list[Candidate] = []
    failed: DNSException | None = None
    try:
        resolver = _resolver()
        # As the system's resolver does: a short name is looked for in the domains of /etc/resolv.conf.
        answer = resolver.resolve(name, "SRV", search=True, lifetime=_SECONDS)
        for host, port in _targets(answer):
            try:
                ips = _told_along(answer, host) or list(resolver.resolve_name(host, lifetime=_SECONDS).addresses())
                candidates += [(ip, port) for ip in ips]
            except DNSException as error:  # it may just have gone; the others stand
                failed = error
        if failed is not None and not candidates:
            raise failed
    except DNSException as error:
        raise OSError(str(error)) from error
    return list(dict.fromkeys(candidates))


def _resolver() -> Resolver:
    """As /etc/resolv.conf has it now."""
    from dns.resolver import Resolver

    return Resolver()


def _targets(answer: Answer) -> Iterator[tuple[str, int]]:
    for record in answer:
        host = record.target.to_text()
        if host != ".":  # RFC 2782: the service is decidedly not available
            yield host, record.port


def _told_along(answer: Answer, host: str) -> list[str]:
    """The addresses of a target that the server sent with its answer, as most do."""
    from dns.rdatatype import AAAA, A

    return [
        str(record.address)
        for records in answer.response.additional
        if records.rdtype in (A, AAAA) and records.name.to_text() == host
        for record in records
    ]
