"""Writes the picture and the list of files of docs/architecture.md from the tree: python -m docs.architecture."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PACKAGES = ("autoresearch", "rails", "trainer")
SUFFIXES = (".py", ".js", ".css", ".html")
WIDTH = 100


def room(path: Path) -> str:
    """The folder of a file in autoresearch/, or the file itself at its top; rails and trainer are one room each."""
    package, *rest = path.relative_to(ROOT).parts
    return package if package != "autoresearch" else rest[0] if len(rest) > 1 else path.name


def files() -> list[Path]:
    found = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*")))
    return [path for path in found if path.suffix in SUFFIXES and path.read_text("utf-8").strip()]


def imports(path: Path) -> Iterator[str]:
    """Rooms that a file imports from, itself left out."""
    if path.suffix != ".py":
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                package, *rest = f"{node.module}.{name.name}".split(".")
                if package in PACKAGES:
                    inside = ROOT / package / rest[0]
                    found = package if package != "autoresearch" else rest[0] if inside.is_dir() else f"{rest[0]}.py"
                    if found != room(path):
                        yield found


def floors() -> list[list[str]]:
    """Rooms by how far they stand above those that import nothing, the highest first."""
    below: dict[str, set[str]] = {}
    for path in files():
        if path.stem not in ("__init__", "__main__") or path.parent != ROOT / "autoresearch":
            below.setdefault(room(path), set()).update(imports(path))
    heights: dict[str, int] = {}

    def height(name: str) -> int:
        if name not in heights:
            heights[name] = 1 + max((height(other) for other in below[name] & below.keys()), default=0)
        return heights[name]

    return [[name for name in below if height(name) == n] for n in range(max(map(height, below)), 0, -1)]


def picture() -> Iterator[str]:
    """A box for each room, on its floor."""
    for floor in floors():
        boxes = [f"[ {name} ]" for name in floor]
        yield "   ".join(boxes).center(WIDTH).rstrip()


def purpose(path: Path) -> str:
    """The file's first sentence."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    comment = re.search(r"(?://|/\*|<!--)\s*(.*?)\s*(?:\*/|-->|\n)", text)
    return comment[1] if comment else ""


def listing() -> Iterator[str]:
    """One line a file, room by room from the top floor down."""
    by_room: dict[str, list[Path]] = {}
    for path in files():
        by_room.setdefault(room(path), []).append(path)
    top = {path.name: path for path in (ROOT / "autoresearch").glob("*.py")}
    for name in (name for floor in floors() for name in floor):
        if name in top:
            continue
        base = ROOT / name if name in PACKAGES else ROOT / "autoresearch" / name
        own = base / "__init__.py"
        yield f"\n### {base.relative_to(ROOT)}/\n\n{purpose(own)}\n" if own in by_room[name] else f"\n### {base}\n"
        yield "| file | what it is for |\n|---|---|"
        yield from (
            f"| [{path.relative_to(base)}](../{path.relative_to(ROOT)}) | {purpose(path)} |"
            for path in by_room[name]
            if path.name != "__init__.py" or path.parent != base
        )
    yield "\n### autoresearch/, beside the rooms\n\n| file | what it is for |\n|---|---|"
    yield from (f"| [{name}](../{path.relative_to(ROOT)}) | {purpose(path)} |" for name, path in sorted(top.items()))


def written(page: str) -> str:
    """The page with its two generated parts made anew."""
    parts = {"picture": "\n".join(["```", *picture(), "```"]), "files": "\n".join(listing()).strip()}
    for name, text in parts.items():
        begin, end = f"<!-- {name}: written by ./run.sh fix -->", f"<!-- {name}: end -->"
        assert begin in page and end in page, f"{PAGE}: the marks {begin} and {end} belong there"
        head, _, rest = page.partition(begin)
        page = f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}"
    return page


def main() -> None:
    now = PAGE.read_text("utf-8")
    if "--check" not in sys.argv:
        PAGE.write_text(written(now), "utf-8")
    elif written(now) != now:
        sys.exit(f"error: {PAGE.relative_to(ROOT)} is not what the tree says: run ./run.sh fix")


if __name__ == "__main__":
    main()
