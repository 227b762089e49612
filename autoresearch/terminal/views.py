"""What a person reads in the terminal, and the same facts as plain data for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any, Literal

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from autoresearch import words
from autoresearch.decide import Noise
from autoresearch.evidence import Evidence
from autoresearch.evidence.meters import Meters
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
VERDICT_STYLES = {"researching": "green", "narrowing": "yellow", "flailing": "bold red"}

RUN_COLUMNS = (
    "seed", "purpose", "state", "val_bpb", "test_bpb", "tokens/s", "MFU %", "step ms", "train s", "peak MiB", "joules",
)  # fmt: skip
STEP_NOTE = (
    "step ms: data + forward + backward + optimizer. MFU: (6 x weights that multiply + 12 n_layer d_model seq_len) "
    "x tokens/s / peak FLOP/s"
)


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


def trials_table(evidence: Evidence, last: int | None = None) -> Table:
    """One row a trial, all or the last ones; every score with its interval and number of runs."""
    recipes = {trial.number: trial.recipe for trial in evidence.trials}
    table = Table(pad_edge=False, box=None, header_style="dim")
    for name, justify in COLUMNS.items():
        table.add_column(name, justify=justify, no_wrap=name not in ("change", "outcome"))
    for trial in evidence.trials[-last:] if last else evidence.trials:
        outcome = trial.decision or ("baseline" if trial.number == 0 and trial.state == "complete" else trial.state)
        detail = f" {trial.rail}" if trial.rail else ""
        if trial.state in ("failed", "timed_out"):
            detail = f": {clean(trial.reason, 60)}"
        table.add_row(
            str(trial.number),
            escape(trial.proposer),
            escape(words.change(trial.changes, recipes.get(trial.parent or 0, {})) or "-"),
            _mean(trial, evidence.noise),
            str(trial.n_runs or "-"),
            escape(_improvement(trial)),
            Text(outcome + detail, style=STYLES.get(outcome, "default")),
        )
    return table


def _improvement(trial: Trial) -> str:
    if trial.improvement is None:
        return "-"
    if trial.improvement_low is None:  # an imported trial
        return f"{trial.improvement:+.4f}"
    return f"{trial.improvement:+.4f} [{trial.improvement_low:+.4f}, {trial.improvement_high:+.4f}]"


def _expected(trial: Trial) -> str:
    """The proposer's own forecast, told as `better by` tells what was measured."""
    return words.NONE if trial.expected_delta is None else f"better by {words.gain(-trial.expected_delta)}"


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
        "change": words.change(trial.changes, before) or "-",
        "hypothesis": trial.hypothesis or "-",
        "outcome": f"{trial.decision or trial.state}: {trial.reason}" if trial.reason else trial.state,
        "val_bpb": f"{_mean(trial, noise)} over {trial.n_runs} runs" if trial.n_runs else "-",
        "expected": _expected(trial),
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


def meters_view(meters: Meters) -> RenderableType:
    """The exploration meters as a person reads them, the verdict first."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    for name, value in meter_lines(meters):
        table.add_row(name, escape(value))
    return Group(Text(f"{meters.verdict}: {meters.why}", style=VERDICT_STYLES[meters.verdict]), Text(), table)


def meter_lines(meters: Meters) -> Iterator[tuple[str, str]]:
    """Name and value of each meter in plain words."""
    yield "proposals", f"{meters.proposals}, of them {meters.trained} trained, {meters.blocked} blocked"
    untouched = f"; never turned: {', '.join(meters.untouched)}" if meters.untouched else ""
    yield "knobs", f"{meters.knobs_touched} of {meters.knobs_on_menu} turned{untouched}"
    if meters.repeat_rate is not None:
        yield "repeats", f"{meters.repeats} of {meters.proposals} proposals ({100 * meters.repeat_rate:.0f} %)"
        yield "by tens", ", ".join(f"{100 * window.repeat_rate:.0f} %" for window in meters.windows)
    yield "pairs", f"{meters.unique_pairs} different (knob, value)"
    for name, pair in (("most proposed", meters.most_proposed), ("most kept", meters.most_kept)):
        if pair:
            yield name, f"{pair.knob} {pair.value}, {pair.count} times ({100 * pair.share:.0f} %)"
    if meters.keep_rate is not None:
        yield "kept", f"{meters.kept} of {meters.trained} trained ({100 * meters.keep_rate:.0f} %)"
    if meters.first_keep is not None:
        yield "keeps", f"the first in trial {meters.first_keep}, the best in trial {meters.best_keep}"
    yield "plateau", f"{meters.plateau} trials since a keep was the best so far"
    if meters.blocked_by_rail:
        yield "blocked by", ", ".join(f"{rail} {n}" for rail, n in sorted(meters.blocked_by_rail.items()))
    if meters.failed:
        yield "failed", f"{meters.failed} trials"
    if meters.run_deviation is not None:
        yield "noise", f"one run deviates by {meters.run_deviation:.4f} (from {meters.run_deviation_dof} spare runs)"
    if meters.gain is not None:
        yield (
            "gain",
            f"{meters.gain:.4f} +- {meters.gain_half_interval:.4f} bits per byte"
            + (f", {meters.gain_per_kwh:.4f} per kWh" if meters.gain_per_kwh is not None else ""),
        )
    if meters.best_observed is not None:
        yield (
            "best number",
            f"{meters.best_observed:.4f}, one run of trial {meters.best_observed_trial}; "
            + (
                f"the {meters.best_recipe_runs} runs of its recipe average {meters.best_recipe_mean:.4f}: "
                f"{meters.luck:.4f} is luck"
                if meters.luck is not None
                else "its recipe was run once, so nobody knows how much of it is luck"
            ),
        )
    if meters.forecasts:
        order = meters.forecast_rank_correlation
        yield (
            "forecasts",
            f"{meters.forecasts_right} of {meters.forecasts} went the way that was expected, off by "
            f"{words.bpb(meters.forecast_error)} on average"
            + (f", rank correlation {order:+.2f}" if order is not None else ""),
        )
    for recipe in meters.judged_both_ways:
        yield (
            "judged both ways",
            f"{recipe.change}: kept in {_numbers(recipe.kept)}, discarded in {_numbers(recipe.discarded)}",
        )


def _numbers(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def make_console() -> Console:
    """A console as wide as the terminal; wide enough for every column where the output goes to a file or a pipe."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=PIPE_WIDTH, highlight=False)
