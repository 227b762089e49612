"""The order of the house: imports go down only, files stay short, and the command line starts without torch."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# A room imports only from the rows below its own; each row may be read without knowing those above it.
ORDER = [
    ["__main__"],
    ["cli"],
    ["distill"],
    ["night"],
    ["adopt", "morning", "sweep"],
    ["terminal"],
    ["evidence", "exchange"],
    ["study"],
    ["cost"],
    ["program"],
    ["workers", "proposers"],
    ["decide"],
    ["words", "constants"],
    ["config", "trial", "facts"],
    ["errors", "proposer_name", "secrecy", "untrusted", "metric", "adapter"],
    ["__init__"],
]
# The same inside each room; what imports nothing of its room stands in the last row.
INSIDE = {
    "cli": [
        ["__init__"],
        ["night", "adopt", "look", "cluster", "morning", "machine", "distill", "race"],
        ["one_go"],
        ["app", "faults"],
    ],
    "distill": [["one_go"], ["successor"], ["race", "teach"], ["corpus"], ["__init__"]],
    "night": [
        ["session", "daemon"],
        ["loop", "display"],
        ["ahead", "apart", "asking", "coverage", "judge", "stopping", "limits", "unit", "watch"],
        ["seeds"],
        ["__init__"],
    ],
    "morning": [["serve"], ["reporter"], ["report"], ["promote", "plan", "trackers", "sql_bounds"], ["__init__"]],
    "adopt": [["view"], ["make", "apply"], ["menu"], ["knobs", "script"], ["__init__"]],
    "sweep": [["command"], ["measure", "chart"], ["__init__"]],
    "terminal": [
        ["outcome"],
        ["lessons"],
        ["longer_runs", "meters", "plan", "status", "trials"],
        ["workers"],
        ["bars", "console", "signals", "streams"],
        ["__init__"],
    ],
    "evidence": [
        ["status"],
        ["sentences"],
        ["meters", "longer_runs", "knobs", "work", "nights", "compute"],
        ["apart", "cluster", "context", "exploration", "proposers", "student"],
        ["__init__"],
        ["evidence", "raced"],
        ["shares"],
    ],
    "study": [
        ["requests", "history", "restore", "settle"],
        ["device_classes"],
        ["folder"],
        ["store"],
        ["workspace", "preset", "observer", "messages", "script", "lock"],
        ["git_files", "script_repository"],
        ["git_objects"],
        ["__init__"],
    ],
    "program": [["told", "command"], ["score"], ["__init__"]],
    "workers": [
        ["doctor", "ray_launcher"],
        ["ray_driver"],
        ["ray_cluster", "ray_known_slot"],
        ["ray_slot"],
        ["crew", "local"],
        ["process"],
        ["launcher", "admission"],
        ["energy", "machine"],
        ["fleet", "gpu_energy", "oom", "probe", "ray_data"],
        ["nvml"],
        ["__init__"],
    ],
    "proposers": [
        ["__init__"],
        ["hybrid", "llm", "lora", "scratch"],
        ["reflector", "talk", "lora_model", "scratch_model"],
        ["bayes", "forms", "tpe", "decoder"],
        ["belief", "conversation"],
        ["classic", "endpoint", "known", "lessons", "prompt"],
        ["background", "completion", "lineage"],
        ["gaussian_process", "proposer", "share", "space"],
    ],
}
# What a study may know of the trainer: how to speak to it and where its text lies. None of it needs torch.
LIGHT_HALF_OF_THE_TRAINER = {"trainer.protocol", "trainer.recipe", "trainer.data", "trainer.cache"}
# What takes seconds and half a gigabyte to load, and what alone loads it: a child, and a proposer once it is asked.
HEAVY = {"torch", "transformers", "peft"}
HEAVY_FILES = {
    *(
        f"autoresearch/distill/teach/{name}.py"
        for name in ("lora_worker", "scratch_worker", "simulated", "objectives", "state")
    ),
    *(f"autoresearch/proposers/{name}.py" for name in ("lora_model", "scratch_model", "decoder")),
}
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


def rooms(path: Path) -> tuple[str, ...]:
    """Where a file of autoresearch/ is: its room and its place in it, or its own name at the top."""
    parts = path.relative_to(ROOT / "autoresearch").with_suffix("").parts
    return parts[:2]


def rank(order: list[list[str]], name: str) -> int:
    return next(row for row, names in enumerate(order) if name in names)


def test_every_file_has_its_place_in_the_order() -> None:
    found: dict[str, set[str]] = {}
    for path in files("autoresearch"):
        room, *inside = rooms(path)
        found.setdefault("", set()).add(room)
        if room in INSIDE:
            found.setdefault(room, set()).update(inside)
    expected = {"": ORDER, **INSIDE}
    assert found == {room: {name for row in order for name in row} for room, order in expected.items()}, (
        "put a new file into ORDER or INSIDE, in this file"
    )


def upward(path: Path) -> Iterator[str]:
    """What a file imports from above itself, or from beside itself."""
    room, *inside = rooms(path)
    for imported in imports(path):
        package, *parts = imported.split(".")
        if package != "autoresearch":
            continue
        other = parts[0] if any(parts[0] in row for row in ORDER) else "__init__"
        if other != room:
            if rank(ORDER, other) <= rank(ORDER, room):
                yield imported
        elif room in INSIDE and inside:
            names = [name for row in INSIDE[room] for name in row]
            there = parts[1] if len(parts) > 1 and parts[1] in names else "__init__"
            if there != inside[0] and rank(INSIDE[room], there) <= rank(INSIDE[room], inside[0]):
                yield imported


def test_imports_go_down_only() -> None:
    found = {name(path): list(upward(path)) for path in files("autoresearch")}
    assert {path: imported for path, imported in found.items() if imported} == {}, (
        "each of these stands above the file that imports it, or beside it, in ORDER or INSIDE"
    )


def test_a_file_begins_with_one_sentence_that_says_what_it_is_for() -> None:
    first = {path: (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")[0] for path in ALL}
    assert {name(path): line for path, line in first.items() if not line.endswith(".")} == {}


def test_a_file_can_be_read_in_one_sitting() -> None:
    lines = {name(path): len(path.read_text("utf-8").splitlines()) for path in ALL}
    assert {path: n for path, n in lines.items() if n > MOST_LINES} == {}, "two reasons to change are two files"


def test_only_the_child_that_teaches_a_model_and_who_asks_it_load_torch() -> None:
    assert {name(path) for path in files("autoresearch") if packages(path) & HEAVY} == HEAVY_FILES
    inside = {imported for path in files("autoresearch") for imported in imports(path) if "lora_worker" in imported}
    assert not inside, "it is started, never imported"


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


def test_the_command_line_leaves_the_cores_to_the_workers() -> None:
    """Also where nobody has set it: several threads of a small matrix wait for one another, and for busy workers."""
    code = "import autoresearch.cli, numpy, threadpoolctl; print(threadpoolctl.threadpool_info()[0]['num_threads'])"
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "1\n"
