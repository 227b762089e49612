"""What the tests of workers share: a cluster of two nodes on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from clusters import TwoNodes


@pytest.fixture(scope="package")
def two_nodes() -> Iterator[TwoNodes]:
    """One for all tests in this folder: to start it takes seconds."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'autoresearch[ray]'")
    import clusters

    with clusters.two_nodes() as nodes:
        yield nodes
