"""What a source of addresses is given, and what it has to do.  No source of its own lives here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ..interfaces import usable_addresses

__all__ = ["Announcement", "Discovery"]


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a source may tell others of this instance."""

    node_id: int
    """64 bits, new at every start."""
    namespace: str
    """The mesh's name.  It may be private: a source tells others a digest of it at most."""
    addresses: tuple[str, ...]
    """The IP addresses under which others could reach this instance when it started; see :meth:`addresses_now`."""
    port: int
    """The UDP port."""
    everywhere: bool = False
    """Whether an address that this host, or the interface named, gets later will reach this instance too."""
    interfaces: tuple[str, ...] | None = None
    """What the option ``interfaces`` says."""

    def addresses_now(self) -> tuple[str, ...]:
        """The IP addresses under which others can reach this instance now.  Asks the operating system: for a worker thread."""
        if not self.everywhere:
            return self.addresses
        return tuple(item.ip for item in usable_addresses(self.interfaces))


@runtime_checkable
class Discovery(Protocol):
    """A source of addresses that may be peers'."""

    name: str
    """For logs."""

    async def run(self, announcement: Announcement, found: Callable[[str, int], None]) -> None:
        """Look for addresses until cancelled.

        Args:
            announcement: what others may be told of this instance.
            found: to be called with IP address and UDP port of each candidate, in the event loop's thread, and again at
                least every 30 s while the candidate stands: what is not repeated is forgotten after a minute.

        Raises:
            Exception: it does not work now.  One warning is logged, and it is run again 10 s later, for ever.
        """
        ...
