"""docs/architecture.md and README's picture of the house agree with the tree."""

from __future__ import annotations

import re
from pathlib import Path

from test_layers import ORDER

from docs import architecture

ROOT = Path(__file__).parents[1]


def test_the_picture_and_the_list_of_files_are_those_of_the_tree() -> None:
    page = architecture.PAGE.read_text("utf-8")
    assert architecture.written(page) == page, "run ./run.sh fix"


def test_a_file_that_is_new_changes_the_page() -> None:
    page = architecture.PAGE.read_text("utf-8")
    known = {path.relative_to(ROOT) for path in architecture.files()}
    listed = {Path(target) for target in re.findall(r"\]\(\.\./((?:autoresearch|rails|trainer)/[^)]+)\)", page)}
    assert {path for path in known if path.name != "__init__.py"} <= listed


def test_the_floors_are_the_order_that_imports_keep() -> None:
    """A room on a lower floor never stands in an earlier row of the order than one that imports it."""
    rank = {name: row for row, names in enumerate(ORDER) for name in names}
    floor = {name.removesuffix(".py"): n for n, names in enumerate(architecture.floors()) for name in names}
    rooms = sorted(rank.keys() & floor.keys(), key=lambda name: rank[name])
    assert len(rooms) >= 12
    for path in architecture.files():
        above = architecture.room(path).removesuffix(".py")
        for below in architecture.imports(path):
            below = below.removesuffix(".py")
            if above in rank and below in rank and above not in ("__init__", "__main__"):
                assert rank[above] < rank[below] and floor[above] < floor[below], (path, below)


def test_the_readme_names_every_room_and_no_other() -> None:
    built = (ROOT / "README.md").read_text("utf-8").partition("## How it is built")[2]
    named = set(re.findall(r"^ {2}([a-z]+)/", built, re.MULTILINE))
    rooms = {path.name for path in (ROOT / "autoresearch").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert named == rooms
    top = set(re.findall(r"^([a-z]+)/", built, re.MULTILINE))
    assert top == {"rails", "trainer", "autoresearch", "tests", "benchmarks"}


def test_how_a_keep_is_decided_is_three_steps_away() -> None:
    readme, page = (ROOT / "README.md").read_text("utf-8"), architecture.PAGE.read_text("utf-8")
    assert "(docs/architecture.md)" in readme
    (target,) = re.findall(r"How is a keep decided\? \| \[[^]]+\]\(([^)]+)\)", page)
    assert "def decide(" in (architecture.PAGE.parent / target).read_text("utf-8")
