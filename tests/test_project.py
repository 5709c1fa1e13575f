"""The project itself: what is documented runs as written and says what is true, the import is light, the wheel is whole."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import fields
from math import inf
from pathlib import Path
from typing import get_args

import pytest

import meshcache
from meshcache import Event, MeshCache, Mode
from meshcache.doctor import CHECKS
from meshcache.mesh.wire import Frame, FrameType
from meshcache.modes import diagram
from meshcache.options import DEFAULT_URL, Options
from meshcache.testing.proxy import OutageProxy
from meshcache.testing.server import RedisServer
from tests.support import eventually, free_port

CHECKOUT = Path(__file__).resolve().parents[1]
README = (CHECKOUT / "README.md").read_text()
OPERATIONS = (CHECKOUT / "docs" / "operations.md").read_text()


def run(*arguments: str, cwd: Path | None = None, **environment: str) -> str:
    """What a fresh interpreter prints."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MESHCACHE_")}
    result = subprocess.run(
        [sys.executable, *arguments],
        env=inherited | environment,
        cwd=cwd,
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def blocks(markdown: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", markdown, re.MULTILINE | re.DOTALL)


def rows(markdown: str, heading: str) -> dict[str, list[str]]:
    """The first table below a heading: the other cells of each row by the code in its first one."""
    section = markdown.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in section.splitlines()
        if line.startswith("| `")
    ]
    return {first.strip("`"): rest for first, *rest in cells}


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's program, in a file."""
    (code,) = blocks(README, "python")
    path = tmp_path_factory.mktemp("readme") / "example.py"
    path.write_text(code)
    return path


@pytest.fixture(scope="module")
def shown() -> str:
    """What the README says that it prints."""
    (text,) = blocks(README, "text")
    return text


class TestReadme:
    def test_example_with_redis(self, example: Path, shown: str) -> None:
        with RedisServer() as server:
            assert run(str(example), cwd=CHECKOUT, **alone(server.url)) == shown
            assert sorted(server.client().scan_iter("gateway:*")) == [b"gateway:user:2"]

    def test_example_without_redis(self, example: Path, shown: str) -> None:
        dead = f"redis://127.0.0.1:{free_port()}/0"
        assert run(str(example), cwd=CHECKOUT, **alone(dead)) == shown.replace("\nredis\n", "\nmemory\n")

    def test_two_commands(self) -> None:
        commands = [line for block in blocks(README, "sh") for line in block.splitlines()]
        assert [command.rpartition("/")[2] for command in commands] == ["meshcache demo", "pytest"]
        assert all(command.startswith("python3 -m venv .venv && .venv/bin/pip install ") for command in commands)

    @pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
    def test_links_lead_somewhere(self, name: str) -> None:
        targets = re.findall(r"\]\(([^)#:]+)\)", (CHECKOUT / name).read_text())
        assert targets
        assert [target for target in targets if not (CHECKOUT / target).exists()] == []


def alone(url: str) -> dict[str, str]:
    """An environment in which an example finds the package of this checkout, that Redis, and nobody else."""
    return {
        "MESHCACHE_URL": url,
        "MESHCACHE_INTERFACES": "127.0.0.1",
        "MESHCACHE_DISCOVERY": "none",
        "PYTHONPATH": str(CHECKOUT),
    }


class TestDocs:
    def test_picture_of_the_modes_is_the_table_of_the_code(self) -> None:
        assert blocks((CHECKOUT / "docs" / "failing-over.md").read_text(), "mermaid") == [diagram() + "\n"]

    def test_every_option_and_its_default(self) -> None:
        defaults = {"MESHCACHE_URL": DEFAULT_URL}
        for option in fields(Options):
            if not option.metadata.get("variable", True):
                continue
            default = option.default
            number = isinstance(default, int | float)
            defaults[f"MESHCACHE_{option.name.upper()}"] = (
                "" if default is None else f"{default:.10g}" if number else str(default)
            )
        assert {name: cells[0].strip("`") for name, cells in rows(OPERATIONS, "Options").items()} == defaults

    def test_every_event_and_its_fields(self) -> None:
        documented = {name: set(re.findall(r"`(\w+)`", cells[1])) for name, cells in rows(OPERATIONS, "Events").items()}
        assert documented == {event.__name__: {item.name for item in fields(event)} for event in get_args(Event)}

    def test_every_check_of_the_doctor(self) -> None:
        table = rows((CHECKOUT / "docs" / "doctor.md").read_text(), "What it looks at")
        assert list(table) == [check.name for check in CHECKS]

    def test_every_frame_and_its_fields(self) -> None:
        table = rows((CHECKOUT / "docs" / "mesh.md").read_text(), "What is said")
        documented = {name: (int(cells[0]), tuple(re.findall(r"`(\w+)`", cells[1]))) for name, cells in table.items()}
        assert documented == {frame.__name__: (wire_number(frame), frame._fields) for frame in get_args(Frame)}

    @pytest.mark.anyio
    async def test_every_number(self) -> None:
        async with MeshCache(None, secret="some secret", discovery=[], interfaces=["127.0.0.1"]) as cache:
            stats = cache.stats()
        assert list(rows(OPERATIONS, "Statistics")) == list(stats)
        assert json.loads(json.dumps(stats)) == stats

    @pytest.mark.anyio
    async def test_rights_in_redis_suffice(self) -> None:
        """A user with just the rights that the docs name does everything, through an outage and back."""
        (rule,) = [
            line for block in blocks(OPERATIONS, "text") for line in block.splitlines() if line.startswith("ACL")
        ]
        with RedisServer() as server, OutageProxy(server.host, server.port) as proxy:
            server.client().execute_command(*rule.split())
            url = proxy.url.replace("redis://", "redis://gateway:password@")
            async with MeshCache(url, namespace="gateway", discovery=[], interfaces=["127.0.0.1"]) as cache:
                await eventually(lambda: cache.mode is Mode.REDIS)
                await cache.set_many({"swept:1": 1, "gone": 1})
                await every_call(cache)
                assert cache.mode is Mode.REDIS
                proxy.refuse()
                await every_call(cache)
                assert cache.mode is Mode.MEMORY
                await cache.delete("gone")
                await cache.delete_match("swept:*")
                await cache.set("kept", 1, ttl=60)
                proxy.forward()
                await eventually(lambda: cache.mode is Mode.REDIS, 10)
            assert sorted(server.client().scan_iter("gateway:*")) == [b"gateway:kept"]

    def test_every_public_name_is_in_the_reference(self) -> None:
        reference = (CHECKOUT / "docs" / "reference.md").read_text()
        shown = set(re.findall(r"^::: ([\w.]+)$", reference, re.MULTILINE))
        missing = [
            name
            for name in meshcache.__all__
            if name not in ("Event", "__version__")
            and f"meshcache.{name}" not in shown
            and getattr(meshcache, name).__module__ not in shown
        ]
        assert missing == []


async def every_call(cache: MeshCache) -> None:
    """Each call once.  None may raise; the key ``a`` is gone afterwards."""
    assert await cache.set("a", 1, ttl=60)
    assert not await cache.set("a", 2, nx=True)
    assert await cache.setex("a", 60, 2)
    assert await cache.get_many(["a", "b"]) == {"a": await cache.get("a")}
    assert await cache.expire("a", inf)
    assert await cache.expire("a", 60)
    assert await cache.exists("a", "b") == 1
    assert await cache.ttl("a") == 60
    assert "a" in await cache.keys()
    assert await cache.delete("a") == 1
    assert await cache.get_or_set("a", lambda: 3, ttl=60) == 3
    assert await cache.delete("a") == 1
    assert await cache.delete_match("nothing:*") == 0
    assert await cache.ping() is cache.is_available
    assert bool(await cache.info("server")) is cache.is_available


def wire_number(frame: type) -> FrameType:
    return FrameType[re.sub(r"(?<=[a-z])(?=[A-Z])", "_", frame.__name__).upper()]


class TestPackage:
    def test_version(self) -> None:
        assert meshcache.__version__ == importlib.metadata.version("meshcache")

    def test_exports(self) -> None:
        assert sorted(meshcache.__all__) == meshcache.__all__
        assert [name for name in meshcache.__all__ if not hasattr(meshcache, name)] == []

    def test_import_loads_nothing_heavy(self) -> None:
        loaded = run("-c", "import sys, meshcache; print(*sys.modules)", cwd=CHECKOUT).split()
        assert {"redis", "hiredis", "zeroconf", "cryptography", "trio", "typer", "rich"} & set(loaded) == set()

    def test_import_takes_less_than_150_ms(self) -> None:
        def best(code: str) -> float:
            return min(
                float(run("-c", f"{code}; import time; print(time.process_time())", cwd=CHECKOUT)) for _ in range(7)
            )

        run("-c", "import meshcache", cwd=CHECKOUT, PYTHONDONTWRITEBYTECODE="")  # what is compiled once is not counted
        # Time of the processor, not of the wall: what else the machine does must not count.
        assert best("import meshcache") - best("pass") < 0.150

    def test_each_module_can_be_imported_first(self) -> None:
        """Whoever imports one module of the package, whichever, meets no circle."""
        names = [
            ".".join(path.relative_to(CHECKOUT).with_suffix("").parts)
            for path in sorted((CHECKOUT / "meshcache").rglob("*.py"))
            if path.stem not in ("__init__", "__main__")
        ]
        run("-c", IMPORT_EACH_FIRST, *names, cwd=CHECKOUT)


IMPORT_EACH_FIRST = """
import importlib, sys
for name in sys.argv[1:]:
    for loaded in [other for other in sys.modules if other.partition(".")[0] == "meshcache"]:
        del sys.modules[loaded]
    importlib.import_module(name)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheel and the sdist of this checkout."""
    directory = tmp_path_factory.mktemp("dist")
    run("-m", "hatchling", "build", "--directory", str(directory), cwd=CHECKOUT)
    return directory


class TestDistributions:
    def test_wheel_holds_the_package_and_nothing_else(self, built: Path) -> None:
        (path,) = built.glob("*.whl")
        with zipfile.ZipFile(path) as wheel:
            packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
            licences = [name for name in wheel.namelist() if name.endswith("LICENSE")]
        source = CHECKOUT / "meshcache"
        files = {
            str(file.relative_to(CHECKOUT))
            for file in source.rglob("*")
            if file.is_file() and "__pycache__" not in file.parts
        }
        assert packed == files
        assert {"meshcache/py.typed", "meshcache/redis/fence.lua"} <= packed
        assert licences

    def test_sdist_can_be_tested(self, built: Path) -> None:
        (path,) = built.glob("*.tar.gz")
        with tarfile.open(path) as sdist:
            packed = {name.partition("/")[2] for name in sdist.getnames()}
        assert {"pyproject.toml", "README.md", "LICENSE", "tests/conftest.py", "docs/index.md", ".ci/run"} <= packed

    def test_small_without_extras(self) -> None:
        required = {
            re.split(r"[\s<>=\[;]", requirement)[0]
            for requirement in importlib.metadata.requires("meshcache") or []
            if "extra ==" not in requirement
        }
        assert required == {"redis", "zeroconf", "msgpack", "anyio", "cryptography"}
