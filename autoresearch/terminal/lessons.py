"""The lessons that a model was asked for with a trial, as a person reads them: question, answer, what stands of it."""

from __future__ import annotations

from autoresearch.errors import UserError
from autoresearch.proposers.lessons import contradicted, standing
from autoresearch.proposers.lineage import lesson_claim
from autoresearch.study.folder import StudyFolder
from autoresearch.terminal.trials import clean_lines
from autoresearch.trial import Lesson


def lessons_text(study: StudyFolder, number: int) -> str:
    """Raises UserError where no model was asked."""
    reflection = study.store.reflection(number)
    if reflection is None:
        raise UserError(f"no lessons were asked for with trial {number} of study {study.name}")
    trials = study.store.trials()
    stand = standing(study.store.lessons(), trials, study.menu)

    def fate(lesson: Lesson) -> str:
        if why := contradicted(lesson, trials, study.menu, study.metric):
            return why
        return "stands" if lesson in stand else "a later lesson took its place"

    lessons = "\n".join(f"{lesson_claim(lesson)}: {lesson.text} - {fate(lesson)}" for lesson in reflection.lessons)
    answer = "no answer" if reflection.answer is None else reflection.answer
    parts = (reflection.prompt, answer, reflection.note, lessons or "no lessons taken")
    return "\n\n".join("\n".join(clean_lines(part)) for part in parts if part)
