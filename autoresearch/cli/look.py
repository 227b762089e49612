"""Commands that look at a study: where it stands, its trials, one trial."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from autoresearch.cli.app import AsJson, Home, Name, command, open_study
from autoresearch.errors import UserError


@command("autoresearch status mine --json")
def status(name: Name, as_json: AsJson = False, home: Home = None) -> None:
    """Where the study stands: baseline, incumbent, noise, energy, what is in flight."""
    from autoresearch.evidence import status as evidence_status
    from autoresearch.terminal import views

    facts = evidence_status.status(open_study(name, home))
    if as_json:
        print(json.dumps(facts, indent=1))
    else:
        views.make_console().print(views.status_view(facts))


@command("autoresearch trials mine --json")
def trials(name: Name, as_json: AsJson = False, home: Home = None) -> None:
    """All trials, one line each."""
    from autoresearch.evidence import Evidence
    from autoresearch.terminal import views

    evidence = Evidence(open_study(name, home))
    if as_json:
        print(json.dumps([views.trial_facts(trial) for trial in evidence.trials], indent=1))
    else:
        views.make_console().print(views.trials_table(evidence))


@command("autoresearch show mine 7")
def show(
    name: Name, number: Annotated[int, typer.Argument(help="The trial's number.", min=0)], home: Home = None
) -> None:
    """Everything about one trial: change, hypothesis, answer, runs, diff."""
    from autoresearch.evidence import Evidence
    from autoresearch.terminal import views
    from rails import render_recipe

    study = open_study(name, home)
    trial = study.store.trial(number)
    if trial is None:
        raise UserError(f"study {name} has no trial {number}: its last is {len(study.store.trials()) - 1}")
    parent = study.store.trial(trial.parent) if trial.parent is not None else None
    diff = ""
    if trial.recipe and parent and parent.commit:
        diff = study.workspace.diff(parent.commit, render_recipe(trial.recipe))
    runs, proposal = study.store.runs(number), study.store.proposal(number)
    views.make_console().print(
        views.trial_view(trial, runs, proposal, parent.recipe if parent else {}, diff, Evidence(study).noise)
    )
