"""The commands and their options.  What a command does is in a package of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import __version__

__all__ = ["app"]

app = typer.Typer(
    help="A shared Redis cache that outlives its Redis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"meshcache {__version__}")
        raise typer.Exit


@app.callback()
def _meshcache(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    # The options of the command itself.  Without this function typer would make the only command the whole program.
    del version


@app.command()
def demo(
    redis_url: Annotated[
        str | None,
        typer.Option(
            "--redis-url",
            metavar="URL",
            help="A redis:// server that is there already. It stays up: the demo cuts the way to it. Only keys of a random "
            "namespace are written, and removed at the end.",
        ),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Plain lines as things happen, also in a terminal.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON document at the end, and nothing else.")] = False,
) -> None:
    """Kill a real Redis under running instances, and watch the cache go on.

    Starts a server and three instances on loopback, kills the server, shows that they still share what they write and
    delete, starts the server again, and shows that Redis has it all. Takes less than 40 seconds and leaves nothing behind.

    Exit status: 0 if every step held, 1 if one did not, 2 for wrong usage or no server, 130 if interrupted.
    """
    from .demo.run import Output, run_demo

    if plain and json:
        raise typer.BadParameter("--plain and --json exclude each other")
    output = Output.JSON if json else Output.PLAIN if plain else Output.TERMINAL
    raise typer.Exit(run_demo(redis_url, output))
