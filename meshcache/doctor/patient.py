"""What the checks look at, and what an earlier check has found that a later one needs.  No check of its own lives here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..discovery.base import Discovery
from ..discovery.mdns import Mdns
from ..discovery.roster import Roster
from ..discovery.sources import make_sources
from ..options import DEFAULT_URL, Options
from ..redis.link import Link
from ..redis.names import Names, key_slot
from ..redis.url import check_url

if TYPE_CHECKING:
    from .instance import TemporaryInstance

__all__ = ["Node", "Patient"]


@dataclass(frozen=True, kw_only=True)
class Node:
    """One server that holds keys: the only one, or a master of a cluster.

    Attributes:
        name: ``host:port``; empty if it is the only one.
        link: the way to it alone.
        slots: the hash slots that it has; None for all.
        info: what it says of itself; empty if it does not.
    """

    link: Link
    name: str = ""
    slots: frozenset[int] | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    def has(self, key: bytes) -> bool:
        """Whether a Redis key belongs there."""
        return self.slots is None or key_slot(key) in self.slots


@dataclass(kw_only=True)
class Patient:
    """An instance as it would be configured here.

    Attributes:
        url: where Redis is; None for a cache without.
        options: those of the cache.
        sources: where addresses of peers come from.
        peers_expected: so many peers must be met; None: any number is right.
        wait: how long to listen for peers, in seconds.
        link: a patient way to Redis, or None.
        nodes: the servers that hold keys, once they are known.
        answers: whether Redis answers.
        takes_writes: whether Redis takes writes.
        instance: a temporary instance, while one runs.
    """

    url: str | None
    options: Options
    sources: list[Discovery]
    peers_expected: int | None = None
    wait: float = 3.0
    link: Link | None = None
    nodes: list[Node] = field(default_factory=list)
    answers: bool = False
    takes_writes: bool = False
    instance: TemporaryInstance | None = None

    @classmethod
    def of(cls, arguments: Mapping[str, Any], *, peers_expected: int | None = None, wait: float = 3.0) -> Patient:
        """By the arguments of a ``MeshCache``.

        Raises:
            ConfigError: one is wrong.
        """
        rest = dict(arguments)
        url = rest.pop("url", DEFAULT_URL)
        options = Options.of(rest)
        return cls(
            url=None if url is None else check_url(url),
            options=options,
            # Without Redis there is no registry in it.
            sources=[
                source
                for source in make_sources(options.discovery, options.interfaces)
                if url is not None or not isinstance(source, Roster)
            ],
            peers_expected=peers_expected,
            wait=wait,
        )

    @property
    def server(self) -> Link:
        """The way to Redis, for checks that run only if it answers."""
        assert self.link is not None
        return self.link

    @property
    def temporary(self) -> TemporaryInstance:
        """The temporary instance, for checks that run only if there is one."""
        assert self.instance is not None
        return self.instance

    @property
    def names(self) -> Names:
        """The keys of the namespace."""
        return Names(self.options.namespace)

    @property
    def uses_mdns(self) -> bool:
        """Whether multicast matters."""
        return any(isinstance(source, Mdns) for source in self.sources)

    @property
    def has_other_sources(self) -> bool:
        """Whether peers may be found without multicast."""
        return any(not isinstance(source, Mdns) for source in self.sources)
