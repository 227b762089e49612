"""The order of the house: imports go down only, files stay short, and the command line starts without torch."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# A module imports only from the rows below its own; each row may be read without knowing those above it.
ORDER = [
    ["__main__"],
    ["cli"],
    ["sweep", "promote"],
    ["display", "doctor", "night", "schedule", "serve"],
    ["reporter"],
    ["study", "envelope", "sweep_chart", "report", "trackers", "plan"],
    ["views"],
    ["limits", "proposers", "workers", "meters", "observer", "promotion", "exchange"],
    ["evidence", "launcher", "prompt"],
    ["folder"],
    ["store", "workspace", "story"],
    ["decide", "energy", "machine", "migrations", "preset"],
    ["config", "nvml", "trial"],
    ["errors"],
    ["__init__"],
]
RANK = {name: row for row, names in enumerate(ORDER) for name in names}
# What a study may know of the trainer: how to speak to it and where its text lies. None of it needs torch.
LIGHT_HALF_OF_THE_TRAINER = {"trainer.protocol", "trainer.recipe", "trainer.data"}
MOST_LINES = 400


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


ALL = files("autoresearch", "rails", "trainer", "tests", "benchmarks", "docs")


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, wherever in the file; `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"), name(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{name(path)}: write the whole name of what you import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(path: Path) -> set[str]:
    return {imported.partition(".")[0] for imported in imports(path)}


def test_rails_needs_python_alone() -> None:
    beyond = {name(path): packages(path) - sys.stdlib_module_names - {"rails"} for path in files("rails")}
    assert not {path: found for path, found in beyond.items() if found}, (
        "the gate is judged by reading it, so nothing else may be in it"
    )


def test_the_trainer_knows_nothing_of_studies_and_rails() -> None:
    beyond = [name(path) for path in files("trainer") if packages(path) & {"autoresearch", "rails"}]
    assert not beyond, "the trainer must run without a study"


def test_a_study_knows_only_the_light_half_of_the_trainer() -> None:
    found = {
        (name(path), ".".join(imported.split(".")[:2]))
        for path in files("autoresearch")
        for imported in imports(path)
        if imported.startswith("trainer")
    }
    assert not {(path, imported) for path, imported in found if imported not in LIGHT_HALF_OF_THE_TRAINER}


def module(path: Path) -> str:
    """The name in ORDER: a folder counts as one module."""
    parts = path.relative_to(ROOT / "autoresearch").parts
    return parts[0] if len(parts) > 1 else path.stem


def test_every_module_has_its_place_in_the_order() -> None:
    assert {module(path) for path in files("autoresearch")} == set(RANK), "put a new module into ORDER, in this file"


def test_imports_go_down_only() -> None:
    upward = []
    for path in files("autoresearch"):
        for imported in imports(path):
            package, _, rest = imported.partition(".")
            other = rest.partition(".")[0]
            if package == "autoresearch" and other in RANK and other != module(path):
                upward += [(name(path), imported)] if RANK[other] <= RANK[module(path)] else []
    assert upward == [], "each of these stands above the file that imports it, or beside it, in ORDER"


def test_a_file_begins_with_one_sentence_that_says_what_it_is_for() -> None:
    first = {path: (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")[0] for path in ALL}
    assert {name(path): line for path, line in first.items() if not line.endswith(".")} == {}


def test_a_file_can_be_read_in_one_sitting() -> None:
    lines = {name(path): len(path.read_text("utf-8").splitlines()) for path in ALL}
    assert {path: n for path, n in lines.items() if n > MOST_LINES} == {}, "two reasons to change are two files"


def test_the_command_line_starts_without_torch(tmp_path: Path) -> None:
    # In one process, from the lightest to the heaviest, so that the first to load it is the one to blame.
    commands = [["--help"], ["init", "mine", "--preset", "cpu-nano"], ["status", "mine"], ["trials", "mine"]]
    commands += [["propose", "mine", "--knob", "lr", "--value", "0.002"], ["show", "mine", "0"], ["stop", "mine"]]
    commands += [["inspect", "mine"], ["export", "mine", "--format", "jsonl"], ["plan", "mine"], ["report", "mine"]]
    code = f"""
import json, os, sys
os.environ["AUTORESEARCH_HOME"] = {str(tmp_path)!r}
from autoresearch.cli import app
for arguments in {commands!r}:
    app(arguments, standalone_mode=False)
    print(json.dumps([arguments[0], "torch" in sys.modules]), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = dict(json.loads(line) for line in done.stderr.splitlines())
    assert loaded == dict.fromkeys((arguments[0] for arguments in commands), False), (
        "torch takes seconds and half a gigabyte to import; only workers need it, in processes of their own"
    )
