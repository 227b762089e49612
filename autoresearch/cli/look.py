"""Commands that look at a study: where it stands, its trials, one trial."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from autoresearch.cli.app import AsJson, Home, Name, command, open_study
from autoresearch.errors import UserError


@command("autoresearch status mine --json")
def status(name: Name, as_json: AsJson = False, home: Home = None) -> None:
    """Where the study stands: baseline, incumbent, noise, energy, what is in flight."""
    from autoresearch.evidence.status import status
    from autoresearch.facts import to_json, told
    from autoresearch.terminal.console import make_console
    from autoresearch.terminal.status import status_view

    found = status(open_study(name, home))
    if as_json:
        print(to_json(told(found, found.metric), indent=1))
    else:
        make_console().print(status_view(found))


@command("autoresearch trials mine --json")
def trials(name: Name, as_json: AsJson = False, home: Home = None) -> None:
    """All trials, one line each."""
    from autoresearch.evidence import Evidence
    from autoresearch.evidence.compute import trial_facts
    from autoresearch.facts import to_json, told
    from autoresearch.terminal.console import make_console
    from autoresearch.terminal.trials import trials_table

    evidence = Evidence(open_study(name, home))
    if as_json:
        print(to_json(told([*map(partial(trial_facts, evidence), evidence.trials)], evidence.metric), indent=1))
    else:
        make_console().print(trials_table(evidence))


@command("autoresearch show mine 7")
def show(
    name: Name,
    number: Annotated[int, typer.Argument(help="The trial's number.", min=0)],
    prompt: Annotated[
        bool,
        typer.Option(
            "--prompt", help="Only what a language model was shown, or would have been, and each of its answers."
        ),
    ] = False,
    lessons: Annotated[
        bool, typer.Option("--lessons", help="Only the lessons that a language model was asked for with it.")
    ] = False,
    home: Home = None,
) -> None:
    """Everything about one trial: change, hypothesis, answer, runs, diff."""
    from autoresearch.evidence import Evidence
    from autoresearch.study.history import prompt_at
    from autoresearch.terminal.console import make_console
    from autoresearch.terminal.lessons import lessons_text
    from autoresearch.terminal.trials import attempts_text, clean_lines, trial_view
    from rails.patch import unified_diff

    study = open_study(name, home)
    evidence = Evidence(study)
    if number >= len(evidence.trials):
        raise UserError(f"study {name} has no trial {number}: its last is {len(evidence.trials) - 1}")
    attempts = study.store.attempts(number).get(number, [])
    if prompt:
        told = [prompt_at(study, number), *([attempts_text(attempts)] if attempts else [])]
        print("\n".join(clean_lines("\n\n".join(told))))
        return
    if lessons:
        print(lessons_text(study, number))
        return
    trial = evidence.trials[number]
    diff = unified_diff(evidence.before(trial), trial.recipe) if trial.recipe and trial.parent is not None else ""
    proposal = study.store.proposal(number)
    make_console().print(trial_view(evidence, trial, evidence.runs[number], proposal, diff, attempts))
