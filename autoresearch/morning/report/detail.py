"""One trial whole: its diff, what the rails said, its runs, and what its proposer was shown and answered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoresearch import words
from autoresearch.evidence import Evidence
from autoresearch.evidence.apart import apart
from autoresearch.evidence.context import context
from autoresearch.morning.report.curves import Curve, thin
from autoresearch.morning.report.table import Kind, Table, table
from autoresearch.study.folder import StudyFolder
from autoresearch.terminal.trials import attempts_text, compute_text, run_cells, run_columns, step_note
from autoresearch.trial import Attempt, Recipe, Trial
from rails import RAILS, clean
from rails.patch import unified_diff

_KINDS: dict[str, Kind] = {"purpose": "word", "state": "text"}
LONGEST_MESSAGE = 200


@dataclass(frozen=True)
class VerdictRow:
    """What one rail said."""

    passed: bool
    text: str


@dataclass(frozen=True)
class TrialDetail:
    """What belongs to one trial alone. diff, answer, prompt, recipe and source stand as they are, line by line; None:
    there was none. All text may be hostile."""

    summary: str
    hypothesis: str
    reason: str
    diff: str
    verdicts: list[VerdictRow]
    runs: Table
    note: str  # on the runs
    curves: list[Curve]
    answer: str | None
    asked: str  # who answered, how fast, how much
    prompt: str | None
    shown: str  # how long the prompt is
    recipe: str
    source: str | None


def details(folder: StudyFolder) -> dict[int, TrialDetail]:
    """By the trial's number."""
    store, evidence = folder.store, Evidence(folder)
    proposals, attempts, losses, sources = store.proposals(), store.attempts(), store.curves(), store.sources()
    found = {}
    for trial in evidence.trials:
        proposal, asked = proposals.get(trial.number, {}), attempts.get(trial.number, ())
        found[trial.number] = _detail(evidence, trial, proposal, asked, losses, sources.get(trial.number))
    return found


def detail(folder: StudyFolder, number: int) -> TrialDetail:
    """The same of one trial, which must be there."""
    store, evidence = folder.store, Evidence(folder)
    losses = {(number, run.seed): store.curve(number, run.seed) for run in evidence.runs[number]}
    proposal, source = store.proposal(number) or {}, store.sources(number).get(number)
    attempts = store.attempts(number).get(number, ())
    return _detail(evidence, evidence.trials[number], proposal, attempts, losses, source)


def _detail(
    evidence: Evidence,
    trial: Trial,
    proposal: Mapping[str, Any],
    attempts: Sequence[Attempt],
    losses: Mapping[tuple[int, int], list[list[float]]],
    source: str | None,
) -> TrialDetail:
    runs, prompt = evidence.runs[trial.number], proposal.get("prompt")
    changed = trial.parent is not None and trial.recipe
    return TrialDetail(
        summary="; ".join(_summary(evidence, trial)),
        hypothesis=trial.hypothesis,
        reason=trial.reason,
        diff=unified_diff(evidence.before(trial), trial.recipe) if changed else "",
        verdicts=_verdicts(trial, evidence),
        runs=table(
            {name: _KINDS.get(name, "number") for name in run_columns(evidence.metric)},
            (run_cells(run, evidence.metric, LONGEST_MESSAGE) for run in runs),
        ),
        note=step_note(runs),
        curves=[
            Curve(run.trial, run.seed, "incumbent", f"seed {run.seed}", thin(points, evidence.metric))
            for run in runs
            if len(points := losses.get((run.trial, run.seed), ())) > 1
        ],
        answer=_answer(proposal, attempts),
        asked=", ".join(_asked(proposal)),
        prompt=prompt,
        shown=words.count(len(prompt), "character") if prompt is not None else "",
        recipe=_recipe(trial.recipe),
        source=source,
    )


def _summary(evidence: Evidence, trial: Trial) -> Iterator[str]:
    if trial.parent is not None:
        yield f"on the recipe of trial {trial.parent}"
    if trial.val_bpb is not None:
        score = words.plus_minus(trial.val_bpb, evidence.half_interval(trial), evidence.metric)
        unit = "" if evidence.metric.unit else f" {evidence.metric.gain_unit}"
        yield f"{score}{unit} over {words.count(trial.n_runs, 'run')}"
    if trial.improvement is not None:
        ends = trial.improvement_low, trial.improvement_high
        found = words.improvement(trial.improvement, *ends, evidence.metric)
        yield found + (f" than trial {trial.reference}" if trial.reference is not None else "")
    if windows := context(evidence, trial):
        yield windows
    if told := apart(evidence, trial):
        yield told
    if trial.expected_delta is not None:
        yield f"expected to be {words.improvement(-trial.expected_delta, metric=evidence.metric)}"
    if trial.test_bpb is not None:
        yield f"{words.bpb(trial.test_bpb)} on the test text"
    if (took := compute_text(evidence, trial)) != words.NONE:
        yield f"a run took {took}"
    if trial.energy_joules is not None:
        yield words.energy(trial.energy_joules, [trial.energy_source] if trial.energy_source else [])


def _verdicts(trial: Trial, evidence: Evidence) -> list[VerdictRow]:
    """The rails in their order, up to the one that blocked; of a stranger's rails only that one is known. The one that
    only some menus have is told of those alone."""
    passed: Iterable[str] = ()
    if trial.number and trial.state != "proposed" and not evidence.imported:
        passed = RAILS if trial.rail not in RAILS else RAILS[: RAILS.index(trial.rail)]
    bounded = evidence.folder.menu.max_compute_ratio is not None
    found = [VerdictRow(True, rail) for rail in passed if rail != "compute" or bounded]
    if trial.rail:
        why = f": {clean(trial.reason, 300)}" if trial.reason else ""
        found.append(VerdictRow(False, f"blocked by {clean(trial.rail, 80)}{why}"))
    return found


def _answer(proposal: Mapping[str, Any], attempts: Sequence[Attempt]) -> str | None:
    """What was proposed; where that was not the whole of one answer, every attempt."""
    raw: str | None = proposal.get("raw")
    return raw if [attempt.answer for attempt in attempts] in ([], [raw]) else attempts_text(attempts)


def _asked(proposal: Mapping[str, Any]) -> Iterator[str]:
    if proposal.get("model"):
        yield clean(proposal["model"], 80)
    if proposal.get("latency_seconds") is not None:
        yield f"answered in {words.duration(proposal['latency_seconds'])}"
    read, wrote = proposal.get("prompt_tokens"), proposal.get("completion_tokens")
    if read is not None:
        yield f"{words.count(read, 'token')} read"
    if wrote is not None:
        yield f"{words.count(wrote, 'token')} written"


def _recipe(recipe: Recipe) -> str:
    return "\n".join(f"{clean(knob, 80)} = {words.value(value)}" for knob, value in recipe.items())
