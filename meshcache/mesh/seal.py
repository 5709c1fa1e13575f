"""Sealing and opening datagrams: keys, nonces, and the window that lets no datagram in twice.

No I/O, no clock, no randomness.  What a datagram says is none of this room's business (see ``wire``).

A datagram is a clear header and a sealed body::

    magic (2)  version (1)  key id (4)  node id (8)  counter (8)  |  AES-256-GCM of the body, with its tag (16)

The header is the associated data.  Each sender has a key of its own, derived from the mesh's key, and numbers its
datagrams; the number is the nonce.  So no nonce is ever used twice under one key, as long as no two instances share a
node id, which is random and new at every start.

Sources: AES-GCM as in NIST SP 800-38D; HKDF-SHA256 of RFC 5869; scrypt of RFC 7914; the sliding window of RFC 6479.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Sequence
from struct import Struct
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from .errors import BadDatagram, Reason

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_DATAGRAM_BYTES",
    "OVERHEAD_BYTES",
    "Header",
    "MeshKey",
    "Opener",
    "Openers",
    "ReplayWindow",
    "Sealer",
    "read_header",
]

_HEADER: Final = Struct(">2sB4sQQ")
_MAGIC: Final = b"mc"
_VERSION: Final = 1
_TAG_BYTES: Final = 16
_NONCE: Final = Struct(">4xQ")

MAX_DATAGRAM_BYTES: Final = 1200
"""Fits every path of the internet without fragmentation: IPv6's least MTU is 1 280."""

OVERHEAD_BYTES: Final = _HEADER.size + _TAG_BYTES
"""What sealing adds to a body."""

MAX_BODY_BYTES: Final = MAX_DATAGRAM_BYTES - OVERHEAD_BYTES


class MeshKey:
    """The key of one mesh: who holds it may speak.

    Attributes:
        key_id: 4 bytes by which a datagram names the key it is sealed with.  They tell nothing about the key.
    """

    __slots__ = ("_secret", "key_id")

    def __init__(self, key: bytes, namespace: str) -> None:
        # HKDF's "extract" step, done once; its "expand" step then costs one HMAC for each sender.
        self._secret = hmac.digest(namespace.encode(), key, "sha256")
        self.key_id = self._expand(b"meshcache key id", 4)

    @classmethod
    def from_secret(cls, secret: str | bytes, namespace: str) -> MeshKey:
        """Stretch a secret that people chose.  Takes some 50 ms and 16 MiB on purpose: run it in a thread."""
        password = secret.encode() if isinstance(secret, str) else secret
        salt = hashlib.sha256(b"meshcache secret\0" + namespace.encode()).digest()
        return cls(hashlib.scrypt(password, salt=salt, n=2**14, r=8, p=1, maxmem=2**26, dklen=32), namespace)

    @classmethod
    def from_bytes(cls, key: bytes, namespace: str) -> MeshKey:
        """Take a random key as it is.

        Raises:
            ValueError: it is not of 32 bytes.
        """
        if len(key) != 32:
            raise ValueError(f"a mesh key has 32 bytes, not {len(key)}")
        return cls(key, namespace)

    def cipher(self, node_id: int) -> AESGCM:
        """What one sender seals with."""
        return AESGCM(self._expand(b"meshcache sender" + node_id.to_bytes(8, "big"), 32))

    def _expand(self, info: bytes, length: int) -> bytes:
        return HKDFExpand(hashes.SHA256(), length, info).derive(self._secret)

    def __repr__(self) -> str:
        return f"MeshKey(key_id={self.key_id.hex()!r})"


class Header(NamedTuple):
    """The clear part of a datagram.  Nothing in it may be believed before the datagram has opened."""

    key_id: bytes
    node_id: int
    counter: int


def read_header(datagram: bytes) -> Header:
    """The clear part.

    Raises:
        BadDatagram: it cannot be a datagram of this version of this protocol.
    """
    if not OVERHEAD_BYTES <= len(datagram) <= MAX_DATAGRAM_BYTES:
        raise BadDatagram(Reason.SIZE)
    magic, version, key_id, node_id, counter = _HEADER.unpack_from(datagram)
    if magic != _MAGIC:
        raise BadDatagram(Reason.FOREIGN)
    if version != _VERSION:
        raise BadDatagram(Reason.VERSION)
    return Header(key_id, node_id, counter)


class Sealer:
    """Seals what this instance says, each body once, whoever it goes to.

    Args:
        node_id: this instance's own.
        keys: the first one seals; none: there is nothing to seal with, see :attr:`ready`.
    """

    __slots__ = ("_cipher", "_counter", "_key_id", "_node_id")

    def __init__(self, node_id: int, keys: Sequence[MeshKey]) -> None:
        self._node_id = node_id
        self._counter = 0
        self.set_keys(keys)

    @property
    def ready(self) -> bool:
        """Whether there is a key."""
        return self._cipher is not None

    def set_keys(self, keys: Sequence[MeshKey]) -> None:
        """Seal with the first of these from now on.  The counter goes on, so one replay window serves all keys."""
        self._cipher = keys[0].cipher(self._node_id) if keys else None
        self._key_id = keys[0].key_id if keys else b""

    def seal(self, body: bytes) -> bytes:
        """The datagram.  Only when :attr:`ready`."""
        assert self._cipher is not None
        self._counter += 1
        header = _HEADER.pack(_MAGIC, _VERSION, self._key_id, self._node_id, self._counter)
        return header + self._cipher.encrypt(_NONCE.pack(self._counter), body, header)


class Opener:
    """Opens what one sender says, under any of the keys."""

    __slots__ = ("_ciphers", "_keys", "_node_id")

    def __init__(self, node_id: int, keys: dict[bytes, MeshKey]) -> None:
        self._node_id = node_id
        self._keys = keys
        self._ciphers: dict[bytes, AESGCM] = {}

    def open(self, header: Header, datagram: bytes) -> bytes:
        """The body.

        Raises:
            BadDatagram: no such key, or it does not open.
        """
        cipher = self._ciphers.get(header.key_id)
        if cipher is None:
            key = self._keys.get(header.key_id)
            if key is None:
                raise BadDatagram(Reason.UNKNOWN_KEY)
            cipher = self._ciphers[header.key_id] = key.cipher(self._node_id)
        try:
            return cipher.decrypt(_NONCE.pack(header.counter), datagram[_HEADER.size :], datagram[: _HEADER.size])
        except InvalidTag:
            raise BadDatagram(Reason.FORGED) from None


class Openers:
    """The openers of senders: one for each peer, and a bounded number of recent ones for whoever else seems to speak.

    Anybody can put any node id in a header, so what is kept for strangers is bounded, and theirs never push out a peer's.
    """

    __slots__ = ("_keys", "_limit", "_peers", "_strangers")

    def __init__(self, keys: Sequence[MeshKey], max_strangers: int) -> None:
        self._limit = max_strangers
        self._peers: dict[int, Opener] = {}
        self._strangers: OrderedDict[int, Opener] = OrderedDict()
        self._keys: dict[bytes, MeshKey] = {}
        self.set_keys(keys)

    def __len__(self) -> int:
        return len(self._peers) + len(self._strangers)

    def set_keys(self, keys: Sequence[MeshKey]) -> None:
        """Open with all of these from now on, and with no other."""
        self._keys = {key.key_id: key for key in keys}
        self._strangers.clear()
        for node_id in self._peers:
            self._peers[node_id] = Opener(node_id, self._keys)

    def open(self, header: Header, datagram: bytes) -> bytes:
        """The body.  Raises as :meth:`Opener.open`."""
        opener = self._peers.get(header.node_id)
        if opener is None:
            if header.key_id not in self._keys:
                raise BadDatagram(Reason.UNKNOWN_KEY)
            opener = self._of_stranger(header.node_id)
        return opener.open(header, datagram)

    def admit(self, node_id: int) -> None:
        """This sender is a peer now."""
        self._peers[node_id] = self._of_stranger(node_id)
        del self._strangers[node_id]

    def dismiss(self, node_id: int) -> None:
        """This sender is no peer any more."""
        del self._peers[node_id]

    def _of_stranger(self, node_id: int) -> Opener:
        opener = self._strangers.get(node_id)
        if opener is None:
            opener = self._strangers[node_id] = Opener(node_id, self._keys)
            if len(self._strangers) > self._limit:
                self._strangers.popitem(last=False)
        else:
            self._strangers.move_to_end(node_id)
        return opener


class ReplayWindow:
    """Which of one sender's datagrams were seen.  Remembers the newest and the 1 023 before it; older ones count as seen.

    Args:
        floor: everything up to this counter counts as seen.  A peer's window starts at the datagram that completed its
            handshake, so that nothing recorded before can come after.
    """

    __slots__ = ("_seen", "newest")

    WIDTH: Final = 1024
    _MASK: Final = 2**WIDTH - 1

    def __init__(self, floor: int) -> None:
        self.newest = floor
        self._seen = self._MASK  # bit i stands for the counter newest - i

    def is_fresh(self, counter: int) -> bool:
        """Whether it was not seen yet.  Ask before opening; it costs less."""
        age = self.newest - counter
        return age < 0 or (age < self.WIDTH and not self._seen >> age & 1)

    def mark(self, counter: int) -> bool:
        """Note a fresh datagram that has opened.

        Returns:
            True if it is the newest so far: not overtaken by another on its way.
        """
        ahead = counter - self.newest
        if ahead > 0:
            self._seen = (self._seen << ahead | 1) & self._MASK if ahead < self.WIDTH else 1
            self.newest = counter
            return True
        self._seen |= 1 << -ahead
        return False
