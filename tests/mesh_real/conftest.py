"""Meshes that have met, on networks of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests import namespaces
from tests.mesh_real.mesh import Mesh, MeshHost


@pytest.fixture
def three() -> Iterator[Mesh]:
    """Three that have met."""
    with namespaces.network(MeshHost, "nft") as network:
        mesh = Mesh(network, 3)
        mesh.start(3)
        yield mesh


@pytest.fixture
def two_of_three() -> Iterator[Mesh]:
    """Two that have met, and room for one more."""
    with namespaces.network(MeshHost, "nft") as network:
        mesh = Mesh(network, 3)
        mesh.start(2)
        yield mesh


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Tell a figure: shown with ``-s`` or ``-rP``."""

    def tell(line: str) -> None:
        print(line)
        record_property("figure", line)

    return tell
