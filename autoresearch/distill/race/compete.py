"""Runs a race on the held-out tails of studies: every proposer answers every state, and so does the teacher again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoresearch.distill.race.figures import Figures, PairTest, compared, figures, verdict
from autoresearch.distill.race.held import Answer, State, states_of
from autoresearch.distill.race.outcome import Outcome
from autoresearch.distill.race.racers import Racer, Spec, asked_again
from autoresearch.errors import UserError
from autoresearch.facts import ABSENT_IF_USUAL
from autoresearch.metric import VAL_BPB, Metric
from autoresearch.study.folder import StudyFolder

TEACHER, AGAIN = "teacher", "teacher again"
SAMPLES = 5


@dataclass(frozen=True)
class Race:
    """racers: in the order of the asked; teacher: what the studies proposed there; again: the teacher asked anew with
    other seeds, on as many of the states as it can be; None: on none. answers: what passed the rails, by state.
    outcome: of whole searches; None: nobody asked for any."""

    studies: list[str]
    hold_out: float
    seed: int
    samples: int
    verdict: str
    racers: list[Figures]
    again: Figures | None
    teacher: Figures
    tests: list[PairTest]
    answers: list[dict[str, Any]]
    outcome: Outcome | None = None
    metric: Metric = field(default=VAL_BPB, metadata=ABSENT_IF_USUAL)

    @property
    def columns(self) -> list[Figures]:
        return [*self.racers, *([self.again] if self.again else []), self.teacher]


class Asking:
    """Racers by study, so that nobody is asked the same twice: a racer may be the teacher."""

    def __init__(self, folders: Mapping[str, StudyFolder], seed: int) -> None:
        self._folders, self._seed = folders, seed
        self._racers: dict[tuple[str, Spec], Racer] = {}
        self._heard: dict[tuple[str, int, Spec], list[Answer]] = {}

    def answers(self, spec: Spec, state: State) -> list[Answer]:
        key = (state.study, state.trial, spec)
        if key not in self._heard:
            self._heard[key] = self.racer(spec, state.study).ask(state, self._seed, SAMPLES)
        return self._heard[key]

    def racer(self, spec: Spec, study: str) -> Racer:
        if (study, spec) not in self._racers:
            self._racers[study, spec] = Racer(spec, self._folders[study].settings)
        return self._racers[study, spec]

    def teacher(self, state: State) -> Spec | None:
        """Who proposed there, if it can be asked again."""
        return asked_again(state.choice.by, state.model, self._folders[state.study].settings)

    def notes(self, specs: Sequence[Spec]) -> list[str]:
        found = (racer.notes for (_, spec), racer in self._racers.items() if spec in specs)
        return list(dict.fromkeys(note for notes in found for note in notes))


def race(
    folders: Sequence[StudyFolder],
    specs: Sequence[Spec],
    hold_out: float,
    seed: int,
    progress: Callable[[str], None] = lambda _: None,
) -> Race:
    """The same studies, proposers and seed give the same, times and energy aside, as far as the proposers repeat
    themselves. Raises UserError for a study without a held-out proposal or the language model it takes, and for studies
    of unlike metrics."""
    metric = one_metric(folders)
    states = [state for folder in folders for state in states_of(folder, hold_out)]
    asking = Asking({folder.name: folder for folder in folders}, seed)
    for spec in specs:  # before anybody is asked anything
        for folder in folders:
            asking.racer(spec, folder.name)
    entries: dict[str, dict[int, list[Answer]]] = {}
    for spec in specs:
        entries[spec.label] = {}
        for place, state in enumerate(states):
            progress(f"{spec.label}: state {place + 1} of {len(states)}")
            entries[spec.label][place] = asking.answers(spec, state)
    racers = [figures(spec.label, states, entries[spec.label], seed, asking.notes([spec])) for spec in specs]
    teachers = {place: teacher for place, state in enumerate(states) if (teacher := asking.teacher(state))}
    asked_again = {}
    for place, teacher in teachers.items():
        progress(f"{TEACHER}, {teacher.label}, again: state {place + 1} of {len(states)}")
        asked_again[place] = asking.answers(teacher, states[place])
    notes = asking.notes([*teachers.values()])
    again = figures(AGAIN, states, asked_again, seed, notes) if asked_again else None
    choices = {place: [state.choice] for place, state in enumerate(states)}
    tests = compared(states, entries)
    return Race(
        studies=[folder.name for folder in folders],
        hold_out=hold_out,
        seed=seed,
        samples=SAMPLES,
        verdict=verdict(racers, tests, again),
        racers=racers,
        again=again,
        teacher=figures(TEACHER, states, choices, seed, is_teacher=True),
        tests=tests,
        answers=[
            {
                "study": state.study,
                "trial": state.trial,
                TEACHER: _told([state.choice])[0],
                "answers": {name: _told(entry[place]) for name, entry in entries.items()},
            }
            for place, state in enumerate(states)
        ],
        metric=metric,
    )


def one_metric(folders: Sequence[StudyFolder]) -> Metric:
    """What all of the studies are scored by. Raises UserError where they differ."""
    first, *others = folders
    if other := next((folder for folder in others if not folder.metric.is_like(first.metric)), None):
        raise UserError(
            f"study {first.name} is scored by {first.metric.name}, {other.name} by {other.metric.name}: what was "
            "earned in the two cannot be put together; let each race by itself"
        )
    return first.metric


def _told(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """What passed holds knobs and values of the menu alone; of what was blocked nothing is told but the rail."""
    return [
        {"by": answer.by, "changes": answer.changes, "blocked_by": answer.rail, "gain": answer.gain}
        for answer in answers
    ]
