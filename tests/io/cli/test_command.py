"""The command ``meshcache`` itself: its options, and what it says where the extra is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import meshcache

BLOCKED = """
import sys
from importlib.abc import MetaPathFinder

class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {name!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
from meshcache.cli import main
main()
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(meshcache.__file__).parents[1]), "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=30, check=False
    )


def test_version() -> None:
    ended = run("-m", "meshcache.cli", "--version")
    assert (ended.returncode, ended.stdout) == (0, f"meshcache {meshcache.__version__}\n")


def test_help_names_every_command_and_option() -> None:
    assert "demo" in run("-m", "meshcache.cli", "--help").stdout
    ended = run("-m", "meshcache.cli", "demo", "--help")
    assert ended.returncode == 0
    for option in ("--redis-url", "--plain", "--json"):
        assert option in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo", "--plain", "--json"], "exclude each other"),
        (["demo", "--colour"], "--colour"),
        (["dance"], "dance"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str) -> None:
    ended = run("-m", "meshcache.cli", *arguments)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert said in ended.stderr


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_one_line_says_what_to_install(missing: str) -> None:
    ended = run("-c", BLOCKED.format(name=missing), "demo")
    assert ended.returncode == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert missing in line
    assert "pip install 'meshcache[cli]'" in line


def test_another_missing_module_is_not_blamed_on_the_extra() -> None:
    ended = run("-c", BLOCKED.format(name="msgpack"), "demo")
    assert ended.returncode == 1
    assert "No module named 'msgpack'" in ended.stderr
    assert "meshcache[cli]" not in ended.stderr


def test_an_instance_of_the_demo_loads_nothing_of_the_command() -> None:
    code = "import sys, meshcache.cli.demo.worker; print(sorted({'rich', 'typer', 'click'} & sys.modules.keys()))"
    ended = run("-c", code)
    assert ended.stdout == "[]\n", ended.stderr
