"""The exploration meters: what a search explored, how often it repeated itself, how much of its best number is luck."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from autoresearch import words
from autoresearch.evidence.context import longer_contexts
from autoresearch.evidence.evidence import Evidence, rank_correlation
from autoresearch.evidence.exploration import Asked, Change, Memory, SearchVerdict, judge
from autoresearch.evidence.proposers import ProposerRecord, proposer_records
from autoresearch.evidence.student import StudentRecord, student_record
from autoresearch.facts import ABSENT_IF_NONE, ABSENT_IF_USUAL
from autoresearch.metric import Metric
from autoresearch.study.folder import StudyFolder
from autoresearch.trial import Trial
from autoresearch.workers.energy import JOULES_PER_KWH
from rails import Menu, RailsError, clean
from rails.proposal import read_proposal

WINDOW = 10
UNREADABLE = "?"
# Fewer forecasts say nothing of whether their order was right.
FEWEST_FORECASTS = 5
# What is expected beyond this, times the metric's size, is a slip of a model and no forecast.
MOST_EXPECTED = 100.0


@dataclass(frozen=True)
class Window:
    """Proposals `first` to `last` (numbers of trials) and the share of them that had been proposed before."""

    first: int
    last: int
    repeat_rate: float


@dataclass(frozen=True)
class PairCount:
    """How often one knob was proposed with one value, and its share of all such pairs."""

    knob: str
    value: str
    count: int
    share: float


@dataclass(frozen=True)
class Repeated:
    """One recipe that several trials measured: their numbers, lowest and highest val_bpb, and what was decided."""

    change: str
    trials: list[int]
    mean: float
    low: float
    high: float
    kept: list[int]
    discarded: list[int]


@dataclass(frozen=True)
class Meters:
    """Bits per byte, joules, counts and shares from 0 to 1; None: there is nothing to tell it from."""

    proposals: int
    trained: int
    knobs_on_menu: int
    knobs_touched: int  # turned by a proposal that passed the rails
    touched: list[str]
    untouched: list[str]
    unique_pairs: int  # distinct (knob, value) that were proposed
    repeats: int  # proposals whose whole change had been proposed before, on whatever recipe
    repeat_rate: float | None
    windows: list[Window]
    most_proposed: PairCount | None
    most_kept: PairCount | None
    kept: int
    keep_rate: float | None  # of the trained
    first_keep: int | None
    best_keep: int | None  # the kept trial with the lowest val_bpb
    plateau: int  # trials since a keep was the best so far
    blocked: int
    blocked_by_rail: dict[str, int]
    failed: int
    run_deviation: float | None  # of one run, from recipes that were run more than once; no prior in it
    run_deviation_dof: int
    gain: float | None  # the incumbent's recipe against the baseline's, each over all its runs
    gain_half_interval: float | None
    energy_joules: float | None
    gain_per_kwh: float | None
    best_observed: float | None  # the lowest val_bpb of any one run
    best_observed_trial: int | None
    best_recipe_mean: float | None  # of all runs of the recipe that gave it
    best_recipe_runs: int
    other_runs_mean: float | None  # of them without the lowest; None while there is no other
    luck: float | None  # other_runs_mean - best_observed
    luck_half_interval: float | None  # half of its 95 % interval, that of the other runs' mean
    measured_again: list[Repeated]
    judged_both_ways: list[Repeated]
    longer_contexts: list[str]  # a sentence on each keep whose windows are longer than the baseline's
    forecasts: int  # trials whose proposer said what it expected and that were compared with their reference
    forecasts_right: int  # of them those that went the way that was expected
    forecast_error: float | None  # mean absolute difference between expected and measured change
    forecast_rank_correlation: float | None  # of expected and measured; None below five of them
    proposers: list[ProposerRecord]
    student: StudentRecord | None = field(metadata=ABSENT_IF_NONE)
    verdict: SearchVerdict
    why: str
    metric: Metric = field(metadata=ABSENT_IF_USUAL)


def meters_of(folder: StudyFolder) -> Meters:
    return measure(Evidence(folder))


class Verdicts:
    """The verdict of the meters, asked for after every trial: what was read once is not read again."""

    def __init__(self, folder: StudyFolder) -> None:
        self._folder = folder
        self._memory = Memory(folder.menu)
        self._asked: list[Asked] = []

    def now(self) -> tuple[SearchVerdict, str]:
        """It, and what it rests on."""
        menu, store = self._folder.menu, self._folder.store
        trials = store.trials_now()[1:]
        for trial in trials[len(self._asked) :]:
            change = _proposed(menu, trial, None if trial.changes else store.proposal(trial.number))
            self._asked.append(self._memory.add(change))
        return judge(trials, self._asked, menu)


def measure(evidence: Evidence) -> Meters:
    trials, menu = evidence.trials[1:], evidence.folder.menu
    changes = _proposed_changes(evidence)
    memory = Memory(menu)
    asked = [memory.add(changes[trial.number]) for trial in trials]
    repeated = [each.again for each in asked]
    pairs = _count(changes[trial.number] for trial in trials)
    kept = [trial for trial in trials if trial.decision == "keep"]
    kept_pairs = _count(changes[trial.number] for trial in kept)
    passed = [trial for trial in trials if trial.state not in ("proposed", "blocked")]
    touched = {knob for trial in passed for knob in trial.changes}
    deviation, dof = evidence.measured_deviation
    gain = evidence.gain()
    joules = evidence.joules
    best_keep = min((t for t in kept if t.val_bpb is not None), key=lambda t: t.val_bpb or 0.0, default=None)
    again = _measured_again(evidence)
    verdict, why = judge(trials, asked, menu)
    return Meters(
        proposals=len(trials),
        trained=len(passed),
        knobs_on_menu=len(menu.knobs),
        knobs_touched=len(touched & menu.knobs.keys()),
        touched=[knob for knob in menu.knobs if knob in touched],
        untouched=[knob for knob in menu.knobs if knob not in touched],
        unique_pairs=len(pairs),
        repeats=sum(repeated),
        repeat_rate=_share(sum(repeated), len(trials)),
        windows=_windows(trials, repeated),
        most_proposed=_most(pairs),
        most_kept=_most(kept_pairs),
        kept=len(kept),
        keep_rate=_share(len(kept), len(passed)),
        first_keep=kept[0].number if kept else None,
        best_keep=best_keep.number if best_keep else None,
        plateau=_plateau(trials),
        blocked=sum(trial.state == "blocked" for trial in trials),
        blocked_by_rail=dict(Counter(trial.rail for trial in trials if trial.state == "blocked" and trial.rail)),
        failed=sum(trial.state in ("failed", "timed_out") for trial in trials),
        run_deviation=deviation,
        run_deviation_dof=dof,
        gain=gain.value if gain else None,
        gain_half_interval=gain.half_interval if gain else None,
        energy_joules=joules,
        gain_per_kwh=gain.value / (joules / JOULES_PER_KWH) if gain and joules else None,
        **_luck(evidence),
        measured_again=again,
        judged_both_ways=[recipe for recipe in again if recipe.kept and recipe.discarded],
        longer_contexts=[*longer_contexts(evidence)],
        **_forecasts(trials, evidence.metric),
        proposers=proposer_records(evidence),
        student=student_record(evidence),
        verdict=verdict,
        why=why,
        metric=evidence.metric,
    )


def _proposed_changes(evidence: Evidence) -> dict[int, Change]:
    """Trial -> what it proposed."""
    menu, proposals = evidence.folder.menu, evidence.folder.store.proposals()
    return {trial.number: _proposed(menu, trial, proposals.get(trial.number)) for trial in evidence.trials}


def _proposed(menu: Menu, trial: Trial, proposal: Mapping[str, Any] | None) -> Change:
    """Also where the rails blocked it; of an unreadable answer its text."""
    changes: dict[str, object] = dict(trial.changes)
    if not changes and proposal:
        changes = read_proposal(proposal["raw"], menu.max_changes).changes or {UNREADABLE: proposal["raw"]}
    return frozenset((clean(knob, 80), _canonical(menu, knob, changes[knob])) for knob in changes)


def _canonical(menu: Menu, knob: str, value: object) -> str:
    if knob in menu.knobs:
        with suppress(RailsError):  # blocked: it is compared as it came
            value = menu.knobs[knob].admit(value)
    return clean(value if isinstance(value, str) else json.dumps(value), 200)


def _count(changes: Iterable[Change]) -> Counter[tuple[str, str]]:
    return Counter(pair for change in changes for pair in change if pair[0] != UNREADABLE)


def _windows(trials: Sequence[Trial], repeated: Sequence[bool]) -> list[Window]:
    found = []
    for start in range(0, len(trials), WINDOW):
        part = repeated[start : start + WINDOW]
        found.append(Window(trials[start].number, trials[start].number + len(part) - 1, sum(part) / len(part)))
    return found


def _most(pairs: Counter[tuple[str, str]]) -> PairCount | None:
    if not pairs:
        return None
    (knob, value), count = pairs.most_common(1)[0]
    return PairCount(knob, value, count, count / pairs.total())


def _plateau(trials: Sequence[Trial]) -> int:
    best, since = float("inf"), 0
    for trial in trials:
        since += 1
        if trial.decision == "keep" and trial.val_bpb is not None and trial.val_bpb < best:
            best, since = trial.val_bpb, 0
    return since


def _luck(evidence: Evidence) -> dict[str, Any]:
    """The lowest number beside the other runs of its recipe."""
    best = evidence.best_run()
    luck = evidence.luck(best) if best else None
    return dict(
        best_observed=best.val_bpb if best else None,
        best_observed_trial=best.trial.number if best else None,
        best_recipe_mean=evidence.mean(best.trial) if best else None,
        best_recipe_runs=evidence.n_runs(best.trial) if best else 0,
        other_runs_mean=luck.others_mean if luck else None,
        luck=luck.value if luck else None,
        luck_half_interval=luck.half_interval if luck else None,
    )


def _forecasts(trials: Sequence[Trial], metric: Metric) -> dict:
    """How well the proposers' forecasts were met, as changes of val_bpb: negative is better."""
    expected, measured = [], []
    for trial in trials:
        wanted = trial.expected_delta
        if wanted is not None and abs(wanted) <= MOST_EXPECTED * metric.size and trial.improvement is not None:
            expected.append(wanted)
            measured.append(-trial.improvement)
    pairs = list(zip(expected, measured, strict=True))
    return dict(
        forecasts=len(pairs),
        forecasts_right=sum(wanted * found > 0 for wanted, found in pairs),
        forecast_error=fmean(abs(wanted - found) for wanted, found in pairs) if pairs else None,
        forecast_rank_correlation=rank_correlation(expected, measured) if len(pairs) >= FEWEST_FORECASTS else None,
    )


def _measured_again(evidence: Evidence) -> list[Repeated]:
    found = []
    for trials in evidence.siblings.values():
        if len(trials) > 1:
            scores = [trial.val_bpb for trial in trials if trial.val_bpb is not None]
            named = next((trial for trial in trials if trial.changes), trials[0])
            found.append(
                Repeated(
                    change=words.change(named.changes, evidence.baseline.recipe) or "the baseline",
                    trials=[trial.number for trial in trials],
                    mean=fmean(scores),
                    low=min(scores),
                    high=max(scores),
                    kept=[trial.number for trial in trials if trial.decision == "keep"],
                    discarded=[trial.number for trial in trials if trial.decision == "discard"],
                )
            )
    return sorted(found, key=lambda recipe: -len(recipe.trials))


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
