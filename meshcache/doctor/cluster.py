"""The check of the nodes of a Redis Cluster: who is there, and whether each slot has a master and each master a replica."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import RedisCommandError, Unavailable
from ..redis.cluster_link import ClusterLink
from ..redis.cluster_map import Member
from ..redis.link import Link, Shard
from ..redis.tier import RedisTier
from ..redis.url import Address
from .finding import Finding, fail, ok, skipped, warn
from .patient import Node, Patient
from .server import cure

__all__ = ["nodes"]


@dataclass(frozen=True, slots=True)
class _Seen:
    """One node, and what it said.

    Attributes:
        member: who it is, as the others know it.
        link: the way to it.
        info: what it says of itself; empty if it may not tell.
        trouble: why it does not answer; empty if it does.
        shard: its slots; None if it has none.
    """

    member: Member
    link: Link
    info: Mapping[str, Any]
    trouble: str
    shard: Shard | None

    @property
    def is_well(self) -> bool:
        """Whether it answers, and follows its master if it is a replica."""
        return not self.trouble and self.info.get("master_link_status", "up") == "up"

    def __str__(self) -> str:
        words = ["master" if self.member.replica_of is None else f"replica of {_name(self.member.replica_of)}"]
        if self.shard is not None:
            words.append(f"{len(self.shard.slots or ())} slots")
            if self.shard.taking:
                words.append(f"getting {len(self.shard.taking)}")
        if self.trouble:
            words.append(self.trouble)
        elif not self.is_well:
            words.append("does not reach its master")
        return f"{_name(self.member.address)} ({', '.join(words)})"


async def nodes(patient: Patient) -> Finding:
    """Each node of a cluster, masters and replicas."""
    link = patient.link
    if link is None:
        return skipped("no Redis is configured (url=none)")
    if not isinstance(link, ClusterLink):
        return ok("one server holds all keys") if patient.answers else skipped("there is no Redis to ask")
    trouble, shards = "", list[Shard]()
    try:
        shards = list(await link.shards())
    except Unavailable as outage:
        trouble = outage.cause
    try:
        members = await link.members()
    except Unavailable as outage:
        return (
            fail(outage.cause, cure(outage.cause, patient)) if patient.answers else skipped("there is no Redis to ask")
        )
    by_link = {id(shard.link): shard for shard in shards}
    seen = [await _look(member, way, by_link.get(id(way)), patient) for member, way in members]
    if patient.answers and not trouble:
        patient.nodes = [
            Node(link=one.link, name=_name(one.member.address), slots=one.shard.slots, info=one.info)
            for one in seen
            if one.shard is not None and one.shard.slots
        ]
    return _judge(seen, trouble, patient)


async def _look(member: Member, link: Link, shard: Shard | None, patient: Patient) -> _Seen:
    info: Mapping[str, Any] = {}
    trouble = ""
    try:
        info = await RedisTier(link, patient.names).info()
    except Unavailable as outage:
        trouble = outage.cause.removeprefix(f"{_name(member.address)}: ")
    except RedisCommandError:  # not permitted, but an answer
        pass
    return _Seen(member, link, info, trouble, shard)


def _judge(seen: list[_Seen], trouble: str, patient: Patient) -> Finding:
    words = ", ".join(map(str, sorted(seen, key=lambda one: one.member.replica_of is not None)))
    if trouble:
        return fail(f"{words}: {trouble}", cure(trouble, patient))
    if not all(one.is_well for one in seen):
        return warn(words, "start those that do not answer, or let the cluster forget them (CLUSTER FORGET)")
    followed = {one.member.replica_of for one in seen}
    alone = [one for one in seen if one.shard is not None and one.shard.slots and one.member.address not in followed]
    if alone:
        return warn(
            f"{words}; nobody would take the place of {', '.join(_name(one.member.address) for one in alone)}",
            "give each master a replica (redis-cli --cluster add-node … --cluster-slave)",
        )
    return ok(words)


def _name(address: Address) -> str:
    return f"{address[0]}:{address[1]}"
