"""Everything that a report says: numbers in base units for its charts, and the words that it prints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from autoresearch import words
from autoresearch.evidence import Evidence, Standing, sentences
from autoresearch.evidence.compute import over_baseline, over_parent
from autoresearch.evidence.longer_runs import LongerRow, LongerRuns, divergence_text, longer_runs
from autoresearch.evidence.meters import Meters, measure
from autoresearch.evidence.nights import ending, trouble
from autoresearch.evidence.proposers import ProposerRecord, proposer_records
from autoresearch.evidence.work import work
from autoresearch.metric import Metric
from autoresearch.morning.report.curves import Curve, curves
from autoresearch.morning.report.failures import FailureGroup, failures
from autoresearch.morning.report.knobs import KnobFacts, knobs
from autoresearch.morning.report.metric import MetricFacts, metric_facts
from autoresearch.morning.report.table import Kind, Table, table
from autoresearch.study.folder import StudyFolder
from autoresearch.study.lock import lock_holder
from autoresearch.terminal.meters import MeterLine, meter_lines
from autoresearch.trial import EPOCH
from rails import clean

LONGEST_CHANGE, LONGEST_REASON = 400, 600


@dataclass(frozen=True)
class StudyFacts:
    """`origin`: its preset, or what it was imported from. `status`: what there is of it and what it is at."""

    name: str
    origin: str
    status: str
    imported: bool
    running: bool
    control: str


@dataclass(frozen=True)
class TrialRow:
    """One trial as a table and the charts show it; for each number that is printed the text it is printed as.

    value, low, high, best: scores as a person has them. best: what the standing recipe scores, over all its runs known
    today. spent_joules: of the study, until it was over.
    """

    number: int
    parent: int | None
    generation: int  # steps from the baseline
    proposer: str
    change: str
    outcome: str
    label: str  # the outcome, and the rail that blocked it
    reason: str
    hypothesis: str
    value: float | None
    low: float | None
    high: float | None
    score: str
    n_runs: int
    reference: int | None
    improvement: float | None
    better: str
    seconds: float | None
    time: str
    energy_joules: float | None
    energy: str
    energy_source: str
    flops_over_parent: float | None
    flops_over_baseline: float | None
    times: str  # the former, in short
    compute: str  # and as a sentence has it
    spent_joules: float
    best: float | None
    best_low: float | None
    best_high: float | None


@dataclass(frozen=True)
class RepeatsBar:
    """The share of repeats among the proposals `first` to `last`."""

    first: int
    last: int
    repeat_rate: float
    trials: str
    repeated: str


@dataclass(frozen=True)
class WorkBar:
    part: str
    seconds: float
    label: str


@dataclass(frozen=True)
class LongerFacts:
    """What the best recipes did at one longer budget."""

    title: str
    sentence: str
    recipes: Table


@dataclass(frozen=True)
class ReportFacts:
    """What the page shows, but for what belongs to one trial alone. All text in it may be hostile."""

    study: StudyFacts
    metric: MetricFacts
    headline: list[str]
    not_this: str
    warnings: list[str]
    standings: Table
    incumbent: int
    verdict: str
    why: str
    meters: list[MeterLine]
    repeats: list[RepeatsBar]
    counted: str  # how many trials, the baseline's too
    trials: list[TrialRow]
    knobs: list[KnobFacts]
    untouched: str
    curves: list[Curve]
    work: list[WorkBar]
    worked: str
    energy: str
    proposers: Table
    failures: list[FailureGroup]
    promotions: list[LongerFacts]
    noise: str


def facts(folder: StudyFolder, running: bool | None = None) -> ReportFacts:
    """running: whether a night goes on; None: as the runner's lock tells."""
    evidence = Evidence(folder)
    if running is None:
        running = lock_holder(folder.path / "runner.lock") is not None
    meters, promotions, parts = measure(evidence), longer_runs(folder), work(evidence)
    return ReportFacts(
        study=_study(evidence, running),
        metric=metric_facts(evidence.metric),
        headline=sentences.headline(evidence, meters),
        not_this=sentences.not_this(evidence, promotions),
        warnings=[*trouble(evidence, running), *sentences.warnings(evidence, meters)],
        standings=_standings(evidence),
        incumbent=evidence.incumbent.number,
        verdict=meters.verdict,
        why=meters.why,
        meters=[*meter_lines(meters)],
        repeats=_repeats(meters),
        counted=words.count(len(evidence.trials), "trial"),
        trials=[*_trials(evidence)],
        knobs=knobs(evidence),
        untouched=_untouched(meters),
        curves=curves(evidence),
        work=[WorkBar(it.part, it.seconds, f"{words.duration(it.seconds)}, {words.percent(it.share)}") for it in parts],
        worked=words.duration(sum(part.seconds for part in parts)),
        energy=sentences.energy(evidence),
        proposers=_proposers(evidence),
        failures=failures(evidence),
        promotions=[_longer(found, evidence.metric) for found in promotions],
        noise=_noise(evidence),
    )


def _study(evidence: Evidence, running: bool) -> StudyFacts:
    folder, source, control = evidence.folder, evidence.source, evidence.study["control"]
    in_flight = sum(run.state == "running" for run in folder.store.pending_runs())
    devices = sorted({run.device for runs in evidence.runs.values() for run in runs if run.device})
    as_of = _as_of(evidence)
    status = (
        words.count(len(evidence.trials) - 1, "trial"),
        words.budget(evidence.budget) if evidence.budget else "",
        f"on {', '.join(clean(device, 80) for device in devices)}" if devices else "",
        "" if source else words.activity(running, control),
        f"{words.count(in_flight, 'run')} {'in flight' if running else 'cut off'}" if in_flight else "",
        ending(evidence) if not running else "",
        f"as of {words.moment(as_of)}" if as_of else "",
    )
    return StudyFacts(
        name=evidence.study["name"],
        origin=f"imported from {clean(source['file'], 200)} ({source['format']})" if source else folder.settings.preset,
        status=", ".join(filter(None, status)),
        imported=evidence.imported,
        running=running,
        control=control,
    )


def _as_of(evidence: Evidence) -> str | None:
    """When the last thing happened; of an import, when its last trial ended, None where the source does not tell."""
    if not evidence.imported:
        return str(evidence.folder.store.events(1)[-1]["at"])
    last = max(trial.finished_at or "" for trial in evidence.trials)
    return last if last > EPOCH else None


def _standings(evidence: Evidence) -> Table:
    baseline, best = evidence.standing(evidence.baseline), evidence.standing(evidence.incumbent)
    named = [("baseline", baseline), *([("best", best)] if best.trial != baseline.trial else [])]
    metric = evidence.metric
    decides = ", the text that decides" if metric.has_test else ""
    columns: list[tuple[str, Kind]] = [
        ("recipe", "word"), ("trial", "trial"), (f"{words.column(metric)}{decides}", "number"), ("runs", "number"),
    ]  # fmt: skip
    if metric.has_test:
        columns += [("test_bpb ± 95 %, the untouched text", "number"), ("runs", "number")]
    return table(columns, (_standing(name, standing, metric)[: len(columns)] for name, standing in named))


def _standing(name: str, standing: Standing, metric: Metric) -> list[str]:
    return [
        name,
        str(standing.trial),
        words.plus_minus(standing.val_bpb, standing.val_bpb_half_interval, metric),
        str(standing.n_runs),
        words.plus_minus(standing.test_bpb, standing.test_bpb_half_interval),
        str(standing.n_test_runs),
    ]


def _repeats(meters: Meters) -> list[RepeatsBar]:
    return [
        RepeatsBar(it.first, it.last, it.repeat_rate, f"{it.first} to {it.last}", words.percent(it.repeat_rate))
        for it in meters.windows
    ]


def _untouched(meters: Meters) -> str:
    if not meters.untouched:
        return "Every knob on the menu was turned at least once."
    return f"Never turned: {', '.join(clean(knob, 40) for knob in meters.untouched)}."


def _trials(evidence: Evidence) -> Iterator[TrialRow]:
    generations: dict[int, int] = {}
    metric = evidence.metric
    standings = {number: evidence.standing(evidence.trials[number]) for number in set(evidence.bests)}
    for trial, best, spent in zip(evidence.trials, evidence.bests, evidence.spent, strict=True):
        generations[trial.number] = 0 if trial.parent is None else generations[trial.parent] + 1
        standing, half, outcome = standings[best], evidence.half_interval(trial), words.state(trial.outcome)
        score = _turned(trial.val_bpb, metric)
        low, high = _interval(score, half)
        standing_score = _turned(standing.val_bpb, metric)
        best_low, best_high = _interval(standing_score, standing.val_bpb_half_interval)
        seconds, over = evidence.seconds(trial), over_parent(evidence, trial)
        change = clean(evidence.change(trial), LONGEST_CHANGE)
        yield TrialRow(
            number=trial.number,
            parent=trial.parent,
            generation=generations[trial.number],
            proposer=clean(trial.proposer, 120),
            change=change or ("the baseline" if trial.number == 0 else words.NONE),
            outcome=outcome,
            label=f"{outcome} ({clean(trial.rail, 80)})" if trial.rail else outcome,
            reason=clean(trial.reason, LONGEST_REASON),
            hypothesis=clean(trial.hypothesis, LONGEST_REASON),
            value=score,
            low=low,
            high=high,
            score=words.plus_minus(trial.val_bpb, half, metric),
            n_runs=trial.n_runs,
            reference=trial.reference,
            improvement=trial.improvement,
            better=words.gain(trial.improvement, trial.improvement_low, trial.improvement_high, metric),
            seconds=seconds,
            time=words.duration(seconds),
            energy_joules=trial.energy_joules,
            energy=words.energy(trial.energy_joules),
            energy_source=trial.energy_source or "",
            flops_over_parent=over,
            flops_over_baseline=over_baseline(evidence, trial),
            times=words.NONE if over is None else words.times(over),
            compute=words.spending(over),
            spent_joules=spent,
            best=standing_score,
            best_low=best_low,
            best_high=best_high,
        )


def _turned(score: float | None, metric: Metric) -> float | None:
    return None if score is None else metric.turned(score)


def _interval(value: float | None, half: float | None) -> tuple[float | None, float | None]:
    return (None, None) if value is None or half is None else (value - half, value + half)


def _proposers(evidence: Evidence) -> Table:
    priced, currency = evidence.cost.tokens is not None, evidence.folder.settings.energy.currency
    metered = bool(evidence.asking)
    return table(
        {
            "proposer": "text",
            "proposals": "number",
            "blocked": "number",
            "failed": "number",
            "kept": "number",
            f"gain, {evidence.metric.gain_unit}": "number",
            "a trial": "number",
            "a kWh": "number",
            "a second asked": "number",
            "time to answer": "number",
            "tokens": "number",
            **({"cost of tokens": "number"} if priced else {}),
            **({"energy of asking": "number"} if metered else {}),
        },
        (
            [
                *_proposer(found, evidence.metric, currency if priced else None),
                *([words.energy(found.energy_joules)] if metered else []),
            ]
            for found in proposer_records(evidence)
        ),
    )


def _proposer(found: ProposerRecord, metric: Metric, currency: str | None) -> list[str]:
    """currency: of what its tokens cost; None: that is not told."""
    name, model = clean(found.name, 40), clean(found.model or "", 60)
    kept = f" ({words.percent(found.keep_rate)})" if found.keep_rate is not None else ""
    return [
        f"{name} ({model})" if model else name,
        f"{found.proposals:,}",
        f"{found.blocked:,}",
        f"{found.failed:,}",
        f"{found.kept:,}{kept}",
        words.difference(found.gain, found.gain_half_interval, metric),
        words.difference(found.gain_per_trial, metric=metric),
        words.figure(found.gain_per_kwh),
        words.figure(found.gain_per_second),
        words.duration(found.latency_seconds),
        words.NONE if found.tokens is None else f"{found.tokens:,}",
        *([words.NONE if found.token_cost is None else words.money(found.token_cost, currency)] if currency else []),
    ]


def _longer(found: LongerRuns, metric: Metric) -> LongerFacts:
    recipes = table(
        {
            "trial": "trial",
            "against the baseline": "text",
            "verdict": "word",
            "gain in the search [95 %]": "number",
            "gain here [95 %]": "number",
            **({"gain on test [95 %]": "number"} if metric.has_test else {}),
            f"{metric.name} here ± 95 %": "number",
            "runs": "number",
        },
        (_longer_row(row, metric) for row in found.rows),
    )
    return LongerFacts(f"At {found.factor:g} times the budget", found.sentence, recipes)


def _longer_row(row: LongerRow, metric: Metric) -> list[str]:
    return [
        str(row.trial),
        row.label,
        "; ".join([row.verdict, *map(divergence_text, row.diverged)]),
        row.in_the_search(metric),
        row.for_longer(metric),
        *([row.on_the_test_text(metric)] if metric.has_test else []),
        words.plus_minus(row.long_val_bpb, row.long_half_interval, metric),
        f"{row.n_runs:,}",
    ]


def _noise(evidence: Evidence) -> str:
    source = "measured" if evidence.measured_deviation[0] is not None else "assumed"
    deviation = words.difference(evidence.noise.deviation, metric=evidence.metric)
    intervals = f"Intervals are 95 % intervals, from a run-to-run deviation of {deviation} ({source})."
    return " ".join([intervals, *sentences.devices(evidence)])
