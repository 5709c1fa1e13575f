"""What ``MeshCache`` was given as the place of Redis, checked: a URL, or nothing.  No I/O, and no redis-py unless a client of it is given."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError
from .credentials import Credentials
from .url import Place, parse_url, redact

__all__ = ["read_place"]


def read_place(source: Any, credential_provider: Any = None) -> tuple[Place | None, str]:
    """Where Redis is, and how log lines show it.

    Args:
        source: a URL, or None for no Redis.
        credential_provider: asked for the password; None for what ``source`` says.

    Raises:
        ConfigError: it cannot be read, or two of them name a password.
    """
    if source is None:
        return None, "no Redis"
    if not isinstance(source, str):
        raise ConfigError("url", f"it must be a str or None, not {type(source).__name__}")
    place, shown_as = parse_url(source), redact(source)
    if credential_provider is not None:
        place = place.asking(Credentials(credential_provider))
    return place, shown_as
