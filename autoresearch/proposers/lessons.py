"""Whether a lesson stands: arithmetic over the trials that came after those it is from, and no model's word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autoresearch import words
from autoresearch.metric import VAL_BPB, Metric
from autoresearch.proposers.lineage import mean_gain
from autoresearch.trial import Lesson, Trial, Value
from rails import Knob, Menu


def standing(lessons: Iterable[Lesson], trials: Sequence[Trial], menu: Menu) -> list[Lesson]:
    """Of several on the same move of a knob the last, where no later trials contradict it; in their order."""
    last: dict[tuple[str, str], Lesson] = {}
    for lesson in lessons:
        last.pop((lesson.knob, lesson.move), None)
        last[lesson.knob, lesson.move] = lesson
    return [lesson for lesson in last.values() if contradicted(lesson, trials, menu) is None]


def contradicted(lesson: Lesson, trials: Sequence[Trial], menu: Menu, metric: Metric = VAL_BPB) -> str | None:
    """What later trials say against it, in words; None: nothing."""
    return denial(lesson, later(lesson, trials), trials, menu, metric)


def later(lesson: Lesson, trials: Iterable[Trial]) -> list[Trial]:
    """Than those that it is from, not than when it was said: a lesson that fell cannot be said into life again."""
    return [trial for trial in trials if trial.number > lesson.trials[-1]]


def denial(
    lesson: Lesson, chosen: Iterable[Trial], trials: Sequence[Trial], menu: Menu, metric: Metric = VAL_BPB
) -> str | None:
    """Those of the chosen trials, in words, that moved its knob that way and nothing else, where the 95 % interval of
    their mean gain lies beyond zero on the wrong side; None: it does not."""
    alone = [trial for trial in chosen if trial.changes.keys() == {lesson.knob} and trial.improvement is not None]
    parents = {trial.parent for trial in alone}
    before = {trial.number: trial.recipe.get(lesson.knob) for trial in trials if trial.number in parents}
    knob = menu.knobs[lesson.knob]
    moved = [
        trial for trial in alone if _is(lesson.move, knob, before.get(trial.parent or 0), trial.changes[lesson.knob])
    ]
    if not moved:
        return None
    mean, half = mean_gain(moved)
    if half is None or (mean + half >= 0 if lesson.effect == "helps" else mean - half <= 0):
        return None
    told = f"{words.plural(len(moved), 'trial says', 'trials say')} otherwise"
    numbers = words.numbers(trial.number for trial in moved)
    return f"{told} ({numbers}): gain {words.gain(mean, mean - half, mean + half, metric)}"


def _is(move: str, knob: Knob, before: Value | None, after: Value) -> bool:
    if before is None or before == after:
        return False
    if move == "other value":
        return True
    place = float if knob.type in ("int", "float") else knob.choices.index
    try:
        return place(after) > place(before) if move == "higher" else place(after) < place(before)
    except ValueError:  # of a study from elsewhere: nothing of the menu
        return False
