"""The live picture in a terminal: the server, the instances, and the steps with what each has shown.

Wide terminals get one line a step; narrow ones put what was shown below the title, and while the picture is higher than the
terminal only the step that ended last keeps it.  Symbols fall back to ASCII where the terminal's encoding lacks them.
"""

from __future__ import annotations

from collections.abc import Callable

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ..board import InstanceView, Outcome, Picture, StepView
from .plain import verdict

__all__ = ["LivePicture"]

_WIDE = 118
_MODE_STYLES = {"redis": "bold green", "memory": "bold yellow", "recovering": "bold cyan"}


class LivePicture:
    """A rich renderable that draws the picture as it is at the moment of drawing.

    Args:
        look: gives the picture.
        version: of meshcache.
    """

    def __init__(self, look: Callable[[], Picture], version: str) -> None:
        self._look = look
        self._version = version
        self._spinner = Spinner("dots", style="cyan")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Called by rich for every frame."""
        picture = self._look()
        unicode = console.encoding.lower().startswith("utf")
        full = self._draw(picture, options.max_width, unicode=unicode, brief=False)
        if not picture.ended and len(console.render_lines(full, options)) >= console.height:
            yield self._draw(picture, options.max_width, unicode=unicode, brief=True)
        else:
            yield full

    def _draw(self, picture: Picture, width: int, *, unicode: bool, brief: bool) -> RenderableType:
        marks = _marks(unicode=unicode)
        parts: list[RenderableType] = [_head(picture, self._version, marks)]
        parts.append(Text() if picture.ended else _instances(picture, marks))  # at the end none is left to show
        parts.append(self._steps(picture, marks, wide=width >= _WIDE, brief=brief))
        parts += [_failure(step) for step in picture.steps if step.failure is not None]
        if picture.ended:
            parts.append(_end(picture, marks))
        return Group(*parts)

    def _steps(self, picture: Picture, marks: dict[str, str], *, wide: bool, brief: bool) -> Table:
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(width=2, justify="right", style="dim")
        table.add_column(width=1)
        if wide:
            table.add_column(no_wrap=True)
        table.add_column(ratio=1)
        table.add_column(justify="right", no_wrap=True, min_width=5)
        last = max((step.number for step in picture.steps if step.outcome is Outcome.HELD), default=0)
        for step in picture.steps:
            title = Text(step.title, style=_title_style(step))
            shown = _shown(step, note=not brief) if not brief or step.number == last else Text()
            cells = [title, shown] if wide else [Group(title, shown) if shown else title]
            ended = step.outcome in (Outcome.HELD, Outcome.FAILED)
            seconds = Text(f"{step.seconds:.1f} s" if ended else "", style="dim")
            table.add_row(str(step.number), self._mark(step, marks), *cells, seconds)
        return table

    def _mark(self, step: StepView, marks: dict[str, str]) -> RenderableType:
        match step.outcome:
            case Outcome.HELD:
                return Text(marks["held"], style="bold green")
            case Outcome.FAILED:
                return Text(marks["failed"], style="bold red")
            case Outcome.RUNNING:
                return Text(marks["running"], style="cyan") if marks["running"] else self._spinner
            case _:
                return Text(marks["waiting"], style="dim")


def _marks(*, unicode: bool) -> dict[str, str]:
    """One character each; "" for the spinner."""
    if unicode:
        return {"held": "✓", "failed": "✗", "running": "", "waiting": "·", "up": "●", "down": "○"}
    return {"held": "+", "failed": "x", "running": "*", "waiting": "-", "up": "*", "down": "o"}


def _head(picture: Picture, version: str, marks: dict[str, str]) -> RenderableType:
    line = Text.assemble((picture.server.name, "bold"), f" at {picture.server.where}")
    if not picture.ended:
        mark, state, style = ("up", "answers", "green") if picture.server.reachable else ("down", "away", "red")
        line.append(f"  {marks[mark]} {state}", style=f"bold {style}")
    table = Table.grid(expand=True)
    table.add_column()
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_row(line, f"{picture.seconds:.0f} s")
    title = Text.assemble(("meshcache", "bold"), f" {version}")
    subtitle = Text(f"instances on loopback, {picture.discovery}", style="dim")
    return Panel(table, title=title, title_align="left", subtitle=subtitle, subtitle_align="left", border_style="blue")


def _instances(picture: Picture, marks: dict[str, str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, padding=(0, 1))
    table.add_column("instance", ratio=2)
    table.add_column("mode", ratio=3)
    for name in ("peers", "in memory", "not in Redis"):
        table.add_column(name, justify="right", ratio=3, no_wrap=True)
    for instance in picture.instances:
        table.add_row(*_instance_cells(instance, marks))
    return table


def _instance_cells(instance: InstanceView, marks: dict[str, str]) -> list[RenderableType]:
    if instance.state != "open":
        return [Text(f"{marks['down']} {instance.number}", style="dim"), Text(instance.state, style="dim"), "", "", ""]
    style = _MODE_STYLES[instance.mode]
    return [
        Text.assemble((marks["up"], style), f" {instance.number}"),
        Text(instance.mode, style=style),
        str(instance.peers),
        str(instance.entries),
        Text(str(instance.dirty), style="yellow" if instance.dirty else ""),
    ]


def _title_style(step: StepView) -> str:
    return {Outcome.RUNNING: "bold cyan", Outcome.FAILED: "bold red", Outcome.HELD: "bold"}.get(step.outcome, "dim")


def _shown(step: StepView, *, note: bool) -> Text:
    text = Text(step.shown)
    if step.note and note:
        text.append(f"\n{step.note}", style="dim italic")
    return text


def _failure(step: StepView) -> RenderableType:
    assert step.failure is not None
    text = Text.assemble(("expected  ", "bold"), step.failure.expected, "\n", ("seen      ", "bold"), step.failure.seen)
    for number, lines in step.failure.logs.items():
        text.append(f"\nlast log lines of instance {number}:", style="bold")
        for line in lines:
            text.append(f"\n  {line}", style="dim")
    return Panel(text, title=f"step {step.number} did not hold", title_align="left", border_style="red")


def _end(picture: Picture, marks: dict[str, str]) -> RenderableType:
    good = picture.ok
    text = Text.assemble(
        "\n", f"{marks['held' if good else 'failed']} {verdict(picture)}", style="bold green" if good else "bold red"
    )
    if picture.leftover:
        text.append(f" Left behind: {picture.leftover}")
    return text
