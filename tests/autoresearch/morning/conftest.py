"""The studies that the tests of a morning look at, each made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_study import make_hostile_night

from autoresearch.study.folder import StudyFolder


@pytest.fixture(scope="session")
def hostile_night(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """For reading only; copy `hostile_night.path` to change it."""
    return make_hostile_night(tmp_path_factory.mktemp("night") / "home")


@pytest.fixture(scope="session")
def report(hostile_night: StudyFolder) -> str:
    """The address of its page."""
    from autoresearch.morning.report.page import write_report

    return write_report(hostile_night).as_uri()


@pytest.fixture(scope="session")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published night, imported as study "theirs" of this home."""
    import published

    from autoresearch.exchange import import_study

    home = tmp_path_factory.mktemp("theirs")
    import_study(home, "theirs", published.write(home / "trajectory.jsonl"))
    return home
