"""What the tests of proposers share: an endpoint that the environment names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from endpoint import Endpoint, named_by_environment


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    with named_by_environment(monkeypatch) as server:
        yield server
