"""A real Redis and real gateways in containers, through testcontainers.

``MESHCACHE_TEST_REDIS_IMAGE``, ``MESHCACHE_TEST_PYTHON_IMAGE``
    The images; by default ``redis:7`` and ``python:3.12-slim``, which are pulled if they are not here.
``MESHCACHE_TEST_WHEELHOUSE``
    A directory of wheels for the Python of that image; with it the image of the gateway is built without network.
"""

from __future__ import annotations

import gc
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import free_port

if TYPE_CHECKING:
    from testcontainers.community.redis import RedisContainer

    from tests.containers.gateways import Site

# testcontainers reads these when it is imported.  Ryuk is an image of its own; the fixtures clean up themselves.
os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"
os.environ.setdefault("TC_POOLING_INTERVAL", "0.1")

CHECKOUT = Path(__file__).resolve().parents[2]
GATEWAY_TAG = f"meshcache-test/gateway:{os.getpid()}"  # two runs on one engine do not meet


@pytest.fixture(scope="session")
def engine() -> None:
    """A Docker engine that answers, or a skip."""
    docker = pytest.importorskip("docker")
    pytest.importorskip("testcontainers")
    missing = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the client leaves a socket open that it could not connect
        try:
            with closing(docker.from_env(timeout=20)) as client:
                client.ping()
        except docker.errors.DockerException as error:
            missing = f"no Docker engine: {error}"
        gc.collect()
    if missing:
        pytest.skip(missing)


@pytest.fixture(scope="session")
def redis_image(engine: None) -> str:
    return present(os.environ.get("MESHCACHE_TEST_REDIS_IMAGE") or "redis:7")


@pytest.fixture(scope="session")
def python_image(engine: None) -> str:
    return present(os.environ.get("MESHCACHE_TEST_PYTHON_IMAGE") or "python:3.12-slim")


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``compose/Dockerfile`` is built from, with the wheels beside it if there are some."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in (".dockerignore", "LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, copy)
    for name in ("compose", "meshcache"):
        shutil.copytree(CHECKOUT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    wheelhouse = os.environ.get("MESHCACHE_TEST_WHEELHOUSE")
    if wheelhouse:
        shutil.copytree(wheelhouse, copy / "wheelhouse")
    return copy


@pytest.fixture(scope="session")
def gateway_image(python_image: str, checkout: Path) -> Iterator[str]:
    """The image of ``compose/Dockerfile``, with meshcache from this checkout."""
    import docker

    client = docker.from_env(timeout=300)
    try:
        client.images.build(
            path=str(checkout),
            dockerfile="compose/Dockerfile",
            tag=GATEWAY_TAG,
            buildargs={"PYTHON_IMAGE": python_image},
            rm=True,
            forcerm=True,
        )
        yield GATEWAY_TAG
        client.images.remove(GATEWAY_TAG, force=True)
    except docker.errors.BuildError as error:
        log = "".join(line.get("stream", "") for line in error.build_log)
        pytest.fail(f"{error}\n{log[-3000:]}")
    finally:
        client.close()


@pytest.fixture
def redis_container(redis_image: str) -> Iterator[RedisContainer]:
    """A real Redis on a port of loopback that stays the same when the container is killed and started again."""
    from testcontainers.community.redis import RedisContainer

    with RedisContainer(redis_image).with_bind_ports(6379, free_port()) as container:
        yield container


@pytest.fixture
def site(redis_image: str, gateway_image: str) -> Iterator[Site]:
    """A Redis and three gateways on a network of their own."""
    from tests.containers.gateways import Site

    with ExitStack() as stack:
        yield Site(stack, redis_image, gateway_image, gateways=3)


def present(image: str) -> str:
    """The name of the image, pulled if it is not here; a skip if it cannot be."""
    import docker

    client = docker.from_env(timeout=120)
    try:
        try:
            client.images.get(image)
        except docker.errors.ImageNotFound:
            client.images.pull(image)
    except (docker.errors.DockerException, OSError) as error:  # OSError: what requests raises at a time-out
        pytest.skip(f"the image {image} is not here and cannot be pulled: {error}")
    finally:
        client.close()
    return image
