"""The command ``meshcache``.  This file says what to install where the extra ``cli`` is missing; the commands are in ``app``.

Nothing heavy is imported here: the processes that the demo starts come through this package as well.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

_OF_THE_EXTRA = {"click", "rich", "typer"}


def main() -> None:
    """Run the command and end the process with its exit status."""
    try:
        from .app import app

        app(prog_name="meshcache")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _OF_THE_EXTRA:
            raise
        sys.stderr.write(
            f"meshcache: the command needs {error.name}, which is not installed: "
            "pip install 'meshcache[cli]', or 'meshcache[demo]' for a server as well\n"
        )
        sys.exit(2)
