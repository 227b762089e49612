"""The end of a night in the terminal: the table, what came of it, and what to do next."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from autoresearch import words
from autoresearch.evidence import Evidence
from autoresearch.evidence.nights import silence
from autoresearch.evidence.sentences import improved
from autoresearch.study.folder import StudyFolder
from autoresearch.terminal.console import say
from autoresearch.terminal.trials import trials_table
from autoresearch.trial import Recipe, Value
from rails import Knob, RailsError

ROWS = 40


def show_outcome(console: Console, study: StudyFolder, reason: str) -> None:
    """`reason`: why the night ended."""
    evidence = Evidence(study)
    inside = study.path.is_relative_to(Path.cwd())
    path = study.path.relative_to(Path.cwd()) if inside else study.path
    idea = _idea(study.menu.knobs, evidence.incumbent.recipe)
    following = {
        f"autoresearch serve {study.name}": "the report as a live page, and questions in SQL",
        f"git -C {path}/recipe log --oneline --first-parent incumbent": "the story so far",
        f"autoresearch show {study.name} 1": "one trial, whole",
        f"autoresearch propose {study.name} {idea}": "an idea of your own",
        f"autoresearch run {study.name} --hours 8": "go on",
        f"autoresearch promote {study.name}": "does the gain last at a longer budget?",
    }
    if study.script is not None and evidence.incumbent.number:
        following[f"autoresearch apply {study.name}"] = "the best recipe, as a commit in the script's repository"
    width = max(map(len, following))
    console.print(trials_table(evidence, last=ROWS))
    for line in (
        "",
        *silence(evidence),
        improved(evidence),
        f"Ended: {reason}. {words.count(evidence.n_ended, 'run')} so far.",
        "",
        "Next (autoresearch is in .venv/bin):",
        *(f"  {command:<{width}}   {what}" for command, what in following.items()),
        "",
        f"Report: {path}/report/index.html",
    ):
        say(console, line)


def _idea(knobs: Mapping[str, Knob], recipe: Recipe) -> str:
    """ "--knob lr --value 0.002": a knob with a value that it takes and does not have, as an example."""
    knob = knobs.get("lr") or next(iter(knobs.values()))
    stands = recipe.get(knob.name, knob.default)
    near: list[Value] = [0.002] if knob.name == "lr" else []
    if isinstance(stands, int | float) and not isinstance(stands, bool):
        near += [2 * stands, stands / 2 if knob.type == "float" else int(stands // 2)]
    ends = [end for end in (knob.low, knob.high) if end is not None]
    value = next((v for v in (*near, *knob.choices, *ends) if v != stands and _takes(knob, v)), stands)
    return f"--knob {knob.name} --value {shlex.quote(value if isinstance(value, str) else json.dumps(value))}"


def _takes(knob: Knob, value: Value) -> bool:
    try:
        knob.admit(value)
    except RailsError:
        return False
    return True
