"""The link to a Redis Cluster: one link for each node, and each command over that of the node that has its slot.

redis-py's ``RedisCluster`` cannot run on trio, and retries for as long as it likes; its way of finding nodes is followed
here.  What a node says of another (``MOVED``, ``ASK``), or of keys that are under way (``TRYAGAIN``), is followed within the time
of the call.  If a node cannot be reached, the others are asked once who has its slots now.

What may not enter: redis-py, which the links below know; and what an outage of some slots means.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Sequence
from functools import partial
from itertools import chain
from typing import Any, Final

import anyio

from ..errors import RedisCommandError, Unavailable
from .cluster_map import ClusterMap, Member, OwnSlots, read_address
from .link import AnyServer, Argument, Command, Identity, Link, Redirected, Shard, no_answer
from .names import SLOTS
from .routing import Call, Part
from .together import all_of, first_of
from .url import Address, ClusterEndpoint, Endpoint

__all__ = ["ClusterLink"]

_STAGGER: Final = 0.02
"""How long one node is waited for before the next is asked for the slots as well, in seconds."""

_ASKED_AT_MOST: Final = 8
"""So many nodes are asked for the slots; enough to find one that lives."""

_TRY_AGAIN: Final = 0.01
"""The pause before a command is sent again whose keys are under way, in seconds."""

_REDIRECTIONS: Final = 16
"""A command that is sent on more often is not sent again."""

_MOVES: Final = 5
"""After so many slots that have moved, all are asked for again; redis-py's number."""

_LOOKS: Final = 10
"""So often the masters are asked which slots they have, until all slots are among these."""

_NODE_SHARE: Final = 0.98
"""A node's own time limit is a little shorter than the call's, so that it is the link to that node that gives up."""


class ClusterLink:
    """A :class:`~meshcache.redis.link.Link` to a Redis Cluster.

    What it promises of a connection, each link to a node promises.  A command without a key goes to every master, and is
    answered by the first of them.

    Args:
        where: some of the nodes.
        timeout: the longest that a call waits, in seconds; whatever has to be asked and followed counts.
        open_link: opens a link to one node; it is told the identity that the node must have, and the time limit.

    Attributes:
        in_flight: calls under way.
        identity: that of all nodes.
        watched: the nodes of which somebody hears what changes there; None: nobody does.
        left_watch: called before a node is asked for a key that is not among these.
    """

    def __init__(
        self, where: ClusterEndpoint, *, timeout: float, open_link: Callable[[Endpoint, Identity, float], Link]
    ) -> None:
        self.in_flight = 0
        self.identity = Identity(where.name)
        self.watched: Container[Address] | None = None
        self.left_watch: Callable[[], None] = lambda: None
        self._where = where
        self._timeout = timeout
        self._open_link = open_link
        self._remap: Callable[[Address], Address] = where.remap or (lambda address: address)
        self._seeds: list[Address] = [self._remap((seed.host, seed.port)) for seed in where.seeds]
        self._map: ClusterMap | None = None
        self._moved = 0
        self._nodes: dict[Address, Link] = {}
        self._newcomers: frozenset[Address] = frozenset()  # they get their first slot, and are in no map yet
        self._scouts: dict[Address, Link] = {}  # asked only for slots, so that any server will do
        self._refreshing = anyio.Lock()
        self._refreshes = 0
        self._closed = False

    async def execute(self, *command: Argument) -> Any:
        """One command; see :class:`~meshcache.redis.link.Link`."""
        reply = (await self.execute_many([command]))[0]
        if isinstance(reply, RedisCommandError):
            raise reply
        return reply

    async def execute_many(self, commands: Sequence[Command]) -> list[Any]:
        """One pipeline for each node; see :class:`~meshcache.redis.link.Link`.  In order as far as one key is concerned."""
        if not commands:
            return []
        request = _Request(commands)
        self.in_flight += 1
        try:
            with anyio.move_on_after(self._timeout):
                await self._run(request)
                return [call.reply() for call in request.calls]
        finally:
            self.in_flight -= 1
        raise request.trouble or no_answer(self._timeout, request.silent or self._where.name)

    async def shards(self) -> Sequence[Shard]:
        """The masters, asked for anew, each by itself; those that take slots after the others.  One that has no slot yet is
        among them if it is getting one.

        Raises:
            Unavailable: that cannot be found out, or nobody has some of the slots.
        """
        with anyio.move_on_after(self._timeout):
            return await self._shards()
        raise no_answer(self._timeout, self._where.name)

    async def masters(self) -> list[Endpoint]:
        """Where the masters are, asked for anew; those without a slot are left out, unless they are getting one.

        Raises:
            Unavailable: as :meth:`shards`.
        """
        with anyio.move_on_after(self._timeout):
            shards = await self._shards()
            links = [shard.link for shard in shards]
            return [self._where.seeds[0].at(address) for address, link in self._nodes.items() if link in links]
        raise no_answer(self._timeout, self._where.name)

    async def members(self) -> list[tuple[Member, Link]]:
        """All nodes as one of the masters knows them, replicas and dead ones too; each with a way to it alone.

        Raises:
            Unavailable: that cannot be found out, or this user may not know it.
        """
        with anyio.move_on_after(self._timeout):
            await self._refresh()
            masters = (await self._known_map()).masters.values()
            members = await first_of([partial(self._read_members, one) for one in masters], _STAGGER)
            return [
                (member, self._node(member.address) if member.address in masters else self._scout(member.address))
                for member in members
            ]
        raise no_answer(self._timeout, self._where.name)

    def owner(self, slot: int) -> Address | None:
        """The node that is thought to have this slot."""
        return None if self._map is None else self._map.owners[slot]

    async def aclose(self) -> None:
        """Give up the connections to all nodes."""
        self._closed = True
        for link in (*self._nodes.values(), *self._scouts.values()):
            await link.aclose()

    # -- a call

    async def _run(self, request: _Request) -> None:
        for _ in range(_REDIRECTIONS):
            known = await self._known_map()
            groups = self._group(request, known)
            request.waiting = set(groups)
            outcomes = await all_of([partial(self._ask, request, *group) for group in groups.items()])
            broken = {at: outcome for at, outcome in zip(groups, outcomes, strict=True) if outcome is not None}
            if broken:
                await self._look_again(request, groups, broken)
            elif not request.unanswered():
                return
            await self._follow(request)
        raise request.trouble or Unavailable(f"{self._where.name} sends a command from node to node")

    def _group(self, request: _Request, known: ClusterMap) -> dict[Address, list[Part]]:
        """The parts without an answer, by the node that is to be asked."""
        groups: dict[Address, list[Part]] = {}
        for part in request.unanswered():
            if part.slot is None:
                for address in known.masters.values():
                    groups.setdefault(address, [])
                continue
            node = request.address_of(part, known)
            if node is None:
                self._map = None
                raise Unavailable(f"{self._where.name}: nobody has slot {part.slot} (CLUSTERDOWN)")
            groups.setdefault(node, []).append(part)
        return groups

    async def _ask(self, request: _Request, address: Address, parts: list[Part]) -> Unavailable | None:
        """One pipeline to one node; what it met.  What every node is to be told goes before the rest, each time."""
        commands: list[Command] = []
        asked: list[Part | None] = []
        for part in (*request.everywhere, *parts):
            if part in request.asking:
                commands.append(("ASKING",))
                asked.append(None)
            commands.append(part.command)
            asked.append(part)
        request.asking.difference_update(parts)
        if self.watched is not None and address not in self.watched:
            self.left_watch()
        try:
            replies = await self._node(address).execute_many(commands)
        except Unavailable as outage:
            return outage
        request.waiting.discard(address)
        for answered, reply in zip(asked, replies, strict=True):
            if answered is not None:
                request.take(answered, reply, address)
        return None

    async def _look_again(
        self, request: _Request, groups: dict[Address, list[Part]], broken: dict[Address, Unavailable]
    ) -> None:
        """Some nodes were not reached: go on if others have their slots by now.

        Raises:
            Unavailable: that of the first, if not.
        """
        first = request.trouble = next(iter(broken.values()))
        if request.looked_again or any(outage.timed_out for outage in broken.values()):
            self._map = None
            raise first
        request.looked_again = True
        request.waiting.clear()
        try:
            await self._refresh(avoid=broken)
            known = await self._known_map()
        except Unavailable:
            raise first from None  # nearer to what is wrong
        for address, outage in broken.items():
            still_asked = request.everywhere or any(
                request.address_of(part, known) == address for part in groups[address]
            )
            if still_asked and address in known.masters.values():
                raise outage

    async def _follow(self, request: _Request) -> None:
        """Do what the redirections say."""
        redirections, request.redirections = request.redirections, []
        pause = False
        for part, redirected, asked in redirections:
            request.trouble = redirected
            if not redirected.place:  # TRYAGAIN: one of the keys is at this node, another is not
                if part.divisible:
                    request.cut_finer(part)
                else:
                    pause = True
                continue
            address = read_address(redirected.place, asked, self._remap)
            if redirected.code == "ASK":
                request.asking.add(part)
                request.targets[part] = address
            elif redirected.slot is not None and self._map is not None:
                self._map.owners[redirected.slot] = address
                self._moved += 1
        if pause:
            await anyio.sleep(_TRY_AGAIN)
        if self._moved >= _MOVES:
            await self._refresh()

    # -- the nodes

    def _node(self, address: Address) -> Link:
        link = self._nodes.get(address)
        if link is None:
            if self._closed:
                raise Unavailable(f"the link to {self._where.name} is closed")
            link = self._nodes[address] = self._open(address, self.identity)
        return link

    def _open(self, address: Address, identity: Identity) -> Link:
        return self._open_link(self._where.seeds[0].at(address), identity, self._timeout * _NODE_SHARE)

    async def _known_map(self) -> ClusterMap:
        if self._map is None:
            await self._refresh()
        assert self._map is not None
        return self._map

    async def _refresh(self, avoid: Sequence[Address] | dict[Address, Any] = ()) -> None:
        """Ask who has which slots; by one call for all that wait."""
        before = self._refreshes
        async with self._refreshing:
            if self._refreshes != before:
                return
            if self._closed:
                raise Unavailable(f"the link to {self._where.name} is closed")
            nodes = list(self._map.nodes) if self._map is not None else []
            random.shuffle(nodes)  # the load is everybody's
            known = dict.fromkeys(chain(nodes, self._seeds))
            asked = [address for address in known if address not in avoid] or list(known)
            self._map = await first_of([partial(self._read_map, one) for one in asked[:_ASKED_AT_MOST]], _STAGGER)
            self._moved = 0
            self._refreshes += 1
            await self._forget_others(self._map)

    async def _read_map(self, address: Address) -> ClusterMap:
        return ClusterMap.read(await self._tell(address, "SLOTS"), address, self._remap)

    async def _read_members(self, address: Address) -> list[Member]:
        return Member.read((await self._tell(address, "NODES")).decode(), address, self._remap)

    async def _tell(self, address: Address, what: str) -> Any:
        try:
            return await self._scout(address).execute("CLUSTER", what)
        except RedisCommandError as error:
            raise Unavailable(f"{address[0]}:{address[1]} does not tell of its cluster: {error}") from None

    def _scout(self, address: Address) -> Link:
        scout = self._scouts.get(address)
        if scout is None:
            scout = self._scouts[address] = self._open(address, AnyServer(self._where.name))
        return scout

    async def _forget_others(self, known: ClusterMap) -> None:
        """Close the links to nodes that have left."""
        stay = {*known.nodes, *self._seeds, *self._newcomers}
        for links in (self._nodes, self._scouts):
            for address in [address for address in links if address not in stay]:
                await links.pop(address).aclose()

    async def _shards(self) -> Sequence[Shard]:
        for _ in range(_LOOKS):
            own = await self._own_slots()
            missing = SLOTS - len(frozenset().union(*(one.slots for one in own.values())))
            if not missing:
                return [
                    Shard(self._node(address), one.slots, one.taking, one.epoch)
                    for address, one in sorted(own.items(), key=lambda item: bool(item[1].taking))
                ]
            await anyio.sleep(_TRY_AGAIN)  # a slot goes over right now, and whoever was asked first has not heard of it
        raise Unavailable(f"{self._where.name}: its nodes do not agree who has {missing} of the slots")

    async def _own_slots(self) -> dict[Address, OwnSlots]:
        """What each master says of itself; another may not have heard yet of slots that have moved."""
        await self._refresh()
        known = await self._known_map()
        if known.unserved:
            raise Unavailable(f"{self._where.name}: nobody has {known.unserved} of the slots (CLUSTERDOWN)")
        own: dict[Address, OwnSlots] = {}
        asked = list(known.masters.values())
        while asked:
            answers = await all_of([partial(self._read_slots, address, known) for address in asked])
            own |= zip(asked, answers, strict=True)
            targets = [target for answer in answers for _, target in answer.giving.values()]
            asked = [target for target in dict.fromkeys(targets) if target is not None and target not in own]
        self._newcomers = (self._newcomers | own.keys()) - set(known.masters.values())
        return {address: one for address, one in own.items() if one.slots or one.taking}

    async def _read_slots(self, address: Address, known: ClusterMap) -> OwnSlots:
        try:
            text = await self._node(address).execute("CLUSTER", "NODES")
        except RedisCommandError:  # not permitted: then nothing is known to move
            return OwnSlots(known.slots_of(address))
        return OwnSlots.read(text.decode(), address, self._remap)


class _Request:
    """The commands of one call, and how far they are.

    Attributes:
        calls: one for each command.
        everywhere: the parts that go to every node that is asked.
        asking: the parts that are to be sent behind ASKING.
        targets: where these go.
        redirections: what nodes said instead of an answer, not yet followed: the part, what was said, by whom.
        waiting: the nodes that were asked and have not answered.
        looked_again: whether the slots were asked for after a node was not reached.
        trouble: what went wrong last, if it may be told to the caller when the time is over.
    """

    def __init__(self, commands: Sequence[Command]) -> None:
        self.calls = [Call(command) for command in commands]
        self.everywhere = [part for call in self.calls for part in call.parts if part.slot is None]
        self.asking: set[Part] = set()
        self.targets: dict[Part, Address] = {}
        self.redirections: list[tuple[Part, Redirected, Address]] = []
        self.waiting: set[Address] = set()
        self.looked_again = False
        self.trouble: Unavailable | None = None

    @property
    def silent(self) -> str | None:
        """One node that has not answered."""
        return next((f"{host}:{port}" for host, port in sorted(self.waiting)), None)

    def unanswered(self) -> list[Part]:
        """The parts without an answer."""
        return [part for call in self.calls for part in call.parts if not part.answered]

    def cut_finer(self, part: Part) -> None:
        """Ask for the keys of this part one by one."""
        next(call for call in self.calls if part in call.parts).cut_finer(part)

    def address_of(self, part: Part, known: ClusterMap) -> Address | None:
        """The node that is to be asked for this part; None if there is none."""
        assert part.slot is not None
        return self.targets.get(part) or known.owners[part.slot]

    def take(self, part: Part, reply: Any, asked: Address) -> None:
        """A node has answered."""
        self.targets.pop(part, None)
        if isinstance(reply, Redirected):
            self.redirections.append((part, reply, asked))
        else:
            part.answer(reply)
