"""The lessons of a study in its database: what a model was asked, what it answered and what was taken of it."""

from __future__ import annotations

import json

from autoresearch.study.store.rows import Rows
from autoresearch.trial import Lesson, Reflection

_ASKED = ("prompt", "answer", "model", "latency_seconds", "prompt_tokens", "completion_tokens", "note")


class Reflections(Rows):
    """What was made of trials up to then. Which lessons still stand is told from later trials, not kept here."""

    def lessons(self, before: int | None = None) -> list[Lesson]:
        """All that were ever taken, the newest last, or those that came with a trial before that one."""
        return self._lessons("1" if before is None else f"trial < {int(before)}")

    def reflected(self, before: int) -> int:
        """The last trial before that one with which a model was asked for lessons; 0: none."""
        return int(self._one("SELECT COALESCE(MAX(trial), 0) AS n FROM reflections WHERE trial < ?", [before])["n"])

    def reflection(self, trial: int) -> Reflection | None:
        row = self._first(f"SELECT {', '.join(_ASKED)} FROM reflections WHERE trial = ?", [trial])
        return Reflection(**row, lessons=tuple(self._lessons(f"trial = {int(trial)}"))) if row else None

    def _add_reflection(self, trial: int, reflection: Reflection) -> None:
        self._insert("reflections", trial=trial, **{name: getattr(reflection, name) for name in _ASKED})
        for lesson in reflection.lessons:
            self._insert("lessons", trial=trial, **{**vars(lesson), "trials": json.dumps(lesson.trials)})

    def _lessons(self, where: str) -> list[Lesson]:
        rows = self._rows(f"SELECT knob, move, effect, trials, text FROM lessons WHERE {where} ORDER BY id")
        return [Lesson(**{**row, "trials": tuple(json.loads(row["trials"]))}) for row in rows]
