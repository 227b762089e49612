"""What promotions say: whether a search's ranking held at a longer budget, which wins shrank, what diverged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

from autoresearch import words
from autoresearch.decide import Noise, Runs, compare, pool_noise
from autoresearch.evidence.context import in_both_windows
from autoresearch.evidence.evidence import Evidence, order_by_chance, rank_correlation
from autoresearch.metric import Metric
from autoresearch.study.folder import StudyFolder
from autoresearch.study.store.promotions import PromotedRun
from autoresearch.trial import Recipe, Trial
from trainer.protocol import WHOLE_UNITS

Verdict = Literal["baseline", "held", "shrank", "lost", "diverged", "not measured"]

# A ranking has held, or was turned round, where chance alone gives an order so near to it, or so far from it, in less.
BY_CHANCE = 0.05
FEWEST_RANKED = 3
# A win has shrunk when less than this share of the search's gain is left.
SHRUNK_SHARE = 0.5
SURVIVES = ("held", "shrank")
SAID_OF_ALL: tuple[Verdict, ...] = ("shrank", "lost")

VERDICTS: Mapping[Verdict, str] = {
    "held": "better than the baseline beyond the noise, by at least half of the search's gain",
    "shrank": "better than the baseline beyond the noise, but by less than half of the search's gain",
    "lost": "no better than the baseline beyond the noise: the interval of its gain begins at 0 or below",
    "diverged": "its training diverged with one seed or more",
    "not measured": "no run of it, or none of the baseline, is complete",
}


@dataclass(frozen=True)
class Divergence:
    """A run whose loss blew up. late: at a step that the search's runs of this recipe never came to, so that the search
    could not see it; None: not known."""

    seed: int
    step: int | None
    late: bool | None


@dataclass(frozen=True)
class Failure:
    """A run that failed in another way."""

    seed: int
    failure: str
    message: str


@dataclass(frozen=True)
class LongerRow:
    """One recipe in the search, at the longer budget, and there on the test text.

    Gains are the baseline's score minus the recipe's (bits per byte, positive is better) with their 95 % intervals and
    the posterior probability that they are above 0; None: not measured, and for the baseline itself.
    """

    trial: int
    label: str
    n_runs: int
    n_search_runs: int
    n_test_runs: int
    search_val_bpb: float | None
    search_half_interval: float | None
    search_gain: float | None
    search_low: float | None
    search_high: float | None
    search_probability: float | None
    long_val_bpb: float | None
    long_half_interval: float | None
    long_gain: float | None
    long_low: float | None
    long_high: float | None
    long_probability: float | None
    test_gain: float | None
    test_low: float | None
    test_high: float | None
    test_probability: float | None
    diverged: list[Divergence]
    failures: list[Failure]
    context: str = ""  # how it did in the baseline's windows and in its own; empty where they are the same
    verdict: Verdict = "not measured"

    def in_the_search(self, metric: Metric) -> str:
        """ "+0.0801 [+0.0702, +0.0900]"."""
        return words.gain(self.search_gain, self.search_low, self.search_high, metric)

    def for_longer(self, metric: Metric) -> str:
        return words.gain(self.long_gain, self.long_low, self.long_high, metric)

    def on_the_test_text(self, metric: Metric) -> str:
        return words.gain(self.test_gain, self.test_low, self.test_high, metric)


@dataclass(frozen=True)
class LongerRuns:
    """All recipes at one longer budget.

    spearman: rank correlation of their means in the search and here, over `n_ranked` recipes, the baseline left out:
    it comes last in both because the others were chosen for beating it. None for fewer than three. by_chance: the share
    of all orders that agree as well or better; reversed_by_chance: as badly or worse. held: True or False where the one
    or the other is below 5 %, which is how often either is said of an order that only chance has made; else None.
    """

    factor: float
    budget: str
    seeds: list[int]
    spearman: float | None
    n_ranked: int
    by_chance: float | None
    reversed_by_chance: float | None
    held: bool | None
    rows: list[LongerRow]
    energy_joules: float
    energy_sources: list[str]
    sentence: str = ""


def scaled(budget: Mapping[str, float], factor: float) -> dict[str, float]:
    """A run's budget, `factor` times as much: tokens and steps stay whole numbers."""
    return {unit: round(amount * factor) if unit in WHOLE_UNITS else amount * factor for unit, amount in budget.items()}


def longer_runs(folder: StudyFolder) -> list[LongerRuns]:
    """One entry for each longer budget, the longest last; empty if nothing was promoted.

    Gains are the baseline's val_bpb minus the recipe's (bits per byte, positive is better) with their 95 % intervals:
    in the search over all of its runs, in the promotion over its runs alone, whose noise is pooled apart.
    """
    runs = folder.store.promoted_runs()
    if not runs:
        return []
    evidence = Evidence(folder)
    factors = sorted({run.factor for run in runs})
    return [_facts(evidence, factor, [run for run in runs if run.factor == factor]) for factor in factors]


def survivor(longer: LongerRuns) -> LongerRow | None:
    """The row of the recipe with the lowest mean at the longer budget, of those that still beat the baseline."""
    rows = [row for row in longer.rows if row.verdict in SURVIVES]
    return min(rows, key=lambda row: row.long_val_bpb or 0.0, default=None)


def was_measured(longer: LongerRuns) -> bool:
    """False for a promotion that was cut off before it could say anything of any recipe."""
    return any(row.verdict not in ("baseline", "not measured") for row in longer.rows)


def recipe_label(recipe: Recipe, baseline: Recipe) -> str:
    """All knobs in which the recipe differs from the baseline's."""
    differing = {knob: value for knob, value in recipe.items() if baseline.get(knob) != value}
    return words.change(differing, baseline) or "the baseline"


def _facts(evidence: Evidence, factor: float, runs: Sequence[PromotedRun]) -> LongerRuns:
    trials = [evidence.trials[number] for number in sorted({run.trial for run in runs})]
    trials.sort(key=lambda trial: (trial.number != 0, evidence.mean(trial)))
    rule = evidence.folder.settings.decision
    val, test, window = _scores(runs, "val_bpb"), _scores(runs, "test_bpb"), _scores(runs, "window_bpb")
    noises = pool_noise(val.values(), rule), pool_noise(test.values(), rule)
    rows = [_row(evidence, trial, [r for r in runs if r.trial == trial.number], val, test, *noises) for trial in trials]
    rows = [replace(row, context=_context(evidence, row.trial, val, window, noises[0])) for row in rows]
    search, longer = _ranked(rows)
    spearman, *chances = _agreement(search, longer)
    found = LongerRuns(
        factor=factor,
        budget=words.budget(scaled(evidence.folder.settings.whole_budget, factor)),
        seeds=sorted({run.seed for run in runs}),
        spearman=spearman,
        n_ranked=len(search),
        by_chance=chances[0],
        reversed_by_chance=chances[1],
        held=_held(*chances),
        rows=rows,
        energy_joules=sum(run.energy_joules for run in runs),
        energy_sources=sorted({run.energy_source for run in runs}),
    )
    return replace(found, sentence=_sentence(found, evidence.metric))


def _context(evidence: Evidence, trial: int, val: Mapping[int, Runs], window: Mapping[int, Runs], noise: Noise) -> str:
    recipe, baseline = evidence.trials[trial].recipe, evidence.baseline.recipe
    own, at_window = val.get(trial, {}), window.get(trial, {})
    return in_both_windows(recipe, baseline, own, at_window, window.get(0, {}), "the baseline", noise)


def _scores(runs: Sequence[PromotedRun], name: Literal["val_bpb", "test_bpb", "window_bpb"]) -> dict[int, Runs]:
    scores: dict[int, dict[int, float]] = {}
    for run in runs:
        if (score := getattr(run, name)) is not None:
            scores.setdefault(run.trial, {})[run.seed] = score
    return dict(scores)


def _row(
    evidence: Evidence,
    trial: Trial,
    runs: Sequence[PromotedRun],
    val: Mapping[int, Runs],
    test: Mapping[int, Runs],
    val_noise: Noise,
    test_noise: Noise,
) -> LongerRow:
    baseline = evidence.baseline
    long_runs, test_runs = val.get(trial.number, {}), test.get(trial.number, {})
    search_runs = evidence.scores.get(trial.recipe_key, {})
    row = LongerRow(
        trial=trial.number,
        label=recipe_label(trial.recipe, baseline.recipe),
        n_runs=len(long_runs),
        n_search_runs=len(search_runs),
        n_test_runs=len(test_runs),
        **_mean("search", search_runs, evidence.noise),
        **_gain("search", search_runs, evidence.scores.get(baseline.recipe_key, {}), evidence.noise, trial),
        **_mean("long", long_runs, val_noise),
        **_gain("long", long_runs, val.get(0, {}), val_noise, trial),
        **_gain("test", test_runs, test.get(0, {}), test_noise, trial),
        diverged=[_divergence(evidence, run) for run in runs if run.failure == "diverged"],
        failures=[
            Failure(run.seed, run.failure, run.message)
            for run in runs
            if run.failure is not None and run.failure != "diverged"
        ],
    )
    return replace(row, verdict=_verdict(row))


def _mean(name: str, runs: Runs, noise: Noise) -> dict[str, Any]:
    return {
        f"{name}_val_bpb": fmean(runs.values()) if runs else None,
        f"{name}_half_interval": noise.half_width(len(runs)) if runs else None,
    }


def _gain(name: str, runs: Runs, baseline: Runs, noise: Noise, trial: Trial) -> dict[str, Any]:
    """The gain over the baseline, its interval, and the posterior probability that it is above 0."""
    if trial.number == 0 or not runs or not baseline:
        return dict.fromkeys((f"{name}_gain", f"{name}_low", f"{name}_high", f"{name}_probability"))
    found = compare(runs, baseline, noise)
    low, high = found.interval
    return {
        f"{name}_gain": found.improvement,
        f"{name}_low": low,
        f"{name}_high": high,
        f"{name}_probability": found.probability,
    }


def _divergence(evidence: Evidence, run: PromotedRun) -> Divergence:
    ends = [done.steps for done in evidence.runs[run.trial] if done.state == "complete" and done.steps is not None]
    late = run.failed_step > max(ends) if ends and run.failed_step is not None else None
    return Divergence(run.seed, run.failed_step, late)


def _verdict(row: LongerRow) -> Verdict:
    if row.diverged:
        return "diverged"
    if row.trial == 0:
        return "baseline" if row.n_runs else "not measured"
    if row.long_gain is None or row.long_low is None or row.search_gain is None:
        return "not measured"
    if row.long_low <= 0:
        return "lost"
    return "shrank" if row.long_gain < SHRUNK_SHARE * row.search_gain else "held"


def _ranked(rows: Sequence[LongerRow]) -> tuple[list[float], list[float]]:
    """The recipes' means in the search and at the longer budget, of those that have both; without the baseline."""
    found = [(row.search_val_bpb, row.long_val_bpb) for row in rows if row.trial != 0]
    both = [(one, other) for one, other in found if one is not None and other is not None]
    return [one for one, _ in both], [other for _, other in both]


def _agreement(search: Sequence[float], longer: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Spearman's, and how often chance gives it or more, and it or less; None where there is too little to rank."""
    if len(search) < FEWEST_RANKED or (spearman := rank_correlation(search, longer)) is None:
        return None, None, None
    return spearman, *order_by_chance(search, longer)


def _held(by_chance: float | None, reversed_by_chance: float | None) -> bool | None:
    if by_chance is None or reversed_by_chance is None or min(by_chance, reversed_by_chance) >= BY_CHANCE:
        return None
    return by_chance < BY_CHANCE


def _sentence(longer: LongerRuns, metric: Metric) -> str:
    candidates = [row for row in longer.rows if row.trial != 0]
    seeds = words.count(len(longer.seeds), "fresh seed")
    said = [f"At {longer.factor:g} times the budget ({longer.budget}) on {seeds}"]
    said[0] += f" {_ranking(longer)}."
    if candidates:
        best = candidates[0]
        here = "none here" if best.long_gain is None else f"{best.for_longer(metric)} here"
        said.append(
            f"The best of them in the search, trial {best.trial} ({best.label}): a gain of "
            f"{best.in_the_search(metric)} {metric.gain_unit} there and {here}: {best.verdict}."
        )
    for verdict in SAID_OF_ALL:
        if trials := [row.trial for row in candidates if row.verdict == verdict]:
            said.append(f"{verdict.capitalize()} ({VERDICTS[verdict]}): trial {words.numbers(trials)}.")
    said += [f"Trial {row.trial} was {row.context}." for row in longer.rows if row.context]
    for row in longer.rows:
        if row.diverged:
            said.append(f"Trial {row.trial} diverged with {', '.join(map(divergence_text, row.diverged))}.")
        said += [f"Trial {row.trial} failed with seed {end.seed}: {words.state(end.failure)}." for end in row.failures]
    if any(event.late for row in longer.rows for event in row.diverged):
        said.append("Late: beyond the last step of its runs in the search, which could not see it.")
    return " ".join(said)


def _ranking(longer: LongerRuns) -> str:
    if longer.spearman is None or longer.by_chance is None:
        return "too few recipes are measured for a ranking"
    recipes = f"{words.count(longer.n_ranked, 'recipe')} besides the baseline"
    seen = f"Spearman {longer.spearman:+.2f}"
    if longer.held is False:
        badly = f"as bad as chance alone gives in {words.percent(longer.reversed_by_chance)} of cases"
        return f"the ranking of the search was turned round: {seen} over {recipes}, {badly}"
    well = f"which chance alone gives or betters in {words.percent(longer.by_chance)} of cases"
    if longer.held:
        return f"the ranking of the search held: {seen} over {recipes}, {well}"
    if longer.spearman > 1 - 1e-9:
        well = f"the same order, which chance alone gives 1 time in {1 / longer.by_chance:.0f}"
    return f"whether the ranking of the search held cannot be told from {recipes}: {seen}, {well}"


def divergence_text(event: Divergence) -> str:
    """ "seed 1000 at step 26 (late)"."""
    return f"seed {event.seed} at step {event.step or '?'}{' (late)' if event.late else ''}"
