"""The TLS settings of a ``rediss://`` URL, or of a client, as one context that all connections of a link share.

To load the system's certificates takes tens of ms, so it is done once, and by asyncio in a worker thread.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Mapping
from typing import Any, Final

from ..errors import Unavailable

__all__ = ["Tls"]


class Tls:
    """Makes the context when it is first needed: files are read then, not before.

    Args:
        options: redis-py's ``ssl_…`` names, as in ``Endpoint.tls``; they mean what they mean there.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._lock = threading.Lock()
        self.context: ssl.SSLContext | None = None

    def load(self) -> ssl.SSLContext:
        """The context.  From any thread; reads files at the first call.

        Raises:
            Unavailable: a file cannot be read, or does not hold what it should.
        """
        with self._lock:
            if self.context is None:
                try:
                    self.context = self._make()
                except OSError as error:  # an SSLError is one
                    raise Unavailable(f"the ssl_… options do not work: {error.strerror or error}") from None
            return self.context

    def _make(self) -> ssl.SSLContext:
        options = {name: value for name, value in self._options.items() if value is not None}
        required = options.get("ssl_cert_reqs", "required" if "ssl_cert_reqs" not in self._options else "none")
        context = ssl.create_default_context()
        context.check_hostname = options.get("ssl_check_hostname", True) and required not in ("none", ssl.CERT_NONE)
        context.verify_mode = _VERIFY_MODES.get(required, required)
        for flag in options.get("ssl_include_verify_flags", ()):
            context.verify_flags |= flag
        for flag in options.get("ssl_exclude_verify_flags", ()):
            context.verify_flags &= ~flag
        authorities = {"cafile": "ssl_ca_certs", "capath": "ssl_ca_path", "cadata": "ssl_ca_data"}
        if any(name in options for name in authorities.values()):
            context.load_verify_locations(**{argument: options.get(name) for argument, name in authorities.items()})
        if "ssl_certfile" in options:
            context.load_cert_chain(
                options["ssl_certfile"], options.get("ssl_keyfile"), password=options.get("ssl_password", "")
            )
        if "ssl_min_version" in options:
            context.minimum_version = options["ssl_min_version"]
        if options.get("ssl_ciphers"):
            context.set_ciphers(options["ssl_ciphers"])
        return context


_VERIFY_MODES: Final[Mapping[Any, ssl.VerifyMode]] = {
    "required": ssl.CERT_REQUIRED,
    "optional": ssl.CERT_OPTIONAL,
    "none": ssl.CERT_NONE,
}
