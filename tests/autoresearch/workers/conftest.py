"""What the tests of workers share: a cluster of two nodes on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from studies import make_study, run_study

if TYPE_CHECKING:
    from clusters import TwoNodes


@pytest.fixture(scope="package")
def two_nodes() -> Iterator[TwoNodes]:
    """One for all tests in this folder: to start it takes seconds."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
    import clusters

    with clusters.two_nodes() as nodes:
        yield nodes


@pytest.fixture(scope="package")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """The facts of a short night on this machine's own worker, without a fault."""
    from clusters import ANSWERS, SHORT, facts

    folder = make_study(tmp_path_factory.mktemp("undisturbed"), **SHORT)
    run_study(folder, ANSWERS, workers=1)
    return facts(folder)
