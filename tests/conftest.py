"""What tests share: the command line, and torch with the environment that workers have."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    import command_line
    from endpoint import Endpoint

# A person's own cache is neither read nor written.
CACHE = tempfile.TemporaryDirectory(prefix="autoresearch-tests-")
os.environ["XDG_CACHE_HOME"] = CACHE.name
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> command_line.Command:
    """autoresearch ARGUMENTS with an empty home and no language model."""
    import command_line  # here, since the trainer's tests run without what a command line needs

    monkeypatch.setenv("AUTORESEARCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TERM", "dumb")
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return partial(command_line.run, monkeypatch, capsys)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """A language model's endpoint that the environment names."""
    from endpoint import named_by_environment  # likewise

    with named_by_environment(monkeypatch) as server:
        yield server


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs an NVIDIA GPU, and torch sees none")
