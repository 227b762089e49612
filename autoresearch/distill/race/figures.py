"""The figures of a race: agreement with the teacher, what was earned, variety, cost, and whether a lead is noise."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean, median

import numpy as np
from scipy import special

from autoresearch import words
from autoresearch.distill.corpus.report import entropy
from autoresearch.distill.race.held import Answer, State
from autoresearch.evidence.shares import Share, share_of
from autoresearch.trial import Recipe
from rails import Knob, clean

RESAMPLES = 10_000
UNIFORM_DRAWS = 200
LEVEL = 0.05
EXACT, VALIDITY = "exact match", "validity"
MOST_NOTES = 5


@dataclass(frozen=True)
class Matches:
    """Of the states where the rails take the teacher's choice: the set of changed knobs is the same; it has one in
    common; the whole change is the same. What was blocked matches nothing."""

    same_knobs: Share
    shared_knob: Share
    exact: Share


@dataclass(frozen=True)
class Earned:
    """In bits per byte against the recipe that stood, positive is better: the mean over the states where the recipe of
    a sample was ever measured (the mean of such samples counts once), with a bootstrap's 95 % interval over states."""

    known: Share
    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Diversity:
    """Of the first samples that passed. Entropies in bits, over the knobs that they change and over (knob, value);
    uniform: the mean of as many knobs a state drawn evenly from the menu, each with a value drawn evenly."""

    pairs: int
    knob_entropy: float
    knob_entropy_uniform: float
    pair_entropy: float
    pair_entropy_uniform: float
    most_frequent: str | None
    most_frequent_share: float | None  # of the samples


@dataclass(frozen=True)
class Figures:
    """One column. by: who made the samples, as they say; blocked: rail, or "no answer", -> samples; seconds: the median
    of a sample; joules: the mean of those samples whose energy is known; notes: why there was no answer."""

    name: str
    states: int
    samples: int
    valid: Share
    valid_of_all: Share
    blocked: dict[str, int]
    by: dict[str, int]
    one: Matches
    mode: Matches
    earned: Earned
    diversity: Diversity
    seconds: float | None
    joules: float | None
    energy_sources: list[str]
    notes: list[str]


@dataclass(frozen=True)
class PairTest:
    """McNemar's exact test of two proposers on the same states, by their first samples. p_holm: corrected for all pairs
    by the same measure."""

    measure: str
    first: str
    second: str
    only_first: int
    only_second: int
    p: float
    p_holm: float


Entry = Mapping[int, Sequence[Answer]]  # place of a state -> its samples


def figures(
    name: str, states: Sequence[State], entry: Entry, seed: int, notes: Sequence[str] = (), *, is_teacher: bool = False
) -> Figures:
    """Of whoever answered some of the states, each with one sample or more; the teacher's choices match nothing, since
    it is they that are to be matched."""
    every = [answer for place in entry for answer in entry[place]]
    timed = [answer.seconds for answer in every if answer.seconds is not None]
    metered = [answer for answer in every if answer.joules is not None]
    firsts, modes = ({place: pick(entry[place]) for place in entry} for pick in (_first, mode_of))
    return Figures(
        name=name,
        states=len(entry),
        samples=len(every),
        valid=share_of([answer.rail is None for answer in firsts.values()]),
        valid_of_all=share_of([answer.rail is None for answer in every]),
        blocked=dict(sorted(Counter(answer.rail for answer in every if answer.rail).items())),
        by=dict(sorted(Counter(answer.by for answer in every if answer.by).items())),
        one=_matches(states, {} if is_teacher else firsts),
        mode=_matches(states, {} if is_teacher else modes),
        earned=_earned(entry, seed),
        diversity=_diversity(states, firsts, seed),
        seconds=median(timed) if timed else None,
        joules=fmean(answer.joules or 0.0 for answer in metered) if metered else None,
        energy_sources=sorted({answer.energy_source for answer in metered if answer.energy_source}),
        notes=[*notes][:MOST_NOTES],
    )


def _first(answers: Sequence[Answer]) -> Answer:
    return answers[0]


def mode_of(answers: Sequence[Answer]) -> Answer:
    """The change that most samples make, of those that passed; of several the one that came first."""
    passed = [answer for answer in answers if answer.changes is not None]
    if not passed:
        return answers[0]
    counts = Counter(map(_key, passed))
    return max(passed, key=lambda answer: counts[_key(answer)])


def _key(answer: Answer) -> tuple[tuple[str, object], ...]:
    return tuple(sorted((answer.changes or {}).items()))


def is_exact(state: State, answer: Answer) -> bool:
    return answer.changes is not None and answer.changes == state.choice.changes


def _matches(states: Sequence[State], answers: Mapping[int, Answer]) -> Matches:
    pairs = [(states[place], answer) for place, answer in answers.items() if states[place].choice.changes is not None]
    knobs = [((state.choice.changes or {}).keys(), (answer.changes or {}).keys()) for state, answer in pairs]
    return Matches(
        same_knobs=share_of([theirs == ours for theirs, ours in knobs]),
        shared_knob=share_of([bool(theirs & ours) for theirs, ours in knobs]),
        exact=share_of([is_exact(state, answer) for state, answer in pairs]),
    )


def _earned(entry: Entry, seed: int) -> Earned:
    gains = [[answer.gain for answer in answers if answer.gain is not None] for answers in entry.values()]
    means = np.array([fmean(found) for found in gains if found])
    low = high = None
    if len(means) > 1:
        rng = np.random.Generator(np.random.PCG64(seed))
        drawn = rng.choice(means, (RESAMPLES, len(means))).mean(axis=1)
        low, high = (float(value) for value in np.quantile(drawn, [0.025, 0.975]))
    return Earned(share_of([bool(found) for found in gains]), float(means.mean()) if len(means) else None, low, high)


# --- diversity ---


def _diversity(states: Sequence[State], answers: Mapping[int, Answer], seed: int) -> Diversity:
    passed = [(states[place], answer.changes) for place, answer in answers.items() if answer.changes]
    pairs = [pair for _, changes in passed for pair in changes.items()]
    knob_entropy, pair_entropy = _entropies([changes for _, changes in passed])
    rng = random.Random(f"uniform/{seed}")
    drawn = [
        _entropies([_drawn_evenly(state, len(changes), rng) for state, changes in passed])
        for _ in range(UNIFORM_DRAWS if passed else 0)
    ]
    most = min(Counter(pairs).items(), key=lambda item: (-item[1], str(item[0])), default=None)
    return Diversity(
        pairs=len(set(pairs)),
        knob_entropy=knob_entropy,
        knob_entropy_uniform=round(fmean(knobs for knobs, _ in drawn), 4) if drawn else 0.0,
        pair_entropy=pair_entropy,
        pair_entropy_uniform=round(fmean(both for _, both in drawn), 4) if drawn else 0.0,
        most_frequent=most and clean(f"{most[0][0]} = {words.value(most[0][1])}", 100),
        most_frequent_share=most and round(most[1] / len(passed), 4),
    )


def _entropies(choices: Sequence[Mapping[str, object]]) -> tuple[float, float]:
    pairs = [pair for changes in choices for pair in changes.items()]
    return entropy((knob, 1.0) for knob, _ in pairs), entropy((pair, 1.0) for pair in pairs)


def _drawn_evenly(state: State, n: int, rng: random.Random) -> Recipe:
    menu = state.history.menu
    return {name: _drawn(menu.knobs[name], rng) for name in rng.sample(list(menu.knobs), n)}


def _drawn(knob: Knob, rng: random.Random) -> bool | int | float | str:
    if knob.choices:
        return rng.choice(knob.choices)
    assert knob.low is not None and knob.high is not None
    # Of a float no value comes twice, on whatever scale.
    return rng.randint(int(knob.low), int(knob.high)) if knob.type == "int" else rng.random()


# --- who won ---


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided and exact: of n states that only one of the two gets right, the chance that they fall apart so far."""
    n = only_first + only_second
    return min(1.0, 2 * float(special.bdtr(min(only_first, only_second), n, 0.5))) if n else 1.0


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's correction, in the order of the given."""
    found, highest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda place: ps[place])):
        highest = found[place] = max(highest, min(1.0, (len(ps) - rank) * ps[place]))
    return found


def compared(states: Sequence[State], entries: Mapping[str, Entry]) -> list[PairTest]:
    """Each pair by exact match, then each pair by validity."""
    measures: dict[str, Callable[[State, Answer], bool]] = {
        EXACT: is_exact,
        VALIDITY: lambda _, answer: answer.rail is None,
    }
    found = []
    for measure, holds in measures.items():
        right = {
            name: [holds(state, entry[place][0]) for place, state in enumerate(states)]
            for name, entry in entries.items()
        }
        tests = [_test(measure, *pair, right) for pair in combinations(entries, 2)]
        corrected = holm([test.p for test in tests])
        found += [replace(test, p_holm=p) for test, p in zip(tests, corrected, strict=True)]
    return found


def _test(measure: str, first: str, second: str, right: Mapping[str, Sequence[bool]]) -> PairTest:
    both = list(zip(right[first], right[second], strict=True))
    only_first, only_second = both.count((True, False)), both.count((False, True))
    p = mcnemar(only_first, only_second)
    return PairTest(measure, first, second, only_first, only_second, p, p)


def verdict(racers: Sequence[Figures], tests: Sequence[PairTest], again: Figures | None = None) -> str:
    """One sentence: who won by exact match at one sample, whether beyond noise, and how the teacher does."""
    exact = {racer.name: racer.one.exact for racer in racers}
    best = max(share.hits for share in exact.values())
    first, *others = [name for name, share in exact.items() if share.hits == best]
    if not exact[first].n:
        return "Nobody won by exact match: there is no held-out state where the rails take what the teacher chose."
    of_states = f"{best} of {words.count(exact[first].n, 'state')}"
    itself = again and f"; the teacher, asked again, in {again.one.exact.hits} of {again.one.exact.n}"
    if len(racers) == 1:
        return f"{first} made the teacher's whole change in {of_states}{itself or ''}; it raced alone."
    if others:
        names = " and ".join([", ".join([first, *others[:-1]]), others[-1]])
        return f"Nobody won by exact match: {names} each made the teacher's whole change in {of_states}{itself or ''}."
    p = max(test.p_holm for test in tests if test.measure == EXACT and first in (test.first, test.second))
    runner_up = max((name for name in exact if name != first), key=lambda name: exact[name].hits)
    pairs = len(racers) * (len(racers) - 1) // 2
    corrected = f" with Holm's correction for {pairs} pairs" if pairs > 1 else ""
    return (
        f"{first} won by exact match: it made the teacher's whole change in {of_states}, the next, {runner_up}, in "
        f"{exact[runner_up].hits}{itself or ''}; that lead is {'beyond' if p <= LEVEL else 'within'} noise at "
        f"{words.percent(LEVEL)} (p = {p:.3f}, McNemar's exact test{corrected})."
    )
