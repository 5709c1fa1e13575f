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


@app.command()
def doctor(
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="Where Redis is; `none` for no Redis.")
    ] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", metavar="NAME", help="The name of the mesh.")] = None,
    secret: Annotated[
        str | None,
        typer.Option(
            "--secret", metavar="TEXT", help="Better set MESHCACHE_SECRET: other users can read a command's arguments."
        ),
    ] = None,
    discovery: Annotated[
        list[str] | None,
        typer.Option(
            "--discovery",
            metavar="SOURCE",
            help="`mdns`, `host:port`, `dns://name:port`, `dns+srv://name` or `none`; may be given more than once.",
        ),
    ] = None,
    interfaces: Annotated[
        list[str] | None,
        typer.Option("--interfaces", metavar="NAME", help="An address or an interface; may be given more than once."),
    ] = None,
    port: Annotated[str | None, typer.Option("--port", metavar="PORT", help="The UDP port of the instances.")] = None,
    peers: Annotated[
        int | None, typer.Option("--peers", min=0, metavar="N", help="So many other instances must be met.")
    ] = None,
    wait: Annotated[float, typer.Option("--wait", min=0, metavar="SECONDS", help="How long to listen for them.")] = 3.0,
    strict: Annotated[bool, typer.Option("--strict", help="A warning counts as broken.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Plain lines, also in a terminal.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON document at the end, and nothing else.")] = False,
) -> None:
    """Examine what an instance on this host would meet, and say what to do.

    Looks at the host, at Redis and at the mesh, with the options of a MeshCache: those given here, else the variables
    MESHCACHE_URL, MESHCACHE_SECRET and so on. Writes keys with random names in the namespace and deletes them, and joins the
    mesh as one more instance for some seconds.

    Exit status: 0 if nothing is broken, 1 if something is, 2 for wrong usage, 130 if interrupted.
    """
    from .doctor import Output, run_doctor

    if plain and json:
        raise typer.BadParameter("--plain and --json exclude each other")
    given = {
        "url": url,
        "namespace": namespace,
        "secret": secret,
        "discovery": ",".join(discovery or ()),
        "interfaces": ",".join(interfaces or ()),
        "port": port,
    }
    output = Output.JSON if json else Output.PLAIN if plain else Output.TERMINAL
    options = {name: text for name, text in given.items() if text}
    raise typer.Exit(run_doctor(options, output, peers=peers, wait=wait, strict=strict))
