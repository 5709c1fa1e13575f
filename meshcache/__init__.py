"""meshcache: a shared Redis cache that outlives its Redis.

``MeshCache`` is the cache; ``Mode``, ``Peer`` and the events tell how it fares; the errors are in one tree below
``MeshCacheError``.  Importing this loads neither redis-py nor zeroconf; opening a cache does.
"""

from .cache import MeshCache
from .codecs import Codec
from .errors import ClosedError, CodecError, ConfigError, MeshCacheError, RedisCommandError
from .events import Event, Mode, ModeChanged, Peer, PeerJoined, PeerLeft, PeerModeChanged

__version__ = "0.1.0"

__all__ = [
    "ClosedError",
    "Codec",
    "CodecError",
    "ConfigError",
    "Event",
    "MeshCache",
    "MeshCacheError",
    "Mode",
    "ModeChanged",
    "Peer",
    "PeerJoined",
    "PeerLeft",
    "PeerModeChanged",
    "RedisCommandError",
    "__version__",
]
