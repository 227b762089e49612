"""What proposers found in whole nights: figures with intervals over nights, the difference to the teacher, who won."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median_high

import numpy as np

from autoresearch import words
from autoresearch.distill.corpus.report import entropy
from autoresearch.distill.race.figures import LEVEL, holm
from autoresearch.distill.race.paired import Array, Figure, wilcoxon
from autoresearch.evidence.shares import Share
from autoresearch.proposers.space import share_of as place_of
from autoresearch.study.folder import StudyFolder
from autoresearch.trial import NOT_ASKED_FOR
from rails import Knob, Value, clean

REAL = "real"  # the world of real runs
BUCKETS = 10  # of a knob's range, on its own scale
FAILED = ("failed", "timed_out")


@dataclass(frozen=True)
class Search:
    """One night of one proposer. world: a surrogate, or REAL. best: val_bpb of what would be handed over after each
    run, the true one on a surrogate, the incumbent's mean in real runs; None: nothing was measured yet. asked: trials
    that a proposer was asked for; failed and blocked are of them. proposed: (knob, bucket of its values) as text ->
    times, of what passed the rails; by: who proposed -> trials."""

    proposer: str
    world: str
    night: int
    best: list[float | None]
    asked: int
    failed: int
    blocked: int
    proposed: dict[str, int]
    by: dict[str, int]


@dataclass(frozen=True)
class Mean:
    """Over nights, with a 95 % interval (Student's t); None: one night has none."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Found:
    """One proposer in one world. best: runs -> val_bpb of what would be handed over, after a quarter, half and all of
    them; None: not measured by then. to_teacher: the run after which the median night is at the teacher's level, which
    is its mean after all runs; None: it never is. never: nights that are not; None: that level is not known. Entropy in
    bits over (knob, bucket); of_teachers: as a share of the teacher's; None: that is 0. gain: val_bpb against the
    teacher in the same nights after all runs, positive is better, and p of Wilcoxon's paired test; None: of the teacher
    itself, and p of one night or of nights that are all the same."""

    world: str
    proposer: str
    nights: int
    best: dict[int, Mean | None]
    to_teacher: int | None
    never: int | None
    failed: Share
    blocked: Share
    entropy: float
    of_teachers: float | None
    gain: Mean | None
    p: float | None
    by: dict[str, int]


@dataclass(frozen=True)
class Lead:
    """One proposer against the teacher, night by night, on the mean over the surrogates. p_holm: corrected for all
    proposers. is_better: in the mean and in most nights."""

    proposer: str
    nights: int
    gain: Mean
    is_better: bool
    p: float
    p_holm: float


def search_of(folder: StudyFolder, proposer: str, world: str, night: int, best: Iterable[float | None]) -> Search:
    """What a study holds that was made for it."""
    trials = folder.store.trials()[1:]
    asked = [trial for trial in trials if trial.proposer not in NOT_ASKED_FOR]
    passed = [trial for trial in asked if trial.state != "blocked"]
    knobs = folder.menu.knobs
    proposed = Counter(
        clean(f"{knob} {_bucket(knobs[knob], value)}", 100)
        for trial in passed
        for knob, value in trial.changes.items()
        if knob in knobs
    )
    return Search(
        proposer=proposer,
        world=world,
        night=night,
        best=[None if value is None else round(value, 6) for value in best],
        asked=len(asked),
        failed=sum(trial.state in FAILED for trial in asked),
        blocked=len(asked) - len(passed),
        proposed=dict(sorted(proposed.items())),
        by=dict(sorted(Counter(clean(trial.proposer, 80) for trial in trials).items())),
    )


def _bucket(knob: Knob, value: Value) -> str:
    if knob.choices:
        return f"= {words.value(value)}"
    place = min(max(int(place_of(knob, value) * BUCKETS), 0), BUCKETS - 1)
    return f"in part {place + 1} of {BUCKETS}"


# --- figures ---


def bests(searches: Sequence[Search], proposer: str, world: str, runs: int) -> Array:
    """[nights, runs] in the order of nights; NaN: nothing was measured yet. A search that ended early hands over the
    same for the rest of its night."""
    mine = sorted(_of(searches, proposer, world), key=lambda search: search.night)
    whole = [[*search.best, *[search.best[-1] if search.best else None] * runs][:runs] for search in mine]
    return np.array(whole, float).reshape(len(mine), runs)


def found_in(searches: Sequence[Search], teacher: str, runs: int) -> list[Found]:
    """World by world, proposers in the order of the searches."""
    pairs = dict.fromkeys((search.world, search.proposer) for search in searches)
    worlds = dict.fromkeys(world for world, _ in pairs)
    return [
        _found(searches, proposer, teacher, world, runs)
        for world in worlds
        for of_world, proposer in pairs
        if of_world == world
    ]


def _of(searches: Iterable[Search], proposer: str, world: str) -> list[Search]:
    return [search for search in searches if (search.proposer, search.world) == (proposer, world)]


def _found(searches: Sequence[Search], proposer: str, teacher: str, world: str, runs: int) -> Found:
    mine, its = (bests(searches, name, world, runs) for name in (proposer, teacher))
    level = its[:, -1].mean() if len(its) else math.nan
    there = [np.flatnonzero(night <= level) for night in mine]
    reached = [float(places[0] + 1) if len(places) else math.inf for places in there]
    middle = median_high(reached)
    group = _of(searches, proposer, world)
    asked = sum(search.asked for search in group)
    varied, its_variety = _entropy(group), _entropy(_of(searches, teacher, world))
    gaps = _gaps(searches, proposer, teacher, [world], runs) if proposer != teacher else np.array([])
    return Found(
        world=world,
        proposer=proposer,
        nights=len(mine),
        best={mark: mean_of(mine[:, mark - 1]) for mark in marks(runs)},
        to_teacher=int(middle) if math.isfinite(middle) else None,
        never=None if math.isnan(level) else sum(map(math.isinf, reached)),
        failed=Share.of(sum(search.failed for search in group), asked),
        blocked=Share.of(sum(search.blocked for search in group), asked),
        entropy=varied,
        of_teachers=round(varied / its_variety, 4) if its_variety else None,
        gain=mean_of(gaps),
        p=wilcoxon(gaps) if len(gaps) > 1 else None,
        by=dict(sorted(sum((Counter(search.by) for search in group), Counter()).items())),
    )


def marks(runs: int) -> list[int]:
    """After how many runs one looks: a quarter, half, all."""
    return sorted({max(1, runs // 4), max(1, runs // 2), runs})


def mean_of(values: Array) -> Mean | None:
    """Over the nights that have one."""
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    figure = Figure.of(known)
    if len(known) == 1:
        return Mean(figure.mean, None, None)
    return Mean(figure.mean, figure.mean - figure.half, figure.mean + figure.half)


def _entropy(searches: Iterable[Search]) -> float:
    return entropy((pair, n) for search in searches for pair, n in search.proposed.items())


def _gaps(searches: Sequence[Search], proposer: str, teacher: str, worlds: Sequence[str], runs: int) -> Array:
    """By how much it ends better than the teacher, for each night that both have had in all these worlds: the mean
    over the worlds."""

    def ends(name: str, world: str) -> dict[int, float]:
        nights = sorted(search.night for search in _of(searches, name, world))
        last = bests(searches, name, world, runs)[:, -1]
        return {night: float(value) for night, value in zip(nights, last, strict=True) if not math.isnan(value)}

    sides = [(ends(teacher, world), ends(proposer, world)) for world in worlds]
    shared = set.intersection(*(set(its) & set(mine) for its, mine in sides)) if sides else set()
    return np.array([np.mean([its[night] - mine[night] for its, mine in sides]) for night in sorted(shared)])


# --- who won ---


def leads_in(searches: Sequence[Search], teacher: str, runs: int) -> list[Lead]:
    """Of all but the teacher, in the order of the searches; of real runs nothing is claimed here."""
    simulated = [search for search in searches if search.world != REAL]
    worlds = list(dict.fromkeys(search.world for search in simulated))
    others = [name for name in dict.fromkeys(search.proposer for search in simulated) if name != teacher]
    gaps = {name: _gaps(simulated, name, teacher, worlds, runs) for name in others}
    ps = {name: (wilcoxon(gap) if len(gap) > 1 else None) or 1.0 for name, gap in gaps.items()}
    corrected = dict(zip(others, holm([ps[name] for name in others]), strict=True))
    return [
        Lead(
            proposer=name,
            nights=len(gaps[name]),
            gain=gain,
            is_better=bool(gaps[name].mean() > 0 and np.median(gaps[name]) > 0),
            p=ps[name],
            p_holm=corrected[name],
        )
        for name in others
        if (gain := mean_of(gaps[name]))
    ]


def winner_of(leads: Sequence[Lead]) -> str | None:
    """Who is better than the teacher beyond noise, of several the one by most; None: the teacher stays."""
    beyond = [lead for lead in leads if lead.is_better and lead.p_holm < LEVEL]
    return max(beyond, key=lambda lead: lead.gain.mean).proposer if beyond else None


def verdict(leads: Sequence[Lead], teacher: str, runs: int, worlds: int) -> str:
    """One sentence."""
    if not leads:
        return f"Nobody won, and {teacher} stays, the teacher: nobody else searched."
    won = winner_of(leads)
    lead = next((lead for lead in leads if lead.proposer == won), max(leads, key=lambda lead: lead.gain.mean))
    gain, who = lead.gain, f"the best of the others, {lead.proposer},"
    is_ahead = gain.mean >= 0
    by = (
        words.gain(gain.mean, gain.low, gain.high)
        if is_ahead
        else words.gain(-gain.mean, _minus(gain.high), _minus(gain.low))
    )
    where = f"after {words.count(runs, 'run')}, on the mean over {words.count(worlds, 'surrogate')}"
    is_there = f"{who if not won else 'it'} is {'ahead of' if is_ahead else 'behind'} the teacher by {by} bits per byte"
    if lead.nights == 1:
        return (
            f"Nobody won, and {teacher} stays, the teacher: {where}, {is_there}, but of one night nothing is claimed."
        )
    corrected = f", Holm's correction for {words.count(len(leads), 'proposer')}" if len(leads) > 1 else ""
    test = f"p = {lead.p_holm:.3f} over {words.count(lead.nights, 'night')}, Wilcoxon's paired test{corrected}"
    if won:
        return f"{won} won: {where}, {is_there}, beyond noise ({test}); the teacher was {teacher}."
    noise = "beyond noise" if lead.p_holm < LEVEL else "within noise"
    if is_ahead and lead.p_holm < LEVEL:
        noise = "but not in most nights"
    can_be = len(leads) * 2.0 ** (1 - lead.nights) < LEVEL  # all nights on one side
    few = "" if can_be else f"; in {words.count(lead.nights, 'night')} none can be beyond it"
    return f"Nobody won, and {teacher} stays, the teacher: {where}, {is_there}, {noise} ({test}){few}."


def _minus(value: float | None) -> float | None:
    return None if value is None else -value
