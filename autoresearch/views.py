"""What a person reads in the terminal, and the same facts as plain data for programs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Literal

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from autoresearch import story
from autoresearch.decide import Noise, pool_noise
from autoresearch.energy import JOULES_PER_KWH
from autoresearch.folder import StudyFolder, lock_holder
from autoresearch.trial import Recipe, Run, Trial
from rails import clean

PIPE_WIDTH = 140
COLUMNS: dict[str, Literal["left", "right"]] = {
    "trial": "right",
    "by": "left",
    "change": "left",
    "val_bpb +- 95 %": "right",
    "runs": "right",
    "better by [95 %]": "right",
    "outcome": "left",
}
STYLES = {"keep": "bold green", "discard": "default", "blocked": "yellow", "failed": "red", "timed_out": "red"}

RUN_COLUMNS = (
    "seed", "purpose", "state", "val_bpb", "test_bpb", "tokens/s", "MFU %", "step ms", "train s", "peak MiB", "joules",
)  # fmt: skip
STEP_NOTE = (
    "step ms: data + forward + backward + optimizer. MFU: (6 x weights that multiply + 12 n_layer d_model seq_len) "
    "x tokens/s / peak FLOP/s"
)


def status(folder: StudyFolder) -> dict[str, Any]:
    """The state of a study: every number a person sees in `status`, in base units."""
    store, study = folder.store, folder.store.study()
    trials = store.trials()
    noise = pooled(folder)
    baseline, incumbent = trials[0], trials[study["incumbent"]]
    totals = store.totals()
    kwh = totals["joules"] / JOULES_PER_KWH
    states = [trial.decision or trial.state for trial in trials[1:]]
    return {
        "study": study["name"],
        "path": str(folder.path),
        "preset": folder.settings.preset,
        "control": study["control"],
        "runner_pid": lock_holder(folder.path / "runner.lock"),
        "daemon_pid": lock_holder(folder.path / "daemon.lock"),
        "trials": {state: states.count(state) for state in sorted(set(states))},
        "ideas_waiting": store.waiting_ideas(),
        "runs": totals["runs"],
        "run_seconds": totals["run_seconds"],
        "energy_joules": totals["joules"],
        "energy_sources": sorted({run.energy_source for run in store.runs() if run.energy_source}),
        "cost": kwh * folder.settings.energy.price_per_kwh,
        "currency": folder.settings.energy.currency,
        "run_to_run_deviation": noise.deviation,
        "baseline": _standing(baseline, store.runs(0), noise),
        "incumbent": _standing(incumbent, store.runs(incumbent.number), noise),
        "in_flight": [run.id for run in store.pending_runs() if run.state == "running"],
        "events": store.events(8),
    }


def pooled(folder: StudyFolder) -> Noise:
    """The run-to-run deviation that every interval shown to a person comes from."""
    return pool_noise(folder.store.scores().values(), folder.settings.decision)


def _standing(trial: Trial, runs: list[Run], noise: Noise) -> dict[str, Any]:
    tested = sum(run.test_bpb is not None for run in runs)
    return {
        "trial": trial.number,
        "val_bpb": trial.val_bpb,
        "val_bpb_half_interval": noise.half_width(trial.n_runs) if trial.val_bpb is not None else None,
        "n_runs": trial.n_runs,
        "test_bpb": trial.test_bpb,
        "test_bpb_half_interval": noise.half_width(tested) if tested else None,
        "n_test_runs": tested,
        "recipe": trial.recipe,
    }


def trial_facts(trial: Trial) -> dict[str, Any]:
    return asdict(trial)


def status_view(facts: dict[str, Any]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()

    def row(name: str, value: str) -> None:
        table.add_row(name, escape(value))

    runner = f"run by process {facts['runner_pid']}" if facts["runner_pid"] else "not running"
    runner += f", daemon {facts['daemon_pid']}" if facts["daemon_pid"] else ""
    row(
        "study", f"{facts['study']} ({facts['preset']}), {runner}" + (", paused" if facts["control"] == "pause" else "")
    )
    counts = ", ".join(f"{n} {state}" for state, n in facts["trials"].items()) or "none yet"
    row("trials", counts + (f"; {facts['ideas_waiting']} ideas waiting" if facts["ideas_waiting"] else ""))
    row("baseline", _score(facts["baseline"]))
    row("incumbent", _score(facts["incumbent"]))
    row("noise", f"one run deviates by {facts['run_to_run_deviation']:.4f} bits per byte")
    row(
        "energy",
        f"{energy_text(facts['energy_joules'], facts['energy_sources'])}, {facts['cost']:.3f} {facts['currency']}",
    )
    row("runs", f"{facts['runs']} in {facts['run_seconds'] / 3600:.2f} worker hours")
    if facts["in_flight"]:
        row("in flight", ", ".join(facts["in_flight"]))
    row("where", facts["path"])
    events = [
        Text(f"{e['at'][:19]}Z  {e['kind']:<12} {clean(e['message'], 160)}", style="dim") for e in facts["events"]
    ]
    return Group(table, Text(), *events)


def _score(standing: dict[str, Any]) -> str:
    if standing["val_bpb"] is None:
        return "not measured yet"
    return f"trial {standing['trial']}: val_bpb {_interval(standing, 'val')}" + (
        f", test {_interval(standing, 'test')}" if standing["n_test_runs"] else ""
    )


def _interval(standing: dict[str, Any], split: str) -> str:
    """ "2.8175 +- 0.0147 (11 runs)"."""
    n = standing["n_runs" if split == "val" else "n_test_runs"]
    return f"{standing[f'{split}_bpb']:.4f} +- {standing[f'{split}_bpb_half_interval']:.4f} ({n} runs)"


def trials_table(trials: Iterable[Trial], recipes: dict[int, Recipe], noise: Noise) -> Table:
    """One row a trial; every score with its interval and number of runs."""
    table = Table(pad_edge=False, box=None, header_style="dim")
    for name, justify in COLUMNS.items():
        table.add_column(name, justify=justify, no_wrap=name not in ("change", "outcome"))
    for trial in trials:
        outcome = trial.decision or ("baseline" if trial.number == 0 and trial.state == "complete" else trial.state)
        detail = f" {trial.rail}" if trial.rail else ""
        if trial.state in ("failed", "timed_out"):
            detail = f": {clean(trial.reason, 60)}"
        table.add_row(
            str(trial.number),
            escape(trial.proposer),
            escape(story.changed(trial.changes, recipes.get(trial.parent or 0, {})) or "-"),
            _mean(trial, noise),
            str(trial.n_runs or "-"),
            escape(_improvement(trial)),
            Text(outcome + detail, style=STYLES.get(outcome, "default")),
        )
    return table


def _improvement(trial: Trial) -> str:
    if trial.improvement is None:
        return "-"
    return f"{trial.improvement:+.4f} [{trial.improvement_low:+.4f}, {trial.improvement_high:+.4f}]"


def trial_view(
    trial: Trial, runs: list[Run], proposal: dict[str, Any] | None, before: Recipe, diff: str, noise: Noise
) -> RenderableType:
    """Everything about one trial."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    facts = {
        "trial": f"{trial.number}, on trial {trial.parent}"
        if trial.parent is not None
        else f"{trial.number}, the baseline",
        "change": story.changed(trial.changes, before) or "-",
        "hypothesis": trial.hypothesis or "-",
        "outcome": f"{trial.decision or trial.state}: {trial.reason}" if trial.reason else trial.state,
        "val_bpb": f"{_mean(trial, noise)} over {trial.n_runs} runs" if trial.n_runs else "-",
        "better by": _improvement(trial) + (f" than trial {trial.reference}" if trial.reference is not None else ""),
        "energy": energy_text(trial.energy_joules or 0.0, [trial.energy_source] if trial.energy_source else []),
        "commit": trial.commit or "-",
        "proposed by": _proposer_text(trial, proposal),
        "answer": clean(proposal["raw"], 1000) if proposal else "-",
        "time": f"{trial.started_at} to {trial.finished_at or '...'}",
    }
    for name, value in facts.items():
        table.add_row(name, escape(clean(value, 1000)))
    listing = Table(box=None, pad_edge=False, header_style="dim")
    for name in RUN_COLUMNS:
        listing.add_column(name, justify="left" if name in ("purpose", "state") else "right", no_wrap=name != "state")
    for run in runs:
        state = f"{run.state}: {run.failure} {clean(run.message, 80)}" if run.failure else run.state
        listing.add_row(
            str(run.seed), run.purpose, escape(state), _figure(run.val_bpb, ".4f"), _figure(run.test_bpb, ".4f"),
            _figure(run.tokens_per_second, ",.0f"), _figure(run.mfu and 100 * run.mfu, ".1f"), _step_split(run),
            _figure(run.train_seconds, ".1f"),
            _figure(run.peak_memory_bytes and run.peak_memory_bytes / 2**20, ",.0f"), _figure(run.energy_joules, ".1f"),
        )  # fmt: skip
    parts: list[RenderableType] = [table, Text(), listing]
    if sources := sorted({run.peak_flops_source for run in runs if run.peak_flops_source}):
        parts.append(Text(f"{STEP_NOTE} ({'+'.join(sources)})", style="dim"))
    return Group(*parts, Text("\n" + clean_lines(diff))) if diff else Group(*parts)


def _mean(trial: Trial, noise: Noise) -> str:
    if trial.val_bpb is None:
        return "-"
    return f"{trial.val_bpb:.4f} +- {noise.half_width(trial.n_runs):.4f}"


def _proposer_text(trial: Trial, proposal: dict[str, Any] | None) -> str:
    if not proposal or not proposal["model"]:
        return trial.proposer
    return (
        f"{trial.proposer} ({proposal['model']}, {proposal['latency_seconds']:.1f} s, "
        f"{proposal['prompt_tokens']} + {proposal['completion_tokens']} tokens)"
    )


def clean_lines(text: str) -> str:
    return "\n".join(clean(line) for line in text.splitlines())


def _step_split(run: Run) -> str:
    seconds = (run.data_seconds, run.forward_seconds, run.backward_seconds, run.optimizer_seconds)
    return " + ".join(f"{1000 * phase:.1f}" for phase in seconds if phase is not None) or "-"


def _figure(value: float | None, form: str) -> str:
    return format(value, form) if value is not None else "-"


def energy_text(joules: float, sources: Iterable[str]) -> str:
    """Joules as a person reads them, always with where they come from."""
    wh = joules / 3600
    amount = f"{wh / 1000:.2f} kWh" if wh >= 1000 else f"{wh:.1f} Wh"
    return f"{amount} ({'+'.join(sources) or 'none measured'})"


def outcome_line(facts: dict[str, Any]) -> str:
    """What came of it, in one sentence with its interval."""
    baseline, incumbent = facts["baseline"], facts["incumbent"]
    if baseline["val_bpb"] is None:
        return "The baseline is not measured yet."
    if not facts["trials"]:
        return f"The baseline: val_bpb {_interval(baseline, 'val')}."
    if incumbent["trial"] == 0:
        return f"Nothing beat the baseline beyond the noise: val_bpb {_interval(baseline, 'val')}."
    gain = baseline["val_bpb"] - incumbent["val_bpb"]
    half = (baseline["val_bpb_half_interval"] ** 2 + incumbent["val_bpb_half_interval"] ** 2) ** 0.5
    line = (
        f"The incumbent, trial {incumbent['trial']}, is better than the baseline by {gain:.4f} +- {half:.4f} bits per "
        f"byte ({100 * gain / baseline['val_bpb']:.1f} %): {_interval(incumbent, 'val')}, "
        f"from {_interval(baseline, 'val')}."
    )
    if baseline["n_test_runs"] and incumbent["n_test_runs"]:
        line += f" On the test text: {_interval(incumbent, 'test')}, from {_interval(baseline, 'test')}."
    return line


def make_console() -> Console:
    """A console as wide as the terminal; wide enough for every column where the output goes to a file or a pipe."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=PIPE_WIDTH, highlight=False)
