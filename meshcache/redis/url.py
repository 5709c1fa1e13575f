"""Reads and checks the URL of a Redis server.  The standard library only, and no I/O: a wrong URL is known before anything starts.

What is accepted::

    redis://[[user]:[password]@]host[:port][/db]
    rediss://…                    the same over TLS; ?ssl_ca_certs=/path and the other options of TLS
    unix://[[user]:[password]@]/path/to/socket[?db=1]

What may not enter: defaults for time.  Timeouts, retries and pools are options of meshcache, not of the URL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from ..errors import ConfigError

__all__ = ["Endpoint", "check_url", "parse_url", "redact"]

DEFAULT_PORT: Final = 6379

_LATER: Final = ("sentinel", "cluster")
_COMMON_OPTIONS: Final = frozenset({"db", "username", "password"})
_TLS_OPTIONS: Final = frozenset(
    {
        "ssl_ca_certs",
        "ssl_ca_path",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_password",
        "ssl_cert_reqs",
        "ssl_check_hostname",
    }
)
_SECRET_OPTIONS: Final = frozenset({"password", "ssl_password"})
_BOOLEANS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where Redis is, and how to get in.  Its repr shows no password.

    Attributes:
        scheme: ``"redis"``, ``"rediss"`` or ``"unix"``.
        path: of a unix socket; otherwise empty.
        tls: the ``ssl_…`` options; those of redis-py's URLs.
    """

    scheme: str
    host: str = "localhost"
    port: int = DEFAULT_PORT
    path: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """How log lines call it."""
        return self.path or (f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}")

    def connection_arguments(self) -> dict[str, Any]:
        """What redis-py's connection classes are told of it; TLS apart."""
        place = {"path": self.path} if self.scheme == "unix" else {"host": self.host, "port": self.port}
        return {**place, "db": self.db, "username": self.username, "password": self.password}


def check_url(url: str) -> str:
    """The URL itself.

    Raises:
        ConfigError: it is not a URL of one Redis server; says the fix, and shows no password.
    """
    parse_url(url)
    return url


def parse_url(url: str) -> Endpoint:
    """What the URL says.  Raises as :func:`check_url`."""
    if not isinstance(url, str):
        raise ConfigError("url", "it must be text such as redis://localhost:6379/0, or None for no Redis")
    scheme, separator, _ = url.partition("://")
    scheme = scheme.lower()
    if any(word in scheme for word in _LATER) and separator:
        raise ConfigError("url", f"{scheme}:// comes with a later version; name one server: redis://host:6379/0")
    if not separator or scheme not in {"redis", "rediss", "unix"}:
        raise ConfigError("url", "it must begin with redis://, rediss:// (TLS) or unix://, as redis://localhost:6379/0")
    parts, port = _split(url)
    options = _options(parts, scheme)
    return Endpoint(
        scheme=scheme,
        **(
            {"path": _socket_path(parts)}
            if scheme == "unix"
            else {"host": unquote(parts.hostname or "localhost"), "port": port}
        ),
        db=_database(options.pop("db", None), "" if scheme == "unix" else parts.path),
        username=_credential(parts.username, options.pop("username", None)),
        password=_credential(parts.password, options.pop("password", None)),
        tls=options,
    )


def redact(url: str) -> str:
    """The URL as a log may show it: without passwords.  A URL that cannot be read shows its scheme only."""
    scheme, separator, _ = url.partition("://")
    if not separator:
        return "(not a URL)"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return f"{scheme}://***"
    if parts.fragment:  # an unescaped # cut the URL somewhere, perhaps in the password
        return f"{scheme}://***"
    user, at, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    query = "&".join(
        f"{option}={'***' if option in _SECRET_OPTIONS else quote(value, safe='/')}"
        for option, value in parse_qsl(parts.query, keep_blank_values=True)
    )
    return f"{scheme}://{name}{colon and ':***'}{at}{host}{parts.path}{query and '?' + query}"


def _split(url: str) -> tuple[SplitResult, int]:
    if any(ord(char) <= 32 or ord(char) == 127 for char in url):
        raise ConfigError("url", "it must not contain spaces, line breaks or control characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its text may quote the password
        parts, port = None, None
    if parts is None or parts.fragment:
        raise ConfigError(
            "url",
            "host and port cannot be read; write redis://user:password@host:port/db, with special characters of the "
            "password percent-encoded (urllib.parse.quote(password, safe=''))",
        )
    if port == 0:
        raise ConfigError("url", "the port must be 1 to 65535")
    return parts, DEFAULT_PORT if port is None else port


def _options(parts: SplitResult, scheme: str) -> dict[str, Any]:
    known = _COMMON_OPTIONS | (_TLS_OPTIONS if scheme == "rediss" else frozenset())
    options: dict[str, Any] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known:
            hint = "use op_timeout" if "timeout" in name or "retry" in name else f"known are {', '.join(sorted(known))}"
            if name in _TLS_OPTIONS:
                hint = "it needs rediss://"
            raise ConfigError("url", f"?{name[:40]}= is not an option of this URL; {hint}")
        options[name] = value
    if "ssl_check_hostname" in options:
        flag = _BOOLEANS.get(options["ssl_check_hostname"].lower())
        if flag is None:
            raise ConfigError("url", "?ssl_check_hostname= must be true or false")
        options["ssl_check_hostname"] = flag
    if options.get("ssl_cert_reqs", "required") not in {"required", "optional", "none"}:
        raise ConfigError("url", "?ssl_cert_reqs= must be required, optional or none")
    return options


def _socket_path(parts: SplitResult) -> str:
    if parts.netloc.rpartition("@")[2] or not parts.path.startswith("/") or parts.path == "/":
        raise ConfigError("url", "a unix:// URL has three slashes and an absolute path, as unix:///run/redis.sock")
    return unquote(parts.path)


def _database(option: str | None, path: str) -> int:
    text = path.strip("/") if option is None else option
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()):
        raise ConfigError("url", "the database must be a number, as in redis://localhost:6379/0 (unix: ?db=0)")
    return int(text)


def _credential(before_host: str | None, option: str | None) -> str | None:
    return unquote(before_host) if before_host else (option or None)
