"""Every option of ``MeshCache``, its meaning, its default and a rule of thumb, in one place; and their checks.

Nothing is started here: a wrong option is known before the first socket or task.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from math import inf
from typing import Any, Literal, TypedDict, get_args

from .codecs import CODECS, Codec
from .errors import ConfigError

__all__ = ["DEFAULT_URL", "NearCache", "OnRecovery", "OptionArguments", "Options"]

DEFAULT_URL = "redis://localhost:6379/0"

NearCache = Literal["off", "standby", "serve"]
OnRecovery = Literal["replay", "invalidate", "discard"]

_LONGEST = 100 * 366 * 86_400.0
"""In seconds: a longer time is a mistake, and would not fit into what Redis and the mesh take."""

_NAMESPACE = re.compile(r"[A-Za-z0-9_.:/@-]{1,100}")


class OptionArguments(TypedDict, total=False):
    """The keyword arguments of ``MeshCache``; :class:`Options` says what each means."""

    namespace: str
    secret: str | bytes | None
    credential_provider: Any
    codec: str | Codec
    default_ttl: float | timedelta | None
    op_timeout: float
    near_cache: NearCache
    stale_ttl: float
    discovery: Sequence[Any] | None
    interfaces: Sequence[str] | None
    port: int
    max_entries: int
    max_bytes: int
    max_dirty: int
    on_recovery: OnRecovery
    failure_threshold: int
    fence_ttl: float
    tombstone_ttl: float
    max_skew: float
    forget_after: float
    amnesia_window: float
    warn_outage_after: float
    warn_store_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of one cache, checked.

    Raises:
        ConfigError: an option is wrong; it names the option and the fix.
    """

    namespace: str = "meshcache"
    """Prefix of every Redis key (``gateway`` makes ``gateway:user:1``) and the name of the mesh.  One for each application
    that shares a cache: 1 to 100 of ``A-Z a-z 0-9 _ . : / @ -``."""

    secret: str | bytes | None = field(default=None, repr=False)
    """What the instances of one mesh have in common and nobody else has.  None: the first instance that reaches Redis
    makes a key and keeps it there.  Set it if instances must find each other while Redis is down from the start: 16
    random characters or more."""

    credential_provider: Any = field(default=None, repr=False, metadata={"variable": False})
    """Asked for user and password at each new connection to Redis, so that a password may be rotated while running: a
    ``CredentialProvider`` of redis-py, or a function that returns a password or a tuple of user and password.  None: what
    the URL says.  Not an environment variable."""

    codec: str | Codec = "msgpack"
    """``"msgpack"``, ``"json"``, ``"text"``, ``"bytes"`` or an object with ``name``, ``encode`` and ``decode``.  All
    programs that read the keys must agree."""

    default_ttl: float | timedelta | None = None
    """Time to live of a write that names none, in seconds.  None: for ever.  A cache wants one: pick how old a value may
    be when an invalidation is lost."""

    op_timeout: float = 0.25
    """The longest that one call waits for Redis before memory answers it, in seconds.  Ten times the 99th percentile of
    your Redis, at least 0.02."""

    near_cache: NearCache = "standby"
    """What of Redis is kept in memory while Redis is up.  ``"standby"``: copies of what this instance reads and writes, so
    that an outage begins warm.  ``"serve"``: reads are answered from them as well, at memory speed; another instance's
    write is seen a moment later.  ``"off"``: nothing, and an outage begins with an empty memory."""

    stale_ttl: float = 60.0
    """How long a copy of what Redis has may be read, in an outage too, if its time to live is not known, in seconds.  As
    long as your users may see what was changed behind an outage."""

    discovery: Sequence[Any] | None = None
    """Where peers' addresses come from, any number of sources together: ``Mdns()`` or ``"mdns"``, ``Static([...])`` or
    ``"host:port"``, ``Dns(name, port)`` or ``"dns://name:port"``, ``DnsSrv(name)`` or ``"dns+srv://name"``, or your own.
    ``"redis"`` is the registry in Redis.  None: mDNS and Redis.  ``[]``: nobody is looked for, but who finds this instance
    is answered."""

    interfaces: Sequence[str] | None = None
    """IP addresses or names of the network interfaces to use, for example ``["127.0.0.1"]``.  None: every usable one.  One
    IP address: nothing else is listened on.  A name: whatever addresses the interface gets later are used as well."""

    port: int = 0
    """UDP port of this instance.  0: any free one, which mDNS tells the others.  Fix it (7946, say) when others name
    this instance in ``Static`` or look its name up by ``Dns``, or when a firewall must let it through."""

    max_entries: int = 10_000
    """How many entries memory holds; the least recently used go first."""

    max_bytes: int = 100 * 2**20
    """How many bytes memory holds: keys, values and a flat sum for each entry."""

    max_dirty: int = 100_000
    """How many keys written in an outage are remembered one by one; beyond, recovery empties the whole namespace."""

    on_recovery: OnRecovery = "replay"
    """``"replay"``: Redis gets what the outage wrote.  ``"invalidate"``: every key that the outage touched is deleted in
    Redis (for values that are cheap to load again).  ``"discard"``: Redis stays as it is, old values included (for tests)."""

    failure_threshold: int = 3
    """How many calls in a row must wait longer than ``op_timeout`` until the instance leaves Redis.  A refused or broken
    connection counts at once."""

    fence_ttl: float = 3600.0
    """How long Redis remembers the stamp of a write that came from an outage, in seconds.  Longer than any instance may be
    paused and then wake up with old writes."""

    tombstone_ttl: float = 3600.0
    """How long memory remembers a delete, in seconds, if the outage lasts that long."""

    max_skew: float = 60.0
    """How far ahead of this clock a peer's clock may be, in seconds, before its writes are refused."""

    forget_after: float = 600.0
    """How long an instance that fell silent is reckoned with, in seconds: it may still have writes that Redis lacks, so until
    then the others write with stamps.  Longer than a process may be paused, or a network cut."""

    amnesia_window: float = 60.0
    """A server that was started anew, or a replica that took over, may have lost the changes of its last seconds.  Those of
    so many seconds are deleted there before it is read.  Longer than your Redis may lose: with snapshots, as long as the
    pause between two; with ``appendfsync everysec`` some seconds; 0 for one that forgets nothing (``appendfsync always``)."""

    warn_outage_after: float = 300.0
    """One warning is logged when an outage lasts longer than this, in seconds."""

    warn_store_bytes: int = 100 * 2**20
    """One warning is logged when memory holds more than this, in bytes."""

    def __post_init__(self) -> None:
        _require(
            isinstance(self.namespace, str) and _NAMESPACE.fullmatch(self.namespace) is not None,
            "namespace",
            f"{self.namespace!r} is not 1 to 100 of A-Z a-z 0-9 _ . : / @ -",
        )
        _require(
            self.secret is None or _is_secret(self.secret),
            "secret",
            "it must be str (encodable as UTF-8) or bytes of 8 or more, or None for a key kept in Redis",
        )
        if isinstance(self.codec, str):
            _one_of("codec", self.codec, tuple(CODECS))
        else:
            _require(
                isinstance(self.codec, Codec) and not isinstance(self.codec, type),
                "codec",
                "it must be an object with name, encode(value) and decode(data); of a class, pass an instance",
            )
        if isinstance(self.default_ttl, timedelta):
            _seconds("default_ttl", self.default_ttl.total_seconds())
        elif self.default_ttl is not None:
            _seconds("default_ttl", self.default_ttl, forever=True)
        for name in (
            "op_timeout",
            "stale_ttl",
            "fence_ttl",
            "tombstone_ttl",
            "max_skew",
            "forget_after",
        ):
            _seconds(name, getattr(self, name))
        _seconds("warn_outage_after", self.warn_outage_after, forever=True)
        if self.amnesia_window != 0:
            _seconds("amnesia_window", self.amnesia_window)
        _one_of("near_cache", self.near_cache, get_args(NearCache))
        _one_of("on_recovery", self.on_recovery, get_args(OnRecovery))
        for name in ("max_entries", "max_bytes", "max_dirty", "failure_threshold", "warn_store_bytes"):
            _whole(name, getattr(self, name), 1)
        _whole("port", self.port, 0, 65_535)
        for name in ("discovery", "interfaces"):
            value = getattr(self, name)
            _require(
                value is None or (isinstance(value, Sequence) and not isinstance(value, str | bytes)),
                name,
                f"it must be a list, for example {'[Mdns()]' if name == 'discovery' else str(['127.0.0.1'])}",
            )
        _require(
            self.interfaces is None
            or (len(self.interfaces) > 0 and all(isinstance(item, str) and item for item in self.interfaces)),
            "interfaces",
            "it must name at least one IP address or interface; None means every usable one",
        )

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Options:
        """Options from keyword arguments.  An unknown name raises :class:`ConfigError` with the nearest known one."""
        known = {item.name for item in fields(cls)}
        for name in arguments:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                raise ConfigError(name, "there is no such option" + (f"; did you mean {near[0]}?" if near else ""))
        return cls(**arguments)

    @classmethod
    def environment(cls, environ: Mapping[str, str] = os.environ, prefix: str = "MESHCACHE_") -> dict[str, Any]:
        """The arguments of ``MeshCache`` that the environment names: ``MESHCACHE_`` and an option's name in capitals.

        ``MESHCACHE_URL=none`` means no Redis; lists are separated by commas; ``MESHCACHE_DISCOVERY`` takes ``mdns``,
        ``redis``, ``none``, ``host:port``, ``dns://name:port`` and ``dns+srv://name``.

        Raises:
            ConfigError: a variable is not of its option's type.
        """
        arguments: dict[str, Any] = {}
        for name in ("url", *(item.name for item in fields(cls) if item.metadata.get("variable", True))):
            variable = prefix + name.upper()
            text = environ.get(variable, "").strip()
            if text:
                try:
                    arguments[name] = _FROM_TEXT.get(name, str)(text)
                except ValueError as error:
                    problem = f"{variable} must be {'a whole number' if _FROM_TEXT[name] is int else 'a number'}"
                    raise ConfigError(name, problem) from error
        return arguments

    def make_codec(self) -> Codec:
        """The codec itself; a named one is made anew, since a packer has state."""
        return CODECS[self.codec]() if isinstance(self.codec, str) else self.codec


def _list(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip() and item.strip() != "none"]


_FROM_TEXT: Mapping[str, Callable[[str], Any]] = {
    "url": lambda text: None if text == "none" else text,
    "discovery": _list,
    "interfaces": _list,
    **dict.fromkeys(
        (
            *("default_ttl", "op_timeout", "stale_ttl", "fence_ttl", "tombstone_ttl", "max_skew"),
            *("forget_after", "amnesia_window", "warn_outage_after"),
        ),
        float,
    ),
    **dict.fromkeys(("port", "max_entries", "max_bytes", "max_dirty", "failure_threshold", "warn_store_bytes"), int),
}


def _require(good: bool, option: str, problem: str) -> None:
    if not good:
        raise ConfigError(option, problem)


def _is_secret(value: object) -> bool:
    if isinstance(value, str):
        try:
            value = value.encode()
        except UnicodeEncodeError:  # an environment variable that is not UTF-8, for example
            return False
    return isinstance(value, bytes) and len(value) >= 8


def _one_of(option: str, value: object, allowed: Sequence[str]) -> None:
    _require(value in allowed, option, f"{value!r} is none of {', '.join(map(repr, allowed))}")


def _seconds(option: str, value: object, *, forever: bool = False) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    good = good and (0 < value <= _LONGEST or (forever and value == inf))  # type: ignore[operator]
    never = ", or math.inf for never" if forever else ""
    _require(good, option, f"{value!r} is not a number of seconds above 0 and up to a hundred years{never}")


def _whole(option: str, value: object, low: int, high: int | None = None) -> None:
    good = isinstance(value, int) and not isinstance(value, bool) and low <= value and (high is None or value <= high)
    _require(
        good, option, f"{value!r} is not a whole number {f'from {low} to {high}' if high else f'of {low} or more'}"
    )
