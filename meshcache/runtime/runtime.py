"""One instance at work: it owns the two tiers, the mode and the tasks, and turns what happens into log lines and events."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from math import inf
from typing import Any

import anyio
import anyio.lowlevel

from ..discovery.base import Discovery
from ..errors import RedisCommandError, Unavailable
from ..events import Event, Mode, ModeChanged, Peer
from ..journal import Journal
from ..loads import Loads
from ..loops import give_turn
from ..memory import MemoryTier
from ..mesh.node import MeshEvent
from ..modes import ModeMachine
from ..near import Near
from ..options import Options
from ..recent import Recent
from ..redis.batch import BatchLink
from ..redis.link import Link, Server
from ..redis.names import Names, client_name
from ..redis.sentinel_link import SentinelLink
from ..redis.tier import RedisTier
from ..redis.tracking import TrackedLink
from ..redis.url import Place
from ..redis.way import way_to_track
from ..shares import is_share
from ..stamp import NOBODY, HybridClock, Kind, Op, Stamp, make_stamp
from ..standings import Record, Standing, Standings
from ..store import Entry, Store
from ..tier import Tier
from .addresses import OwnAddresses
from .background import Background
from .briefing import Briefing
from .feed import Feed
from .hearing import GONE_AFTER, Hearing
from .membership import LEASE, Membership
from .meshwork import Meshwork
from .near_tier import NearTier
from .recovery import Recovery
from .surroundings import Surroundings
from .through import WriteThrough
from .tracker import Tracker

__all__ = ["Runtime"]

logger = logging.getLogger("meshcache")

_REPLAY_TIMEOUT = 2.0
_TICK = 1.0
_SLICE = 256


class Runtime:
    """Everything of one open cache but the way of a call.

    Args:
        place: where Redis is, checked already; None for a cache that has none.
        shown_as: how log lines show that place.
        options: checked already.
        sources: where addresses of peers come from.
        surroundings: the world.

    Attributes:
        redis: what asks Redis, without copies and without regard to the mode; None if there is no Redis.
        front: the tier that answers in ``Mode.REDIS``: ``redis``, or that with the near cache before it.
        near: which copies of what Redis has are kept; closed for ever if ``near_cache`` is "off".
        memory: the tier that answers otherwise.
        loads: which values are being loaded; told of every change that is heard of.
        through: takes writes that need a stamp while ``redis`` answers.
        mode: which tier answers.
        recall: what of this instance's memory answers a read at once, before any tier is asked: all of it, or copies, or
            nothing.  Takes a key and the moment ``now()``.
        now: the monotonic clock, in seconds.
        epoch: grows with every change of the mode.
        node_id: this instance, 64 bit.
        server: what the last probe learned of Redis, or None.
    """

    def __init__(
        self,
        place: Place | None,
        shown_as: str,
        options: Options,
        sources: Sequence[Discovery],
        surroundings: Surroundings,
    ) -> None:
        self.node_id = surroundings.random.getrandbits(64)
        self.server: Server | None = None
        self._options = options
        self._surroundings = surroundings
        self.now = self._now = now = surroundings.now
        self._modes = ModeMachine(now(), failure_threshold=options.failure_threshold)
        self.mode = self._modes.mode
        self.answered = self._modes.answered  # by itself: it is called at each call
        self._feed = Feed()
        self._store = Store(options.max_entries, options.max_bytes, options.tombstone_ttl)
        self._journal = Journal(options.max_dirty) if place is not None else None
        clock = HybridClock(self.node_id, surroundings.wall_ms, int(options.max_skew * 1000))
        self.memory = MemoryTier(
            self._store,
            self._journal,
            clock,
            now,
            self._published,
            count_life=options.fence_ttl,
            stale_ttl=options.stale_ttl,
            give_turn=give_turn,
        )
        self.recall: Callable[[str, float], Entry | None] = self._store.recall
        self._recent = Recent(options.max_dirty)
        self._standings = Standings(gone_after=GONE_AFTER, forget_after=options.forget_after, lease=LEASE)
        self.epoch = 0
        self.loads = Loads()
        self.near = Near(self.memory, options.stale_ttl, serves=options.near_cache == "serve")
        self._socket = surroundings.open_socket(options.interfaces, options.port)
        self._own_addresses = OwnAddresses(self._socket, options.interfaces)
        self._warned: set[str] = set()
        self._mesh = Meshwork(
            node_id=self.node_id,
            options=options,
            surroundings=surroundings,
            socket=self._socket,
            sources=sources,
            memory=self.memory,
            heard=self._heard,
            warn_once=self.warn_once,
        )
        self._briefing = Briefing(
            memory=self.memory,
            journal=self._journal,
            recent=self._recent,
            is_writing=self.near.is_writing,
            now=now,
            publish=self._mesh.publish,
            brings_itself=lambda: self.mode is Mode.REDIS,
        )
        self.redis: RedisTier | None = None
        self.front: Tier | None = None
        self.through: WriteThrough | None = None
        self._writes: TrackedLink | None = None
        self._tracker: Tracker | None = None
        self._recovery: Recovery | None = None
        self._membership: Membership | None = None
        self._lost_at = now()
        self._last_outage: Unavailable | None = None
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._where = shown_as
        if place is not None:
            self._connect(place, options)
        self._hearing = Hearing(
            memory=self.memory,
            loads=self.loads,
            journal=self._journal,
            standings=self._standings,
            membership=self._membership,
            briefing=self._briefing,
            node=lambda: self._mesh.node,
            options=options,
            now=now,
            wall_ms=surroundings.wall_ms,
            surface=self,
        )
        self._background = Background(self._main)

    # -- the life of the instance

    async def start(self) -> None:
        """Start the tasks, and give Redis ``op_timeout`` to answer; if it does not, the cache starts in memory."""
        self._background.start()
        if self._recovery is not None:
            with anyio.move_on_after(self._options.op_timeout):
                await self._recovery.tried.wait()
                if self._tracker is not None and self.mode is Mode.REDIS:
                    await self._tracker.tried.wait()
            if not self._recovery.tried.is_set():
                self._say_cold_start(f"no answer within {self._options.op_timeout:g} s")
        if self.mode is not Mode.REDIS and self._mesh.is_alone:
            self.warn_once(
                "alone",
                "this instance has no key for its mesh and stays alone until it reaches Redis, which keeps the key: "
                "set secret= or MESHCACHE_SECRET to find peers without Redis",
            )

    async def stop(self) -> None:
        """Say goodbye and let go of everything."""
        with anyio.CancelScope(shield=True):
            if self._membership is not None:
                self._membership.leave()
                if self.mode is Mode.REDIS:
                    with anyio.move_on_after(self._options.op_timeout):
                        await self._sign_off()
            await self._background.stop()
            self._socket.close()
            for close in self._closers:
                await close()
        self._feed.close()

    async def _sign_off(self) -> None:
        assert self._membership is not None
        with suppress(Unavailable):  # then it is the end of the lease that tells the others
            await self._membership.register()

    def abandon(self) -> None:
        """This is a forked child: its parent goes on with this node id, its counter, and its connections."""
        self._socket.abandon()

    async def _main(self) -> None:
        async with anyio.create_task_group() as tasks:
            if self._recovery is not None and self._membership is not None:
                tasks.start_soon(self._link.run)
                tasks.start_soon(self._recovery.run)
                tasks.start_soon(self._membership.run)
                tasks.start_soon(self._mesh.keep_key, self._replay_link, self._names, self.lost)
                tasks.start_soon(self._own_addresses.run)
            if self._tracker is not None:
                tasks.start_soon(self._tracker.run)
            tasks.start_soon(self._mesh.run)
            tasks.start_soon(self._briefing.run)
            tasks.start_soon(self._tick)

    def _connect(self, place: Place, options: Options) -> None:
        assert self._journal is not None
        open_link, now = self._surroundings.open_link, self._now
        names = Names(options.namespace)
        self._direct_link = open_link(place, timeout=options.op_timeout)
        link = BatchLink(self._direct_link, place.name, options.op_timeout)
        # Connections of its own: a replay never stands in the way of callers, and may take longer than one of them.
        replay = open_link(place, timeout=max(options.op_timeout, _REPLAY_TIMEOUT), connections=2)
        self._closers += [link.aclose, replay.aclose]
        link.identity.client_name = replay.identity.client_name = client_name(self.node_id)
        self._names, self._link, self._replay_link = names, link, replay
        self.front = self.redis = RedisTier(link, names)
        writes: Link = link
        if options.near_cache != "off":
            writes = self._keep_near(place, options)
        self.through = WriteThrough(
            memory=self.memory,
            near=self.near,
            link=writes,
            names=names,
            now=now,
            fence_ttl=options.fence_ttl,
            epoch=lambda: self.epoch,
            lost=self.lost,
            answered=self.answered,
            wrote=self._wrote,
            counts_plainly=self._counts_plainly,
        )
        self._membership = Membership(
            node_id=self.node_id,
            standings=self._standings,
            journal=self._journal,
            link=replay,
            names=names,
            now=now,
            wall_ms=self._surroundings.wall_ms,
            addresses=self._own_addresses,
            forget_after=options.forget_after,
            surface=self,
        )
        self._recovery = Recovery(
            link=replay,
            names=names,
            memory=self.memory,
            journal=self._journal,
            modes=self._modes,
            signals=self,
            on_recovery=options.on_recovery,
            fence_ttl=options.fence_ttl,
            now=now,
            random=self._surroundings.random.random,
            abandoned=link.identity.abandoned,
            wrote=self._wrote,
            laid=lambda keys: self._recent.laid(keys, self._now()),
        )

    def _keep_near(self, place: Place, options: Options) -> TrackedLink:
        assert self.redis is not None
        writes = self._writes = TrackedLink(self._link, place.name, options.op_timeout)
        self.front = NearTier(self.near, self.redis, RedisTier(writes, self._names), writes)
        self._tracker = Tracker(
            near=self.near,
            link=writes,
            way=way_to_track(self._direct_link, place, self._names, timeout=options.op_timeout),
            is_alive=self._is_redis_alive,
            redis_answers=lambda: self.mode is Mode.REDIS,
            changed=self._others_changed,
            warn=lambda line: self.warn_once("near", line),
            now=self._now,
        )
        if isinstance(self._direct_link, SentinelLink):
            self._direct_link.when_moved = writes.abort
        return writes

    # -- what calls and recovery say of Redis

    def lost(self, outage: Unavailable, epoch: int | None = None) -> None:
        """Redis did not answer a call, or a probe, or a replay.

        Args:
            outage: what it met; several calls that met the very same count as one.
            epoch: the one in which the call began; what began before the last change of mode says nothing about now.
        """
        if (epoch is not None and epoch != self.epoch) or outage is self._last_outage:
            return
        self._last_outage = outage
        now = self._now()
        if outage.timed_out:
            others = self._link.in_flight + (self._writes.in_flight if self._writes else 0)
            change = self._modes.timed_out(outage.cause, now, others_in_flight=others, repeated=outage.repeated)
        else:
            change = self._modes.failed(outage.cause, now)
        if self.server is None:
            self._say_cold_start(outage.cause)
        self._changed(change)

    async def _is_redis_alive(self) -> bool:
        """Ask Redis, if the mode says that it answers; if it does not, that is lost."""
        if self.redis is None or self.mode is not Mode.REDIS:
            return False
        epoch = self.epoch
        try:
            await self.redis.ping()
        except Unavailable as outage:
            self.lost(outage, epoch)
            return False
        except RedisCommandError:
            pass  # not permitted, but an answer
        return self.mode is Mode.REDIS

    def _say_cold_start(self, cause: str) -> None:
        self.warn_once("start", f"starts in memory, without Redis: {cause} ({self._where})")

    async def probed(self, server: Server) -> None:
        """Redis takes writes again."""
        known, self.server = self.server, server
        self._expect(server.run_id)
        if self._options.amnesia_window and known is not None and known.run_id and known.run_id != server.run_id:
            since = self._lost_at - self._options.amnesia_window
            self.memory.forget_in_redis(self._recent.all_since(since, self._stamp_at))
            self.memory.haunted(self._recent.laid_since(since))
        self._changed(self._modes.probed(f"Redis {server.version} answers", self._now()))
        await self._mesh.agree(self._replay_link, self._names)

    def _expect(self, run_id: str | None) -> None:
        """New connections must lead to this server; None: to any."""
        self._link.identity.expected = self._replay_link.identity.expected = run_id

    def drained(self) -> None:
        """Redis knows every write of this instance, but those made just now."""
        change = self._modes.drained("Redis has what the outage wrote", self._now())
        self._changed(change)
        # Copies that were carried through an outage are old by now; if there was none, Redis told of every change.
        self.memory.forget(copies=change is not None)
        self.near.block()
        if self._membership is not None:
            self._membership.replays = False
            self._membership.enter()

    def _changed(self, change: ModeChanged | None) -> None:
        if change is None:
            return
        self.mode = change.new
        self.recall = self.near.recall if change.new is Mode.REDIS else self._store.recall
        self.epoch += 1
        if change.old is Mode.REDIS:
            self._lost_at = self._now()
            self.memory.counters.redis_lost(self._lost_at)
            since = self._lost_at - self._options.forget_after
            self.memory.remember(self._recent.fenced_since(since), self._recent.expires_at)
        if change.new is Mode.MEMORY:
            self._expect(None)  # whichever answers the next probe
        self.near.follow(redis_answers=change.new is Mode.REDIS)
        if self._tracker is not None:
            self._tracker.wake()
        self._warned.discard("outage")
        level = logging.WARNING if change.new is Mode.MEMORY else logging.INFO
        logger.log(
            level, "%s -> %s after %.1f s: %s (%s)", change.old, change.new, change.held, change.cause, self._where
        )
        if self._membership is not None:
            self._membership.update()
        if self._mesh.mode is not change.new:
            self._mesh.announce(change.new, self._mesh.standing)
        if self._recovery is not None:
            self._recovery.wake()
        self._feed.put(change)

    # -- plain writes, and those with a stamp

    def writes_plainly(self, keys: Iterable[str]) -> bool:
        """Whether writes of these keys may go to Redis without a stamp now; if so, they are taken note of."""
        membership = self._membership
        if membership is None or not membership.writes_plainly():
            return False
        membership.plain_until = stamp = self.memory.tick()
        now = self._now()
        for key in keys:
            self._recent.wrote(key, stamp, now)
            self.memory.counters.written(key)
        return True

    def sweeps_plainly(self, pattern: str) -> bool:
        """Likewise a delete by pattern."""
        if not self.writes_plainly(()):
            return False
        assert self._membership is not None
        self._recent.swept(pattern, self._membership.plain_until, self._now())
        self.memory.counters.swept()
        return True

    def _counts_plainly(self) -> bool:
        """Whether peers need not be told of an increment.  No note is taken of it: what is done with what is in ``_recent`` would
        end what others count themselves."""
        return self.writes_plainly(())

    def in_doubt(self, keys: Iterable[str]) -> None:
        """Plain writes of these keys were given up."""
        self.memory.haunted(keys)

    def _wrote(self, op: Op) -> None:
        """Redis has this stamped write."""
        if op.kind is Kind.SWEEP:
            self._recent.swept(op.key, op.stamp, self._now())
        elif not is_share(op.key):
            expires_at = op.expires_at if op.kind is Kind.SET else inf
            self._recent.wrote(op.key, op.stamp, self._now(), fenced=True, expires_at=expires_at)

    def _others_changed(self, keys: list[str] | None) -> None:
        """Redis told of changes that others made."""
        self.loads.changed(keys, elsewhere=True)
        if keys is None:
            self._recent.flushed(self._now())
        else:
            self._recent.changed(keys, self._now())

    def _stamp_at(self, moment: float) -> Stamp:
        ms = self._surroundings.wall_ms() - int((self._now() - moment) * 1000)
        return make_stamp(max(ms, 0), 0, NOBODY)

    # -- what membership asks

    def announce(self, standing: Standing) -> None:
        """Tell the peers how this instance writes to Redis."""
        self._mesh.announce(self.mode, standing)

    def found_instances(self, records: list[Record]) -> None:
        """These are registered in Redis."""
        self._mesh.found(
            [address for record in records if record.lease > 0 and not record.left for address in record.addresses]
        )
        if self._recovery is not None:
            self._recovery.missed(self._standings.newly_gone(self._now(), recovering=self.mode is not Mode.REDIS))

    # -- what recovery asks

    async def registered(self, *, replays: bool) -> None:
        """Tell Redis how this instance stands, and learn it of the others."""
        assert self._membership is not None
        self._membership.replays = replays
        await self._membership.register(entering=self.mode is not Mode.REDIS)

    def may_set(self, ops: list[Op]) -> list[Op]:
        """Those of these writes that may not be brought to Redis as they were, as invalidations."""
        assert self._membership is not None
        return self._membership.may_set(ops)

    def is_undecided(self) -> bool:
        """Whether somebody may be writing plainly now."""
        assert self._membership is not None
        return self._membership.is_undecided()

    def overtaken_since(self, since: float) -> list[Op]:
        """Of what this instance changed since that moment, what a plain write of an instance that is gone may have replaced."""
        return self._recent.overtaken_since(since, inf if self._tracker is None else self._tracker.told_since)

    # -- the mesh

    @property
    def peers(self) -> list[Peer]:
        """The instances that proved to hold the mesh's key and were heard of late."""
        return self._mesh.peers

    def _published(self, op: Op) -> None:
        self.became_dirty()  # first: the peers are to know that this instance is not clean before they hear of the write
        self._mesh.publish(op)

    def _heard(self, event: MeshEvent) -> None:
        self._hearing.heard(event)

    # -- what hearing asks

    def became_dirty(self) -> None:
        """There may be something now that Redis lacks."""
        if self._journal and self._membership is not None and self._recovery is not None:
            if self._membership.standing.clean:
                self._membership.update()
            if self.mode is Mode.REDIS:
                self._recovery.wake()  # a write in doubt, or a peer's that cannot reach Redis itself

    def look_for_redis(self) -> None:
        """A peer has found it."""
        if self._recovery is not None:
            self._recovery.wake()

    def tell(self, event: Event) -> None:
        """Whoever iterates over the events."""
        self._feed.put(event)

    # -- what is seen from outside

    async def wait_for_peers(self, count: int) -> None:
        """Return as soon as there are so many.  Raises ``StopAsyncIteration`` if the cache is closed before."""
        events = self._feed.subscribe()
        while len(self.peers) < count:
            await anext(events)

    def events(self) -> AsyncIterator[Event]:
        """What happens from now on, until the cache is closed."""
        return self._feed.subscribe()

    def stats(self) -> dict[str, Any]:
        """Numbers and words only; JSON takes it as it is."""
        redis, memory = self.redis, self.memory
        recovery, node = self._recovery, self._mesh.node
        return {
            "mode": str(self.mode),
            "mode_seconds": self._now() - self._modes.since,
            "outages": self._modes.outages,
            "redis_available": self.mode is Mode.REDIS,
            "redis_hits": redis.hits if redis else 0,
            "redis_misses": redis.misses if redis else 0,
            "memory_hits": memory.hits,
            "memory_misses": memory.misses,
            "near_tracking": self.near.is_open,
            "near_entries": self._store.copies,
            "near_hits": self.near.hits,
            "near_invalidated": self.near.invalidated,
            "near_dropped": self.near.dropped,
            "entries": len(self._store),
            "bytes": self._store.bytes,
            "evictions": self._store.evictions,
            "dirty": len(self._journal) if self._journal is not None else 0,
            "replayed": recovery.replayed if recovery else 0,
            "replay_refused": recovery.refused if recovery else 0,
            "replay_doubted": self._membership.doubted if self._membership else 0,
            "writes_plainly": self._membership.standing.plain if self._membership else False,
            "stamps_refused": memory.refused_stamps,
            "peers": len(self.peers),
            "send_errors": self._socket.send_errors,
            "mesh": node.counters.as_dict() if node else {},
        }

    # -- housekeeping

    async def _tick(self) -> None:
        """Once a second: what expired goes, and what has lasted too long is said."""
        while True:
            await anyio.sleep(_TICK)
            while self._store.expire(self._now(), _SLICE):
                await anyio.lowlevel.checkpoint()
            self._recent.forget_before(
                min(self._now(), self._lost_at if self.mode is not Mode.REDIS else inf)
                - max(self._options.amnesia_window, self._options.forget_after)
            )
            held = self._now() - self._modes.since
            if self.redis is not None and self.mode is Mode.MEMORY and held > self._options.warn_outage_after:
                self.warn_once(
                    "outage", f"Redis has been away for {held:.0f} s: {self._modes.last_cause} ({self._where})"
                )
            if self._store.bytes > self._options.warn_store_bytes:
                self.warn_once("bytes", f"memory holds {self._store.bytes / 2**20:.0f} MiB")

    def warn_once(self, about: str, message: str) -> None:
        """One line in the log for each subject."""
        if about not in self._warned:
            self._warned.add(about)
            logger.warning(message)
