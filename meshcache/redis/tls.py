"""The TLS settings of a ``rediss://`` URL as one context that all connections of a link share.

To load the system's certificates takes tens of ms, so it is done once, and by asyncio in a worker thread.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Mapping
from typing import Any

from ..errors import Unavailable

__all__ = ["Tls"]


class Tls:
    """Makes the context when it is first needed: files are read then, not before.

    Args:
        options: redis-py's ``ssl_…`` names, as in ``Endpoint.tls``.
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
                except OSError as error:
                    raise Unavailable(f"the ssl_… options of the URL do not work: {error.strerror}") from None
            return self.context

    def _make(self) -> ssl.SSLContext:
        options = self._options
        context = ssl.create_default_context()
        required = options.get("ssl_cert_reqs", "required")
        context.check_hostname = options.get("ssl_check_hostname", True) and required != "none"
        context.verify_mode = {
            "required": ssl.CERT_REQUIRED,
            "optional": ssl.CERT_OPTIONAL,
            "none": ssl.CERT_NONE,
        }[required]
        if "ssl_ca_certs" in options or "ssl_ca_path" in options:
            context.load_verify_locations(cafile=options.get("ssl_ca_certs"), capath=options.get("ssl_ca_path"))
        if "ssl_certfile" in options:
            context.load_cert_chain(
                options["ssl_certfile"], options.get("ssl_keyfile"), password=options.get("ssl_password", "")
            )
        return context
