"""What a study has learned, as a language model reads it: in so many tokens, by summing up, never by forgetting.

The same history gives the same text. Texts of others (reasons, hypotheses) are cleaned and stay on their lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from autoresearch import words
from autoresearch.metric import Metric
from autoresearch.trial import History, Lesson, Recipe, Trial
from rails import Knob, Value, clean

TOKENS = 3000
BYTES_PER_TOKEN = 3  # of words and signs: rather too few
NORMAL_95 = 1.96
A_SLIP = 1000.0  # of a forecast, times the size of the metric


@dataclass(frozen=True)
class Detail:
    """How much is said one by one; the rest is said in sums."""

    steps: int  # of the chain from the baseline to the incumbent
    leaders: int
    values: int  # of each knob
    latest: int  # trials
    lessons: int
    text: int  # characters of a hypothesis, reason or lesson


DETAILS = (
    Detail(steps=12, leaders=5, values=12, latest=10, lessons=12, text=160),
    Detail(steps=8, leaders=5, values=8, latest=10, lessons=8, text=100),
    Detail(steps=5, leaders=3, values=5, latest=8, lessons=6, text=80),
    Detail(steps=3, leaders=3, values=3, latest=5, lessons=4, text=60),
    Detail(steps=2, leaders=1, values=2, latest=3, lessons=2, text=40),
    Detail(steps=1, leaders=1, values=0, latest=1, lessons=1, text=20),
)


def lineage(history: History, tokens: int = TOKENS) -> str:
    """The block, in as much detail as the tokens pay for; of a long menu the least detail may be longer."""
    told = (_Lineage(history, detail).text() for detail in DETAILS)
    text = ""
    for text in told:
        if estimated_tokens(text) <= tokens:
            break
    return text


def estimated_tokens(text: str) -> int:
    """As many as common tokenizers make of such text, or more: some take each digit by itself."""
    digits = sum(map(str.isdecimal, text))
    return digits + -(-(len(text.encode()) - digits) // BYTES_PER_TOKEN)


class _Lineage:
    def __init__(self, history: History, detail: Detail) -> None:
        self.history, self.detail = history, detail
        self.trials = list(history.trials)
        self.by_number = {trial.number: trial for trial in self.trials}

    def text(self) -> str:
        name, better = self.history.metric.name, self.history.metric.better
        parts: tuple[tuple[str, Callable[[], list[str]]], ...] = (
            (f"How the recipe that stands came about (gain: how much {better} {name} is than before)", self._chain),
            (f"Best recipes so far ({name} with its 95 % interval)", self._leaders),
            ("Each knob: values tried, gain over the recipe that was changed [95 % interval], trials", self._knobs),
            ("What did not run, by reason", self._failures),
            ("Helped where they were tried, made again on a later recipe", self._carried),
            (f"The latest trials ({name}, gain over the recipe that was changed)", self._latest),
            ("Forecasts", self._forecasts),
            ("Lessons, each from the trials named (checked against later ones)", self._lessons),
        )
        blocks = [f"{title}:\n" + "\n".join(lines) for title, part in parts if (lines := part())]
        return "\n".join(blocks)

    # --- parts ---

    def _chain(self) -> list[str]:
        kept = self._ancestors()
        lines = [f"- trial 0, the baseline: {self._score(self.trials[0])}"] if self.trials else []
        shown = kept[-self.detail.steps :]
        if between := kept[: len(kept) - len(shown)]:
            gain = sum(trial.improvement or 0.0 for trial in between)
            lines.append(f"- {words.count(len(between), 'keep')} after it: gains that add up to {self._gained(gain)}")
        return lines + [f"- trial {trial.number}: {self._change(trial)}: {self._gain(trial)}" for trial in shown]

    def _ancestors(self) -> list[Trial]:
        """Of the recipe that stands, itself among them and without the baseline; oldest first."""
        keeps = (trial for trial in reversed(self.trials) if trial.decision == "keep")
        found = [next((trial for trial in keeps if trial.recipe == self.history.recipe), None)]
        while (last := found[-1]) and last.parent and last.parent < last.number:
            found.append(self.by_number.get(last.parent))
        return [trial for trial in reversed(found) if trial]

    def _leaders(self) -> list[str]:
        scored = [trial for trial in self.trials if trial.val_bpb is not None]
        best = sorted(scored, key=lambda trial: (trial.val_bpb, trial.number))[: self.detail.leaders]
        return [f"- {self._score(trial)}: trial {trial.number}, {self._whole_change(trial)}" for trial in best]

    def _knobs(self) -> list[str]:
        changed = [trial for trial in self.trials if trial.changes and trial.state != "blocked"]
        lines, untouched = [], []
        for name, knob in sorted(self.history.menu.knobs.items()):
            of_knob = [trial for trial in changed if name in trial.changes]
            if of_knob:
                lines.append(f"- {name} ({'; '.join(self._values(knob, of_knob))})")
            else:
                untouched.append(name)
        lines.append(f"- touched by no trial: {', '.join(untouched) or 'none'}")
        return lines

    def _values(self, knob: Knob, trials: Sequence[Trial]) -> Iterator[str]:
        groups: dict[Value, list[Trial]] = {}
        for trial in trials:
            groups.setdefault(trial.changes[knob.name], []).append(trial)
        order = sorted(groups, key=lambda value: (-len(groups[value]), groups[value][0].number))
        for value in sorted(order[: self.detail.values], key=_place):
            yield f"{clean(words.value(value), 40)}: {_effect(groups[value], self.history.metric)}"
        if rest := sorted(order[self.detail.values :], key=_place):
            merged = [trial for value in rest for trial in groups[value]]
            low, high = (clean(words.value(value), 40) for value in (rest[0], rest[-1]))
            ends = f" from {low} to {high}" if len(rest) > 1 else f", {low}"
            noun = "other value" if self.detail.values else "value"
            yield f"{words.count(len(rest), noun)}{ends}: {_effect(merged, self.history.metric)}"

    def _failures(self) -> list[str]:
        kinds: dict[str, list[Trial]] = {}
        for trial in self.trials:
            if trial.state in ("failed", "timed_out", "blocked", "stopped"):
                kinds.setdefault(f"{words.state(trial.state)} {clean(trial.rail or '', 40)}".strip(), []).append(trial)
        return [
            f"- {kind}: {words.count(len(trials), 'trial')}, the latest {trials[-1].number} "
            f"({self._change(trials[-1])}): {clean(trials[-1].reason, self.detail.text) or '-'}"
            for kind, trials in sorted(kinds.items())
        ]

    def _carried(self) -> list[str]:
        carried = [trial for trial in self.trials if trial.outcome == "carried"]
        shown = carried[-self.detail.steps :]
        lines = [f"- trial {trial.number}: {self._change(trial)}: {self._gain(trial)}" for trial in shown]
        more = len(carried) - len(shown)
        return lines + ([f"- and {words.count(more, 'earlier one')}"] if more else [])

    def _latest(self) -> list[str]:
        lines = []
        for trial in self.trials[-self.detail.latest :]:
            if trial.parent is None:
                continue
            told = self._outcome(trial)
            why = clean(trial.hypothesis, self.detail.text)
            lines.append(
                f"- trial {trial.number} on trial {trial.parent}: {self._change(trial)}: {told}"
                + (f" Idea: {why}" if why else "")
            )
        return lines

    def _forecasts(self) -> list[str]:
        """How far expected changes of val_bpb were from the measured ones."""
        pairs = [
            (trial.expected_delta, -trial.improvement)
            for trial in self.trials
            if trial.expected_delta is not None
            and trial.improvement is not None
            and abs(trial.expected_delta) < A_SLIP * self.history.metric.size
        ]
        if not pairs:
            return []
        too_hopeful = sum(expected < measured for expected, measured in pairs)
        off = fmean(abs(expected - measured) for expected, measured in pairs)
        return [
            f"- {words.count(len(pairs), 'forecast')}: off by "
            f"{words.difference(off, metric=self.history.metric)} on average, {too_hopeful} of them too hopeful"
        ]

    def _lessons(self) -> list[str]:
        return [
            f"- {lesson_claim(lesson)}: {clean(lesson.text, self.detail.text)}"
            for lesson in self.history.lessons[-self.detail.lessons :]
        ]

    # --- words ---

    def _outcome(self, trial: Trial) -> str:
        if trial.state == "complete":
            told = f"{self._score(trial)}, {self._gain(trial)}"
            if trial.expected_delta is not None and trial.improvement is not None:
                # Both as changes of val_bpb, as they were asked for.
                measured, expected = self._gained(-trial.improvement), self._gained(trial.expected_delta)
                told += f", delta {measured} where {expected} was expected"
            return f"{told}: {trial.outcome}."
        reason = clean(trial.reason, self.detail.text)
        rail = f" by {clean(trial.rail, 40)}" if trial.rail else ""
        return f"{words.state(trial.state)}{rail}{f': {reason}' if reason else ''}."

    def _score(self, trial: Trial) -> str:
        if trial.val_bpb is None:
            return words.state(trial.state)
        deviation = self.history.deviation
        half = None if deviation is None else NORMAL_95 * deviation / max(1, trial.n_runs) ** 0.5
        return words.score(trial.val_bpb, half, trial.n_runs, self.history.metric)

    def _gain(self, trial: Trial) -> str:
        if trial.improvement is None:
            return "compared with nothing"
        return f"gain {self._gained(trial.improvement, trial.improvement_low, trial.improvement_high)}"

    def _gained(self, value: float, low: float | None = None, high: float | None = None) -> str:
        return words.gain(value, low, high, self.history.metric)

    def _change(self, trial: Trial) -> str:
        parent = self.by_number.get(trial.parent or 0)
        changed = words.change(trial.changes, parent.recipe if parent else {})
        return clean(changed, 2 * self.detail.text) or "no change read"

    def _whole_change(self, trial: Trial) -> str:
        """All that sets it apart from the baseline."""
        if trial.parent is None:
            return "the baseline"
        before: Recipe = self.trials[0].recipe
        changes = {name: value for name, value in trial.recipe.items() if before.get(name) != value}
        return clean(words.change(changes, before), 3 * self.detail.text) or self._change(trial)


def lesson_claim(lesson: Lesson) -> str:
    """ "lr, higher: helps (trials 3, 7)"."""
    trials = f"{words.plural(len(lesson.trials), 'trial')} {words.numbers(lesson.trials)}"
    return f"{clean(lesson.knob, 40)}, {lesson.move}: {lesson.effect} ({trials})"


def mean_gain(trials: Sequence[Trial]) -> tuple[float, float | None]:
    """The mean gain of trials that were compared, one at least, and half of its 95 % interval as if they were
    independent; None: one of them has no interval."""
    halves = [
        (trial.improvement_high - trial.improvement_low) / 2
        for trial in trials
        if trial.improvement_low is not None and trial.improvement_high is not None
    ]
    half = sum(half**2 for half in halves) ** 0.5 / len(trials) if len(halves) == len(trials) else None
    return fmean(trial.improvement or 0.0 for trial in trials), half


def _effect(trials: Sequence[Trial], metric: Metric) -> str:
    """The mean gain of trials that changed one knob, with its interval as if they were independent; and how many
    changed others too, or have none."""
    alone = [trial for trial in trials if trial.improvement is not None and len(trial.changes) == 1]
    parts = []
    if alone:
        mean, half = mean_gain(alone)
        low, high = (None, None) if half is None else (mean - half, mean + half)
        parts.append(f"{words.gain(mean, low, high, metric)} n={len(alone)}")
    joint = [trial for trial in trials if trial.improvement is not None and len(trial.changes) > 1]
    if joint:
        mean = fmean(trial.improvement or 0.0 for trial in joint)
        parts.append(f"with others {words.gain(mean, metric=metric)} n={len(joint)}")
    others = Counter(words.state(trial.outcome) for trial in trials if trial.improvement is None)
    parts += [f"{kind} n={n}" for kind, n in sorted(others.items())]
    return ", ".join(parts)


def _place(value: Value) -> tuple[int, float, str]:
    """Numbers in their order, then words."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 0, float(value), ""
    return 1, 0.0, str(value)
