"""A study's trials, as a person reads them in the terminal: all in a table, or one whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from autoresearch import words
from autoresearch.evidence import Evidence
from autoresearch.evidence.apart import apart
from autoresearch.evidence.compute import compute, over_parent
from autoresearch.evidence.context import context
from autoresearch.metric import Metric
from autoresearch.terminal.console import grid, listing
from autoresearch.trial import Attempt, Run, Trial
from rails import clean

STYLES = {
    "keep": "bold green",
    "carried": "green",
    "discard": "default",
    "blocked": "yellow",
    "failed": "red",
    "timed_out": "red",
}
LONGEST_LINE = 2000  # of an answer, beside other things: an answer of several candidates is one line
STEP_NOTE = (
    "step ms: data + forward + backward + optimizer. MFU: (6 x weights that multiply + 12 n_layer d_model seq_len) "
    "x tokens/s / peak FLOP/s"
)


def trials_table(evidence: Evidence, last: int | None = None) -> Table:
    """One row a trial, all or the last ones; every score with its interval and number of runs."""
    score = words.column(evidence.metric)
    columns = ("trial", "by", "change", score, "runs", "better by [95 %]", "outcome")
    table = listing(*columns, right=("trial", score, "runs", "better by [95 %]"))
    for trial in evidence.trials[-last:] if last else evidence.trials:
        detail = f" {trial.rail}" if trial.rail else ""
        if trial.state in ("failed", "timed_out"):
            detail = f": {clean(trial.reason, 60)}"
        table.add_row(
            str(trial.number),
            escape(trial.proposer),
            escape(evidence.change(trial) or words.NONE),
            _score(trial, evidence),
            str(trial.n_runs or words.NONE),
            escape(_improvement(trial, evidence.metric)),
            Text(words.state(trial.outcome) + detail, style=STYLES.get(trial.outcome, "default")),
        )
    return table


def trial_view(
    evidence: Evidence,
    trial: Trial,
    runs: list[Run],
    proposal: dict[str, Any] | None,
    diff: str,
    attempts: Sequence[Attempt] = (),
) -> RenderableType:
    """Everything about one trial."""
    outcome = words.state(trial.outcome)
    facts = {
        "trial": f"{trial.number}, the baseline"
        if trial.parent is None
        else f"{trial.number}, on trial {trial.parent}",
        "change": evidence.change(trial) or words.NONE,
        "hypothesis": trial.hypothesis or words.NONE,
        "outcome": f"{outcome}: {trial.reason}" if trial.reason else outcome,
        evidence.metric.name: f"{_score(trial, evidence)} over {words.count(trial.n_runs, 'run')}"
        if trial.n_runs
        else words.NONE,
        "expected": words.NONE
        if trial.expected_delta is None
        else words.improvement(-trial.expected_delta, metric=evidence.metric),
        "measured": _compared(trial, evidence.metric),
        "a run took": compute_text(evidence, trial),
        "energy": words.energy(trial.energy_joules, [trial.energy_source] if trial.energy_source else []),
        "commit": trial.commit or words.NONE,
        "proposed by": _proposer(trial, proposal),
        "answer": clean(proposal["raw"], 1000) if proposal else words.NONE,
        "time": f"{trial.started_at} to {trial.finished_at or '...'}",
    }
    if windows := context(evidence, trial):
        facts["context"] = windows
    if told := apart(evidence, trial):
        facts["apart"] = told
    parts: list[RenderableType] = [grid({name: clean(value, 1000) for name, value in facts.items()}), Text()]
    columns = run_columns(evidence.metric)
    table = listing(*columns, right=tuple({*columns} - {"purpose", "state"}))
    for run in runs:
        table.add_row(*map(escape, run_cells(run, evidence.metric)))
    parts.append(table)
    if note := step_note(runs):
        parts.append(Text(note, style="dim"))
    if attempts:
        parts.append(Text("\n".join(["", *clean_lines(attempts_text(attempts), LONGEST_LINE)])))
    if diff:
        parts.append(Text("\n".join(["", *clean_lines(diff, LONGEST_LINE)])))
    return Group(*parts)


def run_columns(metric: Metric) -> tuple[str, ...]:
    test = ("test_bpb",) if metric.has_test else ()
    return (
        "seed", "purpose", "state", metric.name, *test, "tokens/s", "MFU", "step ms", "training", "peak memory",
        "energy",
    )  # fmt: skip


def run_cells(run: Run, metric: Metric, longest_message: int = 80) -> tuple[str, ...]:
    """What `run_columns` name of a run."""
    ended = f": {words.state(run.failure)} {clean(run.message, longest_message)}" if run.failure else ""
    test = (words.bpb(run.test_bpb),) if metric.has_test else ()
    return (
        str(run.seed), run.purpose, run.state + ended, words.bpb(run.val_bpb, metric), *test,
        words.figure(run.tokens_per_second), words.percent(run.mfu), _step_split(run),
        words.duration(run.train_seconds), words.size(run.peak_memory_bytes), words.energy(run.energy_joules),
    )  # fmt: skip


def compute_text(evidence: Evidence, trial: Trial) -> str:
    """ "198,656 tokens, 1.71 TFLOP (1.37 x the FLOPs of its parent)"."""
    took, ratio = compute(evidence, trial), over_parent(evidence, trial)
    more = f" ({words.spending(ratio)})" if ratio is not None else ""
    return words.compute(took.tokens, took.flops) + more


def attempts_text(attempts: Sequence[Attempt]) -> str:
    """Each answer, verbatim, with what the rails said of it and what was then asked; not cleaned."""
    parts = []
    for n, attempt in enumerate(attempts, 1):
        tokens = f", {attempt.prompt_tokens or '?'} + {attempt.completion_tokens or '?'} tokens"
        parts += [f"> asked: {attempt.asked}"] if attempt.asked else []
        parts.append(f"> answer {n} of {len(attempts)} ({words.duration(attempt.latency_seconds)}{tokens}):")
        parts.append(attempt.answer)
        parts.append(f"> blocked by {attempt.rail}: {attempt.reason}" if attempt.rail else f"> {attempt.reason}")
    return "\n".join(parts)


def step_note(runs: Sequence[Run]) -> str:
    """What two of those columns mean; empty where they are."""
    sources = sorted({run.peak_flops_source for run in runs if run.peak_flops_source})
    return f"{STEP_NOTE} ({'+'.join(sources)})" if sources else ""


def _score(trial: Trial, evidence: Evidence) -> str:
    half = evidence.noise.half_width(trial.n_runs) if trial.n_runs else None
    return words.plus_minus(trial.val_bpb, half, evidence.metric)


def _improvement(trial: Trial, metric: Metric) -> str:
    return words.gain(trial.improvement, trial.improvement_low, trial.improvement_high, metric)


def _compared(trial: Trial, metric: Metric) -> str:
    if trial.improvement is None:
        return words.NONE
    found = words.improvement(trial.improvement, trial.improvement_low, trial.improvement_high, metric)
    return found + (f" than trial {trial.reference}" if trial.reference is not None else "")


def _proposer(trial: Trial, proposal: dict[str, Any] | None) -> str:
    if not proposal or not proposal["model"]:
        return trial.proposer
    return (
        f"{trial.proposer} ({proposal['model']}, {words.duration(proposal['latency_seconds'])}, "
        f"{proposal['prompt_tokens']} + {proposal['completion_tokens']} tokens)"
    )


def _step_split(run: Run) -> str:
    seconds = (run.data_seconds, run.forward_seconds, run.backward_seconds, run.optimizer_seconds)
    return " + ".join(f"{1000 * phase:.1f}" for phase in seconds if phase is not None) or words.NONE


def clean_lines(text: str, most: int | None = None) -> list[str]:
    """Text of several lines, none of which can steer the terminal; of each at most so many characters."""
    return [clean(line, len(line) if most is None else most) for line in text.splitlines()]
