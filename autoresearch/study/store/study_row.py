"""The study's own row in its database: what it was made of, what it stands for, and how it is steered."""

from __future__ import annotations

import json
import sqlite3
from contextlib import suppress
from typing import Any, Literal

from autoresearch.study.script import Script
from autoresearch.study.store.rows import Rows, sha256_of
from autoresearch.trial import Recipe, iso

Control = Literal["run", "pause", "stop"]


class StudyRow(Rows):
    """Made once; every method is one transaction."""

    def create_study(
        self,
        name: str,
        settings: str,
        menu: str,
        recipe: Recipe,
        key: str,
        commit: str,
        begun_from: tuple[str, int] | None = None,
        first_seed: int = 0,
        script: Script | None = None,
    ) -> None:
        """The study's row and trial 0, the baseline, whose runs are queued when the study first runs, with seeds from
        first_seed on. begun_from: study and trial that its recipe comes from. script: whose constants are its knobs."""
        now = iso(self.clock())
        with self.db.atomic():
            self._insert(
                "studies",
                id=1, name=name, created_at=now, settings=settings, menu=menu, menu_sha256=sha256_of(menu),
                incumbent=0, incumbent_commit=commit, control="run", first_seed=first_seed,
                begun_from=begun_from and json.dumps(dict(zip(("study", "trial"), begun_from, strict=True))),
                script_name=script and script.name, script=script and script.text,
                script_commit=script and script.commit,
            )  # fmt: skip
            tick = self._next_tick()
            self._insert(
                "trials",
                number=0, parent=None, proposer="baseline", changes="{}", recipe=json.dumps(recipe), recipe_key=key,
                hypothesis="The recipe as it stands.", state="running", reason="", n_runs=0, commit=commit,
                started_at=now, opened_tick=tick,
            )  # fmt: skip
            origin = " from trial {1} of study {0}".format(*begun_from) if begun_from else ""
            self._event("created", f"study {name} created{origin}")

    def study(self) -> dict[str, Any]:
        return self._one("SELECT * FROM studies WHERE id = 1")

    def script(self) -> Script | None:
        study = self.study()
        return (
            None if study["script"] is None else Script(study["script_name"], study["script"], study["script_commit"])
        )

    def begin_again(self, menu: str, script: Script, recipe: Recipe, key: str, commit: str) -> None:
        """Before the first run: another menu or script, and the baseline that they give."""
        with self.db.atomic():
            assert not self._first("SELECT 1 FROM runs"), "numbers hang on the menu"
            self.db.execute(
                "UPDATE studies SET menu = ?, menu_sha256 = ?, incumbent_commit = ?", [menu, sha256_of(menu), commit]
            )
            self.db.execute(
                "UPDATE studies SET script_name = ?, script = ?, script_commit = ?",
                [script.name, script.text, script.commit],
            )
            self._update("trials", "number", 0, recipe=json.dumps(recipe), recipe_key=key, commit=commit)
            self._event("menu", "menu or script were edited before the first run")

    def keep_menu(self, menu: str) -> None:
        """For a study from before its menu was kept here; a database that may only be read stays as it is."""
        with suppress(sqlite3.OperationalError), self.db.atomic():
            self.db.execute("UPDATE studies SET menu = ?", [menu])

    def set_data(self, data_dir: str, sha256: str) -> None:
        with self.db.atomic():
            self.db.execute("UPDATE studies SET data_dir = ?, data_sha256 = ?", [data_dir, sha256])

    def settle(self, settings: str, *, forget_data: bool) -> None:
        """Other settings before the first run; with another text, what was prepared does not count."""
        with self.db.atomic():
            self.db.execute("UPDATE studies SET settings = ?", [settings])
            if forget_data:
                self.db.execute("UPDATE studies SET data_dir = NULL, data_sha256 = NULL")

    @property
    def control(self) -> Control:
        return self.study()["control"]

    def set_control(self, control: Control, message: str) -> None:
        with self.db.atomic():
            self.db.execute("UPDATE studies SET control = ?", [control])
            self._event(control, message)

    # --- the logical clock ---

    def next_moment(self) -> int:
        """The tick of what happens next: all that has happened has a lower one."""
        return int(self._one("SELECT tick FROM studies")["tick"]) + 1

    def _next_tick(self) -> int:
        """It goes on by one: what happened in the same millisecond has an order too."""
        self.db.execute("UPDATE studies SET tick = tick + 1")
        return int(self._one("SELECT tick FROM studies")["tick"])

    def _event(self, kind: str, message: str, trial: int | None = None) -> None:
        self._insert("events", at=iso(self.clock()), kind=kind, trial=trial, message=message)
