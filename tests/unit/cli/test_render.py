"""How the demo looks: the live picture at two widths, plain lines, JSON."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from meshcache.cli.demo.board import Board, Failure, InstanceView, Picture, ServerView
from meshcache.cli.demo.render.document import document
from meshcache.cli.demo.render.live import LivePicture
from meshcache.cli.demo.render.plain import begin_lines, end_lines, step_lines

TITLES = [
    "Three instances start and find each other",
    "The server is killed: every call is still answered",
    "A set on 1 is read on 2 and 3, without Redis",
    "Goodbye: nothing is left behind",
]
SHOWN = "mode memory everywhere after 15.2 ms; 1818 calls, no error, the slowest 14.5 ms"
NOTE = "what only Redis held is a miss until it is back: this version keeps no warm copy"
FAILURE = Failure("outage:1 = {'written': 1} on instance 2", "outage:1 a miss", {2: ["WARNING redis -> memory", "[b]"]})


def make_board() -> Board:
    """In the third of four steps."""
    board = Board(TITLES, ServerView("Valkey 9.0.1", "127.0.0.1:40001", reachable=False), "found by mDNS")
    for number, mode in enumerate(("redis", "memory", "recovering"), 1):
        board.instance_changed(InstanceView(number, "open", mode, 2, 60 + number, number))
    board.instance_changed(InstanceView(4))
    board.begin(1)
    board.held(1, "all on Redis", {"found_ms": 223.1}, "")
    board.begin(2)
    board.held(2, SHOWN, {"calls": 1818}, NOTE)
    board.begin(3)
    return board


def failed_board() -> Board:
    board = make_board()
    board.failed(3, FAILURE)
    board.end(interrupted=False, leftover="")
    return board


def draw(board: Board, width: int, height: int = 60) -> list[str]:
    console = Console(record=True, width=width, height=height, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print(LivePicture(lambda: board.picture, "1.2.3"))
    return console.export_text().splitlines()


def line_with(lines: list[str], text: str) -> str:
    (line,) = [line for line in lines if text in line]
    return line


@pytest.mark.parametrize("width", [80, 120])
def test_live_picture_fits_the_terminal_and_shows_everything(width: int) -> None:
    lines = draw(make_board(), width)
    assert max(map(len, lines)) <= width
    assert "meshcache 1.2.3" in lines[0]
    assert "Valkey 9.0.1 at 127.0.0.1:40001" in lines[1]
    assert "○ away" in lines[1]
    assert "found by mDNS" in lines[2]
    assert line_with(lines, "instance  ").split() == ["instance", "mode", "peers", "in", "memory", "not", "in", "Redis"]
    rows = [line.split() for line in lines if line.startswith((" ●", " ○"))]
    assert rows == [
        ["●", "1", "redis", "2", "61", "1"],
        ["●", "2", "memory", "2", "62", "2"],
        ["●", "3", "recovering", "2", "63", "3"],
        ["○", "4", "starting"],
    ]
    for number, (title, mark) in enumerate(zip(TITLES, "✓✓⠋·", strict=True), 1):
        assert line_with(lines, title).split()[:2] == [str(number), mark]
    words = " ".join(" ".join(lines).split())
    assert set(f"{SHOWN} {NOTE}".split()) <= set(words.split())
    assert "…" not in words


def test_a_wide_terminal_has_title_and_finding_side_by_side() -> None:
    assert "all on Redis" in line_with(draw(make_board(), 120), TITLES[0])
    assert "all on Redis" not in line_with(draw(make_board(), 80), TITLES[0])


def test_a_low_terminal_keeps_all_titles_and_the_newest_finding() -> None:
    lines = draw(make_board(), 80, height=20)
    assert len(lines) < 20
    assert all(any(title in line for line in lines) for title in TITLES)
    assert "1818 calls" in "\n".join(lines)
    assert "all on Redis" not in "\n".join(lines)


def test_the_last_picture_is_whole_however_low_the_terminal_is() -> None:
    words = " ".join(" ".join(draw(failed_board(), 80, height=10)).split())
    assert "all on Redis" in words
    assert "2 of 4 steps held" in words


@pytest.mark.parametrize("width", [80, 120])
def test_a_failure_says_what_was_expected_and_seen_and_shows_the_logs(width: int) -> None:
    lines = draw(failed_board(), width)
    assert line_with(lines, TITLES[2]).split()[1] == "✗"
    assert "step 3 did not hold" in "\n".join(lines)
    assert FAILURE.expected in line_with(lines, "expected")
    assert FAILURE.seen in line_with(lines, "seen  ")
    assert line_with(lines, "last log lines of instance 2")
    assert line_with(lines, "WARNING redis -> memory")
    assert line_with(lines, "[b]"), "what a log says is no markup"


def test_a_terminal_without_unicode_gets_ascii_symbols() -> None:
    raw = io.BytesIO()
    text = io.TextIOWrapper(raw, encoding="ascii")
    board = make_board()
    Console(width=80, height=60, file=text, force_terminal=True, color_system=None).print(
        LivePicture(lambda: board.picture, "1.2.3")
    )
    text.flush()
    assert " 1 + Three instances" in raw.getvalue().decode("ascii")


def test_plain_lines() -> None:
    picture = failed_board().picture
    assert list(begin_lines(picture, "1.2.3")) == [
        "meshcache 1.2.3: Valkey 9.0.1 at 127.0.0.1:40001, instances on loopback, found by mDNS"
    ]
    held = list(step_lines(picture.steps[1], 4))
    assert held[0].startswith(f"[2/4] ok     {TITLES[1]} (")
    assert [line.strip() for line in held[1:]] == [SHOWN, f"note: {NOTE}"]
    failed = [line.strip() for line in step_lines(picture.steps[2], 4)]
    assert failed[0].startswith("[3/4] FAILED")
    assert failed[1:] == [
        f"expected: {FAILURE.expected}",
        f"seen:     {FAILURE.seen}",
        "last log lines of instance 2:",
        "WARNING redis -> memory",
        "[b]",
    ]


@pytest.mark.parametrize(
    ("interrupted", "leftover", "said"),
    [
        (False, "", ["2 of 4 steps held, in"]),
        (True, "", ["Interrupted after 2 of 4 steps, in"]),
        (False, "the server's process 7", ["2 of 4 steps held, in", "left behind: the server's process 7"]),
    ],
)
def test_the_last_plain_lines_say_what_came_of_it(interrupted: bool, leftover: str, said: list[str]) -> None:
    board = make_board()
    board.end(interrupted=interrupted, leftover=leftover)
    lines = list(end_lines(board.picture))
    assert [line[: len(start)] for line, start in zip(lines, said, strict=True)] == said


def parsed(picture: Picture) -> dict[str, object]:
    text = document(picture, "1.2.3")
    assert text.endswith("}\n")
    return json.loads(text)


def test_document() -> None:
    told = parsed(failed_board().picture)
    assert told["meshcache"] == "1.2.3"
    assert told["ok"] is False
    assert told["server"] == {"name": "Valkey 9.0.1", "where": "127.0.0.1:40001"}
    steps = told["steps"]
    assert isinstance(steps, list)
    assert [step["outcome"] for step in steps] == ["held", "held", "failed", "not reached"]
    assert steps[0]["measures"] == {"found_ms": 223.1}
    assert steps[1]["note"] == NOTE
    assert "expected" not in steps[1]
    assert (steps[2]["expected"], steps[2]["seen"]) == (FAILURE.expected, FAILURE.seen)
    assert steps[2]["logs"] == {"2": ["WARNING redis -> memory", "[b]"]}
