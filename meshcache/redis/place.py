"""What ``MeshCache`` was given as the place of Redis, checked: a URL, a ready client, or nothing.  No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .credentials import Credentials
from .url import Place, parse_url, redact

if TYPE_CHECKING:
    from .client import RedisClient

__all__ = ["read_place"]


def read_place(source: str | RedisClient | None, credential_provider: Any = None) -> tuple[Place | None, str]:
    """Where Redis is, and how log lines show it.

    Args:
        source: a URL, a client of redis-py, or None for no Redis.
        credential_provider: asked for the password; None for what ``source`` says.

    Raises:
        ConfigError: it cannot be read, or two of them name a password.
    """
    place: Place
    if source is None:
        return None, "no Redis"
    if isinstance(source, str):
        place, shown_as = parse_url(source), redact(source)
    elif _is_of_redis_py(source):
        from .client import place_of  # imports redis-py, which is there already: not a cost of `import meshcache`

        place, shown_as = place_of(source)
    else:
        raise ConfigError("url", f"it must be a str, a client of redis-py, or None, not {type(source).__name__}")
    if credential_provider is not None:
        place = place.asking(Credentials(credential_provider))
    return place, shown_as


def _is_of_redis_py(source: object) -> bool:
    return any(base.__module__.partition(".")[0] == "redis" for base in type(source).__mro__)
