"""What an instance knows, summed up: hashes of (key, stamp) in buckets, kept up to date write by write.

Two instances that know the same have the same root.  Where roots differ, comparing the buckets finds the few keys to talk
about, however many there are: a hash tree of two levels, as in anti-entropy (DeCandia et al., "Dynamo", 2007, section 4.7).

A bucket's hash is the exclusive or of its members' hashes, so that a member is put in and taken out at the same small
price and order does not matter.  It guards against accidents, not against a peer that lies: peers hold the key.

No I/O and no clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Final, NamedTuple
from zlib import crc32

from .stamp import Stamp

__all__ = ["BUCKETS", "HASH_BYTES", "Buckets", "Version", "bucket_of", "root_of"]

BUCKETS: Final = 128
"""All hashes together fit into one datagram of the mesh."""

HASH_BYTES: Final = 8


class Version(NamedTuple):
    """What is known of one key, or of one pattern that was swept, without the value."""

    key: str
    stamp: Stamp
    is_sweep: bool = False


def bucket_of(key: str) -> int:
    """The number of the bucket that a key or a pattern is in."""
    return crc32(key.encode()) % BUCKETS


def root_of(hashes: bytes) -> bytes:
    """The root that belongs to the hashes of all buckets."""
    root = 0
    for start in range(0, len(hashes), HASH_BYTES):
        root ^= int.from_bytes(hashes[start : start + HASH_BYTES], "big")
    return root.to_bytes(HASH_BYTES, "big")


class Buckets:
    """The summary of a set of versions.  Holds one version of each key and one of each pattern at most."""

    __slots__ = ("_hashes", "_keys", "_root", "_sweeps")

    def __init__(self) -> None:
        self._root = 0
        self._hashes = [0] * BUCKETS
        self._keys: list[dict[str, tuple[Stamp, int]]] = [{} for _ in range(BUCKETS)]
        self._sweeps: list[dict[str, tuple[Stamp, int]]] = [{} for _ in range(BUCKETS)]

    def __len__(self) -> int:
        return sum(map(len, self._keys)) + sum(map(len, self._sweeps))

    @property
    def root(self) -> bytes:
        """One hash of everything, of ``HASH_BYTES`` bytes; all zero if there is nothing."""
        return self._root.to_bytes(HASH_BYTES, "big")

    @property
    def hashes(self) -> bytes:
        """The hash of each bucket, one behind the other."""
        return b"".join([value.to_bytes(HASH_BYTES, "big") for value in self._hashes])

    def hash_of(self, bucket: int) -> bytes:
        """The hash of one bucket."""
        return self._hashes[bucket].to_bytes(HASH_BYTES, "big")

    def versions(self, bucket: int) -> Iterator[Version]:
        """The members of one bucket, in no order that means anything."""
        for key, (stamp, _) in self._keys[bucket].items():
            yield Version(key, stamp)
        for pattern, (stamp, _) in self._sweeps[bucket].items():
            yield Version(pattern, stamp, is_sweep=True)

    def put(self, key: str, stamp: Stamp, *, is_sweep: bool = False) -> None:
        """This is the version of the key now; the one before is forgotten."""
        encoded = key.encode()
        bucket = crc32(encoded) % BUCKETS
        members = self._sweeps[bucket] if is_sweep else self._keys[bucket]
        new = _hash(stamp, b"\1" if is_sweep else b"\0", encoded)
        change = new ^ members.get(key, _NONE)[1]
        members[key] = (stamp, new)
        self._hashes[bucket] ^= change
        self._root ^= change

    def remove(self, key: str, *, is_sweep: bool = False) -> None:
        """Nothing is known of this key any more.  Does nothing if nothing was."""
        bucket = crc32(key.encode()) % BUCKETS
        members = self._sweeps[bucket] if is_sweep else self._keys[bucket]
        _, change = members.pop(key, _NONE)
        self._hashes[bucket] ^= change
        self._root ^= change

    def clear(self) -> list[dict[str, tuple[Stamp, int]]]:
        """Nothing is known any more.  Gives what was known: to let go of very much takes long."""
        known = [members for members in (*self._keys, *self._sweeps) if members]
        self._root = 0
        self._hashes = [0] * BUCKETS
        self._keys = [{} for _ in range(BUCKETS)]
        self._sweeps = [{} for _ in range(BUCKETS)]
        return known


_NONE: Final = (Stamp(b""), 0)


def _hash(stamp: Stamp, mark: bytes, encoded: bytes) -> int:
    return int.from_bytes(blake2b(stamp + mark + encoded, digest_size=HASH_BYTES).digest(), "big")
