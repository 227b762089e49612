"""The sentences of the report: what was tried, what improved and how sure that is, what to beware of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoresearch import words
from autoresearch.evidence import Evidence, Standing
from autoresearch.evidence.meters import Meters, Repeated
from autoresearch.trial import Trial
from autoresearch.workers.energy import JOULES_PER_KWH

MOST_NAMED = 4


def outcome(trial: Trial) -> str:
    """keep, discard, baseline, or the state of a trial that was not decided."""
    if trial.number == 0 and trial.state == "complete":
        return "baseline"
    return trial.decision or trial.state


def headline(evidence: Evidence, meters: Meters) -> list[str]:
    """Two sentences: what was tried; what improved, by how much, for how much."""
    return [_tried(evidence, meters), _improved(evidence)]


def _tried(evidence: Evidence, meters: Meters) -> str:
    if not meters.proposals:
        return "Nothing has been tried yet but the baseline."
    parts = [f"{meters.trained} {_plural(meters.trained, 'change was', 'changes were')} trained"]
    if meters.failed:
        parts.append(f"{meters.failed} of them failed")
    if meters.blocked:
        parts.append(f"{meters.blocked} more {_plural(meters.blocked, 'was', 'were')} blocked before training")
    kept = [_change(evidence, trial) for trial in evidence.trials if trial.decision == "keep"]
    found = "none was kept" if not kept else f"{len(kept)} {_plural(len(kept), 'was', 'were')} kept ({_some(kept)})"
    if meters.knobs_touched:
        knobs = _plural(meters.knobs_on_menu, "knob", "knobs")
        parts.append(f"turning {meters.knobs_touched} of {meters.knobs_on_menu} {knobs}")
    return f"{', '.join(parts)}: {found}."


def _improved(evidence: Evidence) -> str:
    cost = _cost(evidence)
    baseline, incumbent = evidence.standing(evidence.baseline), evidence.standing(evidence.incumbent)
    if baseline.val_bpb is None:
        return f"The baseline is not measured yet, so nothing can be said of any gain{cost}."
    gain = evidence.gain()
    if gain is None:
        return (
            f"Nothing beat the baseline, {_score(baseline)}, beyond the noise; a gain of less than about "
            f"{2 * evidence.noise.deviation:.3f} would seldom have been seen{cost}."
        )
    held = "better than the baseline by" if abs(gain[0]) > gain[1] else "not surely better than the baseline:"
    return (
        f"The best recipe, trial {incumbent.trial}'s, is {held} {gain[0]:.4f} ± {gain[1]:.4f} bits per byte "
        f"({100 * gain[0] / baseline.val_bpb:.1f} %) on the text that decides{_test(baseline, incumbent)}{cost}."
    )


def _test(baseline: Standing, incumbent: Standing) -> str:
    """The gain on the text that no decision has read."""
    if baseline.test_bpb is None or incumbent.test_bpb is None:
        return " (on an untouched test text it was not measured)"
    assert baseline.test_bpb_half_interval is not None and incumbent.test_bpb_half_interval is not None
    half = (baseline.test_bpb_half_interval**2 + incumbent.test_bpb_half_interval**2) ** 0.5
    return f" and by {baseline.test_bpb - incumbent.test_bpb:.4f} ± {half:.4f} on the test text, which no decision read"


def _score(standing: Standing) -> str:
    return (
        f"{standing.val_bpb:.4f} ± {standing.val_bpb_half_interval:.4f} "
        f"({standing.n_runs} {_plural(standing.n_runs, 'run', 'runs')})"
    )


def _cost(evidence: Evidence) -> str:
    joules = sum(trial.energy_joules or 0.0 for trial in evidence.trials)
    if not joules:
        return "; what it cost in energy was not recorded"
    kwh, energy = joules / JOULES_PER_KWH, evidence.folder.settings.energy
    return (
        f"; the search cost {kwh:.2g} kWh ({'+'.join(evidence.energy_sources)}), "
        f"{kwh * energy.price_per_kwh:.2g} {energy.currency}"
    )


def not_this(evidence: Evidence, promotions: Sequence[Mapping[str, Any]]) -> str:
    """What nobody should take the result for."""
    size = f"at {words.budget(evidence.budget)}" if evidence.budget else "on runs of a length that is not told"
    text = f"This is a recipe, not a usable model: it was measured {size}"
    if promotions:
        factor = max(promotion["factor"] for promotion in promotions)
        return f"{text} and, for the best, at {factor:g} times that; what it does at full length is not known."
    return f"{text}, and whether its gain lasts at a longer budget is not known until it is tried."


def warnings(evidence: Evidence, meters: Meters) -> list[str]:
    """What a reader should know before trusting the numbers, the gravest first."""
    found = []
    if meters.verdict != "researching":
        found.append(f"The search is {meters.verdict}: {meters.why}.")
    if both := meters.judged_both_ways:
        found.append(
            f"{_counted(len(both), 'recipe was', 'recipes were')} both kept and discarded, by the noise alone: "
            f"{_some(map(_verdicts, both))}."
        )
    if meters.luck is not None and meters.best_recipe_runs > 1 and meters.measured_again:
        found.append(
            f"The lowest number, {meters.best_observed:.4f}, is the luckiest of {meters.best_recipe_runs} runs of one "
            f"recipe, whose mean is {meters.best_recipe_mean:.4f}: the difference, {meters.luck:.4f}, is luck."
        )
    if again := meters.measured_again:
        most = again[0]
        found.append(
            f"{_counted(len(again), 'recipe was', 'recipes were')} measured by more than one trial, most often "
            f"{most.change}: {len(most.trials)} times, from {most.low:.4f} to {most.high:.4f}"
            + (f"; one run deviates by {meters.run_deviation:.4f}." if meters.run_deviation is not None else ".")
        )
    if meters.run_deviation is None and meters.trained:
        found.append("No recipe was run twice: the intervals rest on an assumed deviation, not on a measured one.")
    if "estimate" in evidence.energy_sources:
        found.append("Energy is estimated from processor time and the wattage in study.toml, not measured.")
    return found


def _verdicts(recipe: Repeated) -> str:
    kept, discarded = (", ".join(map(str, trials)) for trials in (recipe.kept, recipe.discarded))
    return f"{recipe.change}: kept in {kept}, discarded in {discarded}"


def _change(evidence: Evidence, trial: Trial) -> str:
    before = evidence.trials[trial.parent].recipe if trial.parent is not None else {}
    changed = words.change(trial.changes, before) or f"trial {trial.number}"
    return changed.replace(" -> ", "\u00a0→\u00a0")


def _some(texts: Any) -> str:
    """The first few of them, once each, and how many more there are."""
    named = list(dict.fromkeys(texts))
    more = len(named) - MOST_NAMED
    return "; ".join(named[:MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _counted(n: int, one: str, many: str) -> str:
    return f"{n} {_plural(n, one, many)}"


def _plural(n: int, one: str, many: str) -> str:
    return one if n == 1 else many
