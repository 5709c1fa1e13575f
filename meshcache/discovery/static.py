"""Addresses that are known beforehand, by number or by name.

A name stands for all the addresses that it has at the time, so a headless service of Kubernetes works too.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import anyio

from ..errors import ConfigError
from .base import Announcement
from .names import ask_again_and_again, look_up

__all__ = ["Static"]

_ROUND_SECONDS = 10.0
_ADDRESS = re.compile(r"(?:\[(?P<bracketed>[^\[\]\s]+)\]|(?P<plain>[^\[\]\s:]+)):(?P<port>[0-9]{1,5})")


class _Place(NamedTuple):
    host: str
    port: int
    is_name: bool


class Static:
    """Names its addresses every 10 s.

    Args:
        addresses: ``"10.0.0.1:7946"``, ``"[2001:db8::1]:7946"`` or ``"gateways.example:7946"``.  Its own may be among
            them, so that all instances can be given one list.

    Raises:
        ConfigError: one is not written like that.
    """

    name = "static addresses"

    def __init__(self, addresses: Sequence[str]) -> None:
        if isinstance(addresses, str):
            raise ConfigError("discovery", f'Static takes a list: Static(["{addresses}"])')
        self._places = tuple(map(_parse, addresses))

    def __repr__(self) -> str:
        shown = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port, _ in self._places)
        return f"Static({list(shown)})"

    async def run(self, announcement: Announcement, found: Callable[[str, int], None]) -> None:
        """See :class:`~meshcache.discovery.base.Discovery`.  A name that does not resolve hinders no other."""
        threads = anyio.CapacityLimiter(max(1, len(self._places)))
        async with anyio.create_task_group() as tasks:
            for host, port, is_name in self._places:
                if is_name:
                    tasks.start_soon(ask_again_and_again, host, partial(look_up, host, port), found, threads)
            while True:
                for host, port, is_name in self._places:
                    if not is_name:
                        found(host, port)
                await anyio.sleep(_ROUND_SECONDS)


def _parse(text: str) -> _Place:
    match = _ADDRESS.fullmatch(text) if isinstance(text, str) else None
    if match is None or not 0 < int(match["port"]) < 65_536:
        raise ConfigError("discovery", f"{text!r} is not host:port or [IPv6 address]:port, with a port of 1 to 65535")
    host, port = match["bracketed"] or match["plain"], int(match["port"])
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if match["bracketed"] or re.fullmatch(r"[0-9.]+", host):
            raise ConfigError("discovery", f"{host!r} in {text!r} is not an IP address") from None
        return _Place(host, port, is_name=True)
    return _Place(str(address), port, is_name=False)
