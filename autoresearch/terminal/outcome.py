"""The end of a night in the terminal: the table, what came of it, and what to do next."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from autoresearch import words
from autoresearch.evidence import Evidence
from autoresearch.evidence.nights import silence
from autoresearch.evidence.sentences import improved
from autoresearch.study.folder import StudyFolder
from autoresearch.terminal.console import say
from autoresearch.terminal.trials import trials_table

ROWS = 40


def show_outcome(console: Console, study: StudyFolder, reason: str) -> None:
    """`reason`: why the night ended."""
    evidence = Evidence(study)
    inside = study.path.is_relative_to(Path.cwd())
    path = study.path.relative_to(Path.cwd()) if inside else study.path
    following = {
        f"autoresearch serve {study.name}": "the report as a live page, and questions in SQL",
        f"git -C {path}/recipe log --oneline --first-parent incumbent": "the story so far",
        f"autoresearch show {study.name} 1": "one trial, whole",
        f"autoresearch propose {study.name} --knob lr --value 0.002": "an idea of your own",
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
