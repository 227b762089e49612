"""The runs that failed, by kind of failure, with what the last of each kind left behind."""

from __future__ import annotations

from dataclasses import dataclass

from autoresearch import words
from autoresearch.evidence import Evidence
from autoresearch.study.folder import StudyFolder
from autoresearch.trial import Run
from rails import clean

LOG_LINES = 5
MOST_NAMED = 20


@dataclass(frozen=True)
class FailureGroup:
    """`title`: the kind and how many runs. The first trials that it hit; `more`: how many are left out, or nothing.
    `lines`: the last run's message and the beginning of its log."""

    title: str
    trials: list[int]
    more: str
    lines: list[str]


def failures(evidence: Evidence) -> list[FailureGroup]:
    """The most frequent first."""
    groups: dict[str, list[Run]] = {}
    for run in (run for runs in evidence.runs.values() for run in runs if run.state == "failed"):
        groups.setdefault(run.failure or "failed", []).append(run)
    return [_group(evidence.folder, *group) for group in sorted(groups.items(), key=lambda group: -len(group[1]))]


def _group(folder: StudyFolder, kind: str, runs: list[Run]) -> FailureGroup:
    trials = sorted({run.trial for run in runs})
    left = len(trials) - MOST_NAMED
    return FailureGroup(
        title=f"{clean(words.state(kind), 80)}: {words.count(len(runs), 'run')}",
        trials=trials[:MOST_NAMED],
        more=f" and {left:,} more" if left > 0 else "",
        lines=[clean(runs[-1].message, 300), *_log(folder, runs[-1])],
    )


def _log(folder: StudyFolder, run: Run) -> list[str]:
    try:
        with (folder.run_folder(run.id) / "worker.log").open(encoding="utf-8", errors="replace") as file:
            return [clean(line, 300) for line, _ in zip(file, range(LOG_LINES), strict=False)]
    except OSError:
        return []  # an old night's run folders may be gone; the message in the database stays
