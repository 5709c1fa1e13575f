"""The helpers and the options of this test suite itself."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest
import sniffio

from tests.support import eventually, eventually_sync, free_port

pytest_plugins = ["pytester"]

CONFTEST = (Path(__file__).parent / "conftest.py").read_text()


@pytest.mark.anyio
async def test_every_backend_runs(anyio_backend: tuple[str, dict[str, bool]]) -> None:
    name, options = anyio_backend
    assert sniffio.current_async_library() == name
    if name == "asyncio":
        import asyncio

        module = type(asyncio.get_running_loop()).__module__
        assert module.startswith("uvloop") == options["use_uvloop"]


@pytest.mark.anyio
async def test_eventually_takes_plain_and_async_conditions() -> None:
    answers = iter([0, None, "yes"])
    assert await eventually(lambda: next(answers)) == "yes"

    async def holds() -> int:
        await anyio.sleep(0)
        return 7

    assert await eventually(holds) == 7


@pytest.mark.anyio
async def test_eventually_says_what_was_waited_for() -> None:
    with pytest.raises(AssertionError, match=r"not within 0.01 s: the moon \(the last answer was \[\]\)"):
        await eventually(list, 0.01, message="the moon")


def test_eventually_sync() -> None:
    answers = iter([False, 3])
    assert eventually_sync(lambda: next(answers)) == 3
    with pytest.raises(AssertionError, match="last answer was False"):
        eventually_sync(lambda: False, 0.01)


def test_free_port() -> None:
    assert 1024 < free_port() < 65_536


def test_require_containers_turns_skips_into_failures(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makeini("[pytest]\nmarkers = containers\n    netns\n")
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def engine():
            pytest.skip("no Docker engine")

        @pytest.mark.containers
        def test_in_a_container(engine): ...

        @pytest.mark.netns
        @pytest.mark.skipif(True, reason="not root")
        def test_in_a_namespace(): ...

        @pytest.mark.skip(reason="another reason")
        def test_elsewhere(): ...
        """
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    pytester.run(*command).assert_outcomes(skipped=3)
    strict = pytester.run(*command, "--require-containers")
    assert strict.ret == 1
    outcomes = strict.parseoutcomes()
    assert outcomes["skipped"] == 1
    assert outcomes.get("failed", 0) + outcomes.get("errors", 0) == 2
    strict.stdout.fnmatch_lines(["*no Docker engine*", "*--require-containers*"])
