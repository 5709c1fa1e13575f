"""Every Redis key that meshcache uses in one namespace.  Pure: bytes in, bytes out.

Values stand in plain keys, ``gateway:user:1``.  What meshcache keeps for itself begins with ``{``, which no namespace may
contain: so no pattern of any namespace finds it, and no user key can be mistaken for it.  A Redis user with an ACL needs
both, ``~gateway:*`` and ``~{gateway*``.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterable
from itertools import count
from typing import Final

from ..glob import escape

__all__ = ["SLOTS", "Names", "client_name", "key_slot"]

SLOTS: Final = 16_384
"""How many hash slots a Redis Cluster has."""

_FENCE: Final = b":meshcache:fence"
_SHARES: Final = b":meshcache:shares"


def client_name(node_id: int) -> str:
    """What a server calls the connections of an instance."""
    return f"meshcache:{node_id:016x}"


class Names:
    """The keys of one namespace.

    Args:
        namespace: as in :class:`~meshcache.options.Options`, so without braces and glob characters' special meaning.

    Attributes:
        mesh_key: holds the 32 bytes that seal the mesh's datagrams.
        sweeps: a hash of pattern to stamp: what was deleted by pattern in an outage.
        probe: written by every probe.
        registry: a hash of the instances that reach Redis.
    """

    def __init__(self, namespace: str) -> None:
        self.prefix = f"{namespace}:".encode()
        self._pattern_prefix = escape(f"{namespace}:").encode()
        own = b"{" + namespace.encode() + b"}:meshcache:"
        self.mesh_key = own + b"key"
        self.sweeps = own + b"sweeps"
        self.probe = own + b"probe"
        self.registry = own + b"registry"

    def key(self, key: str) -> bytes:
        """The Redis key of a key."""
        return self.prefix + key.encode()

    def keys(self, keys: Iterable[str]) -> list[bytes]:
        """The Redis keys of many keys."""
        prefix = self.prefix
        return [prefix + key.encode() for key in keys]

    def strip(self, redis_key: bytes) -> str | None:
        """The key of a Redis key; None if it is of another namespace or not valid UTF-8, so not one of ours."""
        if not redis_key.startswith(self.prefix):
            return None
        try:
            return redis_key[len(self.prefix) :].decode()
        except UnicodeDecodeError:
            return None

    def pattern(self, pattern: str) -> bytes:
        """The Redis pattern of a pattern: the namespace is taken literally."""
        return self._pattern_prefix + pattern.encode()

    def probe_in(self, slots: frozenset[int]) -> bytes:
        """A key for probes in one of these slots of a Redis Cluster; covered by the same ``~{gateway*`` of an ACL.

        Found by trial: one in (16 384 / how many slots) hits.
        """
        tags = (self.prefix + b"%d" % number for number in count())
        tag = next(tag for tag in tags if _slot(tag) in slots)
        return b"{" + tag + b"}:meshcache:probe"

    def fence(self, key: str) -> bytes:
        """The key beside ``key(key)`` that holds its fence, in the same slot of a Redis Cluster."""
        return self._beside(key, _FENCE)

    def shares(self, key: str) -> bytes:
        """Likewise the hash of what was added of each share of a counter."""
        return self._beside(key, _SHARES)

    def _beside(self, key: str, what: bytes) -> bytes:
        """A key in the same slot of a Redis Cluster.

        Redis hashes what stands between the first ``{`` and the first ``}`` after it, and the whole key if there is no
        such text (Redis Cluster Specification, "Hash tags").
        """
        redis_key = self.key(key)
        if b"}" not in redis_key:
            return b"{" + redis_key + b"}" + what
        # Hashed as a whole it may be, but a "}" cannot stand in a tag.
        tag = _tag(redis_key) or _SLOT_TAGS[_slot(redis_key)]
        return b"{" + tag + b"}" + what + b":" + redis_key


def key_slot(redis_key: bytes) -> int:
    """The hash slot of a Redis key."""
    return _slot(_tag(redis_key) or redis_key)


def _tag(redis_key: bytes) -> bytes:
    """What alone of a key is hashed; empty if it is the whole key."""
    _, _, after = redis_key.partition(b"{")
    tag, closed, _ = after.partition(b"}")
    return tag if closed else b""


class _SlotTags(dict[int, bytes]):
    """For a slot of Redis Cluster a text that hashes to it: the smallest number that does, the same in every instance.

    Found by trial as far as needed; all 16 384 of them take some ten ms.
    """

    def __init__(self) -> None:
        self._numbers = count()

    def __missing__(self, slot: int) -> bytes:
        while slot not in self:
            tag = b"%d" % next(self._numbers)
            self.setdefault(_slot(tag), tag)
        return self[slot]


_SLOT_TAGS: Final = _SlotTags()


def _slot(text: bytes) -> int:
    return crc_hqx(text, 0) % SLOTS
