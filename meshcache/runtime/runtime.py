"""One instance at work: it owns the two tiers, the mode, the mesh and the tasks, and turns what happens into log lines and events."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import anyio
import anyio.lowlevel
from anyio import to_thread

from ..discovery.base import Announcement, Discovery
from ..errors import RedisCommandError, Unavailable
from ..events import Event, Mode, ModeChanged, Peer, PeerJoined, PeerLeft, PeerModeChanged
from ..journal import Journal
from ..memory import MemoryTier
from ..mesh.node import ForeignKey, MeshEvent, Node, OpsLost, OpsReceived
from ..mesh.seal import MeshKey
from ..modes import ModeMachine
from ..near import Near
from ..options import Options
from ..redis.connect import open_link, server_of
from ..redis.names import Names
from ..redis.probe import Server, agree_on_mesh_key
from ..redis.sentinel_link import SentinelLink
from ..redis.tier import RedisTier
from ..redis.tls import Tls
from ..redis.tracking import TrackedLink
from ..redis.url import ClusterEndpoint, Place, SentinelEndpoint
from ..stamp import HybridClock, Op
from ..store import Store
from ..tier import Tier
from ..udp import UdpSocket
from .background import Background
from .feed import Feed
from .near_tier import NearTier
from .network import Network
from .recovery import Recovery
from .through import WriteThrough
from .tracker import Tracker

__all__ = ["Runtime"]

logger = logging.getLogger("meshcache")

_REPLAY_TIMEOUT = 2.0
_TICK = 1.0
_KEY_CHECK = 30.0
_SLICE = 256


class Runtime:
    """Everything of one open cache but the way of a call.

    Args:
        place: where Redis is, checked already; None for a cache that has none.
        shown_as: how log lines show that place.
        options: checked already.
        sources: where addresses of peers come from.

    Attributes:
        redis: what asks Redis, without copies and without regard to the mode; None if there is no Redis.
        front: the tier that answers in ``Mode.REDIS``: ``redis``, or that with the near cache before it.
        near: which copies of what Redis has are kept; closed for ever if ``near_cache`` is "off".
        memory: the tier that answers otherwise.
        through: takes writes of dirty keys while ``redis`` answers.
        mode: which tier answers.
        epoch: grows with every change of the mode.
        node_id: this instance, 64 bit.
        server: what the last probe learned of Redis, or None.
    """

    def __init__(self, place: Place | None, shown_as: str, options: Options, sources: Sequence[Discovery]) -> None:
        self.node_id = secrets.randbits(64)
        self.server: Server | None = None
        self._options = options
        self._modes = ModeMachine(self._now(), failure_threshold=options.failure_threshold)
        self.mode = self._modes.mode
        self._feed = Feed()
        self._store = Store(options.max_entries, options.max_bytes, options.tombstone_ttl)
        self._journal = Journal(options.max_dirty) if place is not None else None
        clock = HybridClock(self.node_id, _wall_ms, int(options.max_skew * 1000))
        self.memory = MemoryTier(self._store, self._journal, clock, self._now, self._published)
        self.epoch = 0
        self.near = Near(self.memory, options.stale_ttl, serves=options.near_cache == "serve")
        self.redis: RedisTier | None = None
        self.front: Tier | None = None
        self._writes: TrackedLink | None = None
        self._tracker: Tracker | None = None
        self.through: WriteThrough | None = None
        self._recovery: Recovery | None = None
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._where = shown_as
        if place is not None:
            self._connect(place, options)
        self._socket = UdpSocket.open(options.interfaces, options.port)
        self._sources = sources
        self._keys: list[MeshKey] = []
        self._mesh_key: bytes | None = None
        self._mesh_ready = anyio.Event()
        self._stranger: ForeignKey | None = None
        self._key_doubted = anyio.Event()
        self._network: Network | None = None
        self._background = Background(self._main)
        self._warned: set[str] = set()

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
        if self.mode is not Mode.REDIS and self._options.secret is None and self._mesh_key is None:
            self._warn_once(
                "alone",
                "this instance has no key for its mesh and stays alone until it reaches Redis, which keeps the key: "
                "set secret= or MESHCACHE_SECRET to find peers without Redis",
            )

    async def stop(self) -> None:
        """Say goodbye and let go of everything."""
        with anyio.CancelScope(shield=True):
            await self._background.stop()
            self._socket.close()
            for close in self._closers:
                await close()
        self._feed.close()

    def abandon(self) -> None:
        """This is a forked child: its parent goes on with this node id, its counter, and its connections."""
        self._socket.abandon()

    async def _main(self) -> None:
        async with anyio.create_task_group() as tasks:
            if self._recovery is not None:
                tasks.start_soon(self._recovery.run)
                tasks.start_soon(self._keep_mesh_key)
            if self._tracker is not None:
                tasks.start_soon(self._tracker.run)
            tasks.start_soon(self._run_mesh)
            tasks.start_soon(self._tick)

    def _connect(self, place: Place, options: Options) -> None:
        names = Names(options.namespace)
        link = open_link(place, timeout=options.op_timeout)
        # Connections of its own: a replay never stands in the way of callers, and may take longer than one of them.
        replay = open_link(place, timeout=max(options.op_timeout, _REPLAY_TIMEOUT), connections=2)
        self._closers += [link.aclose, replay.aclose]
        self._names, self._link, self._replay_link = names, link, replay
        self.front = self.redis = RedisTier(link, names)
        if options.near_cache != "off":
            self._keep_near(place, options)
        self.through = WriteThrough(
            self.memory, link, names, self._now, fence_ttl=options.fence_ttl, lost=self.lost, settled=self.drained
        )
        assert self._journal is not None
        self._recovery = Recovery(
            link=replay,
            names=names,
            memory=self.memory,
            journal=self._journal,
            modes=self._modes,
            signals=self,
            on_recovery=options.on_recovery,
            fence_ttl=options.fence_ttl,
            now=self._now,
        )

    def _keep_near(self, place: Place, options: Options) -> None:
        assert self.redis is not None
        assert not isinstance(place, ClusterEndpoint)
        self._writes = TrackedLink(self._link, place.name, options.op_timeout)
        self.front = NearTier(self.near, self.redis, RedisTier(self._writes, self._names), self._writes)
        self._tracker = Tracker(
            near=self.near,
            link=self._writes,
            find_server=server_of(self._link, place),
            tls=Tls((place.master if isinstance(place, SentinelEndpoint) else place).tls),
            names=self._names,
            timeout=options.op_timeout,
            is_alive=self._is_redis_alive,
            redis_answers=lambda: self.mode is Mode.REDIS,
            warn=lambda line: self._warn_once("near", line),
        )
        if isinstance(self._link, SentinelLink):
            self._link.when_moved = self._writes.abort

    # -- what calls and recovery say of Redis

    def answered(self) -> None:
        """Redis answered a call."""
        self._modes.answered()

    def lost(self, outage: Unavailable, epoch: int | None = None) -> None:
        """Redis did not answer a call, or a probe, or a replay.

        Args:
            outage: what it met.
            epoch: the one in which the call began; what began before the last change of mode says nothing about now.
        """
        if epoch is not None and epoch != self.epoch:
            return
        now = self._now()
        if outage.timed_out:
            others = self._link.in_flight + (self._writes.in_flight if self._writes else 0)
            change = self._modes.timed_out(outage.cause, now, others_in_flight=others)
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
        self._warn_once("start", f"starts in memory, without Redis: {cause} ({self._where})")

    async def probed(self, server: Server) -> None:
        """Redis takes writes again."""
        self.server = server
        self._changed(self._modes.probed(f"Redis {server.version} answers", self._now()))
        await self._agree_on_mesh_key()

    def drained(self) -> None:
        """Redis knows every write of this instance, but those made just now."""
        change = self._modes.drained("Redis has what the outage wrote", self._now())
        self._changed(change)
        # Copies that were carried through an outage are old by now; if there was none, Redis told of every change.
        self.memory.forget(copies=change is not None)
        self.near.block()

    def _changed(self, change: ModeChanged | None) -> None:
        if change is None:
            return
        self.mode = change.new
        self.epoch += 1
        self.near.follow(redis_answers=change.new is Mode.REDIS)
        if self._tracker is not None:
            self._tracker.wake()
        self._warned.discard("outage")
        level = logging.WARNING if change.new is Mode.MEMORY else logging.INFO
        logger.log(
            level, "%s -> %s after %.1f s: %s (%s)", change.old, change.new, change.held, change.cause, self._where
        )
        if self._network is not None:
            self._network.announce(change.new)
        if self._recovery is not None:
            self._recovery.wake()
        self._feed.put(change)

    # -- the mesh

    @property
    def peers(self) -> list[Peer]:
        """The instances that proved to hold the mesh's key and were heard of late."""
        return [] if self._network is None else self._network.node.peers

    def _published(self, op: Op) -> None:
        if self._network is not None:
            self._network.publish(op)
        self._became_dirty()

    def _became_dirty(self) -> None:
        if self.mode is Mode.REDIS and self._recovery is not None:
            self._recovery.wake()  # a write in doubt, or a peer's that cannot reach Redis itself

    def _use_mesh_key(self, key: MeshKey) -> None:
        """Speak with this key; what is sealed with the one before is still understood."""
        if self._keys and self._keys[0].key_id == key.key_id:
            return
        self._keys = [key, *self._keys[:1]]
        if self._network is not None:
            self._network.node.set_keys(self._keys)
        self._mesh_ready.set()

    async def _agree_on_mesh_key(self) -> None:
        """Without a secret the key is what Redis holds; the first instance that finds none makes it."""
        if self._options.secret is None:
            mine = self._mesh_key or secrets.token_bytes(32)
            self._mesh_key = await agree_on_mesh_key(self._replay_link, self._names, mine)
            self._use_mesh_key(MeshKey.from_bytes(self._mesh_key, self._options.namespace))

    async def _keep_mesh_key(self) -> None:
        """A Redis that came back empty between two calls has a new key, or none: nobody is told, so ask now and then, and
        when somebody speaks with a key that is not ours."""
        while self._options.secret is None:
            with anyio.move_on_after(_KEY_CHECK):
                await self._key_doubted.wait()
            stranger, self._key_doubted = self._stranger, anyio.Event()
            if self.mode is not Mode.REDIS:
                continue
            before = self._mesh_key
            try:
                await self._agree_on_mesh_key()
            except Unavailable as outage:
                self.lost(outage)
            except RedisCommandError as error:
                self._warn_once("mesh key", f"Redis refuses what the mesh needs: {error}")
            if stranger is not None and before == self._mesh_key:
                self._warn_of(stranger)
            self._stranger = None

    def _warn_of(self, stranger: ForeignKey) -> None:
        host, port = stranger.address
        self._warn_once(
            "key",
            f"a peer at {host}:{port} seals its datagrams with another key and stays out: "
            "is the secret (secret= or MESHCACHE_SECRET) the same everywhere?",
        )

    async def _run_mesh(self) -> None:
        secret = self._options.secret
        if secret is not None:
            self._use_mesh_key(await to_thread.run_sync(MeshKey.from_secret, secret, self._options.namespace))
        await self._mesh_ready.wait()
        node = Node(
            node_id=self.node_id,
            keys=self._keys,
            random=secrets.SystemRandom(),
            now=self._now(),
            mode=self.mode,
            replica=self.memory,
        )
        announcement = Announcement(
            self.node_id,
            self._options.namespace,
            self._socket.addresses,
            self._socket.port,
            everywhere=self._socket.everywhere,
        )
        self._network = Network(node, self._socket, self._sources, announcement, self._now, self._heard)
        await self._network.run()

    def _heard(self, event: MeshEvent) -> None:
        match event:
            case OpsReceived():
                self.memory.apply(event.ops)
                self._became_dirty()
                if self.memory.refused_stamps:
                    self._warn_once(
                        "skew",
                        f"writes of peer {event.node_id:016x} are refused: its clock is more than "
                        f"{self._options.max_skew:g} s ahead of this host's; set both by NTP",
                    )
            case OpsLost() if self.mode is not Mode.REDIS:
                self.memory.forget_values()
            case ForeignKey():
                self._stranger = event
                self._key_doubted.set()
                if self._options.secret is not None:
                    self._warn_of(event)
            case PeerJoined() | PeerLeft() | PeerModeChanged():
                if isinstance(event, PeerModeChanged) and event.peer.mode is not Mode.MEMORY and self._recovery:
                    self._recovery.wake()  # a peer found Redis: so may we
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
        recovery, network = self._recovery, self._network
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
            "stamps_refused": memory.refused_stamps,
            "peers": len(self.peers),
            "send_errors": self._socket.send_errors,
            "mesh": network.node.counters.as_dict() if network else {},
        }

    # -- housekeeping

    async def _tick(self) -> None:
        """Once a second: what expired goes, and what has lasted too long is said."""
        while True:
            await anyio.sleep(_TICK)
            while self._store.expire(self._now(), _SLICE):
                await anyio.lowlevel.checkpoint()
            held = self._now() - self._modes.since
            if self.redis is not None and self.mode is Mode.MEMORY and held > self._options.warn_outage_after:
                self._warn_once(
                    "outage", f"Redis has been away for {held:.0f} s: {self._modes.last_cause} ({self._where})"
                )
            if self._store.bytes > self._options.warn_store_bytes:
                self._warn_once("bytes", f"memory holds {self._store.bytes / 2**20:.0f} MiB")

    def _warn_once(self, about: str, message: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            logger.warning(message)

    @staticmethod
    def _now() -> float:
        return time.monotonic()


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
