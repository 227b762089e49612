"""What came of a study in sentences: what was tried, what improved and how sure that is, what to beware of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from autoresearch import words
from autoresearch.config import DecisionRule
from autoresearch.evidence.compute import bought
from autoresearch.evidence.evidence import Evidence, Gain, Standing
from autoresearch.evidence.longer_runs import LongerRuns
from autoresearch.evidence.meters import Meters, Repeated
from autoresearch.evidence.proposers import turns
from autoresearch.metric import VAL_BPB, Metric
from autoresearch.proposers.share import MODEL
from autoresearch.study.device_classes import REPEATS, sentence
from autoresearch.trial import Trial

MOST_NAMED = 4
# Run-to-run deviations. By the shipped [decision] a gain of the first is kept in at least nine of ten cases, one of the
# second in about half: 44 to 67 of 100, by the length of the night (docs/decision.md; benchmarks/promises.py).
MOSTLY_KEPT, HALF_KEPT = 2.6, 1.7
# Of [decision] what those figures do not rest on; min_improvement they are above.
NO_MATTER = {"min_improvement", "prior_deviation", "prior_runs", "confirmation_runs"}


def headline(evidence: Evidence, meters: Meters) -> list[str]:
    """Two sentences: what was tried; what improved, by how much, for how much."""
    return [_tried(evidence, meters), improved(evidence)]


def _tried(evidence: Evidence, meters: Meters) -> str:
    if not meters.proposals:
        return "Nothing has been tried yet but the baseline."
    parts = [f"{words.count(meters.trained, 'change was', 'changes were')} trained"]
    if meters.failed:
        parts.append(f"{meters.failed} of them failed")
    if meters.blocked:
        parts.append(f"{meters.blocked} more {words.plural(meters.blocked, 'was', 'were')} blocked before training")
    kept = [_change(evidence, trial) for trial in evidence.trials if trial.decision == "keep"]
    found = "none was kept" if not kept else f"{words.count(len(kept), 'was', 'were')} kept ({_some(kept)})"
    if meters.knobs_touched:
        parts.append(f"turning {meters.knobs_touched} of {words.count(meters.knobs_on_menu, 'knob')}")
    return f"{', '.join(parts)}: {found}."


def improved(evidence: Evidence) -> str:
    """What improved, with its interval, its runs and what it cost.

    Better and worse are said of a gain whose 95 % interval leaves 0 out. Of nights of 28 trials in which nothing helps
    1 % say either falsely, of either text (1,000 nights of benchmarks/promises.py, which confirm what they keep).
    """
    cost = _cost(evidence)
    baseline, incumbent = evidence.standing(evidence.baseline), evidence.standing(evidence.incumbent)
    if baseline.val_bpb is None:
        return f"The baseline is not measured yet, so nothing can be said of any gain{cost}."
    gain, metric = evidence.gain(), evidence.metric
    if gain is None:
        return f"Nothing beat the baseline, {score(baseline, metric)}, beyond the noise; {_kept_gains(evidence)}{cost}."
    size = abs(gain.value) if gain.is_sure else gain.value
    of = "" if metric.is_bits_per_byte else " of the baseline's"  # whose unit may be % itself
    share = f" ({words.percent(size / abs(baseline.val_bpb))}{of})" if baseline.val_bpb else ""
    where = f" on the text that decides{_test(evidence, gain)}" if metric.has_test else ""
    better = f"{_compared(gain, metric, ' than the baseline')} {metric.gain_unit}"
    return f"The best recipe, trial {incumbent.trial}'s, is {better}{share}{where}{_fresh(evidence)}{cost}."


def _fresh(evidence: Evidence) -> str:
    """Why this is not the difference of the two scores in the table: those are of the runs that decided."""
    n = evidence.confirming_runs
    return f", in {words.count(n, 'fresh run')} of each" if evidence.is_confirmed else ""


def _compared(gain: Gain, metric: Metric, than: str = "") -> str:
    """ "better by 0.0641 ± 0.0225", "worse by 0.0500 ± 0.0180"; of a gain that may be none, with its sign, "not surely
    better: -0.0012 ± 0.0180"."""
    if not gain.is_sure:
        return f"not surely better{than}: {words.difference(gain.value, gain.half_interval, metric)}"
    size = words.difference(abs(gain.value), gain.half_interval, metric)
    return f"{'better' if gain.value > 0 else 'worse'}{than} by {size}"


def _kept_gains(evidence: Evidence) -> str:
    """Which gains the decision keeps in nine of ten cases and in half; of another rule than the shipped one nobody has
    measured that."""
    rule, shipped = evidence.folder.settings.decision, DecisionRule()
    if evidence.imported or rule.model_dump(exclude=NO_MATTER) != shipped.model_dump(exclude=NO_MATTER):
        return "how large a gain this study's rule of decision would have kept was not measured"
    mostly, half = (rule.min_improvement + size * evidence.noise.deviation for size in (MOSTLY_KEPT, HALF_KEPT))
    more, less = (words.difference(size, metric=evidence.metric) for size in (mostly, half))
    return f"a gain of {more} is kept in nine of ten cases, one of {less} in about half"


def _test(evidence: Evidence, on_val: Gain) -> str:
    """The gain on the text that no decision has read."""
    gain = evidence.test_gain()
    if gain is None:
        return " (on an untouched test text it was not measured)"
    compared = _compared(gain, evidence.metric)
    if compared.split()[0] == _compared(on_val, evidence.metric).split()[0] != "not":
        compared = compared.partition(" ")[2]  # "better ... and by": the same word once
    return f" and {compared} on the test text, which no decision read"


def noise(evidence: Evidence) -> str:
    """What one run deviates by, and which gains are kept at that."""
    found, mean = evidence.noise, evidence.mean(evidence.baseline)
    share = f", {words.percent(found.deviation / abs(mean))} of the baseline's" if mean else ""
    deviation = f"{words.difference(found.deviation, metric=evidence.metric)} {evidence.metric.gain_unit}"
    return (
        f"One run deviates by {deviation}{share} "
        f"({found.dof:.0f} degrees of freedom, the prior's included); {_kept_gains(evidence)}."
    )


def devices(evidence: Evidence) -> list[str]:
    """How far the classes of device differ that runs were repeated on."""
    store, said = evidence.folder.store, []
    for (device, _), group in groupby(store.repeats(), key=lambda repeat: (repeat.device, repeat.against)):
        pairs = [*group]
        is_decided = len(pairs) >= REPEATS or bool(store.scores_on(device))  # fewer are enough where there are no more
        if len(pairs) > 1:
            said.append(f"{sentence(pairs, evidence.noise, is_decided)}.")
    return said


def score(standing: Standing, metric: Metric = VAL_BPB) -> str:
    """ "2.8175 ± 0.0145 (11 runs)"."""
    return words.score(standing.val_bpb, standing.val_bpb_half_interval, standing.n_runs, metric)


def test_score(standing: Standing) -> str:
    """The same on the test text."""
    return words.score(standing.test_bpb, standing.test_bpb_half_interval, standing.n_test_runs)


def _cost(evidence: Evidence) -> str:
    cost, currency = evidence.cost, evidence.folder.settings.energy.currency
    if not evidence.joules:
        tokens = f"; its tokens cost {words.money(cost.tokens, currency)}" if cost.tokens is not None else ""
        return f"; what it cost in energy was not recorded{tokens}"
    energy = words.energy(evidence.joules, evidence.energy_sources)
    return f"; the search cost {energy}, {words.costs(cost.energy, cost.tokens, currency)}"


def energy(evidence: Evidence) -> str:
    """ "1.48 Wh (estimate) in all, under 0.01 EUR at 0.3 a kWh; 0.05 Wh a trial, over 28 trials"; what of it a model
    took, where that is known; and what its tokens cost, where they have a price."""
    return "; ".join([_energy(evidence), *_tokens(evidence)])


def _energy(evidence: Evidence) -> str:
    each, cost = evidence.joules_a_trial, evidence.cost.energy
    if each is None or cost is None or not evidence.joules:
        return "no energy was recorded"
    price, (mean, n) = evidence.folder.settings.energy, each
    asked = sum(energy.joules for energy in evidence.asking.values())
    return (
        f"{words.energy(evidence.joules, evidence.energy_sources)} in all, "
        f"{f'of it {words.energy(asked)} by the language model, ' if asked else ''}"
        f"{words.money(cost, price.currency)} at {price.price_per_kwh:g} a kWh; "
        f"{words.energy(mean)} a trial, over {words.count(n, 'trial')}"
    )


def _tokens(evidence: Evidence) -> Iterator[str]:
    """ "40,000 tokens read at 0.2 a million, 5,678 tokens written at 0.6 a million: 0.01 EUR"; and the sum."""
    cost, settings = evidence.cost, evidence.folder.settings
    if cost.tokens is None:
        return
    prices = (
        settings.proposer.price_per_million_prompt_tokens,
        settings.proposer.price_per_million_completion_tokens,
    )
    told = ", ".join(
        f"{words.count(n, 'token')} {done} at {price:g} a million"
        for n, done, price in zip(evidence.tokens, ("read", "written"), prices, strict=True)
        if price is not None
    )
    yield f"{told}: {words.money(cost.tokens, settings.energy.currency)}"
    if cost.energy is not None and cost.total is not None:
        yield f"{words.money(cost.total, settings.energy.currency)} together"


def not_this(evidence: Evidence, longer: Sequence[LongerRuns]) -> str:
    """What nobody should take the result for."""
    size = f"at {words.budget(evidence.budget)}" if evidence.budget else "on runs of a length that is not told"
    text = f"This is a recipe, not a usable model: it was measured {size}"
    if longer:
        factor = max(found.factor for found in longer)
        return f"{text} and, for the best, at {factor:g} times that; what it does at full length is not known."
    return f"{text}, and whether its gain lasts at a longer budget is not known until it is tried."


def warnings(evidence: Evidence, meters: Meters) -> list[str]:
    """What a reader should know before trusting the numbers, the gravest first."""
    found, metric = [], evidence.metric
    if meters.verdict != "researching":
        found.append(f"The search is {meters.verdict}: {meters.why}.")
    if evidence.gain() is not None and not evidence.is_confirmed and not evidence.imported:
        found.append("The gain is told from the runs that decided, which flatter it: no fresh runs confirm it yet.")
    found += meters.longer_contexts[:MOST_NAMED]
    if (more := len(meters.longer_contexts) - MOST_NAMED) > 0:
        found.append(f"{words.count(more, 'more keep has', 'more keeps have')} longer context than the baseline.")
    if both := meters.judged_both_ways:
        found.append(
            f"{words.count(len(both), 'recipe was', 'recipes were')} both kept and discarded, by the noise alone: "
            f"{_some(map(verdicts, both))}."
        )
    if meters.luck is not None and meters.best_recipe_runs > 1 and meters.measured_again:
        found.append(
            f"The {metric.best} number, {words.bpb(meters.best_observed, metric)}, is the luckiest of "
            f"{words.count(meters.best_recipe_runs, 'run')} of one recipe; the others' mean is "
            f"{words.bpb(meters.other_runs_mean, metric)}: the difference, "
            f"{words.difference(meters.luck, meters.luck_half_interval, metric)}, is luck."
        )
    if again := meters.measured_again:
        most, deviation = again[0], words.difference(meters.run_deviation, metric=metric)
        low, high = sorted((most.low, most.high), key=metric.turned)
        found.append(
            f"{words.count(len(again), 'recipe was', 'recipes were')} measured by more than one trial, most often "
            f"{most.change}: {words.count(len(most.trials), 'time')}, from {words.bpb(low, metric)} to "
            f"{words.bpb(high, metric)}"
            + (f"; one run deviates by {deviation}." if meters.run_deviation is not None else ".")
        )
    if told := seed_ignored(evidence):
        found.append(told)
    if not metric.has_test:
        found.append(
            f"There is no test score: all gains are in the {metric.name} that decided. Fresh runs alone confirm one."
        )
    if meters.run_deviation is None and meters.trained:
        found.append("No recipe was run twice: the intervals rest on an assumed deviation, not on a measured one.")
    if not evidence.folder.settings.repeatable:
        found.append(f"On a GPU {words.NOT_REPEATABLE}: a seed run again gives another one, near the first.")
    if dearer := bought(evidence):
        kept = sum(trial.decision == "keep" for trial in evidence.trials)
        found.append(
            f"{len(dearer)} of {words.count(kept, 'kept change')} spent more than the recipe that "
            f"{words.plural(len(dearer), 'it', 'they')} changed, up to {words.times(max(dearer.values()))} its FLOPs "
            f"({words.plural(len(dearer), 'trial')} {words.numbers(dearer)}): a part of such a gain is bought."
        )
    if (asked := turns(evidence)) and asked.share < asked.most:
        whose = "The language model's ideas" if asked.model == MODEL else f"The ideas of {asked.model}"
        found.append(
            f"{whose} have earned less than the optimizer's: by now it is asked on "
            f"{words.percent(asked.share)} of the trials, not on {words.percent(asked.most)}."
        )
    if "estimate" in evidence.energy_sources:
        found.append("Energy is estimated, from time at work and the wattage in study.toml, not measured.")
    return found


def seed_ignored(evidence: Evidence) -> str:
    """That runs say nothing beyond the first; empty where seeds make a difference."""
    if evidence.imported or evidence.heeds_seeds:
        return ""
    return (
        "All runs of the baseline, each with a seed of its own, agree to the last digit: the seed is ignored, so that "
        "further runs of a recipe say nothing of the noise."
    )


def verdicts(recipe: Repeated) -> str:
    """ "lr 0.001 -> 0.002: kept in 3, discarded in 7, 9"."""
    return f"{recipe.change}: kept in {words.numbers(recipe.kept)}, discarded in {words.numbers(recipe.discarded)}"


def _change(evidence: Evidence, trial: Trial) -> str:
    return evidence.change(trial) or f"trial {trial.number}"


def _some(texts: Iterable[str]) -> str:
    """The first few of them, once each, and how many more there are."""
    named = list(dict.fromkeys(texts))
    more = len(named) - MOST_NAMED
    return "; ".join(named[:MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
