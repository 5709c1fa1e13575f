"""This instance's part in the mesh: the key that its datagrams are sealed with, the node, and the shell around it.

What is done with what the mesh brings is decided elsewhere: ``heard`` is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio
from anyio import to_thread

from ..discovery.base import Announcement, Discovery
from ..discovery.roster import Roster
from ..errors import RedisCommandError, Unavailable
from ..events import Mode, Peer
from ..memory import MemoryTier
from ..mesh.node import ForeignKey, MeshEvent, Node
from ..mesh.seal import MeshKey
from ..options import Options
from ..redis.link import Link
from ..redis.names import Names
from ..redis.probe import agree_on_mesh_key
from ..stamp import Op
from ..standings import AT_FIRST, Standing
from .network import Network
from .surroundings import DatagramSocket, Surroundings

__all__ = ["Meshwork"]

_KEY_CHECK = 30.0


class Meshwork:
    """The mesh, as one instance sees it.  There is none until it has a key.

    Args:
        node_id: this instance.
        options: checked already.
        surroundings: clocks and randomness.
        socket: bound already.
        sources: where addresses of peers come from.
        memory: what this instance knows, compared with what its peers know.
        heard: told of what the mesh brings, in the event loop.
        warn_once: called with a subject and a line for the log.

    Attributes:
        mode: what the peers are told of this instance.
        standing: the same.
    """

    def __init__(
        self,
        *,
        node_id: int,
        options: Options,
        surroundings: Surroundings,
        socket: DatagramSocket,
        sources: Sequence[Discovery],
        memory: MemoryTier,
        heard: Callable[[MeshEvent], None],
        warn_once: Callable[[str, str], None],
    ) -> None:
        self.mode = Mode.MEMORY
        self.standing = AT_FIRST
        self._node_id = node_id
        self._options = options
        self._surroundings = surroundings
        self._now = surroundings.now
        self._socket = socket
        self._sources = sources
        self._memory = memory
        self._heard = heard
        self._warn_once = warn_once
        self._keys: list[MeshKey] = []
        self._shared_key: bytes | None = None
        self._ready = anyio.Event()
        self._stranger: ForeignKey | None = None
        self._key_doubted = anyio.Event()
        self._network: Network | None = None

    # -- what others see of it

    @property
    def node(self) -> Node | None:
        """The protocol, once there is a key."""
        return None if self._network is None else self._network.node

    @property
    def peers(self) -> list[Peer]:
        """The instances that proved to hold the mesh's key and were heard of late."""
        return [] if self._network is None else self._network.node.peers

    async def has_key(self) -> None:
        """Wait until there is a key."""
        await self._ready.wait()

    @property
    def is_alone(self) -> bool:
        """Whether there is no key, so that nobody can be met."""
        return self._options.secret is None and self._shared_key is None

    # -- what goes out

    def publish(self, op: Op) -> None:
        """Tell the peers of a write."""
        if self._network is not None:
            self._network.publish(op)

    def announce(self, mode: Mode, standing: Standing) -> None:
        """Tell the peers, at once, which tier answers and how this instance writes to Redis."""
        self.mode, self.standing = mode, standing
        if self._network is not None:
            self._network.announce(mode, standing)

    def ask_clocks(self) -> None:
        """Ask the peers what their clocks say, now; ``heard`` gets each answer."""
        if self._network is not None:
            self._network.ask_clocks()

    def found(self, addresses: Sequence[tuple[str, int]]) -> None:
        """Instances that are registered in Redis."""
        for source in self._sources:
            if isinstance(source, Roster):
                source.tell(addresses)

    # -- tasks

    async def run(self) -> None:
        """Until cancelled."""
        secret = self._options.secret
        if secret is not None:
            self._use(await to_thread.run_sync(MeshKey.from_secret, secret, self._options.namespace))
        await self._ready.wait()
        node = Node(
            node_id=self._node_id,
            keys=self._keys,
            random=self._surroundings.random,
            now=self._now(),
            mode=self.mode,
            replica=self._memory,
            wall_ms=self._surroundings.wall_ms,
        )
        node.set_state(self.mode, self.standing, self._now())
        announcement = Announcement(
            self._node_id,
            self._options.namespace,
            self._socket.addresses,
            self._socket.port,
            everywhere=self._socket.everywhere,
            interfaces=None if self._options.interfaces is None else tuple(self._options.interfaces),
        )
        self._network = Network(node, self._socket, self._sources, announcement, self._now, self._take)
        await self._network.run()

    async def keep_key(self, link: Link, names: Names, lost: Callable[[Unavailable], None]) -> None:
        """A Redis that came back empty between two calls has a new key, or none: nobody is told, so ask now and then, and
        when somebody speaks with a key that is not ours.  Until cancelled, or at once if there is a secret."""
        while self._options.secret is None:
            with anyio.move_on_after(_KEY_CHECK):
                await self._key_doubted.wait()
            stranger, self._key_doubted = self._stranger, anyio.Event()
            if self.mode is not Mode.REDIS:
                continue
            before = self._shared_key
            try:
                await self.agree(link, names)
            except Unavailable as outage:
                lost(outage)
            except RedisCommandError as error:
                self._warn_once("mesh key", f"Redis refuses what the mesh needs: {error}")
            if stranger is not None and before == self._shared_key:
                self._warn_of(stranger)
            self._stranger = None

    async def agree(self, link: Link, names: Names) -> None:
        """Without a secret the key is what Redis holds; the first instance that finds none makes it.

        Raises:
            Unavailable: Redis cannot serve.
            RedisCommandError: the user may not, or something else stands there.
        """
        if self._options.secret is None:
            mine = self._shared_key or self._surroundings.random.randbytes(32)
            self._shared_key = await agree_on_mesh_key(link, names, mine)
            self._use(MeshKey.from_bytes(self._shared_key, self._options.namespace))

    # -- inside

    def _use(self, key: MeshKey) -> None:
        """Speak with this key; what is sealed with the one before is still understood."""
        if self._keys and self._keys[0].key_id == key.key_id:
            return
        self._keys = [key, *self._keys[:1]]
        if self._network is not None:
            self._network.node.set_keys(self._keys)
        self._ready.set()

    def _take(self, event: MeshEvent) -> None:
        self._heard(event)
        if not isinstance(event, ForeignKey):
            return
        self._stranger = event
        self._key_doubted.set()
        if self._options.secret is not None:
            self._warn_of(event)

    def _warn_of(self, stranger: ForeignKey) -> None:
        host, port = stranger.address
        self._warn_once(
            "key",
            f"a peer at {host}:{port} seals its datagrams with another key and stays out: "
            "is the secret (secret= or MESHCACHE_SECRET) the same everywhere?",
        )
