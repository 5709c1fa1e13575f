"""Reads and checks the URL of Redis.  The standard library only, and no I/O: a wrong URL is known before anything starts.

What is accepted::

    redis://[[user]:[password]@]host[:port][/db]
    rediss://…                    the same over TLS; ?ssl_ca_certs=/path and the other options of TLS
    unix://[[user]:[password]@]/path/to/socket[?db=1]
    redis+sentinel://[[user]:[password]@]sentinel[:port],…/service[/db][?sentinel_username=&sentinel_password=]
    redis+cluster://[[user]:[password]@]node[:port],…
    rediss+sentinel://…           and rediss+cluster://…: over TLS, to the sentinels as well

What may not enter: defaults for time.  Timeouts, retries and pools are options of meshcache, not of the URL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from ..errors import ConfigError
from .credentials import Credentials

__all__ = ["Address", "ClusterEndpoint", "Endpoint", "Place", "SentinelEndpoint", "check_url", "parse_url", "redact"]

DEFAULT_PORT: Final = 6379
SENTINEL_PORT: Final = 26_379

Address = tuple[str, int]
"""Host and port."""

_SENTINEL: Final = "+sentinel"
_CLUSTER: Final = "+cluster"
_SCHEMES: Final = (
    "redis",
    "rediss",
    "unix",
    *(scheme + kind for kind in (_SENTINEL, _CLUSTER) for scheme in ("redis", "rediss")),
)
_NETLOC: Final = re.compile(r"[^/?#]*")
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
_SENTINEL_OPTIONS: Final = frozenset({"sentinel_username", "sentinel_password"})
_SECRET_OPTIONS: Final = frozenset({"password", "ssl_password", "sentinel_password"})
_BOOLEANS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where one server is, and how to get in.  Its repr shows no password.

    Attributes:
        scheme: ``"redis"``, ``"rediss"`` or ``"unix"``.
        path: of a unix socket; otherwise empty.
        credentials: asked for user and password at each connection, in the place of ``username`` and ``password``.
        tls: the ``ssl_…`` options; those of redis-py's URLs.
        in_cluster: whether it is a node of a Redis Cluster, so that a redirection is an answer.
    """

    scheme: str
    host: str = "localhost"
    port: int = DEFAULT_PORT
    path: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    credentials: Credentials | None = field(default=None, repr=False)
    tls: Mapping[str, Any] = field(default_factory=dict, repr=False)
    in_cluster: bool = False

    @property
    def name(self) -> str:
        """How log lines call it."""
        return self.path or (f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}")

    def at(self, address: Address) -> Endpoint:
        """The same way in, to another server."""
        return replace(self, host=address[0], port=address[1])

    def asking(self, credentials: Credentials) -> Endpoint:
        """The same server, whose password is asked for at each connection."""
        if self.username or self.password:
            raise ConfigError(
                "credential_provider", "the URL names a user or a password as well; leave one of them out"
            )
        return replace(self, credentials=credentials)

    def connection_arguments(self) -> dict[str, Any]:
        """What redis-py's connection classes are told of it; TLS apart."""
        place = {"path": self.path} if self.scheme == "unix" else {"host": self.host, "port": self.port}
        login = (
            {"credential_provider": self.credentials}
            if self.credentials is not None
            else {"username": self.username, "password": self.password}
        )
        return {**place, "db": self.db, **login}


@dataclass(frozen=True, slots=True, kw_only=True)
class SentinelEndpoint:
    """Servers of which one is the master, and the sentinels that know which.

    Attributes:
        sentinels: where they are.
        service: what they call the group.
        master: how to get into the master, wherever it is; its host and port mean nothing.
    """

    sentinels: tuple[Endpoint, ...]
    service: str
    master: Endpoint

    @property
    def name(self) -> str:
        """How log lines call it."""
        return f"the master of {self.service}"

    def asking(self, credentials: Credentials) -> SentinelEndpoint:
        """The same servers; the password of the master, not that of the sentinels, is asked for at each connection."""
        return replace(self, master=self.master.asking(credentials))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterEndpoint:
    """A Redis Cluster.

    Attributes:
        seeds: nodes that are asked for the others; at least one.
        remap: from the address that the cluster gives of a node to the one where it is reached from here.
    """

    seeds: tuple[Endpoint, ...]
    remap: Callable[[Address], Address] | None = None

    @property
    def name(self) -> str:
        """How log lines call it."""
        return f"the cluster at {', '.join(seed.name for seed in self.seeds)}"

    def asking(self, credentials: Credentials) -> ClusterEndpoint:
        """The same cluster, whose password is asked for at each connection."""
        return replace(self, seeds=tuple(seed.asking(credentials) for seed in self.seeds))


Place = Endpoint | SentinelEndpoint | ClusterEndpoint
"""Where Redis is."""


def check_url(url: str) -> str:
    """The URL itself.

    Raises:
        ConfigError: it is not a URL of Redis; says the fix, and shows no password.
    """
    parse_url(url)
    return url


def parse_url(url: str) -> Place:
    """What the URL says.  Raises as :func:`check_url`."""
    if not isinstance(url, str):
        raise ConfigError("url", "it must be text such as redis://localhost:6379/0, or None for no Redis")
    scheme, separator, _ = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _SCHEMES:
        raise ConfigError(
            "url",
            "it must begin with redis://, rediss:// (TLS), unix://, redis+sentinel:// or redis+cluster://, "
            "as redis://localhost:6379/0",
        )
    parts = _split(url)
    options = _options(parts, scheme)
    if scheme.endswith(_SENTINEL):
        return _sentinels(scheme.removesuffix(_SENTINEL), parts, options)
    if scheme.endswith(_CLUSTER):
        return _cluster(scheme.removesuffix(_CLUSTER), parts, options)
    return _server(scheme, parts, options)


def _server(scheme: str, parts: SplitResult, options: dict[str, Any]) -> Endpoint:
    if scheme == "unix":
        way: dict[str, Any] = {"path": _socket_path(parts)}
    else:
        host, port = _address(parts.netloc.rpartition("@")[2], DEFAULT_PORT)
        if "," in host:
            raise ConfigError(
                "url", "several hosts need redis+sentinel://host1,host2/service or redis+cluster://host1,host2"
            )
        way = {"host": host, "port": port}
    database = _database(options.pop("db", None), "" if scheme == "unix" else parts.path)
    return Endpoint(scheme=scheme, **way, db=database, **_login(parts, options), tls=options)


def _sentinels(scheme: str, parts: SplitResult, options: dict[str, Any]) -> SentinelEndpoint:
    addresses = _addresses(parts, SENTINEL_PORT)
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise ConfigError("url", "name the service after the sentinels, as redis+sentinel://host1,host2/mymaster/0")
    sentinel_login: dict[str, Any] = {
        "username": options.pop("sentinel_username", None) or None,
        "password": options.pop("sentinel_password", None) or None,
    }
    master = Endpoint(
        scheme=scheme, db=_database(options.pop("db", None), database), **_login(parts, options), tls=options
    )
    return SentinelEndpoint(
        sentinels=tuple(
            Endpoint(scheme=scheme, host=host, port=port, **sentinel_login, tls=options) for host, port in addresses
        ),
        service=unquote(service),
        master=master,
    )


def _cluster(scheme: str, parts: SplitResult, options: dict[str, Any]) -> ClusterEndpoint:
    if _database(options.pop("db", None), parts.path):
        raise ConfigError("url", "a Redis Cluster has no database but 0; leave it out")
    login = _login(parts, options)
    return ClusterEndpoint(
        seeds=tuple(
            Endpoint(scheme=scheme, host=host, port=port, **login, tls=options, in_cluster=True)
            for host, port in _addresses(parts, DEFAULT_PORT)
        )
    )


def redact(url: str) -> str:
    """The URL as a log may show it: without passwords.  A URL that cannot be read shows its scheme only."""
    scheme, separator, _ = url.partition("://")
    if not separator:
        return "(not a URL)"
    try:
        parts = _split(url)
        _addresses(parts, DEFAULT_PORT)
    except ConfigError:
        return f"{scheme}://***"
    user, at, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    query = "&".join(
        f"{option}={'***' if option in _SECRET_OPTIONS else quote(value, safe='/')}"
        for option, value in parse_qsl(parts.query, keep_blank_values=True)
    )
    return f"{scheme}://{name}{colon and ':***'}{at}{host}{parts.path}{query and '?' + query}"


def _split(url: str) -> SplitResult:
    if any(ord(char) <= 32 or ord(char) == 127 for char in url):
        raise ConfigError("url", "it must not contain spaces, line breaks or control characters")
    scheme, _, rest = url.partition("://")
    netloc = _NETLOC.match(rest)
    assert netloc is not None
    # Apart: of several hosts newer Pythons do not take [::1] but in the first place.  What they are is seen in _address.
    parts = urlsplit(f"{scheme}://{rest[netloc.end() :]}")._replace(netloc=netloc[0])
    if parts.fragment:  # an unescaped # cut the URL somewhere, perhaps in the password
        raise _unreadable()
    return parts


def _addresses(parts: SplitResult, default_port: int) -> list[Address]:
    """The hosts of a URL that may name several."""
    return [_address(place, default_port) for place in parts.netloc.rpartition("@")[2].split(",")]


def _address(place: str, default_port: int) -> Address:
    try:
        parts = urlsplit(f"//{place}")
        host, port = unquote(parts.hostname or "localhost"), parts.port
    except ValueError:  # its text may quote the password
        raise _unreadable() from None
    if port == 0:
        raise ConfigError("url", "the port must be 1 to 65535")
    return host, default_port if port is None else port


def _unreadable() -> ConfigError:
    return ConfigError(
        "url",
        "host and port cannot be read; write redis://user:password@host:port/db, with special characters of the "
        "password percent-encoded (urllib.parse.quote(password, safe=''))",
    )


def _options(parts: SplitResult, scheme: str) -> dict[str, Any]:
    known = _COMMON_OPTIONS
    if scheme.startswith("rediss"):
        known |= _TLS_OPTIONS
    if scheme.endswith(_SENTINEL):
        known |= _SENTINEL_OPTIONS
    options: dict[str, Any] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known:
            hint = "use op_timeout" if "timeout" in name or "retry" in name else f"known are {', '.join(sorted(known))}"
            if name in _TLS_OPTIONS:
                hint = f"it needs {scheme.replace('redis', 'rediss')}://" if scheme != "unix" else "it needs rediss://"
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


def _login(parts: SplitResult, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "username": _credential(parts.username, options.pop("username", None)),
        "password": _credential(parts.password, options.pop("password", None)),
    }


def _credential(before_host: str | None, option: str | None) -> str | None:
    return unquote(before_host) if before_host else (option or None)
