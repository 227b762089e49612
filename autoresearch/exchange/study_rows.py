"""A study as every export reads it: its trials in order, each with its runs and its proposal."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any

from autoresearch.study.folder import StudyFolder
from autoresearch.study.store.imports import Row
from autoresearch.trial import Recipe


@dataclass
class WholeTrial:
    """A trial with all that belongs to it; `runs` by seed."""

    row: Row
    runs: list[Row] = field(default_factory=list)
    proposal: Row | None = None

    @property
    def number(self) -> int:
        return int(self.row["number"])

    @cached_property
    def changes(self) -> Recipe:
        return json.loads(self.row["changes"])

    @cached_property
    def recipe(self) -> Recipe:
        """{} if it was blocked."""
        return json.loads(self.row["recipe"])

    @property
    def is_open(self) -> bool:
        return self.row["state"] in ("proposed", "running")

    @property
    def measured(self) -> list[Row]:
        return [run for run in self.runs if run["state"] == "complete"]

    def total(self, column: str) -> float | None:
        """The sum over the runs; None where no run has it."""
        values = [run[column] for run in self.runs if run[column] is not None]
        return sum(values) if values else None

    @property
    def window_bpb(self) -> float | None:
        """The mean over the runs that were scored in windows of the baseline's seq_len; None: none was."""
        values = [run["window_bpb"] for run in self.measured if run["window_bpb"] is not None]
        return fmean(values) if values else None

    def most(self, column: str) -> float | None:
        return max((run[column] for run in self.runs if run[column] is not None), default=None)


@dataclass
class StudyRows:
    """The study's own row and its trials, with what was imported verbatim if it was imported."""

    study: dict[str, Any]
    trials: list[WholeTrial]

    @classmethod
    def of(cls, folder: StudyFolder) -> StudyRows:
        trials = {row["number"]: WholeTrial(row) for row in folder.store.all_rows("trials")}
        for run in folder.store.all_rows("runs"):
            trials[run["trial"]].runs.append(run)
        for proposal in folder.store.all_rows("proposals"):
            trials[proposal["trial"]].proposal = proposal
        return cls(folder.store.study(), list(trials.values()))

    def source(self, format: str) -> dict[str, Any] | None:
        """What it was imported from, if that was of this format."""
        source = json.loads(self.study["source"]) if self.study["source"] else {}
        return source if source.get("format") == format else None

    def parent_recipe(self, trial: WholeTrial) -> Recipe:
        parent = trial.row["parent"]
        return self.trials[parent].recipe if parent is not None else {}
