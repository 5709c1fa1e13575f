"""The checks in their order, and the one way to run them.  Each is over before the next begins, since later ones build on it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from ..errors import ConfigError
from ..redis.connect import open_link
from ..redis.place import read_place
from . import cluster, host, mesh, server
from .finding import Finding, fail, skipped
from .instance import TemporaryInstance
from .patient import Patient

__all__ = ["CHECKS", "Check", "Need", "examine"]

_LINK_SECONDS: Final = 3.0
"""Much longer than any op_timeout, so that slow and dead are told apart."""


class Need(Enum):
    """What must be there for a check to make sense; the value says what is missing otherwise."""

    NOTHING = ""
    SERVER = "there is no Redis to ask"
    WRITES = "Redis takes no writes"
    INSTANCE = "no instance can be started here"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at.

    Attributes:
        name: for programs; it stays.
        title: for people.
        examine: looks, and says what it saw.  Does not raise what the host, Redis or the network do.
        group: for people: ``"host"``, ``"redis"`` or ``"mesh"``.
        need: it is skipped without.
    """

    name: str
    title: str
    group: str
    examine: Callable[[Patient], Awaitable[Finding]]
    need: Need = Need.NOTHING


CHECKS: Final[Sequence[Check]] = (
    Check("interfaces", "Interfaces", "host", host.interfaces),
    Check("receive-buffer", "Receive buffer", "host", host.receive_buffer),
    Check("multicast", "Multicast", "host", host.multicast),
    Check("mdns-port", "Port of mDNS", "host", host.mdns_port),
    Check("redis", "Redis", "redis", server.reachable),
    Check("redis-nodes", "Nodes", "redis", cluster.nodes),
    Check("redis-writes", "Writes", "redis", server.writes, Need.SERVER),
    Check("redis-latency", "Latency", "redis", server.latency, Need.SERVER),
    Check("redis-commands", "Commands", "redis", server.commands, Need.WRITES),
    Check("redis-scripts", "Scripts", "redis", server.scripts, Need.WRITES),
    Check("redis-persistence", "Persistence", "redis", server.persistence, Need.SERVER),
    Check("redis-eviction", "Eviction", "redis", server.eviction, Need.SERVER),
    Check("redis-clock", "Redis' clock", "redis", server.clock, Need.SERVER),
    Check("instance", "Instance", "mesh", mesh.instance, Need.INSTANCE),
    Check("near-cache", "Near cache", "mesh", mesh.near_cache, Need.INSTANCE),
    Check("key", "Key of the mesh", "mesh", mesh.key, Need.INSTANCE),
    Check("discovery", "Discovery", "mesh", mesh.discovery, Need.INSTANCE),
    Check("peers", "Peers", "mesh", mesh.peers, Need.INSTANCE),
    Check("port", "UDP port", "mesh", mesh.port, Need.INSTANCE),
    Check("peer-keys", "Keys of peers", "mesh", mesh.keys_of_others, Need.INSTANCE),
    Check("peer-clocks", "Clocks of peers", "mesh", mesh.clocks, Need.INSTANCE),
)


async def examine(
    patient: Patient,
    began: Callable[[Check], None] = lambda check: None,
    ended: Callable[[Finding], None] = lambda finding: None,
) -> list[Finding]:
    """Run every check.

    Args:
        patient: what to look at.
        began: told of each check before it runs.
        ended: told of each finding.

    Returns:
        The findings, in the order of the checks.
    """
    findings: list[Finding] = []
    async with AsyncExitStack() as stack:
        place, _ = read_place(patient.url, patient.options.credential_provider)
        if place is not None:
            patient.link = open_link(place, timeout=_LINK_SECONDS)
            stack.push_async_callback(patient.link.aclose)
        for check in CHECKS:
            began(check)
            started = time.perf_counter()
            try:
                if check.need is Need.INSTANCE and patient.instance is None:
                    patient.instance = await _start(patient, stack)
                found = await check.examine(patient) if _has(patient, check.need) else skipped(check.need.value)
            except Exception as error:  # noqa: BLE001 - one check that goes wrong must not keep the others from running
                found = fail(f"it could not be looked at: {type(error).__name__}: {error}", "report this")
            finding = replace(found, name=check.name, title=check.title, seconds=time.perf_counter() - started)
            findings.append(finding)
            ended(finding)
    return findings


def _has(patient: Patient, need: Need) -> bool:
    match need:
        case Need.NOTHING:
            return True
        case Need.SERVER:
            return patient.answers
        case Need.WRITES:
            return patient.takes_writes
        case Need.INSTANCE:
            return patient.instance is not None


async def _start(patient: Patient, stack: AsyncExitStack) -> TemporaryInstance | None:
    try:
        instance = TemporaryInstance(patient.url, patient.options, patient.sources)
    except ConfigError:  # an interface, of which the first check has told
        return None
    return await stack.enter_async_context(instance)
