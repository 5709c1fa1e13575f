"""What every test has: the three event loops, and the option that lets no test be skipped for lack of Docker or root.

Fixtures that start something real live beside the tests that use them, not here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

PRIVILEGED = {"containers", "netns"}
"""Marks of the tests that need more than Python and redis-server: a Docker engine, or root and network namespaces."""

BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("trio", {}), id="trio"),
]
if sys.platform != "win32":
    BACKENDS.insert(1, pytest.param(("asyncio", {"use_uvloop": True}), id="asyncio+uvloop"))


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Every ``anyio`` test runs once on each event loop."""
    return request.param


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-containers",
        action="store_true",
        help="a test that would be skipped for lack of Docker, root or network namespaces fails instead",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: Any = yield
    if (
        report.skipped
        and not hasattr(report, "wasxfail")
        and item.config.getoption("--require-containers")
        and PRIVILEGED & {mark.name for mark in item.iter_markers()}
    ):
        _, _, reason = report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason}\n(--require-containers: this test may not be skipped)"
    return report
